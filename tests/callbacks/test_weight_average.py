"""Averages of weights: what is averaged, validated, saved and resumed."""

import csv
import os
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
from torch.nn.functional import cross_entropy

from athanor.callbacks import control
from athanor.callbacks.control import Control
from athanor.callbacks.ema import EMA
from athanor.engine.config import assemble, check
from athanor.engine.runs.run import Run, load_classifier, read_checkpoint

# 9 steps an epoch; batch norm and dropout in the network
CNN = ["model=cnn", "model.widths=[8,8]", "model.fc_widths=[16]", "model.convs_per_stage=1"]
TINY = [*CNN, "data.limit=320", "data.batch_size=32", "trainer=cpu", "trainer.max_epochs=3"]
TINY += ["trainer.log_every_n_steps=1"]
RUN = ["logger=csv", "callbacks.early_stopping=null"]
EACH_STEP = "callbacks.checkpoints.every_minutes=1e-9"
SWA = ["callbacks=swa", "callbacks.swa.start=0.4"]


class Watch(L.Callback):
    """Notes the network's tensors after each optimizer step; may kill the run before one."""

    def __init__(self, kill_at: int | None) -> None:
        self.kill_at, self.seen = kill_at, {}

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        if trainer.global_step == self.kill_at:
            raise SystemExit

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        state = module.network.state_dict(prefix="network.")
        if trainer.global_step not in self.seen:  # else gradients are being summed
            self.seen[trainer.global_step] = {name: tensor.clone() for name, tensor in state.items()}


@pytest.fixture
def fit(compose, tmp_path):
    """Train as train.py does, from the last checkpoint where there is one. `folder` is the run's."""

    def fit(*words, folder="run", kill_at=None, base=TINY):
        config = check.plain(compose(*base, *RUN, *words))
        check.check(config)
        torch.manual_seed(config["seed"])
        data = assemble.data(config)
        classifier = assemble.task(config, data)
        last = tmp_path / folder / "checkpoints" / "last.ckpt"
        step = read_checkpoint(last)["global_step"] if last.exists() else None
        (tmp_path / folder).mkdir(exist_ok=True)
        trainer = assemble.trainer(config, str(tmp_path / folder), data, classifier, step)
        watch = Watch(kill_at)
        trainer.callbacks.insert(0, watch)
        trainer.fit(classifier, data, ckpt_path=last if step is not None else None, weights_only=True)
        watch.trainer, watch.classifier, watch.data = trainer, classifier, data
        return watch

    return fit


def saved(folder: Path, name: str = "last") -> dict:
    return read_checkpoint(folder / "checkpoints" / f"{name}.ckpt")


def rows(folder: Path) -> list[tuple]:
    with open(folder / "metrics.csv") as file:
        return sorted(tuple(row.values()) for row in csv.DictReader(file))


def logged(folder: Path, metric: str) -> list[float]:
    logs = [(int(step), float(value)) for step, _, name, value in rows(folder) if name == metric]
    return [value for _, value in sorted(logs)]


def val_loss(classifier, data) -> float:
    classifier.eval()
    images, labels = data.source.train_inputs[data.val_index], data.source.train_targets[data.val_index]
    with torch.no_grad():
        return cross_entropy(classifier(images), labels).item()


def assert_close(tensors: dict, expected: dict) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(tensors[name], value.to(tensors[name].dtype), rtol=0, atol=1e-6, msg=name)


# what is averaged


@pytest.mark.parametrize("every", [1, 4])
def test_ema_is_the_formula_and_moves_with_optimizer_steps_not_with_batches(every, fit, tmp_path):
    words = ["callbacks=ema", "callbacks.ema.decay=0.8", "callbacks.ema.warmup_gamma=2", f"callbacks.ema.every={every}"]
    watch = fit(*words, "callbacks.ema.warmup_power=0.7", "trainer.accumulate_grad_batches=2", "optim.lr=0.01")
    assert list(watch.seen) == list(range(16))  # 5 steps an epoch, the last one of a single batch
    average = None
    for step in range(1, 16, every):
        decay = min(0.8, 1 - (1 + (step - 1) / 2) ** -0.7) ** every
        weights = {name: value.double() for name, value in watch.seen[step].items()}
        average = average or weights
        average = {name: decay * average[name] + (1 - decay) * value for name, value in weights.items()}
    checkpoint = saved(tmp_path / "run")
    counted = {name: value for name, value in watch.seen[step].items() if not value.is_floating_point()}
    assert len(counted) == 2  # of batch norm, batches; copied where all else is averaged
    assert_close(checkpoint["state_dict"], average | counted)
    assert_close(checkpoint["raw"], watch.seen[15])


