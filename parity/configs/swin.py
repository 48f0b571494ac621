"""The config of Swin Transformers and its named models.

Source: Liu et al. 2021, arXiv:2103.14030 (Swin); Liu et al. 2022, arXiv:2111.09883 (Swin V2); Chen et al. 2021,
arXiv:2111.14725 (S3). The models are those of timm's modules `swin_transformer` and `swin_transformer_v2`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from .fields import as_pair, check_fields, expect
from .preprocessing import Preprocessing
from .stages import StagedConfig
from .windows import fitted

if TYPE_CHECKING:
    import numpy as np

_STAGES = {
    "tiny": dict(embed_dim=96, mlp_dim=384, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
    "small": dict(embed_dim=96, mlp_dim=384, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
    "base": dict(embed_dim=128, mlp_dim=512, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
    "large": dict(embed_dim=192, mlp_dim=768, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48)),
}


def _model(size: str, image: int, window: int | tuple[int, ...], **fields: Any) -> dict[str, Any]:
    """The fields of a named model of a size, for images and windows of so many pixels and tokens."""
    windows = (window,) * 4 if isinstance(window, int) else window
    images = dict(image_size=(image, image), window_sizes=windows)
    crop = dict(crop_pct=1.0) if image == 384 and not fields else {}
    return dict(normalize="imagenet", num_classes=1000, **_STAGES[size], **images, **crop) | fields


def _second(size: str, image: int, window: int, trained: int = 0) -> dict[str, Any]:
    """The same of Swin V2; `trained` is the window that a model with larger ones was trained with before."""
    windows = (trained, trained, trained, trained // 2) if trained else ()
    crop = dict(crop_pct=1.0) if image == 384 else {}
    return _model(size, image, window, version=2, trained_windows=windows, **crop)


_REGISTERED = {
    "swin_tiny_patch4_window7_224": _model("tiny", 224, 7),
    "swin_small_patch4_window7_224": _model("small", 224, 7),
    "swin_base_patch4_window7_224": _model("base", 224, 7),
    "swin_base_patch4_window12_384": _model("base", 384, 12),
    "swin_large_patch4_window7_224": _model("large", 224, 7),
    "swin_large_patch4_window12_384": _model("large", 384, 12),
    "swin_s3_tiny_224": _model("tiny", 224, (7, 7, 14, 7)),
    "swin_s3_small_224": _model("small", 224, (14, 14, 14, 7)),
    "swin_s3_base_224": _model("small", 224, (7, 7, 14, 7), depths=(2, 2, 30, 2)),
    "swinv2_tiny_window8_256": _second("tiny", 256, 8),
    "swinv2_tiny_window16_256": _second("tiny", 256, 16),
    "swinv2_small_window8_256": _second("small", 256, 8),
    "swinv2_small_window16_256": _second("small", 256, 16),
    "swinv2_base_window8_256": _second("base", 256, 8),
    "swinv2_base_window16_256": _second("base", 256, 16),
    "swinv2_base_window12_192": _second("base", 192, 12),
    "swinv2_base_window12to16_192to256": _second("base", 256, 16, 12),
    "swinv2_base_window12to24_192to384": _second("base", 384, 24, 12),
    "swinv2_large_window12_192": _second("large", 192, 12),
    "swinv2_large_window12to16_192to256": _second("large", 256, 16, 12),
    "swinv2_large_window12to24_192to384": _second("large", 384, 24, 12),
}


@dataclass(frozen=True, kw_only=True)
class SwinConfig(StagedConfig):
    """Stages of attention in windows, on a map that halves its sides and doubles its width from one to the next.

    Attributes:
        version: 1 for Swin; 2 for Swin V2: cosine attention, biases of a network, norms behind the branches.
        image_size: Height and width in pixels; multiples of the patch size.
        in_chans: The number of channels of the images.
        num_classes: The width of the head; 0 leaves it out and the model returns pooled features.
        patch_size: Height and width of a patch in pixels.
        embed_dim: The width of the first stage; each has twice that of the one before.
        mlp_dim: The hidden width of the MLP in the first stage, which doubles with it.
        depths: The blocks of each stage; every second one moves its windows by half of their size.
        num_heads: The heads of each stage; they divide its width.
        window_sizes: The side of the windows in each stage, in tokens.
        trained_windows: Of Swin V2, the side of each stage's windows that the weights were trained with before, of
            which distances are parts; empty for `window_sizes` as they fit into the map.
        window_fit: What is done about a map that windows don't divide, or that is smaller than they are. `shrink`
            (timm): an axis shorter than the window has a window of its length and no shift; the map is moved, then
            filled up. `shrink_both` (Microsoft, transformers): where the shorter side isn't longer than the window, it
            is the side of a square window without a shift; the map is filled up, then moved. `shrink_height`
            (transformers' Swin V2): the same, of the height alone, as it would be if odd heights were halved without
            their last row. `pad` (torchvision): the window stays as it is, and isn't moved along an axis that it
            covers; filled up, then moved.
        shift_mask: What is added to the scores of tokens that a shift brought side by side: -100, but -200 in
            transformers' Swin V2, which adds it twice. It isn't minus infinity: where a cosine attention reaches scores
            of 100, they see each other after all.
        act: The activation of the MLP.
        norm_eps: The epsilon of every norm.
        rel_pos_resize: How tables are taken to another window: `geometric` (timm) or `bicubic` (Microsoft).
        drop_rate: Dropout behind projections.
        attn_drop_rate: Dropout of attention weights.
        drop_path_rate: Stochastic depth of the last block; that of the others rises to it.
        preprocessing: How images become inputs.
    """

    registered: ClassVar[Mapping[str, Mapping[str, Any]]] = _REGISTERED
    numerics: ClassVar[tuple[str, ...]] = ("window_fit", "shift_mask", "act", "norm_eps", "rel_pos_resize")
    embeddings: ClassVar[tuple[str, ...]] = ("patch_embed",)

    version: Literal[1, 2] = 1
    image_size: tuple[int, int] = (224, 224)
    in_chans: int = 3
    num_classes: int = 1000
    patch_size: tuple[int, int] = (4, 4)
    embed_dim: int = 96
    mlp_dim: int = 384
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_sizes: tuple[int, ...] = (7, 7, 7, 7)
    trained_windows: tuple[int, ...] = ()
    window_fit: Literal["shrink", "shrink_both", "shrink_height", "pad"] = "shrink"
    shift_mask: float = -100.0
    act: Literal["gelu", "gelu_tanh", "quick_gelu", "silu", "relu"] = "gelu"
    norm_eps: float = 1e-5
    rel_pos_resize: Literal["geometric", "bilinear", "bicubic"] = "geometric"
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    @property
    def dims(self) -> tuple[int, ...]:
        """The width of each stage."""
        return tuple(self.embed_dim * 2**stage for stage in range(self.num_stages))

    @property
    def first_stride(self) -> tuple[int, int]:
        """The size of a patch."""
        return self.patch_size

    def window(self, stage: int, block: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """The size of a block's windows, and by how much they are moved down and across."""
        side, (height, width) = self.window_sizes[stage], self.grid_sizes[stage]
        if self.window_fit == "shrink_height":  # of a map whose odd sides are rounded down
            height, width = (max(first // 2**stage, 1) for first in self.grid_sizes[0])
        return fitted((height, width), (side, side), block % 2 == 1, self.window_fit)

    @property
    def intermediates(self) -> tuple[str, ...]:
        """The maps of the stages."""
        return tuple(f"layers.{stage}" for stage in range(self.num_stages))

    @property
    def summary(self) -> dict[str, str]:
        """Sizes."""
        return {
            "image": "x".join(map(str, self.image_size)),
            "patch": "x".join(map(str, self.patch_size)),
            "dim": str(self.embed_dim),
            "depth": "-".join(map(str, self.depths)),
            "heads": "-".join(map(str, self.num_heads)),
            "mlp": str(self.mlp_dim),
            "classes": str(self.num_classes),
        }

    @property
    def facts(self) -> dict[str, str]:
        """The maps and the windows as they fit into them."""
        windows = [self.window(stage, 0)[0] for stage in range(self.num_stages)]
        return super().facts | {"windows": ", ".join(f"{height} x {width}" for height, width in windows)}

    def layer_of(self, name: str) -> int:
        """0 in the embedding, then the blocks; what shrinks the map belongs to the first block behind it."""
        first, *rest = name.split(".")
        if first != "layers":
            return 0 if first == "patch_embed" else self.depth + 1
        block = int(rest[2]) if rest[1] == "blocks" else 0
        return sum(self.depths[: int(rest[0])]) + block + 1

    def constant(self, name: str) -> float:
        """Swin V2's temperatures start at 0.1, its norms behind the branches at 0, and the rest as everywhere."""
        if name.endswith("logit_scale"):
            return math.log(10)
        if self.version == 2 and ".blocks." in name and ".norm" in name:
            return 0.0
        return super().constant(name)

    def initial(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray | None:
        """Tables of relative positions are drawn from a normal law of 0.02, as in every source."""
        return 0.02 * rng.standard_normal(shape) if name.endswith("relative_position_bias_table") else None

    def reduced(self, depth: int) -> SwinConfig:
        """As few blocks, on maps that windows don't divide, and of which the last is smaller than one."""
        side = 2 * max(self.window_sizes[:1]) + 1
        small = (self.patch_size[0] * (side + 1), self.patch_size[1] * side)
        plain = Preprocessing(mean=(0.5,), std=(0.5,))
        return replace(self.shortened(depth), image_size=small, rel_pos_resize="geometric", preprocessing=plain)

    def narrowed(self) -> SwinConfig:
        """One small width, and two stages, the second of a map that is smaller than its windows when it is reduced."""
        small = dict(embed_dim=12, mlp_dim=20, depths=(2, 2), num_heads=(2, 3), window_sizes=(4, 6))
        trained = (3, 5) if self.trained_windows else ()
        return replace(self, **small, trained_windows=trained, num_classes=7 if self.num_classes else 0)

    def activations(self, *, backward: bool) -> int:
        """Those of every block; of the largest one without a backward pass."""
        blocks = []
        for stage, (height, width) in enumerate(self.grid_sizes):
            tokens, (window, _) = height * width, self.window(stage, 0)
            scores = 3 * self.num_heads[stage] * tokens * window[0] * window[1]
            block = tokens * (12 * self.dims[stage] + 4 * self.mlp_dim * 2**stage) + scores
            blocks += [block] * self.depths[stage]
        return sum(blocks) if backward else max(blocks)

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, where the fields don't make a model."""
        for name in ("image_size", "patch_size"):
            object.__setattr__(self, name, as_pair(name, getattr(self, name)))
        check_fields(self)
        for name in ("in_chans", "embed_dim", "mlp_dim"):
            expect(getattr(self, name) >= 1, name, getattr(self, name), "a positive integer")
        expect(self.num_classes >= 0, "num_classes", self.num_classes, "0 or a positive integer")
        trained = ("trained_windows",) if self.trained_windows else ()
        self.check_stages("num_heads", "window_sizes", *trained)
        expect(not self.trained_windows or self.version == 2, "trained_windows", self.trained_windows, "none in Swin")
        for image, patch in zip(self.image_size, self.patch_size, strict=True):
            expect(image % patch == 0, "image_size", self.image_size, f"multiples of patch_size {self.patch_size}")
        for dim, heads in zip(self.dims, self.num_heads, strict=True):
            expect(dim % heads == 0, "num_heads", self.num_heads, f"divisors of the widths {self.dims}")
        expect(self.shift_mask < 0, "shift_mask", self.shift_mask, "a value below 0")
        expect(self.norm_eps > 0, "norm_eps", self.norm_eps, "a value above 0")
        for name in ("drop_rate", "attn_drop_rate", "drop_path_rate"):
            expect(0 <= getattr(self, name) < 1, name, getattr(self, name), "a value in [0, 1)")
