"""How a parameter of a layer is written in the canonical layout; layers declare it in `leaves`.

One-sided: in `vit_torch` every parameter is canonical already. The rule itself knows no framework.
"""

from parity.checkpoints.leaf import Leaf

__all__ = ["Leaf"]
