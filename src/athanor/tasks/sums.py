"""Sums over the inputs of an epoch, from which its loss and measures are computed."""

import math

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor


class EpochSums:
    """For each stage the sums of loss, of its weights, of the number of inputs and of what the task sums.

    shapes: of what the task sums, by name: () or [outputs].

    Plain tensors: as buffers, DistributedDataParallel would copy them between processes. They are float32 whatever
    the precision is: under bf16-true the default type is bfloat16, which counts to 256.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.shapes = shapes
        self.stages: dict[str, list[Tensor]] = {}
        self.counts: dict[str, int] = {}  # inputs of all processes that were taken last of each stage
        self.resumed: Tensor | None = None  # [processes, numbers] of the epoch in which the checkpoint was written

    def add(self, stage: str, loss: Tensor, count: int, weight: Tensor | int, sums: dict[str, Tensor]) -> None:
        """Add a batch of `count` inputs with this loss, a scalar: the weighted sum by `count`. weight: their sum."""
        if stage not in self.stages:
            self.stages[stage] = self._zeros(loss.device)
        losses, weights, inputs, *totals = self.stages[stage]
        losses.add_(loss, alpha=count)
        weights.add_(weight)
        inputs.add_(count)
        for name, total in zip(self.shapes, totals, strict=True):
            total.add_(sums[name])

    def take(self, stage: str, strategy: Strategy) -> tuple[float, int, dict[str, float | Tensor]]:
        """Mean loss, number of inputs and sums of a stage over all processes; the stage begins anew.

        Sums are numbers, and those of a shape tensors on the CPU.
        """
        own = flat(self.stages.pop(stage, None) or self._zeros(strategy.root_device))
        sums = self._unflattened(strategy.reduce(own, reduce_op="sum").cpu())
        loss, weight, count, *totals = (total if total.ndim else total.item() for total in sums)
        self.counts[stage] = int(count)
        return loss / (weight or 1), int(count), dict(zip(self.shapes, totals, strict=True))

    def gathered(self, stage: str, device: torch.device, world_size: int) -> Tensor:
        """The sums of each process, float32 [processes, numbers], for a checkpoint; the stage goes on."""
        own = flat(self.stages.get(stage) or self._zeros(device))
        each = [own.clone() for _ in range(world_size)]
        if world_size > 1:
            torch.distributed.all_gather(each, own)
        return torch.stack(each)

    def resume(self, stage: str, rank: int, world_size: int, device: torch.device) -> None:
        """Go on with the sums of a checkpoint, where the run has been resumed from one.

        Each process has its own again; where their number is another now, the first has those of all.
        """
        if self.resumed is None:
            return
        own = self.resumed[rank] if len(self.resumed) == world_size else self.resumed.sum(0) * (rank == 0)
        self.stages[stage], self.resumed = self._unflattened(own.to(device)), None

    def _zeros(self, device: torch.device) -> list[Tensor]:
        shapes = [(), (), (), *self.shapes.values()]
        return [torch.zeros(shape, dtype=torch.float32, device=device) for shape in shapes]

    def _unflattened(self, numbers: Tensor) -> list[Tensor]:
        shapes = [(), (), (), *self.shapes.values()]
        parts = numbers.split([math.prod(shape) for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])
