"""Each option of init= against its formula, and variances of activations and gradients in deep networks."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import nn

from athanor.base.errors import UserError
from athanor.engine.config import assemble, check
from athanor.engine.runs.lineage import load_weights
from athanor.engine.runs.run import Run
from athanor.models import initialise
from athanor.models.layers import ACTIVATIONS
from athanor.models.mlp import MLP
from athanor.models.resnet import ResNet
from athanor.models.speednet import SpeedNet

CONFIGS = Path(__file__).parents[2] / "configs"
OPTIONS = sorted(path.stem for path in (CONFIGS / "init").glob("*.yaml"))
MODELS = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml"))
if importlib.util.find_spec("timm") is None:  # test_timm.py has what is said then
    MODELS.remove("timm")
DEPTH, WIDTH = 30, 256

every_activation = pytest.mark.parametrize("name", ACTIVATIONS)


def mlp(widths, activation="relu", norm="none", residual=False, inputs=16):
    torch.manual_seed(0)
    knobs = dict(widths=widths, norm=norm, activation=activation, dropout=0.0, residual=residual)
    return MLP(input_shape=(1, 1, inputs), num_classes=10, **knobs)


def resnet(**knobs):
    torch.manual_seed(0)
    knobs = {"depth": 8, "width": None, "shortcut": True, "option": None, "norm": "batch"} | knobs
    return ResNet(input_shape=(3, 16, 16), num_classes=10, **knobs)


def drawn(network, option, counts=None, **knobs):
    """The network, with what a file of configs/init says, and `knobs` in its place."""
    parts = [OmegaConf.load(CONFIGS / "init" / name) for name in ("base/default.yaml", f"{option}.yaml")]
    node = {key: value for part in parts for key, value in part.items() if key != "defaults"} | knobs
    torch.manual_seed(1)
    assemble.build(node, "init", class_counts=counts)(network)
    return network


def weights(network):
    return [m.weight for m in network.modules() if isinstance(m, initialise.Layer)]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# gains


def expected(function, scale=1.0):
    """E[f(scale z)] for z ~ N(0, 1), from 20,001 points."""
    z = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    density = torch.exp(-z.square() / 2)
    return ((function(scale * z) * density).sum() / density.sum()).item()


@pytest.mark.parametrize(
    "module, gain",
    [
        (nn.ReLU(), math.sqrt(2)),
        (nn.LeakyReLU(0.2), nn.init.calculate_gain("leaky_relu", 0.2)),
        (nn.PReLU(64, 0.25), nn.init.calculate_gain("leaky_relu", 0.25)),
        (nn.SELU(), 1.0),  # which is made for it
        (ACTIVATIONS["maxout"](), 1.0),
        (nn.Identity(), 1.0),
        (nn.Sigmoid(), 1.0),
        (nn.Tanh(), 1.0),
    ],
)
def test_gains_that_are_known(module, gain):
    assert initialise.gain_of(module) == pytest.approx(gain, rel=1e-4)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS.keys() - {"sigmoid", "tanh", "maxout"}))
def test_the_gain_keeps_the_mean_square_of_what_an_activation_gives(name):
    activation = ACTIVATIONS[name]()
    gain = initialise.gain_of(activation)
    assert expected(lambda z: activation.double()(z).detach().square(), gain) == pytest.approx(1, rel=1e-4)


# depth


def mean_squares(network):
    """Mean squares of the sums before each activation, and of the gradients with respect to them, by layer."""
    x = torch.randn(32, WIDTH)
    x = x / x.square().mean(1, keepdim=True).sqrt()
    sums = []
    for layer in network.hidden:
        layer[0].register_forward_hook(lambda module, inputs, output: sums.append(output))
    outputs = network(x[:, None, None])
    gradients = torch.autograd.grad(outputs, sums, torch.randn_like(outputs))
    return [[z.square().mean().item() for z in tensors] for tensors in (sums, gradients)]


@pytest.mark.parametrize("option", ["auto", "kaiming", "xavier", "lecun"])
@every_activation
def test_variances_of_activations_and_gradients_by_layer(name, option):
    """Forwards q' = g^2 E[f(sqrt(q) z)^2], backwards p = g^2 E[f'(sqrt(q) z)^2] p' (Poole et al. 2016)."""
    q, p = mean_squares(drawn(mlp([WIDTH] * DEPTH, name, inputs=WIDTH), option))
    activation = ACTIVATIONS[name]().double()
    gain2 = 1.0 if option == "lecun" else initialise.gain_of(activation) ** 2

    def slope2(z):
        z = z.requires_grad_()
        return torch.autograd.grad(activation(z).sum(), z)[0].square()

    if name == "maxout":
        gain2 *= 2 / 3 if option == "xavier" else 1.0  # twice as many outputs as inputs
    forth, back = [], []  # logarithms of what is by what the formula says
    for layer in range(DEPTH - 1):
        scale = q[layer] ** 0.5
        # the larger of two has their mean square, and each of the two has the gradient half of the times
        forwards = q[layer] if name == "maxout" else expected(lambda z: activation(z).detach().square(), scale)
        backwards = 1.0 if name == "maxout" else expected(slope2, scale)
        forth.append(math.log(q[layer + 1] / (gain2 * forwards)))
        back.append(math.log(p[layer] / (gain2 * backwards * p[layer + 1])))
    # 256 units of images that grow alike deviate by 0.1 or so in a layer
    assert max(map(abs, forth + back)) < 0.7
    assert abs(sum(forth)) / len(forth) < 0.1
    assert abs(sum(back)) / len(back) < 0.1


