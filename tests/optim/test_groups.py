from pathlib import Path

import pytest
from torch import nn

from athanor import assemble, check_config
from athanor.optim.groups import parameter_groups

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "model").glob("*.yaml"))
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


@pytest.mark.parametrize("model", [path.stem for path in CONFIGS])
def test_weights_decay_and_biases_and_norms_do_not(model, compose):
    config = check_config.plain(compose(f"model={model}"))
    network = assemble.build(config["model"], input_shape=(3, 32, 32), num_classes=10)
    groups = parameter_groups(network)
    decayed, kept = list(map(id, groups[0]["params"])), list(map(id, groups[1]["params"]))
    assert sorted(decayed + kept) == sorted(map(id, network.parameters()))  # each once
    assert [group.get("weight_decay") for group in groups] == [None, 0.0]

    spared = {id(p) for name, p in network.named_parameters() if name.rpartition(".")[2] == "bias"}
    spared |= {id(p) for module in network.modules() if isinstance(module, NORMS) for p in module.parameters()}
    assert spared and spared <= set(kept)
    weights = {id(m.weight) for m in network.modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    assert weights and weights <= set(decayed)


def test_frozen_parameters_are_in_no_group():
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).requires_grad_(False)
    network[1].requires_grad_()
    assert [len(group["params"]) for group in parameter_groups(network)] == [1, 1]
    assert parameter_groups(network)[0]["params"][0] is network[1].weight


def test_a_network_of_weights_alone_has_one_group():
    assert len(parameter_groups(nn.Linear(3, 3, bias=False))) == 1
