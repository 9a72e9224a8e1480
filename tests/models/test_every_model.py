"""What holds for every file in configs/model, found by glob: a new model needs no edit here."""

import importlib
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf

from athanor.base.errors import UserError

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "model").glob("*.yaml"))
FEW_PIXELS = {"speednet": {"widths": [64, 256]}}  # its default halves the image three times; 8x8 is too small
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]

every_model = pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))


def build(config, shape, num_classes=10):
    torch.manual_seed(0)
    knobs = OmegaConf.to_container(OmegaConf.load(config), resolve=True)
    if min(shape[1:], default=9) < 9:
        knobs |= FEW_PIXELS.get(config.stem, {})
    module, name = knobs.pop("_target_").rsplit(".", 1)
    return getattr(importlib.import_module(module), name)(input_shape=shape, num_classes=num_classes, **knobs)


@every_model
@every_shape
def test_images_become_logits(config, shape):
    model = build(config, shape, num_classes=7)
    assert model.training
    assert model(torch.rand(2, *shape)).shape == (2, 7)


@every_model
@pytest.mark.parametrize("shape", [(6,), (4, 5)], ids=str)
def test_inputs_that_are_no_pictures_become_logits_or_are_refused_with_the_models_that_take_them(config, shape):
    try:
        model = build(config, shape, num_classes=7)
    except UserError as error:
        assert f"takes pictures, [C, H, W], and an input of this data is {list(shape)}; use model=mlp" in str(error)
        return
    assert model(torch.rand(2, *shape)).shape == (2, 7)
    with pytest.raises(UserError, match="int64, indices for a model that begins with an embedding"):
        model(torch.ones(2, *shape).long())


@every_model
def test_overfits_one_batch(config):
    model = build(config, (1, 8, 8))
    images, targets = torch.randn(16, 1, 8, 8), torch.arange(16) % 10
    optim = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        optim.zero_grad()
        loss = F.cross_entropy(model(images), targets)
        loss.backward()
        if loss < 0.1:
            break
        optim.step()
    assert loss < 0.1


@every_model
def test_every_parameter_that_is_not_frozen_gets_a_gradient(config):
    model = build(config, (3, 32, 32))
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    assert [name for name, p in model.named_parameters() if (p.grad is None) == p.requires_grad] == []


@every_model
def test_channels_last_and_a_pickled_copy_give_the_same_logits(config):
    model, images = build(config, (3, 32, 32)).eval(), torch.rand(2, 3, 32, 32)
    expected = model(images)
    copy = pickle.loads(pickle.dumps(model)).to(memory_format=torch.channels_last)
    torch.testing.assert_close(copy(images.to(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-4)


@every_model
def test_compiles_without_a_graph_break(config):
    model, images = build(config, (1, 8, 8)).eval(), torch.rand(2, 1, 8, 8)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), model(images))
