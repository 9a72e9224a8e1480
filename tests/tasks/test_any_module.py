"""Any LightningModule as the task: a GAN with two optimizers, a plain classifier, and one that is handed its parts."""

from functools import partial
from textwrap import dedent

import pytest
import torch

from athanor.engine.runs.run import Run, read_checkpoint

CODE = """
import lightning.pytorch as L
import random
import torch
import torch.nn.functional as F
import torchmetrics
from pathlib import Path
from torch import nn

class GAN(L.LightningModule):
    def __init__(self, input_shape, latent: int = 8, lr: float = 2e-3):
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        size = torch.Size(input_shape).numel()
        self.generator = nn.Sequential(nn.Linear(latent, 16), nn.ReLU(), nn.Linear(16, size), nn.Tanh())
        self.critic = nn.Sequential(nn.Linear(size, 16), nn.LeakyReLU(0.2), nn.Dropout(0.3), nn.Linear(16, 1))

    def step(self, optimizer, loss):
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.untoggle_optimizer(optimizer)

    def training_step(self, batch, batch_idx):
        images, (generator, critic) = batch[0].flatten(1), self.optimizers()
        ones, zeros = torch.ones(len(images), 1), torch.zeros(len(images), 1)
        fake = self.generator(torch.randn(len(images), self.hparams.latent) * random.uniform(0.9, 1.1))
        self.toggle_optimizer(critic)
        loss = F.binary_cross_entropy_with_logits
        d_loss = loss(self.critic(images), ones) + loss(self.critic(fake.detach()), zeros)
        self.step(critic, d_loss)
        self.toggle_optimizer(generator)
        g_loss = loss(self.critic(fake), ones)
        self.step(generator, g_loss)
        self.log_dict({"g_loss": g_loss, "d_loss": d_loss}, on_step=False, on_epoch=True)

    def configure_optimizers(self):
        return [torch.optim.Adam(net.parameters(), self.hparams.lr) for net in (self.generator, self.critic)]

class Plain(L.LightningModule):
    def __init__(self, num_classes: int, width: int = 16):
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(
            nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, num_classes)
        )
        accuracy = {"task": "multiclass", "num_classes": num_classes}
        self.train_acc, self.val_acc = torchmetrics.Accuracy(**accuracy), torchmetrics.Accuracy(**accuracy)

    def forward(self, inputs):
        return self.network(inputs)

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        loss = F.cross_entropy(logits, batch[1])
        self.train_acc(logits, batch[1])
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        self.log("train_most", loss, on_step=False, on_epoch=True, reduce_fx="max")
        self.log("train_acc", self.train_acc, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        logits = self(batch[0]) + torch.randn(1)
        self.val_acc(logits, batch[1])
        self.log_dict({"val_loss": F.cross_entropy(logits, batch[1]), "val_acc": self.val_acc})

    def test_step(self, batch, batch_idx):
        logits = self(batch[0]) + torch.randn(1)
        self.log("test_acc", (logits.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}

class Handed(L.LightningModule):
    def __init__(self, network, preprocess, loss, optimizer, scale: float = 1.0):
        super().__init__()
        self.network, self.preprocess, self.loss, self.make, self.scale = network, preprocess, loss, optimizer, scale

    def training_step(self, batch, batch_idx):
        assert batch[0].dtype == torch.uint8  # it preprocesses for itself
        return self.scale * self.loss(self.network(self.preprocess(batch[0])), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(self.network(self.preprocess(batch[0])), batch[1]))

    def configure_optimizers(self):
        return self.make(self.parameters())

class Greedy(Plain):
    def __init__(self, num_classes: int, choose=F.relu):
        super().__init__(num_classes)
        self.save_hyperparameters()

class Edits(L.Callback):
    def __init__(self, text: str):
        self.text = text

    def on_train_start(self, trainer, module):
        Path(trainer.default_root_dir, "control.yaml").write_text(self.text)

class Counting(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.log("inputs", float(len(batch[0])), on_epoch=True, on_step=False)

    def configure_optimizers(self):
        return None

class Named(Plain):
    record = "mine"
"""
LOADERS = """
import lightning.pytorch as L
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

class Numbers(Dataset):
    def __len__(self):
        return 80

    def __getitem__(self, i):
        return {"x": torch.randn(4) + i % 2, "y": float(i % 2)}

class Module(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Numbers(), 16, shuffle=True)

    def val_dataloader(self):
        return DataLoader(Numbers(), 16)

class Fitted(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = nn.Linear(4, 1)

    def loss_of(self, batch):
        return nn.functional.mse_loss(self.network(batch["x"])[:, 0], batch["y"].float())

    def training_step(self, batch, batch_idx):
        return self.loss_of(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss_of(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
"""
ENDS = """
import lightning.pytorch as L
from pathlib import Path

class Ends(L.Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.fit_loop.epoch_loop.total_batch_idx == 7 and Path("end").exists():
            raise RuntimeError("ended")
"""
WORDS = {
    "GAN": [],
    "Plain": ["monitor.metric=val_acc", "monitor.mode=max"],
    "Handed": ["model=mlp", "model.widths=[16]", "optim=momentum", "optim.lr=0.05", "loss.label_smoothing=0.1"],
}
EVERY = pytest.mark.parametrize("kind", WORDS)


