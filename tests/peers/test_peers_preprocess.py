"""`preprocess` of both twins against timm's own transform of the same files, opened as timm opens them."""

from __future__ import annotations

import numpy as np
import pytest
import timm.data
from PIL import Image
from sklearn.datasets import load_sample_images

import vit_jax
import vit_torch
from parity import configs
from parity.tolerances import PIXELS

PHOTO = Image.fromarray(load_sample_images().images[0][:301, :411])
ALPHA = PHOTO.convert("L").rotate(90).resize(PHOTO.size)


def _with_alpha(image: Image.Image) -> Image.Image:
    image.putalpha(ALPHA)
    return image


FILES = {
    "colour.jpg": PHOTO,
    "colour.png": PHOTO,
    "grey.jpg": PHOTO.convert("L"),
    "alpha.png": _with_alpha(PHOTO.copy()),
    "grey_alpha.png": _with_alpha(PHOTO.convert("L")),
    "palette.gif": PHOTO.quantize(64),
    "cmyk.jpg": PHOTO.convert("CMYK"),
    "line_art.png": PHOTO.convert("1"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("files")
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, image in FILES.items():
        image.save(path / name, **({"exif": exif} if name.endswith(".jpg") else {}))
    return path


def worst(name: str, folder, model: object = None) -> float:
    """Largest difference of either twin over all files and ways to give them, in units of 0..255."""
    config = timm.data.resolve_data_config(pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict())
    transform = timm.data.create_transform(**config)
    paths = [folder / file for file in FILES]
    theirs = []
    for path in paths:
        with Image.open(path) as image:
            theirs.append(transform(image.convert("RGB")).numpy().transpose(1, 2, 0))
    pictures = [Image.open(path) for path in paths]
    arrays = [np.asarray(picture.convert("RGB")) for picture in pictures]
    found = 0.0
    for given in (paths, [str(path) for path in paths], pictures, arrays):
        flax = np.asarray(vit_jax.preprocess(given, model or name))
        torchs = vit_torch.preprocess(given, model or name).permute(0, 2, 3, 1).numpy()
        scale = 255 * np.array(configs.get(name).preprocessing.std)
        found = max(found, *(float(np.abs((ours - np.stack(theirs)) * scale).max()) for ours in (flax, torchs)))
    for picture in pictures:
        picture.close()
    return found


@pytest.mark.parametrize("name", ["vit_base_patch16_224", "vit_tiny_patch16_384", "vit_base_patch16_siglip_224"])
def test_files_are_what_timm_makes_of_them(name, folder):
    assert worst(name, folder) <= PIXELS.limit


def test_the_comparison_can_fail(folder):
    name = "vit_base_patch16_224"
    other = configs.replace(configs.get(name).preprocessing, crop_pct=0.92)
    assert worst(name, folder, configs.get(name, preprocessing=other)) > PIXELS.limit
