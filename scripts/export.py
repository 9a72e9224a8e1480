"""Export a trained model to one file that works without Athanor: python scripts/export.py <run> --format onnx|torch

<run> is a run's directory or a checkpoint file. The exported model takes raw inputs, such as uint8 images
[N, C, H, W], and gives logits [N, classes]; the preprocessing is part of it. The file is kept only if its logits agree
with those of the classifier on test inputs.
"""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from athanor.base.errors import UserError
from athanor.base.text import file_name
from athanor.engine.app import command_line
from athanor.engine.runs.run import checkpoint_of, folder_of, load_classifier, shown

if TYPE_CHECKING:
    from torch import Tensor

IMAGES, PIXELS = 256, 2**22  # at most, to check a file on: 256 images of 3x32x32, 27 of 3x224x224


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run's directory, or a checkpoint file")
    parser.add_argument("--format", choices=("onnx", "torch"), required=True, help=".onnx, or .pt2 of torch.export")
    parser.add_argument("--output", metavar="FILE", help="instead of <name>.onnx or <name>.pt2 in the run's directory")
    arguments = parser.parse_args()

    from athanor.craft import export

    form = export.FORMATS[arguments.format]
    form.require()
    checkpoint = checkpoint_of(arguments.run)
    classifier = load_classifier(checkpoint)
    path = output_path(checkpoint, classifier.record["config"]["name"], form.suffix, arguments.output)
    images, origin = images_to_check(classifier.record)
    difference = export.export(classifier, form, path, images)
    size = path.stat().st_size
    print(f"{shown(path)}  {size:,} bytes, logits within {difference:.1e} of the classifier's on {origin}")
    print(form.usage.format(path=shown(path).as_posix()))


def output_path(checkpoint: Path, name: str, suffix: str, output: str | None) -> Path:
    """The file to write: `output`, or `name` in the run of the checkpoint, or beside a checkpoint that is in no run."""
    if output is not None:
        if not output.endswith(suffix) or Path(output).is_dir():
            raise UserError(f"--output {output}: name a file that ends with {suffix}, as in --output model{suffix}")
        return Path(output)
    return folder_of(checkpoint) / (file_name(name) + suffix)


def images_to_check(record: dict) -> "tuple[Tensor, str]":
    """Test inputs of a checkpoint's own data, or else random ones, and what they are."""
    import torch

    from athanor.craft.export import BATCHES, root_cause
    from athanor.engine.config import assemble, trust

    most = max(sum(BATCHES), min(IMAGES, PIXELS // math.prod(record["input_shape"])))
    try:
        trust.check(record["config"], {"data": record["config"]["data"]})  # a checkpoint may be anybody's
        data = assemble.data(record["config"])
        assemble.refuse_other_data(record, data)
        count = min(most, len(data.test_index))
        index = data.test_index[torch.linspace(0, len(data.test_index) - 1, count).long()]  # may be sorted by class
        name = record["config"]["data"]["_target_"].rpartition(".")[2]
        return data.source.test_inputs[index], f"{count} test inputs of {name}"
    except Exception as error:  # a person's own source may raise anything where its files are missing
        shape, dtype = (most, *record["input_shape"]), getattr(torch, record["input_dtype"])
        highest = 1 if dtype == torch.int64 else 256  # of tokens, nobody but the network knows how many there are
        images = torch.randint(0, highest, shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        return images, f"{most} random inputs, as its data cannot be loaded ({root_cause(error)})"


if __name__ == "__main__":
    command_line.start(main)
