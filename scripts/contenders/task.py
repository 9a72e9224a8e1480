"""What all contenders share: the config, data, network and optimizer that words of train.py's command line describe.

Nothing here imports Lightning, because the loop by hand must pay neither its start-up time nor its memory.
"""

import argparse
import json
import pkgutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import hydra
import torch
from omegaconf import OmegaConf
from torch import nn

from athanor.data.preprocess import Standardize
from athanor.data.split import limited, train_and_val
from athanor.engine.config import hydra_versions
from athanor.engine.config.signatures import signature
from athanor.optim.groups import parameter_groups

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def from_command_line(**defaults: Any) -> tuple[dict[str, Any], argparse.Namespace]:
    """The config that train.py would get for the words of this command line, in plain values, and the options.

    `defaults` are the contender's own options, which may stand before the words: --<name> <value>.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("overrides", nargs="*", help="as for train.py: model=mlp data=mnist")
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    arguments = parser.parse_args()
    with hydra.initialize_config_dir(str(CONFIGS), **hydra_versions.COMPOSE):
        # the default of `name` reads what Hydra knows about a running job, and there is none here
        cfg = hydra.compose("train", ["name=benchmark", *arguments.overrides])
    return OmegaConf.to_container(cfg, resolve=True), arguments


def target_of(node: dict) -> Any:
    """The class or function that the `_target_` of a node names."""
    return pkgutil.resolve_name(node["_target_"])


def instantiate(node: dict, **facts: object) -> Any:
    """The object of a node, as assemble.build makes it. Keys and facts that the target does not take are left out."""
    names, _ = signature(target_of(node))
    arguments = {key: value for key, value in {**facts, **node}.items() if key in names}
    return partial(target_of(node), **arguments) if node.get("_partial_") else target_of(node)(**arguments)


class Data:
    """The training images of a config, split as in athanor.data.module.ArrayData, which needs Lightning.

    images: uint8 [N, C, H, W]. labels: int64 [N]. train_index, val_index: which of them are used, int64.
    """

    def __init__(self, cfg: dict) -> None:
        node = cfg["data"]
        source = instantiate(node, data_dir=cfg["data_dir"])

        # arrays
        self.images = source.train_inputs
        self.labels = source.train_targets
        self.input_shape = tuple(self.images.shape[1:])
        self.num_classes = len(source.class_names)

        # split
        kept = limited(self.labels, node["limit"], node["split_seed"])
        parts = (node[key] for key in ("val_fraction", "folds", "fold", "split_seed"))
        train, val = train_and_val(self.labels[kept], *parts)
        self.train_index = kept[train]
        self.val_index = kept[val]

        # batches
        self.batch_size = node["batch_size"]
        self.eval_batch_size = node["eval_batch_size"]
        self.augment = instantiate(node["augment"])
        self.steps = len(self.train_index) // self.batch_size  # of an epoch; a last, partial batch is dropped

    def standardize(self) -> Standardize:
        """Mean and standard deviation of each channel, over the train split."""
        preprocess = Standardize(self.input_shape)
        preprocess.fit(self.images, self.train_index)
        return preprocess


def device_of(cfg: dict) -> torch.device:
    return torch.device("cuda" if cfg["trainer"]["accelerator"] == "gpu" else "cpu")


def make_network(cfg: dict, data: Data) -> nn.Module:
    return instantiate(cfg["model"], input_shape=data.input_shape, num_classes=data.num_classes)


def make_optimizer(cfg: dict, network: nn.Module, **changes: Any) -> torch.optim.Optimizer:
    """The optimizer of a config over the package's own parameter groups. `changes` replace keys of the config."""
    groups = parameter_groups(network, decay=bool(cfg["optim"].get("weight_decay")))
    return instantiate({**cfg["optim"], **changes})(groups)


def wait_for(device: torch.device) -> None:
    """A GPU works asynchronously: a time is right only when all work before it is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def process_settings(device: torch.device) -> dict[str, Any]:
    """The settings of this process that change its speed, and the peak of GPU memory, for its report."""
    report = {"device": str(device), "threads": torch.get_num_threads()}
    report["matmul_precision"] = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        report["gpu_peak_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return report


def training_report(
    epoch_seconds: Sequence[float], fit_s: float, images: int, val_acc: float, device: torch.device
) -> dict[str, Any]:
    """What each contender reports of its training.

    epoch_seconds: of the training steps of each epoch. The first epoch warms up, so it does not count in the median
    `epoch_s` where there are others. fit_s: seconds of the whole training. images: in an epoch.
    """
    report = {"epoch_seconds": epoch_seconds, "fit_s": fit_s, "images": images, "val_acc": val_acc}
    epoch_s = median(epoch_seconds[1:] or epoch_seconds)
    return {**report, "epoch_s": epoch_s, "images_per_s": images / epoch_s, **process_settings(device)}


def write_report(report: dict[str, Any]) -> None:
    """Hand the results of this process to benchmark.py, which reads report.json in the process's folder."""
    Path("report.json").write_text(json.dumps(report))