@pytest.mark.parametrize("name", sorted(ACTIVATIONS.keys() - {"sigmoid"}))
def test_the_default_neither_fades_nor_explodes_in_30_layers(name):
    """Unlike torch's: ReLU has a third of the variance after each layer."""
    q, p = mean_squares(drawn(mlp([WIDTH] * DEPTH, name, inputs=WIDTH), "auto"))
    assert 0.01 < q[-1] / q[0] < 100
    assert 0.01 < p[0] / p[-1] < 100
    if name == "relu":
        q, p = mean_squares(drawn(mlp([WIDTH] * DEPTH, name, inputs=WIDTH), "default"))
        assert (q[-1] / q[0], p[0] / p[-1]) < (1e-2, 1e-15)


@pytest.mark.parametrize("residual", [dict(), dict(option="B"), "mlp"])
def test_scaled_branches_keep_deep_residual_networks_without_norm_in_range(residual):
    """Each block adds at most 1/L of the variance; without that, each would double it."""

    def deep():
        return mlp([64] * 61, residual=True) if residual == "mlp" else resnet(depth=56, norm="none", **residual)

    images = torch.randn(16, 1, 1, 16) if residual == "mlp" else torch.randn(16, 3, 16, 16)
    losses = [
        F.cross_entropy(drawn(deep(), "auto", branches=branches)(images), torch.arange(16) % 10)
        for branches in ("auto", "scaled", "zero", "same")
    ]
    assert losses[0] == losses[1]
    assert max(losses[:3]) < 6
    assert losses[3] > 100


# options


@pytest.mark.parametrize(
    "option, knobs, variance",
    [
        ("kaiming", {}, 2 / 600),
        ("kaiming", {"fan": "out"}, 2 / 300),
        ("kaiming", {"gain": 0.5, "distribution": "uniform"}, 0.25 / 600),
        ("xavier", {}, 2 * 2 / (600 + 300)),
        ("xavier", {"gain": 5 / 3, "distribution": "uniform"}, 25 / 9 * 2 / (600 + 300)),
        ("lecun", {}, 1 / 600),
        ("lecun", {"fan": "out"}, 1 / 300),
        ("normal", {}, 1e-4),
        ("normal", {"std": 2.0}, 4.0),
        ("orthogonal", {}, 2 / 600),
        ("sparse", {}, 2 / 600),
        ("sparse", {"gain": 3.0, "inputs": 40}, 9 / 600),
        ("auto", {}, 2 / 600),
        ("default", {}, 1 / (3 * 600)),
        ("zeros", {}, 0.0),
    ],
)
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_the_variance_of_each_option(kind, option, knobs, variance):
    torch.manual_seed(0)
    layer = nn.Linear(600, 300) if kind == "linear" else nn.Conv2d(60, 30, (2, 5))  # fan_in 600, fan_out 300
    network = nn.Sequential(layer, nn.ReLU(), nn.Linear(3, 3))
    network.initialised_by_activation = True
    weight = weights(drawn(network, option, **knobs))[0].detach()
    assert weight.square().mean().item() == pytest.approx(variance, rel=0.3 if option == "sparse" else 0.06)
    assert abs(weight.mean().item()) <= 0.05 * variance**0.5
    if knobs.get("distribution") == "uniform":
        assert weight.abs().max().item() == pytest.approx((3 * variance) ** 0.5, rel=0.01)
    elif option in ("kaiming", "xavier", "lecun", "normal", "auto"):
        kurtosis = weight.pow(4).mean() / weight.square().mean().square()
        assert kurtosis.item() == pytest.approx(3, rel=0.1)
    assert (layer.bias.abs().max() == 0) == (option != "default")


