"""The launchers of configs/launcher/, for Hydra, which takes launchers from the package hydra_plugins alone."""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class AthanorLauncher(Launcher):
    """Hands the jobs of a sweep to athanor.engine.app.launchers.

    cluster: local or slurm. settings: of submitit's AutoExecutor.
    """

    def __init__(self, cluster: str, **settings: Any) -> None:
        self.cluster, self.settings = cluster, settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from athanor.engine.app import launchers  # Hydra imports this file at each command, also for tab completion

        return launchers.launch(self, job_overrides, initial_job_idx)
