"""Wrong input of every kind: what is typed, and what the one or two lines must say. No file that was there is lost.

With --junitxml the lines themselves are in the report, as properties of each test.
"""

import gzip
import pickle
import re
import shlex
import shutil
import struct
import zlib

import pytest
import torch
from PIL import Image

from athanor.data.sources.cifar10 import CLASSES

ROWS = {
    "values": [
        ("optim.lr=-0.1", "optim.lr=-0.1 is negative; use 0 or more"),
        ("optim.lr=nan", "optim.lr=nan is no number to compute with"),
        ("optim.lr=inf", "optim.lr=inf is no number to compute with"),
        ("optim.lr=1e30 model=mlp model.norm=none", "first non-finite values: output of network.hidden.1.0 (Linear)"),
        ("optim.lr=0,1", "Ambiguous value for argument 'optim.lr=0,1'", "a decimal number has a point"),
        ("optim.betas=[1.0,0.999]", "optim.betas=[1.0, 0.999]: use numbers from 0 to below 1"),
        ("optim.weight_decay=-1", "optim.weight_decay=-1 is negative"),
        ("trainer.max_epochs=-5", "`max_epochs` must be a non-negative integer or -1. You passed in -5"),
        ("trainer.max_epochs=ten", "trainer.max_epochs=ten: Trainer takes int or null"),
        ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val=-1 clips nothing; use a number above 0, or null"),
        ("trainer.check_val_every_n_epoch=0", "trainer.check_val_every_n_epoch=0: use 1 or more"),
        ("+trainer.max_time=soon", "duration='soon'", "DD:HH:MM:SS"),
        ("trainer.devices=0", "trainer.devices=0: use 1 or more, a list of their numbers, or -1 or auto for all"),
        ("trainer.devices=-2", "trainer.devices=-2: use 1 or more"),
        ("trainer.devices=[]", "trainer.devices=[]: use 1 or more"),
        ("trainer.devices=two", "trainer.devices=two: use 1 or more"),
        ("trainer.accelerator=quantum", "accelerator='quantum'", "Available names are: "),
        ("trainer.strategy=fast", "strategy='fast'", "auto, ddp"),
        ("trainer=gpu", "trainer.accelerator=gpu: torch finds none on this machine; type trainer=auto"),
        ("data.batch_size=0", "data.batch_size=0 does not fit 1295 training images; use 1 to 1295, or full"),
        ("data.batch_size=-1", "data.batch_size=-1 does not fit"),
        ("data.batch_size='\"64\"'", "data.batch_size=64: digits takes int or full"),
        (
            "data.batch_size=1 model=mlp",
            "batch norm needs two images a step on each device, and data.batch_size=1 gives it one",
            "use data.batch_size=2, or model.norm=none",
        ),
        ("data.augment.crop=-1", "data.augment.crop=-1 is negative; use 0 to switch it off"),
        ("data.augment.rotate=left", "data.augment.rotate=left: Augment takes float"),
        ("model.dropout=1", "model.dropout=1 must be at least 0 (off) and below 1"),
        ("model=mlp model.widths=[]", "model.widths=[] leaves no hidden layer; use model=linear"),
        ("model.widths=[0]", "model.widths=[0] holds a width below 1"),
        ("model=mlp model.widths=[100000000000]", "out of memory with data.batch_size=", "a smaller model"),
        ("model=mlp model.activation=[relu,tanh,relu]", "has 3 entries for 2 hidden layers; give one name"),
        ("model=torchvision model.name=resnet999", "model.name=resnet999 is not a", "did you mean resnet"),
        (
            "model=torchvision model.weights=BEST",
            "model.weights=BEST is not known; choose from: DEFAULT",
        ),
        ("data.limit=0", "data.limit=0 is too few for 10 classes; use at least two a class"),
        ("data.limit=-5", "data.limit=-5 is too few for 10 classes"),
        ("data.val_fraction=-0.1", "data.val_fraction=-0.1 is not a fraction; use 0 (no validation) to below 1"),
        ("data.folds=1", "use 2 or more folds"),
        ("data.folds=2000", "data.folds=2000: there are 1438 training images; use fewer folds"),
        ("seed=1e10", "train.yaml takes int"),
        ("seed=true", "seed=true: train.yaml takes int"),
        ("seed=4294967296", "seed=4294967296 is not a seed; use 0 to 4294967295"),
        ("name=null", "name=null: train.yaml takes str"),
        ("name=[a]", "name=['a']: train.yaml takes str"),
        ("compute.threads=-1", "compute.threads=-1: use 1 or more, up to 1024, or null for all cores"),
        ("compute.threads=1000000", "compute.threads=1000000: use 1 or more, up to 1024, or null for all cores"),
        ("+trainer.val_check_interval=0", "trainer.val_check_interval=0: use a number of batches, or a fraction of"),
        ("+trainer.limit_train_batches=0.0", "trainer.limit_train_batches=0: use a number of batches, or a fraction"),
        ("data.split_seed=9223372036854775808", "data.split_seed=9223372036854775808 is too large to compute with"),
        ("model=mlp model.widths=[1,100000000000000000000]", "model.widths.1=100000000000000000000 is too large"),
        ("trainer.devices=[0,0]", "trainer.devices=[0, 0]: name each device once"),
        ("trainer=cpu trainer.devices=[3]", "trainer.devices=[3]: a CPU has no numbers; use trainer.devices=1"),
        ("name=${name}", "Recursive interpolation detected"),
        ("compute.threads=two", "compute.threads=two: train.yaml takes int or null"),
        (
            "compute.matmul_precision=best",
            "compute.matmul_precision=best: train.yaml takes auto, highest, high, medium",
        ),
        ("compute.compile=2", "compute.compile=2: train.yaml takes bool"),
        ("loss.label_smoothing=2", "loss.label_smoothing=2 is not in [0, 1)"),
        (
            "loss.class_weights=heavy",
            "loss.class_weights=heavy: CrossEntropy takes a list of float or balanced or null",
        ),
        ("data.preprocess=zca data.preprocess.eps=-1", "data.preprocess.eps=-1 must be positive"),
        ("data.preprocess=pca data.preprocess.variance=2", "data.preprocess.variance=2 is not in (0, 1]"),
        ("callbacks.checkpoints.top_k=0", "callbacks.checkpoints.top_k=0 keeps no best checkpoint; use 1 or more"),
        (
            "callbacks.early_stopping.monitor=val/los",
            "callbacks.early_stopping.monitor=val/los is not logged; did you mean val/loss?",
        ),
        (
            "scheduler=multistep scheduler.milestones=[2,1]",
            "scheduler.milestones=[2, 1] are not in the run, which is 1 fraction long",
        ),
        (
            "scheduler=multistep scheduler.unit=steps scheduler.milestones=[0]",
            "scheduler.milestones=[0] are not in the",
        ),
        ("scheduler=cosine scheduler.warmup=-0.1", "scheduler.warmup=-0.1 is negative; use 0 or more"),
        ("scheduler=cosine_restarts scheduler.cycles=0", "scheduler.cycles=0: use 1 or more"),
        ("scheduler=cosine scheduler.length=-1", "scheduler.length=-1 must be positive"),
        (
            "scheduler=one_cycle scheduler.floor=-1 scheduler.warmup=0.1",
            "scheduler.floor=-1 is not a fraction; use 0 to 1",
        ),
        ("optim.lr_scaling=cubic", "optim.lr_scaling=cubic: Adam takes none, linear, sqrt"),
        ("optim.lr_scaling=linear optim.base_batch=0", "optim.base_batch=0: use 1 or more"),
        ("scheduler=multistep scheduler.milestones=half", "scheduler.milestones=half: multistep takes a list of float"),
        ("scheduler=exponential scheduler.gamma=-1", "scheduler.gamma=-1 must be positive"),
        ("scheduler=one_cycle scheduler.peak_at=2", "scheduler.peak_at=2 is not a fraction"),
        ("scheduler=step scheduler.every=0", "scheduler.every=0 must be positive"),
        ("data_dir=null", "data_dir=null: train.yaml takes str"),
    ],
    "grammar and keys": [
        ("model=cnn,mlp", "Ambiguous value for argument 'model=cnn,mlp'", "a sweep needs -m before it"),
        ("debug=fast,limit", "Ambiguous value for argument 'debug=fast,limit'", "a sweep needs -m before it"),
        ("'model.widths=[32;64]'", "cannot read 'model.widths=[32;64]'", "needs quotes in quotes"),
        ("'model.widths=[32, 64'", "cannot read 'model.widths=[32, 64'"),
        ('"name=\'a"', 'cannot read "name=\'a"', "needs quotes in quotes"),
        ("model = cnn", "cannot read 'model'", "type key=value without spaces"),
        ("model..widths=[1]", "cannot read 'model..widths=[1]'"),
        ("config.yaml", "cannot read 'config.yaml'", "type key=value"),
        ("--epochs 5", "--epochs: settings have no dashes; type <key>=<value>"),
        ("--optim=adam", "--optim=adam: settings have no dashes; type <key>=<value>"),
        ("optim.lr=${nothing}", "Interpolation key 'nothing' not found"),
        ("optim.lr=${optim.lr}", "Recursive interpolation detected"),
        ("experiment=mnist_mlp experiment=mnist_cnn", "a command takes one experiment; leave out the others"),
        ("experiment=[mnist_mlp,mnist_cnn]", "experiment=[mnist_mlp,mnist_cnn]: experiment takes one, and no list"),
        ("data=image_folder data.root=/José/猫", "data.root=/José/猫 is not a folder; it must hold <class>/ folders"),
        ("~model", "model is missing: choose one with model=<option>"),
        ("~trainer", "trainer is missing: choose one with trainer=<option>"),
        ("~seed", "seed is missing"),
        ("~eval", "eval is missing"),
        ("+model=mlp", "Multiple values for model"),
        ("monitor=val/loss", "monitor=val/loss: train.yaml takes dict; type monitor.metric=val/acc monitor.mode=max"),
        ("monitor=null", "monitor=null: train.yaml takes dict; type monitor.metric"),
        ("eval=flip", "eval=flip: train.yaml takes dict; type eval.tta=flip"),
        ("trainer=null", "trainer=null: choose one", "auto, cpu, ddp, gpu, mps"),
        ("++optim=5", "force-add of config groups is not supported: '++optim=5'"),
        ("optim._target_=torch.nn.Linear", "optim.lr: Linear has no 'lr'"),
        ("optim._target_=null", "optim._target_=None cannot be imported"),
        ("model._target_=athanor.models.mlp", "model._target_=athanor.models.mlp is no class or function; name one"),
        ("optim._partial_=false", "optim._partial_ must be true"),
        ("callbacks.checkpoints=5", "callbacks.checkpoints=5 is no object with a _target_; null takes one away"),
        ("-m seed=0 model.dropout=7", "model.dropout=7 must be at least 0"),
    ],
    "runs": [
        ("resume= model=linear trainer.max_epochs=1", "resume= names no run"),
        ("resume=done resume=new", "resume=done resume=new: a command takes one resume; leave out the others"),
        ("run=done run=new", "run=done run=new: a command takes one run; leave out the others"),
        (
            "resume=done/checkpoints/best.ckpt",
            "a run goes on from its newest checkpoint, which this may not be; type resume=done",
            "for a new run that starts from the weights of this one, type weights=done/checkpoints/best.ckpt",
        ),
        ("resume=text.txt", "text.txt is not a run: there is no text.txt/config.yaml"),
        ("resume=nothing", "nothing is not a run: there is no nothing/config.yaml"),
        ("resume=done/checkpoints", "done/checkpoints is not a run"),
        ("resume=done run=done", "for a new run with changes type run=done"),
        ("resume=done -m seed=0,1", "for a new run with changes type run=done seed=0,1"),
        ("resume=torn_config", "torn_config/config.yaml is not a config, or torn: line 4"),
        ("resume=empty_config", "empty_config/config.yaml"),
        ("resume=binary_config", "binary_config/config.yaml"),
        ("resume=old_config", "old_config/config.yaml"),
        ("resume=garbage_results", "garbage_results/results.json is torn"),
        ("run=text.txt", "text.txt is not a run"),
        ("run=nothing", "nothing is not a run"),
        ("run=torn_config", "torn_config/config.yaml is not a config, or torn: line 4"),
        ("run=empty_config", "empty_config/config.yaml"),
        ("run=done optim.lrr=1", "there is no optim.lrr; did you mean optim.lr=1?"),
        ("weights=text.txt", "text.txt is not a run"),
        ("weights=new", "new has no checkpoint yet; go on with python train.py resume=new"),
        ("weights=torn", "torn/checkpoints/last.ckpt is not a checkpoint, or torn"),
        ("weights=empty.ckpt", "empty.ckpt is not a checkpoint, or torn"),
        ("weights=text.ckpt", "text.ckpt is not a checkpoint, or torn"),
        ("weights=folder/checkpoints/last.ckpt", "cannot read folder/checkpoints/last.ckpt: Is a directory"),
        ("weights=done/config.yaml", "done/config.yaml is not a run"),
        ("weights=~/none.ckpt", "cannot read 'weights=~/none.ckpt'", "needs quotes in quotes"),
        ("weights=done model=cnn", "weights=done are of another network", "use the model settings of that run"),
        ("weights=done model=linear data.limit=3", "data.limit=3 is too few for 10 classes"),
    ],
    "pictures": [
        ("data=image_folder data.root=text.txt", "data.root=<here>/text.txt is not a folder; it must hold <class>/"),
        ("data=image_folder data.root=nothing", "no class folders in <here>/nothing; make one folder a class"),
        ("data=image_folder data.root=null", "data.root=null: image_folder takes str or Path"),
        ("data=image_folder data.root=photos/a", "no class folders in <here>/photos/a"),
        ("data=image_folder data.root=one_class", "only one class folder, a/, in <here>/one_class", "two or more"),
        ("data=image_folder data.root=empty_class", "no images in <here>/empty_class/b (0 other files); add some or"),
        ("data=image_folder data.root=texts", "no images in <here>/texts/a (1 other files)"),
        (
            "data=image_folder data.root=broken",
            "3 of 23 images cannot be read; repair or remove them",
            "broken/a/empty.png: not an image",
            "broken/a/text.png: not an image",
            "broken/b/torn.png: image file is truncated",
        ),
        (
            "data=image_folder data.root=decoders",
            "3 of 23 images cannot be read; repair or remove them",
            "decoders/a/torn.avif: ",
            "decoders/a/torn.blp: ",
            "decoders/a/torn.dds: ",
        ),
        ("data=image_folder data.root=broken data.image_size=null", "3 of 23 images cannot be read"),
        ("data=image_folder data.root=sizes data.image_size=null", "sizes/b/0.png is 9x9", "data.image_size=64"),
        ("data=image_folder data.root=bomb", "bomb/a/bomb.png: Image size (1600000000 pixels) exceeds limit"),
        ("data=image_folder data.root=linked", "linked/a/link.png is a link to <here>/photos/a/0.png", "are refused"),
        ("data=image_folder data.root=untested", "untested/test/<class>/ is missing; add it or val/<class>/, or"),
        ("data=image_folder data.root=uneven", "uneven: train/ has classes that test/ lacks: d"),
        ("data=image_folder data.root=photos data.image_size=0", "data.image_size=0; use pixels, as 64, or null"),
        (
            "data=image_folder data.root=photos data.image_size=1 data.batch_size=4",
            "1x1",
        ),
        ("data=image_folder data.root=photos data.image_size=1000000", "free some, set data_dir=", "data.image_size"),
        ("data=image_folder data.root=photos data.mode=CMYK", "data.mode=CMYK; use RGB, L (grey) or auto"),
        ("data=image_folder data.root=photos data.splits=none.csv", "data.splits=<here>/none.csv is not a file"),
        (
            "data=image_folder data.root=photos data.splits=text.txt",
            "text.txt has no rows; it needs a header and a row",
        ),
        ("data=image_folder data.root=photos data.val_is=train", "data.val_is=train: image_folder takes val, test"),
        (
            "data=image_folder data.root=photos data.val_is=test",
            "data.val_is=test: <here>/photos needs train/ and val/",
        ),
        ("data=folder_labels data.root=photos", "data.labels is needed: type data.labels=<value>"),
        ("data=folder_labels data.root=photos data.labels=text.txt", "text.txt has no rows; it needs a header and a"),
        ("data=folder_labels data.root=none data.labels=text.txt", "data.root=<here>/none is not a folder; it must"),
        ("data=folder_labels data.root=empty_class/b data.labels=text.txt", "no images below data.root=<here>/empty_"),
        ("data=image_folder data.root=photos data.test_fraction=1", "data.test_fraction=1; use a number above 0 and"),
        ("data=image_folder data.root=photos data.batch_size=1000", "does not fit 12 training images; use 1 to 12"),
        (
            "data=image_folder data.root=single data.batch_size=2 data.image_size=8",
            "single: no class has the two pictures that a test set needs; add some",
        ),
        (
            "metrics=[top5] data=image_folder data.root=photos data.batch_size=4 data.image_size=8",
            "`top_k` to be smaller",
            "got 5 and 4",
        ),
        ("data=image_folder data.root=photos data_dir=text.txt", "cannot write in text.txt/cache", "set data_dir="),
        ("data=image_folder data.root=photos data_dir=/proc/none", "cannot write in /proc/none", "set data_dir="),
    ],
    "data sets": [
        ("data=mnist data_dir=mnist_short", "1,016 bytes instead of 47,040,016; remove it to download it again"),
        (
            "data=mnist data_dir=mnist_header",
            "is not the file it should be: header 68656c6c6f",
            "remove it to download",
        ),
        ("data=mnist data_dir=mnist_gzip", "train-images-idx3-ubyte.gz is damaged", "remove it to download it again"),
        ("data=mnist data_dir=mnist_missing", "put train-images-idx3-ubyte (or the same with .gz) into", "data=digits"),
        ("data=mnist data_dir=text.txt", "cannot write in text.txt", "set data_dir=<a folder you can write to>"),
        ("data=cifar10 data_dir=cifar_batch", "data_batch_1 differs from the official file; remove cifar_batch/"),
        ("data=cifar10 data_dir=cifar_archive", "differs from the official file, perhaps cut short; remove it"),
        (
            "data=cifar10 data_dir=cifar_untested",
            "test/ missing in cifar_untested/cifar10; it must hold train/<class>/",
        ),
        ("data=cifar10 data_dir=cifar_classes", "cifar_classes/cifar10 has classes a, b, c, d; CIFAR-10 has airplane"),
        ("data=cifar10 data_dir=cifar_few", "has 50 train and 50 test images; CIFAR-10 has 50,000 and 10,000"),
    ],
    "environment": [
        ("ATHANOR_DATA=text.txt train.py data=cifar10", "cannot write in text.txt", "set data_dir="),
        ("ATHANOR_DATA=/proc/none train.py data=mnist", "cannot write in /proc/none", "set data_dir="),
        ("ATHANOR_DATA= train.py data=mnist", "MNIST is not in . and could not be downloaded", "data=digits"),
        ("CUDA_VISIBLE_DEVICES=nonsense train.py trainer=gpu", "torch finds none on this machine; type trainer=auto"),
        ("LOCAL_RANK=one train.py", "LOCAL_RANK=one"),
    ],
    "folders": [
        ("hydra.run.dir=text.txt/run", "cannot make the run's directory text.txt/run: File exists; set hydra.run.dir"),
        ("hydra.run.dir=/proc/none", "cannot make the run's directory /proc/none"),
        ("hydra.run.dir='' model=linear trainer.max_epochs=1", "hydra.run.dir"),
        ("-m seed=0,1 hydra.sweep.dir=/proc/none", "directory /proc/none: No such file or directory"),
        ("-m seed=0,1 hydra.sweep.dir=text.txt/sweep", "directory text.txt/sweep: File exists"),
    ],
    "scripts": [
        ("scripts/evaluate.py", "the following arguments are required: run"),
        ("scripts/evaluate.py none", "none is not a run"),
        ("scripts/evaluate.py nothing", "nothing is not a run"),
        ("scripts/evaluate.py text.txt", "text.txt is not a run"),
        ("scripts/evaluate.py torn", "torn/checkpoints/last.ckpt is not a checkpoint, or torn"),
        ("scripts/evaluate.py torn.ckpt", "torn.ckpt is not a checkpoint, or torn"),
        ("scripts/evaluate.py foreign.ckpt", "foreign.ckpt is a checkpoint, but not one of Athanor's"),
        ("scripts/evaluate.py new", "new has no checkpoint yet; go on with python train.py resume=new"),
        ("scripts/evaluate.py torn_config", "torn_config/config.yaml is not a config, or torn: line 4"),
        ("scripts/evaluate.py garbage_results", "garbage_results/results.json is torn"),
        ("scripts/evaluate.py done --stage tset", "invalid choice: 'tset' (choose from 'test', 'val')"),
        ("scripts/evaluate.py done optm=adam", "there is no optm; did you mean optim=adam?"),
        ("scripts/evaluate.py done model=cnn", "model=cnn belongs to the weights or to their training"),
        ("scripts/evaluate.py done data.limit=3", "data.limit=3 is too few for 10 classes"),
        ("scripts/evaluate.py done data=image_folder data.root=photos data.batch_size=4", "class_names ['a', 'b'"),
        (
            "scripts/evaluate.py done data.val_fraction=0 --stage val",
            "there are no validation images; use --stage test",
        ),
        ("scripts/evaluate.py done +trainer.limit_test_batches=0", "trainer.limit_test_batches=0 leaves nothing to"),
        ("scripts/evaluate.py done done", "cannot read 'done'", "type key=value"),
        ("scripts/predict.py", "the following arguments are required: run, images"),
        ("scripts/predict.py done", "the following arguments are required: images"),
        ("scripts/predict.py done none.png", "none.png does not exist"),
        ("scripts/predict.py done text.txt", "text.txt: not an image"),
        ("scripts/predict.py done empty_class/b", "no images below the folder empty_class/b"),
        ("scripts/predict.py done broken/a/empty.png", "broken/a/empty.png: not an image"),
        ("scripts/predict.py done bomb/a/bomb.png", "bomb/a/bomb.png: Image size (1600000000 pixels) exceeds limit"),
        ("scripts/predict.py new photos/a/0.png", "new has no checkpoint yet"),
        ("scripts/predict.py torn photos/a/0.png", "torn/checkpoints/last.ckpt is not a checkpoint, or torn"),
        ("scripts/predict.py foreign.ckpt photos/a/0.png", "foreign.ckpt is a checkpoint, but not one of Athanor's"),
        ("scripts/predict.py done photos/a/0.png --csv nothing", "Is a directory: 'nothing'"),
        ("scripts/predict.py done photos/a/0.png --csv none/a.csv", "No such file or directory: 'none/a.csv'"),
    ],
}
ALL = [pytest.param(typed, texts, id=typed) for rows in ROWS.values() for typed, *texts in rows]


