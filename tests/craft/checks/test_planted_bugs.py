"""Bugs that people make, planted one by one into a small training that is right: a check names each, and none is said
to be there in the training itself.
"""

from collections.abc import Callable

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from athanor.craft.checks import check
from athanor.craft.checks.finding import Report
from athanor.data.sources.digits import digits

CLASSES = 10


class Net(nn.Module):
    """A network for [N, 1, 8, 8] in which bugs can be planted."""

    def __init__(self, bug: str = "") -> None:
        super().__init__()
        self.bug = bug
        self.conv = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.hidden = nn.Linear(8 * 16, 32)
        self.relu = nn.ReLU()
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        x = F.max_pool2d(torch.relu(x), 2)
        x = x.detach() if self.bug == "detached branch" else x
        x = x.transpose(0, 1).reshape(len(x), -1) if self.bug == "reshape over the batch" else x.flatten(1)
        x = self.hidden(x)
        x = WrongBackward.apply(x) if self.bug == "wrong backward" else self.relu(x)
        x = F.dropout(x, 0.3) if self.bug == "dropout in eval mode" else x
        x = self.head(x)
        if self.bug in ("softmax over the batch", "softmax before cross-entropy"):
            x = x.softmax(0 if self.bug == "softmax over the batch" else 1)
        return x


class WrongBackward(torch.autograd.Function):
    """tanh whose backward forgets the square."""

    @staticmethod
    def forward(context, x: Tensor) -> Tensor:
        y = x.tanh()
        context.save_for_backward(y)
        return y

    @staticmethod
    def backward(context, grad: Tensor) -> Tensor:
        return grad * (1 - context.saved_tensors[0])


