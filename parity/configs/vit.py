"""The config of every flat Vision Transformer.

A field that a framework would default is written out here: numerics belong to the source of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .preprocessing import Preprocessing

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "silu"]
MlpKind = Literal["mlp", "swiglu_packed"]
PosEmbed = Literal["learned", "sincos2d", "sincos2d_big_vision", "none"]
PosEmbedResize = Literal["bicubic_antialias", "bilinear_antialias"]
GlobalPool = Literal["token", "avg", "map", "none"]


@dataclass(frozen=True, kw_only=True)
class VitConfig:
    """One flat Vision Transformer: architecture, numerics and preprocessing.

    Attributes:
        image_size: Height and width in pixels; an integer means a square.
        patch_size: Height and width in pixels; divides `image_size`.
        drop_partial_patches: Accept an `image_size` that `patch_size` doesn't divide and ignore the pixels right and
            below of the last whole patch (SigLIP So400m/14 at 384).
        in_chans: Channels of the input image.
        num_classes: Width of the head; 0 leaves the head out and the model returns pooled features.
        embed_dim: Width of the tokens.
        depth: Number of blocks.
        num_heads: Attention heads; divides `embed_dim`.
        mlp_dim: Hidden width of the MLP, after the gate where there is one.
        mlp: `mlp` is two linear layers; `swiglu_packed` gates with the first half of one doubled layer (DINOv2 g).
        act: Activation of the MLP. `gelu` is the erf form, `gelu_tanh` its approximation, `quick_gelu` CLIP's.
        norm_eps: Epsilon of every LayerNorm.
        qkv_bias: Whether the fused query/key/value projection has a bias.
        patch_bias: Whether the patch embedding has a bias (CLIP has none).
        class_token: A learned token in front of the patches.
        dist_token: DeiT's second token, with a head of its own; the logits of both heads are averaged.
        reg_tokens: Register tokens after the class token.
        pos_embed: `learned`, `none`, or fixed: `sincos2d` (MoCo v3, MAE), `sincos2d_big_vision` (other frequencies).
        pos_embed_prefix: Whether the position embedding has entries for the class, distillation and register tokens.
        pos_embed_resize: Kernel that takes learned positions to another grid; each source of weights has its own.
        pre_norm: A norm between the embeddings and the blocks (CLIP).
        final_norm: A norm over all tokens after the blocks.
        fc_norm: A norm over the pooled features.
        global_pool: `token` takes the class token, `avg` the mean of the patches, `map` attention pooling with a
            learned query, `none` leaves the tokens unpooled.
        layer_scale_init: Start value of LayerScale; None leaves LayerScale out.
        drop_rate: Dropout after the position embedding and after every linear layer of a block but qkv
            (ViT paper, appendix B.1).
        attn_drop_rate: Dropout of the attention weights.
        drop_path_rate: Stochastic depth of the last block; it rises linearly from 0 at the first.
        preprocessing: How images become inputs.
    """

    image_size: tuple[int, int] = (224, 224)
    patch_size: tuple[int, int] = (16, 16)
    drop_partial_patches: bool = False
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    mlp: MlpKind = "mlp"
    act: Activation = "gelu"
    norm_eps: float = 1e-6
    qkv_bias: bool = True
    patch_bias: bool = True
    class_token: bool = True
    dist_token: bool = False
    reg_tokens: int = 0
    pos_embed: PosEmbed = "learned"
    pos_embed_prefix: bool = True
    pos_embed_resize: PosEmbedResize = "bicubic_antialias"
    pre_norm: bool = False
    final_norm: bool = True
    fc_norm: bool = False
    global_pool: GlobalPool = "token"
    layer_scale_init: float | None = None
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
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.embed_dim // self.num_heads

    @property
    def drop_path_rates(self) -> tuple[float, ...]:
        """Stochastic depth of each block."""
        return tuple(self.drop_path_rate * i / max(self.depth - 1, 1) for i in range(self.depth))

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, where the fields don't make a model."""
        for name in ("image_size", "patch_size"):
            object.__setattr__(self, name, _pair(name, getattr(self, name)))
        for name in ("in_chans", "embed_dim", "depth", "num_heads", "mlp_dim"):
            value = getattr(self, name)
            _expect(isinstance(value, int) and value >= 1, name, repr(value), "a positive integer")
        for name in ("num_classes", "reg_tokens"):
            value = getattr(self, name)
            _expect(isinstance(value, int) and value >= 0, name, repr(value), "0 or a positive integer")
        for name in ("drop_rate", "attn_drop_rate", "drop_path_rate"):
            value = getattr(self, name)
            _expect(isinstance(value, int | float) and 0 <= value < 1, name, repr(value), "a value in [0, 1)")
        positive = isinstance(self.norm_eps, int | float) and self.norm_eps > 0
        _expect(positive, "norm_eps", repr(self.norm_eps), "a value above 0")
        for name in _SWITCHES:
            _expect(isinstance(getattr(self, name), bool), name, repr(getattr(self, name)), "true or false")
        for name, choices in _CHOICES.items():
            _expect(getattr(self, name) in choices, name, repr(getattr(self, name)), "one of " + ", ".join(choices))
        self._check_shapes()

    def _check_shapes(self) -> None:
        for image, patch in zip(self.image_size, self.patch_size, strict=True):
            fits = image >= patch if self.drop_partial_patches else image % patch == 0
            _expect(fits, "image_size", self.image_size, f"multiples of patch_size {self.patch_size}")
        heads = f"a divisor of embed_dim {self.embed_dim}"
        _expect(self.embed_dim % self.num_heads == 0, "num_heads", self.num_heads, heads)
        _expect(self.class_token or self.global_pool != "token", "global_pool", "'token'", "class_token=True with it")
        _expect(self.class_token or not self.dist_token, "dist_token", True, "class_token=True with it")
        if self.dist_token:
            _expect(self.global_pool == "token", "global_pool", repr(self.global_pool), "'token' with dist_token")
        if self.global_pool == "none":
            _expect(self.num_classes == 0, "num_classes", self.num_classes, "0 with global_pool='none'")
        if self.pos_embed.startswith("sincos2d"):
            _expect(self.embed_dim % 4 == 0, "embed_dim", self.embed_dim, "a multiple of 4 with sin-cos positions")
        channels = len(self.preprocessing.mean)
        _expect(channels in (1, self.in_chans), "preprocessing.mean", f"{channels} channels", f"1 or {self.in_chans}")


_SWITCHES = (
    "drop_partial_patches",
    "qkv_bias",
    "patch_bias",
    "class_token",
    "dist_token",
    "pos_embed_prefix",
    "pre_norm",
    "final_norm",
    "fc_norm",
)
_CHOICES: dict[str, tuple[str, ...]] = {
    "act": ("gelu", "gelu_tanh", "quick_gelu", "silu"),
    "mlp": ("mlp", "swiglu_packed"),
    "pos_embed": ("learned", "sincos2d", "sincos2d_big_vision", "none"),
    "pos_embed_resize": ("bicubic_antialias", "bilinear_antialias"),
    "global_pool": ("token", "avg", "map", "none"),
}


def _pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    valid = len(pair) == 2 and all(isinstance(side, int) and side >= 1 for side in pair)
    _expect(valid, name, value, "one positive integer or a pair (height, width)")
    return pair[0], pair[1]


def _expect(condition: bool, name: str, got: object, expected: str) -> None:
    if not condition:
        raise ValueError(f"{name}: got {got}, expected {expected}")
