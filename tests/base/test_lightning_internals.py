"""Each private name of Lightning and torch is there and does what we need of it.

A test that fails prints why the name is needed: the docstring of the function that uses it.
"""

import functools
import inspect
from collections.abc import Callable

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from torch import nn, optim
from torch.nn.parallel import DistributedDataParallel
from torch.optim import lr_scheduler

from athanor.base import lightning_internals as internals


def needed_by(function: Callable) -> Callable:
    """Decorator of a test: whatever goes wrong in it, it fails with the docstring of this function."""

    def decorate(test: Callable) -> Callable:
        @functools.wraps(test)
        def explained(*args: object, **kwargs: object) -> None:
            try:
                test(*args, **kwargs)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}".partition("\n")[0]
                pytest.fail(f"{function.__name__} no longer works ({reason}).\n{inspect.getdoc(function)}")

        return explained

    return decorate


class Module(internals.CheapHookName, L.LightningModule):
    """One weight, and a step that logs how many steps the optimizer has made."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.validated_at: list[int] = []

    @internals.with_stored_signature
    def training_step(self, batch, batch_idx):
        self.log("made", float(self.global_step))
        return self.weight

    def validation_step(self, batch, batch_idx):
        pass

    def on_validation_start(self):
        self.validated_at.append(self.global_step)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1.0)


class Logged(DummyLogger):
    """Remembers at which step each value of `made` was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[float, int]] = []

    def log_metrics(self, metrics, step):
        if "made" in metrics:
            self.steps.append((metrics["made"], step))


class Loader:
    """4 batches, in its first epoch from `first` on; Lightning sees that it can be resumed."""

    def __init__(self, first: int = 0) -> None:
        self.first = first

    def __len__(self) -> int:
        return 4

    def __iter__(self):
        first, self.first = self.first, 0
        return iter([torch.zeros(1)] * (4 - first))

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


@pytest.fixture
def fit(make_trainer):
    """Train on 4 batches an epoch; each `hook=function` is called with the trainer as a callback's hook."""

    def fit(ckpt_path=None, first_batch=0, logger=False, hooks=(), **settings):
        callback = L.Callback()
        for name, act in dict(hooks).items():
            setattr(callback, name, lambda trainer, *_, act=act, **__: act(trainer))
        trainer = make_trainer(callbacks=[callback], logger=logger, **settings)
        trainer.fit(Module(), Loader(first_batch), Loader(), ckpt_path=ckpt_path, weights_only=True)
        return trainer

    return fit


# Lightning: what it does at every step


@needed_by(internals.CheapHookName)
def test_lightning_keeps_the_name_of_the_running_hook_in_the_module(fit, monkeypatch):
    names, slow = [], []
    original = nn.Module.__setattr__
    monkeypatch.setattr(nn.Module, "__setattr__", lambda self, *pair: (slow.append(pair[0]), original(self, *pair)))
    monkeypatch.setattr(Module, "on_before_backward", lambda self, loss: names.append(vars(self)["_current_fx_name"]))
    fit(max_steps=1)
    assert names == ["on_before_backward"]
    assert "_current_fx_name" not in slow


@needed_by(internals.with_stored_signature)
def test_lightning_reads_a_stored_signature(monkeypatch):
    from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

    assert is_param_in_hook_signature(Module().training_step, "batch_idx", min_args=2)
    monkeypatch.setattr(Module.training_step, "__signature__", inspect.signature(lambda self, stored: None))
    assert is_param_in_hook_signature(Module().training_step, "stored", explicit=True)


@needed_by(internals.stop_broadcasting_sigterm)
@pytest.mark.parametrize("stopped", [False, True])
def test_lightning_sends_no_message_about_sigterm(stopped, fit, monkeypatch):
    messages = []

    def pretend_two_processes(trainer):
        if stopped:
            internals.stop_broadcasting_sigterm(trainer)
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "broadcast", lambda tensor, src: messages.append(src))
        monkeypatch.setattr(L.Trainer, "world_size", property(lambda self: 2))

    def end_pretending(trainer):
        monkeypatch.undo()

    hooks = {"on_train_epoch_start": pretend_two_processes, "on_train_batch_end": end_pretending}
    fit(max_steps=1, hooks=hooks)
    assert messages == ([] if stopped else [0])


# Lightning: where a run stands


@needed_by(internals.is_last_batch_of_epoch)
def test_the_last_batch_of_an_epoch_is_known(fit):
    seen = []
    ask = {"on_train_batch_end": lambda t: seen.append(internals.is_last_batch_of_epoch(t))}
    fit(hooks=ask | {"on_train_epoch_end": ask["on_train_batch_end"]})
    assert seen == [False, False, False, True, True]
    seen.clear()
    fit(hooks=ask | {"on_train_epoch_end": ask["on_train_batch_end"]}, max_steps=2)
    assert seen == [False, False, False]


