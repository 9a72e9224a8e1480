"""Training as most Lightning + Hydra templates do it: torchvision, a DataLoader, and torchmetrics at every step."""

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import Accuracy

from contenders import data_paths, task
from contenders.timing import EpochTimes


def main() -> None:
    cfg, options = task.from_command_line(workers=0)
    L.seed_everything(cfg["seed"], verbose=False)
    data = task.Data(cfg)
    module = Conventional(task.make_network(cfg, data), cfg, data.num_classes)
    checkpoint = ModelCheckpoint("checkpoints", monitor="val/acc", mode="max", save_last=True)
    trainer = L.Trainer(
        accelerator=cfg["trainer"]["accelerator"],
        devices=1,
        precision=cfg["trainer"]["precision"],
        max_epochs=cfg["trainer"]["max_epochs"],
        logger=TensorBoardLogger("."),
        callbacks=[checkpoint, RichProgressBar(), EpochTimes()],
    )
    trainer.fit(module, *data_paths.loaders(cfg, data, options.workers))


class Conventional(L.LightningModule):
    """A network with cross-entropy, whose loss and accuracy go through torchmetrics and `self.log`."""

    def __init__(self, network: nn.Module, cfg: dict, num_classes: int) -> None:
        super().__init__()
        self.network = network
        self.cfg = cfg
        self.criterion = nn.CrossEntropyLoss()
        self.train_loss = MeanMetric()
        self.train_acc = Accuracy(task="multiclass", num_classes=num_classes)
        self.val_loss = MeanMetric()
        self.val_acc = Accuracy(task="multiclass", num_classes=num_classes)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.model_step(batch, "train", self.train_loss, self.train_acc)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.model_step(batch, "val", self.val_loss, self.val_acc)

    def model_step(self, batch: tuple[Tensor, Tensor], stage: str, mean_loss: MeanMetric, accuracy: Accuracy) -> Tensor:
        images, labels = batch
        logits = self.network(images)
        loss = self.criterion(logits, labels)
        mean_loss(loss)
        accuracy(logits.argmax(1), labels)
        self.log(f"{stage}/loss", mean_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log(f"{stage}/acc", accuracy, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return task.make_optimizer(self.cfg, self.network, fused=None)  # torch's default


if __name__ == "__main__":
    main()
