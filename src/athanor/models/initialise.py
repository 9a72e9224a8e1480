"""First weights and biases of a network, set after it is built: the options of the config group `init`."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from athanor.base.errors import UserError, require
from athanor.models import layers

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
OTHERS = (nn.CELU, nn.Hardswish, nn.Hardtanh, nn.Mish, nn.SELU, nn.Softplus, nn.Softsign)
ACTIVATIONS = (*layers.ACTIVATIONS.values(), *OTHERS)


@dataclass(kw_only=True)
class Initialise:
    """Leaves the weights as the network's own code has set them. Subclasses draw those of linear and convolutional
    layers; all else, such as norm layers, embeddings and frozen weights, stays as it is.

    An option of one's own is a subclass with `draw` in src/athanor/models/<name>.py and configs/init/<name>.yaml. It
    is called once, with the network, before weights of a run or a checkpoint are loaded; then torch's random numbers
    are those of the run. Of a network whose attribute `pretrained` is true, it draws the last layer alone. A residual
    block is a module whose `branch` is the module whose result is added to the block's input.

    bias: of each layer that is drawn; None: as it is.
    log_odds: whether the last layer's biases are the logarithms of the classes' shares of the training inputs, so that
        the first loss of a softmax is about their entropy. A class without inputs counts as one with one.
    branches: what the last layer with weights of each residual branch is multiplied by: `same` by 1, `zero` by 0,
        `scaled` by 1/sqrt(number of branches), with which the variance grows at most e-fold over all blocks; `auto`:
        `scaled` if it is no norm layer, else `same`.
    class_counts: training inputs of each class, int64 [num_classes]; None where the targets are no classes.
    Raises UserError where the network has no residual block to change, or no last biases, one for each class.
    """

    bias: float | None
    log_odds: bool
    branches: Literal["auto", "same", "zero", "scaled"]
    class_counts: Tensor | None

    def draw(self, weight: Tensor, activation: nn.Module) -> None:
        """Fill the weight [out, in, ...] of a layer that this activation follows, nn.Identity after the last layer."""

    def draws(self, network: nn.Module) -> bool:
        """Whether this network is one whose weights are drawn."""
        return True

    @torch.no_grad()
    def __call__(self, network: nn.Module) -> None:
        pairs = layers_with_activations(network)
        is_pretrained = getattr(network, "pretrained", False)
        if self.draws(network):
            for layer, activation in pairs[-1:] if is_pretrained else pairs:
                if layer.weight.requires_grad:
                    weight = layer.weight.clone(memory_format=torch.contiguous_format)  # else its order would matter
                    self.draw(weight, activation)
                    layer.weight.copy_(weight)
                    if self.bias is not None and layer.bias is not None:
                        layer.bias.fill_(self.bias)
        if self.branches != "auto" or self.draws(network):
            self.change_branches([] if is_pretrained else branch_ends(network))
        if self.log_odds:
            self.set_log_odds(pairs[-1][0] if pairs else None)

    def change_branches(self, ends: list[nn.Module]) -> None:
        if self.branches in ("zero", "scaled"):
            require(ends, f"init.branches={self.branches}: this network has no residual branch to change; use auto")
        for end in ends:
            if self.branches == "zero":
                factor = 0.0
            elif self.branches == "scaled" or (self.branches == "auto" and isinstance(end, Layer)):
                factor = len(ends) ** -0.5
            else:
                factor = 1.0
            for parameter in end.parameters(recurse=False):
                parameter.mul_(factor)

    def set_log_odds(self, last: nn.Module | None) -> None:
        counts = self.class_counts
        require(counts is not None, "init.log_odds=true is for classes, and these targets are none; leave it out")
        if getattr(last, "bias", None) is None or last.bias.shape != counts.shape:
            raise UserError("init.log_odds=true needs a last layer with a bias for each class; leave it out")
        last.bias.copy_((counts.clamp_min(1) / counts.sum()).log())


@dataclass(kw_only=True)
class Scaled(Initialise):
    """Independent weights of mean 0 and variance gain^2 / fan.

    gain: a factor for all layers; None: that of the activation that follows (`gain_of`).
    fan: `in`, the inputs of a unit: activations keep their scale (LeCun et al. 1998; with the gain, He et al. 2015);
        `out`, the outputs that an input reaches: gradients do; `mean` of both: a compromise (Glorot and Bengio 2010).
    distribution: normal, or uniform in +-sqrt(3 variance).
    """

    gain: float | None
    fan: Literal["in", "out", "mean"]
    distribution: Literal["normal", "uniform"]

    def draw(self, weight: Tensor, activation: nn.Module) -> None:
        self.draw_scaled(weight, activation, self.fan)

    def draw_scaled(self, weight: Tensor, activation: nn.Module, fan: str) -> None:
        gain = gain_of(activation) if self.gain is None else self.gain
        std = gain / fans(weight)[fan] ** 0.5
        if self.distribution == "normal":
            weight.normal_(0, std)
        else:
            weight.uniform_(-math.sqrt(3) * std, math.sqrt(3) * std)


@dataclass(kw_only=True)
class ByActivation(Scaled):
    """Scaled, where `fan` is for activations that grow without limit, such as ReLU: with `in`, Kaiming initialisation.

    Before activations that saturate, as sigmoid and tanh do, it is the mean of both: Xavier initialisation. A network
    that does not say `initialised_by_activation = True` keeps what its own code has set.
    """

    def draws(self, network: nn.Module) -> bool:
        return getattr(network, "initialised_by_activation", False)

    def draw(self, weight: Tensor, activation: nn.Module) -> None:
        self.draw_scaled(weight, activation, "mean" if saturates(activation) else self.fan)


@dataclass(kw_only=True)
class Normal(Initialise):
    """Normal weights of mean 0 and the standard deviation `std`, whatever the layer."""

    std: float

    def draw(self, weight: Tensor, activation: nn.Module) -> None:
        weight.normal_(0, self.std)


@dataclass(kw_only=True)
class Orthogonal(Initialise):
    """The weight as a matrix [out, in * ...] is `gain` times one with orthonormal rows, or columns if it is tall.

    gain: as in Scaled. Saxe et al. 2014.
    """

    gain: float | None

    def draw(self, weight: Tensor, activation: nn.Module) -> None:
        nn.init.orthogonal_(weight, gain_of(activation) if self.gain is None else self.gain)


@dataclass(kw_only=True)
class Sparse(Initialise):
    """Each unit has normal weights to `inputs` of its inputs, drawn at random, and weights of 0 to the others.

    Their variance is gain^2 / inputs, with which activations keep their scale; gain: as in Scaled. Martens 2010.
    """

    inputs: int
    gain: float | None

    def __post_init__(self) -> None:
        require(self.inputs >= 1, f"init.inputs={self.inputs} must be at least 1, e.g. init.inputs=10")

    def draw(self, weight: Tensor, activation: nn.Module) -> None:
        inputs = min(self.inputs, weight[0].numel())
        chosen = torch.rand(len(weight), weight[0].numel()).topk(inputs).indices
        std = (gain_of(activation) if self.gain is None else self.gain) / inputs**0.5
        drawn = torch.zeros(len(weight), weight[0].numel()).scatter_(1, chosen, std * torch.randn(chosen.shape))
        weight.copy_(drawn.view_as(weight))


@dataclass(kw_only=True)
class Constant(Initialise):
    """Every weight is `value`. All units of a layer then stay equal, so a network with hidden layers learns little."""

    value: float

    def draw(self, weight: Tensor, activation: nn.Module) -> None:
        weight.fill_(self.value)


def layers_with_activations(network: nn.Module) -> list[tuple[Layer, nn.Module]]:
    """The linear and convolutional layers in module order, each with the activation that comes first after it.

    Where none comes: nn.Identity for the last layer. For another, the network's first activation, which may serve all
    layers, and nn.ReLU if it has none, as it may call functions in place of modules.
    """
    modules = list(network.modules())
    pairs, activation = [], None
    first = next((module for module in modules if isinstance(module, ACTIVATIONS)), nn.ReLU())
    for module in reversed(modules):
        if isinstance(module, ACTIVATIONS):
            activation = module
        elif isinstance(module, Layer):
            pairs.append((module, activation or (first if pairs else nn.Identity())))
    return pairs[::-1]


def branch_ends(network: nn.Module) -> list[nn.Module]:
    """The last module of each residual branch that has parameters of its own and is no activation."""
    ends = []
    for branch in (getattr(module, "branch", None) for module in network.modules()):
        if isinstance(branch, nn.Module):
            own = [m for m in branch.modules() if list(m.parameters(recurse=False)) and not isinstance(m, ACTIVATIONS)]
            ends.append(own[-1])
    return ends


def fans(weight: Tensor) -> dict[str, float]:
    """Of a weight [out, in, ...]: how many inputs a unit has, how many outputs an input reaches, and their mean."""
    window = weight[0, 0].numel()
    fan_in, fan_out = weight.shape[1] * window, weight.shape[0] * window
    return {"in": fan_in, "out": fan_out, "mean": (fan_in + fan_out) / 2}


def gain_of(activation: nn.Module) -> float:
    """The g for which E[f(g z)^2] = 1, z ~ N(0, 1): a layer of variance g^2 / fan_in and f keep a mean square of 1.

    ReLU: sqrt(2), as in He et al. 2015; identity and maxout: 1. There is none for an activation that saturates below 1:
    it has 1, as in Glorot and Bengio 2010. tanh then keeps gradients, while activations fall slowly with depth.
    """
    if saturates(activation):
        return 1.0
    gain, square = 1.0, 0.0
    while abs(square - 1) > 1e-6:
        square = mean_square(activation, gain)
        gain /= square**0.5
    return gain


def saturates(activation: nn.Module) -> bool:
    return mean_square(activation, 1e3) < 1


def mean_square(activation: nn.Module, scale: float) -> float:
    """E[f(scale z)^2] for z ~ N(0, 1), by the trapezoidal rule, exact to five digits."""
    if isinstance(activation, nn.PReLU):
        activation = nn.LeakyReLU(activation.weight.mean().item())
    z = torch.linspace(-8, 8, 81, dtype=torch.float64)
    density = torch.exp(-z.square() / 2)
    outputs = activation(scale * torch.cartesian_prod(z, z))  # two channels, as maxout takes them: [81^2, 2 or 1]
    weights = torch.outer(density, density).flatten() / density.sum().square()
    return (weights * outputs.square().mean(1)).sum().item()