def test_auto_is_kaiming_and_before_sigmoid_and_tanh_xavier():
    def network():
        return mlp([300, 400, 500, 600], ["relu", "sigmoid", "tanh", "gelu"], inputs=200)

    auto, gelu = drawn(network(), "auto"), initialise.gain_of(nn.GELU())
    variances = [2 / 200, 2 / (300 + 400), 2 / (400 + 500), gelu**2 / 500, 1 / 600]
    assert [w.var().item() for w in weights(auto)] == pytest.approx(variances, rel=0.05)


def test_orthogonal_rows_or_columns():
    tall, wide = weights(drawn(mlp([64, 32], ["relu", "tanh"], inputs=16), "orthogonal"))[:2]
    torch.testing.assert_close(tall.T @ tall, 2 * torch.eye(16))
    torch.testing.assert_close(wide @ wide.T, torch.eye(32))


@pytest.mark.parametrize("inputs, shown", [(10, [10, 10, 10]), (40, [16, 40, 40])])
def test_sparse_units_have_so_many_inputs(inputs, shown):
    network = drawn(mlp([300, 200], inputs=16), "sparse", inputs=inputs)
    assert [set((w != 0).sum(1).tolist()) for w in weights(network)] == [{number} for number in shown]
    used = (weights(network)[1] != 0).sum(0)  # by how many units of the next layer
    assert used.float().mean().item() == pytest.approx(200 * inputs / 300)
    assert used.min() < used.max()
    conv = nn.Conv2d(8, 50, 3)
    drawn(nn.Sequential(conv), "sparse", inputs=inputs)
    assert set((conv.weight != 0).flatten(1).sum(1).tolist()) == {inputs}


@pytest.mark.parametrize("option, knobs", [("zeros", {"bias": 0.5}), ("constant", {"value": 0.02})])
def test_equal_weights_stay_equal(option, knobs):
    network, x = drawn(mlp([8, 8], "tanh"), option, **knobs), torch.randn(32, 1, 1, 16)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(network(x), torch.arange(32) % 10).backward()
        optimizer.step()
    first, second, _ = weights(network)
    torch.testing.assert_close(first, first[:1].expand_as(first))
    torch.testing.assert_close(second, second[:1].expand_as(second))


@pytest.mark.parametrize("option", OPTIONS)
def test_the_bias_of_every_layer(option):
    network = drawn(mlp([32, 32]), option, bias=0.01)
    biases = torch.cat([module.bias for module in network.modules() if isinstance(module, nn.Linear)])
    assert torch.equal(biases, torch.full_like(biases, 0.01))


@pytest.mark.parametrize("option", OPTIONS)
def test_norm_layers_and_slopes_stay_as_they_are(option):
    network, fresh = (mlp([32, 32], "prelu", "batch") for _ in range(2))
    drawn(network, option)
    for module, before in zip(network.modules(), fresh.modules(), strict=True):
        if isinstance(module, nn.BatchNorm1d | nn.PReLU):
            assert same(module, before)


