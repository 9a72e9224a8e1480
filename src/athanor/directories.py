"""A directory of its own for each run and each sweep (a callback of Hydra's, see configs/hydra/output)."""

import contextlib
import itertools
import re
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write

from athanor.job import failed_jobs
from athanor.ranks import is_main_process
from athanor.sweeps import Sweep


class Directories(Callback):
    """Gives each run and each sweep a directory of its own, and ends a sweep with its table."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        if config.resume is None and is_main_process():
            HydraConfig.instance().set_config(config)  # the directory has the run's name in it
            name = str(config.name)
            set_hydra(config, "run", claim(config.hydra.run.dir.replace(name, name.replace("/", "-"))))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        failed_jobs.clear()
        directory = claim(config.hydra.sweep.dir)
        set_hydra(config, "sweep", directory)
        with read_write(config.hydra), open_dict(config.hydra):  # jobs are composed anew, from these
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{directory}'")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        print(Sweep(config.hydra.sweep.dir).collect())


def set_hydra(config: DictConfig, kind: str, directory: Path) -> None:
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra[kind].dir = str(directory)


def claim(path: str) -> Path:
    """Make a directory that is nobody else's: the path, or the path with -2, -3, ... where it is taken."""
    wanted = Path(path)
    wanted = wanted.with_name(re.sub(r"[^A-Za-z0-9._-]+", "-", wanted.name))
    try:
        wanted.parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            directory = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
            with contextlib.suppress(FileExistsError):
                directory.mkdir()
                return directory
    except OSError as error:
        # Hydra would make a warning of an exception here, and go on into a directory that is not the run's own
        print(f"error: cannot make the run's directory {wanted}: {error.strerror}; set hydra.run.dir", file=sys.stderr)
        raise SystemExit(1) from error
