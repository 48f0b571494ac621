"""Writes `transformers_flax/`: tiny models as the Flax classes of transformers 4 saved them, with what they compute.

`python tests/data/make_transformers_flax.py` in an environment of its own, since version 5 has no such classes:
`pip install "transformers==4.49.0" "flax==0.8.5" "jax==0.4.30" "jaxlib==0.4.30" "numpy<2" "scipy<1.14" torch`.
Every parameter is random. `outputs.npz` holds images (NHWC), the outputs of the Flax class in float32, and those of the
PyTorch class of that version (`from_pretrained(..., from_flax=True)`) in float64.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import transformers

DIRECTORY = Path(__file__).with_name("transformers_flax")
WIDTHS = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, layer_norm_eps=1e-3)
SQUARE = dict(image_size=12, patch_size=4)
TOWER = WIDTHS | SQUARE | dict(intermediate_size=12)
TEXT = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12, vocab_size=30)

# Class, without `Flax`, and settings.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViTForImageClassification", TOWER | dict(num_labels=5)),
    "vit_pooler": ("ViTModel", TOWER | dict(hidden_act="gelu_new", qkv_bias=False)),
    "beit": (
        "BeitForImageClassification",
        TOWER | dict(num_labels=5, use_relative_position_bias=True, layer_scale_init_value=0.3),
    ),
    "beit_shared": (
        "BeitModel",
        TOWER | dict(use_shared_relative_position_bias=True, use_absolute_position_embeddings=True),
    ),
    "dinov2": ("Dinov2ForImageClassification", WIDTHS | SQUARE | dict(num_labels=5, mlp_ratio=2)),
    "clip": ("CLIPVisionModel", TOWER),
    "clip_whole": ("CLIPModel", dict(vision_config=TOWER, text_config=TEXT, projection_dim=5)),
}


def randomised(parameters: dict[str, Any]) -> dict[str, Any]:
    """Values in which no layer is hidden: norms and scales about 1, all else about 0."""
    rng = np.random.default_rng(0)

    def draw(path: tuple[Any, ...], value: jax.Array) -> np.ndarray:
        centre = 1.0 if path[-1].key in ("scale", "lambda_1", "lambda_2", "lambda1") else 0.0
        return (centre + 0.2 * rng.standard_normal(value.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, parameters)


def outputs_of(model: Any, pixels: Any) -> Any:
    """What the class makes of images."""
    if hasattr(model, "get_image_features"):
        return model.get_image_features(pixels)
    outputs = model(pixels)
    return outputs.logits if "logits" in outputs else outputs.pooler_output


def write(case: str) -> None:
    """Writes one model."""
    name, settings = CASES[case]
    flax_class, torch_class = getattr(transformers, f"Flax{name}"), getattr(transformers, name)
    model = flax_class(flax_class.config_class(**settings))
    model.params = randomised(model.params)
    model.save_pretrained(DIRECTORY / case)
    peer = torch_class.from_pretrained(DIRECTORY / case, from_flax=True).double().eval()
    images = np.random.default_rng(1).standard_normal((2, 12, 12, 3)).astype(np.float32)
    pixels = images.transpose(0, 3, 1, 2)
    flax = np.asarray(outputs_of(model, pixels))
    with torch.inference_mode():
        exact = outputs_of(peer, torch.tensor(pixels).double()).numpy()
    np.savez_compressed(DIRECTORY / case / "outputs.npz", images=images, flax=flax, torch=exact)


if __name__ == "__main__":
    for case in CASES:
        write(case)
