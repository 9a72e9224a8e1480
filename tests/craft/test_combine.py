"""Combined predictions against their formulas."""

import math

import pytest
import torch
import torch.nn.functional as F

from athanor.craft.ensembles.combine import calibration_error, combined, disagreement, scores
from athanor.craft.ensembles.selection import greedy

HOWS = ("probabilities", "logits", "vote")
every_how = pytest.mark.parametrize("how", HOWS)


def drawn(seed, members=4, images=60, classes=5, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(members, images, classes, generator=generator) * scale
    return logits, torch.randint(0, classes, (images,), generator=generator), torch.rand(members, generator=generator)


def loss(log_p, labels):
    return torch.nn.functional.nll_loss(log_p, labels).item()


@every_how
def test_every_combination_is_a_distribution(how):
    logits, _, weights = drawn(0)
    for own in None, weights:
        assert torch.allclose(combined(logits, how, own).exp().sum(1), torch.ones(60), atol=1e-5)


def test_probabilities_are_the_weighted_mean_of_softmax():
    logits, _, weights = drawn(1)
    by_hand = (logits.softmax(-1) * (weights / weights.sum())[:, None, None]).sum(0).log()
    torch.testing.assert_close(combined(logits, "probabilities", weights), by_hand)
    torch.testing.assert_close(combined(logits, "probabilities"), logits.softmax(-1).mean(0).log())


def test_logits_are_the_normalised_geometric_mean():
    logits, _, weights = drawn(2)
    share = (weights / weights.sum())[:, None, None]
    by_hand = logits.softmax(-1).pow(share).prod(0)
    torch.testing.assert_close(combined(logits, "logits", weights), (by_hand / by_hand.sum(-1, keepdim=True)).log())
    torch.testing.assert_close(combined(logits, "logits"), logits.mean(0).log_softmax(-1))


def test_votes_are_counted_and_ties_are_broken_by_the_mean_probability():
    logits = torch.tensor([[[9.0, 0, 0]], [[0.6, 0.5, 0]], [[0.6, 0.5, 0]], [[0, 9.0, 0]], [[0, 0.6, 0.5]]])
    assert combined(logits, "vote").argmax(1).item() == 0  # three against two
    assert combined(logits[[0, 4]], "vote").argmax(1).item() == 0  # one each, and the first is surer
    assert combined(logits[[1, 3]], "vote").argmax(1).item() == 1
    assert combined(logits, "vote").isfinite().all()
    by_hand = (torch.tensor([3.0, 2, 0]) + logits.softmax(-1).mean(0)[0]) / 6
    torch.testing.assert_close(combined(logits, "vote")[0].exp(), by_hand)


def test_the_tie_breaker_overturns_no_majority():
    near = torch.tensor([[[0.51, 0.49]], [[0.02, 0.98]]]).log()
    assert combined(near, "vote", torch.tensor([0.55, 0.45])).argmax(1).item() == 0
    for seed in range(50):
        logits, _, weights = drawn(seed)
        votes = F.one_hot(logits.argmax(-1), logits.shape[-1])  # [M, N, C]
        shares = (weights[:, None, None] * votes).sum(0)
        assert torch.equal(combined(logits, "vote", weights).argmax(1), shares.argmax(1))


@pytest.mark.parametrize("how", ["probabilities", "logits"])
@pytest.mark.parametrize("scale", [0.1, 3.0, 100.0])
def test_the_loss_is_at_most_the_weighted_mean_of_the_members(how, scale):
    for seed in range(50):
        logits, labels, weights = drawn(seed, scale=scale)
        of_members = torch.tensor([loss(member.log_softmax(-1), labels) for member in logits])
        assert loss(combined(logits, how), labels) <= of_members.mean() * (1 + 1e-6)
        assert loss(combined(logits, how, weights), labels) <= (of_members @ weights / weights.sum()) * (1 + 1e-6)


def test_extreme_logits_neither_overflow_nor_become_nan():
    logits = torch.tensor([[[1e4, -1e4]], [[-1e4, 1e4]]])
    for how in HOWS:
        torch.testing.assert_close(combined(logits, how), torch.full((1, 2), math.log(0.5)))
    assert combined(logits.bfloat16(), "probabilities").dtype == torch.float32


@every_how
def test_a_weight_of_0_is_an_absent_member(how):
    logits, _, weights = drawn(3)
    weights[1] = 0
    if how == "vote":  # of which the number counts
        assert (
            combined(logits, how, weights).argmax(1) == combined(logits[[0, 2, 3]], how, weights[[0, 2, 3]]).argmax(1)
        ).all()
    else:
        torch.testing.assert_close(combined(logits, how, weights), combined(logits[[0, 2, 3]], how, weights[[0, 2, 3]]))


def test_scores_are_loss_accuracy_and_calibration_error():
    log_p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.2, 0.8]]).log()
    metrics = scores(log_p, torch.tensor([0, 1, 1, 1]))
    assert metrics["acc"] == 0.75
    assert metrics["loss"] == pytest.approx(-(math.log(0.9) + math.log(0.1) + math.log(0.7) + math.log(0.8)) / 4)
    assert metrics["ece"] == pytest.approx((abs(1 - 1.8) + abs(1 - 0.7) + abs(1 - 0.8)) / 4)


