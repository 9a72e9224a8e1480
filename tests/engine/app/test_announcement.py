"""What a run says when it begins."""

import re
from textwrap import dedent

SHORT = ["trainer.max_steps=1", "+trainer.limit_val_batches=1"]


def opening(text: str) -> dict[str, str]:
    """The first block of lines `name  text`."""
    return dict(re.findall(r"^  (\w+) +(.*)$", text[text.index("  run ") :].partition("\n\n")[0], re.MULTILINE))


def test_a_run_says_what_it_is_and_where_and_how_to_stop_it(train, tmp_path):
    ran = train(*SHORT, "hydra.run.dir=a", "name=mine", "compute.threads=1")
    assert ran.code == 0, ran.err
    rows = opening(ran.out)
    assert list(rows) == ["run", "size", "data", "device", "folder", "watch", "edit", "stop"]
    assert rows["run"] == "mine: Classification, CNN, digits, Adam, seed 0"
    assert rows["size"] == "99,370 parameters"
    assert rows["data"] == "1,295 images, 143 for validation, 359 for the test at the end"
    assert re.fullmatch(r"cpu \(.+, 1 thread\), precision 32-true", rows["device"])
    assert (rows["folder"], rows["watch"]) == ("a", "tensorboard --logdir a")
    assert rows["edit"] == "a/control.yaml, with a line like lr: 0.01"
    assert rows["stop"] == "Ctrl-C saves first; python train.py resume=a goes on"
    assert "  run      mine: Classification, CNN" in (tmp_path / "a" / "train.log").read_text()


def test_it_promises_nothing_that_this_run_does_not_do(train):
    words = ["logger=csv", "callbacks=null", "data.val_fraction=0", "eval.test=false", "hydra.run.dir=a"]
    rows = opening(train("trainer.max_steps=1", *words).out)
    assert rows["data"] == "1,438 images, none for validation, the test set stays unread"
    assert list(rows) == ["run", "size", "data", "device", "folder"]


def test_a_trial_of_one_batch_does_not_say_that_it_saves(train):
    assert list(opening(train("debug=fast", "model=linear").out)) == ["run", "size", "data", "device", "folder", "edit"]


def test_jobs_of_a_sweep_name_the_sweep_to_resume(train, tmp_path):
    ran = train(*SHORT, "-m", "seed=3", "model=linear", "hydra.sweep.dir=s")
    rows = opening(ran.out)
    assert rows["stop"].endswith("resume=s goes on") and rows["folder"].startswith("s/")


def test_any_module_on_a_data_module(train, tmp_path, monkeypatch, trusting):
    code = """
        import lightning.pytorch as L
        import torch
        from torch.utils.data import DataLoader, TensorDataset

        class Pairs(L.LightningDataModule):
            def __init__(self, count: int):
                super().__init__()
                self.count = count
            def train_dataloader(self):
                return DataLoader(TensorDataset(torch.ones(self.count, 3), torch.zeros(self.count)), batch_size=2)

        class Small(L.LightningModule):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Linear(3, 1)
            def training_step(self, batch, batch_idx):
                return self.layer(batch[0]).mean()
            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), 0.1)
    """
    (tmp_path / "announced.py").write_text(dedent(code))
    monkeypatch.syspath_prepend(tmp_path)
    trusting("announced")
    words = ["task._target_=announced.Small", "~data", "+data={_target_: announced.Pairs, count: 6}", "eval.test=false"]
    ran = train(*words, "trainer.max_epochs=1", "logger=null", "callbacks=null", "hydra.run.dir=a")
    assert ran.code == 0, ran.err
    rows = opening(ran.out)
    assert rows["run"].endswith("seed 0") and rows["run"].partition(": ")[2].startswith("Small, ")
    assert (rows["size"], rows["data"]) == ("4 parameters", "loaders of Pairs")
