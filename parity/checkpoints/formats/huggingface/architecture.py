"""What a class of transformers is to us: settings, names, and what it has besides."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ....configs import Config, VitConfig, close_match, replace
from ...shapes import Shape
from ..settled import ANY_PREPROCESSING
from ..staged import prefixed
from ..translate import Entry, Unused

Json = Mapping[str, Any]

# Several names for one function: `gelu_new` and `gelu_accurate` are older ways to write the tanh form.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
}


@dataclass(frozen=True)
class Setting:
    """One field of `config.json` that is one field of ours.

    Attributes:
        theirs: Its name there.
        ours: Its name here.
        default: What it is where the file leaves it out.
        values: Ours by theirs, where they are called differently; the first of several is written.
    """

    theirs: str
    ours: str
    default: Any
    values: Mapping[str, str] | None = None

    def read(self, data: Json) -> Any:
        """Our value.

        Raises:
            ValueError: None, or one that has no counterpart here.
        """
        value = data.get(self.theirs, self.default)
        if value is None:
            raise ValueError(f"{self.theirs}: got null, expected a value")
        if self.values is None:
            return value
        if value not in self.values:
            known = ", ".join(self.values)
            raise ValueError(f"{self.theirs}: got {value!r}, expected one of {known}{close_match(value, self.values)}")
        return self.values[value]

    def write(self, config: Config) -> Any:
        """Their value; the default where ours is none, which no class has."""
        return self.written(getattr(config, self.ours))

    def written(self, value: Any) -> Any:
        """Their value of one of ours."""
        if value is None:
            return self.default
        if self.values is not None:
            return next((theirs for theirs, ours in self.values.items() if ours == value), value)
        if isinstance(value, tuple):
            return value[0] if len(set(value)) == 1 else list(value)
        return value


def settings(**defaults: Any) -> tuple[Setting, ...]:
    """The settings that nearly all classes have, with the defaults of one of them; None leaves a setting out."""
    common = (
        Setting("hidden_size", "embed_dim", 768),
        Setting("num_hidden_layers", "depth", 12),
        Setting("num_attention_heads", "num_heads", 12),
        Setting("intermediate_size", "mlp_dim", 3072),
        Setting("hidden_act", "act", "gelu", ACTIVATIONS),
        Setting("layer_norm_eps", "norm_eps", 1e-12),
        Setting("image_size", "image_size", 224),
        Setting("patch_size", "patch_size", 16),
        Setting("num_channels", "in_chans", 3),
        Setting("qkv_bias", "qkv_bias", True),
        Setting("hidden_dropout_prob", "drop_rate", 0.0),
        Setting("attention_probs_dropout_prob", "attn_drop_rate", 0.0),
    )
    return tuple(
        replace(setting, default=defaults.get(setting.theirs, setting.default))
        for setting in common
        if defaults.get(setting.theirs, setting.default) is not None
    )


def _nothing(*_: Any) -> dict[str, Any]:
    return {}


def _always(*_: Any) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A class of transformers.

    Attributes:
        name: The name of the class, as `architectures` has it.
        model_type: The model type that `config.json` has.
        family: The family of our configs.
        settings: Fields of `config.json` that are fields of ours.
        fixed: Fields of ours that every model of the class has.
        expected: Fields of `config.json` that are supported with one value alone.
        read: Further fields of ours, from the part of `config.json` about the image tower and from all of it.
        write: The inverse: further fields of that part.
        infer: What makes a config of a lone file's canonical shapes; None for the flat ViTs, of which `lone` does it.
        code: Fields that a lone file's class has by default, for `infer`, besides the fixed ones.
        table: Names of the encoder's tensors, without the prefix.
        memory: Names that some have in memory (`model.state_dict()`): transformers 5 renames them on saving.
        head: Names of tensors beside the encoder, which have no prefix.
        base: The prefix of encoders in models that have something besides.
        prefixed: Whether it is written; files are read with it and without.
        labels: Whether the classes are listed in `config.json`.
        nested: Whether the image tower has an object of its own in `config.json`.
        square: Whether images and patches must be square: the class takes roots of numbers of patches.
        masks: Whether what is written can have a token for masked patches.
        unused: Tensors that it may have besides.
        added: Shape and value of constants that it has besides, by names without the prefix.
        fits: Whether a file holds this variant of the class, by `config.json` and the names of its tensors without the
            prefix; the first variant that fits counts.
        written: Which configs that it can hold it is chosen for: `any`, only such as came from its model type (`back`)
            or from the class itself (`own`), or `never`, since tensors that it needs are not here.
    """

    name: str
    model_type: str
    family: type[Config] = VitConfig
    settings: tuple[Setting, ...]
    fixed: Json = field(default_factory=dict)
    expected: Json = field(default_factory=dict)
    read: Callable[[Json, Json], dict[str, Any]] = _nothing
    write: Callable[[Any], dict[str, Any]] = _nothing
    infer: Callable[..., Config] | None = None
    code: Json = field(default_factory=dict)
    table: tuple[Entry, ...]
    memory: tuple[Entry, ...] = ()
    head: tuple[Entry, ...] = ()
    base: str = ""
    prefixed: bool = False
    labels: bool = False
    nested: bool = False
    square: bool = False
    masks: bool = False
    unused: tuple[Unused, ...] = ()
    added: Callable[[Any], Mapping[str, tuple[Shape, float]]] = _nothing
    fits: Callable[[Json, Collection[str]], bool] = _always
    written: Literal["any", "back", "own", "never"] = "any"

    @property
    def prefix(self) -> str:
        """What is written in front of the encoder's names."""
        return self.base if self.prefixed else ""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All names as they are written."""
        return self.head + self._prefixed(self.table)

    @property
    def spellings(self) -> tuple[tuple[Entry, ...], ...]:
        """All names that files have: as they are written, and as they are in memory."""
        found = (self.table, self.memory + self.table) if self.memory else (self.table,)
        return tuple(self.read_head + self._prefixed(table) for table in found)

    @property
    def read_head(self) -> tuple[Entry, ...]:
        """The names beside the encoder as `Weights` has them, without the number of a layer that is in a sequence."""
        return tuple(replace(entry, theirs=str(entry.theirs).removesuffix(".1")) for entry in self.head)

    def config(self, data: Json) -> Config:
        """Our config, but for the preprocessing.

        Args:
            data: The object of `config.json`.

        Raises:
            ValueError: A value that isn't supported; names the field.
        """
        tower = self._tower(data)
        for name, value in self.expected.items():
            if tower.get(name, value) != value:
                raise ValueError(f"{name}: got {tower[name]!r}, expected {value!r}")
        fields = {setting.ours: setting.read(tower) for setting in self.settings}
        fields |= dict(self.fixed) | self.read(tower, data)
        sides: dict[str, Any] = {
            name: _sides(name, fields.pop(name), square=self.square)
            for name in ("image_size", "patch_size")
            if name in fields
        }
        fields["num_classes"] = _number_of_classes(data) if self.labels else fields.get("num_classes", 0)
        head_dim = tower.get("head_dim")
        if head_dim is not None and head_dim * fields["num_heads"] != fields["embed_dim"]:
            raise ValueError(f"head_dim: got {head_dim}, expected hidden_size / num_attention_heads")
        if self.family is VitConfig:
            whole = all(image % patch == 0 for image, patch in zip(*sides.values(), strict=True))
            fields["drop_partial_patches"] = not whole
        make: Any = self.family
        return make(**fields, **sides, preprocessing=ANY_PREPROCESSING)

    def with_said(self, data: Json, fields: Json) -> Json:
        """The object of `config.json` with the settings that are said beside it."""
        said = {
            setting.theirs: setting.written(fields[setting.ours]) for setting in self.settings if setting.ours in fields
        }
        if not said:
            return data
        if not self.nested and "vision_config" not in data:
            return {**data, **said}
        # What is in the second object counts.
        return {**data, "vision_config_dict": {**(data.get("vision_config_dict") or {}), **said}}

    def data(self, config: Config) -> dict[str, Any]:
        """The object of `config.json`, but for labels; the inverse of `config` for configs that the class can hold."""
        tower = {setting.theirs: setting.write(config) for setting in self.settings}
        tower |= dict(self.expected) | self.write(config)
        head = {"architectures": [self.name], "model_type": self.model_type}
        return head | ({"vision_config": tower} if self.nested else tower)

    def _prefixed(self, table: tuple[Entry, ...]) -> tuple[Entry, ...]:
        return tuple(replace(entry, theirs=prefixed(entry.theirs, self.prefix)) for entry in table)

    def _tower(self, data: Json) -> Json:
        if not self.nested and "vision_config" not in data:
            return data
        # Files of 2021 and 2022 have what counts in a second object.
        return (data.get("vision_config") or {}) | (data.get("vision_config_dict") or {})


def labels_of(data: Json) -> list[str]:
    """Names of the classes, if there are any."""
    labels = data.get("id2label") or {}
    return [str(labels[key]) for key in sorted(labels, key=int)]


def number_of_labels(data: Json) -> int | None:
    """How many classes `config.json` lists, if it says it."""
    return len(data["id2label"]) if data.get("id2label") is not None else data.get("num_labels")


def _number_of_classes(data: Json) -> int:
    """As transformers has it, there are two where the file doesn't say."""
    number = number_of_labels(data)
    return 2 if number is None else number


