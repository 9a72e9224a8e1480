"""What is done at every step for nobody, left out: a step of a small network is shorter than that."""

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

# Lightning sets it when it is imported. With it, torch.cuda.is_available(), which every optimizer step asks, looks for
# NVIDIA's management library each time: 140 us on a machine that has none.
os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)


class NoProfiler(PassThroughProfiler):
    """Lightning asks for a context manager 50 times a step; its own builds a generator each time."""

    nothing = nullcontext()

    def profile(self, action_name: str) -> nullcontext:
        return self.nothing


def skip_empty_hooks(callbacks: Iterable[L.Callback]) -> None:
    """Lightning calls each hook of each callback, unless it is not callable; so let those that do nothing be None."""
    for callback in callbacks:
        for hook in BATCH_HOOKS:
            if getattr(type(callback), hook) is getattr(L.Callback, hook):
                setattr(callback, hook, None)