@needed_by(internals.decide_validation_after_step)
def test_a_validation_can_be_asked_for_after_a_step(fit):
    asked = []

    def ask(trainer):
        if trainer.global_step == 0 and not asked:
            asked.append("once")
            internals.decide_validation_after_step(trainer, lambda: asked.append(trainer.global_step) or True)

    trainer = fit(hooks={"on_train_batch_start": ask}, accumulate_grad_batches=2)
    assert asked == ["once", 1]  # after the second batch, not after the first
    assert trainer.lightning_module.validated_at == [1, 2]  # and at the end of the epoch, as always


# Lightning: checkpoints within an epoch


@needed_by(internals.set_callback_metrics)
def test_metrics_can_be_given_to_a_resumed_run(fit):
    seen = []
    hooks = {
        "on_train_start": lambda t: internals.set_callback_metrics(t, {"val/loss": torch.tensor(7.0)}),
        "on_train_epoch_end": lambda t: seen.append(dict(t.callback_metrics)),
    }
    fit(hooks=hooks)
    assert seen[0]["val/loss"] == 7 and seen[0]["made"] == 3


@pytest.fixture
def save_and_resume(fit, tmp_path):
    """Save in the hook when so many steps are made, train on from there, and give the resumed trainer."""

    def save_and_resume(hook, step, limits, resumed_hooks, logger=False):
        path = tmp_path / "saved.ckpt"

        def save(trainer):
            if trainer.global_step == step and not path.exists():
                trainer.save_checkpoint(path, weights_only=False)

        def correct(callback, trainer, module, checkpoint):
            internals.correct_saved_progress(trainer, checkpoint)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(L.Callback, "on_save_checkpoint", correct)
            fit(hooks={hook: save}, **limits)
        unlimited = {"max_steps": 1000} if limits else {}
        return fit(path, step % 4, logger, resumed_hooks, max_epochs=2, val_check_interval=2, **unlimited)

    return save_and_resume


SAVED = [  # by which hook, at which step, in a run with which limits
    ("on_train_batch_start", 2, {}),
    ("on_train_batch_start", 2, {"max_steps": 100}),
    ("on_train_epoch_end", 4, {}),
    ("on_train_epoch_end", 4, {"max_steps": 100}),
    ("on_train_epoch_end", 2, {"max_steps": 2}),
]


@needed_by(internals.correct_saved_progress)
@pytest.mark.parametrize(("hook", "step", "limits"), SAVED)
def test_a_run_resumed_from_a_corrected_checkpoint_makes_the_remaining_steps(hook, step, limits, save_and_resume):
    batches = []

    def note(trainer):
        batches.append((trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_idx))

    trainer = save_and_resume(hook, step, limits, {"on_train_batch_end": note})
    assert batches == [(epoch, batch) for epoch in (0, 1) for batch in range(4)][step:]
    assert (trainer.global_step, trainer.current_epoch) == (8, 2)
    assert trainer.lightning_module.validated_at == [at for at in (2, 4, 6, 8) if at > step]


@needed_by(internals.set_logged_step)
@pytest.mark.parametrize(("hook", "step", "limits"), SAVED)
def test_a_resumed_run_logs_at_the_step_that_it_makes(hook, step, limits, save_and_resume):
    logger, first = Logged(), iter([True])

    def correct(trainer):
        if next(first, False):
            internals.set_logged_step(trainer)

    save_and_resume(hook, step, limits, {"on_train_batch_start": correct}, logger)
    assert logger.steps == [(made, made) for made in range(step, 8)]


# torch


@needed_by(internals.exclude_from_ddp)
def test_ddp_does_not_broadcast_what_is_excluded(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        module = nn.BatchNorm1d(2)
        internals.exclude_from_ddp(module, ["running_mean"])
        parallel = DistributedDataParallel(module)
        assert {name for name, _ in parallel.named_module_buffers.items()} == {"running_var", "num_batches_tracked"}
    finally:
        torch.distributed.destroy_process_group()


@needed_by(internals.copy_each)
def test_all_tensors_are_copied_at_once():
    targets, sources = [torch.zeros(2), torch.zeros(3, dtype=torch.int64)], [torch.ones(2), torch.arange(3)]
    internals.copy_each(targets, sources)
    assert all(map(torch.equal, targets, sources))


@needed_by(internals.lerp_each)
def test_all_tensors_are_interpolated_at_once():
    targets, sources = [torch.zeros(2), torch.ones(3)], [torch.ones(2), torch.full((3,), 5.0)]
    internals.lerp_each(targets, sources, 0.25)
    assert [target.tolist() for target in targets] == [[0.25] * 2, [2.0] * 3]


@needed_by(internals.cpu_multiplies_bfloat16)
def test_the_processor_is_known():
    with open("/proc/cpuinfo") as file:
        flags = file.read().partition("flags")[2].partition("\n")[0].split()
    assert internals.cpu_has_amx() == ("amx_tile" in flags)
    assert internals.cpu_multiplies_bfloat16() == bool({"amx_tile", "avx512_bf16"} & set(flags))


# torch: optimizers and modules


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in [(3, 4), (5,), (2, 3, 2)]]


