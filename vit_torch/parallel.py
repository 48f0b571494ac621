"""Which of the processes that train together this is."""

from __future__ import annotations

import torch


def processes() -> tuple[int, int]:
    """This process's number, and the number of processes: (0, 1) where `torch.distributed` isn't in use."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()
