"""Seconds of a step, the share of them that waits for data, memory, and the largest batch that would fit."""

import os
import resource
import sys
import time
from itertools import islice

import torch
from torch import Tensor

from athanor.craft.checks.finding import Finding, judged
from athanor.craft.checks.subject import Subject, is_pair

FAST = False
STEPS = 5
WAITING = 0.5  # share of a step, above which data is too slow
SHORT = 0.01  # seconds; less is not worth a word


def check(subject: Subject) -> Finding:
    batch = subject.trainer.strategy.batch_to_device(subject.raw_batches[0])
    module = subject.copy()
    subject.step(module, batch, 0)  # the first one allocates
    started = time.perf_counter()
    for number in range(STEPS):
        subject.step(module, batch, number)  # which reads the loss, and so waits for a GPU
    step = (time.perf_counter() - started) / STEPS
    started = time.perf_counter()
    read = [subject.trainer.strategy.batch_to_device(b) for b in islice(iter(subject.trainer.train_dataloader), STEPS)]
    waiting = (time.perf_counter() - started) / len(read)
    share = waiting / (waiting + step)
    figure = f"{step:.3g} s a step, {share:.0%} of the time for data, at most {used(subject.device) / 2**30:.2f} GiB"
    if is_pair(batch) and module.automatic_optimization:
        fits = max(int(free(subject.device) / kept_for_backward(subject, batch) * len(batch[0])), 1)
        figure += f", a batch of {2 ** (fits.bit_length() - 1)} would fit"
    advice = "training waits for data: more data.workers, data.in_memory=true, or less work for each input"
    return judged(figure, advice, suspicious=share > WAITING and waiting > SHORT)


def used(device: torch.device) -> int:
    """Bytes of memory that this process had at most: of the device, or on the CPU all in all."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def free(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")


def kept_for_backward(subject: Subject, batch: tuple[Tensor, Tensor]) -> int:
    """Bytes that a batch keeps for its backward pass, twice, as gradients of them are as large."""
    module, kept = subject.copy(), {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = subject.loss(module, batch)  # held, so that each storage has an address of its own
    for part in module.parameters():
        kept.pop(part.untyped_storage().data_ptr(), None)
    del loss
    return 2 * max(sum(kept.values()), 1)
