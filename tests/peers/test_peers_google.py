"""Google's `.npz` files in both twins: against timm's own loader, and against NumPy over the names of the file.

Google's code isn't installed. timm's loader is an independent reader of the patterns that it doesn't fail on (with
Google's GELU, which timm doesn't run); the NumPy pass is written from big_vision's `models/vit.py` and vit_jax's, and
takes every pattern by names that are listed here, not by those that our reader finds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from format_peers import distances, pixels_of
from scipy.special import softmax
from timm.models.vision_transformer import VisionTransformer

from parity import configs
from parity.checkpoints import open_checkpoint
from parity.checkpoints.formats import google
from parity.checks.parameters import random_parameters
from parity.compare import compare, not_identical
from parity.tolerances import PEERS

PATTERNS = json.loads((Path(__file__).parents[1] / "data" / "npz_names.json").read_text())
Arrays = dict[str, np.ndarray]
# Positions of 14 x 14 patches, without and with a class token, and of those that the tests have.
_PATCHES = {196: 36, 197: 37}

LINEN = dict(attention="MultiHeadDotProductAttention_0", norm2="LayerNorm_1", mlp="MlpBlock_0")
PRE_LINEN = dict(attention="MultiHeadDotProductAttention_1", norm2="LayerNorm_2", mlp="MlpBlock_3")
IN_LAYER, IN_ENCODER, ON_TOP = "Transformer/posembed_input/pos_embedding", "Transformer/pos_embedding", "pos_embedding"
# Where each pattern has what, as written by the code of its time.
NAMES: dict[str, dict[str, Any]] = {
    "MAP inlined (ViT-G dev era)": LINEN | dict(prefix="params/", positions=ON_TOP, pool=""),
    "SigLIP params/img/ MAP": LINEN | dict(prefix="params/img/", positions=ON_TOP, pool="MAPHead_0/"),
    "SigLIP params/img/ MAP scan": LINEN | dict(prefix="params/img/", positions=ON_TOP, pool="MAPHead_0/"),
    "big_vision linen gap, no prefix": LINEN | dict(prefix="", positions=ON_TOP),
    "big_vision linen gap, top pos": LINEN | dict(prefix="params/", positions=ON_TOP),
    "big_vision scan-stacked": LINEN | dict(prefix="params/", positions=ON_TOP),
    "big_vision tok (pos w/o cls)": LINEN | dict(prefix="params/", positions=ON_TOP),
    "gap-norep (no cls)": PRE_LINEN | dict(prefix="", positions=IN_LAYER),
    "img/ prefix, no params/ (LiT)": LINEN | dict(prefix="img/", positions=IN_LAYER),
    "mid-era Transformer/pos_embedding": LINEN | dict(prefix="", positions=IN_ENCODER),
    "old pos + linen numbering": LINEN | dict(prefix="", positions=IN_LAYER),
    "prefix opt/target/": PRE_LINEN | dict(prefix="opt/target/", positions=IN_LAYER),
    "vit_jax (pre-linen) token": PRE_LINEN | dict(prefix="", positions=IN_LAYER),
    "vit_jax orig_in21k w/ pre_logits": PRE_LINEN | dict(prefix="", positions=IN_LAYER),
}
# timm's loader raises KeyError for the first four, and drops the last one's pre-logits.
TIMM_FAILS = {
    "MAP inlined (ViT-G dev era)",
    "img/ prefix, no params/ (LiT)",
    "mid-era Transformer/pos_embedding",
    "old pos + linen numbering",
    "vit_jax orig_in21k w/ pre_logits",
}


# The first pattern of each config.
DISTINCT = {
    "MAP inlined (ViT-G dev era)",
    "big_vision linen gap, no prefix",
    "big_vision tok (pos w/o cls)",
    "img/ prefix, no params/ (LiT)",
    "vit_jax orig_in21k w/ pre_logits",
}


def arrays(pattern: str) -> Arrays:
    """On a grid of 6 x 6; of order 1 for norms, and small enough elsewhere that activations stay so."""
    shapes = {name: [_PATCHES.get(size, size) for size in shape] for name, shape in PATTERNS[pattern].items()}
    values = random_parameters({name: tuple(shape) for name, shape in shapes.items()})
    return {name: 1 + value if name.endswith("scale") else value * _spread(name) for name, value in values.items()}


def _spread(name: str) -> float:
    return 0.3 if name.endswith("kernel") else 1.0


def forward(tensors: Arrays, pattern: str, images: np.ndarray) -> np.ndarray:
    """Logits, or pooled features where there is no head."""
    names = NAMES[pattern]
    tree = {name.removeprefix(names["prefix"]): value for name, value in tensors.items()}
    x = patches(images, tree["embedding/kernel"]) + tree["embedding/bias"]
    positions = tree[names["positions"]]
    cls = np.broadcast_to(tree["cls"], (len(x), 1, x.shape[-1])) if "cls" in tree else x[:, :0]
    late = positions.shape[1] == x.shape[1]
    x = np.concatenate([cls, x + positions], axis=1) if late else np.concatenate([cls, x], axis=1) + positions
    for i in range(2):
        x = block(x, layers(tree, i), names)
    x = norm(x, tree, "Transformer/encoder_norm")
    if "pool" in names:
        probe = np.broadcast_to(tree[f"{names['pool']}probe"], (len(x), 1, x.shape[-1]))
        x = attention(probe, x, tree, f"{names['pool']}MultiHeadDotProductAttention_0")
        x = x + mlp(norm(x, tree, f"{names['pool']}LayerNorm_0"), tree, f"{names['pool']}MlpBlock_0")
        return x[:, 0]
    x = x[:, 0] if "cls" in tree else x.mean(axis=1)
    x = np.tanh(dense(x, tree, "pre_logits")) if "pre_logits/kernel" in tree else x
    return dense(x, tree, "head")


def layers(tree: Arrays, i: int) -> Arrays:
    """The tensors of one block, stacked or not."""
    one, all_of_them = f"Transformer/encoderblock_{i}/", "Transformer/encoderblock/"
    found = {name.removeprefix(one): value for name, value in tree.items() if name.startswith(one)}
    return found or {n.removeprefix(all_of_them): v[i] for n, v in tree.items() if n.startswith(all_of_them)}


def block(x: np.ndarray, tree: Arrays, names: dict[str, Any]) -> np.ndarray:
    y = norm(x, tree, "LayerNorm_0")
    x = x + attention(y, y, tree, names["attention"])
    return x + mlp(norm(x, tree, names["norm2"]), tree, names["mlp"])


def patches(images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    b, h, w, c = images.shape
    p, q = kernel.shape[:2]
    x = images.reshape(b, h // p, p, w // q, q, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, p * q * c)
    return x @ kernel.reshape(p * q * c, -1)


def attention(q: np.ndarray, kv: np.ndarray, tree: Arrays, name: str) -> np.ndarray:
    def heads(x: np.ndarray, part: str) -> np.ndarray:
        return np.einsum("bnd,dhe->bhne", x, tree[f"{name}/{part}/kernel"]) + tree[f"{name}/{part}/bias"][:, None]

    q, k, v = heads(q, "query"), heads(kv, "key"), heads(kv, "value")
    weights = softmax(np.einsum("bhne,bhme->bhnm", q / np.sqrt(q.shape[-1]), k), axis=-1)
    x = np.einsum("bhnm,bhme->bhne", weights, v)
    return np.einsum("bhne,hed->bnd", x, tree[f"{name}/out/kernel"]) + tree[f"{name}/out/bias"]


def mlp(x: np.ndarray, tree: Arrays, name: str) -> np.ndarray:
    x = dense(x, tree, f"{name}/Dense_0")
    x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return dense(x, tree, f"{name}/Dense_1")


def dense(x: np.ndarray, tree: Arrays, name: str) -> np.ndarray:
    return x @ tree[f"{name}/kernel"] + tree[f"{name}/bias"]


def norm(x: np.ndarray, tree: Arrays, name: str) -> np.ndarray:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * tree[f"{name}/scale"] + tree[f"{name}/bias"]


def timm_model(pattern: str, num_classes: int) -> VisionTransformer:
    """timm's class with the sizes that all patterns share and Google's GELU."""
    has_cls = any(name.endswith("/cls") or name == "cls" for name in PATTERNS[pattern])
    pool = "map" if "MAP" in pattern else "token" if has_cls else "avg"
    sizes = dict(img_size=96, patch_size=16, embed_dim=64, depth=2, num_heads=2, mlp_ratio=4)
    return VisionTransformer(
        **sizes,
        num_classes=num_classes,
        act_layer="gelu_tanh",
        class_token=has_cls,
        global_pool=pool,
        fc_norm=False,
        no_embed_class="pos w/o cls" in pattern,
    ).double()


@pytest.mark.parametrize("pattern", NAMES)
def test_each_pattern_against_numpy(pattern, tmp_path):
    given = arrays(pattern)
    np.savez(tmp_path / "file.npz", **given)
    found = open_checkpoint(tmp_path / "file.npz")
    images, _ = pixels_of(found)
    expected = torch.from_numpy(forward(given, pattern, images))
    # One pattern of each config is enough for the twin that has to be compiled.
    assert max(distances(found, images, expected, flax=pattern in DISTINCT)) <= PEERS.limit


def test_the_patterns_that_both_twins_run_have_every_config(tmp_path):
    found: dict[configs.Config, str] = {}
    for pattern in NAMES:
        np.savez(tmp_path / "file.npz", **arrays(pattern))
        config = open_checkpoint(tmp_path / "file.npz").config
        config = configs.replace(config, preprocessing=configs.Preprocessing())
        assert (config in found) == (pattern not in DISTINCT)
        found.setdefault(config, pattern)


@pytest.mark.parametrize("pattern", sorted(set(NAMES) - TIMM_FAILS))
def test_each_pattern_that_timm_reads_and_what_we_write_of_it(pattern, tmp_path):
    np.savez(tmp_path / "file.npz", **arrays(pattern))
    found = open_checkpoint(tmp_path / "file.npz")
    peer = timm_model(pattern, found.config.num_classes).eval()
    peer.load_pretrained(str(tmp_path / "file.npz"))
    images, pixels = pixels_of(found)
    with torch.inference_mode():
        logits = peer(pixels).numpy()
    # timm's pass is the judge of the one in NumPy, which the twins are held against.
    difference = compare({"logits": forward(arrays(pattern), pattern, images)}, {"logits": logits})
    assert difference.ok(PEERS.limit)
    theirs = {name: value.numpy() for name, value in peer.state_dict().items()}
    assert not_identical(dict(found.tensors), theirs) == ()
    google.write(tmp_path / "written.npz", found.config, found.tensors)
    again = timm_model(pattern, found.config.num_classes)
    again.load_pretrained(str(tmp_path / "written.npz"))
    assert not_identical({name: value.numpy() for name, value in again.state_dict().items()}, theirs) == ()


@pytest.mark.parametrize("pattern", sorted(TIMM_FAILS))
def test_timm_reads_what_we_write_of_a_pattern_that_it_fails_on(pattern, tmp_path):
    np.savez(tmp_path / "file.npz", **arrays(pattern))
    found = open_checkpoint(tmp_path / "file.npz")
    peer = timm_model(pattern, found.config.num_classes)
    if "pre_logits" not in pattern:
        with pytest.raises((KeyError, RuntimeError, ValueError)):
            peer.load_pretrained(str(tmp_path / "file.npz"))
    google.write(tmp_path / "written.npz", found.config, found.tensors)
    peer.load_pretrained(str(tmp_path / "written.npz"))
    kept = {name: value for name, value in found.tensors.items() if not name.startswith("pre_logits")}
    assert not_identical({name: value.numpy() for name, value in peer.state_dict().items()}, kept) == ()


@pytest.mark.parametrize("change", [dict(act="gelu"), dict(norm_eps=1e-5), dict(num_heads=4)])
def test_the_comparison_can_fail(change, tmp_path):
    pattern = "big_vision tok (pos w/o cls)"
    given = arrays(pattern)
    np.savez(tmp_path / "file.npz", **given)
    found = open_checkpoint(tmp_path / "file.npz")
    images, _ = pixels_of(found)
    expected = torch.from_numpy(forward(given, pattern, images))
    changed = type(found)(found.path, configs.replace(found.config, **change), "", {}, found.tensors)
    assert min(distances(changed, images, expected, flax=False)) > 1e3 * PEERS.limit


def test_every_flat_pattern_is_here():
    assert sorted(NAMES) == sorted(name for name in PATTERNS if "hybrid" not in name)
