"""A trained classifier as one file that takes raw inputs and needs no Athanor: ONNX, or torch's ExportedProgram."""

import importlib
import io
import json
import logging
import os
import re
import shutil
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from athanor.base.error_place import places
from athanor.base.errors import UserError, first_line
from athanor.base.files import part_of
from athanor.tasks.classification import Classification

TOLERANCE = 1e-4  # of a logit, relative to max(1, |logit|)
EXAMPLE = 2  # images that a network is traced with; one would fix the size at 1
BATCHES = (1, 2, 7)  # batch sizes that a file is checked with, before all images at once
MEANINGS = {  # of what torch says
    "Could not guard on data-dependent": "values in a batch decide what is computed; torch.where can be exported",
    "Constraints violated (batch)": f"the code is right for {EXAMPLE} images at a time alone, as many as were tried",
}
FACTS = "athanor.json"  # the entry of a .pt2 file with the classes and the input shape


@dataclass(frozen=True)
class Format:
    """A kind of file, and how it is written and read."""

    suffix: str
    write: Callable[[torch.export.ExportedProgram, dict, Path], None]  # a traced program, and facts about it
    # a function from raw inputs, such as uint8 images [N, C, H, W], to logits
    load: Callable[[Path], Callable[[Tensor], Tensor]]
    usage: str  # a line of Python
    packages: tuple[str, ...] = ()  # optional dependencies of Athanor that it needs

    def require(self) -> None:
        """Raise UserError where a package is missing."""
        try:
            with quiet():
                for package in self.packages:
                    importlib.import_module(package)
        except ImportError as error:
            raise UserError(f'{self.suffix} files need more packages ({error}): pip install -e ".[export]"') from error


def write_onnx(program: torch.export.ExportedProgram, facts: dict, path: Path) -> None:
    simple = program.run_decompositions({torch.ops.aten.adaptive_max_pool2d.default: global_max})
    names = {"input_names": ["images"], "output_names": ["logits"], "dynamic_shapes": {"images": {0: "batch"}}}
    without_places(simple)
    try:
        converted = torch.onnx.export(simple, dynamo=True, verbose=False, **names)
    except Exception as error:
        if failed := re.search(r"translating node %(\w+)", str(error)):  # bessel_j0, of special_bessel_j0
            nodes = [node for node in program.run_decompositions().graph.nodes if node.name.endswith(failed[1])]
            error.add_note(min(nodes, key=lambda node: len(node.name)).stack_trace or "" if nodes else "")
        raise
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
    converted.model.metadata_props.update(texts)
    converted.save(path, external_data=False)


def without_places(program: torch.export.ExportedProgram) -> None:
    """Take out of a program where in the model's code each operation stands: the paths are of this machine."""
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)


def global_max(images: Tensor, size: list[int]) -> tuple[Tensor, Tensor]:
    """Adaptive max pooling to one pixel in simpler operations: torch 2.10 cannot convert it to ONNX."""
    if any(side != 1 for side in size):
        return NotImplemented
    values, positions = images.flatten(2).max(2)
    return values[..., None, None], positions[..., None, None]


def load_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)  # it writes past sys.stderr; it raises its errors as well
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # its own choice warns where a container limits the cores
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def write_torch(program: torch.export.ExportedProgram, facts: dict, path: Path) -> None:
    without_places(program)
    torch.export.save(program, path, extra_files={FACTS: json.dumps(facts)})


def load_torch(path: Path) -> Callable[[Tensor], Tensor]:
    return torch.export.load(path).module()


ONNX_USAGE = 'onnxruntime.InferenceSession("{path}").run(None, {{"images": images}})[0]'
FORMATS = {
    "onnx": Format(".onnx", write_onnx, load_onnx, ONNX_USAGE, ("onnx", "onnxscript", "onnxruntime")),
    "torch": Format(".pt2", write_torch, load_torch, 'torch.export.load("{path}").module()(images)'),
}


def export(classifier: Classification, form: Format, path: Path, images: Tensor) -> float:
    """Write the file `path` and check it on raw inputs [N, ...]: gives its largest difference from the logits of
    the classifier, relative to max(1, |logit|).

    Raises UserError where the format cannot hold the classifier, and where the file differs by more than TOLERANCE;
    `path` is then what it was before. The classifier's parameters stop requiring gradients.
    """
    with torch.inference_mode():
        expected = classifier(images)  # before anything traces it
    record, network = classifier.record, type(classifier.network).__name__
    keys = ("class_names", "input_shape", "input_dtype", *(["columns"] if record["columns"] else []))
    facts = {"name": record["config"]["name"], **{key: record[key] for key in keys}}
    with beside(path) as part:
        with explained(f"{network} cannot become a {form.suffix} file"):
            form.write(traced(classifier), facts, part)
        with explained(f"the {form.suffix} file of {network} does not work"):
            difference = largest_difference(form.load(part), images, expected)
        if not difference <= TOLERANCE:  # true for nan as well
            raise UserError(
                f"the {form.suffix} file of {network} gives other logits than the classifier: they differ by "
                f"{difference:.1e}, more than {TOLERANCE:.0e}, and it is not kept"
            )
    return difference


def traced(classifier: Classification) -> torch.export.ExportedProgram:
    """The classifier with its preprocessing as a graph, for any batch size."""
    classifier.requires_grad_(False)  # else the file's parameters require gradients, and `.numpy()` of its logits fails
    dtype = getattr(torch, classifier.record["input_dtype"])
    example = torch.zeros(EXAMPLE, *classifier.record["input_shape"], dtype=dtype)
    return torch.export.export(classifier, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))


@torch.inference_mode()
def largest_difference(exported: Callable[[Tensor], Tensor], images: Tensor, expected: Tensor) -> float:
    """The largest difference from the expected logits, relative to max(1, |logit|), over batches of several sizes."""
    worst = torch.zeros(())
    for size in (*BATCHES, len(images)):
        right, got = expected[:size], exported(images[:size])
        if (got.shape, got.dtype) != (right.shape, torch.float32):
            raise ValueError(f"{size} images give {got.dtype} {list(got.shape)}")
        worst = torch.maximum(worst, ((got - right).abs() / right.abs().clamp_min(1)).max())  # keeps a nan
    return worst.item()


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A file to write in the same folder: it replaces `path` at the end, or is deleted where an error is raised."""
    folder = part_of(path)
    shutil.rmtree(folder, ignore_errors=True)  # of an export that was killed
    try:
        folder.mkdir()
    except OSError as error:
        raise UserError(f"cannot write into {path.parent} ({error.strerror}); choose a file with --output") from error
    try:
        yield folder / path.name
        os.replace(folder / path.name, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns whatever an exporter raises into a UserError that begins with `what` and the reason, and names the place
    in the model's code where the exporter knows it.
    """
    try:
        with quiet():
            yield
    except Exception as error:
        reason = root_cause(error)
        meaning = [f"  {text}" for start, text in MEANINGS.items() if reason.startswith(start)]
        raise UserError("\n".join([f"{what}: {reason}", *meaning, *places(error)])) from error


def root_cause(error: BaseException) -> str:
    """The first line, of at most 200 characters, of the innermost error: exporters wrap errors in pages of advice."""
    while error.__cause__:
        error = error.__cause__
    return textwrap.shorten(re.split(r" \(unhinted|! For more", first_line(error))[0], 200, placeholder="...")


@contextmanager
def quiet() -> Iterator[None]:
    """Suppresses all that exporters print, warn of and log; errors they raise."""
    disabled = logging.root.manager.disable
    logging.disable()
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(disabled)
