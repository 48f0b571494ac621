"""The flat Vision Transformer.

Source: Dosovitskiy et al. 2020, arXiv:2010.11929, eq. 1 to 4. DeiT's distillation token (Touvron et al. 2020,
arXiv:2012.12877), DINOv2's LayerScale and registers (Oquab et al. 2023, arXiv:2304.07193; Darcet et al. 2023,
arXiv:2309.16588), CLIP's norm before the blocks and SigLIP's attention pooling are options of the config. Names and
order of operations are timm's. Twin: `vit_jax/models/vit.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from parity.configs import Execution, VitConfig

from .. import random
from ..images import check_images
from ..layers.drop import Dropout
from ..layers.linear import Linear
from ..layers.mask import check_mask, leave_out, replace_masked
from ..layers.patch_embed import patch_grid
from ..layers.pool import PreLogits
from ..layers.pos_embed import add_positions, fixed_positions, learned_positions
from ..layers.rel_pos import RelativePositionBias
from ..layers.stack import run_blocks, widened
from .base import Model, check_indices
from .vit_parts import draws, make_block, make_patch_embed, make_pool, make_rope, norm_of

Tokens = Float[Tensor, "b n d"]
Mask = Bool[Tensor, "b patches"]


class VisionTransformer(Model):
    """Patches, prefix tokens and positions; blocks; pooling; a linear head.

    Which layers a config asks for is in `vit_parts.py`.

    Args:
        config: Architecture and numerics.
        execution: How to run it.
    """

    config: VitConfig

    def __init__(self, config: VitConfig, *, execution: Execution = Execution()):
        super().__init__()
        self.config = config
        self.execution = execution
        dim, norm = config.embed_dim, norm_of(config)

        def token(num: int, std: float) -> nn.Parameter | None:
            return nn.Parameter(torch.randn(1, num, dim) * std) if num else None

        self.patch_embed = make_patch_embed(config)
        self.cls_token = token(config.class_token, std=1e-6)
        self.dist_token = token(config.dist_token, std=1e-6)
        self.reg_token = token(config.reg_tokens, std=1e-6)
        self.mask_token = token(config.mask_token, std=0.02)
        positions = config.num_patches + config.num_pos_embed_prefix
        self.pos_embed = token(positions if config.pos_embed == "learned" else 0, std=0.02)
        self.pos_drop = Dropout(config.drop_rate)
        self.rope = make_rope(config)
        shared = config.rel_pos_bias == "shared"
        self.rel_pos_bias = RelativePositionBias(config.grid_size, config.num_heads) if shared else None
        self.norm_pre = norm(dim) if config.pre_norm else None
        self.blocks = nn.ModuleList([make_block(config, i) for i in range(config.depth)])
        self.norm = norm(dim) if config.final_norm else None
        self.cls_norm = norm(dim) if config.cls_norm else None
        self.attn_pool = make_pool(config)
        self.fc_norm = norm(dim) if config.fc_norm else None
        self.pre_logits = PreLogits(config.pooled_dim, config.pre_logits_dim) if config.pre_logits_dim else None

        def head(present: bool) -> Linear | None:
            inputs = config.pre_logits_dim or config.pooled_dim
            if not (present and config.num_classes):
                return None
            return Linear(inputs, config.num_classes, bias=config.head_bias)

        self.head = head(True)
        self.head_dist = head(config.dist_token)

    def forward(
        self, images: Float[Tensor, "b c h w"], *, mask: Mask | None = None, key: random.Key | None = None
    ) -> Float[Tensor, "b classes"]:
        """Logits; pooled features (b, d) where the config has no classes.

        Args:
            images: Images that are normalised as the config's preprocessing says.
            mask: True for a masked patch; see `forward_features`.
            key: The key of dropout and stochastic depth; None for PyTorch's own generator in training mode, for neither
                else.

        Raises:
            ValueError: The images aren't normalised floats of the config's size and channels, or the mask can't be
                used.
        """
        return self.forward_head(self.forward_features(images, mask=mask, key=key))

    def forward_features(
        self, images: Float[Tensor, "b c h w"], *, mask: Mask | None = None, key: random.Key | None = None
    ) -> Tokens:
        """All tokens after the blocks and the final norm, prefix tokens first.

        Masked patches are the mask token where the config has one, and else are left out, as in MAE's encoder: the
        rest keeps its order.

        Args:
            images: Images that are normalised as the config's preprocessing says.
            mask: True for a masked patch, row by row.
            key: The key of dropout and stochastic depth; None for PyTorch's own generator in training mode, for neither
                else.

        Raises:
            ValueError: The images aren't normalised floats of the config's size and channels; the mask isn't a bool for
                each patch, or its patches can't be left out.
        """
        x, _ = self._run(images, mask=mask, key=key)
        return self._normed(x)

    def forward_intermediates(
        self, images: Float[Tensor, "b c h w"], *, indices: Sequence[int] | None = None, norm: bool = False
    ) -> list[Tokens]:
        """All tokens after some blocks.

        Args:
            images: Images that are normalised as the config's preprocessing says.
            indices: Which blocks, negative from the end; None for all.
            norm: Whether the final norm is applied to each.

        Raises:
            ValueError: An index beyond the blocks.
        """
        check_indices(indices, self.config.depth)
        _, outputs = self._run(images, collect=True)
        chosen = outputs if indices is None else [outputs[index] for index in indices]
        return [self._normed(x) for x in chosen] if norm else chosen

    def forward_head(self, x: Tokens) -> Float[Tensor, "b classes"]:
        """Logits (or pooled features) of the tokens that `forward_features` returns: the mean of all heads."""
        first, *distilled = self.forward_heads(x)
        return (first + distilled[0]) / 2 if distilled else first

    def forward_heads(self, x: Tokens) -> list[Float[Tensor, "b classes"]]:
        """The logits of each head: the one for labels and, with a distillation token, the one for a teacher."""
        if self.config.dist_token and self.pre_logits is None:
            pairs = ((x[:, 0], self.head), (x[:, 1], self.head_dist))
            return [token if head is None else head(token) for token, head in pairs]
        x = self._pool(x)
        x = x if self.fc_norm is None else self.fc_norm(x)
        x = x if self.pre_logits is None else self.pre_logits(x)
        return [x if self.head is None else self.head(x)]

    def _run(
        self,
        images: Float[Tensor, "b c h w"],
        *,
        mask: Mask | None = None,
        key: random.Key | None = None,
        collect: bool = False,
    ) -> tuple[Tokens, list[Tokens]]:
        check_images(images, self.config.preprocessing)
        key_embed, key_blocks, key_rope = random.split(key if draws(self.config) else None, 3)
        grid_size = patch_grid(self.patch_embed, images)
        x = self._embed(widened(self.patch_embed(images), self.blocks), grid_size, mask)
        x = self.pos_drop(x, key=key_embed)
        x = x if self.norm_pre is None else self.norm_pre(x)
        place = dict(dtype=x.dtype, device=x.device)
        rotation = None if self.rope is None else self.rope(grid_size, **place, key=key_rope)
        return run_blocks(
            self.blocks,
            x,
            rotation=rotation,
            bias=None if self.rel_pos_bias is None else self.rel_pos_bias(),
            drop_path_rates=self.config.drop_path_rates,
            key=key_blocks,
            execution=self.execution,
            collect=collect,
        )

    def _embed(self, x: Float[Tensor, "b patches d"], grid_size: tuple[int, int], mask: Mask | None) -> Tokens:
        """Masks patches, puts the prefix tokens in front and adds the positions."""
        config = self.config
        if mask is not None:
            check_mask(mask, (x.shape[0], x.shape[1]))
        if mask is not None and self.mask_token is not None:
            x = replace_masked(x, mask, self.mask_token)
        tokens = [token for token in (self.cls_token, self.dist_token, self.reg_token) if token is not None]
        prefix = [torch.broadcast_to(token, (x.shape[0], *token.shape[1:])) for token in tokens]
        x = torch.cat([*prefix, x], dim=1)
        if self.pos_embed is not None:
            num_prefix, kernel = config.num_pos_embed_prefix, config.pos_embed_resize
            own: dict[str, Any] = dict(own_grid_size=config.grid_size, num_prefix=num_prefix, kernel=kernel)
            x = add_positions(x, learned_positions(self.pos_embed, grid_size, **own), num_prefix=num_prefix)
        elif config.pos_embed != "none":
            given: dict[str, Any] = dict(
                dtype=x.dtype, device=x.device, big_vision=config.pos_embed == "sincos2d_big_vision"
            )
            x = add_positions(x, fixed_positions(grid_size, config.embed_dim, **given))
        if mask is None or self.mask_token is not None:
            return x
        for name, unused in (("rope", None), ("rel_pos_bias", "none")):
            if getattr(config, name) != unused:
                raise ValueError(f"mask: got one for a model with {name} and no mask token, expected {name} {unused!r}")
        return leave_out(x, mask)

    def _normed(self, x: Tokens) -> Tokens:
        """The final norm, or both of them."""
        if self.norm is None:
            return x
        if self.cls_norm is None:
            return self.norm(x)
        prefix = self.config.num_prefix_tokens
        return torch.cat([self.cls_norm(x[:, :prefix]), self.norm(x[:, prefix:])], dim=1)

    def _pool(self, x: Tokens) -> Float[Tensor, "..."]:
        config = self.config
        pooled = x if config.pool_include_prefix else x[:, config.num_prefix_tokens :]
        if config.global_pool == "token":
            return x[:, 0]
        if config.global_pool == "avg":
            return pooled.mean(dim=1)
        if config.global_pool == "token_avg":
            return torch.cat([x[:, 0], pooled.mean(dim=1)], dim=-1)
        if self.attn_pool is not None:
            return self.attn_pool(pooled, execution=self.execution)
        return x