class Training(L.LightningModule):
    """Trains a Net with Adam. `bug` is planted."""

    def __init__(self, bug: str = "", lr: float = 3e-3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bug = bug
        self.network = Net(bug)
        self.lr = lr
        self.early_optimizer = torch.optim.Adam(self.parameters(), lr)
        if bug == "optimizer before the head":
            self.network.head = nn.Linear(32, CLASSES)
        if bug == "frozen layer":
            self.network.hidden.requires_grad_(False)
        if bug == "zero init":
            for parameter in self.network.parameters():
                nn.init.zeros_(parameter)
        if bug == "equal init":
            for parameter in (*self.network.hidden.parameters(), *self.network.head.parameters()):
                nn.init.constant_(parameter, 0.01)
        if bug == "dead ReLUs":
            nn.init.constant_(self.network.hidden.bias, -10.0)
        if bug == "batch norm in eval mode":
            self.network.norm.eval()
        if bug == "huge weights":
            nn.init.normal_(self.network.head.weight, std=10)
        if bug == "optimizes by hand without zero_grad":
            self.automatic_optimization = False

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, labels = batch
        logits = self(inputs)
        if self.bug == "loss summed":
            loss = F.cross_entropy(logits, labels, reduction="sum")
        elif self.bug == "log-softmax over the batch":
            loss = F.nll_loss(logits.log_softmax(0), labels)
        elif self.bug == "sign of the loss":
            loss = -F.cross_entropy(logits, labels)
        else:
            loss = F.cross_entropy(logits, labels)
        if self.bug == "sign of a penalty":
            loss = loss - 0.01 * self.network.hidden.weight.square().sum()
        if self.bug == "randomness of its own":
            loss = loss * (1 + 0.01 * torch.rand(1, generator=GENERATOR).item())
        if not self.automatic_optimization:
            self.manual_backward(loss)
            self.optimizers().step()
            return None
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val/loss", F.cross_entropy(self(batch[0]), batch[1]))

    def optimizer_zero_grad(self, epoch, batch_idx, optimizer) -> None:
        if self.bug != "missing zero_grad":
            optimizer.zero_grad()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.bug == "optimizer before the head":
            return self.early_optimizer
        if self.bug == "a group with rate 0":
            groups = [{"params": self.network.conv.parameters(), "lr": 0.0}]
            rest = [p for name, p in self.named_parameters() if not name.startswith("network.conv")]
            return torch.optim.Adam([*groups, {"params": rest}], self.lr)
        return torch.optim.Adam(self.parameters(), self.lr)


GENERATOR = torch.Generator().manual_seed(0)


class Digits(L.LightningDataModule):
    """Digits in loaders: 1,000 for training and 200 for validation, standardised. `bug` is planted."""

    def __init__(self, bug: str = "") -> None:
        super().__init__()
        source = digits()
        inputs, labels = source.train_inputs[:1200].float(), source.train_targets[:1200].clone()
        self.bug = bug
        inputs = inputs if bug == "unnormalised pixels" else (inputs - inputs.mean()) / inputs.std()
        if bug == "normalised twice":
            inputs = (inputs - 78.0) / 95.0
        elif bug == "statistics of other data":
            inputs = (inputs * 95 + 78 - 3000) / 20
        self.train, self.val = [inputs[:1000], labels[:1000]], [inputs[1000:], labels[1000:]]
        if bug == "labels shuffled":
            self.train[1] = self.train[1][torch.randperm(1000, generator=torch.Generator().manual_seed(1))]
        elif bug == "labels shifted by one example":
            self.train[1] = self.train[1].roll(1)
        elif bug == "classes shifted in train":
            self.train[1] = (self.train[1] + 1) % CLASSES
        elif bug == "duplicates in validation":
            self.val[0][:20] = self.train[0][:20]
        elif bug == "mirrored duplicate in validation":
            self.val[0][0] = self.train[0][0].flip(-1)
        elif bug == "a class is missing":
            self.train = [part[self.train[1] != 3] for part in self.train]
        elif bug == "empty pictures":
            self.train[0][::4] = 0
        elif bug == "nan among the inputs":
            self.train[0][::50, :, 0, 0] = torch.nan
        elif bug == "labels from 1 on":
            self.train[1], self.val[1] = self.train[1] + 1, self.val[1] + 1

    def train_dataloader(self) -> DataLoader:
        inputs, labels = self.train
        if self.bug == "sorted and not shuffled":
            order = labels.argsort()
            return DataLoader(TensorDataset(inputs[order], labels[order]), 50)
        return DataLoader(TensorDataset(inputs, labels), 50, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        noisy = self.bug == "validation is augmented"
        return DataLoader(TensorDataset(*self.val), 100, collate_fn=self.noisy if noisy else None)

    def noisy(self, items: list) -> tuple[Tensor, Tensor]:
        inputs, labels = (torch.stack(part) for part in zip(*items, strict=True))
        return inputs.roll(int(torch.randint(-2, 3, ())), -1), labels


BUGS = {  # the check that names each
    "softmax over the batch": "independence",
    "softmax before cross-entropy": "outputs",
    "log-softmax over the batch": "first_loss",
    "loss summed": "first_loss",
    "sign of the loss": "first_loss",
    "huge weights": "first_loss",
    "missing zero_grad": "gradients",
    "optimizes by hand without zero_grad": "gradients",
    "frozen layer": "gradients",
    "detached branch": "gradients",
    "optimizer before the head": "gradients",
    "a group with rate 0": "gradients",
    "zero init": "gradients",
    "equal init": "gradients",
    "dead ReLUs": "activations",
    "wrong backward": "gradient_check",
    "batch norm in eval mode": "modes",
    "dropout in eval mode": "modes",
    "sign of a penalty": "regularisation",
    "reshape over the batch": "independence",
    "rate a thousand times too high": "learning_rate",
    "rate a thousand times too low": "learning_rate",
    "randomness of its own": "reproducible",
    "labels shuffled": "labels",
    "labels shifted by one example": "labels",
    "classes shifted in train": "labels",
    "normalised twice": "preprocessing",
    "statistics of other data": "preprocessing",
    "unnormalised pixels": "preprocessing",
    "sorted and not shuffled": "data",
    "a class is missing": "data",
    "empty pictures": "data",
    "nan among the inputs": "data",
    "labels from 1 on": "outputs",
    "duplicates in validation": "overlap",
    "mirrored duplicate in validation": "overlap",
    "validation is augmented": "augmentation",
}
RATES = {"rate a thousand times too high": 3.0, "rate a thousand times too low": 3e-6}


@pytest.fixture
def checked() -> Callable[..., Report]:
    return lambda bug, **settings: check(Training(bug, RATES.get(bug, 3e-3)), Digits(bug), **settings)


@pytest.mark.parametrize("bug", BUGS)
def test_a_check_names_the_bug(bug, checked):
    name = BUGS[bug]
    finding = checked(bug, only=[name]).findings[name]
    assert finding.verdict in ("wrong", "suspicious"), finding.line(name)
    assert finding.advice


def test_of_a_training_that_is_right_no_check_complains(checked):
    report = checked("")
    assert report.names("wrong", "suspicious") == [], report
    assert report.names("skipped") == ["picture"]
