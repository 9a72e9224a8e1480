"""Each option of init= against its formula, and the variance of activations and gradients in deep networks."""

import math
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from athanor.engine.config import assemble
from athanor.models import initialise
from athanor.models.layers import ACTIVATIONS
from athanor.models.mlp import MLP
from athanor.models.resnet import ResNet

CONFIGS = Path(__file__).parents[2] / "configs"
OPTIONS = sorted(path.stem for path in (CONFIGS / "init").glob("*.yaml"))
BASE = {"bias": 0.0, "log_odds": False, "branches": "auto", "class_counts": None}
SCALED = {"gain": None, "fan": "in", "distribution": "normal"}
DEPTH, WIDTH = 30, 512

every_activation = pytest.mark.parametrize("name", ACTIVATIONS)


def mlp(widths, activation="relu", norm="none", residual=False, inputs=16, num_classes=10):
    torch.manual_seed(0)
    knobs = dict(widths=widths, norm=norm, activation=activation, dropout=0.0, residual=residual)
    return MLP(input_shape=(1, 1, inputs), num_classes=num_classes, **knobs)


def resnet(**knobs):
    torch.manual_seed(0)
    knobs = {"depth": 8, "width": None, "shortcut": True, "option": None, "norm": "batch"} | knobs
    return ResNet(input_shape=(3, 16, 16), num_classes=10, **knobs)


def weights(network):
    return [m.weight for m in network.modules() if isinstance(m, initialise.Layer)]


def drawn(network, option, **knobs):
    """The network, with what a file of configs/init says and `knobs` say otherwise."""
    shared = OmegaConf.load(CONFIGS / "init" / "base" / "default.yaml")
    node = {**shared, **OmegaConf.load(CONFIGS / "init" / f"{option}.yaml"), "class_counts": None, **knobs}
    del node["defaults"]
    torch.manual_seed(1)
    assemble.build({k: v for k, v in node.items() if k != "class_counts"}, "init", class_counts=node["class_counts"])(
        network
    )
    return network


# gains


def expected(function, scale):
    """E[f(scale z)] for z ~ N(0, 1), from 400,001 points."""
    z = torch.linspace(-9, 9, 400_001, dtype=torch.float64)
    density = torch.exp(-z.square() / 2)
    return ((function(scale * z) * density).sum() / density.sum()).item()


@pytest.mark.parametrize(
    "module, gain",
    [
        (nn.ReLU(), math.sqrt(2)),
        (nn.LeakyReLU(0.2), nn.init.calculate_gain("leaky_relu", 0.2)),
        (nn.PReLU(64, 0.25), nn.init.calculate_gain("leaky_relu", 0.25)),
        (ACTIVATIONS["maxout"](), 1.0),
        (nn.Identity(), 1.0),
        (nn.SELU(), 1.0),  # which is made for it
    ],
)
def test_gains_that_are_known(module, gain):
    assert initialise.gain_of(module) == pytest.approx(gain, rel=1e-4)


@every_activation
def test_the_gain_keeps_the_mean_square_of_what_an_activation_gives(name):
    activation = ACTIVATIONS[name]().double().requires_grad_(False)
    gain = initialise.gain_of(activation)
    if name == "maxout":
        return  # of two channels, and among the known ones
    if name in ("sigmoid", "tanh"):
        assert initialise.saturates(activation)
        assert gain**2 * expected(lambda z: activation(z).square(), 1.0) == pytest.approx(1, rel=1e-4)
    else:
        assert not initialise.saturates(activation)
        assert expected(lambda z: activation(z).square(), gain) == pytest.approx(1, rel=1e-4)


# depth


def mean_squares(network, activation):
    """Of a deep network: mean squares of the sums before each activation, and of the gradients with respect to them."""
    x = torch.randn(64, WIDTH)
    x = x / x.square().mean(1, keepdim=True).sqrt()
    sums = []
    hooks = [layer[0].register_forward_hook(lambda *args: sums.append(args[2])) for layer in network.hidden]
    outputs = network(x[:, None, None])
    for z in sums:
        z.retain_grad()
    outputs.backward(torch.randn_like(outputs))
    [hook.remove() for hook in hooks]
    return [z.detach().square().mean().item() for z in sums], [z.grad.square().mean().item() for z in sums]


@pytest.mark.parametrize("option", ["kaiming", "xavier", "lecun", "auto", "orthogonal", "sparse"])
@every_activation
def test_variances_of_activations_and_gradients_by_layer_follow_the_formula(name, option):
    """q' = g^2 E[f(sqrt(q) z)^2] forwards, and p = g^2 E[f'(sqrt(q) z)^2] p' backwards (Poole et al. 2016)."""
    network = drawn(mlp([WIDTH] * DEPTH, name, inputs=WIDTH), option)
    activation = ACTIVATIONS[name]()
    q, p = mean_squares(network, activation)
    gain2 = 1.0 if option == "lecun" else initialise.gain_of(activation) ** 2
    is_maxout = name == "maxout"
    if is_maxout and option == "xavier":
        gain2 *= 2 / 3  # twice as many outputs as inputs
    if is_maxout and option == "orthogonal":
        gain2 *= 1.0

    def derivative(z):
        z = z.detach().requires_grad_()
        return torch.autograd.grad(activation.double()(z).sum(), z)[0].square()

    for layer in range(DEPTH - 1):
        scale = q[layer] ** 0.5
        forwards = q[layer] if is_maxout else expected(lambda z: activation.double()(z).detach().square(), scale)
        assert q[layer + 1] == pytest.approx(gain2 * forwards, rel=0.25), layer
        # a gradient of maxout goes to one of its two sums
        backwards = 0.5 * 2 if is_maxout else expected(derivative, scale)
        assert p[layer] == pytest.approx(gain2 * backwards * p[layer + 1], rel=0.35), layer
