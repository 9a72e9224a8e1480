"""What a run says when it begins: what it is, on what device, where its files are, how to watch, edit and stop it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from athanor.engine.runs.provenance import cpu_name

if TYPE_CHECKING:
    import lightning.pytorch as L

    from athanor.data.any_data_module import AnyDataModule
    from athanor.data.module import ArrayData


def announcement(
    config: dict[str, Any], trainer: "L.Trainer", data: "ArrayData", task: "L.LightningModule", run: Path, resumed: Path
) -> str:
    """Lines for the terminal and train.log, made just before the training.

    run: the folder of the run, as a person would type it. resumed: what `resume=` takes: that, or its sweep's folder.
    """
    import torch

    from athanor.callbacks.checkpoints import checkpoints_of
    from athanor.callbacks.control import Control
    from athanor.training.loggers import TensorBoard

    targets = [(config.get(group) or {}).get("_target_", "") for group in ("task", "model", "data", "optim")]
    names = ", ".join(target.rpartition(".")[2] for target in targets if target)
    device, count = trainer.strategy.root_device, torch.get_num_threads()
    is_gpu = device.type == "cuda"
    hardware = torch.cuda.get_device_name(device) if is_gpu else f"{cpu_name()}, {count} thread{'s' * (count > 1)}"
    number = f"{trainer.world_size} x " if trainer.world_size > 1 else ""
    rows = {
        "run": f"{config['name']}: {names}, seed {config['seed']}",
        "size": f"{sum(p.numel() for p in task.parameters()):,} parameters",
        "data": described_data(data, config["eval"]["test"]),
        "device": f"{number}{device.type} ({hardware}), precision {trainer.precision}",
        "folder": str(run),
    }
    if any(isinstance(logger, TensorBoard) for logger in trainer.loggers):
        rows["watch"] = f"tensorboard --logdir {run}"
    if any(isinstance(callback, Control) for callback in trainer.callbacks):
        rows["edit"] = f"{run / 'control.yaml'}, with a line like lr: 0.01"
    if checkpoints_of(trainer) and not trainer.fast_dev_run:
        rows["stop"] = f"Ctrl-C saves first; python train.py resume={resumed} goes on"
    return "\n" + "\n".join(f"  {name:8} {text}" for name, text in rows.items()) + "\n"


def described_data(data: "ArrayData | AnyDataModule", test: bool) -> str:
    """How many inputs there are; a LightningDataModule tells no number."""
    from athanor.callbacks.progress import noun_of
    from athanor.data.any_data_module import AnyDataModule

    if isinstance(data, AnyDataModule):
        return data.source.origin
    validation = f"{len(data.val_index):,} for validation" if len(data.val_index) else "none for validation"
    tested = f"{len(data.test_index):,} for the test at the end" if test else "the test set stays unread"
    return f"{len(data.train_index):,} {noun_of(data)}, {validation}, {tested}"
