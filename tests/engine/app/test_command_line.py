"""What a person reads when something is wrong: one or two lines that say what was got and what to type."""

import json
import os
import shlex
import subprocess
import sys

import pytest
import torch

from athanor.engine.config import options

# what is typed, and what the message must say (all of it, where there are several texts)
WRONG = [
    # unknown options
    ("optim=adm", "optim=adm does not exist; did you mean adam?"),
    ("model=vgg", "model: cnn, linear, mlp, resnet, speednet, timm, torchvision"),
    ("data=imagenet", "data: cifar10, "),
    ("data.preprocess=pac", "data/preprocess=pac does not exist; did you mean pca?"),
    ("callbacks=emma", "callbacks=emma does not exist"),
    ("'callbacks=[early_stopping,emma]'", "callbacks=emma does not exist", "callbacks: early_stopping"),
    ("logger=tensorbord", "did you mean tensorboard?"),
    ("metrics=recall", "metrics: average_precision, balanced_accuracy, confusion_matrix, macro_f1, per_class, top5"),
    ("experiment=mnist_cnm", "did you mean mnist_cnn?"),
    ("debug=fst", "debug: anomaly, fast, limit, overfit, pdb, profile"),
    ("model=cnn -m seed=0 optim=adm", "optim=adm does not exist; did you mean adam?"),
    ("-m optim=sgd,adm", "optim=adm does not exist; did you mean adam?"),
    ("optim=null", "optim", "choose"),
    ("optim=", "optim: adagrad, adam"),
    # unknown keys
    ("threads=1", "threads is called compute.threads now; type compute.threads=1"),
    ("+threads=1", "threads is called compute.threads now; type compute.threads=1"),
    ("-m threads=1,2", "threads is called compute.threads now; type compute.threads=1,2"),
    ("compile=true", "compile is called compute.compile now; type compute.compile=true"),
    ("matmul_precision=high", "type compute.matmul_precision=high"),
    ("test=false", "test is called eval.test now; type eval.test=false"),
    ("~test", "test is called eval.test now; type eval.test=<value>"),
    ("experiment=base", "experiment=base does not exist"),
    ("tags=paper", "tags=paper: train.yaml takes a list of str"),
    ("'notes=[a]'", "notes=['a']: train.yaml takes str or null"),
    ("resume=old extra.x=1", "for a new run with changes type run=old ++extra.x=1"),
    ("optm=adam", "there is no optm; did you mean optim=adam?"),
    ("sede=1", "there is no sede; did you mean seed=1?"),
    ("+sede=1", "sede: train.yaml has no 'sede'; did you mean seed?"),
    ("optim.lrr=1", "there is no optim.lrr; did you mean optim.lr=1?"),
    ("+optim.lrr=1", "optim.lrr: Adam has no 'lrr'; did you mean lr?"),
    ("model.widhts=[1]", "did you mean model.widths=[1]?"),
    ("+trainer.max_epoch=1", "trainer.max_epoch: Trainer has no 'max_epoch'; did you mean max_epochs?"),
    ("eval.foo=1", "there is no eval.foo; choose from: test, tta"),
    ("+eval.foo=1", "eval.foo: train.yaml has no 'foo'; choose from: test, tta"),
    ("+data.augment.flips=true", "data.augment.flips: Augment has no 'flips'; did you mean flip?"),
    ("callbacks.erly_stopping=null", "did you mean callbacks.early_stopping=null?"),
    ("lr=0.1", "there is no lr; did you mean optim.lr=0.1?"),
    ("-m lr=0.1,0.2", "there is no lr; did you mean optim.lr=0.1?"),
    ("+lr=0.1", "lr: train.yaml has no 'lr'; did you mean optim.lr?"),
    ("batch_size=64", "did you mean data.batch_size=64?"),
    ("epochs=3", "did you mean trainer.max_epochs=3?"),
    ("max_epochs=3", "did you mean trainer.max_epochs=3?"),
    ("gpus=2", "did you mean trainer.devices=2?"),
    ("model.lr=1", "there is no model.lr; did you mean optim.lr=1?"),
    ("optim=ADM", "optim=ADM does not exist; did you mean adam?"),
    # wrong types and choices
    ("optim.lr=fast", "optim.lr=fast: Adam takes float"),
    ("optim.lr=null", "optim.lr=null: Adam takes float"),
    ("optim.betas=[0.9]", "optim.betas=[0.9]: Adam takes a list of 2"),
    ("model.widths=32", "model.widths=32: CNN takes a list of int"),
    ("'model.widths=[a,b]'", "CNN takes a list of int"),
    ("model.norm=bach", "model.norm=bach: CNN takes none, batch, group, layer"),
    ("trainer.max_epochs=1.5", "trainer.max_epochs=1.5: Trainer takes int or null"),
    ("trainer.precision=17", "trainer.precision=17: Trainer takes", "bf16-mixed"),
    ("seed=null", "seed=null: train.yaml takes int"),
    ("seed=-1", "seed=-1"),
    ("eval.test=maybe", "eval.test=maybe: train.yaml takes bool"),
    ("data.augment.flip=1", "data.augment.flip=1: Augment takes bool or alternating"),
    ("data.augment.flip=alternate", "data.augment.flip=alternate: Augment takes bool or alternating"),
    ("data.augment.padding_mode=wrap", "data.augment.padding_mode=wrap: Augment takes zeros, reflect"),
    ("data.batch_size=huge", "takes int or full"),
    ("data.eval_batch_size=0", "data.eval_batch_size=0"),
    ("eval.tta=flop", "eval.tta=flop: train.yaml takes none, flip, flip_shift"),
    ("eval.tta=null", "eval.tta=null: train.yaml takes none, flip, flip_shift"),
    ("eval.tta=true", "eval.tta=true: train.yaml takes none, flip, flip_shift"),
    ("monitor.mode=up", "monitor.mode=up: train.yaml takes min, max"),
    ("loss=hinge loss.power=3", "loss.power=3: Hinge takes 1, 2"),
    ("scheduler=cosine scheduler.unit=weeks", "scheduler.unit=weeks", "fraction", "epochs", "steps"),
    ("optim._target_=torch.optim.Adamm", "optim._target_=torch.optim.Adamm cannot be imported"),
    ("callbacks.early_stopping.patience=long", "callbacks.early_stopping.patience=long: EarlyStopping takes int"),
    ("data=image_folder", "data.root is needed: type data.root=<value>"),
    # right alone, wrong together
    ("data.val_fraction=0", "callbacks.early_stopping needs validation images: type callbacks.early_stopping=null"),
    (
        "data.val_fraction=0 callbacks.early_stopping=null scheduler=plateau",
        "scheduler=plateau needs validation images",
    ),
    ("data.val_fraction=1.5", "data.val_fraction=1.5 is not a fraction"),
    ("data.batch_size=2000", "data.batch_size=2000 does not fit 1295 training images; use 1 to 1295, or full"),
    ("data.limit=3", "data.limit=3 is too few for 10 classes"),
    ("data.folds=5 data.fold=5", "a fold from 0 to folds-1"),
    ("optim=lbfgs trainer.accumulate_grad_batches=2", "use trainer.accumulate_grad_batches=1"),
    ("optim=lbfgs trainer.accelerator=cpu trainer.devices=2", "use trainer.devices=1"),
    ("optim=lbfgs data.batch_size=64", "each batch of 64 images has another; type data.batch_size=full"),
    ("optim=lbfgs data.augment.crop=1 data.augment.flip=true", "type data.augment.crop=0 data.augment.flip=false"),
    ("optim=lbfgs trainer.gradient_clip_val=1", "use trainer.gradient_clip_val=null"),
    ("optim=lbfgs trainer.precision=16-mixed", "optim=lbfgs cannot work with trainer.precision=16-mixed; use 32-true"),
    ("'model.widths=[8,8,8,8]'", "8x8 images allow at most 3; shorten model.widths"),
    ("model=speednet", "which needs 9 pixels or more, not 8x8; use fewer widths"),
    ("model=speednet 'model.widths=[8,8]' model.convs_per_stage=4", "model.convs_per_stage=4: SpeedNet takes 2, 3"),
    (
        "data.augment.crop=8 data.augment.padding_mode=reflect",
        "data.augment.crop=8 mirrors more than images of 8x8 have",
        "use a smaller crop, or data.augment.padding_mode=zeros",
    ),
    ("optim=muon model=linear", "this model has none; use another optimizer"),
    ("optim=muon optim.adam_betas=[0.9]", "optim.adam_betas=[0.9]: Muon takes a list of 2 float"),
    ("model=speednet model.widths=[]", "model.widths=[] leaves no stage"),
    ("model.num_classes=5", "there is no model.num_classes: num_classes is the number of classes of the data"),
    ("compute.threads=0", "compute.threads=0: use 1 or more"),
    ("eval=null", "eval=null: train.yaml takes dict"),
    ("~eval.tta", "eval.tta=null: train.yaml takes none, flip, flip_shift"),
    ("optim=muon optim.momentum=1", "optim.momentum=1 is not in [0, 1)"),
    ("optim=muon optim.newton_schulz_steps=0", "optim.newton_schulz_steps=0 must be at least 1; use 3 to 5"),
    ("optim=muon optim.normalize=1", "optim.normalize=1: Muon takes bool"),
    ("scheduler=polynomial scheduler.power=0", "scheduler.power=0 must be positive"),
    ("model=resnet model.depth=21", "model.depth=21 must be 6n+2 (8, 14, 20, 32, 44, 56, 110, ...) or 18"),
    ("model.activation=rely", "did you mean relu"),
    ("'loss.class_weights=[1,2]'", "loss.class_weights has 2 numbers for 10 classes"),
    ("scheduler=plateau scheduler.unit=fraction", "use epochs or steps"),
    (
        "scheduler=cosine scheduler.warmup=30 scheduler.warmup_unit=epochs",
        "scheduler.warmup=30 (30 epochs) is 600 steps",
    ),
    ("scheduler=cosine trainer.max_epochs=-1", "needs the length of the run; set trainer.max_epochs"),
    ("scheduler.momentum=rise optim=adagrad", "scheduler.momentum: Adagrad has none; use optim=momentum"),
    (
        "optim=sgd scheduler.momentum=rise scheduler.momentum.end=1.5",
        "scheduler.momentum.end=1.5: use 0 to below 1, as 0.9",
    ),
    ("scheduler.momentum=ris", "scheduler/momentum=ris does not exist; did you mean rise?"),
    ("monitor.metric=val/los", "monitor.metric=val/los", "val/loss"),
    ("monitor.metric=val/los callbacks.early_stopping=null", "monitor.metric=val/los", "val/loss"),
    # files and folders
    ("data=mnist data_dir=none", "train-images-idx3-ubyte", "data=digits, which needs no download"),
    ("data=cifar10 data_dir=none", "cifar-10-python.tar.gz", "data=digits, which needs no download"),
    ("data=image_folder data.root=none", "none is not a folder"),
    ("resume=none", "none is not a run: there is no none/config.yaml"),
    ("resume=last", "no unfinished run under outputs/"),
    ("resume=old optim.lr=1", "for a new run with changes type run=old optim.lr=1"),
    ("run=none", "none is not a run: there is no none/config.yaml"),
    ("weights=none", "none is not a run: there is no none/config.yaml"),
    ("weights=old", "old has no checkpoint yet; go on with python train.py resume=old"),
    ("weights=none.ckpt", "there is no checkpoint none.ckpt"),
    ("weights=torn.ckpt", "torn.ckpt is not a checkpoint, or torn"),
    ("weights=foreign.ckpt", "foreign.ckpt is a checkpoint, but not one of Athanor's"),
    ("hydra.run.dir=torn.ckpt/run", "cannot make the run's directory torn.ckpt/run", "set hydra.run.dir"),
    # grammar
    ("optim.lr=[", "cannot read 'optim.lr=['"),
    ("optim", "cannot read 'optim'"),
    # while it trains
    ("optim.lr=1e30 model=mlp model.norm=none", "the train loss is nan at step 1", "learning rate 1e+30"),
]


