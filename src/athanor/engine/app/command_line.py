"""The command line around train.py: its verbs, and what a person reads when something is wrong."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from athanor.base.errors import UserError
from athanor.engine.app import completion, debugger
from athanor.engine.app.explain import FULL, explain
from athanor.engine.app.help_text import help_text
from athanor.engine.config import options, schema, settings

ONCE = ("resume", "run", "weights", "experiment", "study", "debug")  # of two, Hydra would take the last in silence
RECORDED = "_recorded_run"  # the name under which Hydra finds the config of the run that a command names
FLAGS = ("--help", "--hydra", "--version", "--cfg", "--resolve", "--package", "--run", "--multirun", "--shell")
FLAGS += ("--config", "--info", "--exp")  # of Hydra's command line
HELP = {"--help", "-h"}
MULTIRUN = ("-m", "--multirun")
CONFIG_DIR = ("-cd", "--config-d")  # a folder of more options
WITHOUT_OUTPUT = ("--shell", "-sc", "--config-n", "-cn", "--config-p", "-cp")  # no configs/hydra/output/athanor.yaml
SETTINGS = ["hydra/output=athanor", "hydra/job_logging=athanor", "hydra.output_subdir=null"]


def start(main: Callable[[], None]) -> None:
    """Call a Hydra main with our verbs; a failure ends in one to four lines and a non-zero exit code."""
    os.environ.setdefault(FULL, os.environ.get("HYDRA_FULL_ERROR", "0"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints its own traceback and exits
    try:
        if hasattr(main, "__wrapped__"):  # by Hydra; a script has flags and words of its own
            if (text := answer(sys.argv[1:])) is not None:
                print(text, flush=True)
                sys.exit(0)
            from athanor.engine.app import ranks

            ranks.check_environment()
            sys.argv[1:] = hydra_words(sys.argv[1:])
        debugger.check(is_sweep=any(word in MULTIRUN for word in sys.argv))
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `python train.py --help | head`
        sys.stdout = None
        sys.exit(1)
    except SystemExit as end:
        if end.__cause__:  # a run that has failed, and has told why
            debugger.stop_at(end.__cause__)
        raise
    except Exception as error:
        print(explain(error), file=sys.stderr)
        debugger.stop_at(error)
        sys.exit(1)
    sys.exit(0)


def answer(typed: list[str]) -> str | None:
    """What is said instead of a training, before Hydra begins: for --help, and for tab completion; else None."""
    if HELP.intersection(typed):
        return help_text([word for word in typed if not word.startswith("-")])
    if typed == ["-sc", "install=bash"]:
        return completion.INSTALL.read_text()
    if " ".join(typed).startswith("-sc query="):
        return "\n".join(completion.completions(os.environ.get("COMP_LINE", ""))) or None  # None: Hydra may know more
    return None


def hydra_words(typed: list[str]) -> list[str]:
    """The words that a person typed as Hydra takes them, with themselves for the record of a sweep."""
    for word in typed:
        if word.startswith("--") and not word.startswith(FLAGS):  # argparse would list all flags of Hydra
            raise UserError(f"{word}: settings have no dashes; type <key>=<value>, as optim.lr=0.1")
    for name in [*typed, os.getcwd()]:
        if re.search("[\ud800-\udfff]", name):  # how Python reads bytes of a file's name that are no UTF-8
            raise UserError(f"{name}: this name is not in UTF-8, as the files of a run are; rename it")
    words = expand(words_of_sweep(typed))
    is_sweep = any(word.lstrip("+").startswith(("study=", "launcher=")) for word in words)
    flags = [word for word in words if word.startswith(("-", "hydra.mode=")) and not word.startswith(CONFIG_DIR)]
    if is_sweep and not flags:
        # Hydra 1.4 wants to be told; 1.3 learns it from the option's YAML, but blames the lists where a word is wrong
        words.insert(0, "-m")
    if any(word.startswith(WITHOUT_OUTPUT) for word in typed):
        return words
    override = f"hydra.callbacks.directories.typed=[{','.join(map(quoted, typed))}]"
    # beside the other settings: argparse takes none that a flag separates from the first, as in `seed=1 --cfg job`
    first = next((i for i, word in enumerate(words) if re.match("[^-].*=|~", word)), len(words))
    return [*words[:first], override, *words[first:]]


def expand(words: list[str], unbuilt: tuple[str, ...] = ()) -> list[str]:
    """Words that people type, changed to what Hydra takes: `resume=` and `run=` become the config of that run, of which
    the groups `unbuilt` are only read.
    """
    for word in words:
        if word in ("resume=", "run=", "weights="):  # of a shell variable that is empty
            raise UserError(f"{word} names no run; type {word}<run>")
    if any(word.startswith("--exp") for word in words):  # argparse takes any beginning of a flag
        raise UserError("--experimental-rerun loads a pickle, which can run code; type run=<run>")
    refuse_seconds(words)
    for word in words:
        key, _, value = word.lstrip("+~").partition("=")
        if renamed := settings.renamed([key]):
            raise UserError(f"{renamed}; type {settings.RENAMED[key]}={value or '<value>'}")
    words = [in_quotes(to_group(word)) for word in words]
    for i, word in enumerate(words):
        verb, _, value = word.partition("=")
        if verb in ("resume", "run") and value not in ("", "null"):
            from athanor.engine.runs.run import Run

            run = Run.find_unfinished() if (verb, value) == ("resume", "last") else Run.at(value)
            results = run.results  # damaged results are reported before Hydra starts
            if verb == "resume" and "members" in results:
                raise UserError(f"resume={value}: an ensemble is not trained; make another with scripts/ensemble.py")
            others = words[:i] + words[i + 1 :]
            if verb == "resume":
                refuse_changes(run.dir, value, others)
                others.append(f"hydra.run.dir={quoted(run.dir)}")
            others = [to_addition(other) for other in others]
            unread = ["weights="] if verb == "resume" and run.checkpoints else []  # checkpoints take their place
            register(run.trusted(unbuilt, [*others, *unread]))
            words = ["--config-name", RECORDED, f"{verb}={quoted(run.dir)}", *SETTINGS, *others]
            break
    return sorted(words, key=lambda word: word not in MULTIRUN)  # argparse wants them first


def refuse_seconds(words: list[str]) -> None:
    """Raise UserError for a second word, or a list, of what a command takes one of."""
    for key in ONCE:
        typed = [word for word in words if word.lstrip("+").startswith(f"{key}=")]
        if len(typed) > 1:
            raise UserError(f"{' '.join(typed)}: a command takes one {key}; leave out the others")
        if typed and typed[0].partition("=")[2].startswith("["):
            raise UserError(f"{typed[0]}: {key} takes one, and no list")


def in_quotes(word: str) -> str:
    """A word whose values have letters that Hydra's grammar lacks, as name=é or weights=sweep/0_lr=0.1, with these in
    quotes.
    """
    key, equals, value = word.partition("=")
    if not equals or key in ("resume", "run") or word.startswith("-") or re.search(r"['\"\[\]{}()$\\]", value):
        return word
    values = [part if part.isascii() and "=" not in part else quoted(part) for part in value.split(",")]
    return f"{key}={','.join(values)}"


def words_of_sweep(words: list[str]) -> list[str]:
    """`resume=<sweep>` replaced by the words that started the sweep; its finished jobs are left as they are."""
    from athanor.engine.runs.run import Run
    from athanor.engine.runs.sweep import Sweep

    for word in words:
        verb, _, value = word.partition("=")
        if verb != "resume" or not value:
            continue
        directory = (Run.find_unfinished().dir.parent if value == "last" else Path(value)).absolute()
        if not (directory / "sweep.json").is_file():
            return words
        added = [other for other in words if other is not word]
        place = [f"hydra.sweep.dir={quoted(directory)}", "hydra.callbacks.directories.resume=true"]
        return [*Sweep(directory).words(added), *place]
    return words


def to_group(word: str) -> str:
    """`data.preprocess=zca` to `data/preprocess=zca`, `optim=AdamW` to `optim=adamw`, `logger=null` to `logger=[]`,
    `callbacks=null` to none at all, and `extra.site=lab3` to `++extra.site=lab3`: a key that may be new, as
    `check` is to a recorded config.
    """
    key, equals, value = word.partition("=")
    if equals and re.match(r"\+*(extra(\.|$)|check$)", key):
        return f"++{word.lstrip('+')}"
    if equals and "." in key and (options.CONFIGS / key.replace(".", "/")).is_dir():
        key = key.replace(".", "/")
        word = f"{key}={value}"
    if equals and (spelled := options.spelled(key.lstrip("+"), value)) != value:  # optim=adamW
        value, word = spelled, f"{key}={spelled}"
    if (key, value) == ("callbacks", "null"):
        return "callbacks/base@callbacks=none"
    if key in ("logger", "metrics") and value == "null":
        return f"{key}=[]"
    if equals and value in ("", "null") and key not in ("experiment", "debug") and options.options(key):
        raise UserError(f"{word}: choose one\n  {key}: {', '.join(options.options(key))}")
    return word


def to_addition(word: str) -> str:
    """A recorded config has no defaults list, so the choice of a group is added to it: `optim=sgd` as `+optim=sgd`."""
    key, equals, _ = word.partition("=")
    return f"+{word}" if equals and (options.CONFIGS / key).is_dir() else word


def refuse_changes(directory: Path, value: str, words: list[str]) -> None:
    """Raise UserError where resume=<value> names a checkpoint, and for a word that would change the run."""
    if value.endswith(".ckpt") and Path(value).name != "last.ckpt":
        raise UserError(
            f"resume={value}: a run goes on from its newest checkpoint, which this may not be; type resume={directory}"
            f"\n  for a new run that starts from the weights of this one, type weights={value}"
        )
    for word in words:
        if not word.startswith(("trainer.max_", "+trainer.max_", "-", "hydra.")):
            raise UserError(
                "resume goes on with the run's own settings, trainer.max_epochs, max_steps and max_time apart\n"
                f"  for a new run with changes type run={directory} {word}"
            )


def register(config: dict) -> None:
    """Hand the checked config of a run to Hydra, which would build objects from a file that it reads itself."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.repo.pop(f"{RECORDED}.yaml", None)  # of another run that this process had
    store.store(RECORDED, config)


