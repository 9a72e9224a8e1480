"""Predict image files: python scripts/predict.py <run or checkpoint> a.png "b c.jpg" photos [--csv predictions.csv]

Prints what the task says of each image: of classes the most probable one and its probability. Of a folder, all images
below it are predicted, in the order of their paths. A .npy file holds one raw input of the model or several, [N, ...],
and a model of tables (data=table) predicts the rows of CSV or Parquet files with the columns that it was trained on.
"""

import argparse
import sys
from pathlib import Path

from athanor.base.text import csv_text, printable
from athanor.engine.app import command_line

BATCH = 512  # inputs at once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run's directory, or a checkpoint file")
    parser.add_argument("images", nargs="+", help="image files of any format that Pillow reads, folders, .npy, tables")
    parser.add_argument("--csv", help="also write the predictions, as the probability of each class, to this file")
    arguments = parser.parse_args()

    import torch

    from athanor.data.sources.input_file import load_inputs
    from athanor.data.sources.listing import expanded
    from athanor.engine.runs.run import checkpoint_of, load_task

    task = load_task(checkpoint_of(arguments.run))
    rows = []
    with torch.inference_mode():
        for file in expanded(arguments.images):
            names, inputs = load_inputs(file, task.record)
            predictions = torch.cat([task.prediction(task(part)) for part in inputs.split(BATCH)])
            for name, prediction in zip(names, predictions, strict=True):
                line, cells = task.described(prediction)
                print(printable(f"{name}  {line}"))
                rows.append([("file", name), *cells])
    if arguments.csv:
        heads = [head for head, _ in rows[0]]
        table = csv_text([heads, *([text for _, text in row] for row in rows)])
        Path(arguments.csv).write_text(table, encoding="utf-8", newline="")
        print(f"wrote {arguments.csv}", file=sys.stderr)


if __name__ == "__main__":
    command_line.start(main)
