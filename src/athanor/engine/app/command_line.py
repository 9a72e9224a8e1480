"""The command line around train.py: its verbs, and what a person reads when something is wrong."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from athanor.base.errors import UserError
from athanor.engine.app.explain import explain
from athanor.engine.config import options

if TYPE_CHECKING:
    from athanor.engine.runs.run import Run

RECORDED = "_recorded_run"  # what Hydra calls the config of the run that a command names
FLAGS = ("--help", "--hydra", "--version", "--cfg", "--resolve", "--package", "--run", "--multirun", "--shell")
FLAGS += ("--config", "--info", "--exp")  # of Hydra's command line
SETTINGS = ["hydra/output=athanor", "hydra/job_logging=athanor", "hydra.output_subdir=null"]


typed: list[str] = []  # the words of this command line
resumed_sweep: str | None = None  # the directory of the sweep that it goes on with


def run(main: Callable[[], None]) -> None:
    """Call a Hydra main with our verbs; a failure ends in one or two lines and a non-zero exit code."""
    global typed, resumed_sweep
    typed, resumed_sweep = sys.argv[1:], None
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra prints its own traceback and exits
    try:
        if hasattr(main, "__wrapped__"):  # by Hydra; a script has flags and words of its own
            refuse_flags(typed)
            from athanor.engine.app import ranks

            ranks.check_environment()
            sys.argv[1:] = as_multirun(expand(resume_sweep(typed)))
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `python train.py --help | head`
        sys.stdout = None
        sys.exit(1)
    except Exception as error:
        print(explain(error), file=sys.stderr)
        sys.exit(1)
    from athanor.engine.app import job

    sys.exit(1 if job.failed_jobs else 0)


def refuse_flags(arguments: list[str]) -> None:
    """Instead of argparse's list of Hydra's flags, of which it also takes any beginning."""
    for argument in arguments:
        if argument.startswith("--") and not argument.startswith(FLAGS):
            raise UserError(f"{argument}: settings have no dashes; type <key>=<value>, as optim.lr=0.1")


def expand(arguments: list[str]) -> list[str]:
    """Words that people type to what Hydra takes."""
    for argument in arguments:
        if argument in ("resume=", "run=", "weights="):  # of a shell variable that is empty
            raise UserError(f"{argument} names no run; type {argument}<run>")
    if any(argument.startswith("--exp") for argument in arguments):  # argparse takes any beginning of it
        raise UserError("--experimental-rerun loads a pickle, which can run code; type run=<run>")
    arguments = [to_group(argument) for argument in arguments]
    for i, argument in enumerate(arguments):
        verb, _, value = argument.partition("=")
        if verb in ("resume", "run") and value not in ("", "null"):
            from athanor.engine.runs.run import Run

            run = Run.find_unfinished() if (verb, value) == ("resume", "last") else Run.at(value)
            results = run.results  # a torn one is told before Hydra starts
            if verb == "resume" and "members" in results:
                raise UserError(f"resume={value}: an ensemble is not trained; make another with scripts/ensemble.py")
            others = arguments[:i] + arguments[i + 1 :]
            if verb == "resume":
                refuse_changes(run.dir, others)
                others.append(f"hydra.run.dir={quoted(run.dir)}")
            others = [to_addition(other) for other in others]
            register(run)
            arguments = ["--config-name", RECORDED, f"{verb}={quoted(run.dir)}", *SETTINGS, *others]
            break
    return sorted(arguments, key=lambda argument: argument not in ("-m", "--multirun"))  # argparse wants them first


def as_multirun(arguments: list[str]) -> list[str]:
    """Add -m to a study. Hydra knows by itself, but not when a word is wrong: then it would blame the lists."""
    is_study = any(argument.lstrip("+").startswith("study=") for argument in arguments)
    if is_study and not any(argument.startswith(("-", "hydra.mode=")) for argument in arguments):
        return ["-m", *arguments]
    return arguments


def resume_sweep(arguments: list[str]) -> list[str]:
    """`resume=<sweep>` to the words that started it: its jobs that have finished are left as they are."""
    global resumed_sweep
    from athanor.engine.runs.run import Run
    from athanor.engine.runs.sweep import Sweep

    for argument in arguments:
        verb, _, value = argument.partition("=")
        if verb == "resume" and value == "last":
            directory = Run.find_unfinished().dir.parent
        elif verb == "resume" and value:
            directory = Path(value)
        else:
            continue
        if not (directory / "sweep.json").is_file():
            return arguments
        resumed_sweep = str(directory.absolute())
        others = [other for other in arguments if other is not argument]
        return [*Sweep(directory).words(), *others, f"hydra.sweep.dir={quoted(directory.absolute())}"]
    return arguments


def to_group(argument: str) -> str:
    """`data.preprocess=zca` to `data/preprocess=zca`, `logger=null` to `logger=[]`, `callbacks=null` to none at all."""
    key, equals, value = argument.partition("=")
    if equals and "." in key and (options.CONFIGS / key.replace(".", "/")).is_dir():
        return f"{key.replace('.', '/')}={value}"
    if (key, value) == ("callbacks", "null"):
        return "callbacks/base@callbacks=none"
    if key in ("logger", "metrics") and value == "null":
        return f"{key}=[]"
    if equals and value in ("", "null") and key not in ("experiment", "debug") and options.options(key):
        raise UserError(f"{argument}: choose one\n  {key}: {', '.join(options.options(key))}")
    return argument


def to_addition(argument: str) -> str:
    """A recorded config has no defaults list: a choice of a group is added to it, `optim=sgd` as `+optim=sgd`."""
    key, equals, _ = argument.partition("=")
    return f"+{argument}" if equals and (options.CONFIGS / key).is_dir() else argument


def refuse_changes(directory: Path, others: list[str]) -> None:
    for other in others:
        if not other.startswith(("trainer.max_", "+trainer.max_", "-", "hydra.")):
            raise UserError(
                "resume goes on with the run's own settings, trainer.max_epochs, max_steps and max_time apart\n"
                f"  for a new run with changes type run={directory} {other}"
            )


def register(run: "Run") -> None:
    """Hand a run's checked config to Hydra: what it read from the file itself, it would also build from."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(RECORDED, run.trusted_config)


def quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "\\'") + "'"


def changed(directory: Path, overrides: list[str]) -> dict:
    """The recorded config of a run with overrides of the command line, for scripts, which log nothing anywhere."""
    from hydra import compose, initialize_config_dir

    from athanor.engine.config.check import plain
    from athanor.engine.runs.run import Run

    typed = [to_addition(to_group(override)) for override in overrides]
    register(Run(directory))
    with initialize_config_dir(str(options.CONFIGS), version_base="1.3"):
        cfg = compose(RECORDED, typed)
    # the keys that loggers take from the environment need not be there
    return plain(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "logger"]))


def composed(words: list[str]) -> dict:
    """The checked config that train.py would have for these words, for scripts that ask before any run begins.

    It is what a job gets and records, but for the loggers: scripts log nothing anywhere.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig

    from athanor.engine.config import check

    name, arguments = "train", expand(words)
    if arguments[:1] == ["--config-name"]:  # of run=<run>
        name, arguments = arguments[1], arguments[2:]
    before = HydraConfig.instance().cfg
    try:
        with initialize_config_dir(str(options.CONFIGS), version_base="1.3"):
            cfg = compose(name, ["hydra.mode=RUN", *arguments], return_hydra_config=True)
            HydraConfig.instance().set_config(cfg)  # ${name} asks it what was chosen
            left_out = ("hydra", "logger", "launcher", "study")
            config = check.plain(OmegaConf.masked_copy(cfg, [key for key in cfg if key not in left_out]))
            config["logger"] = {}
            for notice in check.settle(config, arguments):
                print(notice)
    finally:
        HydraConfig.instance().cfg = before
    check.check(config)
    return config
