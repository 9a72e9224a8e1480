"""What callbacks get from a task, and what Lightning's own do here."""

import gc
import weakref
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, callbacks

from athanor.base.errors import UserError
from athanor.engine.config import assemble, check
from athanor.engine.runs.run import Run, read_checkpoint

SMALL = ["model=mlp", "model.widths=[16]", "data.limit=400", "data.batch_size=64", "trainer.max_epochs=2"]
TASKS = {"classification": [], "autoencoder": ["task=autoencoder"]}


def callback(name, **arguments):
    node = {"_target_": f"lightning.pytorch.callbacks.{name}", **arguments}
    return f"+callbacks.mine={{{', '.join(f'{key}: {value}' for key, value in node.items())}}}"


class Outputs(Callback):
    """Compares what it gets with what the network says, and remembers it without keeping it."""

    def __init__(self):
        self.stages, self.seen = [], []

    def take(self, stage, pl_module, outputs, batch):
        assert outputs.keys() == {"loss", "outputs", "targets"}
        assert not any(value.requires_grad for value in outputs.values())
        assert torch.equal(outputs["targets"], pl_module.targets_of(*batch))
        if stage != "train":  # where the weights are others by now
            assert torch.equal(outputs["outputs"], pl_module(batch[0]).float())
            assert outputs["loss"] == pl_module.loss(outputs["outputs"], outputs["targets"])
        self.stages.append(stage)
        self.seen.append(weakref.ref(outputs["outputs"]))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.take("train", pl_module, outputs, batch)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.take("val", pl_module, outputs, batch)

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.take("test", pl_module, outputs, batch)


@pytest.mark.parametrize("task", TASKS)
def test_callbacks_get_loss_outputs_and_targets_of_each_batch_and_nothing_keeps_them(task, compose, make_trainer):
    config = check.plain(compose(*SMALL, *TASKS[task]))
    data, outputs = assemble.data(config), Outputs()
    module, trainer = assemble.task(config, data), make_trainer(callbacks=[outputs], max_epochs=2)
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    assert set(outputs.stages) == {"train", "val", "test"} and outputs.stages.count("train") == 10
    gc.collect()
    assert not any(reference() is not None for reference in outputs.seen)


REFUSED = {
    "ModelCheckpoint": "callbacks.checkpoints",
    "OnExceptionCheckpoint": "callbacks.checkpoints.every_minutes",
    "StochasticWeightAveraging": "callbacks=swa",
    "LearningRateFinder": "callbacks=lr_range",
    "BatchSizeFinder": "data.batch_size",
    "GradientAccumulationScheduler": "trainer.accumulate_grad_batches",
    "ModelPruning": "torch.nn.utils.prune",
    "SpikeDetection": "trainer.gradient_clip_val=1",
    "BasePredictionWriter": "scripts/predict.py",
    "BackboneFinetuning": "model.freeze=all_but_head",
}
ARGUMENTS = {
    "OnExceptionCheckpoint": {"dirpath": "here"},
    "StochasticWeightAveraging": {"swa_lrs": 0.1},
    "GradientAccumulationScheduler": {"scheduling": "{0: 2}"},
    "ModelPruning": {"pruning_fn": "l1_unstructured"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_do_something_else_is_refused_with_what_does_it(name, compose):
    config = check.plain(compose(callback(name, **ARGUMENTS.get(name, {}))))
    with pytest.raises(UserError, match=r"^callbacks.mine: \w+ is not taken: [^\n]+\n  [^\n]+$") as error:
        check.check(config)
    assert REFUSED[name] in str(error.value)


FREE = {
    "ModelSummary": {},
    "RichModelSummary": {},
    "Timer": {"duration": "{hours: 1}"},
    "LearningRateMonitor": {},
    "EMAWeightAveraging": {"decay": 0.5},
    "RichProgressBar": {},
    "TQDMProgressBar": {"leave": "true"},
    "LambdaCallback": {"on_train_batch_end": "{_target_: builtins.print, _partial_: true}"},
}


def test_each_of_lightnings_callbacks_is_refused_or_tried_below():
    """DeviceStatsMonitor and ThroughputMonitor need what is not here: psutil, and a function of the person."""
    bases = {"Callback", "Checkpoint", "ProgressBar", "BaseFinetuning", "WeightAveraging", "EarlyStopping"}
    assert {*REFUSED, *FREE, *bases, "DeviceStatsMonitor", "ThroughputMonitor"} == {*callbacks.__all__}


def test_the_others_train_resume_to_the_bit_and_are_evaluated(train, run_here, assert_resumed):
    names = [name for name in FREE if name not in ("TQDMProgressBar", "LambdaCallback")]
    words = [callback(name, **FREE[name]).replace("mine", name.lower()) for name in names]
    assert_resumed(partial(train, *SMALL, *words), places=[7])
    rows = (Run("whole").dir / "metrics.csv").read_text()
    assert "lr-Adam" in rows  # of LearningRateMonitor
    states = read_checkpoint(Run("whole").dir / "checkpoints" / "last.ckpt")
    raw, average = states["current_model_state"], states["state_dict"]
    assert not torch.equal(raw["network.head.weight"], average["network.head.weight"])
    ran = run_here("scripts/evaluate.py", "whole")
    value = Run("whole").results["test"]["acc"]
    assert f"test/acc  {value!r}  (recorded {value!r})" in ran.out


def test_the_summary_counts_operations(train):
    ran = train(*SMALL, callback("ModelSummary"), "trainer.max_epochs=1")
    [network] = (line for line in ran.out.splitlines() if " network " in line)
    assert "2.4 K" in network and "[1, 1, 8, 8]" in network and "[1, 10]" in network  # 2 * (64 * 16 + 16 * 10)


@pytest.mark.parametrize("name", ["RichProgressBar", "TQDMProgressBar"])
def test_another_progress_bar_replaces_ours(name, train):
    ran = train(*SMALL, callback(name, **FREE[name]), "trainer.max_epochs=1")
    assert ran.code == 0, ran.err
    assert "epoch   1/1" not in ran.out and "Epoch 0" in ran.out + ran.err


def test_a_timer_ends_the_run_and_the_run_says_so(train):
    ran = train(*SMALL, callback("Timer", duration="{milliseconds: 1}", interval="step"), "hydra.run.dir=a")
    assert ran.code == 0 and Run("a").results["ended_by"] == "max_time", ran.err


def test_functions_of_each_batch_are_called(train, tmp_path, monkeypatch):
    (tmp_path / "steps.py").write_text("def say(trainer, module, outputs, batch, index):\n    print('batch', index)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    words = callback("LambdaCallback", on_train_batch_end="{_target_: steps.say, _partial_: true}")
    ran = train(*SMALL, words, "trainer.max_epochs=1")
    assert ran.out.count("batch ") >= 5 and "batch 4\n" in ran.out, ran.err


def test_two_that_a_checkpoint_cannot_tell_apart_are_refused(train):
    ran = train(*SMALL, callback("EarlyStopping", monitor="val/loss"))
    assert ran.err.startswith("error: callbacks.mine and callbacks.early_stopping are both EarlyStopping{")
    assert "type callbacks.early_stopping=null" in ran.err
    assert train(*SMALL, callback("EarlyStopping", monitor="val/acc", mode="max"), "trainer.max_epochs=1").code == 0


def test_device_stats_are_logged(train):
    pytest.importorskip("psutil")
    ran = train(*SMALL, callback("DeviceStatsMonitor"), "trainer.log_every_n_steps=2", "hydra.run.dir=a")
    assert ran.code == 0 and "cpu_percent" in (Run("a").dir / "metrics.csv").read_text(), ran.err
