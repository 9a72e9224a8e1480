import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from athanor.base.errors import UserError
from athanor.data.preprocess import Preprocess
from athanor.engine.runs.run import Run
from athanor.optim.muon import COEFFICIENTS, Muon, orthogonalize
from athanor.tasks.classification import Classification

KNOBS = dict(lr=0.02, momentum=0.9, nesterov=True, newton_schulz_steps=5, normalize=False, weight_decay=0.0)
KNOBS |= dict(adam_lr=3e-3, bias_lr=None, adam_betas=[0.9, 0.95])
HIDDEN = ["0.weight", "3.weight", "6.weight", "10.weight"]


def network(seed=0):
    """Hidden weights that are wide and tall, two of one shape, and biases, norms and the last weight."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.GELU(),
        nn.Conv2d(8, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.GELU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 20),
        nn.GELU(),
        nn.Linear(20, 10),
    )


def muon(model, **knobs):
    return Muon(Muon.groups(model), **KNOBS | knobs)


def set_gradients(*models, step=0):
    """Set the gradients of each model to those of the same random batch."""
    generator = torch.Generator().manual_seed(step)
    images, labels = torch.randn(16, 3, 6, 7, generator=generator), torch.arange(16) % 10
    for model in models:
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()


def train_on(model, optim, steps):
    for step in steps:
        set_gradients(model, step=step)
        optim.step()


def copies(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def matrix(weight):
    return weight.detach().reshape(len(weight), -1)


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.positions = nn.Parameter(torch.zeros(1, 5, 8))
        self.words = nn.Embedding(9, 8)
        self.attention = nn.MultiheadAttention(8, 2, add_bias_kv=True)
        self.norm = nn.LayerNorm((5, 8))
        self.hidden, self.frozen = nn.Linear(8, 8), nn.Linear(8, 8).requires_grad_(False)
        self.head = nn.Linear(8, 10)


def test_tokens_positions_and_embeddings_are_no_hidden_matrices(monkeypatch):
    monkeypatch.setattr(Classification, "global_batch", 8)
    network = Transformer()
    names = {id(p): name for name, p in network.named_parameters()}
    muon = partial(Muon, **KNOBS)
    task = Classification(network, Preprocess((3, 6, 7)), nn.CrossEntropyLoss(), record={}, optimizer=muon)
    hidden, tensors, biases = [[names[id(p)] for p in group["params"]] for group in task.fresh_optimizer().param_groups]
    assert hidden == ["attention.in_proj_weight", "attention.out_proj.weight", "hidden.weight"]
    others = ["class_token", "positions", "words.weight", "attention.bias_k", "attention.bias_v"]
    assert tensors == ["head.weight", *others, "norm.weight", "norm.bias"]
    assert biases == ["attention.in_proj_bias", "attention.out_proj.bias", "hidden.bias", "head.bias"]


def test_of_bare_parameters_those_with_two_dimensions_count_as_weights():
    model = network()
    named, bare = muon(model), Muon(model.parameters(), **KNOBS)
    assert [[id(p) for p in group["params"]] for group in named.param_groups] == [
        [id(p) for p in group["params"]] for group in bare.param_groups
    ]


# the orthogonal matrix


@pytest.mark.parametrize("steps, smallest", [(3, 0.018), (4, 0.0052), (5, 0.0016)])
def test_singular_values_above_the_stated_share_end_between_0_68_and_1_20(steps, smallest):
    a, b, c = COEFFICIENTS
    values = torch.logspace(-4, 0, 100_000, dtype=torch.float64)
    ends = values
    for _ in range(steps):
        ends = a * ends + b * ends**3 + c * ends**5
    assert ends.max() < 1.203
    assert ends[values > smallest].min() > 0.68
    assert ends[(values > 0.9 * smallest) & (values < 0.93 * smallest)].max() < 0.68


@pytest.mark.parametrize(
    "shape", [(1, 16, 16), (3, 16, 64), (3, 64, 16), (1, 8, 600), (1, 600, 8), (1, 1, 50), (2, 256, 256)], ids=str
)
def test_five_steps_bring_every_singular_value_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    orthogonal = orthogonalize(1e-3 * matrices, 5)
    assert (orthogonal.shape, orthogonal.dtype) == (matrices.shape, torch.float32)
    values = torch.linalg.svdvals(orthogonal)
    assert values.max() < 1.3
    assert values.quantile(0.05) > 0.6  # a square matrix has some that are nearly 0


@pytest.mark.parametrize("rows, columns", [(12, 40), (40, 12), (16, 16)])
def test_it_is_near_the_orthogonal_factor_of_the_singular_value_decomposition(rows, columns):
    generator = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(rows, columns, generator=generator), full_matrices=False)
    for spread in torch.ones(len(v)), torch.linspace(1, 9, len(v)):
        orthogonal = orthogonalize((u * spread @ v)[None], 5)[0]
        cosine = (orthogonal * (u @ v)).sum() / orthogonal.norm() / (u @ v).norm()
        assert cosine > 0.97
        values = torch.linalg.svdvals(orthogonal)
        assert values.min() > 0.6 and values.max() < 1.3


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_step_is_the_quintic_of_the_singular_values(steps):
    a, b, c = COEFFICIENTS
    values = torch.tensor([0.1, 0.5, 1.0, 2.0])
    expected = values / values.norm()
    for _ in range(steps):
        expected = a * expected + b * expected**3 + c * expected**5
    orthogonal = orthogonalize(torch.diag(values)[None], steps)[0]
    torch.testing.assert_close(orthogonal, torch.diag(expected), rtol=0.05, atol=0.02)  # three digits of bfloat16


@pytest.mark.parametrize("shape", [(5, 16, 40), (5, 40, 16), (5, 16, 16)], ids=str)
def test_a_batch_of_matrices_gives_what_each_gives_alone(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    matrices *= torch.tensor([1e-3, 1.0, 50.0, 1e-2, 7.0])[:, None, None]
    alone = torch.cat([orthogonalize(one[None], 5) for one in matrices])
    torch.testing.assert_close(orthogonalize(matrices, 5), alone, rtol=0, atol=0.01)


@pytest.mark.parametrize("scale", [1e-5, 1e5])
def test_the_scale_of_a_matrix_does_not_matter(scale):
    matrices = torch.randn(1, 16, 40, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(orthogonalize(scale * matrices, 5), orthogonalize(matrices, 5), rtol=0, atol=0.05)


def test_no_gradient_is_no_step():
    assert torch.equal(orthogonalize(torch.zeros(2, 4, 6), 5), torch.zeros(2, 4, 6))


# one step


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_the_weights_but_the_last_are_hidden(weight_decay):
    model = network()
    groups = muon(model, weight_decay=weight_decay).param_groups
    assert [group["hidden"] for group in groups] == [True, False, False]
    names = {id(p): name for name, p in model.named_parameters()}
    assert [names[id(p)] for p in groups[0]["params"]] == HIDDEN
    assert [names[id(p)] for p in groups[1]["params"]] == ["12.weight"]
    others = [name for name, _ in model.named_parameters() if name not in [*HIDDEN, "12.weight"]]
    assert sorted(names[id(p)] for p in groups[2]["params"]) == sorted(others)
    assert [group["lr"] for group in groups] == [0.02, 3e-3, 3e-3]
    assert [group["lr"] for group in muon(model, bias_lr=0.1).param_groups] == [0.02, 3e-3, 0.1]


@pytest.mark.parametrize("nesterov", [True, False])
def test_the_first_step_of_a_hidden_weight_is_near_orthogonal_times_the_learning_rate(nesterov):
    model = network()
    before, optim = copies(model), muon(model, nesterov=nesterov)
    set_gradients(model)
    optim.step()
    for name in HIDDEN:
        weight = model.get_parameter(name)
        change = matrix(before[name] - weight)
        rows, columns = change.shape
        values = torch.linalg.svdvals(change) / KNOBS["lr"] / max(1, rows / columns) ** 0.5
        assert values.max() < 1.3
        assert values.quantile(0.1) > 0.6
        assert change.norm() / KNOBS["lr"] == pytest.approx(rows**0.5, rel=0.25)
        u, _, v = torch.linalg.svd(matrix(weight.grad), full_matrices=False)
        assert (change * (u @ v)).sum() / change.norm() / (u @ v).norm() > 0.95  # in the direction of the gradient


def by_hand(name, weight, grads, lr, momentum, nesterov, newton_schulz_steps, normalize, weight_decay, **_):
    """The steps of one hidden weight after another, in the order of the paper's algorithm."""
    buffer = torch.zeros_like(weight)
    for grad in grads:
        buffer = momentum * buffer + grad
        direction = grad + momentum * buffer if nesterov else buffer
        if normalize:
            weight = weight * len(weight) ** 0.5 / weight.norm()
        weight = weight - (0 if normalize else lr * weight_decay * weight)
        step = orthogonalize(matrix(direction)[None], newton_schulz_steps)[0]
        weight = weight - lr * max(1, step.shape[0] / step.shape[1]) ** 0.5 * step.reshape(weight.shape)
    return weight


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"nesterov": False},
        {"momentum": 0.0},
        {"weight_decay": 0.5},
        {"normalize": True},
        {"normalize": True, "weight_decay": 0.5},  # the norm is held, nothing is left to decay
        {"newton_schulz_steps": 3},
    ],
    ids=str,
)
def test_several_steps_equal_those_of_each_weight_alone(knobs):
    model = network()
    before, optim, grads = copies(model), muon(model, **knobs), []
    for step in range(4):
        set_gradients(model, step=step)
        grads.append({name: p.grad.clone() for name, p in model.named_parameters()})
        optim.step()
    for name in HIDDEN:
        expected = by_hand(name, before[name], [grad[name] for grad in grads], **KNOBS | knobs)
        torch.testing.assert_close(model.get_parameter(name), expected, rtol=0, atol=1e-3)


