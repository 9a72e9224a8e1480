"""Two trainings of some steps with one seed are identical; else the first operation that differs is named."""

import torch

from athanor.base.lightning_internals import computed
from athanor.craft.checks.finding import Finding, judged, ok
from athanor.craft.checks.subject import Subject

FAST = False
STEPS = 5


def check(subject: Subject) -> Finding:
    states = []
    for _ in range(2):
        module = subject.copy()
        losses = train(subject, module)
        states.append([torch.tensor(losses), *(value.clone() for value in module.state_dict().values())])
    if all(torch.equal(a, b) for a, b in zip(*states, strict=True)):
        return ok(f"two trainings of {STEPS} steps are identical")
    return judged(
        f"two trainings of {STEPS} steps differ, first in {first_difference(subject)}",
        "something has a generator or a state of its own, or adds up in another order: trainer.deterministic=true",
        wrong=subject.device.type == "cpu",
        suspicious=True,
    )


def train(subject: Subject, module: torch.nn.Module) -> list[float]:
    return [subject.step(module, subject.batch, step) for step in range(STEPS)]


def first_difference(subject: Subject) -> str:
    """The first operation whose result differs between two trainings, with its module and its inputs."""
    logs = [computed(lambda: train(subject, subject.copy())) for _ in range(2)]
    if logs[0] is None:
        return f"an operation that torch {torch.__version__} cannot name"
    pairs = zip(*logs, strict=False)
    return next((first[0] for first, second in pairs if first != second), "no operation, when it was watched")
