"""scripts/export.py: files that give the classifier's logits without Athanor, or no file and a reason."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from athanor.base.errors import UserError
from athanor.craft import export
from athanor.data.sources.source import Source
from athanor.engine.config import assemble, check
from athanor.engine.runs.run import Run
from athanor.models.linear import Linear

CONFIGS = Path(__file__).parents[2] / "configs"
MODELS = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml"))
if importlib.util.find_spec("timm") is None:  # tests/models/test_timm.py has what is said then
    MODELS.remove("timm")
PREPROCESSING = sorted(path.stem for path in (CONFIGS / "data" / "preprocess").glob("*.yaml"))
PREPROCESSING.remove("imagenet")  # of pictures in colour; tests/data/test_imagenet.py has its formula
SMALL = {  # the defaults have 11 million parameters, and three halvings, which 8x8 images are too small for
    "torchvision": ["model.name=shufflenet_v2_x0_5"],
    "speednet": ["model.widths=[32,64]"],
    "resnet": ["model.depth=8"],
}
TINY = ["model=linear", "data.limit=200", "trainer.max_epochs=1", "logger=csv", "hydra.run.dir=a"]
ALONE = """
import json, sys
for name in "athanor", "lightning", "torchvision":
    sys.modules[name] = None  # an import of it fails
import numpy, onnxruntime, torch
folder, images = sys.argv[1], numpy.load(sys.argv[1] + "/images.npy")
session = onnxruntime.InferenceSession(folder + "/cnn_digits.onnx")
facts = {"athanor.json": ""}
program = torch.export.load(folder + "/cnn_digits.pt2", extra_files=facts).module()
for size in 1, 3, len(images):
    onnx = session.run(["logits"], {"images": images[:size]})[0]
    numpy.save(f"{folder}/onnx_{size}.npy", onnx)
    numpy.save(f"{folder}/torch_{size}.npy", program(torch.from_numpy(images[:size])).numpy())
print(json.dumps([session.get_modelmeta().custom_metadata_map, json.loads(facts["athanor.json"])]))
"""

every_format = pytest.mark.parametrize("form", export.FORMATS)
every_model = pytest.mark.parametrize("model", MODELS)


@pytest.fixture(autouse=True)
def installed(request):
    """Skip where a format's packages are not there."""
    form = request.node.callspec.params.get("form", "onnx") if hasattr(request.node, "callspec") else "onnx"
    for package in export.FORMATS[form].packages:
        pytest.importorskip(package)


@pytest.fixture
def classifier(compose):
    """An untrained classifier with fitted preprocessing and batch norms, and 16 test images."""

    def classifier(*words):
        config = check.plain(compose(*words))
        data = assemble.data(config)
        made = assemble.task(config, data)
        for module in made.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.momentum = None  # the mean of all batches; else deep networks give one answer to all images
        with torch.no_grad():
            made(data.source.train_inputs[:64])
        return made.eval(), data.source.test_inputs[:16]

    return classifier


def names(folder):
    return sorted(
        path.name for path in Path(folder).iterdir() if path.name != "outputs"
    )  # which counts readings of tests


def agrees(made, form, tmp_path):
    """Whether the file gives the logits, by what `export` says and by a comparison of its own."""
    made, images = made
    path = tmp_path / f"model{export.FORMATS[form].suffix}"
    with torch.inference_mode():
        expected = made(images)
    assert (expected.amax(0) - expected.amin(0)).min() > 0.05  # or any file would do
    claimed = export.export(made, export.FORMATS[form], path, images)
    with export.quiet():
        exported = export.FORMATS[form].load(path)
    for size in 1, 2, 5, 16:
        torch.testing.assert_close(exported(images[:size]), expected[:size], rtol=1e-4, atol=1e-4)
    return claimed <= 1e-4


# what agrees


@every_format
@every_model
def test_every_model_becomes_a_file_that_gives_its_logits(model, form, classifier, tmp_path):
    assert agrees(classifier(f"model={model}", *SMALL.get(model, [])), form, tmp_path)


