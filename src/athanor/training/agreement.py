"""Lets the processes of a run agree at a step on what one of them alone can see: a signal, a clock, a file."""

from collections.abc import Callable, Hashable

import lightning.pytorch as L
import torch
import torch.distributed as dist


class Agreement:
    """Gives callbacks in all processes the same answer at the same step.

    `sources` has a function for each question, whose integer is this process's own answer; the agreed answer is the
    largest of all processes. The first question at a moment is asked together with all others, so a step costs one
    message, however many callbacks ask. A run of one process sends none.
    """

    def __init__(self) -> None:
        self.sources: dict[str, Callable[[], int]] = {}
        self.agreed: dict[str, int] = {}
        self.alone = True
        self.group: dist.ProcessGroup | None = None
        self.moment: Hashable = None

    def connect(self, trainer: L.Trainer) -> None:
        """To be called by all processes before the first question of a fit, any number of times."""
        self.alone, self.moment = trainer.world_size == 1, None
        if not self.alone and self.group is None and dist.get_backend() != "gloo":
            self.group = dist.new_group(backend="gloo")  # a message by NCCL would make the GPU wait for its answer

    def ask(self, name: str, moment: Hashable) -> int:
        """The agreed answer. All processes must ask at the same moments; successive moments must differ."""
        if self.alone:
            return self.sources[name]()
        if moment != self.moment:
            answers = torch.tensor([source() for source in self.sources.values()], dtype=torch.int64)
            dist.all_reduce(answers, dist.ReduceOp.MAX, group=self.group)
            self.moment, self.agreed = moment, dict(zip(self.sources, answers.tolist(), strict=True))
        return self.agreed[name]

    def from_main(self, value: object) -> object:
        """The value of the main process, in all processes."""
        if self.alone:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.group)
        return values[0]


def gathered(value: object, world_size: int) -> list:
    """The plain value of each process, in all processes."""
    values = [value] * world_size
    if world_size > 1:
        dist.all_gather_object(values, value)
    return values
