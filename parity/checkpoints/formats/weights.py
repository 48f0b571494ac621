"""Which tensors of a file are the model's: under which prefix, beside which heads, losses and optimiser states.

People's files hold more than a model, under longer names: `module._orig_mod.`, `state_dict.model.`, `teacher.backbone.`
and an optimiser besides. What is looked for is a patch embedding: where a name ends as some project calls it, all in
front is a prefix, and the tensors under the prefix are the model. One rule serves every container, since all
of them give names as paths. Two models in one file are two readings, between which `--prefix` chooses.

    file:     epoch, optimizer.state.0.exp_avg, model.backbone.patch_embed.proj.weight, ..., model.classifier.weight
    prefix:   model.backbone.
    weights:  patch_embed.proj.weight, ..., head.weight (which was model.classifier.weight)
    ignored:  epoch "no tensor", optimizer.* "state of the optimiser (300 tensors)"
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from ...configs import close_match
from ..accounting import CheckpointError, cut
from ..containers.stored import FileTensors, Shape
from ..containers.tree import NOTHING

# How the patch embedding's name ends in each project's files: what comes before it is a prefix.
_BASES = (
    r"(?:(?:vit|deit|beit|data2vec_vision|ijepa|dinov2|dinov2_with_registers|swin|swinv2|pvt_v2|segformer|resnet|mobilevit"
    r"|mobilevitv2|vision_model)"
    r"[./])?"
)
ANCHORS: Mapping[str, re.Pattern[str]] = {
    kind: re.compile(rf"(?P<prefix>(?:.*?[./])??)(?:{ending})")
    for kind, ending in {
        # A tower that was saved alone has no `visual.`, and its convolution the name that a ResNet's first one has.
        "open_clip": r"visual\.(?:conv1|trunk\.patch_embed\.(?:proj|backbone\.0\.conv))\.weight"
        r"|(?<!visual\.)(?<!embeddings[./])class_embedding",
        "mobileclip": r"patch_emb\.0\.block\.conv\.weight",
        "torchvision": r"conv_proj\.(?:weight|conv_bn_relu_0\.0\.weight)",
        "torchvision_swin": r"features\.1\.0\.norm1\.weight",
        "huggingface": rf"{_BASES}(?:embeddings[./](?:patch_embeddings?)[./](?:projection[./])?(?:weight|kernel)"
        r"|(?:encoder\.layers\.0\.patch_embedding|encoder\.patch_embeddings\.0|stages\.0\.patch_embeddings)"
        r"\.proj\.weight|embedder\.embedder\.convolution\.weight|conv_stem\.convolution\.weight)",
        "pvt": r"patch_embed1\.proj\.weight",
        "cvnets": r"conv_1\.block\.conv\.weight",
        "google": r"embedding[./]kernel",
        "canonical": r"patch_embed\.(?:proj(?:\.0)?|(?:stem|backbone)\.0\.conv)\.weight"
        r"|(?<!visual\.)layer1\.0\.conv1\.weight|(?<!patch_embed\.)(?<!patch_embed\.backbone\.)stem\.conv\.weight",
    }.items()
}
# The projects whose names are canonical, or nearly, and those with several.
_KINDS = {
    "timm": ("canonical", "pvt", "cvnets"),
    "meta": ("canonical",),
    "microsoft": ("canonical",),
    "open_clip": ("open_clip", "mobileclip"),
    "torchvision": ("torchvision", "torchvision_swin"),
}
OWNERS = dict.fromkeys(("canonical", "pvt", "cvnets"), "timm") | {
    "torchvision_swin": "torchvision",
    "mobileclip": "open_clip",
}
# What the head is called, and the names that one linear layer of it may be under.
_HEADS = {
    "canonical": ("head", "head"),
    "torchvision": ("heads.head", "heads"),
    "huggingface": ("classifier",) * 2,
    "cvnets": ("classifier",) * 2,
}
# Heads that wrappers put beside a model, or beside what it is in: Lightning's, solo-learn's, a linear probe's.
_HEAD = re.compile(
    r"(?P<above>(?:.*?\.)??)(?P<head>(?!lm_head|head_dist)(?:\w+_)?(?:heads?|classifiers?|linear|fc|logits|regressor)(?:_\w+)?"
    r"|cls|out|output|output_layer|final|final_layer|last_layer|top)\..+"
)
# Modules that PyTorch puts around others, anywhere in a model: torch.compile, FSDP, checkpointed activations.
_WRAPPER = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")

# What training leaves beside the weights, by the first part of a path that says it.
_OPTIMISER = "state of the optimiser"
_TRAINING = {
    # The model itself is what Flax's older optimisers have as their target.
    r"optimizers?|optimizer_states?|opt(?![./]target)|opt_state|optim|param_groups": _OPTIMISER,
    r"lr_schedulers?|schedulers?|(?:loss_|amp_|grad_|native_)?scaler|amp|random_states?|callbacks|loops"
    r"|(?:\w+_)?rngs?|(?:\w+_)?rng_states?(?:_all)?": "state of training",
    r"criterions?|loss(?:es|_fn|_func)?|\w+_loss|(?:train_|val_|test_)?metrics?": "loss or metric of training",
    r"dino_head|ibot_head|projector|projection_head|proj_head|momentum_projector|momentum_head|predictor|prototypes"
    r"|prediction_head|contrastive_head|simclr_head": "projection head of pretraining",
}
_STATES = [(re.compile(rf"(?P<part>(?:.*?[./])?(?:{names})[./]).*"), reason) for names, reason in _TRAINING.items()]
_UNUSED = [
    (re.compile(pattern), reason)
    for pattern, reason in (
        (r"(?:.*\.)?head\.(?:mlp2?\.\d+\.\w+|last_layer2?\..*|last_norm2?\..*)", "projection head of pretraining"),
        (
            r"(?:.*\.)?(?:queue|queue_ptr|center|center2|n_averaged|num_updates|step|global_step|(?:\w+_)?rng_states?)",
            "state of training",
        ),
        (r"(?:.*\.)?masked_embed", "stands for masked patches in pretraining"),
        (r"(?:.*\.)?num_batches_tracked", "a counter, which evaluation doesn't ask"),
        (r"(?:.*\.)?total_(?:ops|params)", "counts of operations and parameters"),
    )
]
# Encoders whose `head` is a projection of pretraining (MoCo v3).
_MOCO = re.compile(r"(?:.*\.)?(?:base_encoder|momentum_encoder|encoder_q|encoder_k)\.")
_SHOWN = 6


@dataclass(frozen=True)
class Weights:
    """The tensors of one model in a file.

    Attributes:
        kind: The kind of their names: a key of `ANCHORS`.
        path: What was opened, for errors.
        tensors: The tensors by their names without the prefix.
        prefix: What was in front of the names.
        paths: The whole name in the file of each tensor.
        ignored: Why each other part of the file is left out.
    """

    kind: str
    path: Path
    tensors: FileTensors
    prefix: str = ""
    paths: Mapping[str, str] = field(default_factory=dict, repr=False)
    ignored: dict[str, str] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, Shape]:
        """Shape of each tensor."""
        return self.tensors.shapes()

    @property
    def unread(self) -> dict[str, str]:
        """Why what may be one of the model's tensors isn't read, by its whole name in the file."""
        return _unread(self.ignored)

    @property
    def head(self) -> str | None:
        """What the head is called in the file, where that isn't its usual name."""
        name, _ = _HEADS.get(self.kind, ("head", "head"))
        called = self.called(f"{name}.weight")
        return None if called == f"{self.prefix}{name}.weight" else called.removesuffix(".weight")

    def called(self, name: str) -> str:
        """What a tensor is called in the file; also one that isn't there."""
        return self.paths.get(name, self.prefix + name)


