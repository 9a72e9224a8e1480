"""What a job that has begun takes from the command line where a person has typed resume=<sweep>."""

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
    limits = {key: value for key, value in config["trainer"].items() if key.startswith("max_")}
    are_new = any(recorded["trainer"].get(key) != value for key, value in limits.items())
    if are_new and is_main_process():
        job.write_config({**recorded, "trainer": {**recorded["trainer"], **limits}})
    return are_new
