"""Learning rate and momentum at each optimizer step of real runs, against formulas.py."""

import itertools
import json
import math

import lightning.pytorch as L
import pytest
from formulas import FORMS, UNITS, factors, half_cosine, knobs_of, plain

from athanor.engine.config import assemble, check
from athanor.tasks.classification import Classification

LR, EPOCHS, BATCHES = 0.3, 4, 7  # 115 images make 7 batches of 16
WORDS = ["model=linear", "trainer=cpu", "data.limit=115", "data.val_fraction=0", "data.batch_size=16", "logger=null"]
WORDS += [f"optim.lr={LR}", "callbacks.early_stopping=null", "callbacks.checkpoints.every_minutes=1e-9"]
WARMUPS = {"steps": (3, lambda total, per_epoch: 3), "epochs": (1.5, lambda total, per_epoch: round(1.5 * per_epoch))}
WARMUPS["fraction"] = (0.25, lambda total, per_epoch: round(0.25 * total))


class Watch(L.Callback):
    """Learning rates, momentum and the like of each optimizer step."""

    def __init__(self):
        self.seen, self.losses = {}, {}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        kept = ("lr", "momentum", "betas")
        self.seen[trainer.global_step] = [{k: group[k] for k in kept if k in group} for group in optimizer.param_groups]

    def on_validation_end(self, trainer, pl_module):
        self.losses[trainer.global_step] = trainer.callback_metrics["val/loss"].item()

    @property
    def lrs(self):
        return [self.seen[step][0]["lr"] for step in range(len(self.seen))]


@pytest.fixture
def fit(compose, tmp_path, monkeypatch):
    """Train as train.py does; with `killed_at`, be killed at that batch and go on from the checkpoint."""

    def fit(*words, killed_at=None, folder="run"):
        config = check.plain(compose(*WORDS, f"trainer.max_epochs={EPOCHS}", *words))
        check.check(config)
        watch, last = Watch(), tmp_path / folder / "checkpoints" / "last.ckpt"

        def run():
            data = assemble.data(config)
            classifier = assemble.task(config, data)
            trainer = assemble.trainer(config, str(tmp_path / folder), data, classifier)
            trainer.callbacks.append(watch)
            trainer.fit(classifier, data, ckpt_path=last if last.exists() else None, weights_only=True)
            return trainer

        def killed(self, batch, batch_idx):
            if self.current_epoch * BATCHES + batch_idx == killed_at:
                raise SystemExit

        if killed_at is not None:
            with monkeypatch.context() as patch, pytest.raises(SystemExit):
                patch.setattr(Classification, "on_train_batch_start", killed)
                run()
            assert last.exists()
        trainer = run()
        assert trainer.num_training_batches == BATCHES
        return watch, trainer

    return fit


def words_of(name, unit, total, per_epoch):
    knobs = plain(knobs_of(name, unit, total, per_epoch))
    return [f"scheduler={name}", f"scheduler.unit={unit}", *(f"scheduler.{k}={v}" for k, v in knobs.items())]


CASES = [
    # of every schedule in every unit, one with a warm-up, killed and resumed; accumulation and warm-up unit take turns
    (name, unit, (1, 4)[number % 2], list(WARMUPS)[number % 3])
    for number, (name, unit) in enumerate(itertools.product(FORMS, UNITS))
]


@pytest.mark.parametrize("name, unit, accumulate, warmup_unit", CASES)
def test_every_schedule_follows_its_formula_with_a_warm_up_and_across_a_resume(
    fit, name, unit, accumulate, warmup_unit
):
    per_epoch = math.ceil(BATCHES / accumulate)
    total = EPOCHS * per_epoch
    amount, steps = WARMUPS[warmup_unit]
    words = [*words_of(name, unit, total, per_epoch), f"trainer.accumulate_grad_batches={accumulate}"]
    words += [f"scheduler.warmup={amount}", f"scheduler.warmup_unit={warmup_unit}"]
    watch, trainer = fit(*words, killed_at=2 * BATCHES + 5)  # after the warm-up, in mid-epoch
    assert trainer.global_step == total
    expected = [LR * factor for factor in factors(name, unit, total, per_epoch, steps(total, per_epoch))]
    assert watch.lrs == pytest.approx(expected, rel=0, abs=1e-9)


