"""Adding a part takes new files only: none of the project's is edited. A task is added in tests/tasks/test_task.py, and
a config group, which is one row besides its files, in tests/engine/config/test_schema.py.
"""

import csv
import json
import os
import re

import pytest

from athanor.base.errors import UserError
from athanor.engine.config import check
from athanor.engine.runs.run import Run

FILES = {
    # a data set, a model, an optimizer that torch has
    "code/mine_model.py": """
from torch import nn

class Mine(nn.Module):
    def __init__(self, *, input_shape, num_classes, hidden: int):
        super().__init__()
        channels, height, width = input_shape
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, hidden), nn.ReLU())
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, x):
        return self.head(self.net(x))
""",
    "code/mine_data.py": """
import torch
from athanor.data.sources.source import Source

def stripes(count: int) -> Source:
    \"\"\"Images with horizontal or vertical stripes.\"\"\"
    labels = torch.arange(count) % 2
    images = torch.randint(0, 60, (count, 1, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[labels == 0, :, ::2] += 150
    images[labels == 1, :, :, ::2] += 150
    half = count // 2
    return Source(images[:half], labels[:half], images[half:], labels[half:], ("lying", "standing"), "stripes")
""",
    "configs/model/mine.yaml": "_target_: mine_model.Mine\nhidden: 16\n",
    "configs/data/mine.yaml": """
defaults: [base/default@_here_, _self_]
_target_: mine_data.stripes
batch_size: 32
count: 400
""",
    "configs/optim/radam.yaml": "_target_: torch.optim.RAdam\n_partial_: true\nlr: 0.01\nweight_decay: 0.0\n",
    # a schedule, a metric, a callback and a logger that the libraries have
    "configs/scheduler/halving.yaml": """
_target_: torch.optim.lr_scheduler.StepLR
_partial_: true
unit: epochs
step_size: 1
gamma: 0.9
""",
    "configs/metrics/recall.yaml": """
recall:
  _target_: torchmetrics.classification.MulticlassRecall
  average: none
""",
    "configs/callbacks/summary.yaml": "summary:\n  _target_: lightning.pytorch.callbacks.ModelSummary\n",
    "configs/logger/lightning.yaml": "lightning:\n  _target_: lightning.pytorch.loggers.CSVLogger\n  name: table\n",
    # one's own of each
    "code/mine_optim.py": """
import torch

class SignSGD(torch.optim.Optimizer):
    def __init__(self, params, lr: float, weight_decay: float):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(p.grad.sign(), alpha=-group["lr"])
        return loss

def halves(t: float, every: float) -> float:
    return 0.5 ** (t // every)
""",
    "configs/optim/mine.yaml": "_target_: mine_optim.SignSGD\n_partial_: true\nlr: 0.004\nweight_decay: 0.1\n",
    "configs/scheduler/mine.yaml": "_target_: mine_optim.halves\n_partial_: true\nunit: epochs\nevery: 2\n",
    "code/mine_loss.py": """
import torch
from torch import nn

class Noisy(nn.Module):
    \"\"\"Cross-entropy with weights of the classes and, in training, noise on the logits.\"\"\"

    def __init__(self, noise: float, class_counts: torch.Tensor, num_classes: int, seed: int):
        super().__init__()
        self.noise, self.seed = noise, seed
        self.register_buffer("weight", class_counts.sum() / (num_classes * class_counts.float()))

    def forward(self, logits, labels):
        if self.training:
            logits = logits + self.noise * torch.randn_like(logits)
        return nn.functional.cross_entropy(logits, labels, self.weight)
""",
    "configs/loss/mine.yaml": "_target_: mine_loss.Noisy\nnoise: 0.1\n",
    "code/mine_metric.py": """
import torch
from torchmetrics import Metric

class Surprise(Metric):
    \"\"\"The share of inputs of which the right class is thought less likely than 1 / num_classes.\"\"\"

    higher_is_better = False

    def __init__(self, num_classes: int, factor: float):
        super().__init__()
        self.limit = factor / num_classes
        self.add_state("surprising", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits, labels):
        right = logits.softmax(1).gather(1, labels[:, None])
        self.surprising += (right < self.limit).sum()
        self.count += len(labels)

    def compute(self):
        return self.surprising / self.count
""",
    "configs/metrics/mine.yaml": "surprise:\n  _target_: mine_metric.Surprise\n  factor: 1.0\n",
    "code/mine_callback.py": """
import lightning.pytorch as L

class Counter(L.Callback):
    def __init__(self, every: int, seed: int):
        self.every, self.seed, self.counted, self.results = every, seed, {}, {}

    def count(self, hook):
        self.counted[hook] = self.counted.get(hook, 0) + 1

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (batch_idx + 1) % self.every == 0:
            self.count("batches")

    def on_validation_end(self, trainer, pl_module):
        self.count("validations")

    def on_test_end(self, trainer, pl_module):
        self.count("tests")
        self.results = {"counter": {**self.counted, "of_seed": self.seed}}
        self.results["ones"] = pl_module.network.head.bias.new_ones(2)
        self.results["device"] = "a name that the run writes itself"
""",
    "configs/callbacks/mine.yaml": "mine:\n  _target_: mine_callback.Counter\n  every: 2\n",
    "code/mine_logger.py": """
import json
from pathlib import Path
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

class JSONLines(Logger):
    def __init__(self, save_dir: str, parameters: dict, file: str):
        super().__init__()
        self.path = Path(save_dir) / file
        self.path.write_text(json.dumps(parameters) + "\\n")

    name = version = ""

    @rank_zero_only
    def log_hyperparams(self, params):
        pass

    @rank_zero_only
    def log_metrics(self, metrics, step=None):
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\\n")
""",
    "configs/logger/mine.yaml": "mine:\n  _target_: mine_logger.JSONLines\n  file: log.jsonl\n",
    "code/mine_pixels.py": """
from dataclasses import dataclass
import torch
from athanor.data.augmentation.augment import Augment
from athanor.data.preprocess import Preprocess, chunks

class Darkest(Preprocess):
    \"\"\"Pixels minus the darkest of the train split, divided by `scale`.\"\"\"

    def __init__(self, input_shape: tuple[int, int, int], scale: float):
        super().__init__(input_shape)
        self.scale = scale
        self.register_buffer("darkest", torch.zeros(input_shape[0], 1, 1))

    def fit(self, images, index):
        channels = [chunk.transpose(0, 1).flatten(1).amin(1) for chunk in chunks(images, index)]
        self.darkest.copy_(torch.stack(channels).amin(0)[:, None, None])

    def forward(self, images):
        return (images.float() - self.darkest) / self.scale

@dataclass
class Brighter(Augment):
    by: int

    def __bool__(self):
        return self.by > 0 or super().__bool__()

    def __call__(self, images, generator, total, start=0, mirrored=None):
        images = super().__call__(images, generator, total, start, mirrored)
        more = torch.randint(0, self.by + 1, (total, 1, 1, 1), generator=generator, device=images.device)
        return (images + more[start : start + len(images)]).clamp(max=255).byte()
""",
    "configs/data/preprocess/mine.yaml": "_target_: mine_pixels.Darkest\nscale: 100.0\n",
}
WORDS = ["--config-dir", "configs", "model=mine", "data=mine"]
OF_LIBRARIES = ["optim=radam", "scheduler=halving", "metrics=recall", "callbacks=summary", "logger=[csv,lightning]"]
OWN = ["optim=mine", "scheduler=mine", "loss=mine", "metrics=mine", "callbacks=mine", "logger=[csv,mine]"]
OWN += ["data.preprocess=mine", "data.augment._target_=mine_pixels.Brighter", "+data.augment.by=30"]
WORDS += ["trainer.max_epochs=5", "seed=3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("extend")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.lstrip())
    return folder


@pytest.fixture(scope="module")
def own(folder, run_process):
    """A run in which all that is named in OWN trains together."""
    path = os.pathsep.join([str(folder / "code"), os.environ.get("PYTHONPATH", "")])
    ran = run_process(folder, "train.py", *WORDS, *OWN, "hydra.run.dir=own", PYTHONPATH=path)
    assert (ran.code, ran.err) == (0, "")
    return Run(folder / "own")


@pytest.fixture
def with_code(folder, monkeypatch):
    """As PYTHONPATH does in a process of its own."""
    monkeypatch.syspath_prepend(folder / "code")


def column(run, name):
    """The values of a metric in metrics.csv, in their order."""
    with open(run.dir / "metrics.csv") as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["metric"] == name]


