"""One classifier of several: python scripts/ensemble.py <run, sweep or checkpoint> ... [--select greedy]

A sweep stands for the chosen checkpoint of each of its runs, such as the seeds of a multirun or the best of a search.
Members are chosen on validation; only the result is tested, once. The result is a directory like that of a run, which
evaluate.py, predict.py and export.py take. With --distill it is one network, trained on the predictions of the ensemble
for the training images: with the settings of the first member, or others, as --student model=mlp optim.lr=1e-3. It is
trained as train.py trains a run, and resume=<its folder> goes on with it. The folds of a cross-validation predict
images that they have not been trained on. Predictions are kept in predictions/ of each run, so that another choice
takes no time.
"""

import argparse
import runpy
import sys
import time
from pathlib import Path

from athanor.base.errors import UserError
from athanor.engine.app import command_line
from athanor.engine.config import options


def main() -> None:
    arguments = parse_arguments()

    from athanor.craft.ensembles.report import numbers
    from athanor.engine.app.logs import set_up_logging
    from athanor.engine.runs.ensembles.distill import distill, student
    from athanor.engine.runs.ensembles.session import Session, make_ensemble, make_soup
    from athanor.engine.runs.run import folder_of, shown
    from athanor.training import checkpoint_files

    set_up_logging()
    started = time.perf_counter()
    kind = arguments.tta or "none"
    session = Session(arguments.members, arguments.checkpoints, kind, arguments.stage, arguments.distill)
    if arguments.distill:
        run, words = folder_of(session.members[0].path), arguments.student
        pupil = student(session, words and command_line.composed([f"run={run}", *words]), arguments.temperature or 1.0)
    if arguments.soup:
        combination = make_soup(session, arguments.soup)
    else:
        how, select = arguments.combine or "probabilities", arguments.select or "all"
        combination = make_ensemble(session, how, select, arguments.k)
    reports = session.reports(combination)
    for report in reports:
        print("\n" + "\n".join(report.table(session.best, combination.kind)))
    folder = new_directory(arguments.output)
    if arguments.distill:
        print(distill(session, combination, folder, *pupil), flush=True)
        sys.argv = ["train.py", f"resume={folder}"]  # what goes on with it, too, where it is interrupted
        runpy.run_path(str(options.CONFIGS.parent / "train.py"), run_name="__main__")
    else:
        path = folder / "checkpoints" / "best.ckpt"
        path.parent.mkdir()
        checkpoint_files.write_checkpoint(combination.checkpoint, path)
        flags = {name: value for name, value in vars(arguments).items() if value and name not in ("members", "output")}
        results = {"made": combination.kind, "asked": flags, "forward_passes": combination.passes}
        results |= {**numbers(reports, session.best), "checkpoint": "checkpoints/best.ckpt"}
        session.write(folder, combination.checkpoint["athanor"]["config"], results)
        print(f"  {combination.passes} forward passes an image; made in {time.perf_counter() - started:.2f} s")
    print(f"  python scripts/evaluate.py {shown(folder)}")


def new_directory(output: str | None) -> Path:
    """A new folder: `output`, or one below outputs/."""
    from athanor.engine.runs.claim import claim

    if output is None:
        return Path(claim(f"outputs/ensembles/{time.strftime('%Y-%m-%d_%H-%M-%S')}"))
    try:
        Path(output).mkdir(parents=True)
    except FileExistsError:
        raise UserError(f"--output {output} is there already; name a new folder") from None
    except OSError as error:
        raise UserError(f"--output {output} cannot be made ({error.strerror}); name another folder") from error
    return Path(output)


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
    parser.add_argument("--temperature", type=float, help="of --distill: divides the logits of teacher and student (1)")
    parser.add_argument("--student", nargs="+", metavar="WORD", help="of --distill: settings, in the words of train.py")
    parser.add_argument("--tta", choices=("none", "flip", "flip_shift"), help="views of an image to average (none)")
    parser.add_argument("--stage", choices=("val", "test"), help="val leaves the test set unread")
    parser.add_argument("--output", metavar="DIR", help="a new folder, instead of one below outputs/ensembles/")
    arguments = parser.parse_args()
    for name in ("combine", "select", "k", "tta", "distill") if arguments.soup else ():
        if getattr(arguments, name) != parser.get_default(name):
            raise UserError(f"--{name} is of ensembles, and --soup makes one network; leave out one of them")
    for name in ("temperature", "student") if not arguments.distill else ():
        if getattr(arguments, name) is not None:
            raise UserError(f"--{name} is of a student; add --distill")
    if arguments.temperature is not None and arguments.temperature <= 0:
        raise UserError(f"--temperature {arguments.temperature:g}: use a number above 0, as 2 to 20")
    for word in arguments.student or ():
        if word.startswith(("loss", "logger", "weights", "-")):
            raise UserError(
                f"--student {word}: a student has a loss, a logger and first weights of its own; leave it out"
            )
    return arguments


if __name__ == "__main__":
    command_line.start(main)
