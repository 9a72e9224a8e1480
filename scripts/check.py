"""Look for bugs before a training: python scripts/check.py model=cnn data=mnist [overrides]

Overrides are those of train.py, and the same objects are built. Each check prints a line: its verdict (ok, suspicious,
wrong, or skipped and why), its name and what was measured; where something may be wrong, what to look at. It ends with
exit code 1 where a check says wrong. Nothing is trained but copies, and no test input is evaluated: their bytes are
compared with those of training. A picture of what the network gets lies in outputs/checks/.
"""

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path

from athanor.engine.app import command_line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="model=cnn data=mnist optim=nesterov optim.lr=0.1 ...")
    parser.add_argument("--fast", action="store_true", help="leave out what takes longer than some seconds")
    parser.add_argument("--only", nargs="+", default=[], metavar="CHECK", help="checks by name, in place of all")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    arguments = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr if arguments.json else sys.stdout):
        findings, is_wrong = run(arguments)
    if arguments.json:
        print(json.dumps(findings, indent=2))
    sys.exit(int(is_wrong))


def run(arguments: argparse.Namespace) -> tuple[list[dict[str, str]], bool]:
    """The findings, and whether one of them is wrong."""
    import lightning.pytorch as L

    from athanor.craft.checks import check
    from athanor.engine.app.logs import set_up_logging
    from athanor.engine.config import assemble
    from athanor.engine.runs.claim import claim
    from athanor.engine.runs.lineage import load_weights

    config = command_line.composed(arguments.overrides)
    set_up_logging()
    L.seed_everything(config["seed"], verbose=False)  # for the weights that train.py would start from
    data = assemble.data(config)
    module = assemble.task(config, data)
    if config["weights"]:
        load_weights(module, config["weights"])
    trainer = assemble.bare_trainer(config, ".", data, module)
    named = {"fast": arguments.fast, "only": arguments.only}
    draws = not arguments.fast and (not arguments.only or "picture" in arguments.only)
    folder = claim(f"outputs/checks/{time.strftime('%Y-%m-%d_%H-%M-%S')}_{config['name']}") if draws else None
    report = check(module, data, trainer=trainer, folder=folder and Path(folder), tell=print, **named)
    counts = {verdict: len(report.names(verdict)) for verdict in ("ok", "suspicious", "wrong", "skipped")}
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count))
    return report.as_json(), report.is_wrong


if __name__ == "__main__":
    command_line.start(main)
