"""Distillation: twin against twin, the loss against the equations of its papers, and what a run says of a teacher."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from parity import checkpoints, configs, recipes
from parity.checks import check_precision, check_training, random_parameters
from parity.checks.runs import TorchRun
from parity.checks.training import RECIPE
from parity.recipes import Distillation, is_cast
from parity.tolerances import FORMULA
from vit_torch import random
from vit_torch.objectives import make_objective

SIZES = dict(embed_dim=24, depth=1, num_heads=3, mlp_dim=40)
STUDENT = configs.get("vit_digits", **SIZES)
TOKEN = configs.replace(STUDENT, dist_token=True, class_token=True, global_pool="token")
STEPS = 3


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Native checkpoints: of the student's size, and of another one, for colours, with other means."""
    folder = tmp_path_factory.mktemp("teachers")
    other = configs.get("vit_test_dinov3", image_size=(24, 16), num_classes=10).shortened(1)
    made = {}
    for name, config in {"same": configs.replace(STUDENT, num_classes=10), "other": other}.items():
        made[name] = folder / name
        tensors = random_parameters(checkpoints.parameter_shapes(config), seed=7)
        checkpoints.write(made[name], config, {key: value.astype(np.float32) for key, value in tensors.items()})
    return made


def recipe(teacher, **options):
    return dataclasses.replace(RECIPE, objective=Distillation(teacher=str(teacher), **options))


@pytest.mark.parametrize(
    ("student", "teacher", "options"),
    [
        (STUDENT, "same", {"kind": "soft", "temperature": 3.0, "alpha": 0.7}),
        (TOKEN, "other", {}),
    ],
    ids=["soft, one head", "hard, token, another size"],
)
def test_the_twins_learn_the_same(teachers, student, teacher, options):
    chosen = recipe(teachers[teacher], **options)
    report = check_training(student, steps=STEPS, dtypes=["float64"], batch_size=4, recipe=chosen)
    assert report.passed, report.failures


def test_mixed_precision_is_checked_with_the_teacher(teachers):
    chosen = recipe(teachers["same"], kind="soft", temperature=3.0)
    report = check_precision(STUDENT, dtypes=["bfloat16"], batch_size=64, recipe=chosen)
    assert report.passed, report.failures


def test_a_distillation_that_differs_is_noticed(teachers, monkeypatch):
    """PyTorch's step with another temperature is another run."""
    import vit_torch.objectives.distillation as module

    original = module.divergence
    monkeypatch.setattr(
        module, "divergence", lambda *args, temperature: original(*args, temperature=temperature * (1 + 1e-6))
    )
    chosen = recipe(teachers["same"], kind="soft", temperature=2.0)
    report = check_training(STUDENT, steps=STEPS, dtypes=["float64"], batch_size=4, recipe=chosen)
    assert not report.passed
    assert report.failures[0].startswith("float64: loss: first divergence at step 1")


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_the_loss_is_that_of_the_papers(teachers, kind):
    """DeiT's equations 2 and 3, written with PyTorch's own losses, on the logits of both heads."""
    tau = 3.0 if kind == "soft" else 1.0
    chosen = dataclasses.replace(
        recipe(teachers["same"], kind=kind, temperature=tau, alpha=0.3), precision="float64", label_smoothing=0.0
    )
    teacher = vit_load(teachers["same"])
    objective = make_objective(chosen, configs.replace(TOKEN, num_classes=10), {"teacher": teacher})
    model = objective.create().double().eval()
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (6, 8, 8, 1), dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, 10, 6))
    plain = dataclasses.replace(chosen, data=recipes.Data(name="digits"))
    objective.recipe = plain
    inputs = objective.inputs({"image": images, "label": labels})
    found = objective.loss(model, {"teacher": teacher}, {}, inputs, random.key(0))

    with torch.no_grad():
        label_head, teacher_head = model.forward_heads(model.forward_features(inputs["images"]))
        truth = teacher(inputs["images"])
    F = torch.nn.functional
    if kind == "hard":
        distilled = F.cross_entropy(teacher_head, truth.argmax(dim=1))
    else:
        log_p, log_q = (F.log_softmax(x / tau, dim=1) for x in (truth, teacher_head))
        distilled = F.kl_div(log_q, log_p, log_target=True, reduction="batchmean") * tau**2
    expected = 0.7 * F.cross_entropy(label_head, labels) + 0.3 * distilled
    np.testing.assert_allclose(found.value.item(), expected.item(), rtol=FORMULA.limit)
    # The images of a teacher of the same size and normalisation are the student's.
    assert torch.equal(inputs["teacher_images"], inputs["images"])


