from pathlib import Path

import pytest
from torch import nn

from athanor.base.errors import UserError
from athanor.engine.config import assemble, check
from athanor.optim.groups import OwnGroups, layer_of, parameter_groups

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "model").glob("*.yaml"))
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)


@pytest.mark.parametrize("model", [path.stem for path in CONFIGS if path.stem != "timm"])  # which may not be there
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


DEFAULTS = {"lr": 0.1, "weight_decay": 0.01, "momentum": 0.9}


def named(network):
    return [(f"network.{name}", parameter) for name, parameter in network.named_parameters()]


@pytest.fixture
def layered():
    names = {
        "stem": nn.Linear(2, 2),
        "blocks": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)),
        "head": nn.Linear(2, 2),
    }
    return nn.ModuleDict(names)


def test_rates_fall_from_layer_to_layer_and_biases_do_not_decay(layered):
    groups = OwnGroups(lr_by_layer=0.5).of(named(layered), DEFAULTS)
    rates = {id(p): (group["lr"], group.get("weight_decay")) for group in groups
             for p in group["params"]}  # fmt: skip
    expected = {"head": 0.1, "blocks.1": 0.05, "blocks.0": 0.025, "stem": 0.0125}
    for name, parameter in layered.named_parameters():
        lr, decay = rates[id(parameter)]
        assert lr == pytest.approx(expected[layer_of(name)])
        assert decay == (0.0 if name.endswith("bias") else None)
    assert groups[0]["lr"] == 0.1  # the first group stands for the rate in logs, and in range tests
    assert sum(len(group["params"]) for group in groups) == 8


def test_the_first_rule_that_fits_counts(layered):
    rules = [
        {"match": "head.bias", "lr": 1.0},
        {"match": "head.*", "momentum": 0.5},
        {"match": "*", "weight_decay": 0.2},
    ]
    groups = OwnGroups(groups=rules).of(named(layered), DEFAULTS)
    of = {id(p): {key: value for key, value in group.items() if key != "params"} for group in groups
          for p in group["params"]}  # fmt: skip
    assert of[id(layered["head"].bias)] == {"lr": 1.0, "weight_decay": 0.0}
    assert of[id(layered["head"].weight)] == {"lr": 0.1, "momentum": 0.5}
    assert of[id(layered["stem"].bias)] == {"lr": 0.1, "weight_decay": 0.2}


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("stages.0.3.conv1.weight", "stages.0"),
        ("head.weight", "head"),
        ("encoder.layers.encoder_layer_11.mlp.0.weight", "encoder.layers.encoder_layer_11"),
        ("conv1.weight", "conv1"),
    ],
)
def test_a_layer_is_named_by_its_first_number(name, layer):
    assert layer_of(name) == layer


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_by_layer": 1.5}, "optim.lr_by_layer=1.5: use a number above 0, to 1, or null"),
        ({"groups": [{"lr": 1}]}, "is no rule; use {match: head"),
        ({"groups": [{"match": "tail.*", "lr": 1}]}, "no parameter has a name like tail"),
        ({"groups": [{"match": "head.*", "rate": 1}]}, "the optimizer has no rate"),
    ],
)
def test_wrong_groups_are_named(settings, message, layered):
    with pytest.raises(UserError, match=message):
        OwnGroups(**settings).of(named(layered), DEFAULTS)
