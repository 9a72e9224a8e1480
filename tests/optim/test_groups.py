from pathlib import Path

import pytest
from torch import nn

from athanor.engine.config import assemble, check
from athanor.optim.groups import parameter_groups

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "model").glob("*.yaml"))
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)


@pytest.mark.parametrize("model", [path.stem for path in CONFIGS])
def test_weights_decay_and_biases_and_norms_do_not(model, compose):
    config = check.plain(compose(f"model={model}"))
    network = assemble.build(config["model"], "model", input_shape=(3, 32, 32), num_classes=10)
    groups = parameter_groups(network, decay=True)
    decayed, kept = list(map(id, groups[0]["params"])), list(map(id, groups[1]["params"]))
    learning = {id(p) for p in network.parameters() if p.requires_grad}
    assert sorted(decayed + kept) == sorted(learning)  # each once
    assert [group.get("weight_decay") for group in groups] == [None, 0.0]

    spared = {id(p) for name, p in network.named_parameters() if name.rpartition(".")[2] == "bias"}
    spared |= {id(p) for module in network.modules() if isinstance(module, NORMS) for p in module.parameters()}
    assert spared & learning and spared & learning <= set(kept)
    weights = {id(m.weight) for m in network.modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    assert weights & learning and weights & learning <= set(decayed)


def test_frozen_parameters_are_in_no_group():
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).requires_grad_(False)
    network[1].requires_grad_()
    assert [len(group["params"]) for group in parameter_groups(network, decay=True)] == [1, 1]
    assert parameter_groups(network, decay=True)[0]["params"][0] is network[1].weight


def test_a_network_of_weights_alone_has_one_group():
    assert len(parameter_groups(nn.Linear(3, 3, bias=False), decay=True)) == 1


def test_without_decay_all_are_one_group():
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    (group,) = parameter_groups(network, decay=False)
    assert list(map(id, group["params"])) == list(map(id, network.parameters()))


@pytest.mark.parametrize(("words", "groups"), [("optim=adam", 1), ("optim=adam optim.weight_decay=0.1", 2)])
def test_a_run_splits_its_parameters_only_where_something_decays(words, groups, compose, make_trainer):
    config = check.plain(compose("model=linear", *words.split()))
    data = assemble.data(config)
    classifier = assemble.task(config, data)
    trainer = make_trainer(max_steps=1)
    trainer.fit(classifier, data)
    assert len(trainer.optimizers[0].param_groups) == groups


def test_an_option_that_does_not_say_whether_it_decays_keeps_torchs_default_off_the_biases(compose, make_trainer):
    config = check.plain(compose("model=linear", "optim=adamw", "~optim.weight_decay"))
    data = assemble.data(config)
    trainer = make_trainer(max_steps=1)
    trainer.fit(assemble.task(config, data), data)
    assert [group["weight_decay"] for group in trainer.optimizers[0].param_groups] == [0.01, 0.0]
