"""Small tensors of every kind that containers hold, the same at every call."""

from __future__ import annotations

import ml_dtypes
import numpy as np


def samples() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "pos_embed": rng.normal(size=(1, 3, 4)).astype(np.float32),
        "blocks.0.attn.qkv.weight": rng.normal(size=(6, 4)).astype(np.float32),
        "blocks.0.attn.qkv.bias": rng.normal(size=6).astype(ml_dtypes.bfloat16),
        "head.weight": rng.normal(size=(2, 3, 2)).astype(np.float16),
        "head.bias": rng.normal(size=2),
        "index": np.arange(6).reshape(2, 3),
        "steps": np.array(7),
        "mask": np.array([True, False, True]),
        "none": np.zeros((0, 3), np.float32),
    }
