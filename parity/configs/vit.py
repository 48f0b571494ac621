"""The config of every flat Vision Transformer.

A field that a framework would default is written out here: numerics belong to the source of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from .base import ModelConfig
from .eva import EVA_AND_BEIT
from .fields import as_pair, check_fields
from .hybrid import HYBRID
from .models import VIT
from .preprocessing import Preprocessing
from .rope import Rope, frequencies, mixed_frequencies
from .stem import StdEps, Stem, StemConv, as_stem_convs
from .vit_checks import check_numbers, check_shapes

if TYPE_CHECKING:
    import numpy as np

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "silu"]
Norm = Literal["layernorm", "rmsnorm"]
BlockKind = Literal["pre_norm", "res_post", "parallel_things", "parallel_scaling"]
MlpKind = Literal["mlp", "swiglu", "swiglu_packed"]
PosEmbed = Literal["learned", "sincos2d", "sincos2d_big_vision", "none"]
ResizeKernel = Literal[
    "bicubic_antialias",
    "bilinear_antialias",
    "bicubic",
    "bilinear",
    "bicubic_align_corners",
    "zoom",
    "bicubic_offset",
]
RelPosResize = Literal["geometric", "bilinear", "bicubic"]
PosEmbedPrefix = Literal["all", "class", "none"]
RelPosBias = Literal["none", "block", "shared"]
GlobalPool = Literal["token", "avg", "token_avg", "map", "none"]


@dataclass(frozen=True, kw_only=True)
class VitConfig(ModelConfig):
    """One flat Vision Transformer: architecture, numerics and preprocessing.

    Attributes:
        image_size: Height and width in pixels; an integer means a square.
        patch_size: Height and width in pixels; divides `image_size`.
        stem: What embeds patches: one convolution over each (`patch`), several convolutions with BatchNorm and ReLU
            (`conv`: torchvision's), or with BatchNorm and GELU (`hmlp`: DeiT III's; `mci`: MobileCLIP's, both with
            patches of 16 x 16), or BiT's ResNet and one convolution over its map (`bit`).
        stem_convs: Channels, kernel and stride of each convolution of `conv`, before one of 1 x 1 to `embed_dim`; their
            strides multiply to `patch_size`.
        stem_depths: Blocks of each stage of `bit`; none for its first convolution alone.
        stem_norm_eps: Epsilon of its BatchNorm, or of the GroupNorm of `bit`.
        stem_conv_eps: Epsilon of the standardised kernels of `bit`.
        stem_conv_std: Whether that is added to the variance of a kernel (timm) or to its root (Google's code).
        drop_partial_patches: Accept an `image_size` that `patch_size` doesn't divide and ignore the pixels right and
            below of the last whole patch (SigLIP So400m/14 at 384).
        dynamic_image_size: Take images of any whole number of patches; positions are resized as they run.
        in_chans: Channels of the input image.
        num_classes: Width of the head; 0 leaves the head out and the model returns pooled features.
        embed_dim: Width of the tokens.
        depth: Number of blocks.
        num_heads: Attention heads; divides `embed_dim`.
        num_kv_heads: Heads of key and value in each block (grouped-query attention); None for `num_heads` in all.
        mlp_dim: Hidden width of the MLP, after the gate where there is one.
        block: `pre_norm` is the ViT's; `res_post` normalises each branch's output (Swin v2, EVA-CLIP E);
            `parallel_things` has two attentions, then two MLPs, side by side; `parallel_scaling` has attention and MLP
            side by side, from one projection (ViT-22B).
        differential_attention: Attention is the difference of two softmax attentions.
        mlp: `mlp` is two linear layers; `swiglu` gates one by another; `swiglu_packed` has both as one doubled layer.
        act: Activation of the MLP. `gelu` is the erf form, `gelu_tanh` its approximation, `quick_gelu` CLIP's.
        norm: Kind of every norm.
        norm_eps: Epsilon of every norm.
        qkv_fused: Whether query, key and value are one projection.
        qkv_bias: Whether the projections to query, key and value have a bias.
        k_bias: Whether that to the key has one, where the others do (EVA, BEiT and DINOv3 leave it out).
        proj_bias: Whether the output projection of attention has a bias.
        mlp_bias: Whether the linear layers of the MLP have one.
        patch_bias: Whether the patch embedding has a bias (CLIP has none).
        head_bias: Whether the head has one (CLIP's projection has none).
        qk_norm: A norm over each head of query and key.
        attn_norm: A norm over the output of attention, before its projection.
        mlp_norm: A norm over the hidden units of the MLP.
        embed_norm: A norm over the embedded patches, before anything is added.
        pre_norm: A norm between the embeddings and the blocks (CLIP).
        final_norm: A norm over all tokens after the blocks.
        cls_norm: A final norm of its own for the prefix tokens, beside that of the patches (DINOv3).
        fc_norm: A norm over the pooled features.
        class_token: A learned token in front of the patches.
        dist_token: DeiT's second token, with a head of its own; the logits of both heads are averaged.
        reg_tokens: Register tokens after the class token.
        mask_token: A learned token that stands for masked patches (BEiT, DINOv2); without one they are left out (MAE).
        pos_embed: `learned`, `none`, or fixed: `sincos2d` (MoCo v3, MAE), `sincos2d_big_vision` (other frequencies).
        pos_embed_prefix: Which prefix tokens have an entry in the position embedding: `all`, the `class` token alone
            (DINOv2 with registers), or `none`.
        pos_embed_resize: Kernel that takes learned positions to another grid; each source of weights has its own
            (`parity.checkpoints.resize`).
        patch_resize: Kernel whose pseudo-inverse takes the patch embedding to another patch size (FlexiViT).
        rope: Rotary positions of query and key; None for none.
        rel_pos_bias: BEiT's learned bias of attention by distance: a table in each `block`, one `shared`, or `none`.
        rel_pos_resize: How its tables are taken to another grid: `geometric` as in timm, `bilinear` as at Hugging
            Face, `bicubic` as in Microsoft's Swin.
        global_pool: `token` takes the class token, `avg` the mean of the patches, `token_avg` both side by side
            (DINOv2's linear heads), `map` attention pooling with a learned query, `none` leaves the tokens unpooled.
        pool_include_prefix: Whether `avg` and `map` take the prefix tokens, too.
        attn_pool_heads: Heads of attention pooling; None for `num_heads`.
        attn_pool_mlp_dim: Hidden width of its MLP; None for `mlp_dim`.
        pre_logits_dim: Width of a linear layer and tanh between pooling and head (ViT's first release, Hugging Face's
            pooler); None for none.
        layer_scale_init: Start value of LayerScale; None leaves LayerScale out.
        attn_only_layer_scale: LayerScale of the attention branch alone.
        drop_rate: Dropout after the position embedding and after every linear layer of a block but qkv
            (ViT paper, appendix B.1).
        attn_drop_rate: Dropout of the attention weights.
        drop_path_rate: Stochastic depth of the last block; it rises linearly from 0 at the first.
        preprocessing: How images become inputs.
    """

    registered: ClassVar[Mapping[str, Mapping[str, Any]]] = VIT | EVA_AND_BEIT | HYBRID
    numerics: ClassVar[tuple[str, ...]] = (
        *("act", "norm_eps", "pos_embed_resize", "patch_resize", "rel_pos_resize"),
        *("stem_norm_eps", "stem_conv_eps", "stem_conv_std"),
    )
    heads: ClassVar[tuple[str, ...]] = ("head", "head_dist")
    embeddings: ClassVar[tuple[str, ...]] = ("patch_embed",)

    image_size: tuple[int, int] = (224, 224)
    patch_size: tuple[int, int] = (16, 16)
    stem: Stem = "patch"
    stem_convs: tuple[StemConv, ...] = ()
    stem_depths: tuple[int, ...] = ()
    stem_norm_eps: float = 1e-5
    stem_conv_eps: float = 1e-8
    stem_conv_std: StdEps = "variance"
    drop_partial_patches: bool = False
    dynamic_image_size: bool = False
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    num_kv_heads: tuple[int, ...] | None = None
    mlp_dim: int = 3072
    block: BlockKind = "pre_norm"
    differential_attention: bool = False
    mlp: MlpKind = "mlp"
    act: Activation = "gelu"
    norm: Norm = "layernorm"
    norm_eps: float = 1e-6
    qkv_fused: bool = True
    qkv_bias: bool = True
    k_bias: bool = True
    proj_bias: bool = True
    mlp_bias: bool = True
    patch_bias: bool = True
    head_bias: bool = True
    qk_norm: bool = False
    attn_norm: bool = False
    mlp_norm: bool = False
    embed_norm: bool = False
    pre_norm: bool = False
    final_norm: bool = True
    cls_norm: bool = False
    fc_norm: bool = False
    class_token: bool = True
    dist_token: bool = False
    reg_tokens: int = 0
    mask_token: bool = False
    pos_embed: PosEmbed = "learned"
    pos_embed_prefix: PosEmbedPrefix = "all"
    pos_embed_resize: ResizeKernel = "bicubic_antialias"
    patch_resize: ResizeKernel = "bicubic_antialias"
    rope: Rope | None = None
    rel_pos_bias: RelPosBias = "none"
    rel_pos_resize: RelPosResize = "geometric"
    global_pool: GlobalPool = "token"
    pool_include_prefix: bool = False
    attn_pool_heads: int | None = None
    attn_pool_mlp_dim: int | None = None
    pre_logits_dim: int | None = None
    layer_scale_init: float | None = None
    attn_only_layer_scale: bool = False
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    @property
    def grid_size(self) -> tuple[int, int]:
        """Patches down and across."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]

    @property
    def num_patches(self) -> int:
        """Patches of one image."""
        return self.grid_size[0] * self.grid_size[1]

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens in front of the patches."""
        return self.class_token + self.dist_token + self.reg_tokens

    @property
    def num_pos_embed_prefix(self) -> int:
        """Prefix tokens with an entry in the position embedding."""
        return {"all": self.num_prefix_tokens, "class": int(self.class_token), "none": 0}[self.pos_embed_prefix]

    @property
    def pooled_dim(self) -> int:
        """Width of the pooled features."""
        return self.embed_dim * (2 if self.global_pool == "token_avg" else 1)

    @property
    def kv_heads(self) -> tuple[int, ...]:
        """Heads of key and value in each block."""
        return (self.num_heads,) * self.depth if self.num_kv_heads is None else self.num_kv_heads

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.embed_dim // self.num_heads

    @property
    def drop_path_rates(self) -> tuple[float, ...]:
        """Stochastic depth of each block."""
        return tuple(self.drop_path_rate * i / max(self.depth - 1, 1) for i in range(self.depth))

    @property
    def intermediates(self) -> tuple[str, ...]:
        """The blocks."""
        return tuple(f"blocks.{i}" for i in range(self.depth))

    @property
    def summary(self) -> dict[str, str]:
        """Sizes and pooling."""
        return {
            "image": "x".join(map(str, self.image_size)),
            "patch": "x".join(map(str, self.patch_size)),
            "dim": str(self.embed_dim),
            "depth": str(self.depth),
            "heads": str(self.num_heads),
            "mlp": str(self.mlp_dim),
            "tokens": str(self.num_patches + self.num_prefix_tokens),
            "pool": self.global_pool,
            "classes": str(self.num_classes),
        }

    @property
    def facts(self) -> dict[str, str]:
        """The tokens: those of the prefix, and the grid of patches."""
        return {"tokens": f"{self.num_prefix_tokens} + {self.grid_size[0]} x {self.grid_size[1]}"}

    def initial(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray | None:
        """Frequencies that are learned start in a random direction for each block and head."""
        if self.rope is None or name != "rope.freqs":
            return None
        magnitude = frequencies(self.head_dim, temperature=self.rope.temperature)
        return mixed_frequencies(magnitude, rng.uniform(0, 2 * math.pi, shape[1:3]))

    def layer_of(self, name: str) -> int:
        """Where a tensor lies: 0 before the blocks, i + 1 in block i, `depth` + 1 after the last."""
        first, *rest = name.split(".")
        if first == "blocks":
            return int(rest[0]) + 1
        return self.depth + 1 if first in _AFTER_BLOCKS else 0

    def shortened(self, depth: int) -> VitConfig:
        """The config of the first `depth` blocks alone; the same config if it has no more."""
        depth = min(depth, self.depth)
        kv_heads = None if self.num_kv_heads is None else self.num_kv_heads[:depth]
        return replace(self, depth=depth, num_kv_heads=kv_heads)

    def reduced(self, depth: int) -> VitConfig:
        """A config of the first blocks only, on a small grid that isn't square."""
        # A few pixels more where partial patches are dropped, so that there are some to drop.
        rest = 3 if self.drop_partial_patches else 0
        height, width = (side * patches + rest for side, patches in zip(self.patch_size, GRID, strict=True))
        # One block of each number of heads, where blocks differ in it.
        kinds = tuple(dict.fromkeys(self.num_kv_heads or ()))[:depth]
        return replace(
            self,
            depth=len(kinds) or min(depth, self.depth),
            num_kv_heads=kinds or None,
            image_size=(height, width),
            layer_scale_init=None if self.layer_scale_init is None else 1.0,
            pos_embed_resize="bicubic_antialias",
            patch_resize="bicubic_antialias",
            rel_pos_resize="geometric",
            # One block of each stage: all kinds of shortcut but the plain one, which the first stage's second has.
            stem_depths=tuple(min(depth, 2 - bool(stage)) for stage, depth in enumerate(self.stem_depths)),
            preprocessing=Preprocessing(mean=(0.5,), std=(0.5,)),
        )

    def narrowed(self) -> VitConfig:
        """A config with the same options at one small width."""
        patch_size = (4, 8) if self.stem == "patch" else self.patch_size
        height, width = (side * patches for side, patches in zip(patch_size, GRID, strict=True))
        return replace(
            self,
            patch_size=patch_size,
            image_size=(height, width),
            embed_dim=48,
            num_heads=4,
            num_kv_heads=self.num_kv_heads and tuple(4 * heads // self.num_heads for heads in self.num_kv_heads),
            mlp_dim=80,
            attn_pool_mlp_dim=self.attn_pool_mlp_dim and 60,
            num_classes=10 if self.num_classes else 0,
        )

    def activations(self, *, backward: bool) -> int:
        """An estimate: those of one block, or of all for a backward pass, and every block's tokens."""
        tokens = self.num_patches + self.num_prefix_tokens
        attention = 3 * self.num_heads * tokens**2
        inner = tokens * (12 * self.embed_dim + 4 * self.mlp_dim)
        return (self.depth if backward else 1) * (attention + inner) + tokens * self.depth * self.embed_dim

    def adapted(self, *, num_classes: int | None = None, **changes: Any) -> VitConfig:
        """The config at another size of images or patches, with another head, or with another pooling.

        Args:
            num_classes: Another number of classes; None for the same.
            changes: `image_size`, `patch_size`, and `global_pool`, of those that have no parameters.

        Raises:
            ValueError: A size that the patches don't divide, a pooling with parameters, or one that the head doesn't
                fit.
        """
        pool = changes.pop("global_pool", None)
        new = super().adapted(**changes)
        if pool is not None and pool != self.global_pool:
            if "map" in (pool, self.global_pool):
                raise ValueError(f"global_pool: got {pool!r} for {self.global_pool!r}, but `map` has parameters")
            new = replace(new, global_pool=pool, num_classes=0 if pool == "none" else self.num_classes)
            fits = new.pooled_dim == self.pooled_dim and new.num_classes == self.num_classes
            if num_classes is None and not fits:
                what = "which the head doesn't fit; expected num_classes with it"
                raise ValueError(f"global_pool: got {pool!r}, {what}")
        return new if num_classes is None else replace(new, num_classes=num_classes)

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, where the fields don't make a model."""
        for name in ("image_size", "patch_size"):
            object.__setattr__(self, name, as_pair(name, getattr(self, name)))
        object.__setattr__(self, "stem_convs", as_stem_convs(self.stem_convs))
        check_fields(self)
        check_numbers(self)
        check_shapes(self)


# What comes after the blocks, by the first part of its name; anything else outside of the blocks comes before them.
_AFTER_BLOCKS = ("norm", "cls_norm", "fc_norm", "attn_pool", "pre_logits", "head", "head_dist")
# Patches down and across of reduced models: registered ones are square, which would hide exchanged rows and columns.
GRID = (5, 7)
