"""Advice on keys that are not where they were typed."""

import pytest

from athanor.engine.config.settings import advice, paths_of

CONFIG = {
    "seed": 0,
    "optim": {"lr": 0.1, "betas": [1], "momentum": 0.9},
    "scheduler": {"momentum": {"start": 1}, "floor": 0},
    "model": {"dropout": 0.1, "norm": "batch", "width": 3},
    "trainer": {"max_epochs": 1, "devices": 1},
}
PATHS = list(paths_of(CONFIG))


def test_the_places_of_a_config_are_its_nodes_and_values():
    assert PATHS[:5] == ["seed", "optim", "optim.lr", "optim.betas", "optim.momentum"]
    assert "scheduler.momentum" in PATHS and "scheduler.momentum.start" in PATHS


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("lr", "did you mean optim.lr=1?"),  # the same name elsewhere
        ("LR", "did you mean optim.lr=1?"),
        ("model.lr", "did you mean optim.lr=1?"),
        ("optim.learning_rate", "did you mean optim.lr=1?"),  # as other programs call it
        ("gpus", "did you mean trainer.devices=1?"),
        ("epochs", "did you mean trainer.max_epochs=1?"),
        ("momentum", "did you mean optim.momentum=1 or scheduler.momentum=1?"),
        ("model.dropot", "did you mean model.dropout=1?"),  # a similar name in the same node
        ("sede", "did you mean seed=1?"),
        ("Optim", "did you mean optim=1?"),
        ("max_epoch", "did you mean trainer.max_epochs=1?"),  # and elsewhere
        ("model.zzz", "choose from: dropout, norm, width"),
    ],
)
def test_the_same_name_comes_first_then_a_similar_one_here_and_elsewhere(path, expected):
    assert advice(path, PATHS, "=1") == expected


def test_a_name_that_is_there_is_no_synonym():
    assert advice("model.epochs", [*PATHS, "scheduler.epochs"]) == "did you mean scheduler.epochs?"
