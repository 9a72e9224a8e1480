"""Training from Python: `run = train(compose("model=cnn", "optim.lr=0.01"))`, in a notebook or a script."""

import copy
import logging
import logging.config
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from athanor.base.errors import UserError
from athanor.engine.app import command_line, story
from athanor.engine.app.directories import Directories
from athanor.engine.app.explain import explain
from athanor.engine.config import hydra_versions, options
from athanor.engine.runs.run import Run


def compose(*words: str) -> DictConfig:
    """The config that `python train.py <words>` would train with; values may be set in it, as `cfg.optim.lr = 0.1`.

    Its key `hydra` is Hydra's own, with the directory of the run in hydra.run.dir. Raises UserError for words that
    train.py would refuse, and for commas: a loop over `train` is the sweep.
    """
    try:
        cfg = command_line.composition([*words])
    except Exception as error:
        text = explain(error).removeprefix("error: ")
        raise UserError(text.replace("a sweep needs -m before it", "a sweep is a loop over train(cfg)")) from error
    if cfg.get("study") or cfg.get("launcher"):
        raise UserError("a study or a launcher starts many jobs; type python train.py study=<name>")
    with command_line.as_hydras_job(cfg):
        cfg.name = cfg.name  # as text: it asks Hydra for what was chosen
    return cfg


def train(cfg: DictConfig) -> Run:
    """Train with a config of `compose` in this process, as train.py does; gives the run, in a directory of its own.

    May be called any number of times. Raises what has ended the run, which is written down in its directory.
    """
    cfg = copy.deepcopy(cfg)
    with command_line.as_hydras_job(cfg):
        Directories().on_run_start(cfg)
        directory = Path(cfg.resume or cfg.hydra.run.dir).absolute()
        with read_write(cfg.hydra.runtime), open_dict(cfg.hydra.runtime):
            cfg.hydra.runtime.output_dir = str(directory)
        HydraConfig.instance().set_config(cfg)
        try:
            with (
                logging_to(OmegaConf.to_container(cfg.hydra.job_logging, resolve=True)),
                initialize_config_dir(str(options.CONFIGS), **hydra_versions.COMPOSE),
            ):
                story.train_job(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]))
        except SystemExit as end:  # which ends the process of a command
            if end.__cause__ is None:
                raise
            raise end.__cause__ from None
    return Run(directory)


@contextmanager
def logging_to(settings: dict) -> Iterator[None]:
    """Log to the handlers of these settings of logging.config, and afterwards as before; see set_up_logging."""
    root, excepthook = logging.getLogger(), threading.excepthook
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []  # else dictConfig would close them
    logging.config.dictConfig(settings)
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers[:], root.level = handlers, level
        threading.excepthook = excepthook