def test_the_decay_warms_up_as_in_timm():
    ema = EMA(decay=0.9, warmup_gamma=1.0, warmup_power=2 / 3, every=1)
    expected = {0: 0, 7: 3 / 4, 26: 8 / 9, 63: 0.9, 1000: 0.9}
    assert {steps: ema.decay_after(steps) for steps in expected} == pytest.approx(expected, abs=1e-12)


def test_ema_of_no_decay_is_the_weights(fit, tmp_path):
    watch = fit("callbacks=ema", "callbacks.ema.decay=0", "trainer.max_epochs=1")
    assert_close(saved(tmp_path / "run")["state_dict"], watch.seen[9])
    assert logged(tmp_path / "run", "val/loss") == logged(tmp_path / "run", "val/loss_raw")


class Weights(L.Callback):
    """Puts 2, 4, 6, ... into the head's bias at the end of each epoch."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if trainer.is_last_batch:
            module.network.head.bias.data.fill_(2 * (trainer.current_epoch + 1))


@pytest.mark.parametrize(
    ("words", "mean"),
    [
        (["callbacks.swa.start=0.5"], 9),  # of 6, 8, 10, 12 after epochs 3 to 6; the last one is in it
        (["callbacks.swa.start=0.95"], 12),
        (["callbacks.swa.start=0"], 7),
        (["callbacks.swa.start=0.5", "callbacks.swa.every=1"], (9 * (6 + 8 + 10) + 12) / 28),
        (["callbacks.swa.start=0.5", "trainer.max_steps=50"], 8.5),  # of 6, 8, 10, 10: the end counts
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_swa_is_the_exact_mean_of_known_weights(words, mean, compose, tmp_path):
    config = check.plain(compose(*TINY, *RUN, "callbacks=swa", "optim=sgd", "optim.lr=0", *words))
    config["trainer"]["max_epochs"] = 6
    data = assemble.data(config)
    classifier = assemble.task(config, data)
    trainer = assemble.trainer(config, str(tmp_path), data, classifier)
    trainer.callbacks.insert(0, Weights())
    trainer.fit(classifier, data)
    torch.testing.assert_close(saved(tmp_path)["state_dict"]["network.head.bias"], torch.full((10,), float(mean)))


def test_batch_norm_is_estimated_anew_for_the_mean_of_the_weights_without_dropout(fit, tmp_path):
    words = ["model=mlp", "model.widths=[16,16]", "model.norm=batch", "model.dropout=0.5", "data.augment.crop=1"]
    watch = fit(*SWA, base=[*words, *TINY[len(CNN) :]])
    state, loader = saved(tmp_path / "run")["state_dict"], watch.data.train_dataloader()
    network = watch.classifier.network
    network.load_state_dict({name.removeprefix("network."): value for name, value in state.items() if "netw" in name})
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    pixels = [watch.classifier.preprocess(images) for images, _ in replace(loader, position=lambda: (0, 0))]
    torch.optim.swa_utils.update_bn(pixels, network)
    assert len([name for name in state if "running" in name]) == 4
    own = {name: value for name, value in network.state_dict(prefix="network.").items() if "tracked" not in name}
    assert_close(state, own)


def test_tied_weights_are_averaged_once(fit, tmp_path, monkeypatch):
    made = assemble.task

    def tied(config, data):
        classifier = made(config, data)
        classifier.network.twin = classifier.network.head
        return classifier

    monkeypatch.setattr(assemble, "task", tied)
    watch = fit("callbacks=ema", "trainer.max_epochs=1", "callbacks.ema.decay=0")
    state = saved(tmp_path / "run")["state_dict"]
    assert torch.equal(state["network.twin.weight"], state["network.head.weight"])
    assert_close(state, watch.seen[9])


# what is validated and saved


@pytest.mark.parametrize("words", [["callbacks=ema"], SWA], ids=["ema", "swa"])
@pytest.mark.parametrize("name", ["best", "last"])
def test_a_checkpoint_reproduces_the_loss_that_was_logged(name, words, fit, tmp_path):
    watch = fit(*words, "optim.lr=0.01")
    path = tmp_path / "run" / "checkpoints" / f"{name}.ckpt"
    checkpoint, classifier = read_checkpoint(path), load_classifier(path)
    metrics = checkpoint["metrics"]
    assert val_loss(classifier, watch.data) == pytest.approx(metrics["val/loss"], abs=1e-6)
    classifier.load_state_dict(checkpoint["raw"], strict=False)
    assert val_loss(classifier, watch.data) == pytest.approx(metrics["val/loss_raw"], abs=1e-6)
    assert abs(metrics["val/loss"] - metrics["val/loss_raw"]) > 0.01
    assert metrics["val/loss"] in [pytest.approx(value) for value in logged(tmp_path / "run", "val/loss")]


def test_training_is_that_of_a_run_without_an_average(fit, tmp_path):
    alone = fit(folder="alone")
    for words in ["callbacks=ema"], SWA:
        watch = fit(*words, folder=words[0])
        for step, state in alone.seen.items():
            assert all(torch.equal(watch.seen[step][name], tensor) for name, tensor in state.items())
        assert (
            logged(tmp_path / words[0], "val/loss_raw")
            == logged(tmp_path / "alone", "val/loss")[-len(logged(tmp_path / words[0], "val/loss_raw")) :]
        )


def test_before_swa_starts_the_raw_weights_are_validated_and_saved(fit, tmp_path):
    watch = fit("callbacks=swa", "callbacks.swa.start=0.75")  # of 3 epochs: after the third
    metrics = {metric: logged(tmp_path / "run", metric) for metric in ("val/loss", "val/loss_raw")}
    assert [len(values) for values in metrics.values()] == [3, 1]
    assert metrics["val/loss"][2] != metrics["val/loss_raw"][0]  # of one network, with and without its own batch norm
    fit(folder="alone")
    assert metrics["val/loss"][:2] == logged(tmp_path / "alone", "val/loss")[:2]
    with pytest.raises(SystemExit):
        fit("callbacks=swa", folder="early", kill_at=18)
    assert "raw" not in saved(tmp_path / "early")
    assert_close(saved(tmp_path / "early")["state_dict"], watch.seen[18])


class Worse(L.Callback):
    """Raises the loss from epoch to epoch."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if trainer.is_last_batch:
            module.network.head.bias.data[0] = 5 * (trainer.current_epoch + 1)