def choose(
    tensors: FileTensors, *, format: str | None = None, prefix: str | None = None, ignore: Sequence[str] = ()
) -> Weights:
    """The model's tensors among all those of a file.

    Args:
        tensors: The tensors of the file by their whole paths.
        format: The format whose names are looked for; anybody's by default.
        prefix: What the model's names begin with, such as `teacher.backbone.`, where there are several models.
        ignore: Shell-style patterns of names to leave out, such as `criterion.*`.

    Raises:
        CheckpointError: No model, or several; a prefix or a pattern that fits nothing. Says which there are.
    """
    tensors, spelled = _without_wrappers(tensors)
    path, ignored = tensors.path, dict(tensors.ignored)
    kinds = list(_KINDS.get(format, (format,))) if format is not None else list(ANCHORS)
    prefix = prefix and _WRAPPER.sub("", prefix)
    names = _without_states(_within(tensors, prefix, ignored), kinds, ignored)
    names = _without_patterns(names, prefix or "", ignore, ignored, path)
    kind, root = _root(names, kinds, path, prefix or "", _unread(ignored))
    renamed = {name.removeprefix(root): name for name in names if name.startswith(root)}
    for name in (name for name in names if not name.startswith(root)):
        if tensors.arrays[(prefix or "") + name].dtype.kind in "iub":
            ignored[name] = "whole numbers, which are no weights"
        else:  # a name that is the model's without its prefix is another one's
            renamed[f"../{name}" if name in renamed else name] = name
    if _MOCO.fullmatch((prefix or "") + root):
        for name in [name for name in renamed if re.match(r"(head|fc)\.", name)]:
            ignored[renamed.pop(name)] = "projection head of pretraining"
    shapes = {new: tensors.arrays[(prefix or "") + old].shape for new, old in renamed.items()}
    renamed = _with_usual_head(renamed, root, kind, shapes)
    paths = {new: (prefix or "") + old for new, old in renamed.items()}
    paths = _with_one_head(paths, kind, tensors)
    arrays = {new: tensors.arrays[old] for new, old in paths.items()}
    paths = {new: spelled[old] for new, old in paths.items()}
    return Weights(kind, path, FileTensors(path, arrays), _in_file((prefix or "") + root, paths), paths, ignored)


