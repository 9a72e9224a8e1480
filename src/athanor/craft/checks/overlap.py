"""No example of validation or test is among those of training: the same bytes, or mirrored; no group is in both."""

from torch import Tensor

from athanor.craft.checks.finding import DoesNotApplyError, Finding, judged, wrong
from athanor.craft.checks.subject import Subject
from athanor.data.module import ArrayData

FAST = True
WRONG = 0.01  # share of validation or test
MOST = 200_000  # inputs of a stage that are compared


def check(subject: Subject) -> Finding:
    inputs, _ = subject.examples("train", MOST)
    if inputs[0].numel() < 8:
        raise DoesNotApplyError("inputs of so few values are equal by chance")
    if shared := shared_groups(subject):
        figure = f"{len(shared)} groups are in train and in validation: {', '.join(map(str, sorted(shared)[:3]))}"
        return wrong(figure, "examples of one group have to be on one side: give the groups to the split")
    train = contents(inputs)
    known, worst = set(train), 0.0
    figures = [f"{len(train) - len(known)} duplicates among {len(train)} of train"]
    for stage in "val", "test":
        if (pair := subject.examples(stage, MOST)) is None:
            continue
        same, mirrored = (
            {number for number, key in enumerate(contents(view)) if key in known and key}
            for view in (pair[0], pair[0].flip(-1) if pair[0].ndim == 4 else pair[0])
        )
        both = sorted(same | mirrored)
        worst = max(worst, len(both) / len(pair[0]))
        named = f" ({', '.join(map(str, both[:3]))})" if both else ""
        figures.append(f"{len(same)} of {stage} in train, mirrored {len(mirrored - same)}{named}")
    advice = "what is evaluated on was trained on: remove the duplicates, by content, before the split"
    return judged("; ".join(figures), advice, wrong=worst > WRONG, suspicious=worst > 0)


def contents(inputs: Tensor) -> list[bytes]:
    """The bytes of each input; none of one that is constant, as empty pictures are."""
    return [row.tobytes() if (row != row[0]).any() else b"" for row in inputs.flatten(1).contiguous().numpy()]


def shared_groups(subject: Subject) -> set[int]:
    data = subject.data
    if not isinstance(data, ArrayData) or data.source.groups is None or data.source.val_inputs is not None:
        return set()
    train, val = (data.source.groups[index].tolist() for index in (data.train_index, data.val_index))
    return {*train} & {*val}
