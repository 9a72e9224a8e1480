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


@pytest.mark.parametrize("activation", ["relu", ["tanh", "relu", "maxout", "relu", "relu"]])
def test_two_layers_of_the_width_of_their_input_are_a_residual_block(activation):
    model = mlp(residual=True, widths=[16, 24, 16, 8, 12], activation=activation, norm="none")
    assert [isinstance(layer, Residual) for layer in model.hidden] == [False, True, False, False]
    first, second = linears(model)[1:3]
    x = torch.randn(5, 16)
    out = second(torch.relu(first(x)))
    if activation == "relu":
        torch.testing.assert_close(model.hidden[1](x), torch.relu(x + out))
    else:  # each of the two sums of which maxout takes the larger
        torch.testing.assert_close(model.hidden[1](x), torch.maximum(x + out[:, :16], x + out[:, 16:]))
    assert model(torch.rand(2, 1, 4, 4)).shape == (2, 3)


def test_a_residual_block_has_norms_and_dropout_like_other_layers():
    block = mlp(residual=True, widths=[16, 16, 16, 16, 16], dropout=0.5).hidden[2]
    assert [type(m) for m in block.branch] == [
        nn.Linear,
        nn.BatchNorm1d,
        nn.ReLU,
        nn.Dropout,
        nn.Linear,
        nn.BatchNorm1d,
    ]
    assert [type(m) for m in block.after] == [nn.ReLU, nn.Dropout]


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
        ({"widths": [32, 32], "residual": True}, r"\[32, 32\] none is; use e\.g\. model\.widths=\[32,32,32\]"),
        ({"widths": [32], "residual": True}, r"none is; use e\.g\. model\.widths=\[32,32,32\]"),
    ],
)
def test_errors_name_the_knob(knobs, message):
    with pytest.raises(UserError, match=message):
        mlp(**knobs)