def test_normalize_brings_a_weight_to_the_root_of_its_rows_before_the_step():
    model = network()
    with torch.no_grad():
        model[0].weight.mul_(100)
    before, optim = copies(model), muon(model, normalize=True, lr=0.0)
    for step in range(2):
        train_on(model, optim, [step])
        for name in HIDDEN:
            weight = model.get_parameter(name)
            assert weight.norm().item() == pytest.approx(len(weight) ** 0.5, rel=1e-5)
            torch.testing.assert_close(weight / weight.norm(), before[name] / before[name].norm())
    weight = model[0].weight.detach().clone()
    optim.param_groups[0]["lr"] = 0.02
    train_on(model, optim, [2])
    change = (model[0].weight - weight).norm() / weight.norm()
    assert change.item() == pytest.approx(0.02, rel=0.3)  # the learning rate is the relative change


@pytest.mark.parametrize("knobs", [{}, {"weight_decay": 0.5}, {"normalize": True}], ids=str)
def test_the_last_weight_and_biases_and_norms_move_as_adamw_moves_them(knobs):
    """Given the same gradients, which are those of a model that Muon moves."""
    model = network()
    twin = copy.deepcopy(model)
    others = [name for name, _ in model.named_parameters() if name not in HIDDEN]
    assert "12.weight" in others and len(others) == 9
    optim = muon(model, **knobs)
    adamw = torch.optim.AdamW(
        [twin.get_parameter(name) for name in others], 3e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, fused=True
    )
    for step in range(5):
        set_gradients(model, step=step)
        for name in others:
            twin.get_parameter(name).grad = model.get_parameter(name).grad.clone()
        optim.step()
        adamw.step()
    for name in others:
        assert torch.equal(model.get_parameter(name), twin.get_parameter(name))


