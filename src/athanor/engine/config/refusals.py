"""What is refused before training because the settings, the data and this machine do not go together."""

import pkgutil
import warnings

import torch
from lightning.pytorch import callbacks
from lightning.pytorch.utilities.model_helpers import is_overridden

from athanor.base.errors import UserError
from athanor.data.any_data_module import AnyDataModule
from athanor.data.module import ArrayData
from athanor.data.streamed import at_distances
from athanor.tasks import tta
from athanor.tasks.losses import at_least_float32
from athanor.tasks.metric_values import metric_parts
from athanor.tasks.task import Task
from athanor.training import devices

TRIED = 16  # inputs on which metrics are tried before training

# Lightning's callbacks that would do something else here than they say: why, and what does it instead
CALLBACKS: dict[type[callbacks.Callback], str] = {
    callbacks.ModelCheckpoint: "a run is resumed, tested and evaluated from what callbacks.checkpoints writes\n  "
    "set its top_k, keep and every_minutes, and monitor.metric",
    callbacks.OnExceptionCheckpoint: "a run goes on from last.ckpt, which is of a step that has not failed\n  "
    "set callbacks.checkpoints.every_minutes",
    callbacks.StochasticWeightAveraging: "the averages would come after the last checkpoint, so that no test and no "
    "evaluation had them\n  type callbacks=swa",
    callbacks.LearningRateFinder: "it looks for an attribute lr of the module, and reads one order of the images\n  "
    "type callbacks=lr_range",
    callbacks.BatchSizeFinder: "it would train with the size that it finds, and the run would record another\n  "
    "set data.batch_size, for which python scripts/lr_range.py data.batch_size=64,128,256 finds the learning rates",
    callbacks.GradientAccumulationScheduler: "schedules, averages and early stopping would be told a wrong number of "
    "steps\n  set trainer.accumulate_grad_batches",
    callbacks.ModelPruning: "checkpoints do not hold its masks, so a run that is resumed would prune other weights\n  "
    "in a notebook, use torch.nn.utils.prune on Run(<run>).task().network",
    callbacks.SpikeDetection: "Lightning cannot load its state, so the run could not be resumed\n  "
    "a loss that is not finite ends a run anyway, and trainer.gradient_clip_val=1 limits a step",
    callbacks.BasePredictionWriter: "train.py predicts nothing\n  type python scripts/predict.py <run> <files> "
    "--csv predictions.csv",
}
OF_TASKS: dict[type[callbacks.Callback], str] = {
    callbacks.BaseFinetuning: "the optimizer of a task has its groups from the first step on\n  "
    "set model.freeze=all_but_head, and model.freeze_epochs=<epochs> to train all of it later",
}


def refuse_callbacks(nodes: dict[str, dict | None], is_task: bool) -> None:
    """Raise UserError for the first of Lightning's callbacks that would not do what it says."""
    refused = {**CALLBACKS, **(OF_TASKS if is_task else {})}
    for name, node in nodes.items():
        target = pkgutil.resolve_name(node["_target_"]) if node else None
        for kind in filter(lambda kind: isinstance(target, type) and issubclass(target, kind), refused):
            raise UserError(f"callbacks.{name}: {kind.__name__} is not taken: {refused[kind]}")


def refuse_twins(built: dict[str, callbacks.Callback]) -> None:
    """Raise UserError for two callbacks, by their names in the config, whose states a checkpoint cannot tell apart."""
    keys: dict[str, str] = {}
    for name, callback in built.items():
        first = keys.setdefault(callback.state_key, name)
        if first != name and is_overridden("state_dict", callback, callbacks.Callback):
            raise UserError(
                f"callbacks.{name} and callbacks.{first} are both {callback.state_key}, and a checkpoint cannot tell "
                f"their states apart\n  type callbacks.{first}=null, or give one of them other arguments"
            )


def refuse_metrics(module: Task, data: ArrayData, monitor: str) -> None:
    """Raise UserError where a metric gives what cannot be shown, or no number under the name that is monitored.

    Each is tried on a few training inputs, in the network as it is at first; nothing of that stays.
    """
    if not module.metrics or module.views > 1:  # views are made of batches
        return
    index = at_distances(data.train_index, TRIED)
    inputs, targets = data.source.train_inputs[index], data.source.train_targets[index]
    numbers = [f"val/{name}" for name in type(module).measures]
    with torch.no_grad(), torch.random.fork_rng(devices=[]), torch.compiler.set_stance("force_eager"):
        outputs = at_least_float32(module.eval()(inputs))
        targets = module.targets_of(inputs, targets)
    module.train()
    for name, metric in module.metrics.items():
        metric.update(outputs, targets)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes that are not among these few
            parts = metric_parts(f"val/{name}", metric.compute(), module.record["class_names"])
            numbers += [path for path, part in parts if not part.ndim]
        metric.reset()
    if monitor.startswith("val/") and monitor not in numbers:
        raise UserError(f"monitor.metric={monitor} is no single number; choose from: {', '.join(numbers)}")


