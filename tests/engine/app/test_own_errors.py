"""A bug in a person's own code is told in a few lines: what failed, the file, the line, and where the traceback is."""

import json
import os
import pty
import select
import subprocess
import sys
import time

import pytest

from athanor.engine.app.from_python import compose as compose_words
from athanor.engine.app.from_python import train as train_here
from athanor.engine.runs.run import Run

HEAD = "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\nimport lightning.pytorch as L\n"
MODEL = """
class Net(nn.Module):
    def __init__(self, *, input_shape, num_classes):
        super().__init__()
        self.head = nn.Linear(64, num_classes)

    def forward(self, x):
        {bug}  # bug
        return self.head(x.flatten(1))
"""
LOSS = """
class Loss(nn.Module):
    def forward(self, outputs, targets):
        return F.mse_loss(outputs, targets[:, :3])  # bug
"""
CALLBACK = """
class Watch(L.Callback):
    def {hook}(self, trainer, *arguments, **more):
        trainer.callback_metrics["val/accuracy"]  # bug
"""
SOURCE = """
from athanor.data.sources.source import Source

def blobs(data_dir: str) -> Source:
    images = torch.zeros(60, 1, 8, 8, dtype=torch.uint8)
    targets = torch.arange(60)[99] % 2  # bug
    return Source(images, targets, images[:7], targets[:7], ("a", "b"), "blobs")
"""
DATASET = """
from athanor.data.datasets import Datasets

class Items(torch.utils.data.Dataset):
    targets = [i % 2 for i in range(40)]

    def __len__(self):
        return 40

    def __getitem__(self, i):
        return torch.zeros(1, 8, {n: 8 for n in range(31)}[i]), i % 2  # bug

def items() -> Datasets:
    return Datasets(Items(), Items(), class_names=("a", "b"))
"""
TASK = """
from athanor.tasks.classification import Classification

class Mine(Classification):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + self.weight_of(batch)

    def weight_of(self, batch):
        return self.weigths[0]  # bug
"""
MODULE = """
class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 2)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0].float().flatten(1)), batch[1])  # bug

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
"""
LOADER = """
class Pairs(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        assert i < 4, "only four"  # bug
        return torch.zeros(3), 0

class Data(L.LightningDataModule):
    def train_dataloader(self):
        return torch.utils.data.DataLoader(Pairs(), 2, num_workers=1)
"""
SMALL = ["trainer.max_epochs=1", "logger=csv", "hydra.run.dir=here"]
OWN_NET = ["model=linear", "model._target_=mycode.Net", "data.limit=100"]
OWN_ITEMS = ["model=linear", "data._target_=mycode.items", "+data.in_memory=false"]
OWN_LOADER = ["task._target_=mycode.Module", "data._target_=mycode.Data"]
WATCH = ["model=linear", "data.limit=100", "+callbacks.watch._target_=mycode.Watch"]
CASES = {  # the code, the words of the command, and the first line that is said
    "a shape": (MODEL.format(bug="b, c, h = x.shape"), OWN_NET, "ValueError: too many values to unpack (expected 3"),
    "a product": (MODEL.format(bug="self.head(x)"), OWN_NET, "RuntimeError: addmm: mat1 and mat2 shapes cannot be"),
    "a key": (MODEL.format(bug="{}['x']"), OWN_NET, "KeyError: 'x'"),
    "no message": (MODEL.format(bug="assert x.ndim == 5"), OWN_NET, "AssertionError"),
    "recursion": (MODEL.format(bug="self.forward(x)"), OWN_NET, "RecursionError: maximum recursion depth exceeded"),
    "a file": (MODEL.format(bug="open('here/no.txt')"), OWN_NET, "FileNotFoundError: [Errno 2] No such file"),
    "a generator": (
        MODEL.format(bug="list(next(iter([])) for _ in 'ab')"),
        OWN_NET,
        "RuntimeError: generator raised StopIteration",
    ),
    "a loss": (LOSS, ["model=linear", "loss=mse", "loss._target_=mycode.Loss"], "IndexError: too many indices"),
    "a source": (SOURCE, ["model=linear", "data._target_=mycode.blobs"], "IndexError: index 99 is out of bounds"),
    "an item": (DATASET, [*OWN_ITEMS, "+data.workers=0"], "ItemError: item 35 of the train Dataset: KeyError: 35"),
    "in a worker": (DATASET, [*OWN_ITEMS, "+data.workers=1"], "ItemError: item 35 of the train Dataset: KeyError: 35"),
    "a loader": (MODULE.replace("# bug", "") + LOADER, OWN_LOADER, "AssertionError: only four"),
    "a task": (TASK, ["model=linear", "task._target_=mycode.Mine"], "AttributeError: 'Mine' object has no attribute"),
    "a module": (MODULE, ["task._target_=mycode.Module", "data.limit=100"], "RuntimeError: addmm: mat1 and mat2"),
    **{
        hook: (CALLBACK.format(hook=hook), WATCH, "KeyError: 'val/accuracy'")
        for hook in ("setup", "on_train_batch_end", "on_validation_end", "on_save_checkpoint", "teardown")
    },
}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes mycode.py into the current folder, from which it is imported; gives file, number and text of its bug."""
    monkeypatch.syspath_prepend(tmp_path)

    def own(code):
        lines = (HEAD + code).splitlines()
        (tmp_path / "mycode.py").write_text("\n".join(lines) + "\n")
        return next((f"mycode.py:{i}: {line.strip()}" for i, line in enumerate(lines, 1) if "# bug" in line), None)

    yield own
    sys.modules.pop("mycode", None)


@pytest.mark.parametrize("case", CASES)
def test_a_bug_is_told_with_its_place_and_the_log(case, own, train, tmp_path):
    code, words, message = CASES[case]
    place = own(code)
    ran = train(*words, *SMALL)
    first, *rest = ran.err.splitlines()
    assert (ran.code, first[: len(message) + 7]) == (1, f"error: {message}")
    assert rest == [f"  {place}", "  the traceback is in here/train.log"]
    assert "Traceback (most recent call last)" in (tmp_path / "here" / "train.log").read_text()
    results = json.loads((tmp_path / "here" / "results.json").read_text())
    assert results["status"] == "failed" and results["error"] == f"{first.removeprefix('error: ')}\n  {place}"


MISSING = "install einops_2, or let PYTHONPATH name the folder that it lies in"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (MODEL.format(bug="x = = 1"), "SyntaxError: invalid syntax (mycode.py, line 12)"),
        ("import einops_2  # bug", "ModuleNotFoundError: No module named 'einops_2'"),
        ("from torch.nn import Linea  # bug", "ImportError: cannot import name 'Linea' from 'torch.nn'"),
        ("class Net(nn.Modul):  # bug\n    pass", "AttributeError: module 'torch.nn' has no attribute 'Modul'"),
    ],
)
def test_a_file_that_cannot_be_imported_is_told_with_the_line(code, message, own, train, tmp_path):
    place = own(code)
    ran = train(*OWN_NET, *SMALL)
    first, second, *advice = ran.err.splitlines()
    assert first.startswith(f"error: model._target_=mycode.Net cannot be imported: {message}")
    assert (ran.code, second) == (1, f"  {place}")
    is_missing = message.startswith("ModuleNotFoundError")
    assert advice == (["  " + MISSING] if is_missing else [])
    assert not (tmp_path / "here").exists()


def test_a_file_in_a_package_that_needs_another_package_says_which(own, train, tmp_path):
    """pkgutil.resolve_name would say that the package has no such module."""
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "__init__.py").touch()
    (tmp_path / "lab" / "net.py").write_text("import einops_2\n")
    own("")
    first, second, third = train("model=linear", "model._target_=lab.net.Net", *SMALL).err.splitlines()
    assert first.endswith("cannot be imported: ModuleNotFoundError: No module named 'einops_2'")
    assert (second, third) == ("  lab/net.py:1: import einops_2", "  " + MISSING)


def test_a_line_outside_and_the_line_of_ours_that_it_calls_are_both_told(own, train):
    code = CALLBACK.format(hook="on_fit_start").replace('callback_metrics["val/accuracy"]', "model(torch.zeros(2, 3))")
    first, second, third, last = train(*WATCH, *SMALL, *(own(code), "seed=0")[1:]).err.splitlines()
    assert first.startswith("error: RuntimeError: ")
    assert second.startswith("  mycode.py:8: trainer.model(torch.zeros(2, 3))")
    assert "/src/athanor/" in third and last == "  the traceback is in here/train.log"


def test_a_wrong_value_of_a_setting_is_told_without_a_place(train):
    assert train("optim.lr=-1", "model=linear").err == "error: optim.lr=-1 is negative; use 0 or more\n"


def test_a_thread_that_ends_is_told_and_the_run_goes_on(own, train):
    thread = (
        "import threading\n        t = threading.Thread(target=lambda: {}['x'])  # bug\n        t.start(), t.join()"
    )
    place = own(CALLBACK.format(hook="on_fit_start").replace('trainer.callback_metrics["val/accuracy"]  # bug', thread))
    ran = train(*WATCH, *SMALL)
    assert (ran.code, ran.err) == (0, "")
    assert f"warning: a thread has ended: KeyError: 'x'\n  {place}\n" in ran.out


def test_a_job_of_a_sweep_that_fails_is_told_with_its_own_log(own, train, tmp_path):
    place = own(MODEL.format(bug="assert self.head.bias.abs().sum() > 1e9, 'small'"))
    ran = train(*OWN_NET, "trainer.max_epochs=1", "logger=csv", "-m", "seed=0,1", "hydra.sweep.dir=many")
    lines = ran.err.splitlines()
    logs = [line for line in lines if line.startswith("  the traceback is in many/")]
    assert (ran.code, lines.count("error: AssertionError: small"), lines.count(f"  {place}")) == (1, 2, 2)
    assert len(lines) == 6 and len(set(logs)) == 2
    assert (tmp_path / "many" / "results.csv").read_text().count("AssertionError: small") == 2
    assert ran.out.count(f"\n       AssertionError: small\n       {place}\n") == 2  # below the job's line of the table


def test_from_python_the_error_itself_is_raised(own, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    own(MODEL.format(bug="b, c, h = x.shape"))
    with pytest.raises(ValueError, match="too many values") as raised:
        train_here(compose_words(*OWN_NET, "trainer.max_epochs=1", "trainer.log_every_n_steps=1", "logger=csv"))
    assert raised.traceback[-1].path.name == "mycode.py"
    assert "mycode.py:12: b, c, h = x.shape" in capsys.readouterr().err


def test_scripts_say_how_to_see_the_traceback(own, run_here, train, tmp_path):
    own(MODEL.format(bug="pass"))
    assert train(*OWN_NET, *SMALL).code == 0
    sys.modules.pop("mycode")
    place = own(MODEL.format(bug="b, c, h = x.shape"))
    for words in ["evaluate.py", "here"], ["lr_range.py", *OWN_NET], ["export.py", "here", "--format", "torch"]:
        ran = run_here(f"scripts/{words[0]}", *words[1:])
        first, second, third = ran.err.splitlines()
        assert (ran.code, second) == (1, f"  {place}")
        assert first.startswith("error: ValueError: too many values to unpack")
        assert third == "  HYDRA_FULL_ERROR=1 before the command prints the traceback"
    sys.modules.pop("mycode")
    place = own(MODEL.format(bug="pass").replace("64, num_classes)", "64, classes)  # bug"))
    first, second = run_here("scripts/export.py", "here", "--format", "torch").err.splitlines()
    assert first.endswith("does not fit this version of Athanor: NameError: name 'classes' is not defined")
    assert second == f"  {place}"


@pytest.mark.parametrize("script", ["train.py", "scripts/lr_range.py"])
def test_the_whole_traceback_is_printed_where_a_person_asks_for_it(script, own, run_here, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    place = own(MODEL.format(bug="b, c, h = x.shape"))
    ran = run_here(script, *OWN_NET)
    assert ran.code == 1 and ran.err.startswith("Traceback (most recent call last):\n")
    assert ", line 12, in forward\n    b, c, h = x.shape" in ran.err
    assert ran.err.splitlines()[-2] == f"  {place}"


# the debugger


def test_the_debugger_is_refused_where_nobody_could_use_it(own, train, monkeypatch):
    assert (
        train("debug=pdb").err == "error: debug=pdb takes commands from a terminal, and there is none; leave it out\n"
    )
    monkeypatch.setattr(sys.stdin.__class__, "isatty", lambda self: True)
    assert train("debug=pdb", "-m", "seed=0,1").err.startswith("error: debug=pdb stops in one run; ")
    own(MODEL.format(bug="pass"))
    ran = train(*OWN_NET, "debug=pdb", "trainer.accelerator=cpu", "trainer.devices=2", "hydra.run.dir=here")
    assert ran.err == "error: debug=pdb stops in one process; type trainer.devices=1\n"


def test_a_run_that_may_stop_is_one_process_without_workers_and_ends_as_any_other(own, train, monkeypatch):
    monkeypatch.setattr(sys.stdin.__class__, "isatty", lambda self: True)
    ran = train("model=linear", "data.limit=100", "debug=pdb", *SMALL)
    assert (ran.code, ran.err) == (0, "")
    assert "workers" not in Run("here").config["data"]
    own(DATASET.replace("range(31)", "range(99)"))
    ran = train(
        "model=linear",
        "data._target_=mycode.items",
        "+data.in_memory=false",
        "debug=pdb",
        "data.batch_size=10",
        "trainer.max_epochs=1",
        "hydra.run.dir=items",
    )
    assert (ran.code, ran.err) == (0, "")
    assert Run("items").config["data"]["workers"] == 0


def in_terminal(command, folder, typed):
    """What a command says in a terminal in which `typed` is typed when pdb asks, and the code with which it ends."""
    main, end = pty.openpty()
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "TERM": "dumb"}
    said, deadline = b"", time.monotonic() + 120
    with subprocess.Popen(command, cwd=folder, stdin=end, stdout=end, stderr=end, env=environment) as process:
        os.close(end)
        try:
            while time.monotonic() < deadline:
                if select.select([main], [], [], 0.1)[0]:
                    said += os.read(main, 10_000)
                    if said.endswith(b"(Pdb) ") and typed:
                        os.write(main, typed.pop(0).encode() + b"\n")
        except OSError:  # how Linux says that nobody has the terminal open any more
            pass
        process.kill()
    os.close(main)
    return process.returncode, said.decode().replace("\r", "")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["a shape", "an item"])
def test_the_debugger_opens_at_the_line_that_fails(case, own, repo, tmp_path):
    code, words, _ = CASES[case]
    place = own(code).partition(": ")[2]
    words = [word for word in words if "workers" not in word]
    command = [sys.executable, str(repo / "train.py"), *words, *SMALL, "debug=pdb"]
    code, said = in_terminal(command, tmp_path, ["p 40 + 2", "q"])
    assert code == 1
    assert f"-> {place}\n(Pdb) p 40 + 2\n42\n" in said


@pytest.mark.slow
def test_a_run_within_pdb_stops_at_the_line_that_fails(own, repo, tmp_path):
    own(MODEL.format(bug="self.head(x)"))
    command = [sys.executable, "-m", "pdb", "-c", "continue", str(repo / "train.py"), *OWN_NET, *SMALL]
    _, said = in_terminal(command, tmp_path, ["p tuple(x.shape[1:])", "q", "q"])
    assert "-> self.head(x)  # bug\n(Pdb) p tuple(x.shape[1:])\n(1, 8, 8)\n" in said
