"""The config of every flat Vision Transformer.

A field that a framework would default is written out here: numerics belong to the source of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from .fields import check_fields, shown
from .preprocessing import Preprocessing
from .rope import Rope
from .stem import Stem, StemConv, as_stem_convs, check_stem

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
RelPosResize = Literal["geometric", "bilinear"]
PosEmbedPrefix = Literal["all", "class", "none"]
RelPosBias = Literal["none", "block", "shared"]
GlobalPool = Literal["token", "avg", "token_avg", "map", "none"]


@dataclass(frozen=True, kw_only=True)
class VitConfig:
    """One flat Vision Transformer: architecture, numerics and preprocessing.

    Attributes:
        image_size: Height and width in pixels; an integer means a square.
        patch_size: Height and width in pixels; divides `image_size`.
        stem: What embeds patches: one convolution over each (`patch`), several convolutions with BatchNorm and ReLU
            (`conv`: torchvision's), or with BatchNorm and GELU (`hmlp`: DeiT III's, whose patches are 16 x 16).
        stem_convs: Channels, kernel and stride of each convolution of `conv`, before one of 1 x 1 to `embed_dim`; their
            strides multiply to `patch_size`.
        stem_norm_eps: Epsilon of its BatchNorm.
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
        rel_pos_resize: How its tables are taken to another grid: `geometric` as in timm, `bilinear` as at Hugging Face.
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

    image_size: tuple[int, int] = (224, 224)
    patch_size: tuple[int, int] = (16, 16)
    stem: Stem = "patch"
    stem_convs: tuple[StemConv, ...] = ()
    stem_norm_eps: float = 1e-5
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

    def shortened(self, depth: int) -> VitConfig:
        """The config of the first `depth` blocks alone; the same config if it has no more."""
        depth = min(depth, self.depth)
        kv_heads = None if self.num_kv_heads is None else self.num_kv_heads[:depth]
        return replace(self, depth=depth, num_kv_heads=kv_heads)

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, where the fields don't make a model."""
        for name in ("image_size", "patch_size"):
            object.__setattr__(self, name, _pair(name, getattr(self, name)))
        object.__setattr__(self, "stem_convs", as_stem_convs(self.stem_convs))
        check_fields(self)
        for name in ("in_chans", "embed_dim", "depth", "num_heads", "mlp_dim"):
            value = getattr(self, name)
            _expect(isinstance(value, int) and value >= 1, name, repr(value), "a positive integer")
        _expect(self.depth <= _MAX_DEPTH, "depth", self.depth, f"at most {_MAX_DEPTH}")
        for name in ("num_classes", "reg_tokens"):
            value = getattr(self, name)
            _expect(isinstance(value, int) and value >= 0, name, repr(value), "0 or a positive integer")
        for name in ("drop_rate", "attn_drop_rate", "drop_path_rate"):
            value = getattr(self, name)
            _expect(isinstance(value, int | float) and 0 <= value < 1, name, repr(value), "a value in [0, 1)")
        for name in ("attn_pool_heads", "attn_pool_mlp_dim", "pre_logits_dim"):
            value = getattr(self, name)
            valid = value is None or (isinstance(value, int) and value >= 1)
            _expect(valid, name, repr(value), "a positive integer, or none")
        for name in ("norm_eps", "stem_norm_eps"):
            _expect(getattr(self, name) > 0, name, repr(getattr(self, name)), "a value above 0")
        for name in _SWITCHES:
            _expect(isinstance(getattr(self, name), bool), name, repr(getattr(self, name)), "true or false")
        for name, choices in _CHOICES.items():
            _expect(getattr(self, name) in choices, name, repr(getattr(self, name)), "one of " + ", ".join(choices))
        self._check_shapes()

    def _check_shapes(self) -> None:
        check_stem(self)
        for image, patch in zip(self.image_size, self.patch_size, strict=True):
            fits = image >= patch if self.drop_partial_patches else image % patch == 0
            _expect(fits, "image_size", self.image_size, f"multiples of patch_size {self.patch_size}")
        heads = f"a divisor of embed_dim {self.embed_dim}"
        _expect(self.embed_dim % self.num_heads == 0, "num_heads", self.num_heads, heads)
        if self.global_pool in ("token", "token_avg"):
            _expect(self.class_token, "global_pool", repr(self.global_pool), "class_token=True with it")
        if self.global_pool == "token_avg":
            _expect(not self.fc_norm, "fc_norm", True, "false with global_pool='token_avg'")
        _expect(self.class_token or not self.dist_token, "dist_token", True, "class_token=True with it")
        if self.dist_token:
            _expect(self.global_pool == "token", "global_pool", repr(self.global_pool), "'token' with dist_token")
        if self.cls_norm:
            _expect(self.final_norm, "cls_norm", True, "false without final_norm")
            _expect(self.num_prefix_tokens > 0, "cls_norm", True, "false without prefix tokens")
        if self.global_pool == "none":
            _expect(self.num_classes == 0, "num_classes", self.num_classes, "0 with global_pool='none'")
        self._check_attention()
        if self.pos_embed.startswith("sincos2d"):
            _expect(self.embed_dim % 4 == 0, "embed_dim", self.embed_dim, "a multiple of 4 with sin-cos positions")
        channels = len(self.preprocessing.mean)
        _expect(channels in (1, self.in_chans), "preprocessing.mean", f"{channels} channels", f"1 or {self.in_chans}")

    def _check_attention(self) -> None:
        pool_heads = self.attn_pool_heads or self.num_heads
        heads = f"a divisor of embed_dim {self.embed_dim}"
        _expect(self.embed_dim % pool_heads == 0, "attn_pool_heads", self.attn_pool_heads, heads)
        if self.num_kv_heads is not None:
            fits = len(self.num_kv_heads) == self.depth and all(
                n >= 1 and self.num_heads % n == 0 for n in self.num_kv_heads
            )
            expected = f"a divisor of num_heads {self.num_heads} for each of {self.depth} blocks"
            _expect(fits, "num_kv_heads", shown(self.num_kv_heads), expected)
            _expect(not self.qkv_fused, "qkv_fused", True, "false with num_kv_heads")
        if self.rope is not None:
            width = "a multiple of 4 with rotary positions"
            _expect(self.head_dim % 4 == 0, "embed_dim / num_heads", self.head_dim, width)
        if self.rel_pos_bias != "none":
            _expect(self.num_prefix_tokens == 1, "rel_pos_bias", repr(self.rel_pos_bias), "a class token alone with it")
            _expect(not self.dynamic_image_size, "dynamic_image_size", True, "false with rel_pos_bias")
        plain = not self.differential_attention and self.block in ("pre_norm", "res_post")
        for name, unused in _PLAIN_ONLY.items():
            _expect(
                plain or getattr(self, name) == unused, name, repr(getattr(self, name)), f"{unused!r} in this block"
            )
        if self.differential_attention:
            _expect(self.head_dim % 2 == 0, "embed_dim / num_heads", self.head_dim, "an even number")
            _expect(self.block != "res_post", "block", "'res_post'", "another with differential attention")
        if self.block == "res_post":
            _expect(self.layer_scale_init is None, "layer_scale_init", self.layer_scale_init, "none in res_post blocks")
        if self.block == "parallel_scaling":
            _expect(self.mlp == "mlp", "mlp", repr(self.mlp), "'mlp' in parallel_scaling blocks")


