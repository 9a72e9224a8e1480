"""Every use of a private name of Lightning or torch, and of behaviour that their documentation does not promise.

Nothing private is used elsewhere in this package. Each function says why it is needed, and
tests/base/test_lightning_internals.py says for each what breaks if a new version of Lightning or torch changes it.
Lightning is not imported here, because models may import this file and work without Lightning.
"""

import hashlib
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler

Trainer = Any  # a lightning.pytorch.Trainer

# Lightning: what it does at every step


class CheapHookName:
    """Base class before LightningModule: stores the name of the running hook 2 microseconds faster.

    Lightning sets `_current_fx_name` of its module 48 times a step. nn.Module.__setattr__ would first look whether the
    value is a parameter, a buffer or a module.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)


def with_stored_signature(method: Callable) -> Callable:
    """Decorator of training_step. Lightning inspects its signature at every step: 20 microseconds if it is stored
    with the function, 60 if it has to be worked out.
    """
    method.__signature__ = inspect.signature(method)
    return method


def stop_broadcasting_sigterm(trainer: Trainer) -> None:
    """Switch off Lightning's message about SIGTERM between processes, for which a GPU waits at every step.

    training/agreement.py lets the processes agree about all signals, with a message that no GPU waits for.
    """
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None


# Lightning: where a run stands


def is_last_batch_of_epoch(trainer: Trainer) -> bool:
    """Whether the batch that was read last is the epoch's last one. Within `on_train_epoch_end` it is False for an
    epoch that max_steps cut short; such an epoch goes on when the run is resumed.
    """
    return trainer.fit_loop.epoch_loop._num_ready_batches_reached()


def decide_validation_after_step(trainer: Trainer, decide: Callable[[], bool]) -> None:
    """Call `decide` once, as soon as the optimizer has made the step that is under way; validate if it returns True.

    Lightning offers no way to ask for one more validation. It decides after each batch, also after batches whose
    gradients are still being accumulated; for those, its own rule holds.
    """
    loop = trainer.fit_loop.epoch_loop

    def should_validate(data_fetcher: object) -> bool:
        if loop._should_accumulate():
            return type(loop)._should_check_val_fx(loop, data_fetcher)
        del loop._should_check_val_fx
        return decide()

    loop._should_check_val_fx = should_validate


# Lightning: checkpoints within an epoch


def set_callback_metrics(trainer: Trainer, metrics: dict[str, Tensor]) -> None:
    """Give a resumed run the metrics that were known when its checkpoint was written.

    Lightning does not save them, and the end of an epoch may be judged by a validation from before the checkpoint.
    """
    trainer._logger_connector._callback_metrics.update(metrics)


def logged_step(trainer: Trainer) -> int:
    """The steps that are done, as loggers count them: trainer.global_step, or batches where a module optimizes by hand,
    as trainer.global_step then counts each step of each optimizer.
    """
    is_automatic = trainer.lightning_module.automatic_optimization
    return trainer.global_step if is_automatic else trainer.fit_loop.epoch_loop.batch_progress.total.completed


def set_logged_step(trainer: Trainer) -> None:
    """Let the loggers count steps from `logged_step`, at the first batch of a resumed run.

    Lightning counts the step at which it resumes twice and would log the following ones one step too late.
    """
    trainer.fit_loop.epoch_loop._batches_that_stepped = logged_step(trainer)


def correct_saved_progress(trainer: Trainer, checkpoint: dict) -> None:
    """Make the progress in a checkpoint say what is true when on_train_batch_start or on_train_epoch_end saves it.

    Lightning counts a batch or an epoch as completed only after these hooks. Uncorrected, a resumed run with max_steps
    would run the finished epoch once more, without batches, and one that stopped within an epoch would skip its rest.
    """
    loops = checkpoint["loops"]["fit_loop"]
    epoch, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
    batches["is_last_batch"] = False
    if epoch["current"]["processed"] == epoch["current"]["completed"]:  # saved by on_train_batch_start
        for part in "total", "current":
            batches[part] = dict.fromkeys(batches[part], batches[part]["completed"])
    elif not is_last_batch_of_epoch(trainer):  # saved by on_train_epoch_end of an epoch that max_steps cut short
        for part in "total", "current":
            epoch[part]["processed"] = epoch[part]["completed"]
    else:  # the epoch is complete: the next one begins with batch 0
        for part in "total", "current":
            epoch[part]["completed"] = epoch[part]["processed"]
        optimizer = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
        for progress in (batches, loops["epoch_loop.scheduler_progress"], *optimizer.values()):
            progress["current"] = dict.fromkeys(progress["current"], 0)


# Lightning: modules that use its own logging and its own schedulers


def epoch_values(trainer: Trainer) -> dict[str, list]:
    """What `self.log` has accumulated of the training epoch that is under way: value, and sum of the batch sizes where
    it is a mean, by name. Lightning does not save it, so a resumed epoch would be judged by its second part.
    """
    saved = {}
    for name, logged in trainer.fit_loop.epoch_loop._results.items():
        if logged.is_tensor and logged.meta.on_epoch and not logged.has_reset:
            sizes = logged.cumulated_batch_size.cpu() if logged.meta.is_mean_reduction else None
            saved[name] = [logged.value.cpu(), sizes]
    return saved


def add_epoch_values(trainer: Trainer, saved: dict[str, list]) -> dict[str, list]:
    """Put `epoch_values` before what `self.log` has accumulated since; gives those of names not logged again yet."""
    results = trainer.fit_loop.epoch_loop._results
    for name in saved.keys() & results.keys():
        logged, (value, sizes) = results[name], saved[name]
        value = value.to(logged.value.device)
        if logged.meta.is_max_reduction or logged.meta.is_min_reduction:
            logged.value = logged.meta.reduce_fx(value, logged.value)
        else:
            logged.value = value + logged.value
        if sizes is not None:
            logged.cumulated_batch_size = sizes.to(logged.value.device) + logged.cumulated_batch_size
    return {name: pair for name, pair in saved.items() if name not in results}


def metric_states(module: nn.Module) -> dict[str, list]:
    """Number of updates and states of each torchmetrics.Metric in a module that has been updated since its reset."""
    from lightning.fabric.utilities.apply_func import apply_to_collection  # not above, for models import this file
    from torchmetrics import Metric

    metrics = {name: part for name, part in module.named_modules() if isinstance(part, Metric)}
    # on the CPU, as other processes, which read them, have other devices
    states = {name: apply_to_collection(dict(m.metric_state), Tensor, Tensor.cpu) for name, m in metrics.items()}
    return {name: [m.update_count, states[name]] for name, m in metrics.items() if m.update_count}


def set_metric_states(module: nn.Module, saved: dict[str, list]) -> None:
    """The opposite of `metric_states`. torchmetrics has no public way to set how often a metric was updated."""
    for name, (count, states) in saved.items():
        metric = module.get_submodule(name)
        for state, value in states.items():
            parts = [part.to(metric.device) for part in (value if isinstance(value, list) else [value])]
            setattr(metric, state, parts if isinstance(value, list) else parts[0])
        metric._update_count = count


def postpone_plateau_schedulers(trainer: Trainer) -> list[int]:
    """Keep Lightning from moving the schedulers that follow a metric at the end of epochs; gives their frequencies.

    It moves them after it has written the epoch's checkpoint, so a resumed run would miss that move.
    """
    frequencies = [config.frequency for config in plateau_schedulers(trainer)]
    for config in plateau_schedulers(trainer):
        config.frequency = 2**62
    return frequencies


def step_plateau_schedulers(trainer: Trainer, frequencies: list[int]) -> None:
    """Move them as Lightning would, in on_train_epoch_end of a callback that is called before the checkpoint's."""
    if frequencies and is_last_batch_of_epoch(trainer):
        for config, frequency in zip(plateau_schedulers(trainer), frequencies, strict=True):
            config.frequency = frequency
        trainer.fit_loop.epoch_loop.update_lr_schedulers("epoch", update_plateau_schedulers=True)
        postpone_plateau_schedulers(trainer)


