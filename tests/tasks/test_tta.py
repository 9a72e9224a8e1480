import pytest
import torch
import torch.nn.functional as F
from torch import nn

from athanor.data.sources.digits import digits
from athanor.data.sources.source import Source
from athanor.engine.runs.run import Run
from athanor.tasks import tta

SHAPES = pytest.mark.parametrize("shape", [(12, 1, 8, 8), (5, 3, 6, 10), (4, 3, 7, 2)], ids=str)
WORDS = ["model=cnn", "data.limit=400", "trainer.max_epochs=2", "logger=csv", "trainer.accelerator=cpu"]


def noise(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def network(shape):
    """To which each pixel matters."""
    torch.manual_seed(0)
    flat = nn.Linear(shape[1] * shape[2] * shape[3], 7).double().requires_grad_(False)
    return lambda images: flat(images.double().flatten(1) / 255).sin()


def moved(images, down, right):
    """In floats, of which torch can reflect each, by slicing."""
    height, width = images.shape[2:]
    padded = F.pad(images.float(), (1, 1, 1, 1), mode="reflect").byte()
    return padded[:, :, 1 - down : 1 - down + height, 1 - right : 1 - right + width]


@SHAPES
def test_none_is_the_logits_that_are_there(shape):
    logits = torch.randn(shape[0], 7)
    assert tta.averaged(lambda images: pytest.fail("a pass too many"), noise(*shape), "none", logits) is logits


@SHAPES
def test_flip_is_the_mean_of_the_image_and_its_mirror_image(shape):
    images, forward = noise(*shape), network(shape)
    expected = torch.stack([forward(images), forward(images.flip(3))]).mean(0)
    assert not torch.allclose(expected, forward(images))
    torch.testing.assert_close(tta.averaged(forward, images, "flip", forward(images)), expected)


@SHAPES
def test_flip_shift_is_the_weighted_mean_of_six_views(shape):
    images, forward = noise(*shape), network(shape)
    views = {image: 1 / 4 for image in (images, images.flip(3))}
    for step in 1, -1:
        views |= {image: 1 / 8 for image in (moved(images, step, step), moved(images, step, step).flip(3))}
    assert len(views) == 6 and sum(views.values()) == 1
    expected = sum(weight * forward(image) for image, weight in views.items())
    torch.testing.assert_close(tta.averaged(forward, images, "flip_shift", forward(images)), expected)


@pytest.mark.parametrize("kind, passes", [("none", 0), ("flip", 1), ("flip_shift", 5)])
def test_the_logits_that_are_there_are_not_computed_again(kind, passes):
    seen = []

    def forward(images):
        seen.append(images)
        return images.double().flatten(1)

    images = noise(6, 3, 5, 4)
    before = images.clone()
    tta.averaged(forward, images, kind, images.double().flatten(1))
    assert len(seen) == passes
    assert {(view.dtype, view.shape) for view in seen} <= {(torch.uint8, images.shape)}
    assert torch.equal(images, before)


@pytest.mark.parametrize("kind", ["flip", "flip_shift"])
def test_nothing_changes_where_position_does_not_matter(kind):
    one_colour = noise(6, 3, 1, 1).expand(-1, -1, 5, 4).contiguous()
    images = noise(6, 3, 5, 4) if kind == "flip" else one_colour  # a moved image has lost a row

    def forward(images):
        return torch.stack([images.amax((2, 3)), images.double().mean((2, 3))], 2).flatten(1)

    logits = forward(images)
    torch.testing.assert_close(tta.averaged(forward, images, kind, logits), logits)


@pytest.mark.parametrize("corner, step", [(0, 1), (1, 0), (2, -1)])
@SHAPES
def test_shifted_moves_the_image_and_mirrors_what_comes_in(shape, corner, step):
    images = noise(*shape)
    assert torch.equal(tta.shifted(images, corner), moved(images, step, step))


# in a run


@pytest.fixture
def plain(train):
    """A run without, in the folder `plain`."""
    assert train(*WORDS, "hydra.run.dir=plain").code == 0
    return Run("plain")


def by_hand(run, kind):
    """Loss and accuracy of the chosen checkpoint on the test images, of all views at once."""
    classifier, source = run.classifier(), digits()
    images, labels = source.test_inputs, source.test_targets
    views = {images: 1 / 2, images.flip(3): 1 / 2}
    if kind == "flip_shift":
        views = {image: weight / 2 for image, weight in views.items()}
        for step in 1, -1:
            views |= {image: 1 / 8 for image in (moved(images, step, step), moved(images, step, step).flip(3))}
    with torch.inference_mode():
        logits = sum(weight * classifier(image).double() for image, weight in views.items())
    return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).double().mean().item()


