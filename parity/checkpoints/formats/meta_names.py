"""What Meta's and Microsoft's own files call tensors, in both directions.

Canonical names are nearly theirs. What differs within a block, ours on the right:

    gamma_1                    ls1.gamma             DeiT III and BEiT
    mlp.w12, mlp.w3            mlp.fc1, mlp.fc2      DINOv2's gated MLP; w1, w2, w3 are DINOv3's
    norm11, attn1, gamma_1_1   attns.1.norm, ...     DeiT III's second attention and second MLP, side by side
    attn.qkv.bias and a mask   attn.q_bias, v_bias   DINOv3
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ...configs import VitConfig
from ..shapes import Shape, parameter_shapes
from .translate import Entry, Unused

KINDS = ("dinov3", "beit", "dinov2", "mae", "deit")
PERIODS = "rope_embed.periods"
# Names that only the original files have, of which one tells them from timm's.
_MARKS = re.compile(
    r"(.*\.)?(register_tokens|storage_tokens|mask_token|rope_embed\.periods|decoder_embed\.weight)"
    r"|(.*\.)?blocks\.\d+\.(\d+\.)?(attn\.qkv\.bias_mask|attn\.relative_position_index|mlp\.w12\.weight)"
    r"|(.*\.)?blocks\.\d+\.(\d+\.norm1|norm11)\.weight|(.*\.)?patch_embed\.proj\.0\.weight"
)
_UNUSED = (
    Unused(r"decoder_.*", "decoder of pretraining"),
    Unused(r"lm_head\..*", "head of pretraining"),
    Unused(r"(dino_head|ibot_head)\..*", "head of pretraining"),
    Unused(r"(.*\.)?local_cls_norm\..*", "norm of the prefix tokens of local crops, in training alone"),
    Unused(r"(.*\.)?relative_position_index", "follows from the grid"),
    Unused(r"(.*\.)?rope_embed\.periods", "follows from the config: checked to be it but for rounding"),
    Unused(r"(.*\.)?qkv\.bias_mask", "checked to leave out the bias of the key alone"),
)
MASK_TOKEN = Unused(
    r"(.*\.)?mask_token", "stands for masked patches in pretraining; --set mask_token=true (mask_token=True) keeps it"
)
_DECODERS_MASK_TOKEN = Unused(MASK_TOKEN.theirs, "the decoder's, for patches that the encoder is never given")
# Register tokens are called otherwise by both.
_TOKENS = {"dinov2": "register_tokens", "dinov3": "storage_tokens"}
# What some of the projects have and the others don't, by the start of a canonical name.
_HAVE = {"mask_token": ("dinov2", "dinov3", "beit"), "cls_norm": ("dinov3",), "patch_embed.stem": ("deit",)}
# Parameters that canonical names have and none of these projects.
_STRANGE = re.compile(
    r"attn_pool|norm_pre|patch_embed\.norm|[qk]_norm|lambda_|pre_logits|[qkv]_proj|attn\.norm|mlp\.norm|in_proj"
)


@dataclass(frozen=True)
class Names:
    """How a file names what all of them have.

    Attributes:
        kind: The project, one of `KINDS`.
        gammas: LayerScale is `gamma_1`, not `ls1.gamma`.
        masked: The bias of query, key and value is one tensor, and a mask leaves out the key's.
        parallel: Blocks have two attentions and two MLPs (`norm11`, `attn1`).
        stem: The patch embedding is DeiT III's hMLP stem, a sequence (`patch_embed.proj.0`).
        chunks: The chunk of each block, where blocks are in chunks (DINOv2's training files).
    """

    kind: str
    gammas: bool = False
    masked: bool = False
    parallel: bool = False
    stem: bool = False
    chunks: Mapping[str, str] = field(default_factory=dict)

    def block(self, number: str) -> str:
        """What stands before the names of a block."""
        return f"blocks.{self.chunks[number]}.{number}" if self.chunks else f"blocks.{number}"

    @property
    def unused(self) -> tuple[Unused, ...]:
        """What a file may have besides."""
        return (*_UNUSED, _DECODERS_MASK_TOKEN if self.kind == "mae" else MASK_TOKEN)


def is_meta(names: Iterable[str]) -> bool:
    """Whether tensors have names that only these projects' own files have; many of DeiT's and MAE's are timm's too."""
    names = list(names)
    # timm's BEiT has the index as a buffer besides, which archives of TorchScript keep, and this one with it.
    return any(_MARKS.fullmatch(name) for name in names) and not any(name.endswith("attn.k_bias") for name in names)


def names_of_file(shapes: Mapping[str, Shape]) -> Names:
    """The names of a file."""

    def some(pattern: str) -> bool:
        return any(re.fullmatch(pattern, name) for name in shapes)

    found = dict(
        gammas=some(r".*\.gamma_1"),
        parallel=some(r".*\.norm11\.weight"),
        stem=some(r"patch_embed\.proj\.0\.weight"),
    )
    if some(rf"storage_tokens|{PERIODS}"):
        kind = "dinov3"
    elif some(r".*relative_position_bias_table|.*attn\.q_bias"):
        kind = "beit"
    elif some(r"register_tokens|.*\.ls1\.gamma"):
        kind = "dinov2"
    elif any(found.values()):
        kind = "deit"
    elif some(r"decoder_embed\..*|fc_norm\..*") or not some(r"head\..*"):
        kind = "mae"
    else:
        kind = "deit"
    chunks = (re.match(r"blocks\.(\d+)\.(\d+)\.", name) for name in shapes)
    return Names(
        kind=kind,
        masked=some(r".*qkv\.bias_mask"),
        chunks={match.group(2): match.group(1) for match in chunks if match},
        **found,
    )


def names_of_config(config: VitConfig) -> Names:
    """The names of the project that has such a model.

    Raises:
        ValueError: None of them has; names what is strange to it.
    """
    if strange := [name for name in parameter_shapes(config) if _STRANGE.search(name)]:
        raise ValueError(f"it has no {strange[0]}")
    if config.stem == "conv":
        raise ValueError("stem: got 'conv', and DeiT III's is 'hmlp'")
    names = _names_of_config(config)
    for start, kinds in _HAVE.items():
        if names.kind not in kinds and any(name.startswith(start) for name in parameter_shapes(config)):
            raise ValueError(f"the nearest, {names.kind}, has no {start}, which {' and '.join(kinds)} alone have")
    return names


def _names_of_config(config: VitConfig) -> Names:
    scaled = config.layer_scale_init is not None
    if config.rope is not None:
        return Names("dinov3", masked=config.qkv_fused and config.qkv_bias and not config.k_bias)
    if config.rel_pos_bias != "none" or not config.k_bias:
        return Names("beit", gammas=True)
    if config.block == "parallel_things" or config.stem == "hmlp":
        parallel = config.block == "parallel_things"
        return Names("deit", gammas=scaled, parallel=parallel, stem=config.stem == "hmlp")
    if scaled:
        return Names("deit", gammas=True) if config.num_classes else Names("dinov2")
    return Names("mae" if config.fc_norm or not config.num_classes else "deit")


def canonical(shapes: Mapping[str, Shape], names: Names) -> dict[str, Shape]:
    """Shapes by canonical name, without those that no model has."""
    found: dict[str, Shape] = {}
    gated = "w12" if any(".mlp.w12." in key for key in shapes) else "w1"
    for name, shape in shapes.items():
        if any(re.fullmatch(rule.theirs, name) for rule in names.unused):
            continue
        if names.chunks:
            name = re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name)
        if names.masked and name.endswith(".attn.qkv.bias"):
            third = (shape[0] // 3,) if shape else ()
            found |= {name.replace("qkv.bias", f"{part}_bias"): third for part in "qv"}
            continue
        if name in _TOKENS.values():
            name = "reg_token"
        elif names.stem and (match := re.fullmatch(r"patch_embed\.proj\.(\d+)\.(.*)", name)):
            layer, kind = divmod(int(match.group(1)), _STEM_STEP)
            name = f"patch_embed.stem.{layer}.{_STEM_KINDS[kind]}.{match.group(2)}"
        elif match := re.fullmatch(r"(blocks\.\d+)\.(.*)", name):
            name = f"{match.group(1)}.{_replaced(match.group(2), _renamed(names, gated=gated))}"
        found[name] = shape
    return found


# A convolution, BatchNorm and GELU, one after another.
_STEM_STEP = 3
_STEM_KINDS = ("conv", "norm", "act")


def table(config: VitConfig, names: Names) -> list[Entry]:
    """Where a file keeps each tensor of a config."""
    return [_entry(name, config, names) for name in parameter_shapes(config)]


def _entry(ours: str, config: VitConfig, names: Names) -> Entry:
    if ours == "reg_token":
        return Entry(ours, _TOKENS.get(names.kind, ours))
    if ours == "mask_token" and names.kind in _TOKENS:
        return Entry(ours, ours, "n d -> 1 n d")
    if names.stem and (match := re.fullmatch(r"patch_embed\.stem\.(\d+)\.(conv|norm)\.(.*)", ours)):
        layer, kind, last = match.groups()
        return Entry(ours, f"patch_embed.proj.{_STEM_STEP * int(layer) + _STEM_KINDS.index(kind)}.{last}")
    if not (match := re.fullmatch(r"blocks\.(\d+)\.(.*)", ours)):
        return Entry(ours, ours)
    number, inner = match.groups()
    if names.masked and (bias := re.fullmatch(r"attn\.([qv])_bias", inner)):
        place = "qkv".index(bias.group(1))
        return Entry(ours, f"{names.block(number)}.attn.qkv.bias", part=(place, place + 1, 3))
    gated = {"swiglu_packed": "w12", "swiglu": "w1"}.get(config.mlp, "")
    back = [(canonical, theirs) for theirs, canonical in _renamed(names, gated=gated)]
    return Entry(ours, f"{names.block(number)}.{_replaced(inner, back)}")


def _replaced(name: str, starts: Iterable[tuple[str, str]]) -> str:
    """A name with the first start that it has replaced."""
    fits = next(((old, new) for old, new in starts if name.startswith(old)), ("", ""))
    return fits[1] + name.removeprefix(fits[0])


def _renamed(names: Names, *, gated: str) -> Iterator[tuple[str, str]]:
    """Starts of names within a block: theirs, ours; the longer of two with one beginning first."""
    if names.parallel:
        for number, one in ((1, "1"), (0, "")):
            yield from (
                (f"norm1{one}.", f"attns.{number}.norm."),
                (f"attn{one}.", f"attns.{number}.attn."),
                (f"norm2{one}.", f"ffns.{number}.norm."),
                (f"mlp{one}.", f"ffns.{number}.mlp."),
                (f"gamma_1{'_1' if one else ''}", f"attns.{number}.ls.gamma"),
                (f"gamma_2{'_1' if one else ''}", f"ffns.{number}.ls.gamma"),
            )
        return
    if names.gammas:
        yield from (("gamma_1", "ls1.gamma"), ("gamma_2", "ls2.gamma"))
    if gated == "w12":
        yield from (("mlp.w12.", "mlp.fc1."), ("mlp.w3.", "mlp.fc2."))
    if gated == "w1":
        yield from (("mlp.w1.", "mlp.fc1_g."), ("mlp.w2.", "mlp.fc1_x."), ("mlp.w3.", "mlp.fc2."))
