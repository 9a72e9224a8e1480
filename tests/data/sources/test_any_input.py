"""Data of every kind in a person's own project folder: trained, resumed to the bit, evaluated, predicted, exported."""

from functools import partial

import numpy as np
import pytest
import torch

from athanor.engine.runs.run import Run, read_checkpoint

CODE = """
import numpy as np
import torch
from torch import nn
from athanor.data.sources import digits
from athanor.data.sources.source import Source

def vectors() -> Source:
    inputs = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32) * 50 + 1000
    inputs[:, 4] = 0.1
    labels = (inputs[:, :3].sum(1) > 3000).astype(np.int64)
    return Source(inputs[:200], labels[:200], inputs[200:], labels[200:], ("low", "high"), "vectors")

def numbers() -> Source:
    source = vectors()
    targets = [part[:, :2] / 7 for part in (source.train_inputs, source.test_inputs)]
    return Source(source.train_inputs, targets[0], source.test_inputs, targets[1], (), "numbers")

def grey16() -> Source:
    source = digits.digits()
    images = [(part.numpy().astype(np.uint16) * 257)[:300] for part in (source.train_inputs, source.test_inputs)]
    labels = [part.numpy()[:300] for part in (source.train_targets, source.test_targets)]
    return Source(images[0], labels[0], images[1], labels[1], source.class_names, "grey16")

def floats() -> Source:
    source = grey16()
    images = [part.float() / 65535 for part in (source.train_inputs, source.test_inputs)]
    return Source(images[0], source.train_targets, images[1], source.test_targets, source.class_names, "floats")

def sequences() -> Source:
    inputs = np.random.default_rng(0).integers(0, 9, size=(300, 12))
    labels = (inputs == 3).sum(1).clip(max=2)
    return Source(inputs[:200], labels[:200], inputs[200:], labels[200:], ["none", "one", "more"], "sequences")

def validated() -> Source:
    s = vectors()
    cut = slice(0, 50)
    return Source(s.train_inputs, s.train_targets, s.test_inputs[50:], s.test_targets[50:], s.class_names, "validated",
                  val_inputs=s.test_inputs[cut], val_targets=s.test_targets[cut])

class Bag(nn.Module):
    def __init__(self, *, input_shape, num_classes, tokens, width):
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.dropout(self.embedding(x).sum(1)))
"""
MLP = ["model=mlp", "model.widths=[16]"]
KINDS = {  # words, type and shape of an input, the headline
    "vectors": (MLP, "float32", [6], "acc"),
    "numbers": ([*MLP, "task=regression", "model.dropout=0"], "float32", [6], "rmse"),
    "grey16": (["data.augment.shift=1", "data.augment.flip=true", "data.augment.cutout=2"], "uint16", [1, 8, 8], "acc"),
    "floats": (["model=linear", "data.preprocess=none", "data.augment.crop=1"], "float32", [1, 8, 8], "acc"),
    "sequences": (["model=bag", "optim.lr=0.03"], "int64", [12], "acc"),
    "validated": (MLP, "float32", [6], "acc"),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def run_kind(train, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(CODE)
    for group, texts in {
        "data": {kind: f"defaults: [base/default@_here_, _self_]\n_target_: mine.{kind}\n" for kind in KINDS},
        "model": {"bag": "_target_: mine.Bag\ntokens: 9\nwidth: 8\n"},
    }.items():
        (tmp_path / "configs" / group).mkdir(parents=True)
        for name, text in texts.items():
            (tmp_path / "configs" / group / f"{name}.yaml").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["data.batch_size=32", "trainer.max_epochs=2"]
    return lambda kind, *more: train("--config-dir", "configs", f"data={kind}", *words, *KINDS[kind][0], *more)


@every_kind
def test_it_is_trained_resumed_to_the_bit_evaluated_and_predicts(kind, run_kind, run_here, assert_resumed):
    assert_resumed(partial(run_kind, kind), "callbacks=ema", places=[7])
    _, dtype, shape, headline = KINDS[kind]
    run = Run("whole")
    record = read_checkpoint(run.checkpoint)["athanor"]
    assert (record["input_dtype"], record["input_shape"], run.headline) == (dtype, shape, headline)
    ran = run_here("scripts/evaluate.py", "whole")
    assert f"(recorded {run.results['test'][headline]!r})" in ran.out, ran.err
    inputs = torch.ones(3, *shape).to(getattr(torch, dtype)).numpy()
    np.save("one.npy", inputs[0])
    np.save("three.npy", inputs)
    ran = run_here("scripts/predict.py", "whole", "one.npy", "three.npy", "--csv", "said.csv")
    names = [line.partition("  ")[0] for line in ran.out.splitlines()]
    assert names == ["one.npy[0]", "three.npy[0]", "three.npy[1]", "three.npy[2]"], ran.err
    np.save("wrong.npy", inputs.astype(np.float64))
    ran = run_here("scripts/predict.py", "whole", "wrong.npy")
    assert ran.code == 1 and f"the model takes {dtype} {shape} or several, [N, ...]" in ran.err


@every_kind
@pytest.mark.slow
def test_it_goes_on_to_the_bit_from_anywhere_and_is_swept(kind, run_kind, assert_resumed):
    assert_resumed(partial(run_kind, kind))
    ran = run_kind(kind, "-m", "seed=0,1", "hydra.sweep.dir=sweep")
    assert ran.code == 0 and "2 jobs; " in ran.out, ran.err


@pytest.mark.parametrize(
    ("kind", "form"), [("vectors", "torch"), ("sequences", "torch"), ("sequences", "onnx"), ("grey16", "onnx")]
)
def test_its_export_takes_raw_inputs(kind, form, run_kind, run_here):
    if form == "onnx":
        pytest.importorskip("onnxruntime")
    assert run_kind(kind, "trainer.max_epochs=1", "hydra.run.dir=run").code == 0
    ran = run_here("scripts/export.py", "run", "--format", form)
    assert ran.code == 0 and f"test inputs of {kind}" in ran.out, ran.err


def test_an_official_validation_set_judges_an_ensemble_whose_members_saw_all_of_train(run_kind, run_here):
    ran = run_kind("validated", "-m", "seed=0,1", "hydra.sweep.dir=sweep", "trainer.max_epochs=1")
    assert ran.code == 0, ran.err
    data = Run("sweep/0_seed=0").results["data"]
    assert (data["train"], data["val"], data["test"]) == (200, 50, 50) and "val_hash" in data
    ran = run_here("scripts/ensemble.py", "sweep", "--select", "greedy")
    assert ran.code == 0, ran.err


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        (
            "vectors",
            ["model=cnn"],
            "model=cnn takes pictures, [C, H, W], and an input of this data is [6]; use model=m",
        ),
        (
            "vectors",
            ["data.augment.crop=1"],
            "data.augment changes pictures [N, C, H, W], and this data has float32 [200, 6]; type data.augment.crop=0",
        ),
        ("vectors", ["eval.tta=flip"], "eval.tta=flip mirrors pictures, and an input of this data is [6]; use none"),
        ("vectors", ["data.preprocess=symmetric"], "data.preprocess=symmetric scales pixels, uint8 or uint16"),
        ("sequences", MLP, "the inputs are int64, indices for a model that begins with an embedding"),
        ("sequences", ["data.preprocess=pca"], "int64, indices of which nothing can be computed"),
        ("sequences", ["task=autoencoder"], "task=autoencoder takes numbers, and the inputs are int64 [200, 12]"),
        ("vectors", ["task=regression"], "the targets are indices of classes (low, high, and so on)"),
        ("validated", ["data.folds=3"], "this data has a validation set of its own; use data.folds=null"),
    ],
)
def test_what_does_not_fit_it_is_refused_in_a_sentence(kind, words, message, run_kind):
    ran = run_kind(kind, *words)
    assert ran.code == 1 and message in ran.err and ran.err.count("\n") <= 2, ran.err
