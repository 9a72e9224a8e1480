"""Parts of a network that are not trained: their weights, their batch norm, and when they are thawed."""

import pytest
import torch
from torch import nn

from athanor.base.errors import UserError
from athanor.engine.runs.run import Run, read_checkpoint
from athanor.tasks.frozen import Frozen

SMALL = ["model=cnn", "model.widths=[4,8]", "data.limit=400", "data.batch_size=64", "eval.test=false"]
FROZEN = ["network.stages.0.0.weight", "network.stages.0.1.running_mean", "network.stages.0.1.num_batches_tracked"]


def state(run, name="last.ckpt"):
    return read_checkpoint(Run(run).dir / "checkpoints" / name)["state_dict"]


@pytest.fixture
def pretrained(train):
    assert train(*SMALL, "trainer.max_epochs=1", "hydra.run.dir=pretrained", "seed=1").code == 0
    return state("pretrained", "best.ckpt")


@pytest.mark.parametrize("freeze", ["all_but_head", "[stages,fcs]"])
def test_a_linear_probe_changes_the_head_alone(freeze, pretrained, train):
    words = ["weights=pretrained", "trainer.max_epochs=2", "callbacks=ema", "hydra.run.dir=probe"]
    assert train(*SMALL, f"model.freeze={freeze}", *words).code == 0
    changed = {name for name, value in state("probe").items() if not torch.equal(value, pretrained[name])}
    assert changed == {"network.head.weight", "network.head.bias"}


@pytest.mark.parametrize("optim", ["adam", "nesterov"])
def test_frozen_parts_are_thawed_after_their_epochs_and_resumed_to_the_bit(optim, pretrained, train, interrupted):
    words = [
        *SMALL,
        f"optim={optim}",
        "weights=pretrained",
        "model.freeze=[stages.0]",
        "model.freeze_epochs=1",
        "trainer.max_epochs=2",
    ]
    words.append("callbacks.checkpoints.top_k=2")
    assert train(*words, "callbacks.checkpoints.keep=last", "hydra.run.dir=whole").code == 0
    first, last = state("whole", "epoch_001.ckpt"), state("whole")
    assert all(torch.equal(first[name], pretrained[name]) for name in FROZEN)
    assert not torch.equal(first["network.head.weight"], pretrained["network.head.weight"])
    assert not any(torch.equal(last[name], pretrained[name]) for name in FROZEN)
    with interrupted(6):
        assert train(*words, "callbacks.checkpoints.keep=last", "hydra.run.dir=parts").code != 0
    assert train("resume=parts").code == 0
    assert all(torch.equal(value, state("parts")[name]) for name, value in last.items())


@pytest.mark.slow
def test_two_processes_thaw_as_one_does(pretrained, train):
    words = [*SMALL, "model.norm=none", "trainer.accelerator=cpu", "trainer.precision=64-true", "trainer.max_epochs=2"]
    words += ["model.freeze=[stages.0]", "model.freeze_epochs=1", "model.dropout=0"]
    assert train(*words, "hydra.run.dir=one").code == 0
    assert train(*words, "trainer=ddp", "trainer.devices=2", *words, "hydra.run.dir=two").code == 0
    two = state("two")
    for name, value in state("one").items():
        torch.testing.assert_close(two[name], value, rtol=1e-9, atol=1e-9)


def test_what_cannot_be_frozen_is_named():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(UserError, match="the network has no part head; choose from: 0, 1"):
        Frozen(["head"]).parts(network)
    with pytest.raises(UserError, match="leaves nothing to train"):
        Frozen(["0", "1"]).parts(network)
    with pytest.raises(UserError, match=r"model\.freeze_epochs=0: use 1 or more"):
        Frozen(["0"], 0)
    assert Frozen("all_but_head").parts(network) == [network[0]]


class WithToken(nn.Module):
    """As a transformer has them: a parameter of the network itself, and dropout before the last layer."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(2))
        self.body = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
        self.head = nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 2))


def test_all_but_the_last_layer_are_frozen_in_a_network_that_has_parameters_of_its_own():
    network = WithToken().train()
    for part in Frozen("all_but_head").parts(network):
        part.requires_grad_(False).eval()
    assert [name for name, p in network.named_parameters() if p.requires_grad] == ["head.1.weight", "head.1.bias"]
    assert {name for name, part in network.named_modules() if part.training} == {"", "head", "head.1"}


@pytest.mark.slow
def test_layers_with_rates_of_their_own_go_on_to_the_bit_and_through_a_range_test(train, interrupted):
    words = [
        *SMALL,
        "optim.lr_by_layer=0.5",
        "trainer.max_epochs=2",
        "callbacks=lr_range",
        "callbacks.lr_range.sweeps=1",
    ]
    words += ["scheduler=cosine", "optim=nesterov", "optim.groups=[{match: head.bias, momentum: 0.5}]"]
    assert train(*words, "hydra.run.dir=whole").code == 0
    with interrupted(6):
        assert train(*words, "hydra.run.dir=parts").code != 0
    assert train("resume=parts").code == 0
    assert all(torch.equal(value, state("parts")[name]) for name, value in state("whole").items())
