"""What `python train.py --help` says, from the comments of the files below configs/."""

import shutil
import textwrap
from collections.abc import Iterable
from dataclasses import replace

from athanor.base.errors import UserError
from athanor.engine.config import options
from athanor.engine.config.descriptions import Option, Setting, docstring
from athanor.engine.config.settings import advice

USAGE = """\
python train.py <group>=<option> <setting>=<value> ...

  python train.py model=cnn optim=adam optim.lr=3e-3      trains, tests and records a run
  python train.py -m model=mlp,cnn seed=0,1,2             a sweep: a job for each combination, and a table
  python train.py experiment=mnist_cnn                    a recipe; what follows changes it
  python train.py resume=last                             goes on where a run or a sweep stopped; or resume=<folder>
  python train.py run=<run> seed=1                        a recorded run again, with changes
  python train.py weights=<run> data=image_folder data.root=photos      starts from its weights
  python train.py --help model                            a group; model=resnet: an option; optim.lr: a setting
  python train.py --cfg job model=resnet                  all settings that a run would have
"""
COLUMN = 34  # where comments begin


def help_text(words: list[str]) -> str:
    """The overview, or all that is known of each of these words: groups, options, settings.

    Raises UserError for a word that is none of them.
    """
    groups = {group: option for group, option, _ in Option("", "train").defaults if is_shown(group)}
    if not words:
        return overview(groups)
    return "\n".join(explained(word, groups) for word in words)


def is_shown(group: str) -> bool:
    return bool(group) and not group.startswith(("override ", "optional "))


def overview(groups: dict[str, str]) -> str:
    """Usage, groups with options, the settings of those that are chosen by default, scripts: a line each."""
    train, lines = Option("", "train"), [USAGE]
    comments = {group: comment for group, _, comment in train.defaults}
    settings: dict[str, Setting] = {}
    for group, chosen in groups.items():
        group, _, place = group.partition("@")  # callbacks/base@callbacks: the settings of that place
        names = chosen.strip("[]").split(",") if chosen not in ("null", "[]") else []
        for name in names:
            settings |= Option(group, name).settings(f"{place}." if place else None)
        if not place:
            lines += [f"{typed(group)}: {comments[group]}", *option_lines(group, names, is_short=True), ""]
    lines += ["settings of the options that are marked with *, and of none"]
    lines += setting_lines((settings | train.settings()).values(), is_short=True)
    lines += ["", "scripts, each with --help"]
    for path in sorted((options.CONFIGS.parent / "scripts").glob("*.py")):
        lines.append(shortened(path.read_text(encoding="utf-8").partition('"""')[2].partition("\n")[0]))
    return "\n".join(lines)


def explained(word: str, groups: dict[str, str]) -> str:
    """All about one word."""
    key, equals, name = word.lstrip("+~").partition("=")
    group = key.replace(".", "/")
    choices = options.options(group)
    if choices and name:
        return "\n".join(option_text(group, part) for part in name.strip("[]").split(","))
    if choices and not equals:
        chosen = groups.get(group, "").strip("[]").split(",")
        own = f"\na {key} of your own: see the head of configs/{group}/{choices[0]}.yaml\n"
        return "\n".join([f"{key}=<option>", *option_lines(group, chosen), *shared_lines(group), own])
    rows = settings_of_all(groups)
    found = [row for row in rows if f"{row.key}.".startswith(f"{key}.")]
    if not found:
        paths = [*(typed(group) for group in groups if "@" not in group), *(row.key for row in rows)]
        raise UserError(f"--help {word}: there is no such group or setting; {advice(key, paths)}")
    return "\n".join([*setting_lines(found), ""])


def settings_of_all(groups: Iterable[str]) -> list[Setting]:
    """Those of train.yaml and of each option of each group, which is named in their comments."""
    rows = list(Option("", "train").settings().values())
    for group in groups:
        folder, _, place = group.partition("@")
        for name in options.options(folder):
            settings = Option(folder, name).settings(f"{place}." if place else None)
            own = [setting for key, setting in settings.items() if key.startswith(f"{place or typed(folder)}.")]
            rows += [replace(row, comment=f"{row.comment} ({typed(folder)}={name})".strip()) for row in own]
    return rows


def option_text(group: str, name: str) -> str:
    """What an option is and does, what it chooses besides, and its settings."""
    option = Option(group, name)
    lines = [f"{typed(group)}={name}", *(f"  {line}" for line in option.head)]
    if option.target:
        paragraph = docstring(option.target).splitlines()
        lines += ["", f"{option.target}", *(f"  {line.strip()}" for line in paragraph)]
    chosen = [f"{typed(other)}={value}" for other, value in option.chosen.items()]
    lines += ["", f"it chooses {' '.join(chosen)}"] if chosen else []
    rows = setting_lines(option.settings().values())
    lines += ["", "settings", *rows] if rows else []
    if option.target and not option.target.startswith("athanor."):  # of ours the YAML has all
        lines += [f"  other arguments of {option.target.rpartition('.')[2]}: +{typed(group)}.<argument>=<value>"]
    return "\n".join([*lines, "", f"file: {option.path.relative_to(options.CONFIGS.parent)}", ""])


def option_lines(group: str, chosen: list[str], is_short: bool = False) -> list[str]:
    rows = [
        (f"{'*' if name in chosen else ' '} {name}", Option(group, name).summary) for name in options.options(group)
    ]
    return [shortened(f"{left:20}{text}") if is_short else wrapped(left, text, 20) for left, text in rows]


def shared_lines(group: str) -> list[str]:
    """The settings that all options of a group have."""
    settings = (
        Option(f"{group}/base", "default").settings(f"{typed(group)}.") if options.options(f"{group}/base") else {}
    )
    return ["", "settings of all of them", *setting_lines(settings.values())] if settings else []


def setting_lines(settings: Iterable[Setting], is_short: bool = False) -> list[str]:
    rows = [(f"  {setting.key}={setting.value}", setting.comment) for setting in settings if setting.value]
    return [
        shortened(f"{left:{COLUMN}}  {text}") if is_short else wrapped(left, text, COLUMN + 2) for left, text in rows
    ]


def typed(group: str) -> str:
    return group.replace("/", ".")


def wrapped(left: str, text: str, column: int) -> str:
    """Two columns, the second in as many lines as it needs."""
    lines = textwrap.wrap(text, max(width() - column, 30)) or [""]
    first = f"{left:{column}}" if len(left) < column else f"{left}\n{' ' * column}"
    return first + f"\n{' ' * column}".join(lines) if text else left


def shortened(line: str) -> str:
    """One line of the terminal; what does not fit is left out, and `--help <its key>` has it."""
    return line if len(line) <= width() else line[: width() - 3].rpartition(" ")[0] + " ..."


def width() -> int:
    return shutil.get_terminal_size((120, 24)).columns
