import contextlib
import math
import os
import threading
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch

from athanor.base.files import hard_link
from athanor.callbacks import checkpoints
from athanor.callbacks.checkpoints import Checkpoints
from athanor.engine.config import assemble, check
from athanor.tasks.classification import Classification
from athanor.training.checkpoint_files import BackgroundCheckpointIO, write_checkpoint

CONFIGS = Path(__file__).parents[2] / "configs"


class Scripted(L.LightningModule):
    """One weight; the validation losses are what the script says, epoch by epoch."""

    def __init__(self, losses):
        super().__init__()
        self.losses = losses
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return self.weight

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", torch.tensor(float(self.losses[self.current_epoch])), batch_size=1)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1.0)


@pytest.fixture
def fit(make_trainer, tmp_path):
    def fit(losses, folder="run", mode="min", top_k=1, keep="best", resume=False, **knobs):
        callback = Checkpoints("val/loss", mode, top_k, keep, every_minutes=None)
        settings = dict(max_epochs=len(losses), enable_checkpointing=True, callbacks=[callback]) | knobs
        trainer = make_trainer(default_root_dir=tmp_path / folder, **settings)
        path = tmp_path / folder / "checkpoints" / "last.ckpt" if resume else None
        data = [torch.zeros(1)]
        trainer.fit(Scripted(losses), data, data, ckpt_path=path, weights_only=True)
        return callback

    return fit


@pytest.fixture
def written(tmp_path):
    """The epoch that each file in the run's folder of checkpoints holds, previous.ckpt apart."""

    def written(folder="run"):
        files = [file for file in (tmp_path / folder / "checkpoints").iterdir() if file.name != "previous.ckpt"]
        return {file.name: torch.load(file, weights_only=True)["epoch"] for file in files}

    return written


@pytest.mark.parametrize(
    "mode, losses, best",
    [
        ("min", [3, 1, 2], 1),
        ("min", [3, 2, 1], 2),
        ("min", [1, 1, 1], 0),  # a tie improves nothing
        ("max", [3, 1, 2], 0),
        ("max", [-3, -1, -2], 1),
    ],
)
def test_best_and_last_are_kept(fit, written, mode, losses, best):
    callback = fit(losses, mode=mode)
    assert written() == {"last.ckpt": 2, "best.ckpt": best}
    chosen = callback.chosen
    assert (chosen["file"], chosen["epoch"], chosen["score"]) == ("best.ckpt", best, losses[best])
    assert chosen["metrics"]["val/loss"] == losses[best]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_top_k_keeps_the_best_few_and_removes_what_is_dropped(fit, written, mode):
    losses = [5, 3, 4, 1, 2, 6]
    fit(losses if mode == "min" else [-loss for loss in losses], mode=mode, top_k=3)
    assert written() == {"last.ckpt": 5, "best.ckpt": 3, "epoch_002.ckpt": 1, "epoch_004.ckpt": 3, "epoch_005.ckpt": 4}


def test_the_last_few_are_kept_beside_the_best(fit, written):
    callback = fit([5, 1, 4, 3, 2], top_k=2, keep="last")
    assert written() == {"last.ckpt": 4, "best.ckpt": 1, "epoch_004.ckpt": 3, "epoch_005.ckpt": 4}
    assert callback.chosen["epoch"] == 1
    callback = fit([5, 1, 4, 3, 2, 0.5], top_k=2, keep="last", resume=True)
    assert written() == {"last.ckpt": 5, "best.ckpt": 5, "epoch_005.ckpt": 4, "epoch_006.ckpt": 5}


@pytest.mark.parametrize(
    "words, ends",
    [
        (["trainer.max_epochs=6", "scheduler.cycles=3"], [2, 4, 6]),
        (["trainer.max_epochs=7", "scheduler.cycles=3", "scheduler.growth=2.0"], [1, 3, 7]),
        (["trainer.max_epochs=5", "scheduler.cycles=2"], [2, 5]),  # the rate rises within the third epoch
        (["trainer.max_epochs=6", "scheduler.cycles=3", "scheduler.warmup=0.1"], [2, 4, 6]),
    ],
)
def test_the_ends_of_cycles_are_kept(words, ends, train, tmp_path):
    keep = ["callbacks.checkpoints.keep=cycles", "callbacks.checkpoints.top_k=5", "scheduler=cosine_restarts"]
    tiny = ["model=linear", "data.limit=200", "data.batch_size=16", "eval.test=false", "hydra.run.dir=run"]
    assert train(*keep, *tiny, *words).code == 0
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("epoch_*")) == [
        f"epoch_{epoch:03d}.ckpt" for epoch in ends
    ]