def test_weight_decay_is_decoupled_and_on_hidden_weights_alone():
    plain, decayed = network(), network()
    before = copies(plain)
    set_gradients(plain, decayed)
    muon(plain).step()
    muon(decayed, weight_decay=0.5).step()
    for name, p in plain.named_parameters():
        expected = 0.02 * 0.5 * before[name] if name in HIDDEN else torch.zeros_like(p)
        torch.testing.assert_close(p - decayed.get_parameter(name), expected, rtol=0, atol=1e-7)


def test_two_weights_of_one_shape_do_not_touch_each_other():
    """Their steps are one batched product."""
    together, alone = network(), network()
    alone[3].weight.requires_grad_(False)
    optims = muon(together), muon(alone)
    for step in range(3):
        set_gradients(together, step=step)
        for p, other in zip(together.parameters(), alone.parameters(), strict=True):
            other.grad = p.grad.clone() if other.requires_grad else None
        for optim in optims:
            optim.step()
    torch.testing.assert_close(together[6].weight, alone[6].weight, rtol=0, atol=1e-4)
    assert not torch.equal(together[3].weight, alone[3].weight)


def test_weights_in_channels_last_move_as_contiguous_ones():
    contiguous, last = network(), network().to(memory_format=torch.channels_last)
    assert not last[3].weight.is_contiguous()
    optims = muon(contiguous), muon(last)
    for step in range(3):
        set_gradients(contiguous, step=step)
        for p, other in zip(contiguous.parameters(), last.parameters(), strict=True):
            other.grad = torch.empty_like(other).copy_(p.grad)  # in its own layout
        for optim in optims:
            optim.step()
    for p, other in zip(contiguous.parameters(), last.parameters(), strict=True):
        torch.testing.assert_close(other, p, rtol=0, atol=1e-6)
    assert last[3].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("normalize", [True, False])
