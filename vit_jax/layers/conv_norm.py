"""A convolution with BatchNorm and an activation. Twin: `vit_torch/layers/conv_norm.py`.

Source: Howard et al. 2017, arXiv:1704.04861, figure 3, where MobileNets began with it. Names are timm's. Paddings are
zeros, equally many on each side, as in PyTorch; TensorFlow's `SAME` has one less in front where a map is even and the
stride 2.
"""

from __future__ import annotations

from flax import nnx
from jaxtyping import Array, Float

from .act import ACTIVATIONS
from .batch_norm import BatchNorm
from .linear import Conv


class ConvNormAct(nnx.Module):
    """act(bn(conv(x))), of a convolution without a bias that keeps the map's size at a stride of 1.

    Args:
        in_dim: Channels of the input.
        dim: Channels of the output.
        kernel_size: Height and width of the kernel, an odd number.
        stride: How far it moves, down and across.
        groups: Parts of the channels, each of which is convolved by itself.
        act: The name of the activation, one of `ACTIVATIONS`; None for none.
        eps: The epsilon of BatchNorm.
        init: The start value of BatchNorm's scales.
        rngs: The source of the initial values.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        *,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        act: str | None = None,
        eps: float = 1e-5,
        init: float = 1.0,
        rngs: nnx.Rngs,
    ):
        self.act = act
        self.conv = Conv(
            in_dim,
            dim,
            kernel_size=(kernel_size, kernel_size),
            stride=(stride, stride),
            padding=kernel_size // 2,
            groups=groups,
            bias=False,
            axes=(None, None, None, "embed"),
            rngs=rngs,
        )
        self.bn = BatchNorm(dim, eps=eps, init=init, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Transforms a map, which shrinks by the stride."""
        x = self.bn(self.conv(x))
        return x if self.act is None else ACTIVATIONS[self.act](x)
