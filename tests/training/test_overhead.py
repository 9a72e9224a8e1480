import lightning.pytorch as L
import torch

from athanor.training.overhead import BATCH_HOOKS, NoProfiler, skip_empty_hooks


class Counting(L.Callback):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_before_zero_grad(self, *args) -> None:
        self.seen.append("on_before_zero_grad")

    def on_train_batch_end(self, *args) -> None:
        self.seen.append("on_train_batch_end")


class Empty(L.Callback):
    pass


class Line(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return self.weight**2

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_a_hook_that_somebody_wrote_is_called_and_an_empty_one_is_not(make_trainer, make_data):
    counting, empty = Counting(), Empty()
    skip_empty_hooks([counting, empty])
    assert [hook for hook in BATCH_HOOKS if getattr(counting, hook)] == counting_hooks()
    assert not any(getattr(empty, hook) for hook in BATCH_HOOKS)
    trainer = make_trainer(callbacks=[counting, empty], max_steps=3)
    trainer.fit(Line(), make_data())
    assert sorted(counting.seen) == sorted(counting_hooks() * 3)


def counting_hooks() -> list[str]:
    return ["on_before_zero_grad", "on_train_batch_end"]


def test_no_profiler_is_a_context_that_does_nothing_and_can_be_nested():
    profiler = NoProfiler()
    with profiler.profile("a"), profiler.profile("b"):
        pass
    assert profiler.summary() == ""
