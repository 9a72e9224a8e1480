"""What training on a GPU gives: precisions, the compiled network, data that stays on the device."""

import csv
import re
from types import SimpleNamespace

import pytest
import torch

from athanor.engine.runs.run import Run, read_checkpoint

pytestmark = pytest.mark.gpu

SHORT = ["data.batch_size=128", "data.limit=1400", "trainer.max_epochs=3", "hydra.run.dir=run"]
GPU = ["trainer=gpu", *SHORT]


def last_checkpoint(name="run"):
    return read_checkpoint(Run(name).dir / "checkpoints" / "last.ckpt")


def rows(name="run"):
    with open(Run(name).dir / "metrics.csv") as file:
        return [tuple(row.values()) for row in csv.DictReader(file)]


def test_a_machine_with_a_gpu_trains_on_it_by_itself(train):
    ran = train("model=cnn", *SHORT)
    assert (ran.code, ran.err) == (0, "")
    assert "warning" not in ran.out.lower()
    assert "CUDA_VISIBLE_DEVICES" not in ran.out
    results = Run("run").results
    assert results["device"] == "cuda:0"
    assert results["hardware"] == torch.cuda.get_device_name()
    assert results["val"]["acc"] > 0.8
    assert torch.get_float32_matmul_precision() == "high"  # TensorFloat-32


@pytest.mark.parametrize("model", ["mlp", "cnn", "resnet"])
@pytest.mark.parametrize("precision", ["auto", "bf16-mixed", "16-mixed", "bf16-true"])
def test_every_precision_learns(precision, model, train):
    ran = train(f"model={model}", f"trainer.precision={precision}", *GPU)
    assert (ran.code, ran.err) == (0, "")
    results = Run("run").results
    assert results["precision"] == ("bf16-mixed" if precision == "auto" else precision)
    assert results["train"]["loss"] < 1.5  # guessing gives 2.3
    weights = [value for value in last_checkpoint()["state_dict"].values() if value.is_floating_point()]
    assert {value.dtype for value in weights} >= {torch.bfloat16 if precision == "bf16-true" else torch.float32}


@pytest.mark.parametrize("optim", ["adam", "nesterov", "rmsprop", "muon"])  # fused, and not fused
def test_steps_whose_gradients_overflow_are_skipped_and_the_loss_scale_falls(optim, train, monkeypatch):
    first = 2.0**26

    class LargeScaler(torch.amp.GradScaler):
        def __init__(self, *arguments, **knobs):
            super().__init__(*arguments, **{**knobs, "init_scale": first})

    monkeypatch.setattr(torch.amp, "GradScaler", LargeScaler)
    ran = train("model=mlp", f"optim={optim}", "trainer.precision=16-mixed", *GPU)
    assert ran.code == 0, ran.err
    scaler = last_checkpoint()["MixedPrecision"]
    assert 1 <= scaler["scale"] < first
    assert Run("run").results["train"]["loss"] < 2.3


def test_a_range_test_finds_a_rate_under_a_gradient_scaler(train):
    ran = train("model=mlp", "callbacks=lr_range", "trainer.precision=16-mixed", *GPU)
    assert (ran.code, ran.err) == (0, "")
    assert last_checkpoint()["MixedPrecision"]["scale"] >= 2.0**12  # the range test, which diverges, has its own


def test_a_compiled_network_trains_logs_and_is_tested_as_recorded(train, run_here):
    words = ["model=cnn", "model.widths=[8,16]", "model.fc_widths=[16]", "compute.compile=true"]
    assert train(*words, "trainer.log_every_n_steps=1", *GPU).code == 0
    results = Run("run").results
    assert results["train"]["loss"] < 2.3
    steps = [row for row in rows() if "train/loss_step" in row]
    assert len(steps) == results["steps"]
    assert not [key for key in last_checkpoint()["state_dict"] if "_orig_mod" in key]
    ran = run_here("scripts/evaluate.py", "run")
    assert ran.code == 0, ran.err
    pairs = re.findall(r"test/(\w+)  (\S+)  \(recorded (\S+)\)", ran.out)
    assert {name for name, _, _ in pairs} == {"loss", "acc"}
    for _, value, recorded in pairs:
        assert float(value) == pytest.approx(float(recorded), abs=1e-5)


# where the data lies


@pytest.fixture
def data_for_gpu(make_data):
    """The data module of a trainer that uses the first GPU and has made no step."""
    data = make_data()
    progress = SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=0)))
    strategy = SimpleNamespace(root_device=torch.device("cuda", 0))
    loop = SimpleNamespace(epoch_loop=progress)
    data.trainer = SimpleNamespace(strategy=strategy, global_rank=0, world_size=1, current_epoch=0, fit_loop=loop)
    return data


def loaders(data):
    return [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]


def test_both_arrays_lie_on_the_gpu_once_and_batches_come_from_there(data_for_gpu, source):
    before = torch.cuda.memory_allocated()
    batches = [next(iter(loader)) for loader in [*loaders(data_for_gpu), *loaders(data_for_gpu)]]
    assert all(images.is_cuda and labels.is_cuda for images, labels in batches)
    assert len(data_for_gpu.on_gpu) == 2
    images = {copy[0].data_ptr(): copy[0] for copy in data_for_gpu.on_gpu.values()}.values()
    assert sorted(len(copy) for copy in images) == [60, 200]
    held = sum(part.nbytes for pair in [*data_for_gpu.on_gpu.values(), *batches] for part in pair)
    assert torch.cuda.memory_allocated() - before < held + 2**20  # in blocks of 512 bytes, and the order of an epoch
    on_cpu = source.test_inputs[data_for_gpu.test_index[:32]]
    assert torch.equal(batches[2][0].cpu(), on_cpu)


def test_an_array_larger_than_half_of_the_free_memory_stays_on_the_processor(data_for_gpu, source, monkeypatch):
    size = source.train_inputs.nbytes  # the test images are 60 instead of 200
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (2 * size - 1, 2 * size))
    assert [next(iter(loader))[0].is_cuda for loader in loaders(data_for_gpu)] == [False, False, True]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (2 * size, 2 * size))
    assert all(next(iter(loader))[0].is_cuda for loader in loaders(data_for_gpu))


def test_results_do_not_depend_on_where_the_data_lies(train, monkeypatch):
    words = ["model=cnn", "trainer.deterministic=true", "trainer.log_every_n_steps=1", *GPU]
    assert train(*words).code == 0
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (0, 2**30))
    assert train(*words, "hydra.run.dir=from_cpu").code == 0
    a, b = last_checkpoint()["state_dict"], last_checkpoint("from_cpu")["state_dict"]
    assert all(torch.equal(value, b[name]) for name, value in a.items())
    assert rows() == rows("from_cpu")
    for stage in "train", "val", "test":
        assert Run("run").results[stage] == Run("from_cpu").results[stage]


def test_augmentation_on_the_gpu_gives_the_images_of_the_processor(source):
    from athanor.data.augmentation.augment import crop, cutout, flip

    images, places = source.train_inputs, torch.rand(200, 2, generator=torch.Generator().manual_seed(0))
    for change in (
        lambda images, places: crop(images, (places * 5).long(), 2),
        lambda images, places: crop(images, (places * 5).long(), 2, "reflect"),
        lambda images, places: flip(images, places[:, 0] < 0.5),
        lambda images, places: cutout(images, places, 3, None),
    ):
        assert torch.equal(change(images.cuda(), places.cuda()).cpu(), change(images, places))
