"""What `hypotheses` tries beyond single layers: blocks, positions, tokens and images made wrong on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from vit_torch.layers.block import Block
from vit_torch.models import VisionTransformer

from .. import configs
from ..checkpoints.resize import resize_grid
from ..configs import Config, VitConfig
from ..configs.preprocessing import Preprocessing
from ..configs.vit import ResizeKernel

# Mean and standard deviation of the three channels.
_NORMALISATIONS = (
    ("ImageNet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ("Inception", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ("CLIP", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
)

Proposals = Iterator[tuple[str, Callable[[Any], None]]]


class BranchNormBlock(Block):
    """x + norm(attention(x)), then x + norm(mlp(x)): our `res_post`, LayerScale included."""

    def forward(self, x: Tensor, *, keep_rate: Any = None, key: Any = None, **options: Any) -> Tensor:
        """Transforms the tokens; without drop path."""
        y = self.norm1(self.attn(x, **options))
        x = x + (y if self.ls1 is None else self.ls1(y))
        y = self.norm2(self.mlp(x))
        return x + (y if self.ls2 is None else self.ls2(y))


class PostNormBlock(Block):
    """norm(x + attention(x)), then norm(x + mlp(x)): the first Transformer's (Vaswani et al. 2017, section 3.1)."""

    def forward(self, x: Tensor, *, keep_rate: Any = None, key: Any = None, **options: Any) -> Tensor:
        """Transforms the tokens; without drop path."""
        y = self.attn(x, **options)
        x = self.norm1(x + (y if self.ls1 is None else self.ls1(y)))
        y = self.mlp(x)
        return self.norm2(x + (y if self.ls2 is None else self.ls2(y)))


def set_config(module: VisionTransformer, **overrides: Any) -> None:
    """Gives a model another config; what was built by it stays."""
    module.config = configs.replace(module.config, **overrides)


def merged_otherwise(heads: int, order: tuple[int, ...], module: Any) -> None:
    """Merges the heads of an attention from axes (b, n, heads, head_dim) in another order."""
    attend = module.attend

    def run(*args: Any, **options: Any) -> Tensor:
        x = attend(*args, **options)
        return x.unflatten(-1, (heads, -1)).permute(order).reshape(x.shape)

    module.attend = run


def permute_tokens(grid_size: tuple[int, int], module: VisionTransformer) -> None:
    """Makes a model take its patches column by column."""
    module.patch_embed.register_forward_hook(
        lambda module, args, x: x.unflatten(1, grid_size).transpose(1, 2).flatten(1, 2)
    )


def positions_changed(model: VisionTransformer) -> Proposals:
    """Mistakes of position embeddings."""
    config = model.config
    if model.pos_embed is not None:
        yield "without position embedding", partial(_change_positions, torch.zeros_like)
        yield "position grid transposed", partial(_change_positions, partial(_transposed, config))
        for step in (1, -1):
            yield f"positions shifted by {step}", partial(_change_positions, partial(torch.roll, shifts=step, dims=1))
        prefix = config.num_pos_embed_prefix
        if prefix:
            behind = partial(torch.roll, shifts=-prefix, dims=1)
            yield "positions of the prefix tokens taken from the end", partial(_change_positions, behind)
            yield "prefix tokens without positions", partial(_change_positions, partial(_without_prefix, prefix))
    elif config.pos_embed.startswith("sincos2d"):
        other = "sincos2d" if config.pos_embed == "sincos2d_big_vision" else "sincos2d_big_vision"
        for name in (other, "none"):
            yield f"position embedding {name} for {config.pos_embed}", partial(set_config, pos_embed=name)
    if config.dynamic_image_size and model.pos_embed is not None:
        for kernel in get_args(ResizeKernel):
            if kernel != config.pos_embed_resize:
                text = f"positions resized by {kernel} for {config.pos_embed_resize}"
                yield text, partial(set_config, pos_embed_resize=kernel)
    if model.rope is not None:
        yield "without rotary positions", _without_rotation


def resized_otherwise(model: VisionTransformer, config: Config, tensors: Mapping[str, np.ndarray]) -> Proposals:
    """Other kernels for the positions of a checkpoint that was taken to another image size.

    Args:
        model: The model after that.
        config: The config of the checkpoint.
        tensors: The tensors of the checkpoint.
    """
    config = VitConfig.of(config)
    if model.pos_embed is None or config.grid_size == model.config.grid_size:
        return
    prefix = config.num_pos_embed_prefix
    stored = np.asarray(tensors["pos_embed"]).astype(np.float64)
    grid = stored[0, prefix:].reshape(*config.grid_size, -1)

    def change(kernel: str, module: Any) -> None:
        resized = resize_grid(grid, module.config.grid_size, kernel).reshape(1, -1, grid.shape[-1])
        module.pos_embed.copy_(torch.from_numpy(np.concatenate([stored[:, :prefix], resized], axis=1)))

    for kernel in get_args(ResizeKernel):
        if kernel != config.pos_embed_resize:
            yield f"positions resized by {kernel} for {config.pos_embed_resize}", partial(change, kernel)


def prefix_changed(model: VisionTransformer) -> Proposals:
    """Mistakes of class, distillation and register tokens."""
    for name in ("cls_token", "dist_token", "reg_token"):
        if getattr(model, name) is not None:
            yield f"{name} of zeros", partial(_zero, name)


def images_changed(model: nn.Module) -> Iterator[tuple[str, Callable[[np.ndarray], np.ndarray]]]:
    """Mistakes in what images are normalised by."""
    own = model.config.preprocessing if isinstance(model, VisionTransformer) else Preprocessing()
    for name, mean, std in {("its own", own.mean, own.std), *_NORMALISATIONS}:
        yield f"normalised once more ({name})", partial(_normalise, mean, std)
        yield f"not normalised ({name})", partial(_denormalise, mean, std)
    yield "in 0..255 for 0..1", lambda images: images * 255
    yield "channels reversed (BGR for RGB)", lambda images: images[..., ::-1].copy()


def _change_positions(function: Callable[[Tensor], Tensor], module: Any) -> None:
    module.pos_embed.copy_(function(module.pos_embed.clone()))


def _transposed(config: VitConfig, positions: Tensor) -> Tensor:
    prefix = config.num_pos_embed_prefix
    grid = positions[:, prefix:].unflatten(1, config.grid_size).transpose(1, 2).flatten(1, 2)
    return torch.cat([positions[:, :prefix], grid], dim=1)


def _without_prefix(prefix: int, positions: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(positions[:, :prefix]), positions[:, prefix:]], dim=1)


def _without_rotation(module: Any) -> None:
    module.rope = None


def _zero(name: str, module: Any) -> None:
    getattr(module, name).zero_()


def _normalise(mean: Sequence[float], std: Sequence[float], images: np.ndarray) -> np.ndarray:
    return (images - np.array(mean)) / np.array(std)


def _denormalise(mean: Sequence[float], std: Sequence[float], images: np.ndarray) -> np.ndarray:
    return images * np.array(std) + np.array(mean)
