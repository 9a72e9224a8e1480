"""What the README says to type can be typed, and what it names is there."""

import argparse
import re
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from athanor.engine.config import check

REPO = Path(__file__).parents[1]
README = REPO / "README.md"
TEXT = README.read_text() if README.is_file() else ""
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.skipif(not TEXT, reason="there is no README.md yet")


def commands(of):
    """The words of each command in the bash blocks that runs the file `of` or a file in it."""
    script = "".join(text for language, text in BLOCKS if language == "bash").replace("\\\n", " ")
    lines = [shlex.split(part, comments=True) for line in script.splitlines() for part in line.split("&&")]
    return [words[1:] for words in lines if words and words[0] == "python" and words[1].startswith(of)]


def first_value(override):
    """The first job of a sweep: `seed=0,1,2` is `seed=0`."""
    parsed = OverridesParser.create().parse_override(override)
    if not parsed.is_sweep_override():
        return override
    return f"{parsed.get_key_element()}={next(parsed.sweep_string_iterator())}"


def entries():
    """Paths in the tree: lines of a name or several and a phrase; names that are indented are in the folder above."""
    [tree] = [text for language, text in BLOCKS if not language and "train.py" in text]
    folders = {}
    for line in tree.splitlines():
        match = re.match(r"([ │├└─]*)(\S+(?:,? \S+)*)(?: {2,}\S|(?<=/)$)", line)
        if match:
            indent, names = len(match[1]), match[2]
            above = max((depth for depth in folders if depth < indent), default=None)
            for name in re.split(r",? ", names):
                path = folders[above] / name if above is not None else Path(name)
                yield path
            folders = {depth: folder for depth, folder in folders.items() if depth < indent} | {indent: path}


ids = " ".join


@pytest.mark.parametrize("words", commands("train.py"), ids=ids)
def test_every_training_command_composes(words, compose):
    overrides = [word for word in words[1:] if not word.startswith("-")]
    assert set(words[1:]) - set(overrides) <= {"-m", "--help", "--cfg"}
    verbs = [word for word in overrides if re.match("(resume|run|weights)=", word)]
    assert all(re.search("=(last|<run>)$", verb) for verb in verbs)
    config = check.plain(compose(*[first_value(word) for word in overrides if word not in verbs]))
    check.check(config)


@pytest.mark.parametrize("words", commands("scripts/"), ids=ids)
def test_every_script_takes_the_arguments_shown(words, run_here, monkeypatch):
    def stopping(parse):
        def parse_and_stop(self, *args, **kwargs):
            parse(self, *args, **kwargs)
            raise SystemExit(0)

        return parse_and_stop

    for name in "parse_args", "parse_intermixed_args":
        monkeypatch.setattr(argparse.ArgumentParser, name, stopping(getattr(argparse.ArgumentParser, name)))
    ran = run_here(*words)
    assert (ran.code, ran.err) == (0, "")


@pytest.mark.parametrize(
    "override", sorted(set(re.findall(r"`'?([a-z][\w./]*=[\w.\[\],-]+)'?`", TEXT)) - {"resume=last"})
)
def test_every_setting_in_the_text_composes(override, compose):
    check.check(check.plain(compose("trainer=ddp", override)))


def test_the_main_job_and_the_tests_are_the_first_commands():
    first = next(text for language, text in BLOCKS if language == "bash")
    assert "pip install -e . && python train.py model=cnn optim=adam" in first
    assert 'pip install -e ".[test]" && pytest' in first
    assert commands("train.py")[0] == ["train.py", "model=cnn", "optim=adam"]


def test_every_file_in_the_tree_exists():
    found = list(entries())
    assert len(found) > 10
    assert {Path("train.py"), Path("configs"), Path("src/athanor/tasks"), Path("tests")} <= set(found)
    assert [path.as_posix() for path in found if not (REPO / path).exists()] == []


def test_every_group_of_the_configs_is_named_in_the_tree():
    named = set(re.search(r"a folder a group:([\w\s]+?)\nsrc/", TEXT)[1].split())
    assert named == {path.name for path in (REPO / "configs").iterdir() if path.is_dir()} - {"hydra", "local"}


def test_every_picture_and_link_to_a_file_exists():
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in target]
    assert [target for target in targets if not (REPO / target).is_file()] == []


def test_the_readme_has_at_most_160_lines():
    assert 20 < len(TEXT.splitlines()) <= 160


def test_the_yaml_blocks_that_show_how_to_extend_name_folders_that_exist():
    shown = re.findall(r"^# (configs/\w+)/\w+\.yaml", TEXT, re.MULTILINE)
    assert shown
    assert [folder for folder in shown if not (REPO / folder).is_dir()] == []
