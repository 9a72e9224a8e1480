"""Networks of timm. Without timm, only that its absence is said."""

import importlib.util
import re
import sys

import pytest
import torch

from athanor.base.errors import UserError
from athanor.models.timm import Timm
from athanor.tasks.frozen import Frozen

needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
SMALL = "test_resnet"  # 0.5 million parameters, which timm has for tests


def net(shape=(3, 32, 32), name=SMALL, pretrained=False):
    return Timm(input_shape=shape, num_classes=7, name=name, pretrained=pretrained)


def test_that_timm_is_missing_is_said_with_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"^model=timm: .*; type pip install timm$"):
        net()


@needs_timm
@pytest.mark.parametrize("shape", [(1, 32, 32), (4, 32, 48)])
@pytest.mark.parametrize("name", [SMALL, "test_vit", "test_convnext"])
def test_it_takes_pictures_of_any_channels_and_size(name, shape):
    assert net(shape, name)(torch.rand(2, *shape)).shape == (2, 7)


@needs_timm
@pytest.mark.parametrize("name", [SMALL, "test_vit", "test_efficientnet", "test_convnext"])
def test_a_linear_probe_trains_the_classifier_alone(name):
    model = net(name=name)
    for part in Frozen("all_but_head").parts(model):
        part.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert list(map(id, trained)) == list(map(id, model.net.get_classifier().parameters()))


@needs_timm
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_pretrained_weights_are_those_of_a_file_in_all_layers_but_the_last(suffix, tmp_path, caplog):
    import timm

    torch.manual_seed(0)
    weights = timm.create_model(SMALL).state_dict()
    (tmp_path / "weights").mkdir()
    if suffix == ".pth":
        torch.save(weights, tmp_path / "weights" / f"{SMALL}.pth")
    else:
        pytest.importorskip("safetensors.torch").save_file(weights, tmp_path / "weights" / f"{SMALL}.safetensors")
    model = net(pretrained=True)
    with caplog.at_level("INFO", "athanor"):
        model.load_pretrained(tmp_path)
    state = model.net.state_dict()
    changed = {
        key for key in state if state[key].shape != weights[key].shape or not torch.equal(state[key], weights[key])
    }
    assert changed == {"fc.weight", "fc.bias"}
    assert re.search(r"go with data/preprocess=(imagenet|symmetric)", caplog.text)


@needs_timm
@pytest.mark.parametrize(
    "knobs, message",
    [
        ({"name": "resnet19"}, r"model\.name=resnet19 is no network of timm; did you mean resnet"),
        ({"name": "hf-hub:someone/net"}, r"is no network of timm"),
        ({"name": "resnet10t_nothing", "pretrained": True}, r"is no network of timm"),
        ({"name": "test_vit", "shape": (3, 30, 30)}, r"model\.name=test_vit cannot take"),
    ],
)
def test_errors_name_the_knob(knobs, message):
    with pytest.raises(UserError, match=message):
        net(**knobs)