@every_format
@pytest.mark.parametrize("preprocess", PREPROCESSING)
def test_every_preprocessing_is_part_of_the_file(preprocess, form, classifier, tmp_path):
    assert agrees(classifier("model=linear", f"data.preprocess={preprocess}"), form, tmp_path)


@pytest.mark.slow
@every_format
@every_model
def test_every_model_as_it_is_becomes_a_file_for_colour_images(model, form, classifier, tmp_path, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (200, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.arange(200) % 10
    source = Source(images[:100], labels[:100], images[100:], labels[100:], tuple("abcdefghij"), "random")
    monkeypatch.setattr("athanor.data.sources.digits.digits", lambda: source)
    assert agrees(classifier(f"model={model}"), form, tmp_path)


def test_files_hold_no_paths_of_this_machine(classifier, tmp_path):
    for name, form in export.FORMATS.items():
        made, images = classifier("model=linear")
        export.export(made, form, tmp_path / f"x{form.suffix}", images)
        assert str(CONFIGS.parent).encode() not in (tmp_path / f"x{form.suffix}").read_bytes(), name


def test_a_trained_run_is_used_without_athanor(train, run_here, tmp_path):
    """With preprocessing that is a matrix, convolutions in channels_last, and a checkpoint in bfloat16."""
    words = ["data.preprocess=zca", "trainer.precision=bf16-true", "data.limit=300", "trainer.max_epochs=1"]
    assert train(*words, "logger=csv", "hydra.run.dir=a").code == 0
    for form, suffix in ("onnx", "onnx"), ("torch", "pt2"):
        ran = run_here("scripts/export.py", "a", "--format", form)
        assert (ran.code, ran.err) == (0, "")
        said, usage = ran.out.splitlines()
        size = (tmp_path / "a" / f"cnn_digits.{suffix}").stat().st_size
        assert said.startswith(f"a/cnn_digits.{suffix}  {size:,} bytes, logits within ")
        assert said.endswith(" of the classifier's on 256 test inputs of digits")
        assert f'("a/cnn_digits.{suffix}")' in usage and "images" in usage
    images = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    np.save(tmp_path / "a" / "images.npy", images.numpy())
    done = subprocess.run([sys.executable, "-c", ALONE, "a"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    facts = {"name": "cnn_digits", "class_names": [str(digit) for digit in range(10)], "input_shape": [1, 8, 8]}
    facts["input_dtype"] = "uint8"
    of_onnx, of_torch = json.loads(done.stdout)
    assert of_torch == facts
    assert of_onnx == {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
    with torch.inference_mode():
        expected = Run(tmp_path / "a").classifier()(images)
    for size in 1, 3, 20:
        for form in "onnx", "torch":
            logits = torch.from_numpy(np.load(tmp_path / "a" / f"{form}_{size}.npy"))
            torch.testing.assert_close(logits, expected[:size], rtol=1e-4, atol=1e-4)


def test_a_bare_checkpoint_without_its_data_is_checked_on_random_images(train, run_here, tmp_path, monkeypatch):
    """Of a run that was compiled and has a name that is no file's."""
    assert train(*TINY, "name='my run/1'").code == 0
    contents = torch.load(tmp_path / "a" / "checkpoints" / "best.ckpt")
    contents["athanor"]["config"]["compute"]["compile"] = True  # training with it would take a minute
    (tmp_path / "other").mkdir()
    torch.save(contents, tmp_path / "other" / "x.ckpt")

    def gone(config):
        raise FileNotFoundError("digits are not here\nand cannot be downloaded")

    monkeypatch.setattr(assemble, "data", gone)
    ran = run_here("scripts/export.py", "other/x.ckpt", "--format", "torch")
    assert (ran.code, ran.err) == (0, "")
    assert "on 256 random inputs, as its data cannot be loaded (digits are not here)\n" in ran.out
    assert names("other") == ["my-run-1.pt2", "x.ckpt"]


def test_a_checkpoint_cannot_run_code_as_its_data(train, run_here, tmp_path):
    assert train(*TINY).code == 0
    contents = torch.load(tmp_path / "a" / "checkpoints" / "best.ckpt")
    contents["athanor"]["config"]["data"] |= {"_target_": "os.system", "command": "touch marker"}
    torch.save(contents, tmp_path / "x.ckpt")
    ran = run_here("scripts/export.py", "x.ckpt", "--format", "torch")
    assert (ran.code, ran.err) == (0, "")
    assert "random inputs, as its data cannot be loaded (data._target_=os.system is defined in os" in ran.out
    assert names(tmp_path) == ["a", "linear_digits.pt2", "x.ckpt"]


def test_a_checkpoint_in_a_run_is_exported_into_the_run_or_where_one_says(train, run_here, tmp_path):
    assert train(*TINY).code == 0
    before = set(names("a"))
    assert run_here("scripts/export.py", "a/checkpoints/last.ckpt", "--format", "torch").code == 0
    assert set(names("a")) - before == {"linear_digits.pt2"}
    ran = run_here("scripts/export.py", "a", "--format", "torch", "--output", "mine.pt2")
    assert ran.out.startswith("mine.pt2  ")
    assert names(tmp_path) == ["a", "mine.pt2"]


# what does not


@every_format
def test_a_file_with_other_logits_is_refused_and_deleted(form, train, run_here, tmp_path, monkeypatch):
    assert train(*TINY).code == 0
    file = tmp_path / "a" / f"linear_digits{export.FORMATS[form].suffix}"
    file.write_text("an older file")
    before, traced = names("a"), export.traced

    def wrong(classifier):
        with torch.no_grad():
            classifier.network.head.bias[3] += 0.01
        return traced(classifier)

    monkeypatch.setattr(export, "traced", wrong)
    ran = run_here("scripts/export.py", "a", "--format", form)
    assert (ran.code, ran.out) == (1, "")
    assert re.search(r"gives other logits .* differ by \d.\de-0[23], more than 1e-04, and it is not kept\n$", ran.err)
    assert names("a") == before
    assert file.read_text() == "an older file"


def test_what_a_killed_export_left_is_removed_by_the_next(classifier, tmp_path):
    made, _ = classifier("model=mlp", "model.widths=[8]")
    left = tmp_path / ".x.pt2.part"
    left.mkdir()
    (left / "x.pt2").write_bytes(b"half a file")
    images = torch.randint(0, 256, (9, *made.record["input_shape"]), dtype=torch.uint8)
    export.export(made, export.FORMATS["torch"], tmp_path / "x.pt2", images)
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt2"]


def test_logits_that_are_not_numbers_are_refused(classifier, tmp_path):
    made, images = classifier("model=linear")
    made.network.head.bias.data[3] = torch.nan
    with pytest.raises(UserError, match="differ by nan"):
        export.export(made, export.FORMATS["torch"], tmp_path / "model.pt2", images)
    assert names(tmp_path) == []


class ByContent(nn.Module):
    """Takes one of two ways by what is in the images, which no exporter can follow."""

    def forward(self, images):
        return images.flatten(1)[:, :10] if images.sum() > 0 else images.flatten(1)[:, 10:20]  # ByContent


class ByNumber(nn.Module):
    def forward(self, images):
        images = images.flatten(1)
        for _ in range(int(images.abs().max())):  # ByNumber
            images = images * 0.9
        return images[:, :10]


class InNumpy(nn.Module):
    def forward(self, images):
        return torch.from_numpy(np.abs(images.detach().numpy())).flatten(1)[:, :10]  # InNumpy


class OneSize(nn.Module):
    def forward(self, images):
        return images.reshape(2, 64)[:, :10] if len(images) == 2 else images.flatten(1)[:, :10]


class NotInONNX(nn.Module):
    """An operation that torch exports, that becomes another on the way to ONNX, and that ONNX does not have."""

    def forward(self, images):
        return torch.special.bessel_j0(images.flatten(1)[:, :10])  # NotInONNX


BY_VALUES = "Could not guard on data-dependent expression"
CANNOT = {  # the network, and what is said of it
    ByContent: (BY_VALUES, "values in a batch decide what is computed; torch.where can be exported"),
    ByNumber: (BY_VALUES, "values in a batch decide what is computed; torch.where can be exported"),
    InNumpy: (".numpy() is not supported",),
    OneSize: ("Constraints violated (batch)", "the code is right for 2 images at a time alone, as many as were tried"),
    NotInONNX: ("No ONNX function found for <OpOverload(op='",),
}


@every_format
@pytest.mark.parametrize("network", CANNOT)
def test_why_a_model_cannot_be_exported_and_at_which_line(network, form, train, run_here, monkeypatch):
    assert train(*TINY).code == 0
    monkeypatch.setattr(Linear, "forward", network.forward)
    before = names("a")
    ran = run_here("scripts/export.py", "a", "--format", form)
    if (network, form) == (NotInONNX, "torch"):
        assert ran.code == 0
        return
    reason, *rest = CANNOT[network]
    code = Path(__file__).read_text().splitlines()
    lines = [i for i, line in enumerate(code, 1) if line.endswith(f"# {network.__name__}")]
    rest += [f"{__file__}:{i}: {code[i - 1].strip()}" for i in lines]
    first, *others = ran.err.splitlines()
    assert (ran.code, ran.out, others) == (1, "", [f"  {line}" for line in rest])
    assert first.startswith(f"error: Linear cannot become a {export.FORMATS[form].suffix} file: {reason}")
    assert len(first) < 300 and names("a") == before


def test_missing_packages_are_named_with_what_to_type(train, run_here, tmp_path, monkeypatch):
    assert train(*TINY).code == 0
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    ran = run_here("scripts/export.py", "a", "--format", "onnx")
    assert ran.code == 1
    assert "onnxscript" in ran.err and 'pip install -e ".[export]"' in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_run_without_a_checkpoint_is_named(train, run_here):
    assert train(*TINY, "callbacks=null").code == 0
    ran = run_here("scripts/export.py", "a", "--format", "torch")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("error: a has no checkpoint") and len(ran.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nowhere", "--format", "torch"], 1, "error: nowhere is not a run"),
        (["nowhere.ckpt", "--format", "torch"], 1, "error: there is no checkpoint nowhere.ckpt"),
        (["a", "--format", "tflite"], 2, "invalid choice: 'tflite'"),
        (["a"], 2, "the following arguments are required: --format"),
        (
            ["a", "--format", "torch", "--output", "x.onnx"],
            1,
            "--output x.onnx: name a file that ends with .pt2",
        ),
        (["a", "--format", "torch", "--output", "folder.pt2"], 1, "error: --output folder.pt2: name a file"),
        (["a", "--format", "torch", "--output", "no/x.pt2"], 1, "error: cannot write into no (No such file"),
        (["a", "--format", "torch", "--output", "locked/x.pt2"], 1, "error: cannot write into locked (Perm"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_or_two_lines(words, code, message, train, run_here, tmp_path, monkeypatch):
    assert train(*TINY).code == 0
    (tmp_path / "folder.pt2").mkdir()
    mkdir = export.os.mkdir

    def locked(path, *mode, **more):  # the administrator may write anywhere
        if "locked" in str(path):
            raise PermissionError(13, "Permission denied", path)
        mkdir(path, *mode, **more)

    monkeypatch.setattr("os.mkdir", locked)
    ran = run_here("scripts/export.py", *words)
    assert (ran.code, ran.out) == (code, "")
    assert message in ran.err
    assert len(ran.err.splitlines()) <= 2
    assert names(tmp_path) == ["a", "folder.pt2"]