def test_a_parameter_without_a_gradient_stays_as_it_is(normalize):
    model = network()
    before, optim = copies(model), muon(model, normalize=normalize, weight_decay=0.1)
    set_gradients(model)
    without = ["3.weight", "4.bias", "12.weight"]
    for name in without:
        model.get_parameter(name).grad = None
    optim.step()
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert sorted(moved + without) == sorted(before)
    assert all(model.get_parameter(name) not in optim.state for name in without)
    train_on(model, optim, [1])
    assert not any(torch.equal(model.get_parameter(name), before[name]) for name in without)
    model.zero_grad()
    before = copies(model)
    optim.step()  # without gradients
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_closure_is_called_with_gradients_and_its_loss_comes_back():
    model = network()
    before, optim = copies(model), muon(model)

    def closure():
        set_gradients(model)
        return torch.tensor(2.5)

    assert optim.step(closure) == 2.5
    assert not any(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_schedule_moves_every_learning_rate():
    optim = muon(network())
    scheduler = LambdaLR(optim, lambda step: 1 - step / 4)
    optim.step()
    scheduler.step()
    assert [group["lr"] for group in optim.param_groups] == pytest.approx([0.015, 2.25e-3, 2.25e-3])


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-6), (torch.bfloat16, 2e-2)])
def test_weights_of_another_precision_stay_in_it(dtype, tolerance):
    model, other = network(), network().to(dtype)
    optims = muon(model), muon(other)
    set_gradients(model)
    for p, twin in zip(model.parameters(), other.parameters(), strict=True):
        twin.grad = p.grad.to(dtype)
    for optim in optims:
        optim.step()
    for p, twin in zip(model.parameters(), other.parameters(), strict=True):
        assert twin.dtype == dtype
        torch.testing.assert_close(twin.float(), p, rtol=0, atol=tolerance)


# saving and loading


@pytest.mark.parametrize("normalize", [True, False])
def test_a_saved_optimizer_goes_on_bit_for_bit(normalize, tmp_path):
    model = network()
    optim = muon(model, normalize=normalize, weight_decay=0.1)
    train_on(model, optim, range(3))
    torch.save({"model": model.state_dict(), "optim": optim.state_dict()}, tmp_path / "file")
    train_on(model, optim, range(3, 6))

    saved = torch.load(tmp_path / "file", weights_only=True)
    again = network(seed=1)
    again.load_state_dict(saved["model"])
    others = dict(lr=0.5, adam_lr=0.5, momentum=0.1, normalize=not normalize)  # replaced by those in the file
    loaded = muon(again, weight_decay=0.1, **others)
    loaded.load_state_dict(saved["optim"])
    train_on(again, loaded, range(3, 6))
    for (name, p), other in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(p, other), name


def test_the_state_follows_its_parameters_to_another_device():
    """torch's fused AdamW needs its step counter on the device of the parameter; a checkpoint is read to the CPU."""
    model = network()
    optim = muon(model)
    train_on(model, optim, [0])
    there = network().to("meta")
    loaded = muon(there)
    loaded.load_state_dict(optim.state_dict())
    devices = {(key, value.device.type) for state in loaded.state.values() for key, value in state.items()}
    assert devices == {(key, "meta") for key in ("momentum_buffer", "exp_avg", "exp_avg_sq", "step")}


# what is refused


@pytest.mark.parametrize("model", [nn.Linear(4, 3), nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))], ids=str)
def test_a_model_without_hidden_weights_is_refused(model):
    message = "^optim=muon is for hidden layers, and this model has none; use another optimizer$"
    with pytest.raises(UserError, match=message):
        muon(model)


@pytest.mark.parametrize(
    "knobs, message",
    [
        ({"momentum": 1.0}, r"optim\.momentum=1\.0 is not in \[0, 1\)"),
        ({"momentum": -0.1}, r"optim\.momentum=-0\.1 is not in \[0, 1\)"),
        ({"lr": -0.1}, r"optim\.lr=-0\.1 is not in \[0, inf\)"),
        ({"lr": float("nan")}, r"optim\.lr=nan is not in \[0, inf\)"),
        ({"weight_decay": -1.0}, r"optim\.weight_decay=-1\.0 is not in \[0, inf\)"),
        ({"adam_betas": (0.9, 1.5)}, r"optim\.adam_betas\[1\]=1\.5 is not in \[0, 1\)"),
        ({"adam_lr": -1e-3}, r"optim\.adam_lr=-0\.001 is not in \[0, inf\)"),
        ({"newton_schulz_steps": 0}, r"optim\.newton_schulz_steps=0 must be at least 1; use 3 to 5"),
    ],
    ids=str,
)
def test_wrong_knobs_are_refused_with_what_is_allowed(knobs, message):
    with pytest.raises(UserError, match=message):
        muon(network(), **knobs)


# in a run


@pytest.mark.parametrize("words", [["model=cnn"], ["model=mlp"], ["model=cnn", "optim.normalize=true"]], ids=str)
def test_it_learns_the_digits(words, train):
    words = [*words, "optim=muon", "scheduler=polynomial", "trainer.max_epochs=4", "logger=null"]
    ran = train(*words, "trainer.accelerator=cpu", "hydra.run.dir=a")
    assert (ran.code, ran.err) == (0, "")
    assert Run("a").results["test"]["acc"] > 0.96
