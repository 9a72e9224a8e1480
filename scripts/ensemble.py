"""One classifier of several: python scripts/ensemble.py <run, sweep or checkpoint> ... [--select greedy]

A sweep stands for the chosen checkpoint of each of its runs, such as the seeds of a multirun or the best of a search.
Members are chosen on validation; only the result is tested, once. The result is a directory like that of a run, which
evaluate.py, predict.py and export.py take. With --distill it is one network, trained on the predictions of the ensemble
for the training images. Predictions are kept in predictions/ of each run, so that another choice takes no time.
"""

import argparse
import time

from athanor.base.errors import UserError
from athanor.engine.app import command_line


def main() -> None:
    arguments = parse_arguments()

    from athanor.craft.ensembles.report import numbers
    from athanor.engine.app.logs import set_up_logging
    from athanor.engine.runs.ensembles import directory, distill, session
    from athanor.engine.runs.run import shown

    set_up_logging()
    started = time.perf_counter()
    now = session.Session(arguments.members, arguments.checkpoints, arguments.tta or "none", arguments.stage)
    if arguments.soup:
        made = session.soup(now, arguments.soup)
    else:
        how, select = arguments.combine or "probabilities", arguments.select or "all"
        made = session.ensemble(now, how, select, arguments.k)
    reports = now.reports(made)
    for report in reports:
        print("\n" + "\n".join(report.table(now.best, made.kind)))
    folder = directory.make(arguments.output)
    if arguments.distill:
        print(distill.words(distill.distill(now, made, folder)))
    else:
        typed = {key: value for key, value in vars(arguments).items() if value and key not in ("members", "output")}
        results = {"made": made.kind, "asked": typed, "forward_passes": made.passes}
        directory.write(folder, made.contents, {**results, **numbers(reports, now.best)}, now.data, now.tests)
        print(f"  {made.passes} forward passes an image; made in {time.perf_counter() - started:.2f} s")
    print(f"  python scripts/evaluate.py {shown(folder)}")


def parse_arguments() -> argparse.Namespace:
    """The command line. Raises UserError where --soup stands beside an option that only ensembles have."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("members", nargs="+", help="directories of runs or sweeps, and .ckpt files")
    parser.add_argument("--checkpoints", action="store_true", help="all kept epoch_<n>.ckpt of each run, not its best")
    parser.add_argument("--combine", choices=("probabilities", "logits", "vote"), help="mean of (probabilities)")
    parser.add_argument("--select", choices=("all", "greedy", "top"), help="which members, by validation (all)")
    parser.add_argument("--k", type=int, help="number of members of --select top (5)")
    parser.add_argument("--soup", choices=("uniform", "greedy"), help="one network of mean weights instead")
    parser.add_argument("--distill", action="store_true", help="train one network on the ensemble's predictions")
    parser.add_argument("--tta", choices=("none", "flip", "flip_shift"), help="views of an image to average (none)")
    parser.add_argument("--stage", choices=("val", "test"), help="val leaves the test set unread")
    parser.add_argument("--output", metavar="DIR", help="a new folder, instead of one below outputs/ensembles/")
    arguments = parser.parse_args()
    strange = [name for name in ("combine", "select", "k", "tta") if getattr(arguments, name) is not None]
    strange += ["distill"] if arguments.distill else []
    if arguments.soup and strange:
        raise UserError(f"--{strange[0]} is of ensembles, and --soup makes one network; leave out one of them")
    return arguments


if __name__ == "__main__":
    command_line.run(main)
