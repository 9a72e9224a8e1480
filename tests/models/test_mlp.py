import pytest
import torch
from torch import nn

from athanor.base.errors import UserError
from athanor.models.layers import ACTIVATIONS
from athanor.models.mlp import MLP, Residual

KNOBS = {"widths": [16, 16], "norm": "batch", "activation": "relu", "dropout": 0.0, "residual": False}


def mlp(**knobs):
    return MLP(input_shape=(1, 4, 4), num_classes=3, **{**KNOBS, **knobs})


def linears(model):
    return [m for m in model.modules() if isinstance(m, nn.Linear)]


def test_order_is_linear_norm_activation_dropout():
    layer = mlp(dropout=0.5).hidden[0]
    assert [type(m) for m in layer] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout]


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_bias_is_dropped_before_a_norm_only(norm):
    assert [m.bias is None for m in linears(mlp(norm=norm))] == [True, True, False]
    assert [m.bias is None for m in linears(mlp(norm="none"))] == [False, False, False]


def test_three_layer_net_of_the_notes():
    model = MLP(input_shape=(1, 28, 28), num_classes=10, **{**KNOBS, "norm": "none", "activation": ["sigmoid", "tanh"]})
    assert [type(layer[2]) for layer in model.hidden] == [nn.Sigmoid, nn.Tanh]
    assert sum(p.numel() for p in model.parameters()) == 784 * 16 + 16 + 16 * 16 + 16 + 16 * 10 + 10


def test_residual_layer_with_zero_weights_is_the_identity():
    model = mlp(residual=True, widths=[16, 16, 8])
    assert [isinstance(layer, Residual) for layer in model.hidden] == [False, True, False]
    nn.init.zeros_(model.hidden[1][0].weight)
    x = torch.randn(5, 16)
    torch.testing.assert_close(model.hidden[1](x), x)


def test_maxout_is_the_larger_of_two_linear_pieces():
    model = mlp(activation="maxout", norm="none", widths=[6])
    linear, x = model.hidden[0][0], torch.randn(5, 16)
    first = x @ linear.weight[:6].T + linear.bias[:6]
    second = x @ linear.weight[6:].T + linear.bias[6:]
    torch.testing.assert_close(model.hidden[0](x), torch.where(first > second, first, second))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation(name):
    assert mlp(activation=name)(torch.rand(2, 1, 4, 4)).shape == (2, 3)


@pytest.mark.parametrize(
    "knobs, message",
    [
        ({"activation": "relo"}, r"model\.activation=relo is not known; did you mean relu\?$"),
        ({"activation": ["relu"]}, r"has 1 entries for 2 hidden layers; give one name, or as many as model\.widths"),
        ({"norm": "group"}, r"model\.norm=group is not known; choose from: batch, layer, none$"),
        ({"dropout": 1.0}, r"model\.dropout=1\.0 must be at least 0 \(off\) and below 1"),
        ({"widths": []}, r"model\.widths=\[\] leaves no hidden layer; use model=linear"),
        ({"widths": [8, 0]}, r"model\.widths=\[8, 0\] holds a width below 1"),
        ({"widths": [32, 16], "residual": True}, r"none does; use e\.g\. model\.widths=\[32,32\]"),
        ({"widths": [32], "residual": True}, r"none does; use e\.g\. model\.widths=\[32,32\]"),
    ],
)
def test_errors_name_the_knob(knobs, message):
    with pytest.raises(UserError, match=message):
        mlp(**knobs)
