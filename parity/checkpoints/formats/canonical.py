"""The config that canonical names and shapes make: what every file has that calls its tensors as timm does.

Head, classes, image size, patch, channels, LayerScale, norms, registers, depth, widths and biases are in the tensors.
What isn't (`parity.checkpoints.formats.settled`): the number of heads, the activation, epsilons, pooling, rotary
positions, preprocessing, kernels of resizing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...configs import Preprocessing, Rope, VitConfig
from ..accounting import CheckpointError
from ..assumed import Given, say
from ..shapes import Shape
from .foreign import depth_of, make, shape_of
from .settled import PLUS_MINUS_ONE, grid_of, heads_of, images_of, pool_of
from .stems import embedding_of

_TABLES = ("blocks.0.attn.relative_position_bias_table", "rel_pos_bias.relative_position_bias_table")


@dataclass(frozen=True)
class Known:
    """What a project's names say beyond the shapes; the user's own word comes before it.

    Attributes:
        fields: VitConfig fields.
        prefix: Which prefix tokens have positions, the usual first; any by default.
        usual_images: The preprocessing to assume, and why.
        without_rope: Why a file with positions has no rotary ones besides, where models with the same names have.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    usual_images: tuple[Preprocessing, str] = (PLUS_MINUS_ONE, "that of most of timm's ViTs")
    without_rope: str = ""


@dataclass(frozen=True)
class _File:
    """Canonical shapes, and what to say of them in errors."""

    path: Path
    shapes: Mapping[str, Shape]
    given: Given
    known: Known

    def has(self, name: str) -> bool:
        return name in self.shapes

    def size(self, name: str, axes: int) -> Shape:
        return shape_of(self.shapes, name, axes, path=self.path)

    def settle(self, name: str, **how: Any) -> Any:
        return self.given.settle_beside(self.known.fields, name, path=self.path, **how)

    def hold(self, name: str, shown: Any) -> Any:
        """A kind that the tensors show, which a named model must share for what it says of the rest to hold."""
        like = self.given.like
        if like is not None and name not in self.given.fields and getattr(like, name) != shown:
            raise CheckpointError(f"{self.path}: {name}: named model: {getattr(like, name)!r}, file: {shown!r}")
        return self.given.settle(name, shown=shown, path=self.path)


def infer(shapes: Mapping[str, Shape], given: Given, *, path: Path, known: Known = Known()) -> VitConfig:
    """The config of a file.

    Args:
        shapes: The shapes by canonical name.
        given: What the user says; collects what is assumed.
        path: The path of the file, for errors.
        known: What its names say besides.

    Raises:
        CheckpointError: Shapes that make no model, a contradiction, or something that has to be asked for.
    """
    file = _File(path, shapes, given, known)
    embedding = embedding_of(shapes, given, path=path, known=known.fields)
    dim, channels = embedding["embed_dim"], embedding["in_chans"]
    block = _block(file)
    attention = {"parallel_things": "blocks.0.attns.0.attn", "parallel_scaling": "blocks.0"}.get(block, "blocks.0.attn")
    fields: dict[str, Any] = embedding | dict(
        depth=depth_of(shapes, r"blocks\.(\d+)\."),
        block=block,
        class_token=file.has("cls_token"),
        dist_token=file.has("dist_token"),
        reg_tokens=file.size("reg_token", 3)[1] if file.has("reg_token") else 0,
        mask_token=file.settle("mask_token", usual=False),
        embed_norm=file.has("patch_embed.norm.weight"),
        pre_norm=file.has("norm_pre.weight"),
        final_norm=file.has("norm.weight"),
        cls_norm=file.has("cls_norm.weight"),
        fc_norm=file.has("fc_norm.weight"),
        norm=_norm(file),
    )
    fields |= _heads(file, dim, attention)
    fields |= _attention(file, fields, attention)
    fields |= _mlp(file, dim, block)
    fields |= _layer_scale(file)
    fields |= _positions(file, fields)
    fields |= _head(file, fields)
    fields |= _numerics(file, fields)
    images, why = known.usual_images
    said = known.fields.get("preprocessing")
    fields["preprocessing"] = images_of(given, channels, known=said, usual=images, why=why)
    for name in ("drop_rate", "attn_drop_rate", "drop_path_rate", "dynamic_image_size"):
        if name in known.fields or given.says(name):
            fields[name] = file.settle(name)
    return make(path, **fields)