def _within(tensors: FileTensors, prefix: str | None, ignored: dict[str, str]) -> list[str]:
    """Names under the prefix, without it."""
    if prefix is None:
        return list(tensors)
    found = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]
    if not found:
        tops = list(dict.fromkeys(name.partition(".")[0] + "." for name in tensors))
        near = close_match(prefix, [root for _, root in _roots(list(tensors), list(ANCHORS))] or tops)
        raise CheckpointError(f"{tensors.path}: prefix: got {prefix!r}, but names begin with {_some(tops)}{near}")
    others = len(tensors) - len(found)
    if others:
        ignored["*"] = f"outside of the prefix {prefix} ({_counted(others)})"
    return found


def _without_wrappers(tensors: FileTensors) -> tuple[FileTensors, dict[str, str]]:
    """The tensors by names without the wrappers in them, and how the file spells each."""
    spelled = {_WRAPPER.sub("", name): name for name in tensors}
    if len(spelled) != len(tensors):
        spelled = {name: name for name in tensors}
    return replace(tensors, arrays={name: tensors.arrays[old] for name, old in spelled.items()}), spelled


def _in_file(root: str, paths: Mapping[str, str]) -> str:
    """A prefix as the file spells it, wrappers and all."""
    spelled = (path.removesuffix(name) for name, path in paths.items() if path.endswith(name))
    return next((prefix for prefix in spelled if _WRAPPER.sub("", prefix) == root), root)


def _without_states(names: Iterable[str], kinds: Sequence[str], ignored: dict[str, str]) -> list[str]:
    """Names without what training leaves; each part is one line of the ignored, however many tensors it has."""
    kept, parts = [], {}
    for name in names:
        state = next(((match["part"], why) for rule, why in _STATES if (match := rule.fullmatch(name))), None)
        parts.setdefault(state, []).append(name) if state is not None else kept.append(name)
    # A model may be called as what training leaves beside one: `predictor`, `metric`.
    models = [part for part, found in parts.items() if _roots(found, kinds)] if not _roots(kept, kinds) else []
    kept += [name for part in models if part[1] != _OPTIMISER for name in parts.pop(part)]
    reasons = {name: next((why for rule, why in _UNUSED if rule.fullmatch(name)), None) for name in kept}
    ignored |= {name: reason for name, reason in reasons.items() if reason is not None}
    ignored |= {f"{part}*": f"{reason} ({_counted(len(found))})" for (part, reason), found in parts.items()}
    return [name for name in kept if reasons[name] is None]


def _without_patterns(
    names: Sequence[str], prefix: str, ignore: Sequence[str], ignored: dict[str, str], path: Path
) -> list[str]:
    left = list(names)
    for pattern in ignore:
        fits = [name for name in left if fnmatchcase(name, pattern) or fnmatchcase(prefix + name, pattern)]
        if not fits and pattern not in ignored:
            raise CheckpointError(f"{path}: ignore: no tensor is called {pattern!r}{close_match(pattern, left)}")
        left = [name for name in left if name not in set(fits)]
        ignored[pattern] = f"as asked ({_counted(len(fits))})" if len(fits) != 1 else "as asked"
    return left


def _roots(names: Iterable[str], kinds: Sequence[str]) -> list[tuple[str, str]]:
    """Kind and prefix of each model, in the order of the file."""
    found: dict[tuple[str, str], None] = {}
    for name in names:
        for kind in kinds:
            if match := ANCHORS[kind].fullmatch(name):
                found[kind, match["prefix"]] = None
                break
    return list(found)


