"""Published weights by model, and what `create_model` is asked for that `load` does.

timm's `create_model` makes a model and loads its weights. Here the two are apart, so that nothing is downloaded by a
word among many: what is asked for in timm's words is refused with the line to write instead.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .registry import Config, close_match, get, name_of, names, replace

_HUB = "hf-hub:"
# What precedes a repository or a directory in timm's names.
_PREFIXES = {_HUB: _HUB, "hf_hub:": _HUB, "timm/": f"{_HUB}timm/", "local-dir:": "", "local_dir:": ""}
_FILES = (".safetensors", ".bin", ".pt", ".pth", ".npz", ".ckpt", ".msgpack", ".tar", ".pkl")
# What other libraries call a field of the config: timm, then transformers.
_FIELDS = {
    "img_size": "image_size",
    "drop_path": "drop_path_rate",
    "pos_drop_rate": "drop_rate",
    "proj_drop_rate": "drop_rate",
    "init_values": "layer_scale_init",
    "dynamic_img_size": "dynamic_image_size",
    "num_reg_tokens": "reg_tokens",
    "act_layer": "act",
    "norm_layer": "norm",
    "mlp_ratio": "mlp_dim",
    "num_labels": "num_classes",
    "num_channels": "in_chans",
    "hidden_size": "embed_dim",
    "num_hidden_layers": "depth",
    "num_attention_heads": "num_heads",
    "intermediate_size": "mlp_dim",
    "hidden_act": "act",
    "layer_norm_eps": "norm_eps",
}
# What is no field at all, and what to write instead.
_INSTEAD = {
    "pretrained_cfg_overlay": "config fields are arguments of their own, preprocessing=Preprocessing(...) among them",
    "cache_dir": "downloads lie where the environment variable HF_HOME says",
    "features_only": "model.forward_intermediates(images) returns the tokens after each block",
    "out_indices": "model.forward_intermediates(images, indices=...) returns the tokens after these blocks",
    "dtype": "parameters are float32; load(path, dtype=...) has others",
    "scriptable": "leave it out",
    "exportable": "leave it out",
    "no_jit": "leave it out",
}
# timm's arguments that ask for weights. Where they ask for none they are left out.
_WEIGHTS = ("pretrained", "pretrained_cfg", "checkpoint_path")
_NEW = "create_model makes new parameters"


def hub_ids(name: str) -> tuple[str, ...]:
    """Repositories of the Hugging Face Hub that hold weights of a model, as timm names them.

    `load("hf-hub:" + hub_ids(name)[0])` loads the weights that timm takes by default. Other projects' repositories
    (`google/vit-base-patch16-224`) aren't listed and load all the same.

    Args:
        name: A registered name, such as `vit_base_patch16_224`.

    Returns:
        Ids such as `timm/vit_base_patch16_224.augreg2_in21k_ft_in1k`, timm's default first; empty where none is known.

    Raises:
        ValueError: Unknown name, with a close match.
    """
    get(name)
    return _table().get(name, ())


def model_of(repository: str) -> str:
    """The model that a repository of timm's is named after, whose config it says; two names may share the weights."""
    return repository.rpartition("/")[2].partition(".")[0]


def requested(name: str | Path | Config, fields: Mapping[str, Any], *, package: str) -> Config:
    """The config of the model that `create_model` is asked for.

    Args:
        name: A registered name, or a config.
        fields: What it is to have of its own. timm's `pretrained=False` is taken for what it says.
        package: The package that is asked, `vit_jax` or `vit_torch`, for the line to write instead.

    Raises:
        ValueError: Unknown name or field, or fields that make no model; weights are asked for, by an argument or by a
            name that is a path's, a repository's or has a tag.
    """
    said = {word: value for word, value in fields.items() if word not in _WEIGHTS or value}
    weights = {word: said.pop(word) for word in _WEIGHTS if word in said}
    if not dataclasses.is_dataclass(name):
        name = _registered(name, said, package)
    if weights:
        raise ValueError(_weights(name, weights, said, package))
    for word, value in said.items():
        if word in _INSTEAD:
            raise ValueError(f"{word}: got {value!r}, which is no config field: {_INSTEAD[word]}")
        if word in _FIELDS:
            raise ValueError(f"{word}: got {value!r}; it is called {_FIELDS[word]} here{_as_field(word, value)}")
    return get(name, **said) if isinstance(name, str) else replace(name, **said)