def plateau_schedulers(trainer: Trainer) -> list[Any]:
    return [
        config for config in trainer.lr_scheduler_configs if config.reduce_on_plateau and config.interval == "epoch"
    ]


# torch: devices, processes and weights


def exclude_from_ddp(module: nn.Module, names: Sequence[str]) -> None:
    """Parameters and buffers of `module`, by name, that DistributedDataParallel neither reduces nor broadcasts.

    It would broadcast all buffers before every step, also those that never change (ZCA for CIFAR-10: 38 MB).
    """
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, names)


def copy_each(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """target = source for all pairs at once, which is faster than one by one. To be called under torch.no_grad()."""
    torch._foreach_copy_(targets, sources)


def lerp_each(targets: Sequence[Tensor], sources: Sequence[Tensor], weight: float) -> None:
    """target += weight * (source - target) for all pairs of floating-point tensors at once, under torch.no_grad().

    torch.optim.swa_utils offers the same with 1 - weight, which rounds differently.
    """
    torch._foreach_lerp_(targets, sources, weight)


def cpu_has_amx() -> bool:
    """Whether this processor has AMX, which multiplies matrices of bfloat16. torch names no public way to ask."""
    return torch.cpu._is_amx_tile_supported()


def cpu_multiplies_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself (AMX or AVX-512 BF16); others emulate it more slowly."""
    return cpu_has_amx() or torch.cpu._is_avx512_bf16_supported()


# torch: optimizers and modules


class StaysFloat32(nn.Module):
    """A module whose tensors follow it to another device but keep their precision: float32 stays float32.

    `to`, `half`, `bfloat16` and `double` of a module and of all modules around it go through `nn.Module._apply`, and
    torch has no public method that a module can override to keep its precision.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)


