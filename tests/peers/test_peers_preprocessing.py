"""Preprocessing of real photographs against the sources' own transforms, in units of 0..255.

Whoever resizes with Pillow gets our pixels exactly, and what is left is float32's rounding of the normalisation; the
tensor backends of torchvision and transformers resize with PyTorch's kernels, and how far those are is a number of its
own. Photographs are scikit-learn's two, as they are, upright, and cut to odd sides.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import open_clip
import pytest
import timm.data
import torch
import torchvision
import transformers
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

from parity import configs
from parity.checkpoints.formats.huggingface.image_processor import (
    DEFAULTS,
    PROCESSORS,
    from_huggingface,
    to_huggingface,
)
from parity.configs import Preprocessing, VitConfig
from parity.configs.preprocessing import (
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    crop_pct_of,
)
from parity.data import preprocess
from parity.tolerances import PIXELS, PIXELS_OF_TENSORS

CHINA, FLOWER = load_sample_images().images
PHOTOS = {
    "china": CHINA,
    "flower": FLOWER,
    "upright": np.ascontiguousarray(CHINA.transpose(1, 0, 2)),
    "odd": np.ascontiguousarray(FLOWER[:301, :411]),
    "small": np.ascontiguousarray(CHINA[:97, :150]),
}

Transform = Callable[[Image.Image], torch.Tensor]


def pixels(inputs: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Inputs (h, w, c) without their normalisation, 0 to 255."""
    return (inputs.astype(np.float64) * preprocessing.std + preprocessing.mean) * 255


def worst(transform: Transform, preprocessing: Preprocessing, image_size: int | tuple[int, int]) -> float:
    """Largest difference over all photographs, in units of 0..255."""
    config = VitConfig(image_size=image_size, preprocessing=preprocessing, patch_size=1)
    found = 0.0
    for photo in PHOTOS.values():
        theirs = transform(Image.fromarray(photo)).numpy().transpose(1, 2, 0)
        ours = preprocess(photo, config)
        assert ours.shape == theirs.shape == (*config.image_size, 3)
        assert ours.dtype == theirs.dtype == np.float32
        found = max(found, np.abs(pixels(ours, preprocessing) - pixels(theirs, preprocessing)).max())
    return found


TIMM = {
    "center": (Preprocessing(crop_pct=0.9), 224),
    "center 0.95": (Preprocessing(crop_pct=0.95, mean=HALF, std=HALF), 240),
    "center 1": (Preprocessing(crop_pct=1.0, mean=OPENAI_CLIP_MEAN, std=OPENAI_CLIP_STD), 224),
    "center bilinear": (Preprocessing(crop_pct=0.875, interpolation="bilinear"), 225),
    "center oblong": (Preprocessing(crop_pct=0.9), (192, 160)),
    "squash": (Preprocessing(crop_mode="squash", crop_pct=1.0), 384),
    "squash crop": (Preprocessing(crop_mode="squash", crop_pct=0.875), (160, 224)),
    "border": (Preprocessing(crop_mode="border", crop_pct=1.0), 224),
    "border crop": (Preprocessing(crop_mode="border", crop_pct=0.8), (192, 161)),
}


@pytest.mark.parametrize("case", TIMM)
def test_timm(case):
    preprocessing, image_size = TIMM[case]
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    transform = timm.data.create_transform(
        (3, height, width),
        mean=preprocessing.mean,
        std=preprocessing.std,
        interpolation=preprocessing.interpolation,
        crop_pct=preprocessing.crop_pct,
        crop_mode=preprocessing.crop_mode,
    )
    assert worst(transform, preprocessing, image_size) <= PIXELS.limit


@pytest.mark.parametrize("name", ["vit_base_patch16_224", "vit_base_patch16_siglip_384", "eva_large_patch14_336"])
def test_timm_by_name(name):
    """The whole way: timm's own settings of a model and its own transform, against the registered config."""
    theirs = timm.data.resolve_data_config(pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict())
    config = configs.get(name)
    assert theirs["input_size"] == (3, *config.image_size)
    transform = timm.data.create_transform(**theirs)
    assert worst(transform, config.preprocessing, config.image_size) <= PIXELS.limit


OPEN_CLIP = {
    "shortest": (Preprocessing(crop_pct=1.0), 224),
    "shortest oblong": (Preprocessing(crop_pct=1.0), (160, 192)),
    "squash": (Preprocessing(crop_pct=1.0, crop_mode="squash", interpolation="bilinear"), 256),
    "longest": (Preprocessing(crop_pct=1.0, crop_mode="border", fill=0), 223),
    "longest grey": (Preprocessing(crop_pct=1.0, crop_mode="border", fill=128), 336),
}


