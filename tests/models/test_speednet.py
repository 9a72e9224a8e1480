from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from athanor.base.errors import UserError
from athanor.data.sources.digits import digits
from athanor.data.sources.source import Source
from athanor.engine.config import assemble, check
from athanor.engine.runs.run import Run, read_checkpoint
from athanor.models.speednet import EPS, SpeedNet

KNOBS = dict(widths=[8, 16, 12], convs_per_stage=2, residual=False, norm_momentum=0.1)


def speednet(shape=(3, 32, 32), **knobs):
    torch.manual_seed(0)
    return SpeedNet(input_shape=shape, num_classes=10, **KNOBS | knobs)


def photographs(*shape):
    """Pixels that depend on their neighbours and on the other colours, of mean 0."""
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    images = F.avg_pool2d(images + images.mean(1, keepdim=True), 5, stride=1, padding=2) + 0.1 * images
    return (images - images.mean()) / images.std()


def convolutions(model):
    """The 3x3 convolutions in their order."""
    return [conv for stage in model.stages for conv in stage.convs]


# shapes


@pytest.mark.parametrize("convs_per_stage", [2, 3])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 9, 40)], ids=str)
def test_images_become_logits(shape, residual, convs_per_stage):
    model = speednet(shape, residual=residual, convs_per_stage=convs_per_stage)
    assert model.whiten.weight.shape == (2 * 4 * shape[0], shape[0], 2, 2)
    assert len(convolutions(model)) == 3 * convs_per_stage
    logits = model(torch.randn(4, *shape))
    assert logits.shape == (4, 10)
    assert logits.isfinite().all()


@pytest.mark.parametrize("size, sizes", [(32, [15, 7, 3]), (28, [13, 6, 3]), (9, [4, 2, 1])])
def test_the_first_layer_takes_one_pixel_and_each_stage_halves_once(size, sizes):
    model, shapes = speednet((3, size, size)), []
    for stage in model.stages:
        stage.register_forward_hook(lambda stage, inputs, output: shapes.append(tuple(output.shape[1:])))
    model(torch.randn(2, 3, size, size))
    assert shapes == [(width, side, side) for width, side in zip(KNOBS["widths"], sizes, strict=True)]


def test_images_that_cannot_be_halved_so_often_are_refused():
    message = (
        r"^model\.widths=\[8, 16, 12\] halves the image 3 times, which needs 9 pixels or more, not 40x8; "
        r"use fewer widths$"
    )
    with pytest.raises(UserError, match=message):
        speednet((3, 8, 40))
    assert speednet((3, 8, 40), widths=[8, 16])(torch.randn(2, 3, 8, 40)).shape == (2, 10)


def test_exact_parameter_counts_of_the_default(compose):
    """Jordan 2024, section 3.1: 1.97 million, of which here 24 biases, the norms and a head of 2,560 are a part."""
    node = check.plain(compose("model=speednet"))["model"]
    model = assemble.build(node, "model", input_shape=(3, 32, 32), num_classes=10)
    whitening, norms, head = 24 * 12 + 24, 2 * 2 * (64 + 256 + 256), 256 * 10
    stages = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256)
    assert sum(p.numel() for p in model.parameters()) == whitening + norms + head + stages
    assert round((whitening + norms + head + stages) / 1e6, 2) == 1.97


# the start


@pytest.mark.parametrize("widths", [[8, 16, 12], [24, 30, 40]], ids=str)
def test_each_convolution_passes_its_inputs_on(widths):
    for conv in convolutions(speednet(widths=widths)):
        assert (conv.kernel_size, conv.bias) == ((3, 3), None)
        x = torch.randn(2, conv.in_channels, 6, 7)
        passed = min(conv.in_channels, conv.out_channels)
        assert torch.equal(conv(x)[:, :passed], x[:, :passed])
        rest = conv.weight[passed:]
        assert rest.numel() == 0 or (rest != 0).float().mean() > 0.99  # as torch initialises them


def test_the_whitening_and_the_scales_of_the_norms_are_frozen_and_all_else_learns():
    model = speednet()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 6
    assert frozen == {"whiten.weight"} | {f"{name}.weight" for name in norms}
    model(torch.randn(8, 3, 32, 32)).square().sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is None} == frozen