def momentum_directions(grads: list[Tensor], buffers: list[Tensor], momentum: float, nesterov: bool) -> list[Tensor]:
    """Set buffer = momentum * buffer + grad in place, and give buffer, or grad + momentum * buffer with `nesterov`.

    torch._foreach_mul_ and torch._foreach_add_ do this for all weights in a few launches of a GPU kernel; public
    functions need several launches for each weight. The result may be the list `buffers` itself.
    """
    torch._foreach_mul_(buffers, momentum)
    torch._foreach_add_(buffers, grads)
    return torch._foreach_add(grads, buffers, alpha=momentum) if nesterov else buffers


def scale_tensors(tensors: list[Tensor], factors: float | list[Tensor]) -> None:
    """Multiply each tensor in place by one number, or by its own: torch._foreach_mul_, a few launches for all."""
    torch._foreach_mul_(tensors, factors)


def norms_of_tensors(tensors: list[Tensor]) -> list[Tensor]:
    """The Euclidean norm of each tensor: torch._foreach_norm, a few launches of a GPU kernel for all of them."""
    return list(torch._foreach_norm(tensors))


def names_of_rates(scheduler: LRScheduler) -> list[str]:
    """The attributes in which a scheduler keeps one learning rate for each parameter group.

    `_last_lr` among them is what get_last_lr() returns, and torch has no public method that sets it; a change of the
    rates in the middle of a run must reach it too. (ReduceLROnPlateau's min_lrs is a lower limit, no rate.)
    """
    return [name for name in ("base_lrs", "max_lrs", "_last_lr") if hasattr(scheduler, name)]


def parts_of_scheduler(scheduler: LRScheduler) -> list[LRScheduler]:
    """The schedulers that a SequentialLR or a ChainedScheduler is made of: only its `_schedulers` has them."""
    return list(getattr(scheduler, "_schedulers", ()))


# torch: what was computed


def hash_of_bytes(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()


def computed(run: Callable[[], object]) -> list[tuple[str, str]] | None:
    """Each operation of torch that `run` makes, with its module and the shapes of its inputs, and a hash of its result.

    Made by torch's DebugMode, which is in a private module; None where an older torch does not have it. The hash is of
    the bytes: torch's norm is blind to signs and its hash_tensor, an XOR, to equal changes of an even number of values.
    """
    try:
        from torch.utils._debug_mode import DebugMode

        mode = DebugMode(record_nn_module=True)
        hashing = DebugMode.log_tensor_hashes(hash_fn=hash_of_bytes)
        hashing.__enter__()
    except (ImportError, AttributeError, NotImplementedError, TypeError):
        return None
    try:
        with mode:
            run()
    finally:
        hashing.__exit__(None, None, None)
    found, modules = [], {}
    for call in mode.logs:
        if not hasattr(call, "op"):  # the beginning of a module's forward
            modules = {depth: name for depth, name in modules.items() if depth < call.call_depth}
            modules[call.call_depth] = call.tag
        elif "aten.set_" not in str(call.op):  # it computes nothing, and its text is the bytes of a storage
            within = [name for depth, name in modules.items() if depth < call.call_depth]
            text = re.sub(r" at 0x\w+", "", call.render([])).partition("  # ")[0].partition("  ->")[0]
            found.append((f"{text} in {within[-1]}" if within else text, str((call.log or {}).get("hash"))))
    return found
