"""From images to tokens. Twin: `vit_jax/layers/patch_embed.py`.

Source: Dosovitskiy et al. 2020, arXiv:2010.11929, eq. 1. Cutting an image into patches and projecting each is a
convolution whose stride is its kernel. Where other projects differ: CLIP's has no bias; SigLIP and big_vision ignore
the pixels of partial patches at the right and the bottom, where timm refuses such images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from .linear import Conv
from .norm import LayerNorm, Norm
from .stem import StemBlock


class PatchGrid(nn.Module):
    """Which images a layer takes, and how many patches they have.

    Args:
        in_chans: Channels of the images.
        patch_size: Height and width of a patch in pixels; an integer means a square.
        image_size: Height and width of the images in pixels; None takes any whole number of patches.
        drop_partial_patches: Whether pixels right and below of the last whole patch are ignored.
    """

    def __init__(
        self,
        in_chans: int,
        patch_size: int | tuple[int, int],
        *,
        image_size: tuple[int, int] | None = None,
        drop_partial_patches: bool = False,
    ):
        super().__init__()
        self.in_chans = in_chans
        self.patch_size = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
        self.image_size = image_size
        self.drop_partial_patches = drop_partial_patches


def patch_grid(layer: PatchGrid, images: Float[Tensor, "b c h w"]) -> tuple[int, int]:
    """Patches down and across.

    A function, for in the twin `nnx.tabulate` traces every public method of a module, and would make arrays of these
    numbers.

    Raises:
        ValueError: The images don't have the size or the channels that the layer takes.
    """
    patch_height, patch_width = layer.patch_size
    channels, height, width = images.shape[1:] if images.ndim == 4 else (0, 0, 0)
    fits = channels == layer.in_chans and height >= patch_height and width >= patch_width
    if layer.image_size is not None:
        fits = fits and (height, width) == layer.image_size
    elif not layer.drop_partial_patches:
        fits = fits and height % patch_height == 0 and width % patch_width == 0
    if not fits:
        sides = ("height", "width") if layer.image_size is None else layer.image_size
        multiples = f", multiples of {layer.patch_size}" if layer.image_size is None else ""
        expected = f"(batch, {layer.in_chans}, *{sides}) (NCHW){multiples}"
        raise ValueError(f"images: got shape {tuple(images.shape)}, expected {expected}")
    return height // patch_height, width // patch_width


class PatchEmbed(PatchGrid):
    """Cuts an image into patches and projects each: norm(proj(images)), row by row.

    Args:
        in_chans: Channels of the images.
        dim: The width of the tokens.
        patch_size: Height and width of a patch in pixels; an integer means a square.
        image_size: The same as in `PatchGrid`.
        drop_partial_patches: The same as in `PatchGrid`.
        bias: Whether the projection has a bias.
        norm: The norm of the tokens; None for none.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        patch_size: int | tuple[int, int],
        *,
        image_size: tuple[int, int] | None = None,
        drop_partial_patches: bool = False,
        bias: bool = True,
        norm: Norm | None = None,
    ):
        super().__init__(in_chans, patch_size, image_size=image_size, drop_partial_patches=drop_partial_patches)
        size = self.patch_size
        self.proj = Conv(in_chans, dim, kernel_size=size, stride=size, bias=bias)
        self.norm = None if norm is None else norm(dim)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        """Tokens of the patches, row by row, in the precision of the weights.

        Raises:
            ValueError: The images don't have the size or the channels that the layer takes.
        """
        patch_grid(self, images)
        x = self.proj(images.to(self.proj.weight.dtype))
        x = x.flatten(2).transpose(1, 2)
        return x if self.norm is None else self.norm(x)