def quoted(text: str | Path) -> str:
    """A text as a value of Hydra's override grammar, whatever is in it; an interpolation in it stays as it is."""
    doubled = re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + ("\\'" if match[2] else ""), str(text))
    return "'" + doubled.replace("${", "\\${") + "'"


def composition(words: list[str], unbuilt: tuple[str, ...] = ()) -> DictConfig:
    """What Hydra composes for these words of the command line, its own node included.

    unbuilt: groups that nothing is built of, so that a recorded config may have anything there.
    """
    from hydra import compose, initialize_config_dir

    from athanor.engine.config import hydra_versions

    name, arguments = "train", expand(words, unbuilt)
    if arguments[:1] == ["--config-name"]:  # of run=<run>
        name, arguments = arguments[1], arguments[2:]
    with initialize_config_dir(str(options.CONFIGS), **hydra_versions.COMPOSE):
        return compose(name, ["hydra.mode=RUN", *arguments], return_hydra_config=True)


@contextmanager
def as_hydras_job(cfg: DictConfig) -> Iterator[None]:
    """Let Hydra's resolvers and what asks for its current job see this config, and afterwards what they saw before."""
    from hydra.core.hydra_config import HydraConfig

    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(cfg)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before


def composed(words: list[str], unbuilt: tuple[str, ...] = ("logger",)) -> dict:
    """The checked config that train.py would have for these words, for scripts that ask before any run begins.

    It is what a job gets and records, apart from the groups `unbuilt`: scripts log nothing anywhere.
    """
    from hydra import initialize_config_dir

    from athanor.engine.config import check, hydra_versions
    from athanor.engine.config.settle import settle

    cfg = composition(words, unbuilt)
    with as_hydras_job(cfg):
        left_out = ("hydra", *unbuilt, *schema.UNRECORDED)
        config = check.plain(OmegaConf.masked_copy(cfg, [key for key in cfg if key not in left_out]))
        config |= {name: {} for name in unbuilt}
        with initialize_config_dir(str(options.CONFIGS), **hydra_versions.COMPOSE):  # options are composed alone
            notices = settle(config, list(cfg.hydra.overrides.task))
        for notice in notices:
            print(notice)
    check.check(config)
    return config
