"""The command line around train.py: its verbs, and what a person reads when something is wrong."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from athanor import config_groups
from athanor.errors import UserError, explain

SETTINGS = ["hydra/output=athanor", "hydra/job_logging=athanor", "hydra.output_subdir=null"]


def run(main: Callable[[], None]) -> None:
    """Call a Hydra main with our verbs; a failure ends in one or two lines and a non-zero exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra prints its own traceback and exits
    try:
        sys.argv[1:] = expand(sys.argv[1:])
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `python train.py --help | head`
        sys.stdout = None
        sys.exit(1)
    except Exception as error:
        print(explain(error), file=sys.stderr)
        sys.exit(1)
    from athanor import job

    sys.exit(1 if job.failed_jobs else 0)


def expand(arguments: list[str]) -> list[str]:
    """Words that people type to what Hydra takes."""
    arguments = [to_group(argument) for argument in arguments]
    for i, argument in enumerate(arguments):
        verb, _, value = argument.partition("=")
        if verb in ("resume", "run") and value not in ("", "null"):
            from athanor.runs import Run

            run = Run.find_unfinished() if (verb, value) == ("resume", "last") else Run.at(value)
            others = arguments[:i] + arguments[i + 1 :]
            if verb == "resume":
                refuse_changes(run.dir, others)
                others.append(f"hydra.run.dir={quoted(run.dir)}")
            others = [to_addition(other) for other in others]
            recorded = ["--config-path", str(run.dir.resolve()), "--config-name", "config"]
            recorded += ["--config-dir", str(config_groups.CONFIGS)]
            arguments = [*recorded, f"{verb}={quoted(run.dir)}", *SETTINGS, *others]
            break
    return sorted(arguments, key=lambda argument: argument not in ("-m", "--multirun"))  # argparse wants them first


def to_group(argument: str) -> str:
    """`data.preprocess=zca` to `data/preprocess=zca`, `logger=null` to `logger=[]`, `callbacks=null` to none at all."""
    key, equals, value = argument.partition("=")
    if equals and "." in key and (config_groups.CONFIGS / key.replace(".", "/")).is_dir():
        return f"{key.replace('.', '/')}={value}"
    if (key, value) == ("callbacks", "null"):
        return "callbacks/base@callbacks=none"
    if key in ("logger", "metrics") and value == "null":
        return f"{key}=[]"
    if equals and value in ("", "null") and key not in ("experiment", "debug") and config_groups.options(key):
        raise UserError(f"{argument}: choose one\n  {key}: {', '.join(config_groups.options(key))}")
    return argument


def to_addition(argument: str) -> str:
    """A recorded config has no defaults list: a choice of a group is added to it, `optim=sgd` as `+optim=sgd`."""
    key, equals, _ = argument.partition("=")
    return f"+{argument}" if equals and (config_groups.CONFIGS / key).is_dir() else argument


def refuse_changes(directory: Path, others: list[str]) -> None:
    for other in others:
        if not other.startswith(("trainer.max_", "+trainer.max_", "-", "hydra.")):
            raise UserError(
                "resume goes on with the run's own settings, trainer.max_epochs, max_steps and max_time apart\n"
                f"  for a new run with changes type run={directory} {other}"
            )


def quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "\\'") + "'"


def changed(directory: Path, overrides: list[str]) -> dict:
    """The recorded config of a run with overrides of the command line, for scripts."""
    from hydra import compose, initialize_config_dir

    from athanor.check_config import plain

    typed = [to_addition(to_group(override)) for override in overrides]
    with initialize_config_dir(str(directory.resolve()), version_base="1.3"):
        return plain(compose("config", [f"hydra.searchpath=[file://{config_groups.CONFIGS}]", *typed]))
