"""A trained classifier as one file that takes raw pixels and needs no Athanor: ONNX, or torch's ExportedProgram."""

import importlib
import io
import json
import logging
import math
import os
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from athanor.base.errors import UserError
from athanor.engine.config import assemble, trust
from athanor.tasks.classification import Classifier

TOLERANCE = 1e-4  # of a logit, relative to max(1, |logit|)
BATCHES = (1, 2, 7)  # sizes to check a file with, before all images at once
IMAGES, PIXELS = 256, 2**22  # at most, to check a file on: 256 of 3x32x32, 27 of 3x224x224
FACTS = "athanor.json"  # in a .pt2


@dataclass(frozen=True)
class Format:
    """A kind of file."""

    suffix: str
    write: Callable[[torch.export.ExportedProgram, dict, Path], None]  # a traced program, and facts about it
    load: Callable[[Path], Callable[[Tensor], Tensor]]  # a function from uint8 images [N, C, H, W] to logits
    usage: str  # a line of Python
    packages: tuple[str, ...] = ()  # that Athanor can do without

    def require(self) -> None:
        try:
            with quiet():
                for package in self.packages:
                    importlib.import_module(package)
        except ImportError as error:
            raise UserError(f'{self.suffix} files need more packages ({error}): pip install -e ".[export]"') from error


def traced(classifier: Classifier) -> torch.export.ExportedProgram:
    """The classifier with its preprocessing, for any batch size. Its parameters stop to ask for gradients."""
    classifier.requires_grad_(False)  # else so would those of the file, and `.numpy()` of its logits fail
    example = torch.zeros(2, *classifier.record["input_shape"], dtype=torch.uint8)  # one image would fix the size at 1
    program = torch.export.export(classifier, (example,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}})
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return program


def write_onnx(program: torch.export.ExportedProgram, facts: dict, path: Path) -> None:
    simple = program.run_decompositions({torch.ops.aten.adaptive_max_pool2d.default: global_max})
    names = {"input_names": ["images"], "output_names": ["logits"], "dynamic_shapes": {"images": {0: "batch"}}}
    converted = torch.onnx.export(simple, dynamo=True, verbose=False, **names)
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
    converted.model.metadata_props.update(texts)
    converted.save(path, external_data=False)


def global_max(images: Tensor, size: list[int]) -> tuple[Tensor, Tensor]:
    """Adaptive max pooling to one pixel in simpler operations: torch 2.10 has no ONNX for it."""
    if any(side != 1 for side in size):
        return NotImplemented
    values, positions = images.flatten(2).max(2)
    return values[..., None, None], positions[..., None, None]


def load_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)  # it writes past sys.stderr; what is wrong it raises as well
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # its own choice complains where cores are rationed
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def write_torch(program: torch.export.ExportedProgram, facts: dict, path: Path) -> None:
    torch.export.save(program, path, extra_files={FACTS: json.dumps(facts)})


def load_torch(path: Path) -> Callable[[Tensor], Tensor]:
    return torch.export.load(path).module()


FORMATS = {
    "onnx": Format(
        ".onnx",
        write_onnx,
        load_onnx,
        'onnxruntime.InferenceSession("{path}").run(None, {{"images": images}})[0]',
        ("onnx", "onnxscript", "onnxruntime"),
    ),
    "torch": Format(".pt2", write_torch, load_torch, 'torch.export.load("{path}").module()(images)'),
}


def export(classifier: Classifier, form: Format, path: Path, images: Tensor) -> float:
    """Write the file `path` and check it on these images: its largest difference from the classifier's logits.

    A file that differs by more than the tolerance, and a classifier that the format cannot hold, raise UserError and
    leave nothing behind. Until all is well, `path` is what it was.
    """
    with torch.inference_mode():
        expected = classifier(images)  # before anybody traces it
    record, network = classifier.record, type(classifier.network).__name__
    facts = {"name": record["config"]["name"], **{key: record[key] for key in ("class_names", "input_shape")}}
    with beside(path) as part:
        with explained(f"{network} cannot become a {form.suffix} file"):
            form.write(traced(classifier), facts, part)
        with explained(f"the {form.suffix} file of {network} does not work"):
            found = difference(form.load(part), images, expected)
        if not found <= TOLERANCE:  # also where it is nan
            raise UserError(
                f"the {form.suffix} file of {network} gives other logits than the classifier: they differ by "
                f"{found:.1e}, more than {TOLERANCE:.0e}, and it is not kept"
            )
    return found


@torch.inference_mode()
def difference(exported: Callable[[Tensor], Tensor], images: Tensor, expected: Tensor) -> float:
    """The largest, relative to max(1, |logit|), over batches of several sizes."""
    worst = torch.zeros(())
    for size in (*BATCHES, len(images)):
        right, got = expected[:size], exported(images[:size])
        if (got.shape, got.dtype) != (right.shape, torch.float32):
            raise ValueError(f"{size} images give {got.dtype} {list(got.shape)}")
        worst = torch.maximum(worst, ((got - right).abs() / right.abs().clamp_min(1)).max())  # a nan stays
    return worst.item()


def images_to_check(record: dict) -> tuple[Tensor, str]:
    """Test images of a checkpoint's own data, or else random ones: uint8 [N, C, H, W], and what they are."""
    most = max(sum(BATCHES), min(IMAGES, PIXELS // math.prod(record["input_shape"])))
    try:
        trust.check({"data": record["config"]["data"]})  # a checkpoint may be anybody's
        data = assemble.data(record["config"])
        assemble.refuse_other_data(record, data)
        count = min(most, len(data.test_index))
        index = data.test_index[torch.linspace(0, len(data.test_index) - 1, count).long()]  # may be sorted
        name = record["config"]["data"]["_target_"].rpartition(".")[2]
        return data.source.test_images[index], f"{count} test images of {name}"
    except Exception as error:  # whatever a source of one's own raises where its files are not
        shape = (most, *record["input_shape"])
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return images, f"{most} random images, as its data cannot be loaded ({reason(error)})"


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A file to write in the same folder, which becomes `path` at the end, or is deleted where that is not reached."""
    try:
        folder = tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent)
    except OSError as error:
        raise UserError(f"cannot write into {path.parent} ({error.strerror}); choose a file with --output") from error
    with folder:
        part = Path(folder.name) / path.name
        yield part
        os.replace(part, path)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Whatever an exporter raises, as one line that begins with `what`."""
    try:
        with quiet():
            yield
    except Exception as error:
        raise UserError(f"{what}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    while error.__cause__:  # exporters wrap, with pages of advice
        error = error.__cause__
    text = textwrap.shorten(next(iter(str(error).strip().splitlines()), ""), 200, placeholder="...")
    return text or type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing of what exporters print, warn of and log; what matters they raise."""
    disabled = logging.root.manager.disable
    logging.disable()
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(disabled)