class StemPatchEmbed(PatchGrid):
    """Embeds patches by several convolutions instead of one: norm(stem(images)), row by row.

    Args:
        in_chans: Channels of the images.
        dim: The width of the tokens.
        patch_size: What the strides multiply to, in pixels; an integer means a square.
        stem: The convolutions, from `in_chans` to `dim` channels.
        image_size: The same as in `PatchGrid`.
        drop_partial_patches: The same as in `PatchGrid`.
        norm: The norm of the tokens; None for none.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        patch_size: int | tuple[int, int],
        *,
        stem: Sequence[StemBlock],
        image_size: tuple[int, int] | None = None,
        drop_partial_patches: bool = False,
        norm: Norm | None = None,
    ):
        super().__init__(in_chans, patch_size, image_size=image_size, drop_partial_patches=drop_partial_patches)
        self.stem = nn.ModuleList(stem)
        self.norm = None if norm is None else norm(dim)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        """Tokens of the patches, row by row, in the precision of the weights.

        Raises:
            ValueError: The images don't have the size or the channels that the layer takes.
        """
        patch_grid(self, images)
        first: Any = self.stem[0]
        x = images.to(first.conv.weight.dtype)
        for block in self.stem:
            x = block(x)
        x = x.flatten(2).transpose(1, 2)
        return x if self.norm is None else self.norm(x)


class HybridPatchEmbed(PatchGrid):
    """Cuts the map of a convolutional network into patches and projects each: norm(proj(backbone(images))), row by row.

    Args:
        in_chans: Channels of the images.
        dim: The width of the tokens.
        patch_size: Height and width of a patch in pixels; an integer means a square.
        backbone: What makes the map.
        map_dim: Channels of the map.
        stride: By how much the map is smaller than the images; divides the sides of a patch.
        image_size: The same as in `PatchGrid`.
        bias: Whether the projection has a bias.
        norm: The norm of the tokens; None for none.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        patch_size: int | tuple[int, int],
        *,
        backbone: nn.Module,
        map_dim: int,
        stride: int,
        image_size: tuple[int, int] | None = None,
        bias: bool = True,
        norm: Norm | None = None,
    ):
        super().__init__(in_chans, patch_size, image_size=image_size)
        height, width = self.patch_size
        size = (height // stride, width // stride)
        self.backbone = backbone
        self.proj = Conv(map_dim, dim, kernel_size=size, stride=size, bias=bias)
        self.norm = None if norm is None else norm(dim)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        """Tokens of the patches, row by row, in the precision of the weights.

        Raises:
            ValueError: The images don't have the size or the channels that the layer takes.
        """
        patch_grid(self, images)
        x = self.proj(self.backbone(images.to(self.proj.weight.dtype)))
        x = x.flatten(2).transpose(1, 2)
        return x if self.norm is None else self.norm(x)


class OverlapPatchEmbed(nn.Module):
    """Patches that overlap: norm(proj(x)), by a convolution with a kernel greater than its stride.

    Wang et al. 2021, arXiv:2106.13797, section 3.2; it takes maps of every size, with zeros around them.

    Args:
        in_dim: Channels of the map.
        dim: Channels of the result.
        kernel_size: The side of the kernel, an odd number.
        stride: By how much the map shrinks.
        norm: The kind of the norm.
    """

    def __init__(self, in_dim: int, dim: int, *, kernel_size: int, stride: int, norm: Norm = LayerNorm):
        super().__init__()
        self.in_dim = in_dim
        size: dict[str, Any] = dict(kernel_size=(kernel_size,) * 2, stride=(stride,) * 2, padding=kernel_size // 2)
        self.proj = Conv(in_dim, dim, **size)
        self.norm = norm(dim)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Shrinks a map, or images, in the precision of the weights.

        Raises:
            ValueError: The map has other channels than the layer takes, or another number of axes.
        """
        if x.ndim != 4 or x.shape[1] != self.in_dim:
            expected = f"(batch, {self.in_dim}, height, width) (NCHW)"
            raise ValueError(f"images: got shape {tuple(x.shape)}, expected {expected}")
        return self.norm(self.proj(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
