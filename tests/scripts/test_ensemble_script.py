"""scripts/ensemble.py on small runs: what it writes is used like a run, and what makes no sense is refused."""

import json
import shutil
import sys

import lightning.pytorch as L
import pytest
import torch
import yaml

from athanor.craft.ensembles import predictions
from athanor.engine.config import assemble
from athanor.engine.runs import run
from athanor.engine.runs.ensembles import session
from athanor.engine.runs.run import Run, read_checkpoint
from athanor.training.checkpoint_files import checkpoint_digest

SMALL = ["model=cnn", "model.widths=[6]", "model.fc_widths=[]", "model.norm=batch", "data.limit=500", "logger=csv"]
SMALL += ["trainer.max_epochs=2", "data.val_fraction=0.3", "trainer=cpu", "callbacks.checkpoints.top_k=2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, run_process):
    """s: seeds 0, 1, 2, without the test set; f: fine-tuned from s/0_seed=0 with seeds 3, 4, 5."""
    folder = tmp_path_factory.mktemp("trained")
    for words in (
        ["seed=0,1,2", "eval.test=false", "hydra.sweep.dir=s"],
        ["seed=3,4,5", "weights=s/0_seed=0", "hydra.sweep.dir=f"],
    ):
        ran = run_process(folder, "train.py", "-m", *SMALL, *words)
        assert ran.code == 0, ran.err
    return folder


@pytest.fixture
def here(trained, tmp_path):
    for name in "s", "f":
        shutil.copytree(trained / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def ensemble(here, run_here):
    """The script, and its results: {} where it wrote nothing."""

    def ensemble(*words):
        ran = run_here("scripts/ensemble.py", *words, "--output", "made")
        return ran, json.loads((here / "made" / "results.json").read_text()) if (here / "made").is_dir() else {}

    return ensemble


def evaluated(ran):
    assert ran.code == 0, ran.err
    rows = [line.split("  ") for line in ran.out.splitlines() if line.startswith(("test/", "val/"))]
    return {name.partition("/")[2]: float(value) for name, value, *_ in rows}


def refused(ensemble, *words, text):
    ran, results = ensemble(*words)
    assert (ran.code, results) == (1, {})
    assert text in ran.err
    assert len([line for line in ran.err.splitlines() if line.startswith(("error: ", "  "))]) <= 2
    assert "Traceback" not in ran.err


# what is made


def test_an_ensemble_is_at_least_as_good_as_its_mean_member_and_is_used_like_a_run(ensemble, here, run_here):
    ran, results = ensemble("f")
    assert (ran.code, ran.err) == (0, "")
    assert results["status"] == "finished" and [row["weight"] for row in results["members"]] == pytest.approx(
        [1 / 3] * 3
    )
    for stage in "val", "test":
        assert results[stage]["loss"] <= results["mean_member"][stage]["loss"]
        got = evaluated(run_here("scripts/evaluate.py", "made", "--stage", stage))
        assert got["acc"] == pytest.approx(results[stage]["acc"], abs=1e-6)
        assert got["loss"] == pytest.approx(results[stage]["loss"], rel=1e-5)
    for row in results["members"]:  # its own run says the same of it
        recorded = Run(row["name"]).results
        for stage in "val", "test":
            assert row[stage]["acc"] == pytest.approx(recorded[stage]["acc"], abs=1e-6)
            assert row[stage]["loss"] == pytest.approx(recorded[stage]["loss"], rel=1e-4)
    assert ran.out.index("validation, ") < ran.out.index("test, ")


def test_an_ensemble_takes_raw_pixels_and_gives_log_probabilities(ensemble, here):
    assert ensemble("s/0_seed=0", "s/1_seed=1", "--combine", "logits", "--stage", "val")[0].code == 0
    images = torch.randint(0, 256, (7, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    with torch.inference_mode():
        got = Run("made").classifier()(images)
        one, two = (Run(name).classifier()(images).log_softmax(1) for name in ("s/0_seed=0", "s/1_seed=1"))
    torch.testing.assert_close(got, ((one + two) / 2).log_softmax(1))
    assert (images == before).all()


@pytest.mark.parametrize("form", ["torch", pytest.param("onnx", marks=pytest.mark.slow)])
def test_an_ensemble_over_views_is_exported(form, ensemble, run_here):
    if form == "onnx":
        pytest.importorskip("onnxscript")
    assert ensemble("s/0_seed=0", "s/1_seed=1", "--tta", "flip_shift", "--stage", "val")[1]["forward_passes"] == 12
    ran = run_here("scripts/export.py", "made", "--format", form)
    assert (ran.code, ran.err) == (0, "")
    assert "256 random" not in ran.out


def test_an_ensemble_classifies_image_files(ensemble, here, run_here):
    from PIL import Image

    assert ensemble("s", "--stage", "val")[0].code == 0
    Image.new("L", (8, 8)).save("a.png")
    ran = run_here("scripts/predict.py", "made", "a.png", "--csv", "p.csv")
    assert ran.code == 0
    share = [float(value) for value in (here / "p.csv").read_text().splitlines()[1].split(",")[2:]]
    assert sum(share) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("how", ["vote", "logits"])
def test_greedy_members_without_weight_are_left_out_of_the_file(how, ensemble):
    _, results = ensemble("s", "--select", "greedy", "--combine", how, "--stage", "val")
    inside = [row["weight"] for row in results["members"] if row["weight"]]
    record = run.read_checkpoint(Run("made").checkpoint)["athanor"]
    assert record["weights"] == inside and len(record["members"]) == len(inside) == results["forward_passes"]
    assert sum(inside) == pytest.approx(1)


def test_top_takes_the_best_on_validation(ensemble):
    _, results = ensemble("s", "--select", "top", "--k", "2", "--stage", "val")
    rows = sorted(results["members"], key=lambda row: row["val"]["loss"])
    assert [row["weight"] for row in rows] == [0.5, 0.5, 0]
    assert results["best_member"] == rows[0]["name"]


def test_an_ensemble_may_be_a_member(ensemble, here, run_here):
    assert ensemble("s/0_seed=0", "s/1_seed=1", "--stage", "val")[0].code == 0
    (here / "made").rename(here / "pair")
    _, results = ensemble("pair", "s/2_seed=2", "--stage", "test")
    got = evaluated(run_here("scripts/evaluate.py", "made"))
    assert got["acc"] == pytest.approx(results["test"]["acc"], abs=1e-6)


def test_all_checkpoints_of_a_run_are_members_and_one_file_counts_once(ensemble, caplog):
    _, results = ensemble("s/0_seed=0", "s/0_seed=0/checkpoints/best.ckpt", "--checkpoints", "--stage", "val")
    assert [row["name"] for row in results["members"]] == [f"s/0_seed=0/checkpoints/epoch_00{n}.ckpt" for n in (1, 2)]
    assert (
        "s/0_seed=0/checkpoints/best.ckpt is the same checkpoint as s/0_seed=0/checkpoints/epoch_002.ckpt"
        in caplog.text
    )


# the test set


def test_the_test_set_stays_unread_where_a_run_has_test_false_or_one_says_val(ensemble, here, monkeypatch, caplog):
    read = []
    monkeypatch.setattr(session, "stacked_logits", spy(session.stacked_logits, read))
    _, results = ensemble("s/0_seed=0", "f/0_seed=3")
    assert "s/0_seed=0 has eval.test=false; type --stage test" in caplog.text
    assert "test" not in results and "test_hash" not in results["data"]
    shutil.rmtree(here / "made")
    _, results = ensemble("f", "--stage", "val")
    assert "test" not in results and read == ["val", "val"]
    shutil.rmtree(here / "made")
    _, results = ensemble("s/0_seed=0", "f/0_seed=3", "--stage", "test")
    assert "test" in results


def spy(function, read):
    def called(members, data, stage, *more):
        read.append(stage)
        return function(members, data, stage, *more)

    return called


def test_only_what_was_chosen_on_validation_sees_the_test_set(ensemble):
    _, results = ensemble("f", "--select", "top", "--k", "2")
    assert ["test" in row for row in results["members"]] == [row["weight"] > 0 for row in results["members"]]


def test_members_without_validation_images_are_tested_but_not_chosen_from(ensemble, train):
    for seed in 0, 1:
        words = "trainer.max_epochs=1", "data.val_fraction=0", f"seed={seed}", f"hydra.run.dir=a{seed}"
        assert train(*SMALL, *words, "callbacks.early_stopping=null").code == 0
    refused(ensemble, "a0", "a1", "--select", "greedy", text="--select greedy needs validation images")
    refused(ensemble, "a0", "a1", "--stage", "val", text="these members have no validation images")
    ran, results = ensemble("a0", "a1")
    assert ran.code == 0, ran.err
    assert "val" not in results and results["test"]["loss"] <= results["mean_member"]["test"]["loss"]


# kept predictions


def test_predictions_are_computed_once_and_a_torn_file_again(ensemble, here, monkeypatch):
    _, first = ensemble("s", "--stage", "val")
    shutil.rmtree(here / "made")
    torn = next((here / "s" / "0_seed=0" / "predictions").iterdir())
    torn.write_bytes(torn.read_bytes()[:-9])
    flipped = next((here / "s" / "1_seed=1" / "predictions").iterdir())
    flipped.write_bytes(bytes([flipped.read_bytes()[0] ^ 1]) + flipped.read_bytes()[1:])
    computed, keep = [], predictions.keep_logits
    monkeypatch.setattr(predictions, "keep_logits", lambda *words: computed.append(1) or keep(*words))
    _, second = ensemble("s", "--stage", "val")
    assert len(computed) == 2
    assert second["members"] == first["members"] and second["val"] == first["val"]


def test_predictions_of_a_checkpoint_that_was_replaced_are_not_used(here):
    before = {path: checkpoint_digest(path) for path in (here / "s").glob("*/checkpoints/best.ckpt")}
    assert len(set(before.values())) == 3
    target = here / "s" / "0_seed=0" / "checkpoints" / "best.ckpt"
    shutil.copy(here / "s" / "1_seed=1" / "checkpoints" / "best.ckpt", target)
    assert checkpoint_digest(target) == before[here / "s" / "1_seed=1" / "checkpoints" / "best.ckpt"]


def test_kept_predictions_of_code_that_has_changed_are_refused(ensemble, here, monkeypatch):
    from athanor.models.cnn import CNN

    assert ensemble("s", "--stage", "val")[0].code == 0
    shutil.rmtree(here / "made")
    forward = CNN.forward
    monkeypatch.setattr(CNN, "forward", lambda self, images: forward(self, images) * 1.5)
    refused(ensemble, "s", "--stage", "val", text="its code has changed\n  delete that folder")


# soups


def test_a_soup_is_an_ordinary_classifier_no_worse_than_its_best_member(ensemble, run_here):
    ran, results = ensemble("f", "--soup", "greedy")
    assert ran.code == 0, ran.err
    assert results["forward_passes"] == 1
    assert results["val"]["loss"] <= min(row["val"]["loss"] for row in results["members"])
    contents = run.read_checkpoint(Run("made").checkpoint)
    own = run.read_checkpoint(Run("f/0_seed=3").checkpoint)
    assert contents["state_dict"].keys() == own["state_dict"].keys()
    assert "members" not in contents["athanor"] and contents["athanor"]["start"] == own["athanor"]["start"]
    for stage in "val", "test":
        got = evaluated(run_here("scripts/evaluate.py", "made", "--stage", stage))
        assert got["acc"] == pytest.approx(results[stage]["acc"], abs=1e-6)
        assert got["loss"] == pytest.approx(results[stage]["loss"], rel=1e-5)


def test_members_of_one_run_share_their_start_and_seeds_do_not(here):
    def start(path):
        return run.read_checkpoint(here / path)["athanor"]["start"]

    assert (
        start("s/0_seed=0/checkpoints/epoch_001.ckpt")
        == start("s/0_seed=0/checkpoints/last.ckpt")
        != start("s/1_seed=1/checkpoints/last.ckpt")
    )
    assert (
        start("f/0_seed=3/checkpoints/last.ckpt")
        == start("f/1_seed=4/checkpoints/last.ckpt")
        != start("s/0_seed=0/checkpoints/last.ckpt")
    )


def test_a_resumed_run_records_the_same_start(here, run_here):
    before = run.read_checkpoint(here / "f/0_seed=3/checkpoints/last.ckpt")["athanor"]["start"]
    ran = run_here("train.py", "resume=f/0_seed=3", "trainer.max_epochs=3")
    assert ran.code == 0, ran.err
    assert run.read_checkpoint(here / "f/0_seed=3/checkpoints/last.ckpt")["athanor"]["start"] == before


def test_a_soup_of_other_starts_is_refused(ensemble):
    refused(ensemble, "s", "--soup", "uniform", text="started from other weights")


def test_a_soup_that_is_worse_than_its_best_member_is_refused(ensemble, here):
    for name in "f/1_seed=4", "f/2_seed=5":
        change(here / name, lambda contents: negate(contents["state_dict"]))
    refused(ensemble, "f", "--soup", "uniform", text="the uniform soup has a validation loss of ")
    refused(ensemble, "f", "--soup", "greedy", text="is no better with any other member")


def negate(state):
    """Another network, whose mean with the first is far from both."""
    for name, value in state.items():
        if name.startswith("network.") and value.is_floating_point():
            state[name] = -2 * value


@pytest.mark.parametrize("word", [["--combine", "vote"], ["--select", "top"], ["--k", "2"], ["--tta", "flip"]])
def test_a_soup_takes_no_setting_of_ensembles(word, ensemble):
    refused(ensemble, "f", "--soup", "uniform", *word, text=f"{word[0]} is of ensembles")


# what is refused


def change(run, edit):
    for path in (run / "checkpoints").glob("*.ckpt"):
        contents = torch.load(path, weights_only=True)
        edit(contents)
        path.unlink()
        torch.save(contents, path)


def test_members_of_other_folds_are_refused(ensemble, here, train):
    for fold in 0, 1:
        ran = train(*SMALL, "data.folds=3", f"data.fold={fold}", "trainer.max_epochs=1", f"hydra.run.dir=fold{fold}")
        assert ran.code == 0, ran.err
    refused(ensemble, "fold0", "fold1", text="fold1 was trained on 167 of the 167 validation images of fold0")


@pytest.fixture(scope="module")
def folds(tmp_path_factory, run_process):
    """A cross-validation of three folds, which has not read the test set."""
    folder = tmp_path_factory.mktemp("folds")
    words = ["data.folds=3", "data.fold=0,1,2", "eval.test=false", "hydra.sweep.dir=cv"]
    ran = run_process(folder, "train.py", "-m", *SMALL, *words)
    assert ran.code == 0, ran.err
    return folder / "cv"


@pytest.mark.slow
def test_the_folds_of_a_cross_validation_teach_what_each_says_of_images_that_it_has_not_seen(
    folds, ensemble, monkeypatch
):
    targets, fit = [], L.Trainer.fit
    monkeypatch.setattr(
        L.Trainer, "fit", lambda *words, **more: targets.append(words[2].soft_targets) or fit(*words, **more)
    )
    ran, results = ensemble(folds, "--distill", "--temperature", "4", "--student", "model=mlp", "model.widths=[16]")
    assert ran.code == 0, ran.err
    assert "each training image was predicted by the members that were not trained on it" in ran.out
    assert (results["temperature"], results["out_of_fold"]) == (4.0, True)
    assert "val" in results and "test" not in results
    config = Run("made").trusted_config
    assert config["model"]["_target_"].endswith("MLP") and config["model"]["widths"] == [16]
    assert Run("made").classifier().network.head.in_features == 16
    first = assemble.data(Run(folds / "0_fold=0").trusted_config)
    assert not targets[0][first.val_index].any()
    for fold in "12":  # what the first one trains on is what the others were validated on
        taught = Run(folds / f"{fold}_fold={fold}")
        index = assemble.data(taught.trusted_config).val_index
        with torch.no_grad():
            expected = (taught.classifier()(first.source.train_inputs[index]) / 4).softmax(1)
        torch.testing.assert_close(targets[0][index], expected, rtol=0, atol=1e-5)


def test_a_teacher_of_images_that_it_was_trained_on_says_so(ensemble):
    ran, results = ensemble("s", "--distill", "--student", "trainer.max_epochs=1")
    assert ran.code == 0, ran.err
    assert "the members were trained on the images that they predicted for it" in ran.out
    assert (results["temperature"], results["out_of_fold"]) == (1.0, False)
    assert Run("made").results["seed"] == 0 and read_checkpoint(Run("made").checkpoint)["epoch"] == 0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--temperature 2", "--temperature is of a student; add --distill"),
        ("--student model=mlp", "--student is of a student; add --distill"),
        ("--distill --temperature 0", "--temperature 0: use a number above 0"),
        (
            "--distill --student loss=hinge",
            "--student loss=hinge: a student has a loss, a logger and first weights of its own",
        ),
        ("--distill --student data.split_seed=7", "--student cannot choose other images than the teacher had"),
        ("--distill --student model=mpl", "model=mpl does not exist; did you mean mlp?"),
    ],
)
def test_a_student_that_makes_no_sense_is_refused(words, text, ensemble):
    refused(ensemble, "s", *words.split(), text=text)


def test_another_split_is_taken_if_none_of_the_validation_images_was_trained_on(ensemble, train):
    """The tenth that a holds out is part of the three tenths that s/0_seed=0 holds out."""
    assert train(*SMALL, "trainer.max_epochs=1", "data.val_fraction=0.1", "hydra.run.dir=a").code == 0
    refused(ensemble, "s/0_seed=0", "a", text="a was trained on 99 of the 149 validation images of s/0_seed=0")
    _, results = ensemble("a", "s/0_seed=0", "--stage", "val")
    assert [row["name"] for row in results["members"]] == ["a", "s/0_seed=0"]


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda record: record["class_names"].reverse(), "members of an ensemble need the same class_names"),
        (lambda record: record.update(input_shape=[3, 8, 8]), "members of an ensemble need the same input_shape"),
        (
            lambda record: record["data"].update(train_hash="0" * 16),
            "s/1_seed=1 was trained on other images than these",
        ),
        (lambda record: record.update(split_hash="0" * 16), "is not the one that it was trained with any more"),
    ],
)
def test_members_that_answer_another_question_are_refused(edit, text, ensemble, here):
    change(here / "s" / "1_seed=1", lambda contents: edit(contents["athanor"]))
    refused(ensemble, "s", text=text)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["s/0_seed=0"], "an ensemble needs two members"),
        (["s/0_seed=0", "s/0_seed=0"], "an ensemble needs two members"),
        (["s/0_seed=0", "nowhere"], "nowhere is neither a run, nor a sweep, nor a .ckpt file"),
        (["s/0_seed=0", "nowhere.ckpt"], "there is no checkpoint nowhere.ckpt"),
        (["s", "--k", "2"], "--k 2: use 2 to 3"),
        (["s", "--select", "top", "--k", "9"], "--k 9: use 2 to 3"),
    ],
)
def test_mistakes_are_one_or_two_lines(words, text, ensemble):
    refused(ensemble, *words, text=text)