@pytest.mark.parametrize("name", FORMS)
def test_every_schedule_follows_its_formula_without_a_warm_up(fit, name):
    number = list(FORMS).index(name)
    unit, accumulate = UNITS[number % 3], (4, 1)[number % 2]
    per_epoch = math.ceil(BATCHES / accumulate)
    total = EPOCHS * per_epoch
    watch, _ = fit(*words_of(name, unit, total, per_epoch), f"trainer.accumulate_grad_batches={accumulate}")
    expected = [LR * factor for factor in factors(name, unit, total, per_epoch)]
    assert watch.lrs == pytest.approx(expected, rel=0, abs=1e-9)


def test_a_resume_within_the_warm_up_goes_on_with_it(fit):
    watch, _ = fit("scheduler=polynomial", "scheduler.warmup=12", "scheduler.warmup_unit=steps", killed_at=9)
    expected = [(s + 1) / 13 if s < 12 else 1 - (s - 12) / 15 for s in range(28)]
    assert watch.lrs == pytest.approx([LR * factor for factor in expected], rel=0, abs=1e-9)


# plateau


def plateau(losses, per_epoch, lr, warmup, patience, factor):
    """The learning rate of each step: it falls after more than `patience` epochs without a loss lower by 1e-4 of it."""
    lrs, best, bad = [], math.inf, 0
    for epoch in range(len(losses)):
        for step in range(epoch * per_epoch, (epoch + 1) * per_epoch):
            lrs.append(lr * (step + 1) / (warmup + 1) if step < warmup else lr)
        if (epoch + 1) * per_epoch < warmup:
            continue
        best, bad = (losses[epoch], 0) if losses[epoch] < best * (1 - 1e-4) else (best, bad + 1)
        if bad > patience:
            lr, bad = lr * factor, 0
    return lrs


@pytest.mark.parametrize("warmup, killed_at", [(0, 26), (10, None), (10, 9), (14, 33)])
def test_plateau_follows_its_rule_on_the_logged_validation_loss(fit, warmup, killed_at):
    words = ["scheduler=plateau", "scheduler.patience=1", "scheduler.factor=0.5", "optim=sgd", "trainer.max_epochs=12"]
    words += ["data.limit=100", "data.val_fraction=0.3", "data.batch_size=10", "scheduler.warmup_unit=steps"]
    watch, _ = fit(*words, "optim.lr=30", f"scheduler.warmup={warmup}", killed_at=killed_at)  # the loss is unsteady
    losses = [loss for _, loss in sorted(watch.losses.items())]
    expected = plateau(losses, BATCHES, 30, warmup, 1, 0.5)
    assert watch.lrs == pytest.approx(expected, rel=0, abs=1e-9)
    assert expected[-1] < 15.1  # the learning rate fell


# momentum


def rise(t):
    return 0.6 + (0.97 - 0.6) * t


def cycle(t):
    down = t / 0.3 if t < 0.3 else 1 - (t - 0.3) / 0.7
    return 0.95 - 0.1 * half_cosine(down)


MOMENTA = {"rise": (["scheduler.momentum.start=0.6", "scheduler.momentum.end=0.97"], rise), "cycle": ([], cycle)}


MOMENTUM_CASES = [("rise", "sgd", 1, 16), ("rise", "momentum", 4, 17), ("rise", "muon", 1, None)]
MOMENTUM_CASES += [("cycle", "nesterov", 4, None), ("cycle", "sgd", 1, 16), ("cycle", "rmsprop", 1, 9)]