def default_labels(number: int) -> list[str]:
    """What transformers calls classes without a name."""
    return [f"LABEL_{i}" for i in range(number)]


def blocks(layer: str, names: Mapping[str, str | tuple[str, ...]]) -> tuple[Entry, ...]:
    """Entries of all blocks: theirs by ours, after `blocks.{i}.` here and after `layer` there."""
    return tuple(Entry(f"blocks.{{i}}.{ours}", prefixed(theirs, f"{layer}.")) for ours, theirs in names.items())


def attention(query: str, key: str, value: str, output: str) -> dict[str, str | tuple[str, ...]]:
    """Names of one attention: its projections are fused here or not, with a bias for each or for query and value."""
    return {
        "attn.qkv": (query, key, value),
        "attn.q_bias": f"{query}.bias",
        "attn.v_bias": f"{value}.bias",
        "attn.q_proj": query,
        "attn.k_proj": key,
        "attn.v_proj": value,
        "attn.proj": output,
    }


def _sides(name: str, value: Any, *, square: bool) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise ValueError(f"{name}: got {value!r}, expected one positive integer or two")
    if square and pair[0] != pair[1]:
        raise ValueError(f"{name}: got {list(pair)}, expected a square")
    return pair[0], pair[1]


def square_side(num_patches: int) -> int:
    """Patches along each side of a square.

    Raises:
        ValueError: It is none.
    """
    side = math.isqrt(num_patches)
    if side * side != num_patches:
        raise ValueError(f"num_patches: got {num_patches}, expected a square number")
    return side