@pytest.fixture
def run_module(tmp_path, monkeypatch, train, trusting):
    """Trains a module of CODE on 400 digits, for two epochs of 5 batches."""
    (tmp_path / "mylab.py").write_text(dedent(CODE))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")  # for the processes of trainer=ddp
    trusting("mylab", "ends")
    small = ["trainer.accelerator=cpu", "data.limit=400", "data.batch_size=64", "trainer.max_epochs=2"]
    return lambda kind, *more: train(f"task._target_=mylab.{kind}", *small, *WORDS.get(kind, []), *more)


@EVERY
def test_it_is_trained_recorded_and_evaluated(kind, run_module, run_here):
    ran = run_module(kind, "hydra.run.dir=run")
    assert ran.code == 0, ran.err
    run = Run("run")
    assert run.results["status"] == "finished" and run.results["epochs"] == 2
    assert run.results["parameters"] == sum(p.numel() for p in run.task().parameters())
    if kind == "GAN":
        assert run.results["train"].keys() == {"g_loss", "d_loss"} and "test" not in run.results
        assert "GAN has no test_step" in ran.out and "does not log monitor.metric=val/loss" in ran.out + ran.err
        assert run.results["steps"] == 20  # of two optimizers
        assert max(run.history["g_loss"][0]) == 9  # in batches
        assert run.config["model"] is run.config["optim"] is None
        return
    name, stage = ("acc", "test") if kind == "Plain" else ("loss", "val")
    assert run.headline == name
    said = run_here("scripts/evaluate.py", "run", "--stage", stage).out
    assert f"{stage}/{name}  {run.results[stage][name]!r}  (recorded {run.results[stage][name]!r})" in said


@EVERY
def test_it_goes_on_to_the_bit_wherever_it_was_interrupted(kind, run_module, assert_resumed):
    assert_resumed(partial(run_module, kind))
    assert all(rates(f"parts_{batch}") == rates("whole") for batch in (1, 3, 5, 7, 9))
    assert kind != "Plain" or rates("whole") == [pytest.approx(0.01)]  # plateau has moved


def rates(run: str) -> list[float]:
    state = read_checkpoint(Run(run).dir / "checkpoints" / "last.ckpt")
    return [group["lr"] for optimizer in state["optimizer_states"] for group in optimizer["param_groups"]]


@pytest.mark.slow
@EVERY
def test_it_is_swept_repeated_and_fine_tuned(kind, run_module, train):
    ran = run_module(kind, "-m", "seed=0,1", "hydra.sweep.dir=sweep", "trainer.max_epochs=1")
    assert ran.code == 0 and "2 jobs; " in ran.out, ran.err
    ran = train("run=sweep/1_seed=1", "hydra.run.dir=again")
    assert ran.code == 0 and "the same as in sweep/1_seed=1, to the last digit" in ran.out, ran.err
    ran = run_module(kind, "weights=sweep/1_seed=1", "hydra.run.dir=tuned", "trainer.max_epochs=1")
    assert ran.code == 0 and "starting from the weights of sweep/1_seed=1/checkpoints/" in ran.out, ran.err
    assert Run("tuned").results["parent"]["file"].startswith("sweep/1_seed=1/checkpoints/")