def test_log_odds_give_the_first_loss_of_the_entropy():
    counts = torch.tensor([500, 200, 100, 80, 50, 30, 20, 10, 9, 1])
    network = drawn(mlp([32]), "zeros", counts, log_odds=True)
    labels = torch.repeat_interleave(torch.arange(10), counts)
    loss = F.cross_entropy(network(torch.randn(len(labels), 1, 1, 16)), labels)
    shares = counts / counts.sum()
    torch.testing.assert_close(loss, -(shares * shares.log()).sum())
    assert loss < 0.7 * math.log(10)
    without = drawn(mlp([32]), "auto", counts - counts.clamp_max(1), log_odds=True, bias=0.3)
    assert without.head.bias.isfinite().all()  # the last class has no inputs
    assert without.hidden[0][0].bias.tolist() == pytest.approx([0.3] * 32)


# networks


def test_the_activation_of_a_layer_is_the_first_after_it():
    found = initialise.layers_with_activations(resnet(option="B"))
    assert [type(activation) for _, activation in found] == [nn.ReLU] * 9 + [nn.Identity]
    found = initialise.layers_with_activations(mlp([8, 8, 8], ["relu", "gelu", "tanh"], residual=True))
    assert [type(activation) for _, activation in found] == [nn.ReLU, nn.GELU, nn.Tanh, nn.Identity]
    found = initialise.layers_with_activations(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    assert [type(activation) for _, activation in found] == [nn.ReLU, nn.Identity]  # F.relu cannot be seen
    found = initialise.layers_with_activations(nn.Sequential(nn.Tanh(), nn.Linear(2, 2), nn.Linear(2, 2)))
    assert [type(activation) for _, activation in found] == [nn.Tanh, nn.Identity]  # one for all, defined first


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("make", [resnet, lambda norm: mlp([16, 16, 16], norm=norm, residual=True)])
def test_branches_that_begin_at_zero_leave_the_input_alone(make, norm):
    network = drawn(make(norm=norm), "kaiming", branches="zero", bias=0.1).eval()
    [block, *_] = [m for m in network.modules() if getattr(m, "branch", None) is not None]
    x = torch.rand(4, 16, 5, 5) if isinstance(network, ResNet) else torch.rand(4, 16)
    assert torch.equal(block.branch(x), torch.zeros_like(x))
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("norm, factor", [("none", 3**-0.5), ("batch", 1.0)])
def test_auto_scales_branches_without_norm_alone(norm, factor):
    auto, plain = drawn(resnet(norm=norm), "auto"), drawn(resnet(norm=norm), "auto", branches="same")
    for block, before in zip(auto.stages, plain.stages, strict=True):
        torch.testing.assert_close(block[0].convs[3].weight, factor * before[0].convs[3].weight)
        assert torch.equal(block[0].convs[0].weight, before[0].convs[0].weight)


def test_the_plain_twin_has_no_branches():
    assert same(drawn(resnet(shortcut=False, norm="none"), "auto"), drawn(resnet(norm="none"), "auto", branches="same"))


class Own(nn.Module):
    """A model of a person, which sets its own weights."""

    def __init__(self):
        super().__init__()
        self.frozen, self.head = nn.Linear(4, 4), nn.Linear(4, 10)
        self.frozen.requires_grad_(False)
        nn.init.constant_(self.head.weight, 7.0)


def speednet():
    torch.manual_seed(0)
    knobs = dict(widths=[8, 8], convs_per_stage=2, residual=False, norm_momentum=0.1)
    return SpeedNet(input_shape=(3, 16, 16), num_classes=10, **knobs)


@pytest.mark.parametrize("make", [Own, speednet])
def test_what_a_network_sets_itself_stays_unless_an_option_is_chosen(make):
    torch.manual_seed(0)
    network = make()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    drawn(network, "auto")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    drawn(network, "kaiming")
    changed = {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}
    layers = {f"{name}.weight" for name, m in network.named_modules() if isinstance(m, initialise.Layer)}
    assert {name for name in changed if name.endswith("weight")} == layers - {"frozen.weight", "whiten.weight"}


def test_of_a_pretrained_network_the_last_layer_alone_is_drawn():
    network = mlp([8, 8, 8], residual=True)
    network.pretrained = True
    before = {name: value.clone() for name, value in network.state_dict().items()}
    drawn(network, "kaiming")
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    "make, knobs, message",
    [
        (
            lambda: mlp([8]),
            {"branches": "zero"},
            r"^init\.branches=zero: this network has no residual branch to change",
        ),
        (speednet, {"branches": "scaled"}, r"^init\.branches=scaled: this network has no residual branch to change"),
        (speednet, {"log_odds": True}, r"^init\.log_odds=true needs a last layer with a bias for each class"),
        (nn.ReLU, {"log_odds": True}, r"^init\.log_odds=true needs a last layer with a bias for each class"),
        (lambda: nn.Linear(2, 3), {"log_odds": True}, r"^init\.log_odds=true needs a last layer with a bias for each"),
        (lambda: mlp([8]), {"log_odds": True, "counts": None}, r"^init\.log_odds=true is for classes"),
    ],
)
@pytest.mark.parametrize("option", ["auto", "default"])
def test_what_a_network_cannot_have_is_refused(option, make, knobs, message):
    with pytest.raises(UserError, match=message):
        drawn(make(), option, **{"counts": torch.ones(10), **knobs})