def refuse(cfg: dict, data: ArrayData | AnyDataModule, callbacks: dict[str, dict]) -> None:
    """Raise UserError for settings that are right one by one, and wrong together or on this machine."""
    accelerator = cfg["trainer"]["accelerator"]
    there = devices.available()
    there["gpu"] = any(there.values())
    if not there.get(accelerator, True):
        raise UserError(f"trainer.accelerator={accelerator}: torch finds none on this machine; type trainer=auto")
    refuse_views(cfg["eval"]["tta"], data.input_shape, f"eval.tta={cfg['eval']['tta']}")
    if isinstance(data, AnyDataModule):
        refuse_without_numbers(cfg, data, callbacks)
    if not len(data.val_index):
        for name, node in callbacks.items():
            if str(node.get("monitor")).startswith("val/") and not node["_target_"].endswith(".Checkpoints"):
                raise UserError(f"callbacks.{name} needs validation images: type callbacks.{name}=null")
        is_plateau = (cfg["scheduler"] or {}).get("_target_", "").endswith("ReduceLROnPlateau")
        if is_plateau and cfg["monitor"]["metric"].startswith("val/"):
            raise UserError("scheduler=plateau needs validation images; set data.val_fraction above 0")
    if is_lbfgs(cfg["optim"]):
        refuse_lbfgs(cfg["trainer"], data)


def refuse_views(kind: tta.Kind, input_shape: tuple[int, ...], setting: str) -> None:
    """Raise UserError where inputs have no such views as test-time augmentation averages over."""
    if kind != "none" and len(input_shape) != 3:
        raise UserError(f"{setting} mirrors pictures, and an input of this data is {list(input_shape)}; use none")
    if kind == "flip_shift" and min(input_shape[1:]) < 2:
        raise UserError(f"{setting} moves images by a pixel, and these are one pixel wide; use flip or none")


def refuse_without_numbers(cfg: dict, data: AnyDataModule, callbacks: dict[str, dict]) -> None:
    """What cannot be done with the loaders of a LightningDataModule."""
    name = type(data.module).__qualname__
    if cfg["eval"]["test"] and not len(data.test_index):
        raise UserError(f"{name} has no test_dataloader; type eval.test=false")
    for key, node in callbacks.items():
        if node["_target_"].endswith(".CheckpointEnsemble"):
            raise UserError(f"callbacks.{key} needs inputs with numbers, and {name} gives loaders; leave it out")
    if is_lbfgs(cfg["optim"]):
        raise UserError(f"optim=lbfgs needs all inputs in one batch, and {name} gives loaders; use another optimizer")


def is_lbfgs(node: dict | None) -> bool:
    """node: of optim; None where a LightningModule has optimizers of its own."""
    return node is not None and issubclass(pkgutil.resolve_name(node["_target_"]), torch.optim.LBFGS)


def refuse_lbfgs(trainer: dict, data: ArrayData) -> None:
    """L-BFGS minimises one function, whose value and gradient it evaluates many times a step."""
    if data.batch_size != len(data.train_index):
        raise UserError(
            f"optim=lbfgs minimises one function, and each batch of {data.batch_size} images has another; "
            "type data.batch_size=full"
        )
    if data.augment:
        off = data.augment.switched_off
        raise UserError(f"optim=lbfgs minimises one function, and augmentation makes many; {off}")
    if data.mixing:
        raise UserError("optim=lbfgs minimises one function; type data.mixup=0 data.cutmix=0")
    if trainer.get("gradient_clip_val"):
        raise UserError("optim=lbfgs needs the gradients as they are; use trainer.gradient_clip_val=null")
    if trainer["accumulate_grad_batches"] not in (1, None):
        raise UserError("optim=lbfgs cannot accumulate gradients; use trainer.accumulate_grad_batches=1")
    if devices.count(trainer) > 1:
        raise UserError("optim=lbfgs works on one device; use trainer.devices=1")
    if str(trainer["precision"]) not in ("32", "32-true", "64", "64-true"):
        raise UserError(
            f"optim=lbfgs cannot work with trainer.precision={trainer['precision']}; use 32-true or 64-true"
        )