def vit_load(path):
    import vit_torch

    return vit_torch.load(path, dtype=torch.float64)


def test_the_teacher_stays_as_it_is(teachers):
    chosen = dataclasses.replace(recipe(teachers["same"]), batch_size=4, precision="float64")
    frozen = {"teacher": checkpoints.open_checkpoint(teachers["same"])}
    config = configs.replace(STUDENT, num_classes=10)
    run = TorchRun(chosen, config, random_parameters(checkpoints.parameter_shapes(config)), frozen)
    teacher = run.trainer.objective.frozen["teacher"]
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    batch = {"image": np.zeros((4, 8, 8, 1), np.uint8), "label": np.arange(4, dtype=np.int32)}
    batch |= {"lam": np.full(4, 0.5, np.float32), "box": np.zeros((4, 4), np.int32)}
    run.step(batch)
    run.step(batch)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not teacher.training


def test_a_teachers_statistics_keep_their_bits(tmp_path):
    """Its kernels are cast to bfloat16, in both twins alike; what else it has isn't."""
    config = configs.replace(STUDENT, num_classes=10, patch_size=2, stem="conv", stem_convs=((8, 3, 2),))
    tensors = random_parameters(checkpoints.parameter_shapes(config), seed=7)
    checkpoints.write(tmp_path / "teacher", config, {key: value.astype(np.float32) for key, value in tensors.items()})
    chosen = recipe(tmp_path / "teacher", kind="soft")
    run = TorchRun(
        dataclasses.replace(chosen, precision="bfloat16"),
        configs.replace(STUDENT, num_classes=10),
        random_parameters(checkpoints.parameter_shapes(configs.replace(STUDENT, num_classes=10))),
        {"teacher": checkpoints.open_checkpoint(tmp_path / "teacher")},
    )
    teacher = run.trainer.objective.frozen["teacher"]
    for name, value in teacher.named_parameters():
        assert value.dtype == (torch.bfloat16 if is_cast(name, value.shape) else torch.float32), name
    assert {value.dtype for value in teacher.buffers()} == {torch.float32}
    report = check_training(STUDENT, steps=STEPS, dtypes=["bfloat16"], batch_size=4, recipe=chosen)
    assert report.passed, report.failures


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "medium"}, r"objective\.kind: got 'medium'"),
        ({"alpha": 1.5}, r"objective\.alpha: got 1\.5"),
        ({"kind": "soft", "temperature": 0.0}, r"objective\.temperature: got 0\.0"),
        ({"temperature": 2.0}, r"expected 1 with kind 'hard'"),
    ],
)
def test_fields_that_make_no_objective(fields, message):
    with pytest.raises(ValueError, match=message):
        Distillation(teacher="there", **fields)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "destillation"}, r"objective\.name: got 'destillation'.*did you mean 'distillation'"),
        ({"name": "distillation", "techer": "x"}, r"objective: unknown field 'techer'; did you mean 'teacher'"),
        ("distillation", "objective: got str, expected an object"),
    ],
)
def test_json_that_makes_no_objective(data, message):
    with pytest.raises(ValueError, match=message):
        recipes.from_dict(recipes.to_dict(RECIPE) | {"objective": data})


def test_a_recipe_with_a_teacher_survives_json():
    chosen = recipe("there", kind="soft", temperature=2.0, teacher_options={"image_size": (24, 16)})
    assert recipes.from_dict(recipes.to_dict(chosen)) == chosen
    assert recipes.differences(RECIPE, chosen)


def test_a_recipe_of_before_is_a_classification():
    data = {name: value for name, value in recipes.to_dict(RECIPE).items() if name != "objective"}
    assert recipes.from_dict(data) == RECIPE
