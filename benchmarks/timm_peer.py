"""timm's models beside ours: an implementation that we didn't write, holding our parameters.

Needs the `peers` extra. timm computes rotary positions in float32 whatever the model's precision; `float64_rope` runs
that same code of timm's in float64, so that nothing else can hide behind 1e-7.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import timm
import torch
from timm.layers import pos_embed_sincos

import vit_torch.state_dict
from parity import configs
from parity.checkpoints.formats import timm as timm_format
from parity.configs import Config

Arrays = Mapping[str, np.ndarray]


def shapes(entry: str) -> dict[str, tuple[int, ...]]:
    """Canonical names and shapes of timm's model of an entry, such as `vit_base_patch16_224.augreg_in1k`."""
    with torch.device("meta"):
        model = timm.create_model(entry)
    theirs = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    return {timm_format.our_name(name): shape for name, shape in theirs.items()}


def reduced_model(name: str, config: Config, tensors: Arrays) -> torch.nn.Module:
    """The architecture of timm of that name at the sizes of a reduced config, in evaluation mode and float64.

    Names and shapes of its tensors must be exactly ours.
    """
    packed = config.mlp == "swiglu_packed" and timm_class(name) == "VisionTransformer"
    # Half a unit more, so that timm's int(dim * ratio) can't round down.
    arguments: dict[str, Any] = dict(
        img_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=config.embed_dim,
        depth=config.depth,
        num_heads=config.num_heads,
        num_classes=config.num_classes,
        mlp_ratio=(config.mlp_dim * (2 if packed else 1) + 0.5) / config.embed_dim,
    )
    if timm_class(name) == "Eva" and config.block == "pre_norm":
        arguments["num_kv_heads"] = list(config.kv_heads)
    if config.attn_pool_mlp_dim is not None:
        arguments["attn_pool_mlp_ratio"] = (config.attn_pool_mlp_dim + 0.5) / config.embed_dim
    if config.mlp == "swiglu" and timm_class(name) == "Eva" and not config.mlp_norm:
        arguments["swiglu_align_to"] = 8  # of 8 or 64, which say only that gate and value are apart
    model = timm.create_model(name, **arguments).double()
    state = {
        timm_format.their_name(key, name): vit_torch.state_dict.from_numpy(value) for key, value in tensors.items()
    }
    model.load_state_dict(state, strict=True)
    return model.eval()


def run(model: torch.nn.Module, images: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs of timm's model by place: every block, `forward_features` and the logits."""
    timm_model: Any = model  # PyTorch's types say of an attribute only that it is a tensor or a module
    blocks: list[Any] = []
    handles = [
        block.register_forward_hook(lambda module, inputs, output: blocks.append(output))
        for block in model.get_submodule("blocks").children()
    ]
    with torch.inference_mode():
        features = timm_model.forward_features(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        logits = timm_model.forward_head(features)
    for handle in handles:
        handle.remove()
    places = [f"blocks.{i}" for i in range(len(blocks))]
    return dict(
        zip([*places, "forward_features", "logits"], [x.numpy() for x in (*blocks, features, logits)], strict=True)
    )


def timm_class(name: str) -> str:
    """Name of timm's class of an architecture."""
    module = timm.models.model_entrypoint(name).__module__.rpartition(".")[2]
    return {"eva": "Eva", "beit": "Beit"}.get(module, "VisionTransformer")


def entries() -> list[str]:
    """Every entry of timm's four modules of flat ViTs: architecture, and tag where there is one."""
    modules = ("vision_transformer", "deit", "eva", "beit")
    return sorted(name for module in modules for name in timm.list_models(module=module, include_tags=True))


def config_of(entry: str) -> Config:
    """Our config at the image size and classes of an entry."""
    pretrained = timm.get_pretrained_cfg(entry)
    size = pretrained.input_size[1:]
    architecture = entry.partition(".")[0]
    return configs.get(architecture, num_classes=pretrained.num_classes, image_size=tuple(size))


@contextmanager
def float64_rope() -> Iterator[None]:
    """The module of timm for rotary positions, with float64 wherever it says float32 or leaves it open."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(pos_embed_sincos, "torch", _Float64()))
        stack.enter_context(mock.patch.object(torch.Tensor, "float", torch.Tensor.double))
        for function in _functions(pos_embed_sincos):
            defaults = tuple(torch.float64 if v is torch.float32 else v for v in function.__defaults__ or ())
            stack.enter_context(mock.patch.object(function, "__defaults__", defaults or None))
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


class _Float64(ModuleType):
    """`torch` with float64 for float32."""

    def __init__(self) -> None:
        super().__init__("torch")
        self.float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def _functions(module: ModuleType) -> list[Any]:
    """Functions and methods that a module defines."""
    own = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
    methods = [method for cls in own if inspect.isclass(cls) for method in vars(cls).values()]
    return [value for value in (*own, *methods) if inspect.isfunction(value)]