def _block(file: _File) -> str:
    for mark, kind in (
        ("blocks.0.attns.0.norm.weight", "parallel_things"),
        ("blocks.0.in_proj.weight", "parallel_scaling"),
    ):
        if file.has(mark):
            return file.hold("block", kind)
    like = file.given.like
    if like is not None and "block" not in file.given.fields and like.block not in ("pre_norm", "res_post"):
        return file.hold("block", "pre_norm")
    # Only models like these are published with the norms behind, too.
    is_eva = file.has("blocks.0.attn.q_bias") and not any(file.has(name) for name in _TABLES)
    is_rpn = not any(file.has(name) for name in ("blocks.0.attn.qkv.bias", "blocks.0.attn.q_proj.weight", "cls_token"))
    why = "norms before attention and MLP; timm's rpn models and EVA-02's CLIP-E have them behind: res_post"
    return file.settle("block", usual="pre_norm", why=why if is_eva or is_rpn else "")


def _norm(file: _File) -> str:
    norms = [name for name in file.shapes if re.fullmatch(r"(.*\.)?(in_)?norm\d?\.weight|norm_pre\.weight", name)]
    if not norms or any(name.replace(".weight", ".bias") in file.shapes for name in norms):
        return "layernorm"
    return file.settle("norm", usual="rmsnorm", why="no norm has a bias")


def _heads(file: _File, dim: int, attention: str) -> dict[str, Any]:
    """The number of heads, which some options show."""
    shown = None
    differential = file.has(f"{attention}.lambda_q1")
    for name in (f"{attention}.q_norm.weight", f"{attention}.lambda_q1"):
        if file.has(name):
            shown = dim // max(file.size(name, 1)[0] * (2 if differential else 1), 1)
    for name in _TABLES:
        if file.has(name):
            shown = file.size(name, 2)[1]
    if file.has("rope.freqs"):
        shown = file.size("rope.freqs", 4)[2]
    shown = file.known.fields.get("num_heads", shown)
    return dict(num_heads=heads_of(file.given, dim, path=file.path, shown=shown), differential_attention=differential)


