"""Tab completion of `python train.py`, in bash: eval "$(python train.py -sc install=bash)"."""

import json
from pathlib import Path

from athanor.engine.config import options

# Unlike the script that Hydra has for bash, it runs no other file than train.py, leaves the characters at which bash
# separates words as they are, and keeps the order: the newest runs come first.
INSTALL = r"""_athanor_completion() {
    local line=${COMP_LINE:0:COMP_POINT} word words IFS=$' \t\n'
    read -ra words <<< "$line"
    [[ ${words[1]##*/} == train.py ]] || return
    word=${line##* }
    line="python train.py${line#*train.py}"
    local choices=$(COMP_LINE=$line "${words[0]}" "${words[1]}" -sc query=bash 2> /dev/null)
    COMPREPLY=($(compgen -W "$choices" -- "$word"))
    if [[ $word == *=* && $COMP_WORDBREAKS == *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%%=*}="}")
    fi
}
complete -o nosort -o nospace -o default -F _athanor_completion python python3 2> /dev/null ||
    complete -o nospace -o default -F _athanor_completion python python3
"""


def completions(line: str) -> list[str]:
    """The words that the last word of a command may become: `<verb>=<run>`, `<group>=<option>`.

    Empty for a word that is left to Hydra, which knows the settings.
    """
    key, equals, value = line.rpartition(" ")[2].partition("=")
    if not equals:
        return []
    if key in ("resume", "run", "weights"):
        names = newest(is_resumed=key == "resume")
    else:
        names = options.options(key.lstrip("+").replace(".", "/"))
    return [f"{key}={name}" for name in names if name.startswith(value)]


def newest(is_resumed: bool) -> list[str]:
    """The runs below outputs/, the newest first. is_resumed: `last`, the runs that have not finished, and sweeps."""
    outputs, paths = Path("outputs"), []
    for path in outputs.glob("**/config.yaml"):
        results = path.with_name("results.json")
        if results.is_file() and not (is_resumed and has_finished(results)):
            paths.append(path)
    if is_resumed:
        paths += outputs.glob("sweeps/*/*/sweep.json")
    paths.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [*(["last"] if is_resumed else []), *(str(path.parent) for path in paths)]


def has_finished(results: Path) -> bool:
    try:
        return json.loads(results.read_text()).get("status") == "finished"
    except (OSError, ValueError, AttributeError):  # torn, or of something else
        return False
