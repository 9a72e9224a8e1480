"""Early stopping waits for schedules that have an end and for averages; results say which rule ended a run."""

from pathlib import Path

import pytest
import torch

from athanor.engine.runs.run import Run, read_checkpoint

# 5 steps an epoch, and no epoch improves: judged from its beginning, a run ends after two epochs
TINY = ["model=linear", "data.limit=100", "data.batch_size=16", "data.val_fraction=0.2", "trainer=cpu", "logger=[]"]
TINY += ["optim=sgd", "optim.lr=1e-9", "eval.test=false", "hydra.run.dir=run"]
NEVER_BETTER = ["callbacks.early_stopping.patience=1", "callbacks.early_stopping.min_delta=9"]
STALL = [*TINY, *NEVER_BETTER, "trainer.max_epochs=6"]
TORCH = "scheduler._target_=torch.optim.lr_scheduler"


@pytest.mark.parametrize(
    ("words", "epochs"),
    [
        (["scheduler=inverse"], 2),
        (["scheduler=plateau"], 2),
        (["scheduler=cosine"], 6),
        (["scheduler=cosine", "scheduler.unit=epochs", "scheduler.length=2"], 4),  # judged are epochs 3 and 4
        (["scheduler=cosine", "callbacks.early_stopping.cut_schedules=true"], 2),
        ([f"{TORCH}.CosineAnnealingLR", "+scheduler.T_max=6", "scheduler.unit=epochs"], 6),
        (["callbacks=swa", "callbacks.swa.start=0.5", "callbacks.early_stopping.cut_schedules=true"], 5),  # 4 and 5
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_schedule_that_has_an_end_is_not_cut(words, epochs, train):
    ran = train(*STALL, *words)
    assert (ran.code, ran.err) == (0, "")
    results = Run("run").results
    by, text = ("max_epochs", "trainer.max_epochs=6") if epochs == 6 else ("early_stopping", "early stopping")
    assert (results["epochs"], results["ended_by"]) == (epochs, by)
    assert f"  ended    by {text}, in epoch {epochs}, at step {5 * epochs}\n" in ran.out


def test_a_resumed_run_waits_and_stops_as_one_that_was_not_interrupted(train):
    words = [*STALL, "scheduler=cosine", "scheduler.unit=epochs", "scheduler.length=2"]
    assert train(*words, "hydra.run.dir=whole").code == 0
    assert train(*words, "trainer.max_epochs=3").code == 0  # after the first epoch that was judged
    assert Run("run").results["ended_by"] == "max_epochs"
    assert train("resume=run", "trainer.max_epochs=6").code == 0
    whole, parts = (read_checkpoint(Path(name, "checkpoints", "last.ckpt")) for name in ("whole", "run"))
    assert whole["epoch"] == parts["epoch"] == 3
    assert Run("run").results["ended_by"] == "early_stopping"
    assert all(torch.equal(value, parts["state_dict"][name]) for name, value in whole["state_dict"].items())


@pytest.mark.parametrize(
    ("words", "by"),
    [
        (["trainer.max_steps=7"], "trainer.max_steps=7, in epoch 2, at step 7"),
        (["+trainer.max_time={milliseconds:1}", "trainer.max_epochs=1000"], "trainer.max_time="),
        (["+callbacks.end._target_=end_at_once.End"], "a callback, in epoch 0, at step 0"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_summary_says_which_rule_ended_the_run(words, by, train, tmp_path, monkeypatch):
    text = "import lightning.pytorch as L\n\nclass End(L.Callback):\n    def on_train_start(self, trainer, module):\n"
    (tmp_path / "end_at_once.py").write_text(f"{text}        trainer.should_stop = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    ran = train(*TINY, "callbacks.early_stopping=null", *words)
    assert (ran.code, ran.err) == (0, "")
    assert f"  ended    by {by}" in ran.out
    assert Run("run").results["ended_by"] in by.replace("trainer.", "")
