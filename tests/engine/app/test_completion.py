"""What the tab key completes, and the script that bash runs for it."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from athanor.engine.app.completion import INSTALL, completions
from athanor.engine.config import options


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Three runs, of which the newest has not finished, a job of a sweep that has, and what is no run."""
    monkeypatch.chdir(tmp_path)
    runs = {
        "2026-01-01/10-00-00_a": "finished",
        "2026-01-01/11-00-00_b": "interrupted",
        "sweeps/2026-01-02/9/0": "finished",
    }
    for age, (name, status) in enumerate(runs.items()):
        folder = tmp_path / "outputs" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("seed: 0\n")
        (folder / "results.json").write_text(json.dumps({"status": status}))
        os.utime(folder / "config.yaml", (1000 + age, 1000 + age))
    (tmp_path / "outputs/sweeps/2026-01-02/9/sweep.json").write_text("{}")
    for name, text in {"torn": "{", "strange": "[]"}.items():
        (tmp_path / "outputs" / name).mkdir()
        (tmp_path / "outputs" / name / "config.yaml").write_text("")
        (tmp_path / "outputs" / name / "results.json").write_text(text)
    return tmp_path


def test_runs_are_completed_the_newest_first(runs):
    newest_first = ["sweeps/2026-01-02/9/0", "2026-01-01/11-00-00_b", "2026-01-01/10-00-00_a"]
    for verb in "run", "weights":
        expected = [f"{verb}=outputs/{name}" for name in newest_first]
        assert completions(f"train.py seed=1 {verb}=") == expected
        assert completions(f"train.py {verb}=outputs/2026") == expected[1:]
    resumed = ["resume=last", "resume=outputs/sweeps/2026-01-02/9", "resume=outputs/2026-01-01/11-00-00_b"]
    assert completions("train.py resume=") == resumed
    assert completions("train.py resume=l") == ["resume=last"]


def test_without_runs_there_is_nothing_to_complete_but_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert completions("train.py run=") == []
    assert completions("train.py resume=") == ["resume=last"]


def test_options_are_completed_as_they_are_typed():
    assert completions("train.py experiment=") == [f"experiment={name}" for name in options.options("experiment")]
    assert completions("train.py -m data.preprocess=z") == ["data.preprocess=zca"]
    assert completions("train.py +optim=adam") == ["+optim=adam", "+optim=adamw"]
    assert completions("train.py optim.lr=") == completions("train.py optim") == completions("train.py ") == []


def test_the_command_line_answers_and_leaves_the_rest_to_hydra(train, runs, monkeypatch):
    ran = train("-sc", "install=bash")
    assert (ran.code, ran.out.rstrip("\n")) == (0, INSTALL.read_text().rstrip("\n"))
    answers = {
        "run=outputs/2026-01-01/10": "run=outputs/2026-01-01/10-00-00_a",
        "optim.weight_d": "optim.weight_decay=",
    }
    for word, answer in answers.items():
        monkeypatch.setenv("COMP_LINE", f"python train.py {word}")
        ran = train("-sc", "query=bash")
        assert (ran.code, ran.out.split(), ran.err) == (0, [answer], "")


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
def test_bash_completes_the_part_behind_the_equals_sign(runs, repo):
    shutil.copy(repo / "train.py", runs / "train.py")
    shutil.copytree(repo / "configs", runs / "configs")
    sent = runs / "outputs" / "$(touch evil)"  # a run that somebody sends
    sent.mkdir()
    (sent / "config.yaml").touch()
    (sent / "results.json").write_text('{"status": "running"}')
    script = f"""
        source {INSTALL}
        complete -p python3
        for word in resume= other.py; do
            COMP_LINE="{sys.executable} train.py $word"
            [[ $word == other.py ]] && COMP_LINE="{sys.executable} other.py "
            COMP_POINT=${{#COMP_LINE}} COMPREPLY=()
            _athanor_completion
            printf '<%s>\\n' "${{COMPREPLY[@]}}"
        done
    """
    done = subprocess.run(["bash", "-c", script], cwd=runs, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    first, *rest = done.stdout.splitlines()
    assert first.startswith("complete ") and first.endswith("-F _athanor_completion python3")
    assert not (runs / "evil").exists()
    assert rest == ["<last>", "<outputs/sweeps/2026-01-02/9>", "<outputs/2026-01-01/11-00-00_b>", "<>"]
