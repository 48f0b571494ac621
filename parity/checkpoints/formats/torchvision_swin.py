"""torchvision's Swin Transformers: state dicts of `swin_t`, `swin_v2_t` and their siblings.

Nothing in a file shows the image size or the preprocessing, which are those of the published weights of its sizes. What
is written here has the constructor's arguments beside the tensors, in `torchvision.json`, as of the ViTs.

Source: torchvision `models/swin_transformer.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...configs import Preprocessing
from ...configs.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from ...configs.rel_pos import relative_position_index
from ...configs.swin import SwinConfig
from ...configs.windows import log_distances
from ..accounting import CheckpointError
from ..assumed import Given
from ..checkpoint import Checkpoint
from . import swin_documents, swin_names
from .translate import Theirs, fill
from .weights import Weights

_CODE = dict(window_fit="pad", shift_mask=-100.0, act="gelu", norm_eps=1e-5)
# To what published weights resize images before the crop, by version, width and blocks of the third stage.
_RESIZED = {(1, 96, 6): 232, (1, 96, 18): 246, (1, 128, 18): 238, (2, 96, 6): 260, (2, 96, 18): 260, (2, 128, 18): 272}


def read(weights: Weights, given: Given, document: Mapping[str, Any], path: Path) -> Checkpoint:
    """Opens a state dict of torchvision's, alone or with `torchvision.json`; no tensor is read.

    Args:
        weights: The tensors.
        given: What the user says.
        document: The object of `torchvision.json`; empty for a lone file.
        path: What was opened.

    Raises:
        CheckpointError: Not a Swin of torchvision's, or tensors that don't fit.
    """
    is_second = "features.1.0.attn.logit_scale" in weights.shapes
    return swin_documents.read(
        weights,
        given,
        document,
        table=swin_names.torchvision(),
        known=_CODE | (dict(trained_windows=()) if is_second else {}),
        usual=_usual,
        path=path,
        format="torchvision",
    )


def expressed(path: Path, config: SwinConfig, tensors: Mapping[str, np.ndarray]) -> tuple[Theirs, dict[str, Any]]:
    """The tensors by torchvision's names, with its buffers, and the document beside them.

    `torchvision.models.SwinTransformer(**json["arguments"])` then loads the tensors strictly; of Swin V2 it takes
    `block=SwinTransformerBlockV2` and `downsample_layer=PatchMergingV2` besides.

    Raises:
        CheckpointError: A config that torchvision's Swin can't express; names the fields.
    """
    window, stages = config.window_sizes[0], config.num_stages
    expected = _CODE | dict(in_chans=3, window_sizes=(window,) * stages, trained_windows=())
    swin_documents.check_expressed(config, expected, path=path, format="torchvision")
    if not config.num_classes:
        raise CheckpointError(
            f"{path}: num_classes: got 0, and torchvision's Swin always has a head; say --num-classes"
        )
    index = relative_position_index((window, window))[1:, 1:].reshape(-1)
    added: dict[str, np.ndarray] = {}
    for stage, depth in enumerate(config.depths):
        for block in range(depth):
            attention = f"features.{2 * stage + 1}.{block}.attn"
            added[f"{attention}.relative_position_index"] = np.asarray(index, np.int64)
            if config.version == 2:
                distances = log_distances((window, window), 0).reshape(1, 2 * window - 1, 2 * window - 1, 2)
                added[f"{attention}.relative_coords_table"] = distances.astype(np.float32)
    arguments = {
        "patch_size": list(config.patch_size),
        "embed_dim": config.embed_dim,
        "depths": list(config.depths),
        "num_heads": list(config.num_heads),
        "window_size": [window, window],
        "mlp_ratio": swin_names.mlp_ratio(config),
        "num_classes": config.num_classes,
    }
    theirs = Theirs(fill(swin_names.torchvision(), config, source=str(path)), tensors, added=added)
    return theirs, {"format": "torchvision", "arguments": arguments} | swin_documents.kept(config)


def _usual(config: SwinConfig) -> tuple[Preprocessing, str]:
    resized = _RESIZED.get((config.version, config.embed_dim, (*config.depths, 0, 0, 0)[2]))
    crop = 1.0 if resized is None else config.image_size[0] / resized
    images = Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="bicubic", crop_pct=min(crop, 1.0))
    return images, "that of torchvision's weights of these sizes"
