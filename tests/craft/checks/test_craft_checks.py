"""What checks say of tasks and data of ours, what they leave behind (nothing), and how a check is added."""

import sys
from dataclasses import replace
from types import ModuleType

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from athanor.base.errors import UserError
from athanor.craft import checks
from athanor.craft.checks import all_checks, check, gradient_check
from athanor.craft.checks.finding import DoesNotApplyError, Finding, Report
from athanor.data.seeds import global_state
from athanor.engine.config import assemble, options
from athanor.engine.config.check import plain

SMALL = ("model=linear", "data.limit=300", "data.batch_size=32")


@pytest.fixture
def built(compose):
    def built(*words):
        cfg = plain(compose(*words))
        torch.manual_seed(0)
        data = assemble.data(cfg)
        module = assemble.task(cfg, data)
        return module, data, assemble.bare_trainer(cfg, ".", data, module)

    return built


def verdict(built, name, change=lambda module, data: None, words=SMALL):
    module, data, trainer = built(*words)
    change(module, data)
    return check(module, data, trainer=trainer, only=[name]).findings[name]


# bugs in what our own tasks are given


def test_statistics_of_all_data_are_found(built):
    def fit_all(module, data):
        everything = torch.cat([data.source.train_inputs, data.source.test_inputs])
        module.preprocess.fit(everything, torch.arange(len(everything)))

    assert verdict(built, "preprocessing").verdict == "ok"
    assert verdict(built, "preprocessing", fit_all).verdict == "suspicious"