# What only the plain attention of plain blocks can do, and the value that means that it isn't asked for.
_PLAIN_ONLY = {
    "qkv_fused": True,
    "k_bias": True,
    "rope": None,
    "rel_pos_bias": "none",
    "attn_only_layer_scale": False,
}
# A file may ask for any number of blocks, and counting their tensors would take as long as it says.
_MAX_DEPTH = 1024
_SWITCHES = (
    "drop_partial_patches",
    "dynamic_image_size",
    "qkv_fused",
    "qkv_bias",
    "k_bias",
    "proj_bias",
    "mlp_bias",
    "patch_bias",
    "head_bias",
    "qk_norm",
    "attn_norm",
    "mlp_norm",
    "embed_norm",
    "pre_norm",
    "final_norm",
    "cls_norm",
    "fc_norm",
    "class_token",
    "dist_token",
    "mask_token",
    "pool_include_prefix",
    "differential_attention",
    "attn_only_layer_scale",
)
_CHOICES: dict[str, tuple[str, ...]] = {
    name: get_args(kind)
    for name, kind in (
        ("stem", Stem),
        ("block", BlockKind),
        ("mlp", MlpKind),
        ("act", Activation),
        ("norm", Norm),
        ("pos_embed", PosEmbed),
        ("pos_embed_prefix", PosEmbedPrefix),
        ("pos_embed_resize", ResizeKernel),
        ("patch_resize", ResizeKernel),
        ("rel_pos_resize", RelPosResize),
        ("rel_pos_bias", RelPosBias),
        ("global_pool", GlobalPool),
    )
}


def _pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
    valid = len(pair) == 2 and all(isinstance(side, int) and side >= 1 for side in pair)
    got = shown(pair if isinstance(value, list | tuple) else value)
    _expect(valid, name, got, "one positive integer or a pair (height, width)")
    return pair[0], pair[1]


def _expect(condition: bool, name: str, got: object, expected: str) -> None:
    if not condition:
        raise ValueError(f"{name}: got {got}, expected {expected}")