def _attention(file: _File, fields: Mapping[str, Any], attention: str) -> dict[str, Any]:
    has = file.has
    if fields["block"] == "parallel_scaling":
        proj = f"{attention}.out_proj" if fields["differential_attention"] else f"{attention}.attn_out_proj"
        return dict(
            qkv_bias=has(f"{attention}.in_proj.bias"),
            proj_bias=has(f"{proj}.bias"),
            qk_norm=has(f"{attention}.q_norm.weight"),
        )
    fused = has(f"{attention}.qkv.weight")
    bias = has(f"{attention}.qkv.bias") or has(f"{attention}.q_bias") or has(f"{attention}.q_proj.bias")
    key_bias = has(f"{attention}.qkv.bias") or has(f"{attention}.k_proj.bias")
    found: dict[str, Any] = dict(
        qkv_fused=fused,
        qkv_bias=bias,
        k_bias=key_bias or not bias,
        proj_bias=has(f"{attention}.proj.bias"),
        qk_norm=has(f"{attention}.q_norm.weight"),
        attn_norm=has(f"{attention}.norm.weight"),
    )
    if not fused:
        head_dim = fields["embed_dim"] // fields["num_heads"]
        widths = [file.size(f"blocks.{i}.attn.k_proj.weight", 2)[0] for i in range(fields["depth"])]
        grouped = tuple(width // head_dim for width in widths)
        found["num_kv_heads"] = None if set(grouped) == {fields["num_heads"]} else grouped
    return found


def _mlp(file: _File, dim: int, block: str) -> dict[str, Any]:
    if block == "parallel_scaling":
        return dict(mlp="mlp", mlp_dim=file.size("blocks.0.in_proj.weight", 2)[0] - 3 * dim)
    mlp = "blocks.0.ffns.0.mlp" if block == "parallel_things" else "blocks.0.mlp"
    hidden = file.size(f"{mlp}.fc2.weight", 2)[1]
    first = "fc1_g" if file.has(f"{mlp}.fc1_g.weight") else "fc1"
    packed = first == "fc1" and file.size(f"{mlp}.fc1.weight", 2)[0] == 2 * hidden
    kind = "swiglu" if first == "fc1_g" else "swiglu_packed" if packed else "mlp"
    return dict(
        mlp=file.hold("mlp", kind),
        mlp_dim=hidden,
        mlp_bias=file.has(f"{mlp}.{first}.bias"),
        mlp_norm=file.has(f"{mlp}.norm.weight"),
    )


def _layer_scale(file: _File) -> dict[str, Any]:
    first = next(
        (f"blocks.0.{name}" for name in ("ls1.gamma", "attns.0.ls.gamma", "ls.gamma") if file.has(f"blocks.0.{name}")),
        None,
    )
    if first is None:
        return dict(layer_scale_init=None)
    like = file.given.like
    start = like.layer_scale_init if like is not None and like.layer_scale_init is not None else 1e-5
    alone = first.endswith("ls1.gamma") and not file.has("blocks.0.ls2.gamma")
    return dict(layer_scale_init=file.given.take("layer_scale_init", start), attn_only_layer_scale=alone)


def _positions(file: _File, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Positions of every kind, and the image size that follows from them."""
    patch_size, given = fields["patch_size"], file.given
    found: dict[str, Any] = {}
    tables = [name for name in _TABLES if file.has(name)]
    if tables:
        kind = "block" if tables[0] == _TABLES[0] else "shared"
        found |= dict(rel_pos_bias=file.hold("rel_pos_bias", kind), pos_embed="none")
        found |= _grid_of_table(file, file.size(tables[0], 2)[0], patch_size)
    if file.has("pos_embed"):
        count = file.size("pos_embed", 3)[1]
        prefixes = {
            "all": fields["class_token"] + fields["dist_token"] + fields["reg_tokens"],
            "class": int(fields["class_token"]),
            "none": 0,
        }
        usual = ("all", "class", "none") if fields["reg_tokens"] else ("all", "none")
        if fields.get("stem") == "mci":  # MobileCLIP-B has no position for its class token
            usual = ("none", "all")
        names = file.known.prefix or usual
        possible = {name: prefixes[name] for name in names}
        known = file.known.fields.get("image_size")
        grid = grid_of(given, count, patch_size, possible, path=file.path, known=known)
        if fields["dist_token"] + fields["reg_tokens"] == 0 and grid["pos_embed_prefix"] == "class":
            grid["pos_embed_prefix"] = "all"
        found |= dict(pos_embed="learned", **grid)
        if given.like is not None and given.like.pos_embed == "none":
            file.hold("pos_embed", "learned")
    return found | dict(rope=_rope(file, found)) if found else _positions_unseen(file, fields)


def _grid_of_table(file: _File, rows: int, patch_size: tuple[int, int]) -> dict[str, Any]:
    """The grid whose distances a table of relative positions has, (2 h - 1) (2 w - 1) + 3 of them."""
    given = file.given
    sizes = [given.take("image_size"), given.like.image_size if given.like is not None else None, given.target_size]
    for size in sizes:
        if size is not None:
            height, width = (side // patch for side, patch in zip(size, patch_size, strict=True))
            if (2 * height - 1) * (2 * width - 1) + 3 == rows:
                return dict(image_size=tuple(size))
    side = (int(max(rows - 3, 0) ** 0.5) + 1) // 2
    if (2 * side - 1) ** 2 + 3 != rows:
        raise CheckpointError(
            f"{file.path}: got a table of {rows} relative positions, expected that of a square, or the image size "
            f"that the file is for: {say('image_size', value='HEIGHTxWIDTH')}"
        )
    size = (side * patch_size[0], side * patch_size[1])
    return dict(image_size=given.assume("image_size", size, f"from {rows} relative positions, a square"))


def _positions_unseen(file: _File, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Positions of a file that has no tensor for them: rotary, fixed, or none."""
    given, known = file.given, "rope" in file.known.fields
    if file.has("rope.freqs"):
        rope = _rope(file, {})
    elif known or given.says("pos_embed") or given.says("rope"):
        rope = file.settle("rope", usual=None, why="there is no position embedding, and pos_embed is said")
    else:
        raise CheckpointError(
            f"{file.path}: no position embedding: positions are rotary, fixed or none, which the tensors don't show; "
            "name the model with --model NAME, or say --set pos_embed=none (or sincos2d) for one without rotary ones"
        )
    if given.like is not None and given.like.pos_embed == "learned" and "pos_embed" not in given.fields:
        file.hold("pos_embed", "none")
    side = tuple(16 * side for side in fields["patch_size"])
    return dict(
        rope=rope,
        image_size=_image_size_unseen(file, side, known),
        pos_embed=file.settle("pos_embed", usual="none"),
        pos_embed_prefix=file.settle("pos_embed_prefix", usual="all"),
    )


def _image_size_unseen(file: _File, usual: tuple[int, int], known: bool) -> tuple[int, int]:
    """The image size where no tensor shows it; a model that takes every size has a default one."""
    given = file.given
    if "image_size" in file.known.fields or "image_size" in given.fields or given.like is None:
        return file.settle("image_size", usual=usual, why="" if known else "16 patches down and across")
    size = given.like.image_size
    return size if given.like.dynamic_image_size else given.assume("image_size", size, "the named model's")


def _rope(file: _File, found: Mapping[str, Any]) -> Rope | None:
    """The rotary positions of a file that shows others besides, or their learned frequencies."""
    given = file.given
    if file.has("rope.freqs"):
        like = given.like.rope if given.like is not None else None
        usual = Rope(kind="mixed", temperature=10.0, indexing="xy")
        return given.take("rope", like if like is not None and like.kind == "mixed" else usual)
    if "rope" in file.known.fields or given.says("rope"):
        return file.settle("rope", usual=None)
    is_eva = file.has("blocks.0.attn.q_bias") or file.has("blocks.0.attn.q_proj.weight")
    if found.get("rel_pos_bias", "none") != "none":
        return None
    if not is_eva:
        clip = "CLIP has none; timm's Perception Encoders, vit_pe_*, have them" if file.has("norm_pre.weight") else ""
        return given.assume("rope", None, clip or file.known.without_rope)
    hidden = file.size("blocks.0.mlp.fc2.weight", 2)[1]
    if not file.has("blocks.0.mlp.fc1.weight") or file.size("blocks.0.mlp.fc1.weight", 2)[0] == 2 * hidden:
        raise CheckpointError(
            f"{file.path}: EVA-02 has rotary positions beside the learned ones, others have none, which the tensors "
            "don't show; name the model with --model NAME, or say --set rope=none (in Python rope=None)"
        )
    return given.assume("rope", None, "EVA's names without a gate, as EVA itself has them")


def _head(file: _File, fields: Mapping[str, Any]) -> dict[str, Any]:
    given = file.given
    classes, inputs = file.size("head.weight", 2) if file.has("head.weight") else (0, 0)
    pre_logits = file.size("pre_logits.fc.weight", 2) if file.has("pre_logits.fc.weight") else None
    inputs = pre_logits[1] if pre_logits else inputs
    pool = pool_of(
        given,
        class_token=fields["class_token"],
        dist_token=fields["dist_token"],
        fc_norm=fields["fc_norm"],
        attn_pool=file.has("attn_pool.latent"),
        doubled=inputs == 2 * fields["embed_dim"],
        known=file.known.fields.get("global_pool", ""),
    )
    found: dict[str, Any] = dict(
        num_classes=given.settle("num_classes", shown=classes, path=file.path)
        if given.take("num_classes")
        else classes,
        head_bias=file.has("head.bias") or not classes,
        pre_logits_dim=pre_logits[0] if pre_logits else None,
        global_pool="none" if pool == "none" and not classes else "token" if pool == "none" else pool,
    )
    prefixed = fields["class_token"] + fields["dist_token"] + fields["reg_tokens"]
    if pool in ("avg", "map") and prefixed:
        why = "the mean of the patches alone is usual" if pool == "avg" else "patches alone are usual"
        found["pool_include_prefix"] = file.settle("pool_include_prefix", usual=False, why=why)
    if pool == "map":
        hidden = file.size("attn_pool.mlp.fc1.weight", 2)[0]
        mlp_dim = file.size("blocks.0.mlp.fc2.weight", 2)[1]
        found["attn_pool_mlp_dim"] = None if hidden == mlp_dim else hidden
        found["attn_pool_heads"] = file.settle("attn_pool_heads", usual=None)
    return found


def _numerics(file: _File, fields: Mapping[str, Any]) -> dict[str, Any]:
    """What the source's code decides."""
    given, gated = file.given, fields["mlp"] != "mlp"
    clip = fields["pre_norm"] and fields["block"] == "pre_norm"
    if clip and not gated and "act" not in file.known.fields and not given.says("act"):
        raise CheckpointError(
            f"{file.path}: a norm before the blocks, as CLIP's towers have it: some have GELU, some QuickGELU, which "
            f"the tensors don't show; {say('act', 'quick_gelu', value='gelu')}, or name the model with --model "
            "NAME"
        )
    gelu = "of a gated MLP" if gated else "that of timm and most others; big_vision has gelu_tanh"
    found: dict[str, Any] = dict(
        act=file.settle("act", usual="silu" if gated else "gelu", why=gelu),
        norm_eps=file.settle(
            "norm_eps", usual=1e-5 if clip else 1e-6, why="CLIP's" if clip else "timm's, as most others'"
        ),
        patch_resize=file.settle("patch_resize", usual="bicubic_antialias"),
    )
    if fields.get("pos_embed") == "learned" or "pos_embed_resize" in file.known.fields:
        why = "timm's, for another image size; Meta's DeiT and MAE have bicubic, its DINO bicubic_offset"
        found["pos_embed_resize"] = file.settle("pos_embed_resize", usual="bicubic_antialias", why=why)
    if fields.get("rel_pos_bias", "none") != "none":
        why = "timm's, for another image size; transformers has bilinear"
        found["rel_pos_resize"] = file.settle("rel_pos_resize", usual="geometric", why=why)
    return found
