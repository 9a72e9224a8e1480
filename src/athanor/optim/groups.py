"""Parameter groups of an optimizer: which parameters have weight decay, and which a learning rate of their own."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from athanor.base.errors import UserError, nearest, require


def parameter_groups(module: nn.Module, decay: bool) -> list[dict]:
    """Two groups: weights, and then biases and the parameters of norm layers, on which there is no weight decay.

    A parameter of one dimension counts as a bias. The penalty is 1/2 lambda w^2 on weights alone.
    decay=False gives one group with all parameters: a second group costs some optimizers 50 microseconds a step.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not decay:
        return [{"params": parameters}]
    weights = [p for p in parameters if p.ndim > 1]
    biases = [p for p in parameters if p.ndim <= 1]
    return [{"params": weights}] + ([{"params": biases, "weight_decay": 0.0}] if biases else [])


@dataclass(frozen=True)
class OwnGroups:
    """Groups with settings of their own: rates that fall from layer to layer, and rules for parameters by their names.

    lr_by_layer: in (0, 1]; the rate of a layer is that of the layer behind it times this (Clark et al. 2020, ELECTRA,
        section 3.1). A layer is a part of the network whose name ends with a number, as stages.0 or hidden.1, or else
        a part at its top, as stem or head. None: one rate for all.
    groups: rules, of which the first that fits a parameter counts, as {"match": "stages.0.*", "lr": 0.001}: `match` is
        a pattern of its name in the network, with * and ?, and all else goes into its group of the optimizer.
    Raises UserError for a factor out of range, a rule without `match`, and settings that the optimizer does not have.
    """

    lr_by_layer: float | None = None
    groups: list[dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        factor = self.lr_by_layer
        require(factor is None or 0 < factor <= 1, f"optim.lr_by_layer={factor}: use a number above 0, to 1, or null")
        for rule in self.groups or []:
            if not isinstance(rule, dict) or not isinstance(rule.get("match"), str) or len(rule) < 2:
                raise UserError(f"optim.groups: {rule} is no rule; use {{match: head.*, lr: 0.01}}")

    def __bool__(self) -> bool:
        return bool(self.groups) or self.lr_by_layer is not None

    def of(self, parameters: Iterable[tuple[str, nn.Parameter]], defaults: dict[str, Any]) -> list[dict]:
        """The groups of parameters with their names, the last layer first; `defaults` are the optimizer's settings.

        Biases have no weight decay, unless a rule says so.
        """
        named = [(name.removeprefix("network."), parameter) for name, parameter in parameters]
        layers = list(dict.fromkeys(layer_of(name) for name, _ in named))
        made: dict[str, dict] = {}
        for name, parameter in reversed(named):
            depth = len(layers) - 1 - layers.index(layer_of(name))
            settings = {"lr": defaults["lr"] * (self.lr_by_layer or 1.0) ** depth}
            if parameter.ndim <= 1 and "weight_decay" in defaults:
                settings["weight_decay"] = 0.0
            rule = next((rule for rule in self.groups or [] if fnmatchcase(name, rule["match"])), {})
            settings |= {key: value for key, value in rule.items() if key != "match"}
            made.setdefault(repr(settings), {**settings, "params": []})["params"].insert(0, parameter)
        self._check([name for name, _ in named], defaults)
        return list(made.values())

    def _check(self, names: list[str], defaults: dict[str, Any]) -> None:
        for rule in self.groups or []:
            if not any(fnmatchcase(name, rule["match"]) for name in names):
                raise UserError(
                    f"optim.groups: no parameter has a name like {rule['match']}; names are as {', '.join(names[-3:])}"
                )
            for key in rule.keys() - {"match"}:
                require(key in defaults, f"optim.groups: the optimizer has no {key}; {nearest(key, defaults)}")


def layer_of(name: str) -> str:
    """The layer of a parameter: its name up to the first part that ends with a number, or else the first part."""
    match = re.match(r"(?:[^.]*\.)*?[^.]*\d(?=\.)", name)
    return match[0] if match else name.partition(".")[0]
