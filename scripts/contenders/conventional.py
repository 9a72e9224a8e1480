"""Training as today's Lightning + Hydra templates do it: torchvision and a DataLoader, torchmetrics at every step."""

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import Accuracy

from contenders import per_image, task
from contenders.callbacks import EpochTimes


def main() -> None:
    parser = task.parser()
    parser.add_argument("--workers", type=int, default=0)
    arguments = parser.parse_args()
    cfg = task.compose(arguments.overrides)
    L.seed_everything(cfg["seed"], verbose=False)
    data = task.Data(cfg)
    module = Conventional(task.network(cfg, data), cfg, data.num_classes)
    checkpoint = ModelCheckpoint("checkpoints", monitor="val/acc", mode="max", save_last=True)
    trainer = L.Trainer(
        accelerator=cfg["trainer"]["accelerator"],
        devices=1,
        precision=cfg["trainer"]["precision"],
        max_epochs=cfg["trainer"]["max_epochs"],
        logger=TensorBoardLogger("."),
        callbacks=[checkpoint, RichProgressBar(), EpochTimes()],
    )
    trainer.fit(module, *per_image.loaders(cfg, data, arguments.workers))


class Conventional(L.LightningModule):
    def __init__(self, network: nn.Module, cfg: dict, num_classes: int) -> None:
        super().__init__()
        self.network, self.cfg = network, cfg
        self.criterion = nn.CrossEntropyLoss()
        self.train_loss, self.val_loss = MeanMetric(), MeanMetric()
        self.train_acc = Accuracy(task="multiclass", num_classes=num_classes)
        self.val_acc = Accuracy(task="multiclass", num_classes=num_classes)

    def model_step(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        images, labels = batch
        logits = self.network(images)
        return self.criterion(logits, labels), logits.argmax(1), labels

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss, predicted, labels = self.model_step(batch)
        self.train_loss(loss)
        self.train_acc(predicted, labels)
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        loss, predicted, labels = self.model_step(batch)
        self.val_loss(loss)
        self.val_acc(predicted, labels)
        self.log("val/loss", self.val_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("val/acc", self.val_acc, on_step=False, on_epoch=True, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return task.optimizer(self.cfg, self.network, fused=None)  # torch's default


if __name__ == "__main__":
    main()
