"""What every family's model has, as checks, trainers and checkpoints call it. Twin: `vit_torch/models/base.py`.

`parity/configs/base.py` says the same of the configs, which name what these methods take and return.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from parity.configs import Execution

from ..layers.drop import Stochastic


class Model(Stochastic):
    """A model that its config makes; `model(*inputs)` is `forward_head(forward_features(*inputs))`.

    Maps are (b, h, w, c).

    Attributes:
        config: The config, of the family's own class; `config.inputs` are what the model is called with.
        execution: How the model runs.
    """

    config: Any
    execution: Execution

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What `config.outputs` names: the logits, mostly.

        Args:
            args: The inputs, in the order of `config.inputs`.
            kwargs: `key`, the key of everything that is drawn, and what else the family takes.
        """
        raise NotImplementedError

    def forward_features(self, *args: Any, **kwargs: Any) -> Any:
        """What `config.features` names: one array, or a tuple of them. Arguments as of the model."""
        raise NotImplementedError

    def forward_intermediates(self, *args: Any, **kwargs: Any) -> list[Any]:
        """What `config.intermediates` names. Arguments are the inputs, and what else the family takes."""
        raise NotImplementedError

    def forward_head(self, x: Any) -> Any:
        """What `config.outputs` names, of what `forward_features` returns."""
        raise NotImplementedError


def check_indices(indices: Sequence[int] | None, count: int) -> None:
    """Whether each of some places is there.

    Args:
        indices: Their numbers, negative from the end; None for all.
        count: How many there are.

    Raises:
        ValueError: One is beyond them.
    """
    for index in indices or ():
        if not -count <= index < count:
            raise ValueError(f"indices: got {index}, expected values in [-{count}, {count})")
