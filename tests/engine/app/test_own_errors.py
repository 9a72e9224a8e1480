"""A bug in a person's own code is told with its file, its line, its message and where the traceback is."""

import sys

import pytest

HEAD = "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\nimport lightning.pytorch as L\n"
MODEL = """
class Net(nn.Module):
    def __init__(self, *, input_shape, num_classes):
        super().__init__()
        self.head = nn.Linear(64, num_classes)

    def forward(self, x):
        {bug}  # bug
        return self.head(x.flatten(1))
"""
LOSS = """
class Loss(nn.Module):
    def forward(self, outputs, targets):
        return F.mse_loss(outputs, targets[:, :3])  # bug
"""
CALLBACK = """
class Watch(L.Callback):
    def {hook}(self, trainer, *arguments):
        trainer.callback_metrics["val/accuracy"]  # bug
"""
SOURCE = """
from athanor.data.sources.source import Source

def blobs(data_dir: str) -> Source:
    images = torch.zeros(60, 1, 8, 8, dtype=torch.uint8)
    return Source(images, torch.arange(60) % 2, images[:7], torch.arange(8)[10] % 2, ("a", "b"), "blobs")  # bug
"""
DATASET = """
from athanor.data.datasets import Datasets

class Items(torch.utils.data.Dataset):
    targets = [i % 2 for i in range(40)]

    def __len__(self):
        return 40

    def __getitem__(self, i):
        sizes = {n: 8 for n in range(31)}
        return torch.zeros(1, 8, sizes[i]), i % 2  # bug

def items() -> Datasets:
    return Datasets(Items(), Items(), class_names=("a", "b"))
"""
TASK = """
from athanor.tasks.classification import Classification

class Mine(Classification):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss + self.weight_of(batch)

    def weight_of(self, batch):
        return self.weigths[0]  # bug
"""
MODULE = """
class Module(L.LightningModule):
    def __init__(self, input_shape):
        super().__init__()
        self.net = nn.Linear(3, 2)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0].float().flatten(1)), batch[1])  # bug

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
"""
LOADERS = """
class Pairs(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        assert i < 4  # bug
        return torch.zeros(3), 0

class Data(L.LightningDataModule):
    def train_dataloader(self):
        return torch.utils.data.DataLoader(Pairs(), 2, num_workers=1)
"""
OWN_MODEL = "++model._target_=mycode.Net"
SMALL = ["data.limit=100", "trainer.max_epochs=1", "data.batch_size=20", "hydra.run.dir=here"]
CASES = {  # code, words of the command, message
    "unpacking": (MODEL.format(bug="b, c, h = x.shape"), ["model._target_=mycode.Net"], "ValueError: too many values"),
}


def line_of(path, mark="# bug"):
    """Number and code of the line with the mark."""
    [found] = [(i, line.strip()) for i, line in enumerate(path.read_text().splitlines(), 1) if mark in line]
    return found


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes mycode.py into the current folder, where it is imported from."""
    monkeypatch.syspath_prepend(tmp_path)

    def own(code):
        (tmp_path / "mycode.py").write_text(HEAD + code)
        return tmp_path / "mycode.py"

    yield own
    sys.modules.pop("mycode", None)
