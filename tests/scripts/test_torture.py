"""scripts/torture.py: its list of the places between two operations on files, and that it kills there."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

WORK = """
import os
from pathlib import Path
from athanor.base.files import hard_link, write_atomically

run = Path("run")
run.mkdir()
for number in range(2):
    write_atomically(run / "results.json", str(number))
hard_link(run / "results.json", run / "epoch_001.ckpt")
(run / "epoch_001.ckpt").unlink()
(run / "results.json").read_text()
Path("elsewhere").touch()
"""


@pytest.fixture
def worked(repo, tmp_path):
    """What a process that does the above and is killed at a place leaves in its folder, and the places it came to."""

    def worked(**kill):
        trace = tmp_path / "trace"
        trace.unlink(missing_ok=True)
        for path in (tmp_path / "run").glob("*"):
            path.unlink()
        (tmp_path / "run").rmdir() if (tmp_path / "run").is_dir() else None
        plan = {"folder": str(tmp_path / "run"), "trace": str(trace), "kill": kill or None}
        paths = os.pathsep.join([str(repo / "scripts"), str(repo / "src")])
        environment = {**os.environ, "ATHANOR_TORTURE": json.dumps(plan), "PYTHONPATH": paths}
        words = [sys.executable, "-c", "from kills import hook\n" + WORK]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == (-signal.SIGKILL if kill else 0), done.stderr
        files = {path.name: path.read_text() for path in sorted((tmp_path / "run").glob("*"))}
        return files, [json.loads(line) for line in trace.read_text().splitlines()]

    return worked


def test_each_operation_on_the_files_of_a_run_is_a_place_and_the_run_is_killed_there(worked):
    files, places = worked()
    assert files == {"results.json": "1"}
    operations = [place.partition(": ")[0] for place, _ in places]
    written = ["open .results.json.part", "os.rename results.json"]
    linked = ["os.link .epoch_#.ckpt.part", "os.rename epoch_#.ckpt", "os.remove epoch_#.ckpt"]
    assert [name for name in operations if "remove ." not in name] == ["os.mkdir .", *written, *written, *linked]
    place = next(place for place, _ in places if place.startswith("os.rename results.json"))
    assert "src/athanor/base/files.py:" in place
    assert worked(place=place, nth=1, opened=False)[0] == {".results.json.part": "0"}
    assert worked(place=place, nth=2, opened=False)[0] == {".results.json.part": "1", "results.json": "0"}
    opened = next(place for place, may_be_new in places if may_be_new)
    assert worked(place=opened, nth=2, opened=False)[0] == {"results.json": "0"}
    assert worked(place=opened, nth=2, opened=True)[0] == {".results.json.part": "", "results.json": "0"}


PLANTED = """
from athanor.models.mlp import MLP

class Planted(MLP):
    calls = 0  # which no checkpoint holds

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * (1 + 1e-3 * self.calls)
"""
TORTURE = """
import sys
import torture

def saving(kills):
    return [kill for kill in kills if torture.SAVING in kill["place"] and kill["nth"] > 1][:1]

if __name__ == "__main__":
    torture.RUNS = {"planted": torture.MLP + " model._target_=planted.Planted " + torture.OFTEN}
    every, torture.kills_at = torture.kills_at, lambda places: saving(every(places))
    sys.argv[1:] = ["--kills", "0", "--torn", "0", "--places", "new"]
    torture.main()
"""


@pytest.mark.slow
def test_where_a_resumed_run_differs_the_first_operation_is_named(repo, tmp_path):
    (tmp_path / "planted.py").write_text(PLANTED)
    (tmp_path / "run_torture.py").write_text(TORTURE)
    paths = os.pathsep.join([str(tmp_path), str(repo / "scripts"), str(repo / "src")])
    command = [sys.executable, "run_torture.py"]
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"differs first in step \d+, aten::mul", done.stdout), done.stdout


@pytest.mark.slow
def test_runs_that_are_killed_end_as_one_that_is_not(run_process, tmp_path):
    ran = run_process(tmp_path, "scripts/torture.py", "--kills", 2, "--torn", 1, "--only", "ensemble, top")
    assert ran.code == 0, ran.out + ran.err
    [row] = [line.split() for line in ran.out.splitlines() if line.startswith("ensemble")]
    places, kills, torn, identical, _ = row[3:]
    assert (places, kills, torn) == ("0", "2", "1")
    assert len(set(identical.split("/"))) == 1
    assert not list(Path(tmp_path).iterdir())
