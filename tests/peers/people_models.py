"""Random small models of timm, torchvision and transformers, and what their owners know of them."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import timm
import torch
import torchvision
import transformers
from huggingface_cases import CASES, OPTIONS
from people import Case, randomised

from benchmarks import timm_peer
from parity import configs

PATCHES = (4, 8, (8, 4), 16)
GRIDS = ((2, 2), (3, 3), (2, 3), (4, 2), (6, 8), (7, 7), (5, 1))
WIDTHS = ((24, 2), (48, 4), (64, 4), (192, 3), (192, 4), (192, 8), (384, 6), (384, 12))


def sides(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def image_of(rng: random.Random, patch: Any) -> tuple[int, int]:
    grid = rng.choice(GRIDS)
    return tuple(side * count for side, count in zip(sides(patch), grid, strict=True))  # type: ignore[return-value]


def some(rng: random.Random, *options: tuple[float, dict[str, Any]]) -> dict[str, Any]:
    """A random part of the options."""
    found: dict[str, Any] = {}
    for share, option in options:
        found |= option if rng.random() < share else {}
    return found


def timm_vit(rng: random.Random) -> Case:
    """`VisionTransformer` of timm, with all of its options."""
    width, heads = rng.choice(WIDTHS)
    patch, in_chans = rng.choice(PATCHES), rng.choice((3, 3, 3, 1, 4))
    image = image_of(rng, patch)
    clip = rng.random() < 0.12
    options: dict[str, Any] = dict(
        img_size=image,
        patch_size=patch,
        in_chans=in_chans,
        embed_dim=width,
        num_heads=heads,
        depth=rng.choice((1, 2)),
        mlp_ratio=rng.choice((4.0, 2.5)),
        num_classes=rng.choice((0, 1, 10)),
        pre_norm=clip,
    )
    options |= some(
        rng,
        (0.3, dict(global_pool="avg")),
        (0.12, dict(fc_norm=False)),
        (0.1, dict(class_token=False, global_pool="avg")),
        (0.08, dict(global_pool="map")),
        (0.2, dict(reg_tokens=3)),
        (0.25, dict(no_embed_class=True)),
        (0.3, dict(init_values=1e-5)),
        (0.15, dict(qk_norm=True)),
        (0.1, dict(scale_attn_norm=True)),
        (0.1, dict(scale_mlp_norm=True)),
        (0.1, dict(proj_bias=False)),
        (0.1, dict(qkv_bias=False)),
        (0.15, dict(act_layer=rng.choice(("gelu_tanh", "quick_gelu", "silu")))),
        (0.15, dict(norm_layer=partial(torch.nn.LayerNorm, eps=1e-5))),
        (0.07, dict(norm_layer="rmsnorm")),
        (0.05, dict(pool_include_prefix=True)),
        (0.05, dict(pos_embed="none")),
        (0.15, dict(dynamic_img_size=True)),
    )
    peer = randomised(timm.create_model("vit_tiny_patch16_224", **options))
    avg = options.get("global_pool", "token") == "avg"
    norm = options.get("norm_layer")
    truth = dict(
        num_heads=heads,
        image_size=image,
        global_pool=options.get("global_pool", "token"),
        act=options.get("act_layer", "gelu"),
        norm=norm if isinstance(norm, str) else "layernorm",
        norm_eps=1e-5 if isinstance(norm, partial) else 1e-6,
        pos_embed_prefix="none" if options.get("no_embed_class") else "all",
        pos_embed="none" if options.get("pos_embed") == "none" else "learned",
        pool_include_prefix=bool(options.get("pool_include_prefix")) and (avg or options.get("global_pool") == "map"),
        rope=None,
        attn_pool_heads=None,
        block="pre_norm",
    )
    return Case(peer, (in_chans, *image), truth)


NAMES = [
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "deit3_small_patch16_224",
    "vit_small_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2",
    "beit_base_patch16_224",
    "eva02_tiny_patch14_224",
    "vit_small_patch16_dinov3",
    "vit_base_patch16_clip_224",
    "vit_base_patch16_siglip_224",
    "vit_small_patch16_rope_224",
]


def timm_finetuned(rng: random.Random) -> Case:
    """A registered model with what fine-tuning changes, whose owner knows its name."""
    name = rng.choice(NAMES)
    patch = configs.get(name).patch_size
    image = tuple(side * count for side, count in zip(patch, rng.choice(((2, 2), (2, 3), (3, 3))), strict=True))
    options: dict[str, Any] = dict(img_size=image, in_chans=rng.choice((3, 3, 1)), depth=2)
    options |= some(rng, (0.8, dict(num_classes=rng.choice((0, 5)))))
    if "distilled" not in name and "dinov3" not in name and "siglip" not in name:
        options |= some(rng, (0.3, dict(global_pool=rng.choice(("avg", "token")))))
    with timm_peer.float64_rope():
        peer = randomised(timm.create_model(name, **options))
    truth = dict(image_size=image, model=name, global_pool=peer.global_pool, pool_include_prefix=False)
    return Case(peer, (options["in_chans"], *image), truth, outputs=_exactly, loader=name)


def _exactly(model: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """timm computes rotary positions in float32 whatever the model's precision."""
    with timm_peer.float64_rope():
        return model(pixels)


