"""callbacks=ensemble: the kept checkpoints of a run as one, at its end."""

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from athanor.callbacks.ensemble import CheckpointEnsemble
from athanor.craft.ensembles import predictions
from athanor.engine.config import assemble
from athanor.engine.runs.run import Run, load_classifier

TINY = ["model=mlp", "model.widths=[32]", "data.limit=400", "data.batch_size=32", "trainer.max_epochs=5"]
THREE = ["callbacks=ensemble", "callbacks.checkpoints.top_k=3", "hydra.run.dir=run"]


def nll(probabilities, labels):
    return -probabilities[torch.arange(len(labels)), labels].log().mean().item()


@pytest.fixture
def ran(train):
    ran = train(*TINY, *THREE)
    assert (ran.code, ran.err) == (0, "")
    return ran


def test_it_is_the_mean_of_the_probabilities_of_the_kept_checkpoints(ran):
    run = Run("run")
    recorded, data = run.results["ensemble"], assemble.data(run.trusted_config)
    files = sorted(path.name for path in (run.dir / "checkpoints").glob("epoch_*"))
    assert recorded["members"] == files and len(files) == 3
    for stage, images, labels in [
        ("val", data.source.train_inputs[data.val_index], data.source.train_targets[data.val_index]),
        ("test", data.source.test_inputs[data.test_index], data.source.test_targets[data.test_index]),
    ]:
        with torch.inference_mode():
            each = [load_classifier(run.dir / "checkpoints" / name)(images).softmax(1) for name in files]
        mean = torch.stack(each).mean(0)
        scores = recorded[stage]
        assert scores["ensemble"]["loss"] == pytest.approx(nll(mean, labels), rel=1e-5)
        assert scores["ensemble"]["acc"] == pytest.approx((mean.argmax(1) == labels).float().mean().item())
        assert [m["loss"] for m in scores["members"]] == pytest.approx([nll(p, labels) for p in each], rel=1e-5)
        assert scores["mean"]["loss"] == pytest.approx(sum(nll(p, labels) for p in each) / 3, rel=1e-5)
        assert scores["ensemble"]["loss"] <= scores["mean"]["loss"]
        assert 0 <= scores["disagreement"] <= 1 and 0 <= scores["ensemble"]["ece"] <= 1


def test_it_is_said_and_shown(ran):
    recorded = Run("run").results["ensemble"]
    assert ran.out.count("ensemble of 3 checkpoints") == 2
    assert (
        f"acc {recorded['test']['ensemble']['acc']:7.2%}   loss {recorded['test']['ensemble']['loss']:.4f}" in ran.out
    )
    board = EventAccumulator("run").Reload()
    for stage in "val", "test":
        for name in "loss", "acc", "ece":
            [event] = board.Scalars(f"{stage}/{name}_ensemble")
            assert event.value == pytest.approx(recorded[stage]["ensemble"][name], rel=1e-6)


def test_each_member_is_asked_once(train, run_here, monkeypatch):
    asked, original = [], predictions.predict_logits
    monkeypatch.setattr(predictions, "predict_logits", lambda *args, **kw: asked.append(1) or original(*args, **kw))
    monkeypatch.setattr(predictions, "refuse_other_logits", lambda *args: None)  # asks about some images once more
    assert train(*TINY, *THREE).code == 0
    assert len(asked) == 6  # three on validation, three on test
    assert train("resume=run").code == 0
    assert run_here("scripts/ensemble.py", "run", "--checkpoints", "--output", "made").code == 0
    assert len(asked) == 6
    combined = Run("made").results
    for stage in "val", "test":
        assert combined[stage] == Run("run").results["ensemble"][stage]["ensemble"]


def test_the_trained_module_is_what_it_was(train, monkeypatch):
    """Its weights, its mode and its trainer, though other weights are asked in its place."""
    judge, stages = CheckpointEnsemble._judge, []

    def watched(self, trainer, pl_module, stage):
        state = {name: value.clone() for name, value in pl_module.state_dict().items()}
        modes = [module.training for module in pl_module.modules()]
        judge(self, trainer, pl_module, stage)
        assert all(torch.equal(value, state[name]) for name, value in pl_module.state_dict().items())
        assert modes == [module.training for module in pl_module.modules()] and pl_module.trainer is trainer
        stages.append(stage)

    monkeypatch.setattr(CheckpointEnsemble, "_judge", watched)
    assert train(*TINY, *THREE).code == 0
    assert stages == ["val", "test"]


def test_without_a_test_only_validation_is_read(train):
    assert train(*TINY, *THREE, "eval.test=false", "callbacks.ensemble.combine=logits").code == 0
    recorded = Run("run").results["ensemble"]
    assert "test" not in recorded and recorded["combine"] == "logits"
    assert recorded["val"]["ensemble"]["loss"] <= recorded["val"]["mean"]["loss"]


def test_one_checkpoint_for_each_cycle_is_a_snapshot_ensemble(train):
    cycles = ["scheduler=cosine_restarts", "scheduler.cycles=2", "callbacks.checkpoints.keep=cycles"]
    assert train(*TINY, "trainer.max_epochs=6", *THREE, *cycles).code == 0
    assert Run("run").results["ensemble"]["members"] == ["epoch_003.ckpt", "epoch_006.ckpt"]


def test_where_one_checkpoint_was_kept_there_is_no_ensemble(train):
    ran = train(*TINY, *THREE, "trainer.max_epochs=1")
    assert ran.code == 0
    assert "no ensemble: 1 checkpoint was kept; train for more epochs" in ran.out
    assert "ensemble" not in Run("run").results


@pytest.mark.parametrize("word", ["callbacks.checkpoints.top_k=1", "callbacks.checkpoints=null"])
def test_it_needs_checkpoints(word, train):
    ran = train(*TINY, "callbacks=ensemble", word)
    assert ran.code == 1
    assert ran.err == (
        "error: callbacks=ensemble averages kept checkpoints; use callbacks.checkpoints.top_k of 2 or more\n"
    )


def test_a_persons_own_network_is_averaged_as_well(train, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n\nclass Mine(nn.Sequential):\n"
        "    def __init__(self, *, input_shape: tuple[int, int, int], num_classes: int):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    words = [word for word in TINY if not word.startswith("model")]
    model = ["model=linear", "model._target_=mine.Mine"]
    ran = train(*words, *model, *THREE)
    assert (ran.code, ran.err) == (0, "")
    assert Run("run").results["ensemble"]["test"]["ensemble"]["acc"] > 0


@pytest.mark.slow
def test_two_processes_ask_the_members_once(train):
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    ran = train(*TINY, *THREE, *two)
    assert (ran.code, ran.err) == (0, "")
    results = Run("run").results
    assert results["devices"] == 2 and len(results["ensemble"]["test"]["members"]) == 3