@pytest.mark.parametrize("name, optim, accumulate, killed_at", MOMENTUM_CASES)
def test_momentum_follows_its_formula_and_the_learning_rate_its_own(fit, name, optim, accumulate, killed_at):
    knobs, formula = MOMENTA[name]
    words = [f"optim={optim}", "scheduler=polynomial", f"scheduler.momentum={name}", *knobs]
    words += ["model=mlp", "model.widths=[8]"] if optim == "muon" else []
    watch, trainer = fit(*words, f"trainer.accumulate_grad_batches={accumulate}", killed_at=killed_at)
    last = trainer.global_step - 1
    for step, groups in watch.seen.items():
        for group in (group for group in groups if "momentum" in group):  # Adam's in Muon have a beta, which stays
            assert group["momentum"] == pytest.approx(formula(step / last), rel=0, abs=1e-9)
    assert watch.lrs == pytest.approx([LR * (1 - step / last) for step in range(last + 1)], rel=0, abs=1e-9)


# the batch


def test_every_group_is_scaled_by_the_global_batch_and_a_line_says_so(fit, caplog):
    words = ["optim=muon", "model=mlp", "model.widths=[8]", "trainer.accumulate_grad_batches=4", "trainer.max_epochs=1"]
    configured = []
    for rule, base, factor in ("none", 128, 1), ("linear", 128, 1 / 2), ("sqrt", 16, 2), ("linear", 16, 4):
        caplog.clear()
        with caplog.at_level("INFO"):
            scaling = [f"optim.lr_scaling={rule}", f"optim.base_batch={base}"]
            watch, _ = fit(*words, *scaling, folder=f"{rule}{base}")
        lrs = [group["lr"] for group in watch.seen[0]]
        configured = configured or lrs
        assert len(set(lrs)) > 1 and lrs[0] == pytest.approx(LR * factor, rel=1e-12)
        assert lrs == pytest.approx([factor * lr for lr in configured], rel=1e-12)
        line = f"learning rate {LR} -> {LR * factor:g}: optim.lr_scaling={rule} from a batch of {base} to 64"
        assert (line in caplog.text) == (rule != "none")


# two processes

WATCHING = """
import json
import lightning.pytorch as L

class Watch(L.Callback):
    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        group = optimizer.param_groups[0]
        self.seen.append([group["lr"], group["momentum"]])

    def on_train_end(self, trainer, pl_module):
        run = pl_module.run_length
        with open(f"rank{trainer.global_rank}.json", "w") as file:
            json.dump({"seen": self.seen, "run": [run.steps, run.per_epoch], "devices": trainer.world_size}, file)
"""


@pytest.mark.slow
def test_two_processes_have_the_rates_of_one(run_process, tmp_path):
    (tmp_path / "watching.py").write_text(WATCHING)
    words = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_epochs=4", "eval.test=false"]
    words += ["optim=momentum", "scheduler=one_cycle", "scheduler.start=0.1", "scheduler.peak_at=0.25"]
    words += ["scheduler.floor=0.01", "scheduler.warmup=1", "scheduler.warmup_unit=epochs", "scheduler.momentum=rise"]
    words += ["trainer.accumulate_grad_batches=4", "optim.lr_scaling=linear", "callbacks.checkpoints=null"]
    words += ["+callbacks.watch={_target_: watching.Watch}", "hydra.run.dir=run"]
    ran = run_process(tmp_path, "train.py", *WORDS[:-1], *words, PYTHONPATH=str(tmp_path))
    assert (ran.code, ran.err) == (0, "")
    lrs = [LR * 64 / 128 * factor for factor in factors("one_cycle", "fraction", 8, 2, 2)]
    for rank in 0, 1:
        record = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert (record["run"], record["devices"]) == ([8, 2], 2)  # so the times of every schedule are those of one
        assert [lr for lr, _ in record["seen"]] == pytest.approx(lrs, rel=0, abs=1e-9)
        assert [m for _, m in record["seen"]] == pytest.approx([0.5 + 0.49 * s / 7 for s in range(8)], rel=0, abs=1e-9)
