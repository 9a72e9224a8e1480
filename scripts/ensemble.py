"""One classifier of several: python scripts/ensemble.py <run, sweep or checkpoint> ... [--select greedy]

A sweep gives the chosen checkpoint of each of its runs, so seeds of a multirun or the best of a search. What is chosen
is chosen on validation; the test set is read once, for that. The result is a directory like a run's, for evaluate.py,
predict.py and export.py; with --distill, one network that is trained on what the ensemble says of the training images.
Predictions are kept in predictions/ of each run, so that choosing again takes no time.
"""

import argparse
import logging
import time

from athanor.engine.app import command_line


def main() -> None:
    arguments = parsed()

    from athanor.craft.ensembles.report import numbers
    from athanor.engine.app.logs import set_up_logging
    from athanor.engine.runs.ensembles import directory, distill, session
    from athanor.engine.runs.run import shown

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    set_up_logging()
    begun = time.perf_counter()
    refuse_both(arguments)
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
        results = {"made": made.kind, "asked": asked(arguments), "forward_passes": made.passes}
        directory.write(folder, made.contents, {**results, **numbers(reports, now.best)}, now.data, now.tests)
        print(f"  {made.passes} forward passes an image; made in {time.perf_counter() - begun:.2f} s")
    print(f"  python scripts/evaluate.py {shown(folder)}")


def asked(arguments: argparse.Namespace) -> dict[str, object]:
    """The flags that were typed."""
    others = ("members", "output")
    return {name: value for name, value in vars(arguments).items() if value and name not in others}


def refuse_both(arguments: argparse.Namespace) -> None:
    from athanor.base.errors import UserError

    strange = [name for name in ("combine", "select", "k", "tta") if getattr(arguments, name) is not None]
    strange += ["distill"] if arguments.distill else []
    if arguments.soup and strange:
        raise UserError(f"--{strange[0]} is of ensembles, and --soup makes one network; leave out one of them")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("members", nargs="+", help="runs' directories, sweeps' directories, .ckpt files")
    parser.add_argument("--checkpoints", action="store_true", help="all kept epoch_<n>.ckpt of each run, not its best")
    parser.add_argument("--combine", choices=("probabilities", "logits", "vote"), help="mean of (probabilities)")
    parser.add_argument("--select", choices=("all", "greedy", "top"), help="which members are in, by validation (all)")
    parser.add_argument("--k", type=int, help="members of --select top (5)")
    parser.add_argument("--soup", choices=("uniform", "greedy"), help="one network of mean weights instead")
    parser.add_argument("--distill", action="store_true", help="train one network on what the ensemble says")
    parser.add_argument("--tta", choices=("none", "flip", "flip_shift"), help="views to average over (none)")
    parser.add_argument("--stage", choices=("val", "test"), help="val leaves the test set unread")
    parser.add_argument("--output", metavar="DIR", help="a new folder, instead of one below outputs/ensembles/")
    return parser.parse_args()


if __name__ == "__main__":
    command_line.run(main)
