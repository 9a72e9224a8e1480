"""A run that fails by nan or infinity says where in the network it began."""

import pytest
import torch
from torch import nn

from athanor.data.preprocess import Standardize
from athanor.tasks.classification import Classification
from athanor.tasks.non_finite import first_non_finite

IMAGES = torch.arange(24, dtype=torch.uint8).view(8, 3, 1, 1)


class Apply(nn.Module):
    """A function as a layer, and after it an operation that belongs to no module."""

    def __init__(self, function, then=lambda x: x):
        super().__init__()
        self.function, self.then = function, then
        self.last = nn.Linear(3, 3)

    def forward(self, x):
        return self.last(self.then(self.function(x)))


class InfiniteLoss(nn.Module):
    def forward(self, logits, labels):
        return logits.sum() * torch.inf


def classifier(*layers):
    network = nn.Sequential(nn.Flatten(), nn.Linear(3, 3), nn.BatchNorm1d(3), *layers)
    return Classification(
        network, Standardize((3, 1, 1)), InfiniteLoss(), record={"class_names": ["a", "b", "c"]}
    ).train()


def place(module):
    return first_non_finite(module, lambda: module(IMAGES))


def poison(tensor):
    with torch.no_grad():
        tensor.fill_(torch.nan)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([nn.ReLU()], None),
        ([Apply(torch.relu, lambda x: x / 0)], "first non-finite values: input of network.3.last (Linear)"),
        (
            [nn.ReLU(), nn.Threshold(0, torch.inf), nn.ReLU()],
            "first non-finite values: output of network.4 (Threshold)",
        ),
    ],
)
def test_the_first_place_that_is_not_finite_is_named(layers, expected):
    assert place(classifier(*layers)) == expected


def test_a_loss_that_is_not_finite_itself_is_named(make_trainer):
    module = classifier()
    trainer = make_trainer(max_steps=1)
    module.trainer = trainer
    with pytest.raises(FloatingPointError, match=r"the loss itself \(InfiniteLoss\), of outputs that are finite"):
        module.check_finite(float("inf"), inputs=IMAGES)


def test_a_parameter_that_is_not_finite_comes_first():
    module = classifier(nn.Linear(3, 3))
    poison(module.network[3].bias)
    expected = "first non-finite values: parameter network.3.bias (1 of 6 parameters have some)"
    assert place(module) == first_non_finite(module) == expected


def test_without_a_forward_pass_finite_parameters_are_all_that_is_known():
    assert first_non_finite(classifier(nn.Threshold(0, torch.inf))) is None


def test_preprocessing_is_looked_at_too():
    module = classifier()
    poison(module.preprocess.mean)
    assert place(module).endswith("output of preprocess (Standardize)")


def test_the_look_leaves_the_model_and_the_random_numbers_as_they_were():
    module = classifier(nn.Dropout(0.5), nn.SyncBatchNorm(3), nn.Threshold(0, torch.inf))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    assert "Threshold" in place(module)  # after batch norm over all processes, which this one does without them
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(part.training and not part._forward_hooks and "forward" not in vars(part) for part in module.modules())


def test_a_network_that_fails_while_it_is_looked_at_hides_nothing():
    def broken(x):
        raise RuntimeError("it is broken")

    assert place(classifier(Apply(broken))) == "no look at its layers, for RuntimeError"


def test_a_finite_loss_that_means_nothing_is_warned_of(train):
    tiny = ["model=linear", "data.limit=200", "trainer.max_epochs=2", "hydra.run.dir=here"]
    ran = train(*tiny, "optim.lr=1e30")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.count("warning: the train loss is") == 2
    assert "and guessing gives 2.3; try a smaller optim.lr" in ran.out
    assert "warning" not in train(*tiny, "optim.lr=0.01").out
