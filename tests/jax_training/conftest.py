"""The digits, and a tiny recipe on them."""

from __future__ import annotations

import pytest

from parity import recipes


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
    from parity.data import open_source

    directory = tmp_path_factory.mktemp("digits")
    open_source("digits", "train", data_dir=directory)
    return directory


@pytest.fixture
def tiny() -> recipes.Recipe:
    """A run of a few seconds."""
    return recipes.get(
        "digits",
        overrides={"patch_size": (4, 4), "depth": 2, "embed_dim": 16, "mlp_dim": 32},
        batch_size=32,
        steps=12,
        optimizer=recipes.Optimizer(learning_rate=3e-3, warmup_steps=4, weight_decay=0.05),
        drop_rate=0.1,
        drop_path_rate=0.1,
        eval_every=0,
        checkpoint_every=4,
        log_every=1,
    )
