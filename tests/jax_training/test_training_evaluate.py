"""Evaluation counts every image once, and metrics go where they should."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from flax import nnx

from parity.data import eval_batches, normalize, open_source
from parity.runs.metrics import MetricsWriter, read_metrics
from parity.tolerances import FORMULA
from vit_jax.evaluate import evaluate
from vit_jax.models import create_model
from vit_jax.sharding import make_mesh
from vit_jax.state_dict import canonical_shapes, load_state_dict


@pytest.fixture(scope="module")
def model():
    model = nnx.eval_shape(lambda: create_model("vit_digits", depth=1, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    shapes = canonical_shapes(model)
    load_state_dict(model, {name: rng.normal(0, 0.2, shape).astype("float32") for name, shape in shapes.items()})
    return model


def test_padding_of_the_last_batch_does_not_count(model, digits_dir):
    config = model.config
    source = open_source("digits", "test", data_dir=digits_dir)
    options = {"image_size": config.image_size, "preprocessing": config.preprocessing}
    padded = evaluate(model, eval_batches(source, batch_size=100, **options))
    whole = evaluate(model, eval_batches(source, batch_size=360, **options), mesh=make_mesh(devices=jax.devices()[:1]))
    assert padded.count == whole.count == len(source) == 360
    assert padded.labels.tolist() == [example["label"] for example in source]
    assert padded.predictions.tolist() == whole.predictions.tolist()
    images = np.stack([example["image"] for example in source])
    graphdef, state = nnx.split(model)
    images = normalize(images, config.preprocessing)
    logits = jax.jit(lambda state, images: nnx.merge(graphdef, state)(images))(state, images)
    assert padded.accuracy == np.mean(np.asarray(logits).argmax(-1) == padded.labels)
    assert padded.loss == pytest.approx(padded.losses.astype(float).sum() / 360, rel=FORMULA.limit)


def test_no_image_is_an_error(model):
    with pytest.raises(ValueError, match="expected at least one image"):
        evaluate(model, [])


def test_metrics_beyond_the_resumed_step_are_taken_out(tmp_path):
    writer = MetricsWriter(tmp_path, step=0)
    for step in range(1, 6):
        writer.write(step, {"train/loss": 1 / step})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "tr')
    writer = MetricsWriter(tmp_path, step=3)
    writer.write(4, {"train/loss": 9.0})
    writer.close()
    assert read_metrics(tmp_path) == [{"step": s, "train/loss": 1 / s} for s in (1, 2, 3)] + [
        {"step": 4, "train/loss": 9.0}
    ]
    assert all(json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert list((tmp_path / "tensorboard").iterdir())