def test_what_the_libraries_have_needs_a_yaml_alone(folder, with_code, train, monkeypatch):
    monkeypatch.chdir(folder)
    ran = train(*WORDS, *OF_LIBRARIES, "hydra.run.dir=of_libraries")
    assert (ran.code, ran.err) == (0, "")
    assert "Total params" in ran.out  # the callback
    run = Run(folder / "of_libraries")
    assert run.config["optim"]["_target_"] == "torch.optim.RAdam"
    assert sorted(set(column(run, "lr")), reverse=True) == pytest.approx([0.01 * 0.9**n for n in range(5)])
    recalls = [run.results["test"][f"recall/{name}"] for name in ("lying", "standing")]  # a metric with a value a class
    assert sum(recalls) / 2 == pytest.approx(run.results["test"]["acc"])
    assert (run.dir / "table" / "version_0" / "metrics.csv").is_file()  # the logger


def test_a_model_and_a_data_set_of_ones_own(own):
    assert own.results["test"]["acc"] > 0.95
    assert own.config["name"] == "mine_mine"
    assert own.results["parameters"] == 36 * 16 + 16 + 16 * 2 + 2


def test_an_optimizer_of_ones_own(own):
    assert own.config["optim"] == {
        "_target_": "mine_optim.SignSGD",
        "_partial_": True,
        "lr": 0.004,
        "weight_decay": 0.1,
    }


