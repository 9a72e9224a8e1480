"""train.py and the scripts as people run them: what a run leaves behind, and its verbs."""

import csv
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from athanor.data.sources.digits import digits
from athanor.data.sources.source import Source
from athanor.engine.runs.run import Run, read_checkpoint
from athanor.engine.runs.sweep import Sweep
from athanor.tasks.measure import sampling_interval

TINY = ["model=linear", "data.limit=200", "trainer.max_epochs=1", "logger=csv"]


@pytest.fixture(scope="module")
def main_job(tmp_path_factory, run_process):
    """The main job, in a process and a folder of its own: what it said, and its run."""
    cwd = tmp_path_factory.mktemp("main")
    ran = run_process(cwd, "train.py", "model=cnn", "optim=adam", "trainer.max_epochs=2")
    [config] = cwd.glob("outputs/*/*/config.yaml")
    return ran, Run(config.parent)


def checkpoint(run, name="last.ckpt"):
    return read_checkpoint(Run(run).dir / "checkpoints" / name)


def state(contents):
    """All of a checkpoint but times, and the record of its settings: max_epochs is another in a run that is resumed."""
    callbacks = {key: value for key, value in contents["callbacks"].items() if key != "Stopwatch"}
    return {**{key: value for key, value in contents.items() if key != "athanor"}, "callbacks": callbacks}


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def differences(a, b, path=""):
    """Paths of the values in which two nested checkpoints differ by so much as a bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        found = [f"{path}/{key} is in one only" for key in a.keys() ^ b.keys()]
        return found + [line for key in a.keys() & b.keys() for line in differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [line for i, pair in enumerate(zip(a, b, strict=True)) for line in differences(*pair, f"{path}/{i}")]
    same = torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b
    return [] if same else [f"{path}: {a} and {b}"]


# what a run leaves behind


def test_the_main_job_ends_with_a_summary(main_job):
    ran, run = main_job
    assert (ran.code, ran.err) == (0, "")
    assert "warning" not in ran.out.lower()
    summary = ran.out.split("\n\n")[-2]
    lines = summary.splitlines()
    rows = {line.split()[0]: line for line in lines if line[2] != " "}
    assert list(rows) == ["run", "data", "train", "val", "test", "time", "ended", "results", "look"]
    assert any("test set of this data read once" in line for line in lines)
    assert "cnn_digits" in rows["run"] and "99,370 parameters, Adam, seed 0" in rows["run"]
    assert f"acc {run.results['test']['acc']:7.2%}" in rows["test"]
    assert rows["look"].split()[1:3] == ["tensorboard", "--logdir"]
    assert run.dir.as_posix().endswith(rows["look"].split()[3])


def test_the_main_job_learns(main_job):
    _, run = main_job
    assert run.results["test"]["acc"] > 0.9  # two epochs; it needs more for the 98 % of the README


def test_a_run_is_a_directory_that_holds_everything(main_job):
    _, run = main_job
    names = {path.relative_to(run.dir).as_posix().partition("tfevents")[0] for path in run.dir.rglob("*")}
    files = {"config.yaml", "results.json", "metrics.csv", "train.log", "events.out."}
    names.discard("changes.diff")  # where the code that ran was not committed
    folders = {"checkpoints", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "chosen", "chosen/events.out."}
    assert names == files | folders
    assert {path.name for path in run.dir.parents[2].iterdir()} == {"outputs"}


def test_results_hold_every_field_of_the_design(main_job):
    _, run = main_job
    results = run.results
    assert results["status"] == "finished"
    for stage in "train", "val", "test":
        assert results[stage].keys() == {"loss", "acc"}
    assert results["data"].keys() == {"origin", "train", "val", "test", "train_hash", "test_hash", "split_hash"}
    assert [results["data"][stage] for stage in ("train", "val", "test")] == [1295, 143, 359]
    assert results["read"] == {"train": 1280, "val": 143, "test": 359}  # the last 15 of 1,295 make no batch of 64
    assert results["overrides"] == ["model=cnn", "optim=adam", "trainer.max_epochs=2"]
    assert (results["epochs"], results["steps"], results["seed"], results["device"]) == (2, 40, 0, "cpu")
    assert results["parameters"] == 99_370
    assert results["threads"] >= 1
    assert 0 < results["fit_seconds"] < results["seconds"]
    assert results["images_per_second"] > 100
    assert results["versions"].keys() >= {"python", "torch", "lightning", "athanor"}
    assert results["git"] is None or len(results["git"]["commit"]) == 40


def test_counts_are_of_the_images_that_were_read(train, run_here):
    limits = [f"+trainer.limit_{stage}_batches={n}" for stage, n in (("train", 3), ("val", 2), ("test", 1))]
    small = ["model=mlp", "model.widths=[8]", "data.batch_size=8", "data.eval_batch_size=4", "logger=null"]
    ran = train(*small, "trainer=cpu", "trainer.max_epochs=1", *limits, "hydra.run.dir=run")
    run = Run("run")
    assert run.results["read"] == {"train": 24, "val": 8, "test": 4}
    assert [run.results["data"][stage] for stage in ("train", "val", "test")] == [1295, 143, 359]
    for stage, told in ("train", "24 of 1,295 images"), ("val", "8 of 143 images"), ("test", "4 of 359 images"):
        (line,) = (line for line in ran.out.splitlines() if line.startswith(f"  {stage} "))
        low, high = sampling_interval(run.results[stage]["acc"], run.results["read"][stage])
        limited = ", a limited test" if stage == "test" else ""
        assert line.endswith(f"   {told}{limited} (95 % interval of acc {low:.2%} to {high:.2%})")
    ran = train("resume=run", "trainer.max_epochs=1")  # nothing is left to train: the counts are the checkpoint's
    assert run.results["read"] == {"train": 24, "val": 8, "test": 4}
    assert "of 8 of 143 images: the batches are limited" in run_here("scripts/evaluate.py", "run", "--stage", "val").out


def test_the_log_has_what_was_said_and_no_advertisement(main_job):
    ran, run = main_job
    log = (run.dir / "train.log").read_text()
    assert "INFO epoch   1/2" in log and "INFO epoch   2/2" in log
    assert "tensorboard --logdir" in log
    assert "💡" not in log + ran.out
    assert [line for line in ran.out.splitlines() if line and line not in log] == []


def test_metrics_are_written_once_an_epoch(main_job):
    _, run = main_job
    rows = read_csv(run.dir / "metrics.csv")
    for name in "train/loss", "train/acc", "val/loss", "val/acc":
        assert [row["epoch"] for row in rows if row["metric"] == name] == ["0", "1"]
    [tested] = [float(row["value"]) for row in rows if row["metric"] == "test/acc"]
    assert tested == pytest.approx(run.results["test"]["acc"], abs=1e-8)


def test_a_recorded_config_is_plain_values_and_enough_to_compose_again(main_job, compose):
    from athanor.engine.config import check

    _, run = main_job
    assert "${" not in (run.dir / "config.yaml").read_text()
    composed = check.plain(compose("model=cnn", "optim=adam", "trainer.max_epochs=2", "eval.test=true"))  # of auto
    assert composed.pop("check") is False  # of this start alone
    assert run.config == composed


def test_lightnings_lines_reach_the_log(train, tmp_path):
    train(*TINY, "+trainer.limit_train_batches=1", "hydra.run.dir=a")
    assert "`Trainer(limit_train_batches=1)` was configured so" in (tmp_path / "a" / "train.log").read_text()


# use of a run


def test_evaluate_reproduces_the_recorded_accuracy_to_the_last_digit(main_job, run_here):
    _, run = main_job
    for stage in "test", "val":
        ran = run_here("scripts/evaluate.py", run.dir, "--stage", stage)
        assert (ran.code, ran.err) == (0, "")
        for name in "loss", "acc":
            value = run.results[stage][name]
            assert f"{stage}/{name}  {value!r}  (recorded {value!r})" in ran.out


def test_evaluate_takes_overrides_and_further_metrics(main_job, run_here):
    _, run = main_job
    ran = run_here("scripts/evaluate.py", run.dir / "checkpoints" / "last.ckpt", "metrics=macro_f1", "data.limit=100")
    assert ran.code == 0
    assert "test/macro_f1  " in ran.out


def test_evaluate_refuses_data_of_other_classes(main_job, run_here, tmp_path):
    _, run = main_job
    for name in "cat", "dog":
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(6):
            Image.new("L", (8, 8), i).save(tmp_path / "pictures" / name / f"{i}.png")
    words = ["data=image_folder", f"data.root={tmp_path / 'pictures'}", "data.image_size=8", "data.mode=L"]
    ran = run_here("scripts/evaluate.py", run.dir, *words, f"data_dir={tmp_path}", "data.batch_size=2")
    assert ran.code == 1
    assert "this data has class_names ['cat', 'dog'], the checkpoint has ['0'" in ran.err


def test_evaluating_changes_nothing_in_the_run(main_job, run_here):
    _, run = main_job
    before = {path: path.read_bytes() for path in run.dir.rglob("*") if path.is_file()}
    run_here("scripts/evaluate.py", run.dir)
    assert {path: path.read_bytes() for path in run.dir.rglob("*") if path.is_file()} == before


def test_a_checkpoint_file_alone_predicts_images_of_any_kind(main_job, run_process, tmp_path):
    _, run = main_job
    shutil.copy(run.checkpoint, tmp_path / "moved.ckpt")
    source = digits()
    first, second = source.test_inputs[0, 0].numpy(), source.test_inputs[1, 0].numpy()
    Image.fromarray(first).save(tmp_path / "a digit.png")
    rgba = np.dstack([second, second, second, np.full_like(second, 255)])
    Image.fromarray(rgba).save(tmp_path / "b.webp", lossless=True)
    ran = run_process(tmp_path, "scripts/predict.py", "moved.ckpt", "a digit.png", "b.webp", "--csv", "out.csv")
    assert ran.code == 0
    expected = run.classifier()(source.test_inputs[:2]).softmax(1)
    rows = read_csv(tmp_path / "out.csv")
    assert [row["file"] for row in rows] == ["a digit.png", "b.webp"]
    for row, line, probabilities in zip(rows, ran.out.splitlines(), expected.tolist(), strict=True):
        best = int(np.argmax(probabilities))
        assert row["class"] == str(best)
        assert line == f"{row['file']}  {best}  {probabilities[best]:.2%}"
        assert [float(row[str(digit)]) for digit in range(10)] == pytest.approx(probabilities, abs=2e-6)


@pytest.mark.parametrize(
    "words, text",
    [
        (["none", "a.png"], "none is not a run"),
        (["RUN", "none.png"], "none.png does not exist"),
        (["RUN", "text.png"], "text.png: not an image"),
    ],
)
def test_predict_says_what_is_wrong(words, text, main_job, run_here, tmp_path):
    _, run = main_job
    (tmp_path / "text.png").write_text("hello")
    ran = run_here("scripts/predict.py", *[run.dir if word == "RUN" else word for word in words])
    assert ran.code == 1
    assert text in ran.err
    assert len(ran.err.splitlines()) <= 2


def test_a_run_gives_its_classifier_to_a_notebook(main_job):
    _, run = main_job
    classifier = Run(str(run.dir)).classifier()
    assert not classifier.training
    source = digits()
    with torch.inference_mode():
        found = (classifier(source.test_inputs).argmax(1) == source.test_targets).float().mean()
    assert found.item() == pytest.approx(run.results["test"]["acc"], abs=1e-6)


def test_a_moved_run_still_works(main_job, run_here, tmp_path):
    _, run = main_job
    shutil.copytree(run.dir, tmp_path / "moved")
    ran = run_here("scripts/evaluate.py", "moved")
    assert f"(recorded {run.results['test']['acc']!r})" in ran.out


# repeatability


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(train, tmp_path):
    for name, seed in {"a": 3, "b": 3, "c": 4}.items():
        assert train(*TINY, "model=cnn", f"seed={seed}", f"hydra.run.dir={name}").code == 0
    a, b, c = (checkpoint(tmp_path / name) for name in "abc")
    assert differences(a["state_dict"], b["state_dict"]) == []
    assert {line.partition(":")[0] for line in differences(a["state_dict"], c["state_dict"])} >= {
        "/network.head.weight"
    }


def test_every_seed_has_the_same_split_and_another_split_seed_another(train, tmp_path):
    for name, word in {"a": "seed=1", "b": "seed=2", "c": "data.split_seed=1", "d": "data.val_fraction=0.2"}.items():
        assert train(*TINY, word, f"hydra.run.dir={name}").code == 0
    a, b, c, d = (Run(tmp_path / name).results["data"]["split_hash"] for name in "abcd")
    assert a == b
    assert len({a, c, d}) == 3


RECIPES = {
    "dropout and augmentation": ["model=cnn", "optim=adam", "data.augment.crop=1", "data.augment.rotate=10"],
    "plateau": ["optim=momentum", "scheduler=plateau", "scheduler.patience=0", "scheduler.factor=0.5", "optim.lr=1.0"],
    "exponential": ["optim=rmsprop", "scheduler=exponential"],
    "step in epochs": ["optim=sgd", "scheduler=step", "scheduler.unit=epochs", "scheduler.every=1"],
    "accumulation": ["optim=adagrad", "scheduler=exponential", "trainer.accumulate_grad_batches=2"],
    "lbfgs": ["model=mlp", "optim=lbfgs"],
    "muon": ["model=cnn", "optim=muon", "scheduler=exponential"],
    "speednet": [
        "model=speednet",
        "model.widths=[8,16]",
        "optim=muon",
        "optim.normalize=true",
        "data.augment.crop=1",
        "data.augment.padding_mode=reflect",
        "data.augment.flip=alternating",
    ],
    "top k": ["optim=adam", "callbacks.checkpoints.top_k=2"],
    "early stopping": ["optim=nesterov", "callbacks.early_stopping.patience=2", "callbacks.early_stopping.min_delta=9"],
}


@pytest.mark.parametrize("words", RECIPES.values(), ids=RECIPES)
def test_a_resumed_run_equals_one_that_was_never_stopped(words, train, tmp_path):
    words = ["model=linear", "data.limit=300", *words, "logger=csv"]
    whole = train(*words, "trainer.max_epochs=4", "hydra.run.dir=whole")
    assert whole.code == 0
    assert train(*words, "trainer.max_epochs=2", "hydra.run.dir=parts").code == 0
    resumed = train("resume=parts", "trainer.max_epochs=4")
    assert (resumed.code, resumed.err) == (0, "")
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "parts", "outputs"}
    for name in "last.ckpt", "best.ckpt":
        assert differences(state(checkpoint("whole", name)), state(checkpoint("parts", name))) == []
    a, b = Run("whole").results, Run("parts").results
    assert [a[key] for key in ("train", "val", "test", "epochs")] == [
        b[key] for key in ("train", "val", "test", "epochs")
    ]
    assert (tmp_path / "whole/metrics.csv").read_text().count("val/acc") == a["epochs"]


def test_a_resumed_process_equals_one_that_was_never_stopped(train, run_process, tmp_path):
    words = ["model=cnn", "data.augment.crop=1", "scheduler=plateau", "scheduler.patience=0", "data.limit=500"]
    assert train(*words, "trainer.max_epochs=4", "hydra.run.dir=whole").code == 0
    assert train(*words, "trainer.max_epochs=2", "hydra.run.dir=parts").code == 0
    assert run_process(tmp_path, "train.py", "resume=parts", "trainer.max_epochs=4").code == 0
    assert differences(state(checkpoint("whole")), state(checkpoint("parts"))) == []
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "parts", "outputs"}


def test_a_resumed_run_goes_on_in_its_own_log(train, tmp_path):
    train(*TINY, "hydra.run.dir=a")
    train("resume=a", "trainer.max_epochs=2")
    rows = read_csv(tmp_path / "a" / "metrics.csv")
    assert [row["epoch"] for row in rows if row["metric"] == "val/acc"] == ["0", "1"]
    assert Run("a").config["trainer"]["max_epochs"] == 2
    log = (tmp_path / "a" / "train.log").read_text()
    assert "epoch   1/1" in log and "epoch   2/2" in log


def test_resume_last_takes_the_newest_run_that_has_not_finished(train, tmp_path, monkeypatch):
    assert train(*TINY, "optim.lr=1e30", "model=mlp", "model.norm=none", "hydra.run.dir=outputs/failed").code == 1
    assert train(*TINY, "hydra.run.dir=outputs/finished").code == 0
    assert Run("outputs/failed").results["status"] == "failed"
    ran = train("resume=last")
    assert "the train loss is nan" in ran.err
    assert "outputs/failed" in "".join(Run("outputs/failed").results["overrides"])


def test_a_run_whose_checkpoints_are_gone_is_not_started_over(train, tmp_path):
    train(*TINY, "hydra.run.dir=a")
    shutil.rmtree(tmp_path / "a" / "checkpoints")
    results = Run("a").results
    ran = train("resume=a")
    assert ran.code == 1 and "a has no checkpoint to go on from, but results.json is of 1 epochs" in ran.err
    assert Run("a").results == results


# the other verbs


def test_run_repeats_a_recorded_run_with_equal_results_in_a_new_folder(train, tmp_path):
    train(*TINY, "model=cnn", "seed=5", "data.augment.crop=1", "hydra.run.dir=a")
    ran = train("run=a", "hydra.run.dir=b")
    assert (ran.code, ran.err) == (0, "")
    assert differences(checkpoint("a")["state_dict"], checkpoint("b")["state_dict"]) == []
    a, b = Run("a").results, Run("b").results
    assert [a[stage] for stage in ("train", "val", "test")] == [b[stage] for stage in ("train", "val", "test")]
    assert b["overrides"] == ["run='a'"]


def test_run_with_another_optimizer_says_what_does_not_carry_over(train, tmp_path):
    train(*TINY, "optim.lr=0.002", "hydra.run.dir=a")
    ran = train("run=a", "optim=sgd", "hydra.run.dir=b")
    assert (ran.code, ran.err) == (0, "")
    assert Run("b").config["optim"]["_target_"] == "torch.optim.SGD"
    assert "betas" not in Run("b").config["optim"]
    assert "optim.betas=[0.9, 0.999] of run=a is dropped with optim=sgd" in ran.out
    lr = Run("b").config["optim"]["lr"]
    assert lr == 0.1 or f"optim.lr={lr} of run=a stays with optim=sgd" in ran.out


def test_an_option_on_top_of_an_experiment_drops_what_it_does_not_take(train, tmp_path, monkeypatch):
    source = digits()
    images = torch.zeros(len(source.train_inputs), 1, 28, 28, dtype=torch.uint8)
    tests = torch.zeros(len(source.test_inputs), 1, 28, 28, dtype=torch.uint8)

    def fake(data_dir: str) -> Source:
        return Source(images, source.train_targets, tests, source.test_targets, source.class_names, "fake")

    monkeypatch.setattr("athanor.data.sources.mnist.mnist", fake)
    ran = train("experiment=three_layer_mnist", "model=linear", "data.limit=200", "trainer.max_epochs=1")
    assert (ran.code, ran.err) == (0, "")
    assert "model.widths=[64, 16] of experiment=three_layer_mnist is dropped with model=linear" in ran.out


def test_weights_start_a_new_training_from_those_of_a_run(main_job, train, tmp_path):
    _, run = main_job
    ran = train("model=cnn", f"weights={run.dir}", "optim.lr=0", "trainer.max_epochs=1", "hydra.run.dir=a")
    assert ran.code == 0
    assert f"starting from the weights of {run.dir}/checkpoints/best.ckpt" in ran.out
    a, b = checkpoint("a")["state_dict"], checkpoint(run.dir, "best.ckpt")["state_dict"]
    weights = [name for name in a if name.endswith(("weight", "bias"))]
    assert len(weights) > 10
    assert all(torch.equal(a[name], b[name]) for name in weights)
    assert checkpoint("a")["epoch"] == 0


def test_weights_get_a_new_head_where_the_classes_differ(main_job, train, tmp_path, monkeypatch):
    _, run = main_job
    full = digits()
    train_on, test_on = full.train_targets < 4, full.test_targets < 4
    four = Source(
        full.train_inputs[train_on],
        full.train_targets[train_on],
        full.test_inputs[test_on],
        full.test_targets[test_on],
        full.class_names[:4],
        "four digits",
    )
    monkeypatch.setattr("athanor.data.sources.digits.digits", lambda: four)
    ran = train("model=cnn", f"weights={run.checkpoint}", "optim.lr=0", "trainer.max_epochs=1", "hydra.run.dir=a")
    assert ran.code == 0
    assert "the head (head.weight, head.bias) is new, as the classes differ" in ran.out
    a, b = checkpoint("a")["state_dict"], checkpoint(run.dir, "best.ckpt")["state_dict"]
    assert a["network.head.weight"].shape == (4, 128)
    assert torch.equal(a["network.stages.0.0.weight"], b["network.stages.0.0.weight"])


@pytest.mark.parametrize(
    "words", [["model=mlp"], ["model=cnn", "model.widths=[16,32]"], ["model=cnn", "model.norm=none"]]
)
def test_weights_of_another_network_are_refused(words, main_job, train):
    _, run = main_job
    ran = train(*words, f"weights={run.dir}")
    assert ran.code == 1
    assert "are of another network" in ran.err
    assert len(ran.err.splitlines()) <= 2


# directories


def test_directories_never_collide(train, tmp_path):
    for _ in range(3):
        assert train(*TINY, "hydra.run.dir=here/x").code == 0
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["x", "x-2", "x-3"]
    assert all(Run(path).results["status"] == "finished" for path in (tmp_path / "here").iterdir())


def test_names_of_directories_are_easy_to_type(train, tmp_path):
    assert train(*TINY, "name='my run: nr. 1 (ä)'").code == 0
    [path] = tmp_path.glob("outputs/*/*")
    assert path.name.partition("_")[2] == "my-run-nr.-1-ä-"


# a multirun


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, run_process):
    """Three jobs, the second of which fails."""
    cwd = tmp_path_factory.mktemp("sweep")
    words = ["model=mlp", "-m", "model.dropout=0.0,7.0,0.5", "data.limit=200", "trainer.max_epochs=1"]
    ran = run_process(cwd, "train.py", *words)
    [table] = cwd.glob("outputs/sweeps/*/*/results.csv")
    return ran, table.parent


def test_the_other_jobs_of_a_multirun_run_when_one_fails(sweep):
    ran, folder = sweep
    assert ran.code == 1
    assert [run.results["status"] for run in Sweep(folder).runs] == ["finished", "failed", "finished"]
    assert ran.err == "error: model.dropout=7.0 must be at least 0 (off) and below 1, e.g. model.dropout=0.5\n"
    assert "3 jobs, 1 failed" in ran.out


def test_a_multirun_ends_with_a_table_of_all_jobs(sweep):
    _, folder = sweep
    rows = read_csv(folder / "results.csv")
    assert [(row["job"], row["status"]) for row in rows] == [("0", "finished"), ("1", "failed"), ("2", "finished")]
    assert ["model.dropout=7.0" in row["overrides"] for row in rows] == [False, True, False]
    assert rows[1]["val/acc"] == "" and "must be at least 0" in rows[1]["error"]
    assert float(rows[0]["val/acc"]) == Run(folder / rows[0]["folder"]).results["val"]["acc"]


def test_tensorboards_table_compares_all_jobs_of_a_multirun(sweep):
    """HPARAMS shows the union of what the runs have: none of them writes an `experiment` summary of its own."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, folder = sweep
    for job in "0_dropout=0.0", "2_dropout=0.5":
        events = EventAccumulator(str(folder / job / "chosen")).Reload()
        tags = events.PluginTagToContent("hparams")
        assert tags.keys() == {"_hparams_/session_start_info", "_hparams_/session_end_info"}
        content = tags["_hparams_/session_start_info"].decode("latin1")
        assert "model.dropout" in content and "optim.lr" in content
        assert events.Tags()["scalars"] == ["val/loss", "val/acc"]