def _unread(ignored: Mapping[str, str]) -> dict[str, str]:
    return {name: reason for name, reason in ignored.items() if reason != NOTHING}


def _root(
    names: Sequence[str], kinds: Sequence[str], path: Path, prefix: str, unread: Mapping[str, str]
) -> tuple[str, str]:
    roots = _roots(names, kinds)
    if not roots:
        if left_out := [name for name in unread if any(ANCHORS[kind].fullmatch(name) for kind in kinds)]:
            raise CheckpointError(
                f"{path}: {left_out[0]}: {unread[left_out[0]]}, and nothing else is a patch embedding"
            )
        if others := _roots(names, list(ANCHORS)):
            got, expected = (OWNERS.get(kind, kind) for kind in (others[0][0], kinds[0]))
            raise CheckpointError(
                f"{path}: names: got those of {got}, expected those of {expected}; say --from {got} (in Python "
                f'format="{got}")'
            )
        raise CheckpointError(
            f"{path}: no Vision Transformer that is known: none of its {len(names)} tensors is a patch embedding, such "
            f"as patch_embed.proj.weight; found {_some(names)}"
        )
    if len(roots) > 1:
        flags = " or ".join(f"--prefix {prefix}{root}" if root else "--prefix ''" for _, root in roots)
        raise CheckpointError(f"{path}: {len(roots)} models in one file; choose one with {flags} (in Python prefix=)")
    return roots[0]


def _with_usual_head(renamed: Mapping[str, str], root: str, kind: str, shapes: Mapping[str, Shape]) -> dict[str, str]:
    """Names with what is called like a head, beside the model or in it, under the head's own, if it is the only one."""
    head = _HEADS.get(kind, ("head", "head"))[1]
    # open_clip's projection is the head; what stands behind that takes normalised features, or others.
    if kind == "open_clip" or any(name == head or name.startswith(f"{head}.") for name in renamed):
        return dict(renamed)
    groups: dict[str, list[str]] = {}
    for name, old in renamed.items():
        match = _HEAD.fullmatch(old)
        is_inside = old.startswith(root)
        if match and (match["above"] == root if is_inside else root.startswith(match["above"])):
            groups.setdefault(old[: match.end("head")], []).append(name)
    groups = {
        group: members
        for group, members in groups.items()
        if _is_linear(members, shapes)
        or (not renamed[members[0]].startswith(root) and any(len(shapes[name]) == 2 for name in members))
    }
    if len(groups) != 1:
        return dict(renamed)
    ((group, members),) = groups.items()
    return {head + old.removeprefix(group) if name in members else name: old for name, old in renamed.items()}


def _is_linear(names: Collection[str], shapes: Mapping[str, Shape]) -> bool:
    """Whether tensors are one linear layer's."""
    axes = {name.rpartition(".")[2]: len(shapes[name]) for name in names}
    return len({name.rpartition(".")[0] for name in names}) == 1 and axes in ({"weight": 2, "bias": 1}, {"weight": 2})


def _with_one_head(paths: dict[str, str], kind: str, tensors: FileTensors) -> dict[str, str]:
    """Names with the head's own where one linear layer is under it: `heads.0`, `classifier.1`, `head.1`.

    Raises:
        CheckpointError: More is under it than that.
    """
    if kind not in _HEADS:
        return paths
    name, under = _HEADS[kind]
    members = [key for key in paths if key.startswith(f"{under}.") and not key.startswith("heads.pre_logits.")]
    if {key.removeprefix(f"{name}.") for key in members} <= {"weight", "kernel", "bias"}:
        return paths
    if not _is_linear(members, {key: tensors.arrays[paths[key]].shape for key in members}):
        files = [paths[key] for key in members]
        shapes = [f"{file} {list(tensors.arrays[file].shape)}" for file in files]
        above = [file.rpartition(".")[0].replace(".", "/") for file in files]
        pattern = posixpath.commonpath(above).replace("/", ".") + ".*"
        raise CheckpointError(
            f"{tensors.path}: head: got {cut(shapes)}, expected one linear layer; --ignore '{pattern}' (in Python "
            f'ignore="{pattern}") leaves it out: the model then gives the features that it takes'
        )
    layer = members[0].rpartition(".")[0]
    return {name + key.removeprefix(layer) if key in members else key: path for key, path in paths.items()}


def _counted(number: int) -> str:
    return f"{number} tensor{'' if number == 1 else 's'}"


def _some(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown or "none"