def test_a_schedule_of_ones_own(own):
    assert column(own, "lr") == pytest.approx([0.004, 0.004, 0.002, 0.002, 0.001])


def test_a_loss_of_ones_own_is_handed_the_counts_of_the_classes(own, with_code):
    loss = own.classifier().loss
    assert (loss.noise, loss.seed, loss.weight.tolist()) == (0.1, 3, [1.0, 1.0])


def test_a_metric_of_ones_own(own):
    values = column(own, "val/surprise")
    assert len(values) == 5
    assert values[-1] == 1 - own.results["val"]["acc"] == own.results["val"]["surprise"]
    assert own.results["test"]["surprise"] == 1 - own.results["test"]["acc"]


def test_the_results_of_a_callback_of_ones_own_are_those_of_the_run(own):
    assert own.results["counter"] == {"batches": 10, "validations": 5, "tests": 1, "of_seed": 3}
    assert (own.results["ones"], own.results["device"]) == ([1.0, 1.0], "cpu")  # a tensor, and a name that is taken
    assert "results.json has a device of the run itself" in (own.dir / "train.log").read_text()


def test_a_logger_of_ones_own(own):
    parameters, *rows = map(json.loads, (own.dir / "log.jsonl").read_text().splitlines())
    assert (parameters["model"], parameters["model.hidden"], parameters["loss.noise"]) == ("Mine", 16, 0.1)
    assert [row["val/acc"] for row in rows if "val/acc" in row] == column(own, "val/acc")


def test_preprocessing_and_augmentation_of_ones_own(own, with_code):
    preprocess = own.classifier().preprocess
    assert (type(preprocess).__name__, preprocess.scale, preprocess.darkest.item()) == ("Darkest", 100.0, 0.0)
    assert own.config["data"]["augment"]["_target_"] == "mine_pixels.Brighter"
    assert own.config["data"]["augment"]["crop"] == 0


def test_what_is_ones_own_evaluates_to_the_recorded_accuracy(own, with_code, run_here):
    ran = run_here("scripts/evaluate.py", own.dir)
    assert (ran.code, ran.err) == (0, "")
    values = re.findall(r"^test/(\w+)  (\S+)  \(recorded (\S+)\)$", ran.out, re.MULTILINE)
    assert [(name, value == recorded) for name, value, recorded in values] == [
        ("loss", True),
        ("acc", True),
        ("surprise", True),
    ]


@pytest.mark.parametrize(
    "words, message",
    [
        (["+model.hiden=3"], "model.hiden: Mine has no 'hiden'; did you mean hidden?"),
        (["model.hidden=wide"], "model.hidden=wide: Mine takes int"),
        (["data.count=many"], "data.count=many: stripes takes int"),
        (["+model.num_classes=5"], "model.num_classes=5: num_classes is the number of classes of the data"),
        (["loss=mine", "loss.noise=loud"], "loss.noise=loud: Noisy takes float"),
        (["optim=mine", "+optim.momentum=0.9"], "optim.momentum: SignSGD has no 'momentum'"),
        (["scheduler=mine", "scheduler.every=often"], "scheduler.every=often: halves takes float"),
        (["metrics=mine", "+metrics.surprise.limit=1"], "metrics.surprise.limit: Surprise has no 'limit'"),
        (["callbacks=mine", "callbacks.mine.every=2.5"], "callbacks.mine.every=2.5: Counter takes int"),
        (["logger=mine", "logger.mine.file=5"], "logger.mine.file=5: JSONLines takes str"),
        (["data.preprocess=mine", "data.preprocess.scale=a"], "data.preprocess.scale=a: Darkest takes float"),
        ([*OWN[-2:-1], "+data.augment.by=a"], "data.augment.by=a: Brighter takes int"),
    ],
)
def test_the_keys_of_new_parts_are_checked_like_our_own(words, message, folder, with_code, compose):
    config = check.plain(compose(f"hydra.searchpath=[file://{folder / 'configs'}]", "model=mine", "data=mine", *words))
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        check.check(config)


def test_unknown_options_list_the_new_ones_too(folder, train):
    ran = train("--config-dir", folder / "configs", "model=mien")
    assert "model=mien does not exist; did you mean mine?" in ran.err
    assert "model: cnn, linear, mine, mlp, resnet, speednet, timm, torchvision" in ran.err