def test_norm_momentum_is_the_share_of_the_newest_batch():
    model = speednet(norm_momentum=0.4)
    assert {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {0.4}


@pytest.mark.parametrize("num_convs", [2, 3])
@pytest.mark.parametrize("residual", [False, True])
def test_residual_adds_what_the_later_convolutions_start_from(num_convs, residual):
    stage = speednet(convs_per_stage=num_convs, residual=residual).stages[1].eval()
    for norm in stage.norms:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.bias.data.normal_()
    x = torch.randn(2, 8, 7, 9)
    start = F.gelu(stage.norms[0](F.max_pool2d(F.conv2d(x, stage.convs[0].weight, padding=1), 2)))
    y = stage.norms[1](F.conv2d(start, stage.convs[1].weight, padding=1))
    if num_convs == 3:
        y = stage.norms[2](F.conv2d(F.gelu(y), stage.convs[2].weight, padding=1))
    torch.testing.assert_close(stage(x), F.gelu(y + start) if residual else F.gelu(y))


# whitening


@pytest.mark.parametrize("shape", [(200, 1, 28, 28), (100, 3, 16, 20)], ids=str)
def test_the_first_half_of_the_first_outputs_is_decorrelated_with_unit_variance(shape):
    pixels, model = photographs(*shape), speednet(shape[1:])
    patches = F.unfold(pixels, 2).transpose(1, 2).flatten(0, 1)
    assert (patches.T.corrcoef() - torch.eye(4 * shape[1])).abs().max() > 0.5  # the patches are correlated
    model.init_from_data(pixels)
    outputs = F.conv2d(pixels, model.whiten.weight).transpose(0, 1).flatten(1)
    half = 4 * shape[1]
    moments = outputs[:half] @ outputs[:half].T / outputs.shape[1]
    torch.testing.assert_close(moments, torch.eye(half), rtol=0, atol=0.03)
    torch.testing.assert_close(outputs[:half].var(1), torch.ones(half), rtol=0, atol=0.03)
    torch.testing.assert_close(outputs[half:], -outputs[:half])  # so that GELU passes both signs on


def test_directions_without_variance_stay_near_nothing():
    """A border that is always the same, or grey images of three colours, must not become noise."""
    pixels = photographs(50, 1, 12, 12).repeat(1, 3, 1, 1)
    model = speednet((3, 12, 12))
    model.init_from_data(pixels)
    assert model.whiten.weight.isfinite().all()
    assert model.whiten.weight.abs().max() <= EPS**-0.5
    variances = F.conv2d(pixels, model.whiten.weight).transpose(0, 1).flatten(1)[:12].square().mean(1)
    torch.testing.assert_close(variances, torch.tensor([0.0] * 8 + [1.0] * 4), rtol=0, atol=0.05)


@pytest.fixture
def matmul_precision():
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


def test_the_whitening_does_not_depend_on_what_an_earlier_job_of_a_multirun_has_set(matmul_precision):
    filters = []
    for precision in "highest", "medium":
        matmul_precision(precision)
        model = speednet((1, 8, 8), widths=[8])
        model.init_from_data(digits().train_inputs / 255 - 0.3)
        filters.append(model.whiten.weight)
    assert torch.equal(*filters)


def test_only_the_weight_of_the_first_layer_is_set_and_it_stays_frozen():
    model = speednet((1, 28, 28)).to(memory_format=torch.channels_last)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.init_from_data(photographs(50, 1, 28, 28))
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["whiten.weight"]
    assert not model.whiten.weight.requires_grad


@pytest.fixture
def sorted_by_class():
    """12,000 training images, the last class the only one that varies from left to right."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(12_000) // 4000
    rows = torch.randint(0, 256, (12_000, 1, 9, 1), generator=generator).expand(-1, -1, -1, 10)
    noise = torch.randint(0, 256, (12_000, 1, 9, 10), generator=generator)
    images = torch.where((labels == 2)[:, None, None, None], noise, rows).byte()
    return Source(images, labels, images[:30], labels[:30], ("a", "b", "c"), "sorted")


def classifier_of(source, compose, monkeypatch, *words):
    monkeypatch.setattr("athanor.data.sources.digits.digits", lambda: source)
    config = check.plain(compose("model=speednet", "model.widths=[8,8]", *words))
    data = assemble.data(config)
    return assemble.task(config, data), data


def test_a_new_classifier_is_whitened_on_the_images_of_all_classes(sorted_by_class, compose, monkeypatch):
    classifier, data = classifier_of(sorted_by_class, compose, monkeypatch)
    pixels = classifier.preprocess(data.source.train_inputs[data.train_index])
    outputs = F.conv2d(pixels, classifier.network.whiten.weight)[:, :4].transpose(0, 1).flatten(1)
    torch.testing.assert_close(outputs @ outputs.T / outputs.shape[1], torch.eye(4), rtol=0, atol=0.05)


def test_a_new_classifier_is_whitened_on_at_most_so_many_training_images(sorted_by_class, compose, monkeypatch):
    seen = []
    monkeypatch.setattr(SpeedNet, "init_from_data", lambda self, pixels: seen.append(pixels))
    classifier, data = classifier_of(sorted_by_class, compose, monkeypatch)
    [pixels] = seen
    assert 2500 <= len(pixels) <= 5000
    assert pixels.dtype == torch.float32
    everyone = classifier.preprocess(data.source.train_inputs)
    numbers = {image.numpy().tobytes(): i for i, image in enumerate(everyone)}
    shown = [numbers[image.numpy().tobytes()] for image in pixels]
    assert set(shown) <= set(data.train_index.tolist())
    counts = data.source.train_targets[shown].bincount()
    assert (counts - len(pixels) / 3).abs().max() < 20


@pytest.mark.parametrize("size, images", [(4 * 64 * 12, 12), (1, 1)])  # fewer would be none
def test_of_large_images_it_sees_fewer(size, images, sorted_by_class, compose, monkeypatch):
    seen = []
    monkeypatch.setattr(SpeedNet, "init_from_data", lambda self, pixels: seen.append(pixels))
    monkeypatch.setattr(assemble, "INIT_BYTES", size)
    classifier_of(sorted_by_class, compose, monkeypatch)
    [pixels] = seen
    assert images / 2 < len(pixels) <= images


def test_images_of_validation_and_test_do_not_matter_to_the_whitening(sorted_by_class, compose, monkeypatch):
    source = sorted_by_class
    classifier, data = classifier_of(source, compose, monkeypatch)
    images = source.train_inputs.clone()
    images[data.val_index] = 255 - images[data.val_index] // 3
    other = replace(source, train_inputs=images, test_inputs=255 - source.test_inputs)
    again, _ = classifier_of(other, compose, monkeypatch)
    assert torch.equal(again.network.whiten.weight, classifier.network.whiten.weight)


def test_networks_without_such_a_layer_are_left_alone(compose):
    config = check.plain(compose("model=cnn", "init=default"))
    torch.manual_seed(0)
    fresh = assemble.build(config["model"], "model", input_shape=(1, 8, 8), num_classes=10).state_dict()
    torch.manual_seed(0)
    state = assemble.task(config, assemble.data(config)).network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in fresh.items())


# in a run

WORDS = ["model=speednet", "model.widths=[16,32]", "logger=null", "trainer.accelerator=cpu"]


def whitening(run):
    return read_checkpoint(Run(run).dir / "checkpoints" / "last.ckpt")["state_dict"]["network.whiten.weight"]


@pytest.fixture
def whitenings(monkeypatch):
    """What each call of init_from_data has set."""
    filters, init_from_data = [], SpeedNet.init_from_data

    def watched(self, pixels):
        init_from_data(self, pixels)
        filters.append(self.whiten.weight.clone())

    monkeypatch.setattr(SpeedNet, "init_from_data", watched)
    return filters


def test_the_whitening_stays_what_it_was_and_comes_back_from_a_checkpoint(train, whitenings):
    ran = train(*WORDS, "trainer.max_epochs=3", "optim.lr=3e-3", "hydra.run.dir=a")
    assert (ran.code, ran.err) == (0, "")
    assert Run("a").results["test"]["acc"] > 0.9
    assert torch.equal(whitening("a"), whitenings[0])
    classifier = Run("a").classifier()
    assert torch.equal(classifier.network.whiten.weight, whitenings[0])
    assert len(whitenings) == 1
    source = digits()
    with torch.inference_mode():
        accuracy = (classifier(source.test_inputs).argmax(1) == source.test_targets).float().mean()
    assert accuracy.item() == pytest.approx(Run("a").results["test"]["acc"], abs=1e-6)


@pytest.mark.parametrize("verb", ["weights=a", "resume=a"])
def test_the_whitening_of_other_images_survives_a_new_start(verb, train, monkeypatch):
    """Trained on dark digits, then on bright ones: the other weights fit the first layer of the first training."""
    source = digits()
    dark = replace(source, train_inputs=source.train_inputs // 4, test_inputs=source.test_inputs // 4)
    monkeypatch.setattr("athanor.data.sources.digits.digits", lambda: dark)
    no_standardizing = ["data.preprocess=symmetric", "trainer.max_epochs=1", "data.limit=300"]
    assert train(*WORDS, *no_standardizing, "hydra.run.dir=a").code == 0

    def bright() -> Source:
        return source

    bright.__module__, bright.__qualname__ = "athanor.data.sources.digits", "digits"  # what a recorded config may name
    monkeypatch.setattr("athanor.data.sources.digits.digits", bright)
    first = whitening("a")
    if verb == "resume=a":
        assert train(verb, "trainer.max_epochs=2").code == 0
        assert torch.equal(whitening("a"), first)
    else:
        assert train(*WORDS, *no_standardizing, "hydra.run.dir=other").code == 0
        assert not torch.allclose(whitening("other"), first, rtol=0.1)
        assert train(*WORDS, *no_standardizing, verb, "hydra.run.dir=b").code == 0
        assert torch.equal(whitening("b"), first)
