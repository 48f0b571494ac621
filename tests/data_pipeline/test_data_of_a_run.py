"""What a run makes of an image folder: the channels of its model, and the same classes to train and to test on."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from parity import checkpoints, configs, recipes
from parity.configs import Preprocessing
from parity.configs.image_folder import FolderOptions
from parity.data import resize_and_crop
from parity.runs.inputs import Inputs

Image = pytest.importorskip("PIL.Image")
PHOTO = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Two classes, tagged as lying on their side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for split in ("fit", "held_out"):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            Image.fromarray(PHOTO).save(tmp_path / "pets" / split / name / "x.png", exif=exif)
    return tmp_path / "pets"


def _recipe(folder, channels, *, image_size=(12, 20), exif_orientation=False, **fields):
    options = FolderOptions(exif_orientation=exif_orientation)
    data = recipes.Data(name=str(folder), train_split="fit", test_split="held_out", folder=options, num_threads=0)
    overrides = {"in_chans": channels, "image_size": image_size, "patch_size": 4, **fields}
    return recipes.get("digits", model="vit_test", overrides=overrides, data=data, batch_size=2)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_have_the_channels_of_the_model(channels, folder):
    inputs = Inputs(_recipe(folder, channels))
    stored = PHOTO if channels == 3 else np.asarray(Image.fromarray(PHOTO).convert("L"))[..., None]
    expected = resize_and_crop(stored, (12, 20), inputs.config.preprocessing)
    with closing(inputs.train_batches()) as batches:
        train = next(batches)
    for batch in (train, next(inputs.test_batches())):
        np.testing.assert_array_equal(batch["image"], np.stack([expected] * 2))
    assert (inputs.config.in_chans, inputs.config.num_classes) == (channels, 2)
    assert len(inputs.config.preprocessing.mean) == channels


def test_images_are_upright_if_the_recipe_says_so(folder):
    inputs = Inputs(_recipe(folder, 3, image_size=(20, 12), exif_orientation=True))
    expected = resize_and_crop(np.rot90(PHOTO, -1), (20, 12), inputs.config.preprocessing)
    with closing(inputs.train_batches()) as batches:
        train = next(batches)
    for batch in (train, next(inputs.test_batches())):
        np.testing.assert_array_equal(batch["image"], np.stack([expected] * 2))


def test_classes_of_splits_of_any_name_are_the_same(folder):
    (folder / "held_out/cat").rename(folder / "held_out/Cat")
    message = r"pets: fit and held_out differ in their classes: only fit has cat; only held_out has Cat\. Labels count"
    with pytest.raises(ValueError, match=message):
        Inputs(_recipe(folder, 3))


def test_a_model_of_other_channels(folder):
    with pytest.raises(
        ValueError, match=r"^in_chans: the model takes 2 channels, and the images of .*pets can be read"
    ):
        Inputs(_recipe(folder, 2, preprocessing=Preprocessing(mean=(0.5,), std=(0.5,))))


def test_the_model_of_a_run_says_its_classes(folder):
    assert Inputs(_recipe(folder, 3)).start.source() == {"labels": ["cat", "dog"]}


@pytest.mark.parametrize(
    ("labels", "fits"), [(["cat", "dog"], True), (["Dog", "cat"], False), (["Cat", "DOG"], True), (["a", "b"], True)]
)
def test_a_checkpoint_whose_head_has_the_classes_in_another_order(labels, fits, folder, tmp_path):
    config = configs.get("vit_test", num_classes=2)
    rng = np.random.default_rng(0)
    shapes = checkpoints.parameter_shapes(config)
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    checkpoints.write(tmp_path / "model", config, tensors, source={"labels": labels})
    recipe = recipes.starting_from(_recipe(folder, 3), str(tmp_path / "model"))
    if fits:
        assert Inputs(recipe).start.source()["labels"] == ["cat", "dog"]
        return
    message = r"model: label 0 of the head is 'Dog', and of .*pets 'cat': .*; the class folders must be named so that"
    with pytest.raises(ValueError, match=message):
        Inputs(recipe)
