"""Kinds of mixing: other images, splits, settings, members, teachers and jobs. Each is refused, or said in a line."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from athanor.engine.runs import lineage
from athanor.engine.runs.run import Run, read_checkpoint
from athanor.engine.runs.sweep import Sweep
from athanor.tasks.classification import Classification

TINY = ["model=mlp", "model.widths=[8]", "trainer=cpu", "compute.threads=1", "logger=csv", "trainer.max_epochs=1"]
DIGITS = [*TINY, "data.limit=400"]
PHOTOS = [*TINY, "data=image_folder", "data.root=photos", "data.image_size=8", "data.mode=L", "data.batch_size=4"]
PHOTOS += ["data.val_fraction=0.25", "data_dir=cache"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, run_process):
    """s: seeds 0 and 1 on the digits; p: seeds 0 and 1 on photos/, a folder without test/."""
    folder = tmp_path_factory.mktemp("trained")
    draw(folder, seed=0)
    for words in [*DIGITS, "hydra.sweep.dir=s"], [*PHOTOS, "hydra.sweep.dir=p"]:
        ran = run_process(folder, "train.py", "-m", "seed=0,1", *words)
        assert ran.code == 0, ran.err
    return folder


@pytest.fixture
def here(trained, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path


def draw(folder, seed, number=20, share=1.0):
    """Pictures of two classes; `share` of them are drawn, and the others stay as they are."""
    random = np.random.default_rng(seed)
    for name in "cat", "dog":
        (folder / "photos" / name).mkdir(parents=True, exist_ok=True)
        for i in range(int(number * share)):
            pixels = random.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{i}.png")


def refused(ran, text):
    assert ran.code == 1 and text in ran.err, ran.err + ran.out
    lines = [line for line in ran.err.splitlines() if not line.startswith(("decoding images", "Error executing job"))]
    assert len(lines) <= 2 and "Traceback" not in ran.err


# evaluation


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("s/0_seed=0 --stage val data.split_seed=1", "s/0_seed=0/checkpoints/best.ckpt was trained on "),
        ("s/0_seed=0 --stage val data.limit=600", " validation images\n  use the split that it was trained with"),
        ("s/0_seed=0 --stage val data.folds=4", "s/0_seed=0/checkpoints/best.ckpt was trained on "),
        ("p/0_seed=0 data.split_seed=1", " test images\n  use the split that it was trained with"),
        ("p/0_seed=0 data.test_fraction=0.4", " test images\n  use the split that it was trained with"),
        (f"s/0_seed=0 data=image_folder {' '.join(PHOTOS[len(TINY) + 1 :])}", "this data has class_names"),
        ("s/0_seed=0 model.activation=tanh", "model.activation=tanh belongs to the weights"),
        ("s/0_seed=0 data.preprocess=zca", "data.preprocess=zca belongs to the weights"),
        ("s/0_seed=0 seed=3", "seed=3 belongs to the weights or to their training"),
    ],
)
def test_an_evaluation_of_what_was_trained_on_or_of_other_settings_is_refused(words, text, here, run_here):
    refused(run_here("scripts/evaluate.py", *words.split()), text)


def test_an_evaluation_on_other_images_says_what_differs(here, run_here):
    ran = run_here("scripts/evaluate.py", "s/0_seed=0", "data.limit=300")
    assert ran.code == 0, ran.err
    assert "not the data of the run: test 359 then, " in ran.out
    draw(here, seed=1, share=0.75)
    ran = run_here("scripts/evaluate.py", "p/0_seed=0")
    assert ran.code == 0, ran.err
    assert "not the data of the run: train_hash" in ran.out and "not the data of the run: test_hash" in ran.out
    ran = run_here("scripts/evaluate.py", "p/1_seed=1", "--stage", "val")
    assert "not the data of the run: train_hash" in ran.out


def test_an_evaluation_on_the_same_images_says_nothing(here, run_here):
    ran = run_here("scripts/evaluate.py", "p/0_seed=0", "data.eval_batch_size=7", "metrics=macro_f1")
    assert ran.code == 0 and "not the data" not in ran.out


def test_an_image_that_a_data_set_has_twice_is_a_fault_of_its_own(make_data):
    data = make_data()
    data.source.train_inputs[data.val_index[0]] = data.source.train_inputs[data.train_index[0]]
    trained = lineage.image_hashes(data.source.train_inputs, data.train_index)
    lineage.refuse_trained_images(trained, data, ["val"], "a")
    with pytest.raises(ValueError, match="a was trained on 1 of these 60 test images"):
        seen = lineage.image_hashes(data.source.test_inputs, data.test_index[:1])
        lineage.refuse_trained_images(seen, data, ["test"], "a")


def test_a_few_images_that_data_sets_share_are_said(make_data, source, caplog):
    many = dataclasses.replace(source, test_inputs=source.train_inputs, test_targets=source.train_targets)
    data = make_data(source=many, val_fraction=0.5)
    seen = lineage.image_hashes(many.train_inputs, data.val_index[:2])
    lineage.refuse_trained_images(seen, data, ["test"], "a")
    assert "a was trained on 2 of these 200 test images: too few to matter" in caplog.text


def test_the_hash_of_an_image_is_that_of_its_pixels_wherever_it_lies():
    images = torch.randint(0, 256, (5, 3, 40, 40), dtype=torch.uint8)  # of 4,800 bytes, of which some are left out
    hashes = lineage.image_hashes(images, torch.tensor([3, 0]))
    assert hashes.tolist() == lineage.image_hashes(images[[3, 0]].clone(), torch.arange(2)).tolist()
    assert len(lineage.image_hashes(images, torch.arange(5)).unique()) == 5


# ensembles


def test_members_whose_images_have_been_replaced_are_refused(here, run_here):
    draw(here, seed=1, share=0.75)
    refused(run_here("scripts/ensemble.py", "p"), "p/0_seed=0 was trained on other images than these")


def test_members_of_another_split_or_data_set_are_refused(here, run_here, train):
    assert train(*DIGITS, "data.split_seed=1", "hydra.run.dir=a").code == 0
    refused(run_here("scripts/ensemble.py", "s/0_seed=0", "a"), "of the 40 validation images of s/0_seed=0")
    assert train(*PHOTOS, "data.split_seed=1", "hydra.run.dir=b").code == 0
    refused(
        run_here("scripts/ensemble.py", "p/0_seed=0", "b"),
        "b was trained on other images than these: p/0_seed=0 has others",
    )
    refused(
        run_here("scripts/ensemble.py", "s/0_seed=0", "p/0_seed=0"), "members of an ensemble need the same class_names"
    )


def test_an_ensemble_knows_what_its_members_were_trained_on(here, run_here):
    assert run_here("scripts/ensemble.py", "s", "--output", "made").code == 0
    refused(run_here("scripts/evaluate.py", "made", "--stage", "val", "data.split_seed=1"), "best.ckpt was trained on ")
    assert run_here("scripts/evaluate.py", "made", "--stage", "val").code == 0


# weights


@pytest.mark.parametrize("words", ["data.split_seed=1", "data.limit=null", "data.folds=4"])
def test_weights_that_were_trained_on_what_would_validate_are_refused(words, here, train):
    ran = train(*DIGITS, "weights=s/0_seed=0", words, "hydra.run.dir=a")
    refused(ran, "s/0_seed=0/checkpoints/best.ckpt was trained on ")


def test_weights_of_other_images_are_taken_and_said_and_their_parents_count(here, train):
    ran = train(*PHOTOS, "weights=s/0_seed=0", "data.preprocess=symmetric", "hydra.run.dir=a")
    assert ran.code == 0, ran.err
    assert "its weights were trained on other images: 360 of digits: " in ran.out
    assert "data.preprocess was {'_target_': 'athanor.data.preprocess.Standardize'} for these weights" in ran.out
    ran = train(*DIGITS, "weights=a", "data.split_seed=1", "hydra.run.dir=b")
    refused(ran, "a/checkpoints/best.ckpt was trained on ")  # that is, the digits that s/0_seed=0 was trained on
    assert train(*DIGITS, "weights=a", "hydra.run.dir=c").code == 0
    assert Run("c").results["parent"]["parent"]["file"] == "s/0_seed=0/checkpoints/best.ckpt"


def test_a_head_that_is_kept_for_other_classes_is_said(here, train):
    for name, other in ("cat", "cow"), ("dog", "horse"):
        (here / "photos" / name).rename(here / "photos" / other)
    ran = train(*PHOTOS, "weights=p/0_seed=0", "hydra.run.dir=a")
    assert ran.code == 0, ran.err
    assert "the head was trained for other classes: cat, dog, and now cow, horse" in ran.out


def test_a_run_records_its_parent_and_goes_on_without_it(here, train):
    words = [*DIGITS, "weights=s/0_seed=0", "trainer.max_epochs=2", "eval.test=false"]
    assert train(*words, "hydra.run.dir=whole").code == 0
    assert train(*words, "trainer.max_epochs=1", "hydra.run.dir=parts").code == 0
    parent = Run("parts").results["parent"]
    source = Run("s/0_seed=0").results
    assert parent["file"] == "s/0_seed=0/checkpoints/best.ckpt" and len(parent["digest"]) == 16
    assert [parent["val/acc"], parent["test/acc"]] == [source["val"]["acc"], source["test"]["acc"]]
    shutil.rmtree("s")
    ran = train("resume=parts", "trainer.max_epochs=2")
    assert (ran.code, ran.err) == (0, "")
    assert_same("whole", "parts")
    assert Run("parts").results["parent"] == parent
    first, second = (
        read_checkpoint(Path(name) / "checkpoints" / "last.ckpt")["athanor"] for name in ("whole", "parts")
    )
    assert first["start"] == second["start"] and torch.equal(first["trained"], second["trained"])


def assert_same(whole, parts):
    a, b = (read_checkpoint(Path(name) / "checkpoints" / "last.ckpt")["state_dict"] for name in (whole, parts))
    assert all(torch.equal(value, b[key]) for key, value in a.items())
    for stage in "train", "val":
        assert Run(whole).results[stage] == Run(parts).results[stage]


@pytest.mark.parametrize("prefix", ["", "network."])
def test_weights_may_be_a_plain_state_dict(prefix, here, train):
    state = Run("s/0_seed=0").task().network.state_dict()
    torch.save({f"{prefix}{name}": value for name, value in state.items()}, "model.pt")
    ran = train(*DIGITS, "weights=model.pt", "optim.lr=0", "hydra.run.dir=a")
    assert ran.code == 0, ran.err
    assert "model.pt does not say which images it was trained on" in ran.out
    assert Run("a").results["parent"]["file"] == "model.pt"
    after = dict(Run("a").task().network.named_parameters())
    assert all(torch.equal(state[name], value) for name, value in after.items())


def test_a_file_that_is_no_state_dict_is_refused(here, train):
    torch.save({"epoch": 3}, "model.pt")
    refused(train(*DIGITS, "weights=model.pt"), "weights=model.pt: it must hold what torch.save(network.state_dict()")
    torch.save({"layer.weight": torch.ones(2)}, "model.pt")
    refused(train(*DIGITS, "weights=model.pt"), "weights=model.pt are of another network")


# runs that are resumed or repeated


def test_a_run_that_goes_on_or_is_repeated_on_other_images_says_so(here, train):
    draw(here, seed=1, share=0.75)
    ran = train("run=p/0_seed=0", "hydra.run.dir=a")
    assert "not as p/0_seed=0: data.train_hash" in ran.out
    ran = train("resume=p/0_seed=0", "trainer.max_epochs=2")
    assert ran.code == 0 and "not as before: data.train_hash" in ran.out


def test_a_run_whose_images_are_dealt_out_anew_does_not_go_on(here, train):
    for i in range(20, 30):
        for name in "cat", "dog":
            Image.new("L", (8, 8), i).save(f"photos/{name}/{i}.png")
    refused(train("resume=p/0_seed=0", "trainer.max_epochs=2"), "p/0_seed=0 was trained on ")


# sweeps


@pytest.mark.parametrize("word", ["seed=3,4", "seed=0,1,2", "optim.lr=0.05", "study=learning_rates", "model=cnn"])
def test_a_sweep_goes_on_with_its_own_settings(word, here, train):
    shutil.rmtree("s/1_seed=1")
    refused(train("resume=s", word), "resume=s goes on with the sweep's own settings")
    assert not Path("s/1_seed=1").exists()


def test_a_sweep_whose_settings_have_changed_in_a_file_does_not_go_on(here, train):
    shutil.rmtree("s/1_seed=1")
    recorded = json.loads(Path("s/sweep.json").read_text())
    for key, value in {"optim.lr": 0.1, "seed": "0,1,2"}.items():  # as if a file had said so when the sweep began
        changed = {**recorded, "settings": {**recorded["settings"], key: value}}
        Path("s/sweep.json").write_text(json.dumps(changed))
        refused(train("resume=s"), f"resume=s: {key} was {value} and is ")
    assert not Path("s/1_seed=1").exists()


def test_a_job_whose_record_is_of_other_settings_does_not_go_on(here, train):
    config = Path("s/0_seed=0/config.yaml")
    config.write_text(config.read_text().replace("widths:\n  - 8", "widths:\n  - 9"))
    refused(train("resume=s"), "job 0_seed=0 of resume=s: model.widths was [9] and is [8] now")


def test_a_sweep_that_goes_on_with_other_code_says_so(here, train):
    recorded = json.loads(Path("s/sweep.json").read_text())
    Path("s/sweep.json").write_text(json.dumps({**recorded, "git": {"commit": "0" * 40}}))
    ran = train("resume=s")
    assert ran.code == 0 and f"not as when s began: git.commit {'0' * 40} then, " in ran.out


def test_a_new_limit_of_the_training_is_one_of_all_jobs(here, train):
    shutil.rmtree("s/1_seed=1")
    assert train("resume=s", "trainer.max_epochs=2").code == 0
    assert [run.results["epochs"] for run in Sweep("s").runs] == [2, 2]
    ran = train("resume=s")  # which keeps the limit
    assert "s/0_seed=0 has finished already" in ran.out and "s/1_seed=1 has finished already" in ran.out
    assert [run.config["trainer"]["max_epochs"] for run in Sweep("s").runs] == [2, 2]


# students


class Killed(BaseException):
    """As SIGKILL: nothing catches it."""


def test_an_interrupted_student_goes_on_with_its_teacher_to_the_bit(here, run_here, train, monkeypatch):
    words = ["s", "--distill", "--temperature", "2", "--student", "trainer.max_epochs=3"]
    assert run_here("scripts/ensemble.py", *words, "--output", "whole").code == 0
    begin = Classification.on_train_batch_start

    def killed(self, *arguments):
        if self.global_step == 6:  # of 6, in the third epoch
            raise Killed
        begin(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Classification, "on_train_batch_start", killed)
        run_here("scripts/ensemble.py", *words, "--output", "parts")
    shutil.rmtree("s")  # nothing outside the student's folder is needed
    ran = train("resume=parts")
    assert (ran.code, ran.err) == (0, "")
    assert "resuming from" in ran.out
    assert_same("whole", "parts")
    results = Run("parts").results
    assert results["made"] == "student" and results["temperature"] == 2
    assert (
        list(results["teacher"]) == ["s/0_seed=0", "s/1_seed=1"] and results["digest"] == Run("whole").results["digest"]
    )


@pytest.fixture
def student(here, run_here):
    assert run_here("scripts/ensemble.py", "s", "--distill", "--output", "student").code == 0
    return Path("student")


def test_a_student_learns_from_its_own_teacher_or_not_at_all(student, here, train, run_here):
    assert train("resume=student", "trainer.max_epochs=2").code == 0
    expected = Run(student).results["train"]
    assert train("run=student", "hydra.run.dir=again").code == 0  # of one epoch, with the same teacher
    assert train("resume=again", "trainer.max_epochs=2").code == 0
    assert Run("again").results["train"] == expected
    refused(train("run=student", "data.split_seed=1"), "teacher for other images than this run trains on")
    contents = torch.load(student / "teacher.pt", weights_only=True)
    torch.save({**contents, "probabilities": contents["probabilities"].flip(1)}, student / "teacher.pt")
    refused(train("resume=student", "trainer.max_epochs=3"), "student/teacher.pt is not what this student began with")
    (student / "teacher.pt").unlink()
    refused(train("resume=student", "trainer.max_epochs=3"), "student/teacher.pt is gone")
    refused(train("run=student"), "student is a student, and its teacher.pt is gone")
    ran = train(*DIGITS, "weights=student", "hydra.run.dir=tuned")  # its weights may go on with labels
    assert ran.code == 0, ran.err
