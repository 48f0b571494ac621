"""Two toy towers, of images and of texts: the scaled cosines of all pairs of their features.

After Radford et al. 2021, arXiv:2103.00020, figure 3:

    logits = exp(logit_scale) * normalize(image_features) @ normalize(text_features)^T

No published model: texts are pooled at their last place. Twin: `vit_jax/models/toy_towers.py`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from parity.configs.toy_towers import ToyTowersConfig
from torch import Tensor, nn

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

Tokens = Float[Tensor, "b n d"]
Features = tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]


class TokenEmbed(nn.Module):
    """A vector for each token id.

    Args:
        vocabulary: The number of token ids.
        dim: The width of the vectors.
    """

    def __init__(self, vocabulary: int, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(vocabulary, dim) * 0.02)

    def forward(self, tokens: Int[Tensor, "b t"]) -> Tokens:
        """The vectors of the ids."""
        return self.weight[tokens]


class Tower(nn.Module):
    """Positions, blocks, a norm and a projection, without what embeds.

    Args:
        length: The number of tokens.
        dim: The width of the tokens.
        depth: The number of blocks.
        config: The sizes and numerics that both towers share.
    """

    def __init__(self, length: int, dim: int, depth: int, *, config: ToyTowersConfig):
        super().__init__()
        norm = partial(LayerNorm, eps=config.norm_eps)
        self.pos_embed = nn.Parameter(torch.randn(1, length, dim) * 0.02)
        self.blocks = nn.ModuleList([Block(dim, config.num_heads, config.mlp_dim, norm=norm) for _ in range(depth)])
        self.norm = norm(dim)
        self.proj = Linear(dim, config.embed_dim, bias=False)

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
        mask = causal_mask(x.shape[1], device=x.device) if causal else None
        rates = [0.0] * len(self.blocks)
        options: dict[str, Any] = dict(mask=mask, drop_path_rates=rates, key=key, execution=execution, collect=True)
        return run_blocks(self.blocks, x + self.pos_embed, **options)[1]


class ImageTower(Tower):
    """Patches; features are of the mean of their tokens.

    Args:
        config: All sizes.
    """

    def __init__(self, config: ToyTowersConfig):
        dim = config.image_dim
        super().__init__(config.num_patches, dim, config.depth, config=config)
        size = config.image_size
        self.patch_embed = PatchEmbed(config.in_chans, dim, config.patch_size, image_size=size)

    def forward(self, tokens: list[Tokens]) -> Float[Tensor, "b d"]:
        """Features of the tokens after each block."""
        return self.proj(self.norm(tokens[-1]).mean(dim=1))


class TextTower(Tower):
    """Token ids; features are those of the last token, which alone has attended to all.

    Args:
        config: All sizes.
    """

    def __init__(self, config: ToyTowersConfig):
        dim = config.text_dim
        super().__init__(config.text_length, dim, config.text_depth, config=config)
        self.token_embed = TokenEmbed(config.vocabulary, dim)

    def forward(self, tokens: list[Tokens]) -> Float[Tensor, "b d"]:
        """Features of the tokens after each block."""
        return self.proj(self.norm(tokens[-1][:, -1]))


class ToyTowers(Model):
    """Both towers, and the logarithm of the scale of their cosines.

    Args:
        config: Architecture and numerics.
        execution: How to run it.
    """

    config: ToyTowersConfig

    def __init__(self, config: ToyTowersConfig, *, execution: Execution = Execution()):
        super().__init__()
        self.config = config
        self.execution = execution
        self.visual = ImageTower(config)
        self.text = TextTower(config)
        self.logit_scale = nn.Parameter(torch.full((), config.logit_scale_init))

    def forward(
        self, images: Float[Tensor, "b c h w"], tokens: Int[Tensor, "b t"], *, key: random.Key | None = None
    ) -> Float[Tensor, "b b"]:
        """The scaled cosine of each image (row) and each text (column).

        Args:
            images: Images that are normalised as the config's preprocessing says.
            tokens: Token ids.
            key: The key of dropout, which this model doesn't have.
        """
        return self.forward_head(self.forward_features(images, tokens, key=key))

    def forward_features(
        self, images: Float[Tensor, "b c h w"], tokens: Int[Tensor, "b t"], *, key: random.Key | None = None
    ) -> Features:
        """Features of the images and of the texts, not normalised. Arguments as of the model."""
        image_tokens, text_tokens = self._run(images, tokens, key=key)
        return self.visual(image_tokens), self.text(text_tokens)

    def forward_intermediates(self, images: Float[Tensor, "b c h w"], tokens: Int[Tensor, "b t"]) -> list[Tokens]:
        """Tokens after each block, of the images first."""
        image_tokens, text_tokens = self._run(images, tokens)
        return [*image_tokens, *text_tokens]

    def forward_head(self, x: Features) -> Float[Tensor, "b b"]:
        """Logits of the features that `forward_features` returns."""
        image_features, text_features = (each / torch.linalg.vector_norm(each, dim=-1, keepdim=True) for each in x)
        return torch.exp(self.logit_scale) * image_features @ text_features.mT

    def _run(
        self, images: Float[Tensor, "b c h w"], tokens: Int[Tensor, "b t"], *, key: random.Key | None = None
    ) -> tuple[list[Tokens], list[Tokens]]:
        check_images(images, self.config.preprocessing)
        key_image, key_text = random.split(key, 2)
        execution = self.execution
        patches = self.visual.patch_embed(images)
        image_tokens = self.visual.run(patches, causal=False, key=key_image, execution=execution)
        words = self.text.token_embed(tokens)
        return image_tokens, self.text.run(words, causal=True, key=key_text, execution=execution)
