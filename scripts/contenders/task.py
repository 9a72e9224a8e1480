"""The one task of all contenders: the words of train.py's command line, as a config and as what it describes.

Nothing here imports Lightning: the plain loop pays neither its time nor its memory.
"""

import argparse
import json
import pkgutil
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import OmegaConf
from torch import nn

from athanor.data.preprocess import Standardize
from athanor.data.split import stratified
from athanor.engine.config.signatures import signature

REPO = Path(__file__).resolve().parents[2]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("overrides", nargs="*", help="as of train.py: model=mlp data=mnist")
    return parser


def compose(overrides: list[str]) -> dict[str, Any]:
    """The config that train.py would get, in plain values."""
    with hydra.initialize_config_dir(str(REPO / "configs"), version_base="1.3"):
        # the default name asks Hydra for a run, which this is not
        return OmegaConf.to_container(hydra.compose("train", ["name=benchmark", *overrides]), resolve=True)


def target(node: dict) -> Any:
    return pkgutil.resolve_name(node["_target_"])


def build(node: dict, **handed: object) -> Any:
    """The object of a node, as assemble.py builds it: arguments that it does not take are left out."""
    names, _ = signature(target(node))
    arguments = {key: value for key, value in {**handed, **node}.items() if key in names}
    return partial(target(node), **arguments) if node.get("_partial_") else target(node)(**arguments)


class Data:
    """The images of a config, and which of them Athanor would train and validate on."""

    def __init__(self, cfg: dict) -> None:
        node = cfg["data"]
        self.source = build(node, data_dir=cfg["data_dir"])
        self.images, self.labels = self.source.train_images, self.source.train_labels
        self.input_shape, self.num_classes = tuple(self.images.shape[1:]), len(self.source.class_names)
        self.batch_size, self.eval_batch_size = node["batch_size"], node["eval_batch_size"]
        self.augment = build(node["augment"])
        seed, limit = node["split_seed"], node["limit"] or len(self.labels)
        kept = torch.arange(len(self.labels))
        if limit < len(self.labels):
            kept = stratified(self.labels, limit / len(self.labels), seed)[1]
        rest, part = stratified(self.labels[kept], node["val_fraction"], seed)
        self.train_index, self.val_index = kept[rest], kept[part]

    @property
    def steps(self) -> int:
        """Whole batches in an epoch; the last, partial one is dropped."""
        return len(self.train_index) // self.batch_size

    def standardize(self) -> Standardize:
        """Mean and standard deviation of each channel, over the train split."""
        fitted = Standardize(self.input_shape)
        fitted.fit(self.images, self.train_index)
        return fitted


def device(cfg: dict) -> torch.device:
    return torch.device("cuda" if cfg["trainer"]["accelerator"] == "gpu" else "cpu")


def network(cfg: dict, data: Data) -> nn.Module:
    return build(cfg["model"], input_shape=data.input_shape, num_classes=data.num_classes)


def optimizer(cfg: dict, network: nn.Module, **changes: Any) -> torch.optim.Optimizer:
    """Weights decay; biases and norms do not, as in Athanor. Where nothing decays one group is faster than two."""
    groups = [{"params": list(network.parameters())}]
    if cfg["optim"].get("weight_decay"):
        kept = [p for p in network.parameters() if p.ndim <= 1]
        groups = [{"params": [p for p in network.parameters() if p.ndim > 1]}, {"params": kept, "weight_decay": 0.0}]
    return build({**cfg["optim"], **changes})(groups)


def wait_for(device: torch.device) -> None:
    """A GPU works behind: what a clock says is true only once it is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def facts(device: torch.device) -> dict[str, Any]:
    """The settings of this process that change speeds, for its report."""
    found = {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "matmul_precision": torch.get_float32_matmul_precision(),
    }
    if device.type == "cuda":
        found["gpu_peak_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return found


def write(report: dict[str, Any]) -> None:
    Path("report.json").write_text(json.dumps(report))
