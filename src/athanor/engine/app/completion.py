"""Tab completion of `python train.py` in bash: eval "$(python train.py -sc install=bash)"."""

import json
from contextlib import suppress
from pathlib import Path

from athanor.engine.config import options

INSTALL = Path(__file__).with_suffix(".bash")


def completions(line: str) -> list[str]:
    """What the last word of a command may become: `<verb>=<run>`, `<group>=<option>`.

    Empty for a word that is left to Hydra, which knows the settings.
    """
    key, equals, value = line.rpartition(" ")[2].partition("=")
    if not equals:
        return []
    is_verb = key in ("resume", "run", "weights")
    names = newest(key) if is_verb else options.options(key.lstrip("+").replace(".", "/"))
    return [f"{key}={name}" for name in names if name.startswith(value)]


def newest(verb: str) -> list[str]:
    """The runs below outputs/, the newest first; for resume those that have not finished, sweeps, and `last`."""
    outputs, paths = Path("outputs"), []
    for path in outputs.glob("**/config.yaml"):
        with suppress(OSError, ValueError, LookupError, TypeError):  # of something else, or torn
            status = json.loads(path.with_name("results.json").read_text())["status"]
            if verb != "resume" or status != "finished":
                paths.append(path)
    paths += outputs.glob("sweeps/*/*/sweep.json") if verb == "resume" else ()
    paths.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [*(["last"] if verb == "resume" else []), *(str(path.parent) for path in paths)]