def test_statistics_of_another_data_set_are_found(built):
    def fit_other(module, data):
        module.preprocess.fit(255 - data.source.train_inputs // 2, data.train_index)

    assert verdict(built, "preprocessing", fit_other).verdict == "wrong"


def test_a_group_on_both_sides_of_the_split_is_found(built):
    def split_group(module, data):
        groups = torch.arange(len(data.source.train_inputs))
        data.source = replace(data.source, groups=groups.clone())
        data.source.groups[data.val_index[0]] = data.source.groups[data.train_index[0]]

    finding = verdict(built, "overlap", split_group)
    assert finding.verdict == "wrong"
    assert "1 groups are in train and in validation" in finding.figure


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_test_picture_in_train_is_found_and_named(mirrored, built):
    def copy_picture(module, data):
        picture = data.source.test_inputs[data.test_index[5]]
        data.source.train_inputs[data.train_index[0]] = picture.flip(-1) if mirrored else picture

    finding = verdict(built, "overlap", copy_picture)
    assert finding.verdict in ("suspicious", "wrong")
    assert finding.figure.endswith(f"{int(not mirrored)} of test in train, mirrored {int(mirrored)} (5)")


def test_flipped_digits_are_suspicious(built):
    assert verdict(built, "augmentation", words=[*SMALL, "data.augment.shift=1"]).verdict == "ok"
    assert verdict(built, "augmentation", words=[*SMALL, "data.augment.flip=true"]).verdict == "suspicious"


def test_what_a_setting_has_frozen_is_not_suspicious(built):
    words = ["model=mlp", *SMALL[1:], "model.freeze=all_but_head"]
    assert verdict(built, "gradients", words=words).verdict == "ok"
    frozen = verdict(built, "gradients", lambda module, data: module.network.hidden.requires_grad_(False), words[:-1])
    assert frozen.verdict == "suspicious"
    assert "network.hidden.0.0" in frozen.figure


def test_zero_weights_are_wrong_where_there_are_hidden_units(built):
    assert verdict(built, "gradients", words=["model=mlp", *SMALL[1:], "init=zeros"]).verdict == "wrong"
    assert verdict(built, "gradients", words=[*SMALL, "init=zeros"]).verdict == "ok"


@pytest.mark.parametrize(
    "words, expected",
    [
        ("loss=cross_entropy", "2.303 = -ln(1/10)"),
        ("loss.label_smoothing=0.1", "2.303 = -ln(1/10)"),
        ("loss=hinge", "9 = 10 - 1"),
        ("task=attributes", "6.931 = 10 ln 2"),
        ("task=regression", "that of the targets' mean"),
    ],
)
def test_the_first_loss_has_a_formula_for_each_loss(words, expected, built):
    finding = verdict(built, "first_loss", words=[*words.split(), *SMALL])
    assert finding.verdict == "ok"
    assert expected in finding.figure


def test_kinks_are_skipped_and_counted():
    parameter = nn.Parameter(torch.tensor([0.0, 3.0], dtype=torch.float64))
    with torch.no_grad():
        value = lambda: (parameter[0].abs() + parameter[1] ** 2).item()  # noqa: E731
        assert gradient_check.derivative(parameter, 0, 1.0, value(), value)[1]
        slope, is_kink = gradient_check.derivative(parameter, 1, 6.0, value(), value)
        assert (slope, is_kink) == (pytest.approx(6), False)
        slope, is_kink = gradient_check.derivative(parameter, 1, 5.0, value(), value)  # a wrong gradient is no kink
        assert (slope, is_kink) == (pytest.approx(6), False)
    assert parameter.tolist() == [0.0, 3.0]


def test_the_first_operation_that_differs_is_named_with_its_module():
    generator = torch.Generator().manual_seed(0)

    class Noisy(nn.Module):
        def forward(self, x):
            return x + torch.rand(x.shape, generator=generator)

    class Training(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = nn.Sequential(nn.Linear(4, 4), Noisy(), nn.Linear(4, 2))

        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    loader = DataLoader(TensorDataset(torch.randn(16, 4), torch.arange(16) % 2), 8)
    finding = check(Training(), loader, only=["reproducible"]).findings["reproducible"]
    assert finding.verdict == "wrong"
    assert "aten::uniform" in finding.figure or "aten::rand" in finding.figure
    assert "Sequential.1" in finding.figure


# the checks themselves


def test_nothing_is_changed_and_nothing_is_left(built, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module, data, trainer = built("model=mlp", "model.dropout=0.2", *SMALL[1:])
    module.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    randomness, modes = global_state(), [part.training for part in module.modules()]
    check(module, data, trainer=trainer)
    assert global_state() == randomness
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert [part.training for part in module.modules()] == modes
    assert all(parameter.grad is None for parameter in module.parameters())
    assert data.trainer is None
    assert list(tmp_path.iterdir()) == []


def test_a_check_is_one_file_that_is_found_by_its_place(built, tmp_path, monkeypatch):
    (tmp_path / "few_inputs.py").write_text(
        "from athanor.craft.checks.finding import judged\nFAST = True\n"
        "def check(subject):\n    count = len(subject.pair[0])\n"
        "    return judged(f'{count} inputs', wrong=count < 40, advice='take more')\n"
    )
    monkeypatch.setattr(checks, "__path__", [*checks.__path__, str(tmp_path)])
    try:
        assert list(all_checks()).index("few_inputs") < list(all_checks()).index("overfit")
        assert verdict(built, "few_inputs") == Finding("wrong", "32 inputs", "take more")
    finally:
        sys.modules.pop("athanor.craft.checks.few_inputs")
        del checks.few_inputs


def test_a_check_that_does_not_apply_or_fails_says_why_and_the_others_run(built, monkeypatch):
    def fail(subject):
        raise KeyError("no such thing")

    def refuse(subject):
        raise DoesNotApplyError("there is nothing to see")

    failing, refusing, fine = (ModuleType(name) for name in ("failing", "refusing", "fine"))
    failing.check, refusing.check, fine.check = fail, refuse, lambda subject: Finding("ok", "fine")
    for each in failing, refusing, fine:
        each.FAST = True
    monkeypatch.setattr(checks, "all_checks", lambda: {"failing": failing, "refusing": refusing, "fine": fine})
    module, data, trainer = built(*SMALL)
    said = []
    report = check(module, data, trainer=trainer, tell=said.append)
    failed = report.findings["failing"]  # of a bug in a person's own code the place is told
    assert (failed.verdict, failed.figure) == ("wrong", "KeyError: 'no such thing'")
    assert failed.advice.endswith('raise KeyError("no such thing")') and "test_craft_checks.py:" in failed.advice
    assert report.findings["refusing"] == Finding("skipped", "there is nothing to see")
    assert report.names("ok") == ["fine"]
    assert "\n".join(said) == str(report)


def test_an_unknown_check_is_refused_with_the_nearest_name(built):
    with pytest.raises(UserError, match=r"there is no check overfitt; did you mean overfit\?"):
        verdict(built, "overfitt")


def test_a_report_is_written_for_machines_too():
    report = Report({"a": Finding("ok", "1"), "b": Finding("wrong", "2", "look")})
    assert report.is_wrong
    assert report.as_json()[1] == {"check": "b", "verdict": "wrong", "figure": "2", "advice": "look"}


class Bare(L.LightningModule):
    """A module whose batches are dictionaries and that has no forward."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def training_step(self, batch):
        return {"loss": nn.functional.cross_entropy(self.layer(batch["x"]), batch["y"])}

    def configure_optimizers(self):
        return {"optimizer": torch.optim.SGD(self.parameters(), 0.1)}


def test_of_any_module_the_checks_that_apply_run_and_the_others_say_why():
    items = [{"x": torch.randn(4), "y": torch.tensor(i % 3)} for i in range(32)]
    report = check(Bare(), DataLoader(items, 8, shuffle=True))
    assert report.names("wrong", "suspicious") == [], report
    assert {"gradients", "learning_rate", "gradient_check", "first_loss", "reproducible"} <= set(report.names("ok"))
    assert report.findings["outputs"].figure == "batches are no pairs of inputs and targets"


# no false alarms

SOME = ("model=cnn", "model=mlp optim=sgd", "model=linear loss=hinge", "task=regression loss=mae model=mlp optim=muon")
SOME += (
    "task=autoencoder model=mlp model.widths=[32,16,32]",
    "task=contrastive data.augment.shift=2",
    "task=attributes",
)
SOME += (
    "model=resnet model.depth=8 optim=momentum",
    "optim=lbfgs model=linear",
    "data.mixup=0.2 model=mlp optim=adagrad",
)
NEEDED = {"speednet": "model.widths=[16,32]", "muon": "model=mlp", "contrastive": "data.augment.shift=2"}
TASKS = {"logistic": "attributes", "one_vs_all_hinge": "attributes", "info_nce": "contrastive"}
TASKS |= dict.fromkeys(("mse", "mae", "huber"), "regression")
LEFT_OUT = ("timm",)  # is not among the requirements


def every_option() -> list[str]:
    words = []
    for group in "model", "optim", "loss", "task":
        for name in options.options(group):
            task = f" task={TASKS[name]}" if name in TASKS else ""
            needed = " ".join(NEEDED[key] for key in (name, TASKS.get(name)) if key in NEEDED)
            if name not in LEFT_OUT:
                words.append(f"{group}={name}{task} {needed}".strip())
    return words


@pytest.mark.parametrize("words", [*SOME, "model=cnn model.freeze=all_but_head"])
def test_no_fast_check_complains_of_what_is_shipped(words, built):
    assert_no_alarm(built, words, fast=True)


@pytest.mark.slow
@pytest.mark.parametrize("words", every_option())
def test_no_fast_check_complains_of_any_option(words, built):
    assert_no_alarm(built, words, fast=True)


@pytest.mark.slow
@pytest.mark.parametrize("words", [*SOME[:8]])
def test_no_check_at_all_complains_of_eight_combinations(words, built):
    assert_no_alarm(built, words, fast=False)


def assert_no_alarm(built, words, fast):
    module, data, trainer = built(*words.split())
    report = check(module, data, trainer=trainer, fast=fast)
    assert report.names("wrong", "suspicious") == [], report
    assert not [finding for finding in report.findings.values() if "it ended with" in finding.figure], report


class Binary(L.LightningModule):
    """Integer targets, and one output for both classes; a bias before batch norm, which gets no gradient but noise."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.binary_cross_entropy_with_logits(self(x).squeeze(1), y.float())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


class Density(Binary):
    """A loss that is negative."""

    def training_step(self, batch, batch_idx):
        return -torch.cosine_similarity(self(batch[0]).squeeze(1), batch[1] - 0.5, dim=0) - 1


@pytest.mark.parametrize("kind", [Binary, Density])
def test_a_sound_module_whose_integers_are_no_classes_is_not_wrong(kind):
    torch.manual_seed(0)
    inputs = torch.randn(512, 6)
    loader = DataLoader(TensorDataset(inputs, (inputs[:, 0] > 0).long()), batch_size=64, shuffle=True)
    report = check(kind(), loader, fast=True)
    assert not report.is_wrong, report
