import pytest
import torch
from torch import nn

from athanor.base.errors import UserError
from athanor.models.cnn import CNN

KNOBS = {
    "widths": [8, 16],
    "convs_per_stage": 2,
    "fc_widths": [32],
    "norm": "batch",
    "activation": "relu",
    "dropout": 0.5,
}


def cnn(shape=(3, 12, 12), **knobs):
    return CNN(input_shape=shape, num_classes=10, **{**KNOBS, **knobs})


def kinds(model):
    return [type(m) for m in model.modules() if not list(m.children())]


def test_follows_the_vgg_pattern():
    conv = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    stage = [*conv, *conv, nn.MaxPool2d]
    assert kinds(cnn()) == [*stage, *stage, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]


def test_parameter_count_by_hand():
    convs = 9 * (3 * 8 + 8 * 8 + 8 * 16 + 16 * 16) + 2 * (8 + 8 + 16 + 16)
    fcs = (16 * 3 * 3 + 1) * 32 + (32 + 1) * 10
    assert sum(p.numel() for p in cnn().parameters()) == convs + fcs


@pytest.mark.parametrize("norm", ["none", "batch", "group", "layer"])
def test_bias_is_dropped_before_a_norm_only(norm):
    convs = [m for m in cnn(norm=norm).modules() if isinstance(m, nn.Conv2d)]
    assert [m.bias is None for m in convs] == [norm != "none"] * 4


def test_other_numbers_of_layers_and_odd_images():
    model = cnn((1, 9, 13), widths=[4, 4, 4], convs_per_stage=1, fc_widths=[], activation="maxout")
    assert model(torch.rand(2, 1, 9, 13)).shape == (2, 10)


def test_group_norm_never_has_groups_of_one_channel():
    groups = {
        m.num_channels: m.num_groups for m in cnn(norm="group", widths=[8, 64]).modules() if hasattr(m, "num_groups")
    }
    assert groups == {8: 2, 64: 8}


@pytest.mark.parametrize(
    "knobs, message",
    [
        ({"widths": [8] * 4}, r"makes 4 stages.*12x12 images allow at most 3; shorten model\.widths"),
        ({"widths": []}, r"model\.widths=\[\] leaves no stage"),
        ({"widths": [0]}, r"model\.widths=\[0\] holds a width below 1"),
        ({"fc_widths": [0]}, r"model\.fc_widths=\[0\] holds a width below 1"),
        ({"convs_per_stage": 0}, r"model\.convs_per_stage=0 must be at least 1"),
        ({"norm": "bach"}, r"model\.norm=bach is not known; did you mean batch\?$"),
        ({"activation": "swish"}, r"model\.activation=swish is not known; choose from: elu, gelu, leaky_relu"),
    ],
)
def test_errors_name_the_knob(knobs, message):
    with pytest.raises(UserError, match=message):
        cnn(**knobs)