def test_cycles_are_refused_where_there_are_none(train):
    ran = train("callbacks.checkpoints.keep=cycles", "model=linear", "data.limit=100", "data.batch_size=16")
    assert ran.code == 1
    assert ran.err == (
        "error: callbacks.checkpoints.keep=cycles needs a rate that has them; use scheduler=cosine_restarts\n"
    )


def test_a_score_that_is_not_finite_is_never_the_best(fit, written):
    callback = fit([math.nan, -math.inf, 2, math.nan, 1, math.nan], top_k=2)
    assert written() == {"last.ckpt": 5, "best.ckpt": 4, "epoch_003.ckpt": 2, "epoch_005.ckpt": 4}
    assert callback.chosen["epoch"] == 4


def test_without_any_score_the_last_is_chosen(fit, written):
    callback = fit([math.nan, math.nan])
    assert written() == {"last.ckpt": 1}
    assert (callback.chosen["file"], callback.chosen["epoch"]) == ("last.ckpt", 1)


def test_an_epoch_without_validation_is_not_judged_by_an_earlier_one(fit, written):
    callback = fit([9, 1, 9, 2, 9], check_val_every_n_epoch=2, top_k=3)
    assert written() == {"last.ckpt": 4, "best.ckpt": 1, "epoch_002.ckpt": 1, "epoch_004.ckpt": 3}
    assert math.isnan(callback.last["score"])


def test_a_fast_dev_run_writes_nothing(fit, tmp_path):
    fit([1], fast_dev_run=True)
    assert not (tmp_path / "run").exists()


def test_keeping_none_is_refused():
    with pytest.raises(ValueError, match=r"callbacks\.checkpoints\.top_k=0 keeps no best checkpoint; use 1 or more"):
        Checkpoints("val/loss", "min", 0, "best", None)


def test_resuming_goes_on_with_what_was_kept(fit, written):
    losses = [5, 2, 3, 4, 1, 6]
    fit(losses, "whole", top_k=2)
    fit(losses[:3], top_k=2)
    callback = fit(losses, top_k=2, resume=True)
    assert written() == written("whole") == {"last.ckpt": 5, "best.ckpt": 4, "epoch_002.ckpt": 1, "epoch_005.ckpt": 4}
    assert [entry["epoch"] for entry in callback.kept] == [4, 1]


def test_a_folder_that_was_moved_is_resumed_where_it_is_and_its_files_name_no_path(fit, written, tmp_path):
    losses = [5, 2, 3, 4, 1, 6]
    fit(losses[:3], top_k=2)
    for file in (tmp_path / "run" / "checkpoints").iterdir():
        assert str(tmp_path).encode() not in file.read_bytes()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").rename(tmp_path / "elsewhere" / "moved")
    fit(losses, "elsewhere/moved", top_k=2, resume=True)
    assert written("elsewhere/moved") == {"last.ckpt": 5, "best.ckpt": 4, "epoch_002.ckpt": 1, "epoch_005.ckpt": 4}
    assert not (tmp_path / "run").exists()


def test_a_run_killed_between_writing_last_and_best_goes_on_with_both(fit, written, monkeypatch):
    losses = [3, 2, 1, 4]

    def killed(source, target):
        if torch.load(source, weights_only=True)["epoch"] == 2:
            raise SystemExit

    with monkeypatch.context() as patch:
        fit(losses[:2])
        patch.setattr(checkpoints, "hard_link", killed)
        with pytest.raises(SystemExit):
            fit(losses, resume=True)
    assert written() == {"last.ckpt": 2, "best.ckpt": 1}
    callback = fit(losses, resume=True)
    assert callback.chosen["epoch"] == 2
    assert written() == {"last.ckpt": 3, "best.ckpt": 2}