def test_a_folder_that_is_there_is_not_written_into(ensemble, here):
    (here / "made").mkdir()
    (here / "made" / "results.json").write_text("{}")
    ran, _ = ensemble("s", "--stage", "val")
    assert ran.code == 1 and "--output made is there already" in ran.err
    assert [path.name for path in (here / "made").iterdir()] == ["results.json"]


def test_an_ensemble_is_not_resumed(ensemble, here, run_here):
    assert ensemble("s", "--stage", "val")[0].code == 0
    ran = run_here("train.py", "resume=made")
    assert ran.code == 1 and "an ensemble is not trained" in ran.err
    assert (here / "made" / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.parametrize("script", ["evaluate.py", "export.py"])
@pytest.mark.parametrize("place", ["model", "loss", "optim", "data.preprocess"])
def test_a_crafted_member_is_refused(place, script, ensemble, here, run_here):
    assert ensemble("s", "--stage", "val")[0].code == 0

    def craft(contents):
        node = contents["athanor"]["members"][1]["config"]
        *parents, last = place.split(".")
        for parent in parents:
            node = node[parent]
        node[last] = {"_target_": "os.system", "command": "touch marker"}

    change(here / "made", craft)
    ran = run_here(f"scripts/{script}", "made", *(["--format", "torch"] if script == "export.py" else []))
    assert ran.code == 1 and f"{place}._target_=os.system is defined in os" in ran.err
    assert not (here / "marker").exists()


@pytest.mark.parametrize(
    "edit",
    [
        {"weights": [1.0]},
        {"weights": ["a", "b", "c"]},
        {"combine": "os.system"},
        {"tta": 7},
        {"members": []},
        {"members": [1, 2, 3]},
        {"members": [{"config": {"x": "${oc.env:A,${b}}"}}] * 3},
    ],
    ids=str,
)
def test_a_record_that_is_no_ensemble_is_refused(edit, ensemble, here, run_here):
    assert ensemble("s", "--stage", "val")[0].code == 0
    change(here / "made", lambda contents: contents["athanor"].update(edit))
    ran = run_here("scripts/evaluate.py", "made")
    assert ran.code == 1 and ran.err.startswith("error: ") and len(ran.err.splitlines()) <= 2


def test_the_config_of_an_ensemble_is_that_of_its_first_member_judged_plainly(ensemble, here):
    assert ensemble("s", "--stage", "val")[0].code == 0
    config = yaml.safe_load((here / "made" / "config.yaml").read_text())
    first = yaml.safe_load((here / "s" / "0_seed=0" / "config.yaml").read_text())
    differing = {key for key in first if config[key] != first[key]}
    assert differing <= {"name", "loss", "trainer", "eval"}
    assert config["trainer"]["precision"] == "32-true" and config["eval"]["tta"] == "none"


def test_a_record_that_has_no_end_is_refused(ensemble, here, run_here):
    assert ensemble("s/0_seed=0", "s/1_seed=1", "--stage", "val")[0].code == 0

    contents = torch.load(here / "made" / "checkpoints" / "best.ckpt", weights_only=True)
    for _ in range(2000):
        contents["athanor"] = {**contents["athanor"], "members": [contents["athanor"]], "weights": [1.0]}
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        torch.save(contents, here / "made" / "checkpoints" / "best.ckpt")
    except RecursionError:
        pytest.skip("this Python cannot write such a file")  # 3.12
    finally:
        sys.setrecursionlimit(limit)
    ran = run_here("scripts/predict.py", "made", "a.png")
    assert ran.code == 1 and ran.err.startswith("error: ") and len(ran.err.splitlines()) <= 2
