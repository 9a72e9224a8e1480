"""What a person reads when something is wrong: what was got, what is allowed, what to type."""

import os
import re
import traceback
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from athanor.base.error_place import name_and_text, told, words
from athanor.base.errors import NonFiniteError, UserError, nearest
from athanor.base.text import printable
from athanor.engine.app.machine_errors import machine_error
from athanor.engine.config import options, schema, settings
from athanor.engine.config.facts import FACTS

FULL = "ATHANOR_FULL_ERROR"  # environment variable: HYDRA_FULL_ERROR as a person has set it, before Hydra needs it set
# of libraries that have got a wrong value, where it comes from a setting and no code of a person's own hands it over
MISTAKES = (ValueError, OSError, ModuleNotFoundError)


def explain(error: BaseException, log: Path | None = None, config: dict | None = None) -> str:
    """One or two lines for the terminal, whichever library met the mistake; up to four where code of the person's own
    has failed, with the place. Where HYDRA_FULL_ERROR=1 is typed, the traceback comes first.

    log: the file with the traceback, in the run's folder. config: what the run was made from, if it got so far.
    """
    lines = traceback.format_exception(error) if os.environ.get(FULL) == "1" else []
    return printable("".join([*lines, explanation(error, log, config)]), keep="\n\t")


def explanation(error: BaseException, log: Path | None, config: dict | None) -> str:
    # of a logging handler, whose file cannot be opened, only the cause says why
    wrapped = "InstantiationException", "ValueError: Unable to configure handler"
    while f"{type(error).__name__}: {error}".startswith(wrapped) and error.__cause__:
        error = error.__cause__
    if refused := machine_error(error, log, config):
        return f"error: {refused}"
    text, module = name_and_text(error)[1], type(error).__module__.partition(".")[0]
    if module in ("hydra", "omegaconf", "antlr4"):
        return f"error: {shorten(error)}"
    if mark := getattr(error, "problem_mark", None):  # of YAML, in a config of the person's own
        return f"error: {mark.name}, line {mark.line + 1}: {error.problem}"
    if text.startswith('Could not detect "srun"'):  # from submitit
        return "error: launcher=slurm needs SLURM, and there is no srun on this machine; type launcher=local"
    if text.startswith("Error(s) in loading state_dict"):
        strange = re.search(r'(?:size mismatch for |: ")([\w.]+)', text)
        name = f" ({strange[1]} differs)" if strange else ""
        return f"error: the checkpoint is of another network{name}; use the model settings of its run"
    if text.startswith("Expected more than 1 value per channel when training"):  # from torch's batch norm
        size = config and config["data"].get("batch_size")  # a LightningDataModule may call it something else
        batch = f"data.batch_size={size}" if size else "the batch"
        remedy = "data.batch_size=2" + (", or model.norm=none" if config and "norm" in (config["model"] or {}) else "")
        return f"error: batch norm needs two images a step on each device, and {batch} gives it one\n  use {remedy}"
    is_mistake = isinstance(error, MISTAKES) or type(error).__name__ == "MisconfigurationException"
    place = told(error, everywhere=not is_mistake)
    if isinstance(error, (UserError, NonFiniteError)) or (is_mistake and not place):
        return f"error: {text or type(error).__name__}"
    where = f"the traceback is in {log}" if log else "HYDRA_FULL_ERROR=1 before the command prints the traceback"
    if text.startswith("CUDA error"):
        where = f"a GPU fails after the line that is at fault: CUDA_LAUNCH_BLOCKING=1 finds it\n  {where}"
    return f"error: {place or words(error)}\n  {where}"


def strange_repeat(text: str) -> str | None:
    """Of a message of Hydra's about an option that chooses others as well, for a recorded run, which has no list of
    options in which they could be chosen: what to type instead.
    """
    match = re.match(r"In '([^/']+)/([^/']+)': Could not override '([^']+)'", text)
    if not match:
        return None
    word = f"{match[1]}={match[2]}"
    brought = f"brings options of other groups with it ({match[3]}), and a recorded run has no list of options"
    return f"{word} {brought}\n  for a new run type python train.py {word} and its settings, without run="


def shorten(error: BaseException) -> str:
    """The messages of Hydra and OmegaConf, which have up to twenty lines, in two."""
    text = str(error)
    choice = re.match(r"(?:In '.*?': )?Could not (?:find|load) '([^']+)/([^/']*)'", text)
    if choice:
        group, name = choice.groups()
        listed = re.findall(r"^\t(\S+)", text.partition("Config search path")[0], re.MULTILINE)
        listed = listed or options.options(group)  # Hydra lists them for some forms of this mistake only
        return f"{group}={name} does not exist; {nearest(name, listed)}\n  {group}: {', '.join(listed)}"
    if refused := strange_repeat(text):
        return refused
    if hasattr(getattr(error.__cause__, "parent_node", None), "keys"):
        return missing_key(error.__cause__, text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    unread = ("full_key", "object_type", "See https", "reference_type", "Error when parsing index")
    lines = [line for line in lines if not line.startswith(unread)]
    if lines and lines[0].startswith("Ambiguous value"):
        return f"{lines[0]}\n  a sweep needs -m before it; a list is [a,b]; a decimal number has a point"
    override = getattr(error, "override", None)
    if not override:
        return "\n  ".join(lines[:2])
    reason = lines[0] if lines else ""
    if reason.startswith(("Error parsing override", "Lexer")):
        reason = (
            "type key=value without spaces; a value with a space or one of ;~( needs quotes in quotes: \"key='value'\""
        )
    return f"cannot read {override!r}\n  {reason}"


def missing_key(error: OmegaConfBaseException, text: str) -> str:
    """What is said of a key that the composed config does not have. text: Hydra's message."""
    node, path, key = error.parent_node, re.sub(r"\[.*", "", str(error.full_key)), str(error.key)
    group = path.rpartition(".")[0]
    if not node and (choices := options.options(group.replace(".", "/"))):
        return f"there is no {path}: the chosen {group} has no settings\n  {group}: {', '.join(choices)}"
    if renamed := settings.renamed([path]):  # in the words of a study's YAML; others are found before Hydra begins
        return f"{renamed}; type {settings.RENAMED[path]}=<value>"
    row = schema.group_of(group)
    if row and key in row.facts:
        return f"there is no {path}: {key} is {FACTS[key]} and is handed over; leave it out"
    config = OmegaConf.to_container(node._get_root(), resolve=False)
    paths = [other for other in settings.paths_of(config) if other.partition(".")[0] != "hydra"]
    value = re.search(rf"use \+{re.escape(path)}(=.*)", text)
    more = f"\n  (+{path}=<value> adds a key that is not in the YAML)" if group else ""
    return f"there is no {path}; {settings.advice(path, paths, value[1] if value else '')}{more}"
