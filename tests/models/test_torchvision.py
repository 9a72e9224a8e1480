import pytest
import torch
from torch import nn
from torchvision import models

from athanor.base.errors import UserError
from athanor.models.torchvision import Torchvision, replace_head

SMALL = "mobilenet_v3_small"


def net(shape=(3, 32, 32), name=SMALL, weights=None):
    return Torchvision(input_shape=shape, num_classes=7, name=name, weights=weights)


def test_grey_images_are_repeated_to_three_channels():
    model = net((1, 32, 32)).eval()
    grey = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(model(grey), model.net(grey.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_the_head_is_replaced_and_nothing_else(name):
    original = models.get_model(name, weights=None)
    before = {key: value.shape for key, value in original.state_dict().items()}
    replace_head(original, 7)
    after = {key: value.shape for key, value in original.state_dict().items()}
    assert sorted(before) == sorted(after)
    changed = {key.rsplit(".", 1)[0] for key in before if before[key] != after[key]}
    assert len(changed) == 1
    assert original.eval()(torch.rand(2, 3, 64, 64)).shape == (2, 7)


def test_pretrained_weights_load_before_the_head_is_replaced(monkeypatch):
    torch.manual_seed(0)
    enum = models.get_model_weights(SMALL)
    stored = models.get_model(SMALL).state_dict()
    monkeypatch.setattr(enum, "get_state_dict", lambda self, **_: stored)
    model = net(weights="DEFAULT")
    assert torch.equal(model.net.features[0][0].weight, stored["features.0.0.weight"])
    assert model.training
    assert [m for m in model.modules() if isinstance(m, nn.Linear)][-1].out_features == 7


@pytest.mark.parametrize(
    "knobs, message",
    [
        ({"name": "resnet19"}, r"model\.name=resnet19 is not a classification network.*did you mean resnet"),
        ({"name": "fcn_resnet50"}, r"model\.name=fcn_resnet50 is not a classification network"),
        ({"weights": "IMAGENET"}, r"model\.weights=IMAGENET is not known; did you mean IMAGENET1K_V1\?$"),
        ({"shape": (4, 32, 32)}, r"takes 1 or 3 channels, and the data has 4; use model=resnet or model=cnn"),
        (
            {"name": "squeezenet1_1", "shape": (1, 8, 8)},
            r"model\.name=squeezenet1_1 cannot take 8x8 images \(.*it needs larger ones.*"
            r"Raise data\.image_size.*model=resnet or model=cnn",
        ),
    ],
)
def test_errors_name_the_knob(knobs, message):
    with pytest.raises(UserError, match=message):
        net(**knobs)