@pytest.fixture(autouse=True)
def no_download(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network here")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.fixture
def files(tmp_path):
    """A run that has just begun and two files that are no checkpoints."""
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.yaml").write_text("seed: 0\n")
    (tmp_path / "torn.ckpt").write_bytes(b"PK\3\4 cut short")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")


@pytest.mark.parametrize("row", WRONG, ids=[typed for typed, *_ in WRONG])
def test_wrong_input_ends_in_at_most_two_lines_that_say_what_to_type(row, train, files):
    typed, *texts = row
    ran = train(*shlex.split(typed))
    lines = [line for line in ran.err.splitlines() if line.strip()]
    assert ran.code == 1
    assert len(lines) <= 2
    assert lines[0].startswith("error: ")
    assert "Traceback" not in ran.out + ran.err
    assert [text for text in texts if text not in ran.err] == []


def test_a_wrong_target_is_reported_once(train):
    ran = train("optim._target_=torch.optim.Adamm")
    assert ran.out == ""
    assert len(ran.err.splitlines()) == 1


@pytest.mark.parametrize(
    "typed",
    [
        "trainer.max_steps=7",  # less than an epoch
        "trainer.max_steps=30",  # one epoch and a half
        "trainer.max_epochs=-1 trainer.max_steps=10",
        "trainer.max_epochs=-1 +trainer.max_time=00:00:00:01 model=linear",
        "trainer.max_epochs=2 trainer.check_val_every_n_epoch=2",
        "trainer.max_epochs=1 callbacks=null",
        "trainer.max_epochs=1 logger=null",
        "trainer.max_epochs=1 metrics=null",
        "trainer.max_epochs=1 callbacks.checkpoints=null",
        "trainer.max_epochs=1 callbacks.early_stopping=null data.val_fraction=0",
        "trainer.max_epochs=1 callbacks=early_stopping",
        "trainer.max_epochs=1 'metrics=[macro_f1,top5]'",
        "trainer.max_epochs=1 +optim.amsgrad=true",
        "trainer.max_epochs=1 name=a/b",
        "model=linear trainer.max_epochs=1 -m seed=3",
    ],
)
def test_right_input_ends_well_and_without_a_warning(typed, train, tmp_path):
    ran = train(*shlex.split(typed))
    assert (ran.code, ran.err) == (0, "")
    assert "warning" not in ran.out.lower()
    [path] = tmp_path.glob("outputs/**/results.json")
    assert json.loads(path.read_text())["status"] == "finished"
    assert len(path.relative_to(tmp_path / "outputs").parts) == (5 if "-m" in typed.split() else 3)


def test_a_mistake_of_ours_shows_its_name_and_where_the_traceback_is(train, tmp_path, monkeypatch):
    def broken():
        raise RuntimeError("it is broken\nand this is the second line")

    monkeypatch.setattr("athanor.data.sources.digits.digits", broken)
    ran = train("hydra.run.dir=here")
    assert ran.code == 1
    first, place, last = ran.err.splitlines()
    assert (first, last) == ("error: RuntimeError: it is broken", "  the traceback is in here/train.log")
    assert place.endswith('raise RuntimeError("it is broken\\nand this is the second line")')
    assert "Traceback (most recent call last)" in (tmp_path / "here" / "train.log").read_text()
    results = json.loads((tmp_path / "here" / "results.json").read_text())
    assert results["status"] == "failed"
    assert results["error"].startswith("RuntimeError: it is broken")


def test_an_interrupted_run_says_how_to_go_on(train, tmp_path, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("athanor.data.sources.digits.digits", interrupted)
    ran = train("hydra.run.dir=here")
    assert ran.code == 130
    assert "Traceback" not in ran.out + ran.err
    assert "go on with python train.py resume=" in ran.out
    assert json.loads((tmp_path / "here" / "results.json").read_text())["status"] == "interrupted"


def test_a_wrong_setting_fails_before_data_is_loaded(train, monkeypatch):
    monkeypatch.setattr("athanor.data.sources.digits.digits", lambda: pytest.fail("the data was loaded"))
    assert "Adam has no 'lrr'" in train("+optim.lrr=1").err


@pytest.mark.parametrize("words", [["--cfg", "job"], ["--help"], ["--help", "optim=adam"]], ids=" ".join)
def test_looking_at_the_config_imports_no_torch(words, repo, tmp_path):
    command = [sys.executable, "-X", "importtime", str(repo / "train.py"), *words]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "optim" in done.stdout
    imported = {line.split("|")[-1].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "hydra" in imported
    assert imported.isdisjoint({"torch", "torchvision", "lightning", "numpy"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text, line", [("seed: [", 3), ("seed: 1\nseed: 2", 3), ("seed: 1\n\n  a: b", 4)])
def test_a_config_of_ones_own_that_is_no_yaml_is_told_with_its_line(text, line, train, tmp_path):
    path = tmp_path / "own" / "experiment" / "broken.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(f"# @package _global_\n{text}\n")
    ran = train(f"hydra.searchpath=[file://{tmp_path / 'own'}]", "experiment=broken")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert ran.err.startswith(f"error: {path}, line {line}: ")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("words", ["model=linear seed=3 --cfg job", "--cfg job model=linear seed=3", "--cfg job"])
def test_flags_of_hydra_may_stand_before_or_after_the_settings(words, train):
    ran = train(*words.split())
    assert (ran.code, ran.err) == (0, "")
    assert ("seed: 3" if "seed=3" in words else "seed: 0") in ran.out.splitlines()


@pytest.mark.parametrize(
    ("typed", "chosen"),
    [
        ("optim=AdamW", "optim: adamw"),
        ("model=ResNet", "model: resnet"),
        ("data.preprocess=ZCA", "data/preprocess: zca"),
        ("logger=[CSV]", "logger: ['csv']"),
    ],
)
def test_options_are_found_in_small_and_capital_letters(typed, chosen, train):
    ran = train("--cfg", "hydra", "-p", "hydra.runtime.choices", typed)
    assert (ran.code, ran.err) == (0, "")
    assert chosen in ran.out.splitlines() or chosen.startswith("logger")


def test_words_that_are_no_options_stay_as_they_are():
    assert [options.spelled("optim", value) for value in ("SGD,adamW", "[Muon]", "ADM")] == [
        "sgd,adamw",
        "[muon]",
        "ADM",
    ]
    assert options.spelled("name", "AdamW") == "AdamW"
