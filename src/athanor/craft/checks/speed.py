"""Seconds of a step, the share of them that waits for data, memory, and the largest batch that would fit."""

import os
import resource
import sys
import time
from itertools import islice

import torch
from torch import Tensor

from athanor.craft.checks.finding import Finding, judged
from athanor.craft.checks.subject import Pair, Subject, is_pair

FAST = False
STEPS = 5
WAITING = 0.5  # share of a step, above which data is too slow


def check(subject: Subject) -> Finding:
    batch = subject.trainer.strategy.batch_to_device(subject.raw_batches[0])
    module = subject.copy()
    subject.step(module, batch, 0)  # the first one allocates
    started = time.perf_counter()
    for step in range(STEPS):
        subject.step(module, batch, step)
    if subject.device.type == "cuda":
        torch.cuda.synchronize(subject.device)
    step = (time.perf_counter() - started) / STEPS
    started, read = time.perf_counter(), 0
    for each in islice(iter(subject.trainer.train_dataloader), STEPS):
        subject.trainer.strategy.batch_to_device(each)
        read += 1
    waiting = (time.perf_counter() - started) / max(read, 1)
    share = waiting / (waiting + step)
    figure = f"{step:.3g} s a step, {share:.0%} of the time for data, at most {used(subject.device) / 2**30:.2f} GiB"
    figure += largest_batch(subject, batch) if is_pair(batch) else ""
    advice = "training waits for data: more data.workers, data.in_memory=true, or less work for each input"
    return judged(figure, suspicious=share > WAITING and waiting > 0.01, advice=advice)


def used(device: torch.device) -> int:
    """Bytes of memory that this process had at most: of the device, or on the CPU all in all."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def largest_batch(subject: Subject, batch: Pair) -> str:
    """A power of two, from what a batch keeps for its backward pass, twice, as gradients of it are as large."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    module = subject.copy()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = subject.loss(module, batch)  # held, so that each storage has an address of its own
    parts = [*module.parameters(), *module.buffers()]
    own = {part.untyped_storage().data_ptr() for part in parts}
    each = sum(size for place, size in kept.items() if place not in own) / len(batch[0])
    del loss
    if subject.device.type == "cuda":
        free = torch.cuda.mem_get_info(subject.device)[0]
    elif "SC_AVPHYS_PAGES" in os.sysconf_names:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        return ""
    fits = max(int(free / (2 * each)), 1) if each else 1
    return f", a batch of {2 ** (fits.bit_length() - 1)} would fit"
