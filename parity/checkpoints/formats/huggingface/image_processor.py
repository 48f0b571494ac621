"""Hugging Face's `preprocessor_config.json` to and from `Preprocessing`.

A file may leave out what its class has as a default, and old files leave out the class: then the model's type says it.
SigLIP 2's processor keeps the shape of an image and gives it as many patches as it may have; here it becomes the squash
to a square of that many, which is the same for square images.
Source: transformers `image_processing_backends.py` and the image processors of the models named here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ....configs import Preprocessing, close_match
from ....configs.preprocessing import (
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    CropMode,
    Interpolation,
    crop_pct_of,
)

# Pillow's numbers of its kernels.
_RESAMPLE: dict[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
_BILINEAR, _BICUBIC = 2, 3
_SHORTEST_224 = {"shortest_edge": 224}
_SQUARE_224 = {"height": 224, "width": 224}


def _defaults(resample: int, mean: tuple[float, ...], std: tuple[float, ...], **others: Any) -> dict[str, Any]:
    return {
        "resample": resample,
        "image_mean": mean,
        "image_std": std,
        "size": _SQUARE_224,
        "crop_size": _SQUARE_224,
        "do_center_crop": False,
        "default_to_square": True,
        **others,
    }


_SHORT_SIDE = dict(size=_SHORTEST_224, do_center_crop=True, default_to_square=False)

# Defaults of the classes, by the name without `ImageProcessor`.
DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": _defaults(_BILINEAR, HALF, HALF),
    "DeiT": _defaults(_BICUBIC, HALF, HALF, size={"height": 256, "width": 256}, do_center_crop=True),
    "Beit": _defaults(_BICUBIC, HALF, HALF),
    "Bit": _defaults(_BICUBIC, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, **_SHORT_SIDE),
    "CLIP": _defaults(_BICUBIC, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, **_SHORT_SIDE),
    "Siglip": _defaults(_BICUBIC, HALF, HALF, default_to_square=False),
    "Siglip2": _defaults(_BILINEAR, HALF, HALF, patch_size=16, max_num_patches=256),
    "Pvt": _defaults(_BICUBIC, IMAGENET_MEAN, IMAGENET_STD),
    "Segformer": _defaults(_BILINEAR, IMAGENET_MEAN, IMAGENET_STD, size={"height": 512, "width": 512}),
    "ConvNext": _defaults(
        _BICUBIC, HALF, HALF, size={"shortest_edge": 384}, default_to_square=False, crop_pct=224 / 256
    ),
    "DINOv3ViT": _defaults(_BILINEAR, IMAGENET_MEAN, IMAGENET_STD),
    # Without a file the class would resize to less than it cuts; published files say 288.
    "MobileViT": _defaults(
        _BICUBIC,
        HALF,
        HALF,
        size={"shortest_edge": 288},
        crop_size={"height": 256, "width": 256},
        do_center_crop=True,
        default_to_square=False,
        do_normalize=False,
        do_flip_channel_order=True,
    ),
}

# The class for a `model_type`, as AutoImageProcessor has it.
PROCESSORS: dict[str, str] = {
    "vit": "ViT",
    "vit_mae": "ViT",
    "vit_msn": "ViT",
    "ijepa": "ViT",
    "deit": "DeiT",
    "beit": "Beit",
    "data2vec-vision": "Beit",
    "dinov2": "Bit",
    "dinov2_with_registers": "Bit",
    "dinov3_vit": "DINOv3ViT",
    "clip": "CLIP",
    "clip_vision_model": "CLIP",
    "siglip": "Siglip",
    "siglip_vision_model": "Siglip",
    "siglip2": "Siglip2",
    "siglip2_vision_model": "Siglip2",
    "swin": "ViT",
    "swinv2": "ViT",
    "pvt_v2": "Pvt",
    "segformer": "Segformer",
    "resnet": "ConvNext",
    "mobilevit": "MobileViT",
    "mobilevitv2": "MobileViT",
}


@dataclass(frozen=True)
class ImageProcessor:
    """What a `preprocessor_config.json` says.

    Attributes:
        preprocessing: How images become inputs.
        image_size: Height and width that they have then; DINOv2's differs from the one in its `config.json`.
    """

    preprocessing: Preprocessing
    image_size: tuple[int, int]


def from_huggingface(data: Mapping[str, Any], *, model_type: str | None = None) -> ImageProcessor:
    """Reads a `preprocessor_config.json`.

    Args:
        data: The file's object.
        model_type: The model type of `config.json`, for a file that doesn't name its class.

    Raises:
        ValueError: A class that isn't known, or what `Preprocessing` can't say, such as images of varying sizes.
    """
    try:
        return _read(data, model_type)
    except (TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"not the values of an image processor: {error}") from None


def _read(data: Mapping[str, Any], model_type: str | None) -> ImageProcessor:
    processor = _processor(data, model_type)
    settings = {**DEFAULTS[processor], **{key: value for key, value in data.items() if value is not None}}
    if not settings.get("do_resize", True):
        raise ValueError("do_resize: got false, expected true: images of one size")
    if processor == "Siglip2":
        settings["size"] = math.isqrt(settings["max_num_patches"]) * settings["patch_size"]
    if processor == "ConvNext":
        settings |= _of_convnext(settings)
    size = _size(settings["size"], square=settings["default_to_square"])
    mode: CropMode = "center" if set(size) == {"shortest_edge"} else "squash"
    resized = (size["shortest_edge"], size["shortest_edge"]) if mode == "center" else _pair("size", size)
    cut = resized
    if settings["do_center_crop"]:
        cut = _pair("crop_size", _size(settings["crop_size"], square=True))
    elif mode == "center":
        raise ValueError(f"size: got {size} without a crop, expected images of one size")
    if processor == "MobileViT":
        settings["do_normalize"] = False  # which that class doesn't do, whatever its file says
    mean, std = _normalisation(settings, channels=3)
    preprocessing = Preprocessing(
        mean=mean,
        std=std,
        interpolation=_interpolation(settings["resample"]),
        crop_pct=crop_pct_of(resized, cut),
        crop_mode=mode,
        crop_rounding="down",
        channel_order="bgr" if settings.get("do_flip_channel_order") else "rgb",
    )
    return ImageProcessor(preprocessing, cut)


def to_huggingface(
    preprocessing: Preprocessing, image_size: tuple[int, int], *, processor: str = "ViT", patch_size: int = 16
) -> dict[str, Any]:
    """Writes a `preprocessor_config.json`, with every field that matters.

    Where the rest around a crop is odd, transformers rounds down whatever `crop_rounding` says: a shift by one pixel.

    Args:
        preprocessing: How images become inputs.
        image_size: Height and width of the inputs.
        processor: A name in `DEFAULTS`: which class reads the file.
        patch_size: Side of a patch; only SigLIP 2's class asks for it.

    Raises:
        ValueError: What transformers can't say: borders, short sides of inputs that aren't square, and another order of
            channels of normalised images.
    """
    if processor not in DEFAULTS:
        raise ValueError(f"processor: got {processor!r}, expected one of {', '.join(DEFAULTS)}")
    if preprocessing.crop_mode == "border":
        raise ValueError("crop_mode: got 'border', expected 'center' or 'squash': transformers has no borders")
    resized = preprocessing.resized(image_size)
    if preprocessing.crop_mode == "squash":
        size = {"height": resized[0], "width": resized[1]}
    elif resized[0] == resized[1]:
        size = {"shortest_edge": resized[0]}
    else:
        raise ValueError(f"image_size: got {image_size}, expected a square: transformers resizes the short side alone")
    if processor == "Siglip2":
        square = preprocessing.crop_mode == "squash" and resized == image_size and image_size[0] == image_size[1]
        if not square:
            raise ValueError("preprocessing: expected a squash to a square without a crop for SigLIP 2's class")
        others = {"patch_size": patch_size, "max_num_patches": (image_size[0] // patch_size) ** 2}
    else:
        others = {
            "size": size,
            "do_center_crop": preprocessing.crop_mode == "center" or resized != image_size,
            "crop_size": {"height": image_size[0], "width": image_size[1]},
        }
    if processor == "ConvNext" or (processor == "Segformer" and others["do_center_crop"]):  # which have no crop to say
        processor = "ViT"
    is_plain = (set(preprocessing.mean), set(preprocessing.std)) == ({0.0}, {1.0})
    if processor == "MobileViT" and is_plain and preprocessing.crop_mode == "center":
        others["do_flip_channel_order"] = preprocessing.channel_order == "bgr"
    elif preprocessing.channel_order == "bgr":
        expected = "'rgb', or images from 0 to 1 that are cropped, for MobileViT's class, which alone turns it round"
        raise ValueError(f"channel_order: got 'bgr', expected {expected}")
    elif processor == "MobileViT":
        processor = "ViT"
    return {
        "image_processor_type": f"{processor}ImageProcessor",
        "do_resize": True,
        "resample": next(number for number, name in _RESAMPLE.items() if name == preprocessing.interpolation),
        **others,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }


def _of_convnext(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Images below 384 pixels are cut out of the middle of larger ones, others squashed."""
    size = _size(settings["size"], square=False)
    if set(size) != {"shortest_edge"}:
        raise ValueError(f"size: got {size}, expected shortest_edge")
    side = size["shortest_edge"]
    square = {"height": side, "width": side}
    if side >= 384:
        return {"size": square, "do_center_crop": False}
    return {"size": {"shortest_edge": int(side / settings["crop_pct"])}, "do_center_crop": True, "crop_size": square}


