"""Fixtures that several files share. Nothing here reaches a network."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: two threads on shared cores can be 20 times slower than one

import logging
import runpy
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import hydra
import lightning.pytorch as L
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from athanor.callbacks.stopwatch import Stopwatch
from athanor.data.augmentation.augment import Augment
from athanor.data.module import ArrayData
from athanor.data.sources.source import Source
from athanor.engine.app import command_line
from athanor.engine.config import hydra_versions, options, trust
from athanor.engine.runs.run import Run, read_checkpoint

REPO = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """Hide the GPUs from all tests but those of `-m gpu`: what they expect, often to the bit, is of a processor.

    The list of what was built here is a new one for each process of tests.
    """
    state = tempfile.TemporaryDirectory(prefix="athanor-state-")
    config.add_cleanup(state.cleanup)
    os.environ["XDG_STATE_HOME"] = state.name
    if "gpu" in config.option.markexpr:
        # trainer.deterministic sets it for a process, but torch looks once, at the first product on a GPU
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@dataclass
class Ran:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Trust these modules, as `trust:` in configs/local/default.yaml does."""
    return lambda *modules: monkeypatch.setattr(trust, "trusted_modules", lambda: list(modules))


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"tests are offline, {address} is not")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture(autouse=True)
def own_modules_forgotten(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Forget the modules that a test has written and imported: another test may give the same name to its own."""
    before = set(sys.modules)
    yield
    folder, places = str(tmp_path_factory.getbasetemp()), {}
    for name in sys.modules.keys() - before:
        attributes = vars(sys.modules[name] or object)  # None: a test lets an import of it fail
        places[name] = [attributes.get("__file__"), *attributes.get("__path__", ())]  # a package may have a path alone
    for name in [name for name in places if any(str(place).startswith(folder) for place in places[name])]:
        del sys.modules[name]


@pytest.fixture
def compose(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., DictConfig]]:
    """The config that train.py would get for these words of the command line."""
    monkeypatch.setattr(options, "CONFIGS", REPO / "configs")

    def compose(*arguments: str) -> DictConfig:
        overrides = ["hydra.mode=RUN", "++hydra.runtime.output_dir=here", *map(command_line.to_group, arguments)]
        with hydra.initialize_config_dir(str(REPO / "configs"), **hydra_versions.COMPOSE):
            cfg = hydra.compose("train", overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)  # ${name} asks it what was chosen
        return OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])

    yield compose
    HydraConfig.instance().cfg = None


@pytest.fixture
def run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Callable[..., Ran]:
    """Run train.py or a script as a person would, in tmp_path, but in this process: 1 s instead of 7."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(options, "CONFIGS", REPO / "configs")

    def run_here(script: str, *arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", [str(REPO / script), *map(str, arguments)])
        capfd.readouterr()
        with as_in_a_new_process(), pytest.raises(SystemExit) as end:
            runpy.run_path(str(REPO / script), run_name="__main__")
        return Ran(end.value.code, *capfd.readouterr())

    return run_here


@pytest.fixture
def train(run_here: Callable[..., Ran]) -> Callable[..., Ran]:
    return lambda *arguments: run_here("train.py", *arguments)


@pytest.fixture(scope="session")
def run_process() -> Callable[..., Ran]:
    """Run train.py or a script in a process of its own, in the folder `cwd`."""

    def run_process(cwd: Path, script: str, *arguments: object, **environment: str) -> Ran:
        words = [sys.executable, str(REPO / script), *map(str, arguments)]
        done = subprocess.run(
            words, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run_process


@contextmanager
def as_in_a_new_process() -> Iterator[None]:
    """Undo what train.py and Hydra set up for a process that ends with the command."""
    root = logging.getLogger()
    handlers, level, environment = root.handlers[:], root.level, dict(os.environ)
    excepthook = threading.excepthook
    GlobalHydra.instance().clear()
    try:
        with warnings.catch_warnings():
            # shown, not raised: as a person sees them, so that tests can look for them in what a command said
            warnings.simplefilter("default")
            for hidden in DeprecationWarning, PendingDeprecationWarning, ResourceWarning:
                warnings.simplefilter("ignore", hidden)
            warnings.showwarning = lambda message, category, *_, **__: sys.stderr.write(
                f"{category.__name__}: {message}\n"
            )
            yield
    finally:
        for handler in root.handlers:
            if handler not in handlers:
                handler.close()
        root.handlers[:], root.level = handlers, level
        for handler in handlers:
            handler.filters.clear()
        logging.disable(logging.NOTSET)
        logging.raiseExceptions = True
        threading.excepthook = excepthook
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None
        os.environ.clear()
        os.environ.update(environment)


@pytest.fixture
def source() -> Source:
    """200 + 60 random colour images of 4 classes, the class numbers not equally frequent."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (260, 3, 6, 8), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (260,), generator=generator).clamp_max(3)
    return Source(images[:200], labels[:200], images[200:], labels[200:], ("a", "b", "c", "d"), "random")


@pytest.fixture
def make_data(source: Source) -> Callable[..., ArrayData]:
    def make_data(**knobs: object) -> ArrayData:
        settings = dict(batch_size=16, eval_batch_size=32, val_fraction=0.2, folds=None, fold=0, split_seed=0, views=1)
        settings |= dict(limit=None, augment=Augment(0, "zeros", False, 0, 0, 0), source=source) | knobs
        return ArrayData(settings.pop("source"), **settings)

    return make_data


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., L.Trainer]:
    """A quiet trainer on the CPU that writes nothing which it is not asked for."""

    def make_trainer(**knobs: object) -> L.Trainer:
        quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
        settings = dict(accelerator="cpu", devices=1, default_root_dir=tmp_path, num_sanity_val_steps=0, **quiet)
        return L.Trainer(**settings | dict(max_epochs=1, log_every_n_steps=1) | knobs)

    return make_trainer


# a training that is interrupted, and runs that must be equal


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager]:
    """Within `interrupted(7)` a training ends at its batch 7, counted from 0 over all epochs, as by Ctrl-C."""

    @contextmanager
    def interrupted(batch: int) -> Iterator[None]:
        def interrupt(self, trainer, *arguments) -> None:
            if trainer.fit_loop.epoch_loop.total_batch_idx == batch:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Stopwatch, "on_train_batch_start", interrupt)
            yield

    return interrupted


@pytest.fixture
def assert_resumed(interrupted, assert_same, train) -> Callable[..., None]:
    """Asserts that a training of ten or more batches is resumed to the bit, wherever it is interrupted.

    run: trains with further words. places: numbers of batches. The run that is not interrupted stays as `whole`, and
    the others as parts_<batch>.
    """

    def assert_resumed(run: Callable[..., Ran], *words: str, places: Iterable[int] = (1, 3, 5, 7, 9)) -> None:
        words = [*words, "callbacks.checkpoints.every_minutes=1e-9", "trainer.log_every_n_steps=2"]
        ran = run(*words, "hydra.run.dir=whole")
        assert ran.code == 0, ran.err
        for batch in places:
            with interrupted(batch):
                assert run(*words, f"hydra.run.dir=parts_{batch}").code != 0
            ran = train(f"resume=parts_{batch}")
            assert ran.code == 0, ran.err
            assert_same("whole", f"parts_{batch}")

    return assert_resumed


@pytest.fixture
def assert_same() -> Callable[[str, str], None]:
    """Asserts that two runs have the same weights and values in train, val and test, to the bit."""

    def assert_same(first: str, second: str) -> None:
        a, b = Run(first), Run(second)
        for stage in "train", "val", "test":
            assert a.results.get(stage) == b.results.get(stage)
        states = [read_checkpoint(run.dir / "checkpoints" / "last.ckpt")["state_dict"] for run in (a, b)]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
        logged = [(run.dir / "metrics.csv").read_text().splitlines() for run in (a, b)]
        assert sorted(logged[0]) == sorted(logged[1])

    return assert_same
