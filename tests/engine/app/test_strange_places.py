"""Places and people that a developer's machine has not: odd folders, another locale, no home, another user."""

import csv
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from athanor.engine.runs.run import Run
from athanor.training.checkpoint_files import write_checkpoint

STRANGE = "o'ne, café  x\u00e9 猫 $x %d"  # spaces, an apostrophe, a comma, accents, signs
SMALL = shlex.split(
    "trainer=cpu compute.threads=1 model=mlp model.widths=[8] logger=[csv,tensorboard] "
    "trainer.max_epochs=1 data.batch_size=8"
)
NAMES = ("crane, bird", "=1+1", "new\nline", "esc\x1b[31m", b"latin\xe9".decode(errors="surrogateescape"), "köt 猫")
NOBODY = 65534


@pytest.fixture
def place():
    """A folder of an odd name, in which another user may write: pytest's own may be entered by one user alone."""
    with tempfile.TemporaryDirectory() as outside:
        Path(outside).chmod(0o711)
        folder = Path(outside).resolve() / STRANGE
        folder.mkdir()
        folder.chmod(0o777)
        yield folder


@pytest.fixture
def pictures(place):
    """A folder of ten small images in each of two classes, in the odd folder."""
    for name in "its cat", "dog's":
        for i in range(10):
            file = place / "my photos" / name / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 10 * i + 100 * (name == "dog's")).save(file)
    return place / "my photos"


def journey(command, place, pictures, again=()):
    """The main job, resumed with an epoch more; a sweep, resumed without its last job; evaluate and predict.

    again: words that have to be typed again, where no home keeps a list of what was started here.
    """
    words = [*SMALL, f"data.root={quoted(pictures)}", f"data_dir={quoted(place / 'data dir')}", "data=image_folder"]
    words += ["data.image_size=8"]

    def succeed(script, *arguments):
        code, out, err = command(script, *arguments)
        assert code == 0, err
        assert "Traceback" not in err and "warning" not in out
        return out

    succeed("train.py", *words)
    (run,) = (path.parent for path in place.glob("outputs/2*/*/config.yaml"))
    assert "epoch   2/2" in succeed("train.py", f"resume={run}", "trainer.max_epochs=2")
    assert "2 jobs" in succeed("train.py", *words, "-m", "seed=0,1")
    (sweep,) = place.glob("outputs/sweeps/*/*")
    shutil.rmtree(sweep / "1_seed=1")
    assert "2 jobs" in succeed("train.py", f"resume={sweep}", *again)
    assert sorted(path.name for path in place.glob("outputs/sweeps/*/*/*/config.yaml")) == ["config.yaml"] * 2
    assert "recorded" in succeed("scripts/evaluate.py", run)
    out = succeed("scripts/predict.py", run, pictures / "dog's" / "3.png", "--csv", place / "p.csv")
    assert out.startswith(str(pictures / "dog's" / "3.png"))
    assert Run(run).results["epochs"] == 2 and {path.name for path in place.iterdir()} == {
        "my photos",
        "data dir",
        "outputs",
        "p.csv",
    }


def test_class_names_of_all_kinds_reach_the_screen_and_the_tables_as_text(run_here, tmp_path):
    for name in NAMES:
        for i in range(10):
            file = os.path.join(tmp_path, "odd", name, f"{i}.png")
            try:
                os.makedirs(os.path.dirname(file), exist_ok=True)
            except (OSError, UnicodeError):
                pytest.skip("this file system does not take such names")
            Image.new("L", (8, 8), 20 * i + len(name)).save(file)
    words = ["data=image_folder", "data.root=odd", "data.image_size=8", "data_dir=d", "hydra.run.dir=run"]
    ran = run_here("train.py", *SMALL, *words, "metrics=[per_class]")
    assert ran.code == 0, ran.err
    shown = sorted(["crane, bird", "=1+1", "new\\nline", "esc\\x1b[31m", "latin\\udce9", "köt 猫"])
    assert "\x1b" not in ran.out and all(f"class_acc/{name}" in ran.out for name in shown)
    ran = run_here("train.py", "resume=run", "trainer.max_epochs=2")
    assert ran.code == 0, ran.err
    with open("run/metrics.csv", newline="") as file:
        metrics = [row["metric"] for row in csv.DictReader(file)]
    assert metrics.count("val/class_acc/crane, bird") == metrics.count("val/class_acc/new\\nline") == 2
    ran = run_here("scripts/predict.py", "run", f"odd/{NAMES[3]}/0.png", "--csv", "p.csv")
    assert ran.code == 0 and "\x1b" not in ran.out
    with open("p.csv", newline="", encoding="utf-8") as file:
        heads, row = csv.reader(file)
    assert heads == ["file", "class", "'=1+1", *shown[1:]] and row[0] == "odd/esc\\x1b[31m/0.png"


def test_a_checkpoint_with_control_characters_in_its_class_names_is_refused(run_here, tmp_path):
    assert run_here("train.py", *SMALL, "hydra.run.dir=run").code == 0
    path = tmp_path / "run" / "checkpoints" / "best.ckpt"
    contents = torch.load(path, weights_only=True)
    contents["athanor"]["class_names"][3] = "\x1b]0;title\x07"
    write_checkpoint(contents, path)
    ran = run_here("scripts/evaluate.py", "run")
    assert ran.code == 1 and "its class_names have control characters" in ran.err and "\x1b" not in ran.err