@pytest.mark.parametrize(("words", "best"), [([], 0), (["callbacks=swa", "callbacks.swa.start=0.5"], 1)])
def test_swa_chooses_among_averaged_epochs_once_it_has_begun(words, best, compose, tmp_path):
    words = [*words, "callbacks.checkpoints.top_k=2", "optim=sgd", "optim.lr=0"]
    config = check.plain(compose(*TINY, *RUN, *words, "trainer.max_epochs=4"))
    data = assemble.data(config)
    classifier = assemble.task(config, data)
    trainer = assemble.trainer(config, str(tmp_path), data, classifier)
    trainer.callbacks.insert(0, Worse())
    trainer.fit(classifier, data)
    losses = logged(tmp_path, "val/loss")
    assert losses == sorted(losses)  # the first raw epoch is the best of all
    assert saved(tmp_path, "best")["epoch"] == best
    names = {path.name for path in (tmp_path / "checkpoints").glob("epoch_*.ckpt")}
    assert names == {f"epoch_{number:03d}.ckpt" for number in (best + 1, best + 2)}


@pytest.mark.parametrize(
    ("words", "updates", "text"),
    [
        ([*SWA, "monitor.metric=train/loss"], 2, "an average of 2 updates"),  # the last of three epochs is the best
        (["callbacks=ema", "monitor.metric=train/loss"], 27, "an average of 27 updates"),
        (["callbacks=swa", "+trainer.max_time={milliseconds:1}"], 0, "raw: nothing had been averaged by then"),
        ([], None, None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_results_and_summary_say_how_many_updates_the_chosen_weights_average(words, updates, text, train):
    ran = train(*TINY, *words, "logger=[]", "eval.test=false", "hydra.run.dir=run")
    assert (ran.code, ran.err) == (0, "")
    assert Run("run").results["averaged_updates"] == updates
    assert (f"  average  the chosen weights are {text}" in ran.out) if text else ("  average " not in ran.out)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_after_50_steps_the_average_is_as_good_as_the_weights(seed, fit, tmp_path):
    words = ["model=mlp", "data.val_fraction=0.4", "data.batch_size=17", f"seed={seed}", "trainer=cpu"]
    assert max(fit("callbacks=ema", "trainer.max_epochs=1", base=words).seen) == 50
    [average], [raw] = (logged(tmp_path / "run", f"val/acc{suffix}") for suffix in ("", "_raw"))
    assert average > 0.9
    assert average >= raw - 0.01


def test_early_stopping_and_the_best_checkpoint_follow_the_average(fit, tmp_path):
    fit("callbacks=ema", "optim.lr=0.1", "trainer.max_epochs=5")
    losses = logged(tmp_path / "run", "val/loss")
    best = losses.index(min(losses))
    assert saved(tmp_path / "run", "best")["metrics"]["val/loss"] == pytest.approx(losses[best], rel=1e-5)


@pytest.mark.parametrize("words", [["callbacks=ema"], SWA], ids=["ema", "swa"])
def test_without_checkpoints_the_network_has_the_average_at_the_end(words, fit):
    watch = fit(*words, "callbacks.checkpoints=null")
    metrics = watch.trainer.callback_metrics
    assert val_loss(watch.classifier, watch.data) == pytest.approx(metrics["val/loss"].item(), abs=1e-6)


def test_a_run_with_an_average_is_tested_with_it(train):
    assert train(*TINY, "callbacks=ema", "optim.lr=0.01", "hydra.run.dir=run").code == 0
    run = Run("run")
    assert set(run.results["val"]) == {"loss", "acc", "loss_raw", "acc_raw"}
    data = assemble.data(run.config)
    images, labels = data.source.test_inputs[data.test_index], data.source.test_targets[data.test_index]
    with torch.no_grad():
        loss = cross_entropy(run.classifier()(images), labels).item()
    assert loss == pytest.approx(run.results["test"]["loss"], abs=1e-6)


def test_a_run_without_validation_images_has_an_average_too(fit, tmp_path):
    for words in ["callbacks=ema"], SWA:
        fit(*words, "data.val_fraction=0", "monitor.metric=train/loss", folder=words[0])
        assert saved(tmp_path / words[0])["raw"]
        assert not logged(tmp_path / words[0], "val/loss_raw")


# resuming


@pytest.mark.parametrize(
    ("kill_at", "words"),
    [
        (9, ["callbacks=ema"]),
        (13, ["callbacks=ema", "callbacks.ema.every=2"]),
        (13, ["callbacks=ema", "trainer.precision=bf16-true"]),
        (13, SWA),  # averages the ends of the epochs at steps 18 and 27
        (18, SWA),
        (22, SWA),
        (22, [*SWA, "callbacks.swa.every=3"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_resumed_run_ends_as_one_that_was_not_stopped(words, kill_at, fit, tmp_path):
    fit(*words, folder="whole")
    often = [EACH_STEP] if kill_at % 9 else []  # else it has been saved at the end of an epoch
    with pytest.raises(SystemExit):
        fit(*words, *often, folder="parts", kill_at=kill_at)
    assert saved(tmp_path / "parts")["global_step"] == kill_at
    fit(*words, folder="parts")
    for name in "last", "best":
        a, b = (saved(tmp_path / folder, name) for folder in ("whole", "parts"))
        for part in "state_dict", "raw":
            assert all(torch.equal(value, b[part][key]) for key, value in a[part].items())
        assert str(a["optimizer_states"]) == str(b["optimizer_states"])
    assert rows(tmp_path / "whole") == rows(tmp_path / "parts")


def test_a_run_that_is_made_longer_takes_the_mean_of_its_own_end(fit, tmp_path):
    fit("callbacks=swa", "callbacks.swa.start=0.5", folder="run")
    fit("callbacks=swa", "callbacks.swa.start=0.5", "trainer.max_epochs=8", folder="run")
    fit("callbacks=swa", "callbacks.swa.start=0.5", "trainer.max_epochs=8", folder="whole")
    a, b = (saved(tmp_path / folder)["state_dict"] for folder in ("whole", "run"))
    assert all(torch.equal(value, b[name]) for name, value in a.items())


# beside other things


@pytest.mark.parametrize("average", ["ema", "swa"])
@pytest.mark.parametrize(
    "words",
    [
        ["trainer.precision=bf16-mixed"],
        ["trainer.precision=bf16-true"],
        ["+trainer.fast_dev_run=true"],
        ["optim=lbfgs", "data.batch_size=full", "model.dropout=0"],
        ["+trainer.val_check_interval=3", "scheduler=plateau"],
        ["model.norm=none", "data.augment.flip=alternating", "metrics=macro_f1"],
        ["optim=muon", "loss=hinge"],
    ],
    ids=lambda words: words[0],
)
def test_it_works_with(words, average, fit):
    watch = fit(f"callbacks={average}", *words, "trainer.max_epochs=2")
    metrics = watch.trainer.callback_metrics
    assert "val/loss_raw" in metrics
    assert all(tensor.isfinite().all() for tensor in watch.classifier.state_dict().values())


def test_bfloat16_does_not_swallow_small_updates(fit, tmp_path):
    warmup = ["callbacks.ema.warmup_gamma=1", "callbacks.ema.warmup_power=9"]
    watch = fit("callbacks=ema", "trainer.precision=bf16-true", *warmup, "trainer.max_epochs=1")
    average = None
    for step in range(1, 10):
        decay = min(0.999, 1 - step**-9.0)
        weights = watch.seen[step]["network.head.weight"].double()
        average = weights if average is None else decay * average + (1 - decay) * weights
    weight = saved(tmp_path / "run")["state_dict"]["network.head.weight"]
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight.double(), average, rtol=0, atol=1e-6)


def test_the_range_test_and_a_validation_asked_for_leave_both_weights_as_they_are(fit, tmp_path, monkeypatch):
    monkeypatch.setattr(control, "INTERVAL", 0)
    monkeypatch.setattr("athanor.callbacks.lr_range.LRRange._show", lambda *_: None)
    words = ["callbacks.lr_range.steps=20", "callbacks.lr_range.sweeps=1", "callbacks=[ema,lr_range]"]
    whole = fit(*words, folder="whole")
    (tmp_path / "asked").mkdir()
    (tmp_path / "asked" / "control.yaml").write_text("validate: true\ncheckpoint: true\n")
    asked = fit(*words, folder="asked")
    assert next(c for c in asked.trainer.callbacks if isinstance(c, Control)).edits
    a, b = (saved(tmp_path / folder) for folder in ("whole", "asked"))
    for part in "state_dict", "raw":
        assert all(torch.equal(value, b[part][key]) for key, value in a[part].items())
    assert len(logged(tmp_path / "asked", "val/loss_raw")) == len(logged(tmp_path / "whole", "val/loss_raw")) + 1
    assert whole.seen.keys() == asked.seen.keys()


# mistakes


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["callbacks=ema", "callbacks.ema.decay=1"], "callbacks.ema.decay=1: use 0 (no average) to below 1"),
        (["callbacks=ema", "callbacks.ema.decay=-0.1"], "callbacks.ema.decay=-0.1: use 0 (no average) to below 1"),
        (["callbacks=ema", "callbacks.ema.every=0"], "callbacks.ema.every=0: use 1 or more optimizer steps"),
        (["callbacks=ema", "callbacks.ema.warmup_gamma=0"], "callbacks.ema.warmup_gamma=0: use more than 0"),
        (["callbacks=ema", "callbacks.ema.warmup_power=-1"], "callbacks.ema.warmup_power=-1: use more than 0"),
        (["callbacks=ema", "callbacks.ema.every=0.5"], "callbacks.ema.every=0.5: EMA takes int"),
        (
            ["callbacks=swa", "callbacks.swa.start=1"],
            "callbacks.swa.start=1 is no fraction of the run; use 0 to below 1",
        ),
        (["callbacks=swa", "callbacks.swa.every=0"], "callbacks.swa.every=0: use 1 or more optimizer steps, or null"),
        (["callbacks=swa", "trainer.max_epochs=-1"], "callbacks.swa.start is a fraction of a run without end"),
        (["callbacks=[ema,swa]"], "callbacks: ema and swa each save their own average"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_a_wrong_knob_ends_in_one_sentence(words, text, train):
    ran = train(*TINY, *words)
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert f"error: {text}" in ran.err


# several processes


RANK = """
import lightning.pytorch as L
import torch
from athanor.callbacks.weight_average import WeightAverage

class Rank(L.Callback):
    def on_train_end(self, trainer, module):
        average = next(c.average for c in trainer.callbacks if isinstance(c, WeightAverage))
        torch.save(average, f"{trainer.default_root_dir}/{trainer.global_rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_average_what_one_averages(train, tmp_path, monkeypatch):
    (tmp_path / "watch_ranks.py").write_text(RANK)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    words = ["model=mlp", "model.norm=none", "model.widths=[32]", "optim=momentum", "data.limit=400", "eval.test=false"]
    words += ["trainer.max_epochs=2", "callbacks=ema", "callbacks.ema.decay=0.9", "trainer.log_every_n_steps=1"]
    words += ["+callbacks.watch._target_=watch_ranks.Rank"]
    assert train(*words, "trainer=cpu", "hydra.run.dir=one").code == 0
    ran = train(*words, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "hydra.run.dir=two")
    assert (ran.code, ran.err) == (0, "")
    one, other = (saved(Path(name)) for name in ("one", "two"))
    for part in "state_dict", "raw":
        assert_close(other[part], one[part])
    ranks = [torch.load(f"two/{rank}.pt") for rank in (0, 1)]
    assert all(torch.equal(value, ranks[1][name]) for name, value in ranks[0].items())
    assert_close(other["state_dict"], ranks[0])
    for metric in "loss", "acc", "loss_raw", "acc_raw":
        assert Run("two").results["val"][metric] == pytest.approx(Run("one").results["val"][metric], abs=1e-5)


@pytest.mark.slow
def test_two_processes_agree_on_batch_norm(train, tmp_path, monkeypatch):
    (tmp_path / "watch_ranks.py").write_text(RANK)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    words = [*TINY, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_epochs=2", *SWA]
    ran = train(*words, "+callbacks.watch._target_=watch_ranks.Rank", "hydra.run.dir=two")
    assert (ran.code, ran.err) == (0, "")
    ranks = [torch.load(f"two/{rank}.pt") for rank in (0, 1)]
    assert all(torch.equal(value, ranks[1][name]) for name, value in ranks[0].items())
    checkpoint, data = saved(Path("two")), assemble.data(Run("two").config)
    classifier = load_classifier(Path("two/checkpoints/last.ckpt"))
    assert val_loss(classifier, data) == pytest.approx(checkpoint["metrics"]["val/loss"], abs=1e-6)
    classifier.load_state_dict(checkpoint["raw"], strict=False)
    assert val_loss(classifier, data) == pytest.approx(checkpoint["metrics"]["val/loss_raw"], abs=1e-6)
