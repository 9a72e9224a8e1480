"""The folders of a sweep's jobs."""

import random
import string

import pytest

from athanor.engine.runs.job_folder import job_folder, job_number
from athanor.engine.runs.sweep import Sweep

NAMES = {
    "0_lr=0.1_width=64": (["seed=3", "optim.lr=0.1", "model.width=64"], ["optim.lr", "model.width"]),
    "0": (["seed=3"], []),
    "0_optim.lr=1_head.lr=2": (["optim.lr=1", "head.lr=2"], ["optim.lr", "head.lr"]),
    "0_widths=256-32": (["model.widths=[256,32]"], ["model.widths"]),
    "0_model=mlp_preprocess=zca": (["model=mlp", "data/preprocess=zca"], ["model", "data/preprocess"]),
    "0_lr=0.01235_momentum=-1e-05": (["optim.lr=0.0123456789", "+x.momentum=-1e-05"], ["optim.lr", "x.momentum"]),
    "0_lr=1e05": (["optim.lr=1e+05"], ["optim.lr"]),
    "0_seed=4294967295": (["seed=4294967295"], ["seed"]),
    "0_weights=6-12_a_mlp-checkpoints-best.ckpt": (
        ["weights='outputs/2026/12_a_mlp/checkpoints/best.ckpt'"],
        ["weights"],
    ),
    "0_lr=2": (["optim.lr=1", "optim.lr=2"], ["optim.lr"]),
}


@pytest.mark.parametrize("name", NAMES)
def test_its_name_says_what_differs(name, tmp_path):
    words, varied = NAMES[name]
    assert job_folder(tmp_path, 0, words, varied) == name


def test_names_are_short_safe_everywhere_and_never_equal(tmp_path):
    """For anything that may be typed: NTFS, ext4, shells, TensorBoard and Hydra's words take them."""
    draw = random.Random(0)
    typed = string.printable + "äß数é𝒳\u202e"
    names = []
    for number in range(300):
        keys = ["".join(draw.choices(string.ascii_letters + "._/@:", k=draw.randrange(1, 30))) for _ in range(5)]
        words = [f"{key}={''.join(draw.choices(typed, k=draw.randrange(60)))}" for key in keys]
        name = job_folder(tmp_path, number, words, keys)
        assert len(name) <= 80 and len(name.encode()) <= 255 and not name.endswith((".", " "))
        assert all(letter.isalnum() or letter in "._=-" for letter in name), name
        assert job_number(tmp_path / name) == number
        names.append(name.lower())  # as file systems do that know no difference
    assert len(set(names)) == 300


@pytest.mark.parametrize("there", ["1", "1_lr=0.1_of_an_earlier_name"])
def test_a_job_that_is_there_keeps_its_folder(there, tmp_path):
    (tmp_path / there).mkdir()
    (tmp_path / "10_lr=0.2").mkdir()
    assert job_folder(tmp_path, 1, ["optim.lr=0.3"], ["optim.lr"]) == there


def test_a_folder_that_hydra_would_resolve_is_not_taken(tmp_path):
    (tmp_path / "0_${oc.env:HOME}").mkdir()
    assert job_folder(tmp_path, 0, ["optim.lr=0.1"], ["optim.lr"]) == "0_lr=0.1"


def test_jobs_are_in_the_order_of_their_numbers_however_they_are_named(tmp_path):
    for name in "10_lr=0.1", "2", "1_a", "notes", "0_z":
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text("{}")
    assert [run.dir.name for run in Sweep(tmp_path).runs] == ["notes", "0_z", "1_a", "2", "10_lr=0.1"]


WORDS = ["model=linear", "data.limit=200", "trainer.max_epochs=1", "compute.threads=1", "logger=csv", "eval.test=false"]


def test_a_sweep_is_resumed_in_its_folders_and_its_jobs_are_named_by_their_paths(train, run_here, tmp_path):
    ran = train("-m", *WORDS, "model=linear,mlp", "data.preprocess=standardize", "optim.lr=0.1", "hydra.sweep.dir=s")
    assert (ran.code, ran.err) == (0, "")
    assert sorted(path.name for path in tmp_path.glob("s/*/")) == ["0_model=linear", "1_model=mlp"]
    before = (tmp_path / "s" / "1_model=mlp" / "results.json").read_text()
    (tmp_path / "s" / "0_model=linear").rename(tmp_path / "s" / "0")  # as it was named before
    (tmp_path / "s" / "0" / "results.json").unlink()
    ran = train("resume=s")
    assert ran.code == 0 and "s/1_model=mlp has finished already" in ran.out
    assert sorted(path.name for path in tmp_path.glob("s/*/")) == ["0", "1_model=mlp"]
    assert (tmp_path / "s" / "1_model=mlp" / "results.json").read_text() == before
    assert run_here("scripts/evaluate.py", "s/1_model=mlp", "--stage", "val").code == 0
    words = [*WORDS, "model=mlp", "weights=s/1_model=mlp,s/1_model=mlp/checkpoints/last.ckpt", "hydra.sweep.dir=w"]
    ran = train("-m", *words)
    assert (ran.code, ran.err) == (0, "")
    assert len(Sweep("w").runs) == 2