def test_tensorboards_table_has_validation_and_test_of_the_chosen_checkpoint(train, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ["model=mlp", "init=default", "optim.lr=1", "data.limit=300", "trainer.max_epochs=5"]
    assert train(*words, "hydra.run.dir=a", "monitor.metric=val/acc", "monitor.mode=max").code == 0
    results = Run("a").results
    assert results["checkpoint_epoch"] < 5  # else the last epoch has the same values
    events = EventAccumulator(str(tmp_path / "a" / "chosen")).Reload()
    for name in events.Tags()["scalars"]:
        [event] = events.Scalars(name)
        stage, _, metric = name.partition("/")
        assert event.value == pytest.approx(results[stage][metric])
        assert event.step == checkpoint("a", "best.ckpt")["global_step"]
    assert set(events.Tags()["scalars"]) == {"val/loss", "val/acc", "test/loss", "test/acc"}
    course = EventAccumulator(str(tmp_path / "a")).Reload()
    assert [event.step for event in course.Scalars("val/acc")] == [3, 7, 11, 15, 19]


def test_two_sweeps_never_share_a_folder(train, tmp_path):
    for _ in range(2):
        assert train("-m", *TINY, "seed=0,1", "hydra.sweep.dir=here").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "here-2", "outputs"]
    assert len(list(tmp_path.glob("here*/[01]_seed=[01]/results.json"))) == 4


