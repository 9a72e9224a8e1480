import math

import pytest
import torch
import torch.nn.functional as F

from athanor.base.errors import UserError
from athanor.tasks.losses import CrossEntropy, Distillation, Hinge

COUNTS = torch.tensor([50, 10, 30, 10])
LABELS = torch.tensor([0, 3, 2, 2, 1, 3])


@pytest.fixture
def logits():
    return torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()


def cross_entropy(label_smoothing=0.0, class_weights=None):
    return CrossEntropy(label_smoothing, class_weights, COUNTS).double()


def log_softmax(logits):
    return (logits.exp() / logits.exp().sum(1, keepdim=True)).log()


def test_cross_entropy_is_minus_the_log_of_the_softmax_of_the_class(logits):
    expected = -log_softmax(logits)[range(6), LABELS].mean()
    torch.testing.assert_close(cross_entropy()(logits, LABELS), expected, rtol=0, atol=1e-12)


def test_cross_entropy_of_equal_logits_is_the_log_of_the_number_of_classes():
    loss = CrossEntropy(0.0, None, torch.ones(10))
    assert loss(torch.zeros(5, 10), torch.arange(5)).item() == pytest.approx(math.log(10), abs=1e-6)


def test_the_gradient_of_cross_entropy_is_probability_minus_truth(logits):
    cross_entropy()(logits, LABELS).backward()
    expected = (logits.softmax(1) - F.one_hot(LABELS, 4)) / 6
    torch.testing.assert_close(logits.grad, expected.detach(), rtol=0, atol=1e-12)


def test_cross_entropy_is_stable_for_large_logits():
    logits = torch.tensor([[1e4, 0.0, 0.0, 0.0], [0.0, 1e4, 0.0, 0.0]])
    assert cross_entropy()(logits, torch.tensor([0, 0])).item() == 5000


def test_balanced_weights_make_each_class_count_the_same(logits):
    loss = cross_entropy(class_weights="balanced")
    assert loss.weight.tolist() == pytest.approx([100 / (4 * n) for n in (50, 10, 30, 10)], rel=1e-6)
    assert (loss.weight * COUNTS).tolist() == pytest.approx([25] * 4)


def test_a_class_without_images_gets_a_finite_weight():
    assert CrossEntropy(0.0, "balanced", torch.tensor([8, 0])).weight.isfinite().all()


def test_weights_have_a_mean_of_1_over_the_training_images_and_an_epoch_is_a_weighted_mean(logits):
    weights = torch.tensor([1.0, 2.0, 0.5, 4.0], dtype=torch.float64)
    each, own = -log_softmax(logits)[range(6), LABELS], weights[LABELS]
    loss = cross_entropy(class_weights=weights.tolist())
    assert (loss.weight * COUNTS).sum().item() == pytest.approx(COUNTS.sum().item())
    torch.testing.assert_close(loss(logits, LABELS) * 6 / loss.total_weight(LABELS), (own * each).sum() / own.sum())
    halves = [loss(logits[part], LABELS[part]) for part in (slice(0, 3), slice(3, 6))]
    torch.testing.assert_close(sum(halves) / 2, loss(logits, LABELS))  # as devices and accumulation take the mean


def test_without_weights_each_image_counts_once(logits):
    assert cross_entropy().total_weight(LABELS) == 6
    assert cross_entropy(class_weights="balanced").total_weight(logits.softmax(1)) == 6


@pytest.mark.parametrize("weights", [[0.0, 0.0, 0.0, 0.0], [1.0, -1.0, 1.0, 1.0], [1.0, float("nan"), 1.0, 1.0]])
def test_weights_that_weigh_nothing_are_refused(weights):
    with pytest.raises(UserError, match="use 0 or more, and above 0 for a class with images"):
        cross_entropy(class_weights=weights)


def test_label_smoothing_gives_its_share_to_all_classes(logits):
    targets = 0.9 * F.one_hot(LABELS, 4).double() + 0.1 / 4
    expected = -(targets * log_softmax(logits)).sum(1).mean()
    torch.testing.assert_close(cross_entropy(label_smoothing=0.1)(logits, LABELS), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "smoothing, weights, message",
    [
        (1.0, None, r"loss\.label_smoothing=1\.0 is not in \[0, 1\)"),
        (-0.1, None, r"loss\.label_smoothing=-0\.1 is not in"),
        (0.0, [1.0, 2.0], r"loss\.class_weights has 2 numbers for 4 classes; give one a class, or balanced"),
    ],
)
def test_wrong_knobs_are_refused(smoothing, weights, message):
    with pytest.raises(ValueError, match=message):
        cross_entropy(smoothing, weights)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("margin", [1.0, 0.3])
def test_hinge_sums_over_the_other_classes_and_takes_the_mean_over_images(logits, margin, power):
    each = [
        sum(max(0.0, s - row[label] + margin) ** power for j, s in enumerate(row) if j != label)
        for row, label in zip(logits.tolist(), LABELS.tolist(), strict=True)
    ]
    assert Hinge(margin, power)(logits, LABELS).item() == pytest.approx(sum(each) / 6, abs=1e-12)


@pytest.mark.parametrize("power, expected", [(1, 9.0), (2, 9.0)])
def test_hinge_of_equal_logits_is_the_number_of_other_classes(power, expected):
    assert Hinge(1.0, power)(torch.zeros(5, 10), torch.arange(5)) == expected


def test_hinge_is_zero_where_the_class_wins_by_the_margin():
    assert Hinge(1.0, 1)(torch.tensor([[3.0, 2.0, -5.0]]), torch.tensor([0])) == 0


@pytest.mark.parametrize("power", [1, 2])
def test_the_gradient_of_hinge_is_that_of_finite_differences(logits, power):
    assert torch.autograd.gradcheck(lambda scores: Hinge(1.0, power)(scores, LABELS), logits)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation_is_the_cross_entropy_at_a_temperature_times_its_square(temperature):
    torch.manual_seed(0)
    logits, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    soft = (teacher / temperature).softmax(1)
    expected = -(soft * (logits / temperature).log_softmax(1)).sum(1).mean() * temperature**2
    torch.testing.assert_close(Distillation(temperature)(logits, soft), expected)
    labels = torch.arange(6) % 5
    torch.testing.assert_close(Distillation(temperature).eval()(logits, labels), F.cross_entropy(logits, labels))


def test_a_student_does_not_train_on_labels():
    with pytest.raises(ValueError, match="a student learns from a teacher's probabilities, and got labels"):
        Distillation(1.0)(torch.zeros(2, 3), torch.tensor([0, 1]))


def test_at_a_high_temperature_distillation_matches_logits():
    """Hinton et al. 2015, equation 4: the gradient becomes (z - v) / classes, where both have a mean of zero."""
    torch.manual_seed(0)
    logits, teacher = torch.randn(2, 1, 5, dtype=torch.float64)
    logits, teacher = (values - values.mean() for values in (logits, teacher))
    logits.requires_grad_()
    Distillation(1e4)(logits, (teacher / 1e4).softmax(1)).backward()
    torch.testing.assert_close(logits.grad, (logits.detach() - teacher) / 5, rtol=1e-3, atol=1e-4)
