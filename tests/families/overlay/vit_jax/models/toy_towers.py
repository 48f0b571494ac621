"""Two toy towers, of images and of texts: the scaled cosines of all pairs of their features.

After Radford et al. 2021, arXiv:2103.00020, figure 3:

    logits = exp(logit_scale) * normalize(image_features) @ normalize(text_features)^T

No published model: texts are pooled at their last place. Twin: `vit_torch/models/toy_towers.py`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int
from parity.configs.toy_towers import ToyTowersConfig

from parity.configs import Execution

from .. import random
from ..images import check_images
from ..layers.attention import causal_mask
from ..layers.block import Block
from ..layers.linear import Linear
from ..layers.norm import LayerNorm
from ..layers.patch_embed import PatchEmbed
from ..layers.stack import run_blocks
from .base import Model

Tokens = Float[Array, "b n d"]
Features = tuple[Float[Array, "b d"], Float[Array, "b d"]]


class TokenEmbed(nnx.Module):
    """A vector for each token id.

    Args:
        vocabulary: The number of token ids.
        dim: The width of the vectors.
        rngs: The source of the initial values.
    """

    def __init__(self, vocabulary: int, dim: int, *, rngs: nnx.Rngs):
        self.weight = nnx.Param(jax.random.normal(rngs.params(), (vocabulary, dim), jnp.float32) * 0.02)
        self.logical_axes = (("weight", (None, "embed")),)

    def __call__(self, tokens: Int[Array, "b t"]) -> Tokens:
        """The vectors of the ids."""
        return self.weight[...][tokens]


class Tower(nnx.Module):
    """Positions, blocks, a norm and a projection, without what embeds.

    Args:
        length: The number of tokens.
        dim: The width of the tokens.
        depth: The number of blocks.
        config: The sizes and numerics that both towers share.
        rngs: The source of the initial values.
    """

    def __init__(self, length: int, dim: int, depth: int, *, config: ToyTowersConfig, rngs: nnx.Rngs):
        norm = partial(LayerNorm, eps=config.norm_eps)
        self.pos_embed = nnx.Param(jax.random.normal(rngs.params(), (1, length, dim), jnp.float32) * 0.02)
        self.blocks = nnx.List(
            [Block(dim, config.num_heads, config.mlp_dim, norm=norm, rngs=rngs) for _ in range(depth)]
        )
        self.norm = norm(dim, rngs=rngs)
        self.proj = Linear(dim, config.embed_dim, bias=False, axes=("embed", "classes"), rngs=rngs)

    def run(
        self, x: Tokens, *, causal: bool, key: random.Key | None = None, execution: Execution = Execution()
    ) -> list[Tokens]:
        """The tokens after each block.

        Args:
            x: Embedded tokens.
            causal: Whether a token may attend to those before it alone.
            key: The key of dropout, which these blocks don't have.
            execution: How to run the blocks.
        """
        mask = causal_mask(x.shape[1]) if causal else None
        rates = [0.0] * len(self.blocks)
        options: dict[str, Any] = dict(mask=mask, drop_path_rates=rates, key=key, execution=execution, collect=True)
        return run_blocks(self.blocks, x + self.pos_embed[...], **options)[1]


class ImageTower(Tower):
    """Patches; features are of the mean of their tokens.

    Args:
        config: All sizes.
        rngs: The source of the initial values.
    """

    def __init__(self, config: ToyTowersConfig, *, rngs: nnx.Rngs):
        dim = config.image_dim
        super().__init__(config.num_patches, dim, config.depth, config=config, rngs=rngs)
        size = config.image_size
        self.patch_embed = PatchEmbed(config.in_chans, dim, config.patch_size, image_size=size, rngs=rngs)

    def __call__(self, tokens: list[Tokens]) -> Float[Array, "b d"]:
        """Features of the tokens after each block."""
        return self.proj(self.norm(tokens[-1]).mean(axis=1))


class TextTower(Tower):
    """Token ids; features are those of the last token, which alone has attended to all.

    Args:
        config: All sizes.
        rngs: The source of the initial values.
    """

    def __init__(self, config: ToyTowersConfig, *, rngs: nnx.Rngs):
        dim = config.text_dim
        super().__init__(config.text_length, dim, config.text_depth, config=config, rngs=rngs)
        self.token_embed = TokenEmbed(config.vocabulary, dim, rngs=rngs)

    def __call__(self, tokens: list[Tokens]) -> Float[Array, "b d"]:
        """Features of the tokens after each block."""
        return self.proj(self.norm(tokens[-1][:, -1]))


class ToyTowers(Model):
    """Both towers, and the logarithm of the scale of their cosines.

    Args:
        config: Architecture and numerics.
        execution: How to run it.
        rngs: The source of the initial values.
    """

    config: ToyTowersConfig

    def __init__(self, config: ToyTowersConfig, *, execution: Execution = Execution(), rngs: nnx.Rngs):
        self.config = config
        self.execution = execution
        self.visual = ImageTower(config, rngs=rngs)
        self.text = TextTower(config, rngs=rngs)
        self.logit_scale = nnx.Param(jnp.full((), config.logit_scale_init, jnp.float32))
        super().__init__(False)

    def __call__(
        self, images: Float[Array, "b h w c"], tokens: Int[Array, "b t"], *, key: random.Key | None = None
    ) -> Float[Array, "b b"]:
        """The scaled cosine of each image (row) and each text (column).

        Args:
            images: Images that are normalised as the config's preprocessing says.
            tokens: Token ids.
            key: The key of dropout, which this model doesn't have.
        """
        return self.forward_head(self.forward_features(images, tokens, key=key))

    def forward_features(
        self, images: Float[Array, "b h w c"], tokens: Int[Array, "b t"], *, key: random.Key | None = None
    ) -> Features:
        """Features of the images and of the texts, not normalised. Arguments as of the model."""
        image_tokens, text_tokens = self._run(images, tokens, key=key)
        return self.visual(image_tokens), self.text(text_tokens)

    def forward_intermediates(self, images: Float[Array, "b h w c"], tokens: Int[Array, "b t"]) -> list[Tokens]:
        """Tokens after each block, of the images first."""
        image_tokens, text_tokens = self._run(images, tokens)
        return [*image_tokens, *text_tokens]

    def forward_head(self, x: Features) -> Float[Array, "b b"]:
        """Logits of the features that `forward_features` returns."""
        image_features, text_features = (each / jnp.linalg.norm(each, axis=-1, keepdims=True) for each in x)
        return jnp.exp(self.logit_scale[...]) * image_features @ text_features.T

    def _run(
        self, images: Float[Array, "b h w c"], tokens: Int[Array, "b t"], *, key: random.Key | None = None
    ) -> tuple[list[Tokens], list[Tokens]]:
        check_images(images, self.config.preprocessing)
        key_image, key_text = random.split(key, 2)
        execution = self.execution
        patches = self.visual.patch_embed(images)
        image_tokens = self.visual.run(patches, causal=False, key=key_image, execution=execution)
        words = self.text.token_embed(tokens)
        return image_tokens, self.text.run(words, causal=True, key=key_text, execution=execution)