@pytest.mark.parametrize("case", OPEN_CLIP)
def test_open_clip(case):
    preprocessing, image_size = OPEN_CLIP[case]
    transform = open_clip.image_transform(
        image_size,
        is_train=False,
        mean=preprocessing.mean,
        std=preprocessing.std,
        resize_mode={"center": "shortest", "squash": "squash", "border": "longest"}[preprocessing.crop_mode],
        interpolation=preprocessing.interpolation,
        fill_color=preprocessing.fill or 0,
    )
    assert worst(transform, preprocessing, image_size) <= PIXELS.limit


def torchvision_presets() -> dict[str, tuple[ImageClassification, Preprocessing]]:
    """Those of all ViT weights, and of sizes between."""
    presets = {
        f"{weights.__name__}.{entry.name}": entry.transforms()
        for weights in map(torchvision.models.get_model_weights, torchvision.models.list_models(include="vit_*"))
        for entry in weights
    }
    presets["232"] = ImageClassification(crop_size=224, resize_size=232, interpolation=InterpolationMode.BICUBIC)
    presets["odd"] = ImageClassification(crop_size=299, resize_size=342)
    return {
        name: (
            preset,
            Preprocessing(
                mean=tuple(preset.mean),
                std=tuple(preset.std),
                interpolation=preset.interpolation.value,
                crop_pct=crop_pct_of((preset.resize_size[0],) * 2, (preset.crop_size[0],) * 2),
            ),
        )
        for name, preset in presets.items()
    }


PRESETS = torchvision_presets()


@pytest.mark.parametrize("name", PRESETS)
def test_torchvision(name):
    preset, preprocessing = PRESETS[name]
    assert worst(preset, preprocessing, preset.crop_size[0]) <= PIXELS.limit


def test_torchvision_on_tensors():
    """The same preset on uint8 tensors: PyTorch's resize, which clamps after both passes, not after each."""
    preset, preprocessing = PRESETS["232"]
    found = worst(lambda image: preset(to_tensor(image)), preprocessing, 224)
    assert PIXELS.limit < found <= PIXELS_OF_TENSORS.limit


def to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())


