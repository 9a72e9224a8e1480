"""Tasks of one's own: mixup in the step, distillation from the run of a teacher, and two networks in one task."""

from functools import partial

import pytest
import torch
from PIL import Image

from athanor.engine.runs.run import Run, read_checkpoint

CODE = {
    "mixup": """
        import torch
        from athanor.tasks.classification import Classification

        class Mixup(Classification):
            def __init__(self, *parts, alpha: float, **settings):
                super().__init__(*parts, **settings)
                self.beta = torch.distributions.Beta(alpha, alpha)

            def training_loss(self, inputs, targets):
                share, order = self.beta.sample().item(), torch.randperm(len(inputs))
                mixed = share * inputs + (1 - share) * inputs[order]
                outputs = self(mixed).float()
                return share * self.loss(outputs, targets) + (1 - share) * self.loss(outputs, targets[order]), outputs
        """,
    "student": """
        import torch
        import torch.nn.functional as F
        from athanor.engine.runs.run import Run
        from athanor.tasks.classification import Classification

        class Student(Classification):
            def __init__(self, *parts, teacher: str, share: float, **settings):
                super().__init__(*parts, **settings)
                self.of_run, self.share = teacher, share

            def on_fit_start(self):
                self.teacher = [Run(self.of_run).task().to(self.device)]  # in a list, it is in no checkpoint

            def training_loss(self, inputs, targets):
                with torch.no_grad():
                    soft = self.teacher[0](inputs).softmax(1)
                outputs = self(inputs).float()
                loss = (1 - self.share) * self.loss(outputs, targets) + self.share * F.cross_entropy(outputs, soft)
                return loss, outputs
        """,
    "pair": """
        import copy
        from athanor.tasks.classification import Classification

        class Pair(Classification):
            def __init__(self, network, *parts, **settings):
                super().__init__(network, *parts, **settings)
                self.second = copy.deepcopy(network)

            def forward(self, inputs):
                pixels = self.preprocess(inputs)
                return (self.network(pixels) + self.second(pixels)) / 2
        """,
}
YAML = {
    "mixup": "_target_: mixup.Mixup\nalpha: 0.4\n",
    "student": "_target_: student.Student\nteacher: ???\nshare: 0.5\n",
    "pair": "_target_: pair.Pair\n",
}
WORDS = {"mixup": ["task.alpha=0.2"], "student": ["task.teacher=teacher"], "pair": []}


@pytest.fixture
def run_own(tmp_path, monkeypatch, train):
    """Trains a small network with one of these tasks on 400 digits, for two epochs of 5 steps."""
    from textwrap import dedent

    for name, code in CODE.items():
        (tmp_path / f"{name}.py").write_text(dedent(code))
        (tmp_path / "configs" / "task").mkdir(parents=True, exist_ok=True)
        (tmp_path / "configs" / "task" / f"{name}.yaml").write_text(YAML[name])
    monkeypatch.syspath_prepend(str(tmp_path))
    small = ["model=mlp", "model.widths=[16]", "data.limit=400", "data.batch_size=64", "trainer.max_epochs=2"]

    def run_own(task, *more):
        if task == "student" and not (tmp_path / "teacher").exists():
            assert train(*small, "seed=5", "eval.test=false", "hydra.run.dir=teacher").code == 0
        return train("--config-dir", tmp_path / "configs", f"task={task}", *small, *WORDS[task], *more)

    return run_own


@pytest.mark.parametrize("task", CODE)
def test_it_is_trained_resumed_to_the_bit_evaluated_and_predicts(task, run_own, run_here, assert_resumed):
    assert_resumed(partial(run_own, task), "callbacks=ema", places=[7])
    ran = run_here("scripts/evaluate.py", "whole")
    assert f"(recorded {Run('whole').results['test']['acc']!r})" in ran.out, ran.err
    Image.new("L", (8, 8), 100).save("a.png")
    assert run_here("scripts/predict.py", "whole", "a.png").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("task", CODE)
def test_it_goes_on_to_the_bit_from_anywhere(task, run_own, assert_resumed):
    assert_resumed(partial(run_own, task))


@pytest.mark.slow
@pytest.mark.parametrize("task", CODE)
def test_it_is_trained_by_two_processes_and_swept(task, run_own, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    ran = run_own(task, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "hydra.run.dir=two")
    assert (ran.code, Run("two").results["devices"]) == (0, 2), ran.err
    ran = run_own(task, "-m", "seed=0,1", "hydra.sweep.dir=sweep", "trainer.max_epochs=1")
    assert ran.code == 0 and "2 seeds  val/acc " in ran.out, ran.err


def test_both_networks_of_a_pair_are_trained_and_averaged(run_own):
    assert run_own("pair", "callbacks=ema", "hydra.run.dir=pair").code == 0
    saved = read_checkpoint(Run("pair").dir / "checkpoints" / "last.ckpt")
    names = [name for name in saved["state_dict"] if name.startswith("second.") and name.endswith("weight")]
    assert names and all(not torch.equal(saved["raw"][name], saved["state_dict"][name]) for name in names)
    assert len(saved["optimizer_states"][0]["state"]) == 2 * len(
        [name for name in saved["state_dict"] if name.startswith("network.") and name.endswith(("weight", "bias"))]
    )