def torchvision_vit(rng: random.Random) -> Case:
    """torchvision's `VisionTransformer`, with another head in the ways that people put one there."""
    width, heads = rng.choice(WIDTHS)
    patch = rng.choice((4, 8, 16))
    side = patch * rng.choice((2, 3, 7))
    classes = rng.choice((1000, 3))
    model = torchvision.models.VisionTransformer(
        image_size=side,
        patch_size=patch,
        num_layers=rng.choice((1, 2)),
        num_heads=heads,
        hidden_dim=width,
        mlp_dim=width * 2,
        num_classes=classes,
        representation_size=rng.choice((None, None, 12)),
    )
    head = rng.randrange(5)
    if head == 0:
        model.heads = torch.nn.Linear(width, 5)
    elif head == 1:
        model.heads = torch.nn.Sequential(torch.nn.Dropout(0.1), torch.nn.Linear(width, 5))
    elif head == 2:
        model.heads = torch.nn.Identity()
    return Case(randomised(model), (3, side, side), dict(num_heads=heads, image_size=(side, side)))


def _outputs(model: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """What a class of transformers gives: logits, features that are pooled, or tokens."""
    found: Any = model(pixels)
    for name in ("logits", "image_embeds", "pooler_output", "last_hidden_state"):
        if getattr(found, name, None) is not None:
            return getattr(found, name)
    raise AssertionError(f"{type(model).__name__}: no output")


# Classes whose outputs from pixels alone are one tensor that ours gives.
_PLAIN = ("ForImageClassification", "VisionModelWithProjection")


def huggingface(rng: random.Random) -> Case:
    """A classifier or projection of transformers, with its `config.json` and in memory's names or alone."""
    name = rng.choice([key for key, (cls, _) in CASES.items() if cls.endswith(_PLAIN) and "siglip2" not in key])
    cls, settings = CASES[name]
    kind = getattr(transformers, cls)
    width, heads = rng.choice(WIDTHS)
    tower = dict(hidden_size=width, num_attention_heads=heads)
    settings = dict(settings)
    if "vision_config" in settings:
        settings["vision_config"] = {**settings["vision_config"], **tower}
    else:
        settings |= tower
    config = kind.config_class(**settings)
    peer = randomised(kind(config, **OPTIONS.get(name, {})))
    inner = getattr(config, "vision_config", config)
    image = tuple(sides(inner.image_size))
    data = config.to_dict() | {"architectures": [cls]}
    documents = {"config.json": data} if rng.random() < 0.5 else {}
    truth = dict(num_heads=heads, image_size=image, act=_ACTS[inner.hidden_act], norm_eps=inner.layer_norm_eps)
    truth |= dict(model_type=config.model_type)
    return Case(peer, (inner.num_channels, *image), truth, outputs=_outputs, documents=documents)


_ACTS = {"gelu": "gelu", "quick_gelu": "quick_gelu", "gelu_pytorch_tanh": "gelu_tanh", "silu": "silu"}

# Each with how many of the cases it makes.
MAKERS = {"timm": (timm_vit, 170), "finetuned": (timm_finetuned, 60), "torchvision": (torchvision_vit, 40)}
MAKERS |= {"huggingface": (huggingface, 50)}