def test_the_last_run_is_none_of_another_tool_and_none_with_damaged_results(run_here, tmp_path, caplog):
    assert run_here("train.py", *SMALL, "+trainer.limit_test_batches=1", "hydra.run.dir=outputs/d/run").code == 0
    results = Path("outputs/d/run/results.json")
    results.write_text(results.read_text().replace('"finished"', '"interrupted"'))
    os.utime("outputs/d/run/config.yaml", (1, 1))  # all others are newer
    foreign = Path("outputs/d/run/wandb/latest/files/config.yaml")
    foreign.parent.mkdir(parents=True)
    foreign.write_text("_wandb: {value: 1}\n")
    torn = Path("outputs/d/torn")
    torn.mkdir()
    (torn / "config.yaml").write_text("seed: 0\n")
    (torn / "results.json").write_text('{"status": "run')
    shutil.copytree("outputs/d/run", tmp_path / "elsewhere")
    Path("outputs/linked").symlink_to(tmp_path / "elsewhere")
    Path("outputs/circle").symlink_to(".")
    assert Run.find_unfinished().dir == Path("outputs/d/run")
    assert "resume=last passes over a run: outputs/d/torn/results.json is torn" in caplog.text
    ran = run_here("train.py", "resume=last", "trainer.max_epochs=2")
    assert ran.code == 0 and "epoch   2/2" in ran.out, ran.err


def test_names_in_all_scripts_name_folders(run_here, tmp_path):
    for name, folder in ("猫", "猫"), ("é/ü ö", "é-ü-ö"), ("/", "-"):
        ran = run_here("train.py", *SMALL, f"name={name}", "eval.test=false")
        assert ran.code == 0, ran.err
        assert len(list(tmp_path.glob(f"outputs/*/*_{folder}/config.yaml"))) == 1


def test_names_that_are_not_utf_8_are_refused_before_anything_is_made(run_here, tmp_path, monkeypatch):
    ran = run_here("train.py", *SMALL, "data=image_folder", f"data.root=/tmp/{NAMES[4]}")
    assert ran.code == 1 and "data.root=/tmp/latin\\udce9: this name is not in UTF-8" in ran.err
    try:
        (tmp_path / NAMES[4]).mkdir()
    except (OSError, UnicodeError):
        pytest.skip("this file system does not take such names")
    monkeypatch.chdir(tmp_path / NAMES[4])
    ran = run_here("train.py", *SMALL)
    assert ran.code == 1 and "latin\\udce9: this name is not in UTF-8" in ran.err
    assert [path.name for path in tmp_path.rglob("*")] == [NAMES[4]]


def test_a_run_that_cannot_be_written_is_named(run_here, tmp_path):
    assert run_here("train.py", *SMALL, "hydra.run.dir=run").code == 0
    Path("run/train.log").unlink()
    Path("run/train.log").mkdir()  # root may write into any file, but into no folder
    ran = run_here("train.py", "resume=run", "trainer.max_epochs=2")
    assert ran.code == 1 and "Unable to configure" not in ran.err
    assert "Is a directory" in ran.err and "run/train.log" in ran.err


def test_an_error_shows_no_control_characters(run_here, tmp_path):
    (tmp_path / "p" / "a\x1b[31m").mkdir(parents=True)
    ran = run_here("train.py", *SMALL, "data=image_folder", "data.root=p", "data.image_size=8", "data_dir=d")
    assert ran.code == 1 and "only one class folder, a\\x1b[31m/" in ran.err and "\x1b" not in ran.err


def quoted(path):
    """As a person would type it: a value of Hydra's grammar."""
    return "'" + str(path).replace("'", "\\'").replace("${", "\\${") + "'"


def in_process(place, *prefix, **environment):
    def command(script, *arguments):
        repo = Path(__file__).resolve().parents[3]
        words = [*prefix, sys.executable, repo / script, *arguments]
        ran = subprocess.run(
            list(map(str, words)),
            cwd=place,
            env={name: value for name, value in {**os.environ, **environment}.items() if value is not None},
            capture_output=True,
            timeout=300,
        )
        return ran.returncode, ran.stdout.decode(), ran.stderr.decode(errors="replace")

    return command


def test_everything_works_in_a_folder_of_an_odd_name(run_here, place, pictures, monkeypatch):
    monkeypatch.chdir(place)

    def command(script, *arguments):
        ran = run_here(script, *arguments)
        return ran.code, ran.out, ran.err

    journey(command, place, pictures)


@pytest.mark.slow  # six processes
def test_everything_works_in_the_c_locale(place, pictures):
    journey(in_process(place, LC_ALL="C", LANG="C", PYTHONUTF8=None), place, pictures)


@pytest.fixture
def as_another_user(place):
    """Words before a command that run it as the user `nobody`; skips where there is none or Python is not for it."""
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can be another user, by setpriv")
    words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    probe = "import sys, athanor.engine.app.job, lightning, matplotlib; open(sys.argv[1], 'x').close()"
    ran = subprocess.run(
        [*words, sys.executable, "-c", probe, str(place / "probe")],
        cwd="/",
        env={name: value for name, value in os.environ.items() if name != "HOME"},
        capture_output=True,
        text=True,
    )
    if ran.returncode:
        pytest.skip(f"another user cannot run {sys.executable}: {ran.stderr.strip().splitlines()[-1]}")
    (place / "probe").unlink()
    return words


@pytest.mark.slow  # six processes
def test_everything_works_for_another_user_without_a_home(place, pictures, as_another_user):
    command = in_process(place, *as_another_user, HOME=None, USER=None, LOGNAME=None)
    journey(command, place, pictures, again=["logger=[csv,tensorboard]", f"data.root={quoted(pictures)}"])
    (results,) = place.glob("outputs/2*/*/results.json")
    assert results.stat().st_uid == NOBODY
