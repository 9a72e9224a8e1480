"""Removes work that Lightning does at every step and nobody uses: it takes longer than a step of a small network."""

import os
from collections.abc import Iterable
from contextlib import nullcontext

import lightning.pytorch as L
from lightning.pytorch.profilers import PassThroughProfiler

BATCH_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)

# Lightning sets this variable when it is imported. With it, torch.cuda.is_available(), which every optimizer step
# calls, looks for NVIDIA's management library each time: 140 microseconds on a machine that has none.
os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)


class NoProfiler(PassThroughProfiler):
    """Measures nothing. Lightning's own does neither, but makes a generator for each of 50 context managers a step."""

    nothing = nullcontext()

    def profile(self, action_name: str) -> nullcontext:
        return self.nothing


def skip_empty_hooks(callbacks: Iterable[L.Callback]) -> None:
    """Set the hooks of each batch that a callback does not override to None.

    Lightning calls every hook of every callback that is callable, also those that do nothing.
    """
    for callback in callbacks:
        for hook in BATCH_HOOKS:
            is_own = hook in vars(callback)  # as those of Lightning's LambdaCallback
            if getattr(type(callback), hook) is getattr(L.Callback, hook) and not is_own:
                setattr(callback, hook, None)
