"""Export a trained model to one file that works without Athanor: python scripts/export.py <run> --format onnx|torch

<run> is a run's directory or a checkpoint file. The exported model takes raw uint8 images [N, C, H, W] and gives logits
[N, classes]; the preprocessing is part of it. The file is kept only if its logits agree with those of the
classifier on test images.
"""

import argparse
import re
from pathlib import Path

from athanor.base.errors import UserError
from athanor.engine.app import command_line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run's directory, or a checkpoint file")
    parser.add_argument("--format", choices=("onnx", "torch"), required=True, help=".onnx, or .pt2 of torch.export")
    parser.add_argument("--output", metavar="FILE", help="instead of <name>.onnx or <name>.pt2 in the run's directory")
    arguments = parser.parse_args()

    from athanor.craft import export
    from athanor.engine.runs.run import checkpoint_of, load_classifier, shown

    form = export.FORMATS[arguments.format]
    form.require()
    checkpoint = checkpoint_of(arguments.run)
    classifier = load_classifier(checkpoint)
    path = output_path(checkpoint, classifier.record["config"]["name"], form.suffix, arguments.output)
    images, whence = export.images_to_check(classifier.record)
    difference = export.export(classifier, form, path, images)
    size = path.stat().st_size
    print(f"{shown(path)}  {size:,} bytes, logits within {difference:.1e} of the classifier's on {whence}")
    print(form.usage.format(path=shown(path).as_posix()))


def output_path(checkpoint: Path, name: str, suffix: str, output: str | None) -> Path:
    """The file to write: `output`, or `name` in the run of the checkpoint, or beside a checkpoint that is in no run."""
    if output is not None:
        if not output.endswith(suffix) or Path(output).is_dir():
            raise UserError(f"--output {output}: name a file that ends with {suffix}, as in --output model{suffix}")
        return Path(output)
    folder = checkpoint.resolve().parent
    if (folder.parent / "config.yaml").is_file():
        folder = folder.parent
    return folder / (re.sub(r"[^A-Za-z0-9._-]+", "-", name) + suffix)


if __name__ == "__main__":
    command_line.run(main)
