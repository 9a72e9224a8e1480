"""Every recipe says first what it is, how it was measured and what it reached, in the same words and order."""

import re
from pathlib import Path

import pytest

from athanor.engine.config import options
from athanor.engine.runs.repeats import half_interval

CONFIGS = Path(__file__).parents[3] / "configs"
WORDS = ["command", "hardware", "seconds", "seeds", "accuracy"]
PERCENT = r"(\d\d\.\d\d)"
MEASURED = re.compile(
    rf"n=(\d+), mean {PERCENT} % test, "
    rf"(?:no interval from one seed|95 % interval of the mean {PERCENT} to {PERCENT} \(standard deviation (\d\.\d\d)\))"
)

every_recipe = pytest.mark.parametrize(
    "path", sorted((CONFIGS / "experiment").glob("*.yaml")), ids=lambda path: path.stem
)


def head(path):
    """The sentence, and what follows each of the words; a line of spaces and text belongs to the word above it."""
    package, sentence, *lines = path.read_text().splitlines()
    assert package == "# @package _global_"
    facts, word = {}, None
    for line in lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]:
        if match := re.match(rf"# ({'|'.join(WORDS)}): +(\S.*)", line):
            word = match[1]
            assert word not in facts
            facts[word] = [match[2]]
        elif word and line.startswith("#" + 11 * " "):
            facts[word].append(line[1:].strip())
        else:
            word = None
    return sentence, facts


@every_recipe
def test_every_recipe_has_the_same_head(path):
    sentence, facts = head(path)
    assert re.fullmatch(r"# [A-Z].*\.", sentence)
    assert list(facts) == WORDS
    assert facts["command"][0].startswith(f"python train.py -m experiment={path.stem} seed=0,1,2")
    is_measured = facts["accuracy"] != ["not measured"]
    assert is_measured == ("not measured" not in " ".join(facts["hardware"] + facts["seconds"] + facts["seeds"]))


@every_recipe
def test_the_interval_follows_from_the_seeds_and_their_standard_deviation(path):
    _, facts = head(path)
    for line in facts["accuracy"] if facts["accuracy"] != ["not measured"] else ():
        match = MEASURED.match(line)
        assert match, line
        n, (mean, *interval) = int(match[1]), [number and float(number) for number in match.groups()[1:]]
        assert n == len(facts["seeds"][0].split(","))
        if n == 1:
            assert interval == [None, None, None]
        else:
            low, high, deviation = interval
            half = half_interval(deviation, n)
            assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.00501)


@pytest.mark.parametrize("group", ["experiment", "study"])
def test_what_recipes_share_is_no_choice(group):
    assert (CONFIGS / group / "base" / "default.yaml").is_file()
    assert not {"base", "default"} & set(options.options(group))


@every_recipe
def test_a_recipe_gives_its_name_to_the_run_and_trains_to_its_end(path, compose):
    config = compose(f"experiment={path.stem}")
    assert config.name == path.stem
    assert config.callbacks.early_stopping is None
