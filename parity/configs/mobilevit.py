"""The config of MobileViTs, of both versions, and its named models.

Source: Mehta and Rastegari 2021, arXiv:2110.02178, table 4 (MobileViT); 2022, arXiv:2206.02680, section 3.3 (MobileViT
v2). The models are those of timm's module `mobilevit`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from .fields import as_pair, check_fields, expect
from .preprocessing import Preprocessing
from .stages import StagedConfig

if TYPE_CHECKING:
    import numpy as np

_IMAGES: dict[str, Any] = dict(normalize="unit", num_classes=1000)


def _first(dims: tuple[int, ...], inner: tuple[int, ...], width: int, ratio: float = 4.0) -> dict[str, Any]:
    """The fields of a named model of the first version."""
    inner = (0, 0, *inner)
    sizes = dict(dims=dims, transformer_dims=inner, mlp_dims=tuple(2 * dim for dim in inner), out_dim=width)
    return _IMAGES | sizes | dict(expand_ratio=ratio)


def _second(factor: float) -> dict[str, Any]:
    """The fields of a named model of the second version, by how much it is wider than the plain one."""
    dims = tuple(int(dim * factor) for dim in (64, 128, 256, 384, 512))
    inner = (0, 0, *(rounded(dim / 2) for dim in dims[2:]))
    sizes = dict(dims=dims, transformer_dims=inner, mlp_dims=tuple(2 * dim for dim in inner), out_dim=0)
    kind = dict(version=2, depths=(1, 2, 1, 1, 1), num_heads=1, patch_fit="align_corners", crop_pct=0.888)
    return _IMAGES | sizes | kind | dict(stem_dim=int(32 * factor), expand_ratio=2.0)


def rounded(width: float) -> int:
    """The multiple of 8 nearest to a width, or the next if that is less than 0.9 of it (arXiv:1801.04381)."""
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * width else nearest


_REGISTERED = {
    "mobilevit_xxs": _first((16, 24, 48, 64, 80), (64, 80, 96), 320, 2.0),
    "mobilevit_xs": _first((32, 48, 64, 80, 96), (96, 120, 144), 384),
    "mobilevit_s": _first((32, 64, 96, 128, 160), (144, 192, 240), 640),
    **{f"mobilevitv2_{round(100 * factor):03}": _second(factor) for factor in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)},
}


@dataclass(frozen=True, kw_only=True)
class MobileVitConfig(StagedConfig):
    """Stages of inverted residuals of convolutions, the last of which end with transformer blocks between convolutions.

    Attributes:
        version: 1 for softmax attention among the places that lie alike in all patches, and a convolution that joins
            their result with what they came from; 2 for attention of linear cost, without that convolution.
        image_size: Height and width in pixels of the images that the model is meant for; it takes every size.
        patch_size: Height and width of a patch on a map; each place of a patch has tokens of its own.
        patch_fit: What is done with a map that patches don't divide. `bilinear` and `align_corners` make it larger, as
            PyTorch's bilinear interpolation does without and with `align_corners`, and version 1 makes the result as
            small again; `zeros` leaves the rest out and returns zeros there, as transformers does in version 2.
        in_chans: The number of channels of the images.
        num_classes: The width of the head; 0 leaves it out and the model returns pooled features.
        stem_dim: Channels of the first convolution's map.
        dims: Channels of each stage's map.
        depths: The inverted residuals of each stage.
        expand_ratio: How many times as wide these are inside, rounded to multiples of 8.
        transformer_dims: The width of each stage's transformer blocks; 0 for a stage without.
        transformer_depths: The transformer blocks of each stage; 0 for a stage without.
        mlp_dims: The hidden width of their MLPs; 0 for a stage without.
        num_heads: The heads of their attention; they divide the widths. Version 2 has one.
        qkv_bias: Whether the projections to query, key and value have a bias; always in version 2.
        out_dim: Channels of a last convolution behind the stages; 0 for none.
        act: The activation, of convolutions and MLPs.
        norm_eps: The epsilon of every BatchNorm.
        transformer_norm_eps: The epsilon of the norms in and behind transformer blocks.
        drop_rate: Dropout behind projections.
        attn_drop_rate: Dropout of attention weights.
        drop_path_rate: Stochastic depth of the last inverted residual or group of transformer blocks; that of the
            others rises to it.
        preprocessing: How images become inputs.
    """

    registered: ClassVar[Mapping[str, Mapping[str, Any]]] = _REGISTERED
    numerics: ClassVar[tuple[str, ...]] = ("act", "norm_eps", "transformer_norm_eps", "patch_fit")
    embeddings: ClassVar[tuple[str, ...]] = ("stem",)

    version: Literal[1, 2] = 1
    image_size: tuple[int, int] = (256, 256)
    patch_size: tuple[int, int] = (2, 2)
    patch_fit: Literal["bilinear", "align_corners", "zeros"] = "bilinear"
    in_chans: int = 3
    num_classes: int = 1000
    stem_dim: int = 16
    dims: tuple[int, ...] = (32, 64, 96, 128, 160)
    depths: tuple[int, ...] = (1, 3, 1, 1, 1)
    expand_ratio: float = 4.0
    transformer_dims: tuple[int, ...] = (0, 0, 144, 192, 240)
    transformer_depths: tuple[int, ...] = (0, 0, 2, 4, 3)
    mlp_dims: tuple[int, ...] = (0, 0, 288, 384, 480)
    num_heads: int = 4
    qkv_bias: bool = True
    out_dim: int = 640
    act: Literal["gelu", "gelu_tanh", "quick_gelu", "silu", "relu"] = "silu"
    norm_eps: float = 1e-5
    transformer_norm_eps: float = 1e-5
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    @property
    def depth(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The inverted residuals and transformer blocks of all stages."""
        return sum(self.depths) + sum(self.transformer_depths)

    @property
    def first_stride(self) -> tuple[int, int]:
        """The first stage's map is that of the stem."""
        return (2, 2)

    @property
    def width(self) -> int:
        """Channels of the last map."""
        return self.out_dim or self.dims[-1]

    @property
    def drop_path_rates(self) -> tuple[tuple[float, ...], ...]:
        """Stochastic depth of each inverted residual and, after those of its stage, of all its transformer blocks."""
        parts = [depth + bool(blocks) for depth, blocks in zip(self.depths, self.transformer_depths, strict=True)]
        count = max(sum(parts) - 1, 1)
        rates = iter(self.drop_path_rate * i / count for i in range(sum(parts)))
        return tuple(tuple(next(rates) for _ in range(part)) for part in parts)

    @property
    def intermediates(self) -> tuple[str, ...]:
        """The maps of the stages; the last after the last convolution, where there is one."""
        names = tuple(f"stages.{stage}" for stage in range(self.num_stages))
        return (*names[:-1], "final_conv") if self.out_dim else names

    @property
    def summary(self) -> dict[str, str]:
        """Sizes."""
        return {
            "image": "x".join(map(str, self.image_size)),
            "patch": "x".join(map(str, self.patch_size)),
            "dim": "-".join(map(str, self.dims)),
            "depth": "-".join(map(str, self.depths)),
            "heads": str(self.num_heads),
            "mlp": "-".join(map(str, self.mlp_dims)),
            "classes": str(self.num_classes),
        }

    def convolution(self, stage: int, block: int) -> tuple[int, int, int]:
        """Channels of an inverted residual's input and inside of it, and its stride."""
        first = self.dims[stage - 1] if stage else self.stem_dim
        in_dim = self.dims[stage] if block else first
        return in_dim, rounded(in_dim * self.expand_ratio), 2 if stage and not block else 1

    def layer_of(self, name: str) -> int:
        """0 in the stem, then the blocks; what surrounds transformer blocks belongs to the first or to the last."""
        first, *rest = name.split(".")
        if first != "stages":
            return 0 if first == "stem" else self.depth + 1
        stage, block = int(rest[0]), int(rest[1])
        before = sum(self.depths[:stage]) + sum(self.transformer_depths[:stage])
        if block < self.depths[stage]:
            return before + block + 1
        before += self.depths[stage]
        if rest[2] == "transformer":
            return before + int(rest[3]) + 1
        return before + (1 if rest[2] in ("conv_kxk", "conv_1x1") else self.transformer_depths[stage])

    def constant(self, name: str) -> float:
        """The last BatchNorm of an inverted residual starts at 0 where its input is added, as in timm."""
        first, *rest = name.split(".")
        if first == "stages" and name.endswith(".conv3_1x1.bn.weight"):
            stage, block = int(rest[0]), int(rest[1])
            in_dim, _, stride = self.convolution(stage, block)
            return float(stride != 1 or in_dim != self.dims[stage])
        return super().constant(name)

    def initial(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray | None:
        """Convolutions are drawn from a normal law of (2 / fan_out)^1/2, without a bias, as in timm."""
        import numpy as np

        if len(shape) == 4:
            fan_out = math.prod(shape[2:]) * (1 if shape[1] == 1 else shape[0])
            return math.sqrt(2 / fan_out) * rng.standard_normal(shape)
        is_conv = self.version == 2 and ".transformer." in name and ".norm" not in name
        return np.zeros(shape) if is_conv else None

    def shortened(self, depth: int) -> MobileVitConfig:
        """Every stage, with as many of its first blocks as make `depth`, two of each kind at least where it has them.

        Args:
            depth: The number of inverted residuals and transformer blocks.
        """
        own = (self.depths, self.transformer_depths)
        found = [[min(2, count) for count in counts] for counts in own]
        for stage in range(self.num_stages):
            for kept, counts in zip(found, own, strict=True):
                kept[stage] += max(min(depth - sum(map(sum, found)), counts[stage] - kept[stage]), 0)
        return replace(self, depths=tuple(found[0]), transformer_depths=tuple(found[1]))

    def reduced(self, depth: int) -> MobileVitConfig:
        """As few blocks, on maps that patches of 2 x 2 don't divide."""
        plain = Preprocessing(mean=(0.5,), std=(0.5,))
        return replace(self.shortened(depth), image_size=(70, 83), preprocessing=plain)

    def narrowed(self) -> MobileVitConfig:
        """One small width, and two stages."""
        small: dict[str, Any] = dict(stem_dim=6, dims=(6, 10), depths=(1, 1), transformer_depths=(0, 2))
        heads = 2 if self.version == 1 else 1
        small |= dict(transformer_dims=(0, 12), mlp_dims=(0, 20), num_heads=heads, out_dim=14 if self.out_dim else 0)
        return replace(self, **small, num_classes=7 if self.num_classes else 0)

    def activations(self, *, backward: bool) -> int:
        """Those of every block; of the largest one without a backward pass."""
        blocks = [4 * math.prod(self.grid_sizes[0]) * self.stem_dim]
        for stage, (height, width) in enumerate(self.grid_sizes):
            places = height * width
            for block in range(self.depths[stage]):
                _, hidden, stride = self.convolution(stage, block)
                blocks.append(places * (4 * hidden * (1 + stride * stride) + 3 * self.dims[stage]))
            tokens = places // math.prod(self.patch_size)
            scores = 3 * self.num_heads * tokens * places if self.version == 1 else 3 * places
            inside = places * (12 * self.transformer_dims[stage] + 5 * self.mlp_dims[stage]) + scores
            blocks += [inside] * self.transformer_depths[stage]
        return sum(blocks) if backward else max(blocks)

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, where the fields don't make a model."""
        for name in ("image_size", "patch_size"):
            object.__setattr__(self, name, as_pair(name, getattr(self, name)))
        check_fields(self)
        for name in ("in_chans", "stem_dim", "num_heads"):
            expect(getattr(self, name) >= 1, name, getattr(self, name), "a positive integer")
        for name in ("num_classes", "out_dim"):
            expect(getattr(self, name) >= 0, name, getattr(self, name), "0 or a positive integer")
        expect(self.expand_ratio > 0, "expand_ratio", self.expand_ratio, "a value above 0")
        self.check_stages("dims")
        self._check_transformers()
        for name in ("norm_eps", "transformer_norm_eps"):
            expect(getattr(self, name) > 0, name, getattr(self, name), "a value above 0")
        for name in ("drop_rate", "attn_drop_rate", "drop_path_rate"):
            expect(0 <= getattr(self, name) < 1, name, getattr(self, name), "a value in [0, 1)")

    def _check_transformers(self) -> None:
        for name in ("transformer_dims", "transformer_depths", "mlp_dims"):
            values = getattr(self, name)
            fits = len(values) == self.num_stages and all(
                value >= 1 if depth else value == 0
                for value, depth in zip(values, self.transformer_depths, strict=False)
            )
            expected = f"for each of the {self.num_stages} stages a positive integer, or 0 for no transformer blocks"
            expect(fits, name, values, expected)
        for dim in self.transformer_dims:
            expect(dim % self.num_heads == 0, "num_heads", self.num_heads, f"a divisor of {self.transformer_dims}")
        if self.version == 2:
            expect(self.num_heads == 1, "num_heads", self.num_heads, "1 in version 2")
            expect(self.qkv_bias, "qkv_bias", self.qkv_bias, "true in version 2")
        if self.patch_fit == "zeros":
            for grid, blocks in zip(self.grid_sizes, self.transformer_depths, strict=True):
                fits = not blocks or all(side >= patch for side, patch in zip(grid, self.patch_size, strict=True))
                expect(fits, "patch_size", self.patch_size, f"at most the sides of the maps {self.grid_sizes}")
