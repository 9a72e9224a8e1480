"""What a run says when it begins: what it is, on what device, where its files are, how to watch, edit and stop it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from athanor.engine.runs.provenance import cpu_name

if TYPE_CHECKING:
    import lightning.pytorch as L

    from athanor.data.any_data_module import AnyDataModule
    from athanor.data.module import ArrayData


def announcement(
    config: dict[str, Any],
    trainer: "L.Trainer",
    data: "ArrayData | AnyDataModule",
    task: "L.LightningModule",
    run: Path,
    resumed: Path,
) -> str:
    """Lines for the terminal and train.log, made just before the training.

    run: the folder of the run, as a person would type it. resumed: what `resume=` takes: that, or its sweep's folder.
    """
    from athanor.callbacks.checkpoints import checkpoints_of
    from athanor.callbacks.control import Control
    from athanor.training.loggers import TensorBoard

    limits = [f"trainer.{key}={value}" for key, value in config["trainer"].items() if is_limit(key, value)]
    rows = [
        ("run", f"{config['name']}: {described(config)}, seed {config['seed']}"),
        ("data", described_data(data, config["eval"]["test"])),
        ("device", described_device(trainer)),
        ("size", f"{parameters_of(task)}; ends by {' or '.join(limits) or 'itself'} at the latest"),
        ("folder", str(run)),
    ]
    if any(isinstance(logger, TensorBoard) for logger in trainer.loggers):
        rows.append(("watch", f"tensorboard --logdir {run}"))
    if any(isinstance(callback, Control) for callback in trainer.callbacks):
        rows.append(("edit", f"{run / 'control.yaml'}: write lr: 0.01, or validate: true"))
    if checkpoints_of(trainer):
        rows.append(("stop", f"Ctrl-C saves first; python train.py resume={resumed} goes on"))
    return "\n" + "\n".join(f"  {name:8} {text}" for name, text in rows) + "\n"


def is_limit(key: str, value: object) -> bool:
    return key in ("max_epochs", "max_steps", "max_time") and value not in (None, -1)


def described(config: dict[str, Any]) -> str:
    """`CNN on digits, Classification, Adam lr 0.001`, from the names of the classes; a group may be unused."""
    names = {group: (config.get(group) or {}).get("_target_", "") for group in ("model", "data", "task", "optim")}
    model, data, task, optim = (target.rpartition(".")[2] for target in names.values())
    rate = (config["optim"] or {}).get("lr")
    trained_by = optim if rate is None else f"{optim} lr {rate}"
    return ", ".join(filter(None, [f"{model} on {data}" if model else f"on {data}", task, trained_by]))


def described_data(data: "ArrayData | AnyDataModule", test: bool) -> str:
    from athanor.callbacks.progress import noun_of
    from athanor.data.any_data_module import AnyDataModule

    if isinstance(data, AnyDataModule):
        return data.source.origin
    train, val, tested = len(data.train_index), len(data.val_index), len(data.test_index)
    validation = f"{val:,} for validation" if val else "none for validation"
    end = f"{tested:,} for the test at the end" if test else "the test set stays unread"
    return f"{train:,} {noun_of(data)}, {validation}, {end}"


def described_device(trainer: "L.Trainer") -> str:
    import torch

    device, several = trainer.strategy.root_device, f"{trainer.world_size} x " if trainer.world_size > 1 else ""
    if device.type == "cuda":
        return f"{several}{torch.cuda.get_device_name(device)} ({device.type}), {trainer.precision}"
    count = torch.get_num_threads()
    threads = f", {count} thread{'s' if count > 1 else ''}" if device.type == "cpu" else ""
    return f"{several}{device.type} ({cpu_name()}){threads}, {trainer.precision}"


def parameters_of(task: "L.LightningModule") -> str:
    """How many there are; those of lazy layers have no shape before the first batch."""
    from torch.nn.parameter import is_lazy

    parameters = list(task.parameters())
    number = sum(parameter.numel() for parameter in parameters if not is_lazy(parameter))
    return f"{number:,} parameters" + (" and lazy ones" if any(map(is_lazy, parameters)) else "")
