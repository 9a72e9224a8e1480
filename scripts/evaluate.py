"""Evaluate a trained model again: python scripts/evaluate.py <run or checkpoint> [--stage val] [overrides]

Prints each metric beside the value that the run recorded. With the same split and batches they are equal to the last
digit; other images or another split are said, and images that the weights have been trained on are refused. Where the
run has left the test set unread, the metrics go into its results.json; each reading is counted in
outputs/test_reads.txt. Metrics that are matrices are drawn into figures/evaluated_<stage>_<name>.png of the run.
Overrides are those of train.py that an evaluation depends on: data.*, metrics, loss, eval, trainer, compute, data_dir.
The weights, and the settings that belong to them, stay those of the checkpoint.
"""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from athanor.base.errors import UserError
from athanor.engine.app import command_line
from athanor.tasks.measure import stage_and_name

if TYPE_CHECKING:
    import lightning.pytorch as L

    from athanor.data.module import ArrayData

TAKEN = ("data", "metrics", "loss", "eval", "trainer", "compute", "data_dir")  # keys of settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run's directory, or a checkpoint in it")
    parser.add_argument("overrides", nargs="*", help="data.limit=1000, metrics=macro_f1, trainer=gpu, ...")
    parser.add_argument("--stage", choices=("test", "val"), default="test", help="which images (default test)")
    arguments = parser.parse_intermixed_args()
    refuse_settings_of_weights(arguments.overrides)

    from athanor.engine.app.logs import set_up_logging
    from athanor.engine.config import assemble
    from athanor.engine.runs.provenance import count_test_read, describe_data, told_reads
    from athanor.engine.runs.run import Run, checkpoint_of, fill, read_checkpoint, shown

    set_up_logging()
    path = checkpoint_of(arguments.run)
    contents = read_checkpoint(path)
    words = [f"run={Run.at(arguments.run).dir}", *arguments.overrides]
    config = command_line.composed(words, unbuilt=("logger", "callbacks"))
    data = assemble.data(config)
    changes = data_changes(path, contents["athanor"], data, arguments.stage)
    print(*changes, sep="", end="")
    task = assemble.from_record({**contents["athanor"], "config": config})
    fill(task, contents, path)
    trainer = assemble.bare_trainer(config, str(path.parent), data, task)
    run = Run(path.parent.parent)
    recorded = run.results.get(arguments.stage, {})
    metrics, read = evaluated(trainer, task, data, arguments.stage)
    for name, value in metrics.items():
        before = recorded.get(name)
        print(f"{arguments.stage}/{name}  {value!r}" + ("" if before is None else f"  (recorded {before!r})"))
    draw_matrices(task, run.dir / "figures")
    if arguments.stage == "test":
        described = describe_data(data, True)
        reads = count_test_read(described["test_hash"], shown(path))
        if reads:
            print(told_reads(reads))
        if not (recorded or changes or arguments.overrides) and path == run.checkpoint:
            counts = {**run.results.get("read", {}), "test": read}
            run.write_results({**run.results, "test": metrics, "data": described, "test_reads": reads, "read": counts})


def evaluated(
    trainer: "L.Trainer", task: "L.LightningModule", data: "ArrayData", stage: Literal["test", "val"]
) -> tuple[dict[str, float], int]:
    """The metrics of a stage, by their names without it, and the number of images that they are of."""
    evaluate, index = (trainer.test, data.test_index) if stage == "test" else (trainer.validate, data.val_index)
    values = evaluate(task, data, verbose=False)
    if not values:
        raise UserError(f"trainer.limit_{stage}_batches=0 leaves nothing to evaluate; use 1 or more, or 1.0")
    read = int(trainer.callback_metrics.get(f"{stage}/inputs", len(index)))
    if read < len(index):
        print(f"of {read:,} of {len(index):,} images: the batches are limited")
    return {stage_and_name(name)[1]: value for name, value in values[0].items()}, read


def draw_matrices(task: "L.LightningModule", folder: Path) -> None:
    """Draw the metrics of the evaluation that are matrices, if any, and say into which files."""
    from athanor.base.text import file_name
    from athanor.craft.matrix_figure import save_matrix
    from athanor.engine.runs.run import shown

    for name, matrix in getattr(task, "matrices", {}).items():
        path = folder / f"evaluated_{file_name(name.replace('/', '_'))}.png"
        save_matrix(matrix, task.record["class_names"], name, path)
        print(f"{name}  {shown(path)}, {shown(path.with_suffix('.csv'))}")


def data_changes(path: Path, record: dict, data: "ArrayData", stage: str) -> list[str]:
    """Lines on where the images of a stage are not those that the run of a checkpoint recorded.

    Raises UserError where the checkpoint has been trained on them, or they are of other classes, or none.
    """
    from athanor.engine.config import assemble
    from athanor.engine.runs import lineage, provenance
    from athanor.engine.runs.run import Run

    assemble.refuse_other_data(record, data)
    if stage == "val" and not len(data.val_index):
        raise UserError("there are no validation images; use --stage test, or data.val_fraction above 0")
    lineage.refuse_trained_images(lineage.trained_images(record), data, [stage], path)
    then = {**record.get("data", {}), **Run(path.parent.parent).results.get("data", {})}
    now = provenance.describe_data(data, stage == "test")
    compared = {key: value for key, value in now.items() if key == stage or key.endswith("_hash")}
    return [f"not the data of the run: {line}\n" for line in provenance.differences(then, compared)]


def refuse_settings_of_weights(overrides: list[str]) -> None:
    """Raise UserError for a setting that belongs to the weights, or on which an evaluation does not depend."""
    from athanor.engine.config import schema

    for word in overrides:
        key = re.split("[=@]", word.lstrip("+~"))[0].replace("/", ".")
        is_known = key.split(".")[0] in schema.top_level()  # of others, Hydra says what may have been meant
        if is_known and (key.split(".")[0] not in TAKEN or key.startswith("data.preprocess")):
            raise UserError(
                f"{word} belongs to the weights or to their training, which are those of the run; leave it out\n"
                f"  an evaluation takes settings of {', '.join(TAKEN)}"
            )


if __name__ == "__main__":
    command_line.start(main)