@EVERY
@pytest.mark.slow
def test_two_processes_go_on_to_the_bit(kind, run_module, train, assert_same, tmp_path, run_process):
    (tmp_path / "ends.py").write_text(dedent(ENDS))
    words = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "callbacks.checkpoints.every_minutes=1e-9"]
    words.append("+callbacks.ends={_target_: ends.Ends}")
    assert run_module(kind, *words, "hydra.run.dir=whole").code == 0
    assert Run("whole").results["devices"] == 2
    (tmp_path / "end").touch()
    assert run_module(kind, *words, "hydra.run.dir=parts").code != 0
    (tmp_path / "end").unlink()
    ran = train("resume=parts")
    assert ran.code == 0, ran.err
    assert_same("whole", "parts")


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        ("Plain", ["model=mlp"], "model: Plain does nothing with it; give its __init__ an argument `network`"),
        ("Plain", ["optim.lr=0.1"], "optim.lr: Plain does nothing with it; give its __init__ an argument `optimizer`"),
        ("Handed", ["scheduler=cosine"], "scheduler: Handed does nothing with it"),
        ("Handed", ["model.freeze=[hidden]"], "does nothing for Handed, which is no Task; type model.freeze=null"),
        ("Handed", ["optim.lr_by_layer=0.5"], "type optim.lr_by_layer=null"),
        ("Plain", ["eval.tta=flip"], "eval.tta=flip does nothing for Plain, which is no Task; type eval.tta=none"),
        ("Plain", ["callbacks=ema"], "callbacks=ema needs a Task"),
        ("Plain", ["callbacks=lr_range"], "callbacks=lr_range needs a Task"),
        ("Plain", ["callbacks=ensemble"], "the task Plain has none"),
        ("Plain", ["callbacks.checkpoints.keep=cycles"], "callbacks.checkpoints.keep=cycles needs a Task"),
        ("Plain", ["+task.width=wide"], "task.width=wide: Plain takes int"),
        ("Plain", ["+task.depth=2"], "Plain has no 'depth'"),
        ("Greedy", [], "save_hyperparameters() keeps choose, a function"),
        ("Named", [], "Named.record is a name that the run needs"),
        ("Lost", [], "task._target_=mylab.Lost cannot be imported"),
        ("nn.Linear", [], "task._target_=mylab.nn.Linear is no LightningModule"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(kind, words, message, run_module):
    ran = run_module(kind, *words)
    assert ran.code == 1 and message in ran.err and ran.err.count("\n") <= 2, ran.err


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("predict.py", ["run", "a.png"], "predict.py needs a Task"),
        ("export.py", ["run", "--format", "torch"], "is of the task Plain; this needs one of task=classification"),
        ("ensemble.py", ["sweep"], "is of the task Plain"),
        ("lr_range.py", ["task._target_=mylab.Plain"], "callbacks=lr_range needs a Task"),
        ("schedule.py", ["task._target_=mylab.Plain"], "schedule.py needs a Task"),
    ],
)
def test_what_needs_a_task_says_so(script, words, message, run_module, run_here):
    run_module("Plain", "trainer.max_epochs=1", "hydra.run.dir=run")
    if "sweep" in words:
        run_module("Plain", "-m", "seed=0,1", "hydra.sweep.dir=sweep", "trainer.max_epochs=1")
    ran = run_here(f"scripts/{script}", *words)
    assert ran.code == 1 and message in ran.err and ran.err.count("\n") <= 2, ran.err


def test_a_live_run_takes_requests_but_no_rates_of_several_optimizers(run_module):
    edit = "+callbacks.edits={_target_: mylab.Edits, text: '%s'}"
    ran = run_module("GAN", edit % "lr: 0.1", "hydra.run.dir=run")
    assert ran.code == 0 and "this run has 2 optimizers" in ran.out + ran.err
    assert run_module("Plain", edit % "stop: true", "hydra.run.dir=next").code == 0
    assert Run("next").results["ended_by"] == "control.yaml" and Run("next").results["steps"] == 1


def test_a_module_and_a_data_module_of_ones_own_are_taken_as_they_are(tmp_path, monkeypatch, train, assert_resumed):
    (tmp_path / "loaders.py").write_text(dedent(LOADERS))
    (tmp_path / "configs" / "data").mkdir(parents=True)
    (tmp_path / "configs" / "data" / "numbers.yaml").write_text("_target_: loaders.Module\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["--config-dir", tmp_path / "configs", "data=numbers", "task._target_=loaders.Fitted"]
    assert_resumed(partial(train, *words, "trainer.max_epochs=2"), places=[5, 7])
    assert Run("whole").results["val"].keys() == {"loss"} and Run("whole").results["images_per_second"]
    ran = train(*words[:3], "model=mlp", "task=regression")
    assert ran.code == 1 and "a batch of Module is a dict; tasks of Athanor take (inputs, targets)" in ran.err


def test_a_module_may_have_no_optimizer(run_module):
    ran = run_module("Counting", "hydra.run.dir=run")
    assert ran.code == 0, ran.err
    assert Run("run").results["train"] == {"inputs": 64.0} and "lr" not in Run("run").history


def test_it_is_given_raw_bytes_where_it_asks_for_the_preprocessing(run_module):
    assert run_module("Handed", "data.preprocess=symmetric", "hydra.run.dir=run").code == 0
    module = Run("run").task()
    assert torch.equal(module.preprocess(torch.full((1, 1, 8, 8), 255, dtype=torch.uint8)), torch.ones(1, 1, 8, 8))
