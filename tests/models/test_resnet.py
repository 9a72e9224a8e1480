import pytest
import torch
from torch import nn

from athanor.base.errors import UserError
from athanor.models.resnet import ResNet, Subsample

KNOBS = {"depth": 20, "width": None, "shortcut": True, "option": None, "norm": "batch"}


def resnet(shape=(3, 32, 32), **knobs):
    return ResNet(input_shape=shape, num_classes=10, **{**KNOBS, **knobs})


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("depth, millions", [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_parameter_counts_of_the_paper(depth, millions):  # He et al. 2015, table 6
    digits = 1 if depth == 110 else 2
    assert round(count(resnet(depth=depth)) / 1e6, digits) == millions


def test_exact_parameter_counts():
    assert count(resnet(option="A")) == 269_722
    assert count(resnet(option="B")) == 272_474
    assert count(resnet(depth=18)) == 11_173_962


@pytest.mark.parametrize("depth", [8, 20])
def test_depth_counts_the_layers_with_weights(depth):
    layers = [m for m in resnet(depth=depth).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth


def test_plain_twin_has_the_parameters_of_option_a_and_no_additions():
    residual, plain = resnet(option="A"), resnet(shortcut=False)
    plain.load_state_dict(residual.state_dict())
    x = torch.rand(2, 16, 8, 8)
    block = plain.stages[0][0]
    conv1, norm1, _, conv2, norm2 = block.convs
    torch.testing.assert_close(block(x), torch.relu(norm2(conv2(torch.relu(norm1(conv1(x)))))))
    images = torch.rand(2, 3, 32, 32)
    assert not torch.allclose(plain(images), residual(images))


def test_option_a_subsamples_and_pads_with_zero_channels():
    x = torch.randn(2, 3, 5, 6)
    expected = torch.zeros(2, 6, 3, 3)
    for i in range(3):
        for j in range(3):
            expected[:, :3, i, j] = x[:, :, 2 * i, 2 * j]
    assert torch.equal(Subsample()(x), expected)


def test_option_b_projects_only_where_the_width_doubles():
    shortcuts = [block.shortcut for stage in resnet(option="B").stages for block in stage]
    assert [type(s) for s in shortcuts] == [nn.Identity] * 3 + ([nn.Sequential] + [nn.Identity] * 2) * 2


@pytest.mark.parametrize("norm", ["none", "batch", "group", "layer"])
@pytest.mark.parametrize("option", ["A", "B"])
def test_bias_is_dropped_before_a_norm_only(norm, option):
    model = resnet(norm=norm, option=option, depth=8)
    assert {m.bias is None for m in model.modules() if isinstance(m, nn.Conv2d)} == {norm != "none"}
    assert model(torch.rand(2, 3, 32, 32)).isfinite().all()


@pytest.mark.parametrize(
    "knobs, message",
    [
        ({"depth": 19}, r"model\.depth=19 must be 6n\+2 \(8, 14, 20, 32, 44, 56, 110, \.\.\.\) or 18"),
        ({"depth": 2}, r"model\.depth=2 must be 6n\+2"),
        ({"width": 0}, r"model\.width=0 must be at least 1"),
        ({"option": "C"}, r"model\.option=C is not known; choose from: A, B"),
        ({"norm": "instance"}, r"model\.norm=instance is not known; choose from: batch, group, layer, none$"),
    ],
)
def test_errors_name_the_knob(knobs, message):
    with pytest.raises(UserError, match=message):
        resnet(**knobs)
