"""What `python train.py --help` says, from the comments of the files below configs/."""

import shutil
import textwrap
from collections.abc import Iterable

from athanor.base.errors import UserError
from athanor.engine.config import options
from athanor.engine.config.descriptions import Option, Setting, docstring
from athanor.engine.config.settings import advice

INDENT = 33  # where comments of settings begin


def help_text(words: list[str]) -> str:
    """The overview, or all that is known of each of these words: groups, options, settings of the default options.

    Raises UserError for a word that is none of them.
    """
    train = Option("", "train")
    # by their groups, without the line of a person's own settings and those of Hydra
    defaults = {entry.key.partition("@")[0]: entry for entry in train.defaults if " " not in entry.key and entry.key}
    settings = {}
    for group, entry in defaults.items():
        for name in names_in(entry.value):
            settings |= Option(group, name).settings()
    settings |= train.settings()
    if words:
        return "\n".join(explained(word, defaults, settings) for word in words)
    lines = [*train.head, ""]
    for group, entry in defaults.items():
        lines += [f"{typed(group)}: {entry.comment}", *option_lines(group, names_in(entry.value)), ""]
    lines += ["settings of the options with *, and of none", *setting_lines(settings.values()), "", "scripts"]
    scripts = sorted((options.CONFIGS.parent / "scripts").glob("*.py"))
    lines += [f"  {path.read_text(encoding='utf-8')[3:].partition(chr(10))[0]}" for path in scripts]
    return "\n".join(lines)


def explained(word: str, defaults: dict[str, Setting], settings: dict[str, Setting]) -> str:
    """All about one word."""
    key, _, value = word.lstrip("+~").partition("=")
    group = key.replace(".", "/")
    choices = options.options(group)
    if choices and value:
        return "\n".join(option_text(Option(group, name)) for name in names_in(options.spelled(group, value)))
    if choices:
        chosen = names_in(defaults[group].value) if group in defaults else []
        shared = Option(f"{group}/base", "default").settings() if options.options(f"{group}/base") else {}
        own = f"one of your own: see the head of configs/{group}/{choices[0]}.yaml\n"
        return "\n".join([f"{key}=<option>", *option_lines(group, chosen), *setting_lines(shared.values()), own])
    rows = [setting for setting in settings.values() if f"{setting.key}.".startswith(f"{key}.")]
    if not rows:
        known = advice(key, [*map(typed, defaults), *settings])
        raise UserError(f"--help {word}: there is no such group or setting; {known}")
    return "\n".join([*setting_lines(rows), ""])


def option_text(option: Option) -> str:
    """What an option is and does, with what it begins, and its settings."""
    place = typed(option.group)
    lines = [f"{place}={option.path.stem}", *(f"  {line}" for line in option.head)]
    if option.target:
        lines += [option.target, textwrap.indent(docstring(option.target), "  ")]
    chosen = [f"{entry.key.partition('/')[2]}={entry.value}" for entry in option.defaults if "/" in entry.key]
    lines += [f"it chooses {' '.join(chosen)}"] if chosen else []
    lines += setting_lines(option.settings().values())
    if option.target and not option.target.startswith("athanor."):  # of ours the YAML has all
        lines += [f"  other arguments of {option.target.rpartition('.')[2]}: +{place}.<argument>=<value>"]
    return "\n".join([*filter(None, lines), f"file: {option.path.relative_to(options.CONFIGS.parent)}", ""])


def option_lines(group: str, chosen: list[str]) -> list[str]:
    names = options.options(group)
    return [row(f"{'*' if name in chosen else ' '} {name}", Option(group, name).summary, 19) for name in names]


def setting_lines(settings: Iterable[Setting]) -> list[str]:
    return [row(f"  {setting.key}={setting.value}", setting.comment, INDENT) for setting in settings if setting.value]


def row(left: str, text: str, indent: int) -> str:
    """Two columns, the second in as many lines as it needs."""
    width = shutil.get_terminal_size((120, 24)).columns
    return textwrap.fill(
        f"{left:{indent}} {text}", width, subsequent_indent=" " * (indent + 1), break_on_hyphens=False
    ).rstrip()


def names_in(value: str) -> list[str]:
    """`cnn`, `[tensorboard,csv]` or null of a defaults list, as names."""
    return [name for name in value.strip("[]").split(",") if name not in ("", "null")]


def typed(group: str) -> str:
    return group.replace("/", ".")
