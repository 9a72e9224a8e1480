"""Draws the metrics that are matrices."""

from pathlib import Path

import lightning.pytorch as L
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.image import imread

from athanor.base.text import file_name
from athanor.craft.matrix_figure import save_matrix


class MetricFigures(L.Callback):
    """Draws the matrices that metrics of a Task give, such as metrics=confusion_matrix, into the folder figures/.

    val_<name>.png and .csv are of the newest validation, whose epoch the title says, test_<name> of the chosen
    checkpoint; TensorBoard has those of all epochs. A figure of 10 classes takes 0.3 s.
    """

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        matrices = getattr(pl_module, "matrices", {})
        if trainer.is_global_zero and not trainer.fast_dev_run:
            for name, matrix in matrices.items():
                title = f"{name}, epoch {trainer.current_epoch + 1}" if name.startswith("val/") else name
                path = Path(trainer.default_root_dir) / "figures" / f"{file_name(name.replace('/', '_'))}.png"
                save_matrix(matrix, pl_module.record["class_names"], title, path)
                for logger in trainer.loggers:
                    if isinstance(logger, TensorBoardLogger):
                        logger.experiment.add_image(name, imread(path), trainer.global_step, dataformats="HWC")
        matrices.clear()

    on_test_end = on_validation_end