def test_calibration_error_is_that_of_a_slow_sum_over_15_bins():
    generator = torch.Generator().manual_seed(0)
    confidence = torch.cat([torch.rand(500, generator=generator, dtype=torch.float64), torch.tensor([0.2, 0.4, 1.0])])
    correct = torch.rand(503, generator=generator) < 0.6
    by_hand = 0.0
    for number in range(1, 16):
        inside = (confidence * 15 > number - 1) & (confidence * 15 <= number)
        if inside.any():
            gap = correct[inside].double().mean() - confidence[inside].mean()
            by_hand += abs(gap.item()) * inside.sum().item() / 503
    assert calibration_error(confidence, correct) == pytest.approx(by_hand)


def test_disagreement_is_the_share_of_images_without_one_answer():
    logits = torch.eye(3)[torch.tensor([[0, 1, 2, 0], [0, 1, 1, 0], [0, 2, 2, 0]])]
    assert disagreement(logits) == 0.5


@pytest.mark.parametrize("how", ["probabilities", "logits"])
def test_greedy_is_never_worse_than_the_best_member_and_its_first_step_is_it(how):
    for seed in range(20):
        logits, labels, _ = drawn(seed, members=6, scale=1.0)
        of_members = [loss(member.log_softmax(-1), labels) for member in logits]
        weights = greedy(logits, labels, 30, how)
        assert weights.sum().item() == pytest.approx(1)
        assert loss(combined(logits, how, weights), labels) <= min(of_members) + 1e-6
        assert greedy(logits, labels, 1, how).argmax().item() == of_members.index(min(of_members))


@pytest.mark.parametrize("how", ["probabilities", "logits"])
def test_greedy_takes_the_steps_of_a_slow_search(how):
    logits, labels, _ = drawn(5, members=5, scale=1.5)
    bag, best = [], (math.inf, None)
    for _ in range(12):
        losses = [loss(combined(logits[[*bag, member]], how), labels) for member in range(5)]
        bag.append(losses.index(min(losses)))
        if min(losses) < best[0] - 1e-9:
            best = min(losses), torch.bincount(torch.tensor(bag), minlength=5) / len(bag)
    torch.testing.assert_close(greedy(logits, labels, 12, how), best[1])


def test_greedy_leaves_out_a_member_that_is_always_wrong():
    logits, labels, _ = drawn(6, members=3)
    right = torch.nn.functional.one_hot(labels, 5).float()
    logits[0], logits[1] = right * 2, -right * 9
    assert greedy(logits, labels)[1] == 0