def test_sparse_needs_an_input():
    with pytest.raises(UserError, match=r"^init\.inputs=0 must be at least 1"):
        drawn(mlp([8]), "sparse", inputs=0)


# in a task


def task(compose, *words, seed=0):
    config = check.plain(compose("model=mlp", *words))
    check.check(config)
    torch.manual_seed(seed)
    data = assemble.data(config)
    return assemble.task(config, data), data


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("model", MODELS)
def test_every_option_trains_every_model(model, option, compose):
    small = {
        "speednet": ["model.widths=[8,8]"],
        "torchvision": ["model.name=mobilenet_v3_small"],
        "resnet": ["model.depth=8", "model.width=4"],
        "cnn": ["model.widths=[8,8]"],
    }
    module, data = task(compose, f"model={model}", f"init={option}", *small.get(model, []))
    optimizer = torch.optim.SGD([p for p in module.network.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(2):
        loss, _ = module.training_loss(data.source.train_inputs[:8], data.source.train_targets[:8])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.isfinite()


@pytest.mark.parametrize("words", [[], ["model=cnn"], ["model=speednet", "model.widths=[64,64]"]])
def test_first_weights_are_a_function_of_the_seed_and_can_be_drawn_anew(words, compose):
    first, second, other = (task(compose, *words, seed=seed)[0] for seed in (5, 5, 6))
    assert same(first, second)
    assert not same(first.network, other.network)
    pointers = [p.data_ptr() for p in first.network.parameters()]
    with torch.no_grad():
        first.network.head.weight.zero_()
    torch.manual_seed(5)
    first.network.load_state_dict(first.fresh_network().state_dict())
    assert same(first, second)
    first.network.load_state_dict(first.fresh_network().state_dict())
    assert not torch.equal(first.network.head.weight, second.network.head.weight)
    assert [p.data_ptr() for p in first.network.parameters()] == pointers


def test_the_counts_of_the_training_images_reach_the_last_bias(compose):
    module, data = task(compose, "init.log_odds=true")
    counts = data.source.train_targets[data.train_index].bincount()
    torch.testing.assert_close(module.network.head.bias.detach(), (counts / counts.sum()).log())


def test_weights_of_a_checkpoint_win(train, tmp_path):
    ran = train("model=mlp", "trainer.max_epochs=1", "logger=null", "hydra.run.dir=a")
    assert (ran.code, ran.err) == (0, "")
    trained = Run(tmp_path / "a").task()
    assert trained.fresh_network is None
    config = Run(tmp_path / "a").config | {"init": {"_target_": "athanor.models.initialise.Constant", "value": 0.5}}
    config["init"] |= {"bias": 0.0, "log_odds": False, "branches": "auto"}
    fresh = assemble.task(config, assemble.data(config))
    assert set(fresh.network.head.weight.flatten().tolist()) == {0.5}
    load_weights(fresh, str(tmp_path / "a"))
    assert same(fresh.network, trained.network)
    assert fresh.fresh_network is None
