"""What a job that has begun takes from the command line where a person has typed resume=<sweep>."""

from collections.abc import Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from athanor.engine.app.ranks import is_main_process
from athanor.engine.config import check
from athanor.engine.config.settle import settle
from athanor.engine.runs.run import Run, shown
from athanor.engine.runs.sweep import compared_settings, refuse_changes
from athanor.training import slurm


def is_resumed() -> bool:
    """Whether it is a job of a sweep that a person resumes. One that SLURM starts again keeps what it has recorded."""
    hydra = HydraConfig.get()
    is_asked = bool((hydra.callbacks.get("directories") or {}).get("resume"))
    return hydra.mode == RunMode.MULTIRUN and is_asked and not slurm.is_requeued()


def take_limits(job: Run, cfg: DictConfig, overrides: list[str]) -> bool:
    """Write the limits of training that `cfg` has into the job's config.yaml; gives whether they are new.

    Raises UserError where another setting differs from the job's record.
    """
    recorded, config = job.config, check.plain(cfg)
    settle(config, overrides)
    config["eval"]["test"] = bool(config["eval"]["test"])
    who = f"job {job.dir.name} of resume={shown(job.dir.parent)}"
    refuse_changes(compared_settings(recorded), compared_settings(config), who)
    is_new = has_new_limits(recorded["trainer"], config["trainer"])
    if is_new and is_main_process():
        limits = {key: value for key, value in config["trainer"].items() if key.startswith("max_")}
        job.write_config({**recorded, "trainer": {**recorded["trainer"], **limits}})
    return is_new


def has_new_limits(recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether the second of two settings of a trainer has other limits."""
    return any(recorded.get(key) != value for key, value in asked.items() if key.startswith("max_"))