@pytest.mark.parametrize("kind", ["flip", "flip_shift"])
def test_the_plain_test_stays_and_the_averaged_one_stands_beside_it(kind, plain, train, tmp_path):
    ran = train(*WORDS, f"eval.tta={kind}", "hydra.run.dir=a")
    assert (ran.code, ran.err) == (0, "")
    results = Run("a").results
    assert {name: results["test"][name] for name in ("loss", "acc")} == plain.results["test"]
    assert results["test"].keys() == {"loss", "acc", "loss_tta", "acc_tta"}
    assert results["test"]["acc_tta"] != results["test"]["acc"]
    assert (results["train"], results["val"]) == (plain.results["train"], plain.results["val"])
    assert f"acc_tta {results['test']['acc_tta']:.4f}" in ran.out
    rows = (tmp_path / "a" / "metrics.csv").read_text().splitlines()
    assert [sum(f",{name}," in row for row in rows) for name in ("test/acc", "test/acc_tta", "test/loss_tta")] == [
        1
    ] * 3


@pytest.mark.parametrize("kind", ["flip", "flip_shift"])
def test_a_test_of_all_images_equals_the_views_averaged_by_hand(kind, plain, run_here):
    words = ["data.limit=null", "data.eval_batch_size=100", f"eval.tta={kind}"]  # 359 images: the last batch is smaller
    ran = run_here("scripts/evaluate.py", plain.dir, *words)
    assert (ran.code, ran.err) == (0, "")
    metrics = {
        name: float(value.split()[0])
        for name, value in (row.split("  ", 1) for row in ran.out.splitlines() if row.startswith("test/"))
    }
    assert metrics.keys() == {"test/loss", "test/acc", "test/loss_tta", "test/acc_tta"}
    loss, acc = by_hand(plain, kind)
    assert metrics["test/acc_tta"] == pytest.approx(acc, abs=1e-6)
    assert metrics["test/loss_tta"] == pytest.approx(loss, rel=1e-4)


def test_evaluate_prints_the_recorded_accuracy_and_the_averaged_one(plain, run_here):
    ran = run_here("scripts/evaluate.py", plain.dir, "eval.tta=flip")
    assert (ran.code, ran.err) == (0, "")
    acc = plain.results["test"]["acc"]
    assert f"test/acc  {acc!r}  (recorded {acc!r})" in ran.out
    assert [row for row in ran.out.splitlines() if row.startswith("test/acc_tta  0.")]
    ran = run_here("scripts/evaluate.py", plain.dir, "eval.tta=flip", "--stage", "val")
    assert ran.code == 0
    assert "tta" not in ran.out


def test_evaluate_refuses_what_it_does_not_know(plain, run_here):
    for word, text in {
        "eval.tta=flop": "error: eval.tta=flop: train.yaml takes none, flip, flip_shift",
        "eval.foo=1": "error: there is no eval.foo; choose from: test, tta",
        "+eval.foo=1": "error: eval.foo: train.yaml has no 'foo'; choose from: test, tta",
    }.items():
        ran = run_here("scripts/evaluate.py", plain.dir, word)
        assert (ran.code, ran.err.splitlines()[0]) == (1, text)


def test_a_run_of_a_recorded_one_takes_it_up(plain, train):
    assert train("run=plain", "eval.tta=flip", "trainer.max_epochs=1", "hydra.run.dir=b").code == 0
    assert "acc_tta" in Run("b").results["test"]


def test_symmetric_images_are_tested_as_without(train, monkeypatch):
    full = digits()
    tests = torch.cat([full.test_inputs[..., :4], full.test_inputs[..., :4].flip(3)], 3)
    source = Source(full.train_inputs, full.train_targets, tests, full.test_targets, full.class_names, "symmetric")
    monkeypatch.setattr("athanor.data.sources.digits.digits", lambda: source)
    assert train(*WORDS, "eval.tta=flip", "hydra.run.dir=a").code == 0
    metrics = Run("a").results["test"]
    assert metrics["acc_tta"] == metrics["acc"]
    assert metrics["loss_tta"] == pytest.approx(metrics["loss"], rel=1e-6)