@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize("operation", range(5))  # before the first, ..., after the last that _link makes
def test_a_run_killed_among_the_last_links_is_put_in_order_though_nothing_is_left_to_train(
    operation, keep, fit, written, tmp_path, monkeypatch
):
    losses = [4, 3, 5, 2]
    whole = fit(losses, "whole", top_k=2, keep=keep)
    fit(losses[:3], top_k=2, keep=keep)
    made = []

    def counted(function):
        def call(*arguments, **keywords):
            made.append(function)
            if len(made) > operation:
                raise SystemExit
            return function(*arguments, **keywords)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "hard_link", counted(hard_link))
        link = Checkpoints._link

        def watched(self, *arguments):
            with monkeypatch.context() as inner:
                inner.setattr(Path, "unlink", counted(Path.unlink))
                link(self, *arguments)

        patch.setattr(Checkpoints, "_link", watched)
        with contextlib.suppress(SystemExit):
            fit(losses, top_k=2, keep=keep, resume=True)
    assert len(made) == min(operation + 1, len(made))
    for _ in range(2):  # also where that was done before
        callback = fit(losses, top_k=2, keep=keep, resume=True)
        assert written() == written("whole")
        assert callback.chosen == whole.chosen


def test_an_epoch_of_which_no_file_is_left_is_named_and_no_longer_chosen_or_kept(fit, written, tmp_path, caplog):
    losses = [1, 3, 2, 4]
    fit(losses, top_k=3)
    folder = tmp_path / "run" / "checkpoints"
    content = (folder / "best.ckpt").read_bytes()
    (folder / "epoch_001.ckpt").unlink()
    (folder / "best.ckpt").unlink()
    (folder / "best.ckpt").write_bytes(content[: len(content) // 2])
    (folder / "epoch_004.ckpt").write_bytes(content)  # of an epoch that was dropped, from another time
    callback = fit(losses, top_k=3, resume=True)
    assert callback.chosen["epoch"] == 2
    assert [entry["epoch"] for entry in callback.kept] == [2, 1]
    assert written() == {"last.ckpt": 3, "best.ckpt": 2, "epoch_002.ckpt": 1, "epoch_003.ckpt": 2}
    assert "epoch 1 is kept no longer, as no checkpoint of it is left" in caplog.messages
    assert "no checkpoint of epoch 1, the best, is left; epoch 3 is the best that is left" in caplog.messages


def test_a_killed_write_leaves_the_file_from_before(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    write_checkpoint({"epoch": 1}, path)

    def torn(contents, file):
        file.write(b"half of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch, "save", torn)
        write_checkpoint({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    write_checkpoint({"epoch": 3}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 3}
    assert sorted(os.listdir(path.parent)) == ["last.ckpt", "previous.ckpt"]
    assert torch.load(path.with_name("previous.ckpt"), weights_only=True) == {"epoch": 1}


@pytest.fixture
def slow_disk(monkeypatch):
    """Writes wait until this event is set."""
    ready, save = threading.Event(), torch.save

    def wait_and_save(contents, file):
        assert ready.wait(10)
        save(contents, file)

    monkeypatch.setattr(torch, "save", wait_and_save)
    return ready


def test_training_goes_on_while_a_checkpoint_is_written_which_holds_what_was_there(tmp_path, slow_disk):
    io, weight, kept = BackgroundCheckpointIO(), torch.zeros(3), [1]
    io.save_checkpoint({"weight": weight, "states": {"kept": kept}}, tmp_path / "last.ckpt")
    io.then(hard_link, tmp_path / "last.ckpt", tmp_path / "best.ckpt")
    weight += 1
    kept.append(2)
    assert io.pending is None
    io.release()
    assert list(tmp_path.glob("*.ckpt")) == []
    slow_disk.set()
    io.teardown()
    for name in "last.ckpt", "best.ckpt":
        contents = torch.load(tmp_path / name, weights_only=True)
        assert contents["weight"].tolist() == [0, 0, 0] and contents["states"] == {"kept": [1]}


def test_a_write_that_fails_ends_the_fit_and_leaves_what_was_there(fit, written, monkeypatch):
    fit([2, 1])
    save = torch.save

    def full(contents, file):
        if contents["epoch"] == 3:
            raise OSError(28, "No space left on device")
        save(contents, file)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(torch, "save", full)
        fit([2, 1, 3, 0], resume=True)
    assert written() == {"last.ckpt": 2, "best.ckpt": 1}


def test_a_file_system_without_links_gets_copies(fit, written, monkeypatch):
    def unsupported(source, target):
        raise OSError("links are not supported")

    monkeypatch.setattr(os, "link", unsupported)
    fit([2, 1, 3], top_k=2)
    assert written() == {"last.ckpt": 2, "best.ckpt": 1, "epoch_001.ckpt": 0, "epoch_002.ckpt": 1}


@pytest.mark.parametrize("optim", sorted(path.stem for path in (CONFIGS / "optim").glob("*.yaml")))
def test_the_checkpoint_of_a_run_holds_nothing_but_tensors_and_plain_data(optim, compose, tmp_path):
    words = ["trainer=cpu", "trainer.max_epochs=1", "data.limit=100", "logger=null"]
    words += ["model=mlp" if optim == "muon" else "model=linear"]  # which has no hidden layer
    words += ["data.batch_size=16"] if optim != "lbfgs" else []
    config = check.plain(compose(f"optim={optim}", "scheduler=plateau", "callbacks.checkpoints.top_k=2", *words))
    data = assemble.data(config)
    classifier = assemble.task(config, data)
    trainer = assemble.trainer(config, str(tmp_path), data, classifier)
    trainer.fit(classifier, data)
    files = sorted((tmp_path / "checkpoints").iterdir())
    assert [file.name for file in files] == ["best.ckpt", "epoch_001.ckpt", "last.ckpt"]
    for file in files:
        assert torch.serialization.get_unsafe_globals_in_checkpoint(file) == []
        assert str(tmp_path).encode() not in file.read_bytes()
    contents = torch.load(files[0], weights_only=True)
    assert contents["athanor"]["config"] == config
    assert len(contents["optimizer_states"]) == len(contents["lr_schedulers"]) == 1


@pytest.fixture
def fit_config(compose, tmp_path):
    """Train as train.py does, from the last checkpoint where there is one."""

    def fit_config(folder, *words):
        words = ["model=linear", "trainer=cpu", "data.limit=100", "data.batch_size=16", "logger=null", *words]
        config = check.plain(compose(*words))
        torch.manual_seed(config["seed"])
        data = assemble.data(config)
        classifier = assemble.task(config, data)
        trainer = assemble.trainer(config, str(tmp_path / folder), data, classifier)
        last = tmp_path / folder / "checkpoints" / "last.ckpt"
        trainer.fit(classifier, data, ckpt_path=last if last.exists() else None, weights_only=True)
        return trainer

    return fit_config


def test_a_run_that_stops_before_its_first_validation_ends_well(fit_config):
    assert fit_config("run", "trainer.max_steps=3").global_step == 3


LIMITS = [("trainer.max_epochs=4",), ("trainer.max_steps=20",), ("trainer.max_epochs=4", "trainer.max_steps=1000")]


@pytest.mark.parametrize("limits", LIMITS, ids=" ".join)
@pytest.mark.parametrize("killed_at", [5, 15, 17])  # of 20 steps, 5 in an epoch
def test_a_killed_run_ends_as_if_it_had_not_been_whatever_limits_it(fit_config, monkeypatch, limits, killed_at):
    words = ["+scheduler.step_size=1", "+scheduler.gamma=0.5", "scheduler.unit=epochs", *limits]
    words = ["scheduler._target_=torch.optim.lr_scheduler.StepLR", *words, "callbacks.early_stopping=null"]
    whole = fit_config("whole", *words)

    def killed(self, batch, batch_idx):
        if self.global_step == killed_at:
            raise SystemExit

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Classification, "on_train_batch_start", killed)
        fit_config("killed", *words)
    resumed = fit_config("killed", *words)
    assert (resumed.global_step, resumed.current_epoch) == (whole.global_step, whole.current_epoch) == (20, 4)
    for name, value in whole.lightning_module.state_dict().items():
        assert torch.equal(value, resumed.lightning_module.state_dict()[name])
    assert resumed.optimizers[0].param_groups[0]["lr"] == whole.optimizers[0].param_groups[0]["lr"]


@pytest.mark.parametrize("stopped_at", [3, 5, 8])  # 5 steps in an epoch
def test_a_run_stopped_by_max_steps_goes_on_as_if_it_had_not_been(fit_config, stopped_at):
    words = ["callbacks.early_stopping=null", "trainer.max_epochs=4"]
    whole = fit_config("whole", *words)
    assert fit_config("stopped", *words, f"trainer.max_steps={stopped_at}").global_step == stopped_at
    resumed = fit_config("stopped", *words)
    assert (resumed.global_step, resumed.current_epoch) == (whole.global_step, whole.current_epoch) == (20, 4)
    for name, value in whole.lightning_module.state_dict().items():
        assert torch.equal(value, resumed.lightning_module.state_dict()[name])
