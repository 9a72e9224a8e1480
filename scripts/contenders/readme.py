"""What `benchmark.py all` prints for the README: the rows of its table of speeds."""

from typing import Any

from contenders import tables

ROWS = (  # a case, its contender of Athanor and its loop by hand, and what the row is about
    ("mlp", "athanor", "plain", "`mlp`: MNIST, 784-64-128-64-10, batch 128, seconds of an epoch"),
    ("resnet20", "athanor-bf16", "plain-bf16", "`resnet20`: CIFAR-10, batch 128, crop and flip, bfloat16"),
    ("resnet20", "athanor-fp32", "plain-fp32", "the same in float32"),
)


def for_readme(machine: str, cases: dict[str, Any]) -> str:
    """Markdown for the machine of this description; what was not measured is not in it."""
    lines = [f"**Speed** on {machine}; rounds in turns, median (least-most):", ""]
    lines += ["| `python scripts/benchmark.py` ... | conventional / Athanor | Athanor / plain loop |", "|---|---|---|"]
    for case, athanor, plain, about in ROWS:
        ratios = cases.get(case, {}).get("ratios", {})
        pair = [ratios.get(name) for name in (f"conventional / {athanor}", f"{athanor} / {plain}")]
        if all(pair):
            cells = [tables.format_range(ratio["epoch_s"], ".2f") for ratio in pair]
            generated = ", GENERATED images" if cases[case]["data"].startswith("GENERATED") else ""
            rounds = len(pair[0]["epoch_s"]["rounds"])
            lines.append(f"| {about}{generated}, rounds {rounds} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)
