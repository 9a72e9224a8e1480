"""What `benchmark.py all` prints for the README: the rows of its table of speeds, and the sentences below it."""

from typing import Any

from contenders import tables

ROWS = (  # a case, its contender of Athanor and its loop by hand, and what the row is about
    ("mlp", "athanor", "plain", "`mlp`: MNIST, 784-64-128-64-10, batch 128, seconds of an epoch"),
    ("resnet20", "athanor-bf16", "plain-bf16", "`resnet20`: CIFAR-10, batch 128, crop and flip, bfloat16"),
    ("resnet20", "athanor-fp32", "plain-fp32", "the same in float32"),
)
FACTORS = (  # a case, which of its ratios, of which of its numbers, and what that is
    ("data-mnist", 0, "images_per_s", "`data` alone on MNIST, times as fast as torchvision's"),
    ("data-cifar10", 0, "images_per_s", "`data` alone on CIFAR-10, times as fast as torchvision's"),
    ("compile", 0, "epoch_s", "ResNet-20 in bfloat16, times as fast with `compute.compile=true`"),
    ("compile", 1, "epoch_s", "ResNet-20 compiled by nothing, times as fast in bfloat16 as in float32"),
    ("ema", 0, "epoch_s", "ResNet-20 with `callbacks=ema`, times as long as without"),
)


def for_readme(machine: str, cases: dict[str, Any]) -> str:
    """Markdown for the machine of this description; what was not measured is not in it."""
    counts = sorted(len(contender["rounds"]) for case in cases.values() for contender in case["contenders"].values())
    lines = [f"**Speed** on {machine}; {counts[0]} to {counts[-1]} rounds in turns, median (least-most):", ""]
    lines += ["| `python scripts/benchmark.py` ... | conventional / Athanor | Athanor / plain loop |", "|---|---|---|"]
    for case, athanor, plain, about in ROWS:
        ratios = cases.get(case, {}).get("ratios", {})
        names = f"conventional / {athanor}", f"{athanor} / {plain}"
        if all(name in ratios for name in names):
            is_generated = cases[case]["data"].startswith("GENERATED")
            cells = [tables.format_range(ratios[name]["epoch_s"], ".2f") for name in names]
            lines.append(f"| {about}{', generated images' if is_generated else ''} | {cells[0]} | {cells[1]} |")
    lines.append("")
    for case, number, key, about in FACTORS:
        if case in cases:
            ratio = list(cases[case]["ratios"].values())[number]
            lines.append(f"* {about}: {tables.format_range(ratio[key], '.2f')}")
    for name, contender in cases.get("startup", {}).get("contenders", {}).items():
        lines.append(f"* seconds to `{name}`: {tables.format_range(contender['summary']['command_s'], '.1f')}")
    return "\n".join(lines)