def _registered(name: Any, fields: dict[str, Any], package: str) -> str:
    """The name, if it is a model's.

    Raises:
        ValueError: It is a path, a repository, a model with a tag, or nothing that is known.
    """
    if not isinstance(name, str | os.PathLike):
        raise ValueError(f"name: got {type(name).__name__}, expected a registered name or a config")
    text = str(name)
    if text in names():
        return text
    if (path := _path(text, is_path=not isinstance(name, str))) is not None:
        line = _line(package, path, fields)
        raise ValueError(f"name: got {text!r}, where weights are; {_NEW}, and weights are loaded: {line}")
    model, _, tag = text.partition(".")
    if tag and model in names():
        tags = {_tag(found): found for found in hub_ids(model)}
        if tag not in tags:
            raise ValueError(f"name: got {text!r}, whose tag isn't known{close_match(tag, tags)}; {_known(model)}")
        line = _line(package, f"{_HUB}{tags[tag]}", _model(model, tags[tag]) | fields)
        raise ValueError(f"name: got {text!r}, a model and its weights; {_NEW} of {model!r}; its weights: {line}")
    get(text)  # an error with the nearest name
    return text


def _path(text: str, *, is_path: bool) -> str | None:
    """What `load` takes, if a name is that of a file, a directory or a repository."""
    for prefix, ours in _PREFIXES.items():
        if text.startswith(prefix):
            return ours + text.removeprefix(prefix)
    if is_path or text.endswith(_FILES) or text.startswith(("/", "./", "../", "~")) or Path(text).exists():
        return text
    owner, slash, repository = text.partition("/")
    if slash and "/" in repository:
        return text
    return f"{_HUB}{text}" if owner and repository else None


def _weights(name: str | Config, weights: dict[str, Any], fields: dict[str, Any], package: str) -> str:
    """Why weights aren't had by an argument, and the line that loads them."""
    model = name if isinstance(name, str) else name_of(name)
    if not isinstance(name, str) and model:
        own = vars(get(model))
        fields = {field: value for field, value in vars(name).items() if value != own[field]} | fields
    word, value = list(weights.items())[-1]  # a path says more than `pretrained=True` beside it
    start = f"{word}: got {value!r}; {_NEW}, "
    if word == "checkpoint_path":
        line = _line(package, str(value), ({"model": model} if model else {}) | fields)
        return f"{start}and a checkpoint is loaded: {line}"
    found = hub_ids(model) if model else ()
    if word == "pretrained_cfg" and isinstance(value, str):
        wanted = [one for one in found if value in (_tag(one), f"{model}.{_tag(one)}")]
        if not wanted:
            return f"{start}and no weights of that tag are known{close_match(value, map(_tag, found))}; {_known(model)}"
        found = (*wanted, *(one for one in found if one not in wanted))
    if not found:
        said = ({"model": model} if model else {}) | fields
        called = f"the model {model!r}" if model else "this config"
        yours = f'{package}.load("PATH"{_arguments(said)})'
        return f"{start}and no published weights of {called} are known; a checkpoint that you have is loaded: {yours}"
    line = _line(package, f"{_HUB}{found[0]}", _model(model, found[0]) | fields)
    more = f"; `vit-parity info {model}` lists {len(found) - 1} more" if len(found) > 1 else ""
    return f"{start}and published weights are loaded: {line}{more}"


def _known(model: str) -> str:
    found = hub_ids(model)
    return f"known are {', '.join(map(_tag, found))}" if found else f"no published weights of {model!r} are known"


def _model(model: str, repository: str) -> dict[str, Any]:
    """`model=` where the repository is named after another model, whose config it then says, too."""
    return {} if model_of(repository) == model else {"model": model}


def _tag(repository: str) -> str:
    return repository.partition(".")[2]


def _line(package: str, path: str, fields: dict[str, Any]) -> str:
    """A call of `load`, in words that it takes."""
    return f"{package}.load({json.dumps(path)}{_arguments(fields)})"


def _arguments(fields: dict[str, Any]) -> str:
    lost = {*_INSTEAD, "mlp_ratio"}  # whose value isn't the field's
    ours = {_FIELDS.get(word, word): value for word, value in fields.items() if word not in lost}
    values = {word: json.dumps(value) if isinstance(value, str) else repr(value) for word, value in ours.items()}
    return "".join(f", {word}={value}" for word, value in values.items())


def _as_field(word: str, value: Any) -> str:
    """How to write a value of another library's word; layers and functions have names here."""
    if word == "mlp_ratio":
        return ": embed_dim times it, an integer"
    return f": {_FIELDS[word]}={value!r}" if isinstance(value, str | int | float | tuple | list) else ""


@functools.cache
def _table() -> dict[str, tuple[str, ...]]:
    text = Path(__file__).with_name("hub_ids.json").read_text(encoding="utf-8")
    return {name: tuple(found) for name, found in json.loads(text).items()}