# What published checkpoints say, beside the defaults of each class.
PUBLISHED = {
    "old ViT": ("ViT", {"do_normalize": True, "do_resize": True, "image_mean": HALF, "image_std": HALF, "size": 384}),
    "old CLIP": ("CLIP", {"crop_size": 224, "do_center_crop": True, "resample": 3, "size": 224}),
    "old DeiT": ("DeiT", {"crop_size": 224, "do_center_crop": True, "size": 256, "image_mean": IMAGENET_MEAN}),
    "DINOv2": (
        "Bit",
        {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}
        | {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD},
    ),
    "resnet-50": (
        "ConvNext",
        {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD},
    ),
    "odd crop": ("CLIP", {"size": {"shortest_edge": 257}, "crop_size": {"height": 224, "width": 224}}),
    "oblong": ("Siglip", {"size": {"height": 224, "width": 160}, "resample": 2}),
    "-1 to 1": ("ViT", {"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]}),
    "0 to 1": ("Beit", {"do_normalize": False}),
    "0 to 255": ("ViT", {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3}),
}
# MobileViT's own would resize to less than it crops.
SAID = {"MobileViT": {"size": {"shortest_edge": 288}, "crop_size": {"height": 256, "width": 256}, "resample": 2}}
SETTINGS = {name: (name, SAID.get(name, {})) for name in DEFAULTS} | PUBLISHED
SETTINGS["MobileViT, as it is"] = ("MobileViT", SAID["MobileViT"] | {"do_flip_channel_order": False})
PILLOW = [name for name, (processor, _) in SETTINGS.items() if processor not in ("Siglip2", "DINOv3ViT")]


def processor(name: str, backend: str, settings: dict[str, object]) -> Transform:
    cls = getattr(transformers, f"{name}ImageProcessor{backend}")
    run = cls(**settings)
    return lambda image: torch.as_tensor(run(image, return_tensors="pt")["pixel_values"][0])


@pytest.mark.parametrize("case", PILLOW)
def test_transformers_with_pillow(case):
    name, settings = SETTINGS[case]
    read = from_huggingface({"image_processor_type": f"{name}ImageProcessor", **settings})
    assert worst(processor(name, "Pil", settings), read.preprocessing, read.image_size) <= PIXELS.limit


@pytest.mark.parametrize("case", sorted(set(SETTINGS) - {"Siglip2"}))
def test_transformers_with_torchvision(case):
    name, settings = SETTINGS[case]
    read = from_huggingface({"image_processor_type": f"{name}ImageProcessorFast", **settings})
    found = worst(processor(name, "", settings), read.preprocessing, read.image_size)
    assert PIXELS.limit < found <= PIXELS_OF_TENSORS.limit


def test_siglip2_with_a_square_image():
    """Its processor returns patches: ours are cut the same way."""
    photo = CHINA[:427, 100:527]
    read = from_huggingface({"image_processor_type": "Siglip2ImageProcessor"})
    assert read.image_size == (256, 256)
    theirs = transformers.Siglip2ImageProcessorPil()(Image.fromarray(photo), return_tensors="np")
    assert theirs["spatial_shapes"].tolist() == [[16, 16]]
    ours = preprocess(photo, VitConfig(image_size=256, preprocessing=read.preprocessing))
    patches = ours.reshape(16, 16, 16, 16, 3).transpose(0, 2, 1, 3, 4).reshape(256, -1)
    assert np.abs(patches - theirs["pixel_values"][0]).max() * 127.5 <= PIXELS.limit


@pytest.mark.parametrize("name", sorted(set(DEFAULTS) - {"Siglip2"}))
def test_what_is_written_is_what_transformers_runs(name):
    """Every class takes a file that says all of it, whatever its defaults are."""
    # DINOv3's resizes images of floats, in which the overshoot of a bicubic kernel isn't clamped.
    kernel = "bilinear" if name == "DINOv3ViT" else "bicubic"
    for preprocessing, size in (
        (Preprocessing(crop_pct=0.875, crop_rounding="down", interpolation="bilinear"), (224, 224)),
        (Preprocessing(crop_pct=1.0, crop_rounding="down", crop_mode="squash", interpolation=kernel), (160, 192)),
        (Preprocessing(crop_pct=0.9, crop_rounding="down", crop_mode="squash", interpolation=kernel), (192, 192)),
    ):
        data = to_huggingface(preprocessing, size, processor=name)
        cls = getattr(transformers, data["image_processor_type"])
        written = data["image_processor_type"].removesuffix("ImageProcessor")
        backend = "" if name == "DINOv3ViT" else "Pil"
        limit = PIXELS_OF_TENSORS if name == "DINOv3ViT" else PIXELS
        settings = {key: value for key, value in data.items() if key != "image_processor_type"}
        assert cls.from_dict(data).to_dict().items() >= {"do_center_crop": data["do_center_crop"]}.items()
        assert worst(processor(written, backend, settings), preprocessing, size) <= limit.limit
        assert worst(processor(written, backend, settings), from_huggingface(data).preprocessing, size) <= limit.limit


def test_siglip2_written():
    preprocessing = Preprocessing(crop_pct=1.0, crop_mode="squash", crop_rounding="down", mean=HALF, std=HALF)
    data = to_huggingface(preprocessing, (196, 196), processor="Siglip2", patch_size=14)
    written = transformers.Siglip2ImageProcessorPil.from_dict(data)
    shapes = written(Image.fromarray(CHINA[:300, :300]), return_tensors="np")["spatial_shapes"]
    assert shapes.tolist() == [[14, 14]]
    read = from_huggingface(data)
    assert (read.preprocessing, read.image_size) == (preprocessing, (196, 196))


def test_the_class_of_each_model_is_transformers_own():
    for model_type, name in PROCESSORS.items():
        # A vision tower's is that of the whole model, register tokens change nothing.
        model = model_type.removesuffix("_vision_model").removesuffix("_with_registers")
        assert IMAGE_PROCESSOR_MAPPING_NAMES[model]["torchvision"] == f"{name}ImageProcessor"


def test_the_comparison_can_fail():
    """Half a pixel of rounding in the crop, another kernel, a mean off by one part in 255."""
    preset, right = PRESETS["232"]
    for change in ({"crop_rounding": "down"}, {"interpolation": "bilinear"}, {"crop_pct": 0.9}):
        assert worst(preset, configs.replace(right, **change), 224) > PIXELS_OF_TENSORS.limit
    preset.mean = [0.485, 0.456, 0.406 + 1 / 255]
    assert worst(preset, right, 224) == pytest.approx(1, abs=PIXELS.limit)
