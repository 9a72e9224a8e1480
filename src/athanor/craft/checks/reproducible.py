"""Two trainings of some steps with one seed are identical; else the first operation that differs is named."""

import torch

from athanor.base.lightning_internals import computed
from athanor.craft.checks.finding import Finding
from athanor.craft.checks.subject import Subject

FAST = False
STEPS = 5


def check(subject: Subject) -> Finding:
    states = []
    for _ in range(2):
        module = subject.copy()
        losses = [subject.step(module, subject.batch, step) for step in range(STEPS)]
        states.append([torch.tensor(losses), *(value.clone() for value in module.state_dict().values())])
    if all(torch.equal(a, b) for a, b in zip(*states, strict=True)):
        return Finding("ok", f"two trainings of {STEPS} steps are identical")
    return Finding(
        "wrong" if subject.device.type == "cpu" else "suspicious",
        f"two trainings of {STEPS} steps differ, first in {first_difference(subject)}",
        "something draws from a generator of its own, keeps state outside the module, or adds up in another order: on "
        "GPUs type trainer.deterministic=true",
    )


def first_difference(subject: Subject) -> str:
    """The first operation whose result differs between two trainings, with its module and its inputs."""
    logs = []
    for _ in range(2):
        module = subject.copy()
        subject.optimizers_of(module)  # draws nothing that counts
        logs.append(
            computed(lambda module=module: [subject.step(module, subject.batch, step) for step in range(STEPS)])
        )
    if logs[0] is None:
        return f"an operation that torch {torch.__version__} cannot name"
    for (name, first), (other, second) in zip(*logs, strict=False):
        if name != other:
            return f"{name}, where the other has {other}"
        if first != second:
            return name
    return "no operation, when it was watched"