@pytest.fixture(scope="module")
def world(tmp_path_factory, run_process):
    """Files that are wrong in every way, beside a run and pictures that are right."""
    folder = tmp_path_factory.mktemp("world")
    words = ["model=linear", "data.limit=200", "trainer.max_epochs=1", "logger=csv", "hydra.run.dir=done"]
    assert run_process(folder, "train.py", *words).code == 0
    make_files(folder)
    make_runs(folder)
    make_pictures(folder)
    make_data_sets(folder)
    return folder


def make_files(folder):
    (folder / "nothing").mkdir()
    (folder / "text.txt").write_text("hello\n")
    (folder / "text.ckpt").write_text("hello\n")
    (folder / "empty.ckpt").touch()
    (folder / "torn.ckpt").write_bytes((folder / "done" / "checkpoints" / "best.ckpt").read_bytes()[:5000])
    torch.save({"state_dict": {}}, folder / "foreign.ckpt")


def make_runs(folder):
    def run(name):
        shutil.copytree(folder / "done", folder / name)
        (folder / name / "checkpoints" / "best.ckpt").unlink()
        return folder / name / "checkpoints" / "last.ckpt"

    run("torn").write_bytes((folder / "torn.ckpt").read_bytes())
    run("empty").write_bytes(b"")
    run("text").write_text("hello\n")
    last = run("folder")
    last.unlink()
    last.mkdir()
    shutil.rmtree(run("new").parent)
    (run("torn_config").parents[1] / "config.yaml").write_text("seed: 0\ndata:\n  batch_size: [1, 2\n")
    (run("empty_config").parents[1] / "config.yaml").write_text("")
    (run("binary_config").parents[1] / "config.yaml").write_bytes(b"\x00\xff\xfe\x80")
    (run("old_config").parents[1] / "config.yaml").write_text("seed: 0\nlearning_rate: 0.1\n")
    (run("garbage_results").parents[1] / "results.json").write_text('{"status": "fini')
    config = run("other_model").parents[1] / "config.yaml"
    config.write_text(config.read_text().replace("val_fraction: 0.1", "val_fraction: 0.3"))