# the test set


class Untouchable(torch.Tensor):
    """Test images that nobody may look at; only their number, shape and type are known."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        metadata = ("__len__", "__get__", "numel", "is_floating_point", "is_complex")
        assert function.__name__ in metadata, f"the test set was read ({function.__name__})"
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **kwargs or {})


def test_false_for_test_leaves_the_test_set_unread(train, tmp_path, monkeypatch):
    full = digits()
    locked = (values.as_subclass(Untouchable) for values in (full.test_inputs, full.test_targets))
    source = Source(full.train_inputs, full.train_targets, *locked, full.class_names, "locked")
    monkeypatch.setattr("athanor.data.sources.digits.digits", lambda: source)
    ran = train("model=linear", "trainer.max_epochs=2", "eval.test=false", "hydra.run.dir=a")
    assert (ran.code, ran.err) == (0, "")
    assert "test" not in Run("a").results
    assert "test/" not in (tmp_path / "a" / "metrics.csv").read_text()
    assert "the test set was read" in train("model=linear", "trainer.max_epochs=1", "hydra.run.dir=b").err


def test_the_test_set_is_read_once_with_the_checkpoint_chosen_on_validation(train, tmp_path, monkeypatch):
    words = ["model=mlp", "optim.lr=0.1", "data.limit=300", "callbacks.checkpoints.top_k=1"]
    assert train(*words, "trainer.max_epochs=5", "hydra.run.dir=a").code == 0
    rows = read_csv(tmp_path / "a" / "metrics.csv")
    losses = [float(row["value"]) for row in rows if row["metric"] == "val/loss"]
    assert len(losses) == 5
    assert Run("a").results["val"]["loss"] == pytest.approx(min(losses), abs=1e-7)
    assert checkpoint("a", "best.ckpt")["epoch"] == losses.index(min(losses))
    assert len([row for row in rows if row["metric"] == "test/acc"]) == 1


def test_without_validation_the_last_checkpoint_is_tested(train, tmp_path):
    words = [*TINY, "data.val_fraction=0", "callbacks.early_stopping=null", "hydra.run.dir=a"]
    assert train(*words).code == 0
    assert Run("a").results["checkpoint"] == "checkpoints/last.ckpt"
    assert "val" not in Run("a").results
    assert Run("a").results["data"]["val"] == 0
