"""Predict image files: python scripts/predict.py <run or checkpoint> a.png "b c.jpg" photos [--csv predictions.csv]

Prints what the task says of each image: of classes the most probable one and its probability. Of a folder, all images
below it are predicted, in the order of their paths.
"""

import argparse
import sys
from pathlib import Path

from athanor.base.errors import UserError
from athanor.base.text import csv_text, printable
from athanor.engine.app import command_line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run's directory, or a checkpoint file")
    parser.add_argument("images", nargs="+", help="image files of any format that Pillow reads, or folders")
    parser.add_argument("--csv", help="also write the predictions, as the probability of each class, to this file")
    arguments = parser.parse_args()

    import torch

    from athanor.data.sources.image_file import load_image
    from athanor.data.sources.listing import expanded
    from athanor.engine.runs.run import checkpoint_of, load_task

    task = load_task(checkpoint_of(arguments.run))
    channels, height, width = task.record["input_shape"]
    size = height if height == width else None  # other models take images of their own size only
    mode = "RGB" if channels == 3 else "L16" if task.record["input_dtype"] == "uint16" else "L"
    rows = []
    with torch.inference_mode():
        for file in expanded(arguments.images):
            image = torch.tensor(load_image(file, mode, size))
            if image.shape[1:] != (height, width):
                raise UserError(f"{file} is {image.shape[2]}x{image.shape[1]}, the model takes {width}x{height} only")
            line, cells = task.described(task.prediction(task(image[None]))[0])
            print(printable(f"{file}  {line}"))
            rows.append([("file", file), *cells])
    if arguments.csv:
        heads = [head for head, _ in rows[0]]
        table = csv_text([heads, *([text for _, text in row] for row in rows)])
        Path(arguments.csv).write_text(table, encoding="utf-8", newline="")
        print(f"wrote {arguments.csv}", file=sys.stderr)


if __name__ == "__main__":
    command_line.start(main)