@needed_by(internals.StaysFloat32)
@pytest.mark.parametrize("move", [lambda m: m.to(torch.bfloat16), nn.Module.half, nn.Module.double, nn.Module.bfloat16])
def test_a_module_stays_float32_and_follows_to_a_device(move):
    class Fitted(internals.StaysFloat32):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.tensor([123.456]))

    owner = move(nn.Sequential(Fitted(), nn.Linear(1, 1)))
    assert owner[0].mean.equal(torch.tensor([123.456]))
    assert owner[1].weight.dtype != torch.float32
    assert owner.to("meta")[0].mean.device.type == "meta"


@needed_by(internals.momentum_directions)
@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_of_all_weights_is_that_of_each(nesterov, tensors):
    buffers, before = [tensor.flip(0).clone() for tensor in tensors], [tensor.flip(0).clone() for tensor in tensors]
    directions = internals.momentum_directions(tensors, buffers, 0.9, nesterov)
    for grad, buffer, old, direction in zip(tensors, buffers, before, directions, strict=True):
        assert torch.equal(buffer, 0.9 * old + grad)
        torch.testing.assert_close(direction, grad + 0.9 * buffer if nesterov else buffer)


@needed_by(internals.scale_tensors)
@pytest.mark.parametrize("factors", [0.3, [torch.tensor(0.3), torch.tensor(-2.0), torch.tensor(0.0)]], ids=str)
def test_tensors_are_scaled_in_place(factors, tensors):
    before = [tensor.clone() for tensor in tensors]
    internals.scale_tensors(tensors, factors)
    each = factors if isinstance(factors, list) else [factors] * len(tensors)
    assert all(torch.equal(tensor, factor * old) for tensor, factor, old in zip(tensors, each, before, strict=True))


@needed_by(internals.norms_of_tensors)
def test_norms_are_euclidean(tensors):
    torch.testing.assert_close(internals.norms_of_tensors(tensors), [tensor.norm() for tensor in tensors])


RATES = {
    "ExponentialLR": (lambda o: lr_scheduler.ExponentialLR(o, 0.9), {"base_lrs", "_last_lr"}),
    "CyclicLR": (lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1), {"base_lrs", "max_lrs", "_last_lr"}),
    "ReduceLROnPlateau": (lr_scheduler.ReduceLROnPlateau, {"_last_lr"}),
}


@needed_by(internals.names_of_rates)
@pytest.mark.parametrize("name", RATES)
def test_a_scheduler_keeps_its_rates_under_the_known_names(name):
    make, names = RATES[name]
    scheduler = make(optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9))
    assert names <= set(internals.names_of_rates(scheduler))
    scheduler._last_lr = [0.5]
    assert scheduler.get_last_lr() == [0.5]


@needed_by(internals.parts_of_scheduler)
@pytest.mark.filterwarnings("ignore:The epoch parameter")  # torch's, of its own SequentialLR
@pytest.mark.parametrize(
    "make",
    [lambda o, parts: lr_scheduler.SequentialLR(o, parts, [2]), lambda o, parts: lr_scheduler.ChainedScheduler(parts)],
)
def test_the_parts_of_a_composed_scheduler_are_known(make):
    optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    parts = [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    assert internals.parts_of_scheduler(make(optimizer, parts)) == parts
    assert internals.parts_of_scheduler(parts[0]) == []


@needed_by(internals.computed)
def test_each_operation_is_told_with_its_module_and_a_hash_that_sees_signs():
    network = nn.Sequential(nn.Linear(4, 3), nn.Tanh())

    def run(sign: float) -> list[tuple[str, str]]:
        return internals.computed(lambda: network[1](sign * torch.ones(2, 3)))

    first, same, other = run(1.0), run(1.0), run(-1.0)
    if first is None:
        pytest.skip("this torch has no DebugMode that hashes")
    assert first == same
    assert [name for name, _ in first][-1] == "aten::tanh(t: f32[2, 3]) in Tanh"
    assert first[-1][1] != other[-1][1]
