"""Loggers that keep runs outside of the run's directory, in a service or a database: a run that is resumed goes on in
its own run there, and nothing is logged there twice.
"""

import json
import re
import uuid
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from athanor.base.files import write_atomically

VERSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


class Trackio(Logger):
    """Logs to trackio, which keeps runs on this machine unless TRACKIO_SPACE_ID or TRACKIO_SERVER_URL is set in the
    environment; no config can name such a place.

    project: the name of trackio's database. name: of the run there, to which a few letters are added, as trackio knows
    runs by their names. parameters: the settings that are compared. version: the name of the run to go on with.
    """

    def __init__(self, project: str, name: str, parameters: dict, version: str | None = None) -> None:
        super().__init__()
        self.project, self.parameters, self.run = project, parameters, None
        self._version = version or f"{name}-{uuid.uuid4().hex[:8]}"

    @property
    def name(self) -> str:
        return self.project

    @property
    def version(self) -> str:
        return self._version

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """trackio's Run. It is finished when the process ends, or when the next one begins."""
        if self.run is None:
            try:
                import trackio
            except ModuleNotFoundError:
                raise ModuleNotFoundError('logger=trackio needs trackio: pip install -e ".[trackio]"') from None
            self.run = trackio.init(self.project, self._version, config=self.parameters, resume="allow", embed=False)
        return self.run

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.experiment.log({name: float(value) for name, value in metrics.items()}, step)

    @rank_zero_only
    def log_hyperparams(self, params: object, *args: object, **kwargs: object) -> None:
        """Begin the run, which has the parameters already."""
        _ = self.experiment


def log_once(logger: Logger, path: Path, is_new: bool) -> None:
    """Let a logger leave out what an earlier process of the run has logged: the steps between the checkpoint and the
    end of that process are trained again, with the same values.

    is_new: whether the logger begins a run, to which nothing has been logged.
    path: where the last step of each metric is written down, so that a process that is killed leaves it. What the
    service had not sent by then, of the last second or so, is missing there.
    """
    known = {} if is_new or not path.is_file() else json.loads(path.read_text())
    last, log_metrics = dict(known), logger.log_metrics

    @rank_zero_only
    def log_new(metrics: dict[str, float], step: int | None = None) -> None:
        new = {name: value for name, value in metrics.items() if step is None or step > known.get(name, -1)}
        if step is not None:
            last.update(dict.fromkeys(new, step))
            write_atomically(path, json.dumps(last))
        if new:
            log_metrics(new, step)

    logger.log_metrics = log_new


def versions_in(named: object) -> dict[str, str | int]:
    """What tells runs from others in services, by the names of loggers; what cannot be that, as a path, is left out."""
    pairs = named.items() if isinstance(named, dict) else ()
    return {str(name): value for name, value in pairs if isinstance(value, int) or VERSION.fullmatch(str(value or ""))}
