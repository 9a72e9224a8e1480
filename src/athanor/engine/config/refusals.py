"""What is refused before training because the settings, the data and this machine do not go together."""

import pkgutil

import torch

from athanor.base.errors import UserError
from athanor.data.any_data_module import AnyDataModule
from athanor.data.module import ArrayData
from athanor.tasks import tta
from athanor.training import devices


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