def _processor(data: Mapping[str, Any], model_type: str | None) -> str:
    name = data.get("image_processor_type") or data.get("feature_extractor_type")
    if name is None:
        if model_type not in PROCESSORS:
            raise ValueError(f"image_processor_type: missing, and model_type {model_type!r} doesn't say it")
        return PROCESSORS[model_type]
    short = name
    for suffix in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        short = short.removesuffix(suffix)
    if short not in DEFAULTS:
        known = [f"{key}ImageProcessor" for key in DEFAULTS]
        raise ValueError(
            f"image_processor_type: got {name!r}, expected one of {', '.join(known)}{close_match(name, known)}"
        )
    return short


def _size(size: Any, *, square: bool) -> dict[str, int]:
    """A size as transformers has it since 4.26: a number was the side of a square, or the short side."""
    if isinstance(size, int):
        return {"height": size, "width": size} if square else {"shortest_edge": size}
    if isinstance(size, list | tuple) and len(size) == 2:
        return {"height": size[0], "width": size[1]}
    if not isinstance(size, Mapping):
        raise ValueError(f"size: got {size!r}, expected a number or an object")
    return {key: value for key, value in size.items() if value is not None}


def _pair(name: str, size: Mapping[str, int]) -> tuple[int, int]:
    if set(size) != {"height", "width"}:
        raise ValueError(f"{name}: got {dict(size)}, expected height and width, or shortest_edge with a crop")
    return size["height"], size["width"]


def _interpolation(resample: int) -> Interpolation:
    if resample not in _RESAMPLE:
        known = ", ".join(f"{number} ({name})" for number, name in _RESAMPLE.items())
        raise ValueError(f"resample: got {resample!r}, expected one of {known}")
    return _RESAMPLE[resample]


def _normalisation(settings: Mapping[str, Any], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of images in [0, 1], whatever the file scales them to."""
    factor = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
    normalise = settings.get("do_normalize", True)
    mean, std = (
        value if isinstance(value, list | tuple) else (value,) * channels
        for value in ((settings["image_mean"], settings["image_std"]) if normalise else (0.0, 1.0))
    )
    scale = 255 * factor
    if round(scale, 6) == 1:  # 0.00392156862745098 is a 255th
        return tuple(mean), tuple(std)
    return tuple(value / scale for value in mean), tuple(value / scale for value in std)
