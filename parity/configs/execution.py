"""How a model is run, as opposed to what it computes: never part of a config or a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Attention = Literal["fused", "reference"]
Remat = Literal["none", "block", "dots"]


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Execution choices; any of them gives the same outputs and the same checkpoints.

    Attributes:
        attention: `fused` is the framework's own entry point (in float64 always the reference, which doesn't fall back
            to float32); `reference` is matmul, softmax, matmul.
        scan: Run neighbouring blocks that are alike as one scanned block: compile time stays flat in depth. Flax only;
            PyTorch runs eagerly and has nothing to scan.
        remat: Recompute activations in the backward pass: `none`, each `block`, or all but its matmuls (`dots`, which
            PyTorch runs as `block`).
    """

    attention: Attention = "fused"
    scan: bool = False
    remat: Remat = "none"

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown choice."""
        if self.attention not in ("fused", "reference"):
            raise ValueError(f"attention: got {self.attention!r}, expected 'fused' or 'reference'")
        if self.remat not in ("none", "block", "dots"):
            raise ValueError(f"remat: got {self.remat!r}, expected 'none', 'block' or 'dots'")
