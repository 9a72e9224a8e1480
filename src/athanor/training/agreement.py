"""What the processes of a run agree on at a step."""

from collections.abc import Callable, Hashable

import lightning.pytorch as L
import torch
import torch.distributed as dist


class Agreement:
    """Callbacks that act on what one process alone can see - a signal, a clock, a file - ask here, and all processes
    get the same answer at the same step.

    `sources` has a function for each name, whose integer is this process's own answer; the largest counts. Whoever
    asks first at a moment asks for all, so a step costs one message however many ask. One process sends none.
    """

    def __init__(self) -> None:
        self.sources: dict[str, Callable[[], int]] = {}
        self.agreed: dict[str, int] = {}
        self.alone, self.group, self.moment = True, None, None

    def connect(self, trainer: L.Trainer) -> None:
        """Before the first question of a fit; all processes at once, any number of times."""
        self.alone, self.moment = trainer.world_size == 1, None
        if not self.alone and self.group is None and dist.get_backend() != "gloo":
            self.group = dist.new_group(backend="gloo")  # a GPU would have to wait for its answer

    def ask(self, name: str, moment: Hashable) -> int:
        """The same on all processes. All of them ask at the same moments; no two moments that follow are equal."""
        if self.alone:
            return self.sources[name]()
        if moment != self.moment:
            answers = torch.tensor([source() for source in self.sources.values()], dtype=torch.int64)
            dist.all_reduce(answers, dist.ReduceOp.MAX, group=self.group)
            self.moment, self.agreed = moment, dict(zip(self.sources, answers.tolist(), strict=True))
        return self.agreed[name]

    def of_main(self, thing: object) -> object:
        """What the main process has, on all."""
        if self.alone:
            return thing
        box = [thing]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]