def make_pictures(folder):
    def picture(path, size=8):
        path = folder / path
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((size, size), 50).convert("RGB").save(path)
        return path

    for name in (
        "photos",
        "broken",
        "decoders",
        "bomb",
        "linked",
        "dangling",
        "untested/train",
        "uneven/train",
        "uneven/test",
    ):
        for label in "abcd":
            for number in range(5):
                picture(f"{name}/{label}/{number}.png")
    (folder / "broken/a/empty.png").touch()
    (folder / "broken/a/text.png").write_text("hello\n")
    # headers that are right and name kinds of pixels which no decoder of Pillow knows, each with its own exception
    (folder / "decoders/a/torn.dds").write_bytes(b"DDS " + struct.pack("<7I", 124, 0x1007, 8, 8, 0, 0, 0) + bytes(96))
    (folder / "decoders/a/torn.blp").write_bytes(b"BLP2" + struct.pack("<iBBBB2I", 9, 9, 9, 9, 0, 8, 8) + bytes(2000))
    (folder / "decoders/a/torn.avif").write_bytes(
        struct.pack(">I", 28) + b"ftypavif" + bytes(4) + b"mif1avif" + bytes(60)
    )
    whole = picture("broken/b/torn.png", 64)
    whole.write_bytes(whole.read_bytes()[:300])
    head = b"IHDR" + struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)  # 4.8 GB of pixels in 60 bytes
    parts = struct.pack(">I", 13), head, struct.pack(">I", zlib.crc32(head)), struct.pack(">I", 8), b"IDAT", bytes(12)
    (folder / "bomb/a/bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    (folder / "linked/a/link.png").symlink_to(folder / "photos/a/0.png")
    (folder / "dangling/a/link.png").symlink_to(folder / "dangling/a/none.png")
    shutil.rmtree(folder / "uneven/test/d")
    for name in "one_class/a/0.png", "empty_class/a/0.png", "single/a/0.png", "single/b/0.png", "sizes/a/0.png":
        picture(name)
    picture("sizes/b/0.png", 9)
    (folder / "empty_class/b").mkdir()
    for label in "ab":
        (folder / "texts" / label).mkdir(parents=True)
        (folder / "texts" / label / "readme.txt").write_text("hello\n")


def make_data_sets(folder):
    def mnist(name, **contents):
        raw = folder / name / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for file in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
            (raw / f"{file}-ubyte").write_bytes(b"hello")
        return raw / "train-images-idx3-ubyte"

    mnist("mnist_short").write_bytes(struct.pack(">4I", 0x803, 60_000, 28, 28) + bytes(1000))
    mnist("mnist_header")
    images = mnist("mnist_gzip")
    images.with_name(f"{images.name}.gz").write_bytes(gzip.compress(bytes(1000))[:20])
    images.unlink()
    mnist("mnist_missing").unlink()
    (folder / "cifar_batch/cifar-10-batches-py").mkdir(parents=True)
    (folder / "cifar_batch/cifar-10-batches-py/data_batch_1").write_bytes(pickle.dumps({"data": [], "labels": []}))
    (folder / "cifar_archive").mkdir()
    (folder / "cifar_archive/cifar-10-python.tar.gz").write_bytes(bytes(1000))
    shutil.copytree(folder / "photos", folder / "cifar_untested/cifar10/train")
    for split in "train", "test":
        shutil.copytree(folder / "photos", folder / "cifar_classes/cifar10" / split)
        for label in CLASSES:
            shutil.copytree(folder / "photos/a", folder / "cifar_few/cifar10" / split / label)


@pytest.fixture(scope="module")
def before(world):
    return contents(world)


@pytest.fixture
def here(world, before, run_here, monkeypatch):
    """The folder in which a row is typed; the next one finds it as this one did."""
    monkeypatch.chdir(world)
    monkeypatch.setenv("ATHANOR_DATA", str(world / "data"))

    def refuse(*args, **kwargs):
        raise OSError("no network here")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    folders = {path for path in world.rglob("*") if path.is_dir()}
    yield world
    for path in contents(world).keys() - before.keys():
        path.unlink()
    for path, text in before.items():
        if not path.is_file() or path.read_bytes() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)
    for path in sorted({path for path in world.rglob("*") if path.is_dir()} - folders, reverse=True):
        path.rmdir()


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lost(before, now):
    """Files that are gone or say something else. A log may grow, and a run that is resumed in vain notes why."""

    def kept(path, text):
        if path.name == "results.json":
            return path in now
        return now.get(path, now.get(path.with_name(f"{path.name}.torn"), b"")).startswith(text)

    return [str(path) for path, text in before.items() if not kept(path, text)]


@pytest.mark.parametrize(("typed", "texts"), ALL)
def test_wrong_input_says_what_was_got_and_what_to_type_and_loses_nothing(
    typed, texts, here, before, run_here, monkeypatch, request
):
    words = shlex.split(typed)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        monkeypatch.setenv(*words.pop(0).split("=", 1))
    script = words.pop(0) if words[0].endswith(".py") else "train.py"
    ran = run_here(script, *words)
    lines = [line.replace(str(here), "<here>") for line in ran.err.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("decoding images")]  # a progress bar
    request.node.user_properties += [("typed", typed), ("lines", "\n".join(lines))]
    assert ran.code in (1, 2)  # 2 is argparse's
    assert len(lines) <= 2
    assert "error: " in lines[0] or lines[0].startswith("usage: ")
    assert "Traceback" not in ran.out + ran.err
    assert [text for text in texts if text not in "\n".join(lines)] == []
    assert lost(before, contents(here)) == []
