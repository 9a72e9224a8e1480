from functools import partial

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from athanor.base.errors import UserError
from athanor.callbacks.checkpoints import Checkpoints
from athanor.data.preprocess import Standardize
from athanor.engine.config import assemble, check
from athanor.optim import schedules
from athanor.tasks.classification import Classification
from athanor.tasks.losses import CrossEntropy

SHAPE, CLASSES = (3, 6, 8), 10


class Batches(list):
    """A loader; in a plain list Lightning sees several loaders."""


class Scripted(nn.Module):
    """A loss that is what the script says, call by call, whatever the logits are."""

    def __init__(self, *values):
        super().__init__()
        self.values = iter(values)

    def forward(self, logits, labels):
        return 0 * logits.sum() + next(self.values)


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 8, CLASSES))


@pytest.fixture(autouse=True, scope="module")
def global_batch():
    """Of a data module: these tests have plain loaders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classification, "global_batch", 8)
        yield


def make(network=None, loss=None, lr=0.1, optimizer=None, **knobs):
    images, _ = batch(200)
    preprocess = Standardize(SHAPE)
    preprocess.fit(images, torch.arange(200))
    return Classification(
        network or linear(),
        preprocess,
        loss or CrossEntropy(0.0, None, torch.ones(CLASSES)),
        record={"class_names": [f"class {i}" for i in range(CLASSES)]},
        optimizer=optimizer or partial(torch.optim.SGD, lr=lr),
        **knobs,
    )


def batch(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (size, *SHAPE), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, CLASSES, (size,), generator=generator)


def batches(*sizes, seed=0):
    images, labels = batch(sum(sizes), seed)
    return Batches(zip(images.split(sizes), labels.split(sizes), strict=True))


def join(batches):
    return tuple(map(torch.cat, zip(*batches, strict=True)))


def by_hand(classifier, batches):
    """Loss and accuracy over all images at once, in float64."""
    images, labels = join(batches)
    with torch.no_grad():
        logits = classifier.eval()(images).double()
    classifier.train()
    loss = -logits.log_softmax(1)[range(len(labels)), labels].mean().item()
    return loss, (logits.argmax(1) == labels).double().mean().item()


def values(trainer):
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize("log_every_n_steps", [1, 50])
def test_metrics_are_the_means_over_all_images_whatever_the_batches(make_trainer, log_every_n_steps):
    train, val, test = batches(16, 16, 5), batches(32, 32, 3, seed=1), batches(7, 30, seed=2)
    classifier, trainer = make(lr=0.0), make_trainer(log_every_n_steps=log_every_n_steps, max_epochs=2)
    trainer.fit(classifier, train, val)
    metrics = values(trainer)
    trainer.test(classifier, test, verbose=False)
    metrics |= values(trainer)
    names = {f"{s}/{m}" for s in ("train", "val", "test") for m in ("loss", "acc", "inputs")}
    assert set(metrics) - {"train/loss_step"} == names
    for stage, seen in {"train": train, "val": val, "test": test}.items():
        assert (metrics[f"{stage}/loss"], metrics[f"{stage}/acc"]) == pytest.approx(by_hand(classifier, seen), rel=1e-5)


def test_validation_and_test_run_in_eval_mode(make_trainer):
    classifier, trainer = make(nn.Sequential(linear(), nn.Dropout(0.9))), make_trainer()
    test = batches(32, 32)
    trainer.test(classifier, test, verbose=False)
    assert values(trainer)["test/loss"] == pytest.approx(by_hand(classifier, test)[0], rel=1e-5)


def test_lbfgs_counts_each_batch_once_at_the_loss_it_began_with(make_trainer):
    train = batches(40)
    classifier = make(optimizer=partial(torch.optim.LBFGS, max_iter=4))
    expected, accuracy = by_hand(classifier, train)
    trainer = make_trainer()
    trainer.fit(classifier, train, batches(8))
    assert values(trainer)["train/loss"] == pytest.approx(expected, rel=1e-5)
    assert values(trainer)["train/acc"] == pytest.approx(accuracy)
    assert by_hand(classifier, train)[0] < expected - 0.1


def test_lbfgs_searches_along_one_function_with_one_mask_of_dropout_a_step(make_trainer):
    masks = {}
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * 6 * 8, CLASSES))
    classifier = make(network, optimizer=partial(torch.optim.LBFGS, max_iter=4, line_search_fn="strong_wolfe"))

    def keep(module, inputs, output):
        if module.training:
            masks.setdefault(classifier.current_epoch, []).append(output == 0)

    classifier.network[1].register_forward_hook(keep)
    make_trainer(max_epochs=2).fit(classifier, batches(40), batches(8))
    first, second = masks.values()
    assert len(first) > 4 and len(second) > 4
    assert all(torch.equal(mask, first[0]) for mask in first) and all(torch.equal(mask, second[0]) for mask in second)
    assert not torch.equal(first[0], second[0])


@pytest.mark.parametrize("epochs", [1, 3])
def test_lbfgs_leaves_batch_norm_with_the_statistics_of_the_weights_that_it_has_found(make_trainer, epochs):
    train, val = batches(40), batches(30, seed=1)
    network = nn.Sequential(nn.Flatten(), nn.Linear(144, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 10))
    classifier = make(network, optimizer=partial(torch.optim.LBFGS, max_iter=4, line_search_fn="strong_wolfe"))
    trainer = make_trainer(max_epochs=epochs)
    trainer.fit(classifier, train, val)
    with torch.no_grad():
        seen = classifier.network[1](classifier.preprocess(join(train)[0]).flatten(1))
    norm = classifier.network[2]
    torch.testing.assert_close(norm.running_mean, seen.mean(0))
    torch.testing.assert_close(norm.running_var, seen.var(0))
    assert values(trainer)["val/loss"] == pytest.approx(by_hand(classifier, val)[0], rel=1e-5)  # what was validated
    assert all(module.training for module in classifier.network.modules())


def test_predictions_are_probabilities():
    probabilities = make().predict_step(batch(5), 0)
    assert probabilities.shape == (5, CLASSES)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(5))


def test_ddp_leaves_the_fitted_buffers_of_the_preprocessing_alone():
    classifier = make()
    buffers = {f"preprocess.{name}" for name, _ in classifier.preprocess.named_buffers()}
    assert set(classifier._ddp_params_and_buffers_to_ignore) == buffers == {"preprocess.mean", "preprocess.std"}
    assert buffers < set(classifier.state_dict())


def test_only_networks_with_convolutions_get_images_in_channels_last():
    seen = []
    convolution = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES))
    for network in convolution, linear():
        network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        make(network)(batch(2)[0])
    channels_last = [images.is_contiguous(memory_format=torch.channels_last) for images in seen]
    assert channels_last == [True, False]
    assert convolution[0].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(seen[0], seen[1])


@pytest.fixture(scope="module")
def in_bf16(tmp_path_factory):
    """A classifier that was trained and tested under bf16-true on more images than bf16 can count, and its metrics."""
    train, val = batches(64, 64, 3), batches(200, 131, seed=1)
    classifier = make()
    quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
    folder = tmp_path_factory.mktemp("bf16")
    trainer = L.Trainer(
        accelerator="cpu", precision="bf16-true", max_epochs=1, log_every_n_steps=1, default_root_dir=folder, **quiet
    )
    trainer.fit(classifier, train, val)
    return classifier, values(trainer), val


def test_in_bf16_the_network_is_cast_and_the_preprocessing_stays_float32(in_bf16):
    classifier, _, _ = in_bf16
    assert {p.dtype for p in classifier.network.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in classifier.preprocess.buffers()} == {torch.float32}
    assert classifier.preprocess(batch(2)[0]).dtype == torch.float32
    assert classifier(batch(2)[0]).dtype == torch.bfloat16


def test_in_bf16_the_images_are_counted_exactly(in_bf16):
    classifier, metrics, val = in_bf16
    assert metrics["val/acc"] == pytest.approx(by_hand(classifier, val)[1], rel=1e-6)


def test_in_bf16_the_loss_is_summed_in_float32(in_bf16):
    classifier, metrics, val = in_bf16
    assert metrics["val/loss"] == pytest.approx(by_hand(classifier, val)[0], rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "32-true", "64-true"])
def test_class_weights_work_in_every_precision(make_trainer, precision):
    val = batches(32, seed=1)
    classifier = make(loss=CrossEntropy(0.1, "balanced", torch.arange(1, CLASSES + 1)), lr=1e-3)
    trainer = make_trainer(precision=precision)
    trainer.fit(classifier, batches(16), val)
    logits = classifier.eval()(val[0][0]).double()
    loss = CrossEntropy(0.1, "balanced", torch.arange(1, CLASSES + 1)).double()
    expected = loss(logits, val[0][1]) * 32 / loss.total_weight(val[0][1])
    assert values(trainer)["val/loss"] == pytest.approx(expected.item(), rel=1e-2)


WEIGHTS = [1.0, 1.0, 1.0, 50.0][:CLASSES] + [1.0] * (CLASSES - 4)


def test_the_loss_with_class_weights_does_not_depend_on_how_batches_are_cut(make_trainer):
    losses = []
    for sizes in [(32,), (16, 16), (4,) * 8, (31, 1)]:
        trainer = make_trainer()
        trainer.validate(make(loss=CrossEntropy(0.0, WEIGHTS, torch.ones(CLASSES))), batches(*sizes), verbose=False)
        losses.append(values(trainer)["val/loss"])
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-6)


@pytest.mark.parametrize("loss", [None, CrossEntropy(0.0, WEIGHTS, torch.ones(CLASSES))], ids=["plain", "weighted"])
def test_accumulated_batches_step_as_one_batch_of_their_size(make_trainer, loss):
    """Also the last group of an epoch, which has two batches of three."""
    states = []
    for sizes, accumulate in [((8,) * 5, 3), ((24, 16), 1)]:
        classifier = make(loss=loss)
        make_trainer(accumulate_grad_batches=accumulate).fit(classifier, batches(*sizes), batches(8))
        states.append(classifier.network.state_dict())
    torch.testing.assert_close(*states, rtol=1e-5, atol=1e-7)


FUSED = [partial(torch.optim.SGD, lr=1.0), partial(torch.optim.Adam, lr=0.1), partial(torch.optim.Adagrad, lr=0.1)]


@pytest.mark.parametrize("optimizer", FUSED, ids=lambda optimizer: optimizer.func.__name__)
@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_clipping_in_bfloat16_is_the_same_with_a_fused_optimizer(make_trainer, optimizer, algorithm):
    states, limited = [], []

    def watch(optimizer, *_):
        gradients = torch.cat([p.grad.flatten() for group in optimizer.param_groups for p in group["params"]])
        limited.append((gradients.norm() if algorithm == "norm" else gradients.abs().max()).item())

    for fused in True, False:
        classifier = make(optimizer=partial(optimizer, fused=fused))
        start = LambdaCallback(on_train_start=lambda trainer, _: trainer.optimizers[0].register_step_post_hook(watch))
        knobs = {"precision": "bf16-mixed", "gradient_clip_val": 0.01, "gradient_clip_algorithm": algorithm}
        make_trainer(**knobs, callbacks=[start]).fit(classifier, batches(8, 8, 8), batches(8))
        states.append(classifier.network.state_dict())
    torch.testing.assert_close(*states)
    assert limited == pytest.approx([0.01] * 6, rel=1e-3)


def test_clipping_is_refused_where_a_fused_optimizer_unscales_float16_itself(make_trainer):
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    for fused in True, False:
        classifier = make(optimizer=partial(torch.optim.Adam, lr=0.1, fused=fused))
        trainer = make_trainer(gradient_clip_val=0.5, plugins=[plugin])
        if not fused:
            trainer.fit(classifier, batches(8), batches(8))
            continue
        with pytest.raises(UserError, match=r"gradient_clip_val=0\.5: with 16-mixed.*\n  use optim\.fused=false, or"):
            trainer.fit(classifier, batches(8), batches(8))


def test_a_loss_that_is_not_finite_ends_the_run_with_step_and_learning_rate(make_trainer):
    classifier = make(loss=Scripted(1.0, 1.0, 1.0, 1.0, float("nan")), lr=0.25)
    message = (
        r"^the train loss is nan at step 2 \(epoch 1\), learning rate 0\.25; "
        r"first non-finite values: the loss itself \(Scripted\), of outputs that are finite\n"
        r"  try a smaller optim\.lr, or trainer\.gradient_clip_val=1$"
    )
    with pytest.raises(FloatingPointError, match=message):
        make_trainer(max_epochs=2, log_every_n_steps=50).fit(classifier, batches(8, 8), batches(8, 4))


def test_a_validation_loss_that_is_not_finite_is_told_as_such(make_trainer):
    classifier = make(loss=Scripted(1.0, 1.0, float("inf")))
    with pytest.raises(FloatingPointError, match=r"^the val loss is inf at step 2 \(epoch 0\), learning rate 0\.1"):
        make_trainer().fit(classifier, batches(8, 8), batches(8))


class WatchedDropout(nn.Dropout):
    def __init__(self):
        super().__init__(0.5)
        self.dropped = []

    def forward(self, inputs):
        outputs = super().forward(inputs)
        if self.training:
            self.dropped.append((outputs == 0).flatten().tolist())
        return outputs


def dropped(make_trainer, seed, global_seed):
    """Which of 40 units were dropped at each of the 3 steps of two epochs."""
    dropout = WatchedDropout()
    classifier = make(nn.Sequential(linear(), dropout), seed=seed)
    torch.manual_seed(global_seed)
    make_trainer(max_epochs=2).fit(classifier, batches(4, 4, 4), batches(4))
    return dropout.dropped


def test_dropout_is_a_function_of_seed_epoch_and_step(make_trainer):
    first, again, other = (dropped(make_trainer, *seeds) for seeds in [(0, 0), (0, 1), (1, 0)])
    assert again == first
    assert len({str(units) for units in first + other}) == len(first + other) == 12


@pytest.mark.parametrize("limits", [{"max_epochs": -1, "max_steps": 5}, {"max_epochs": -1, "max_time": "00:00:00:01"}])
def test_a_run_may_have_no_number_of_epochs(make_trainer, limits):
    by_epoch = schedules.Schedule(partial(schedules.exponential, gamma=0.5), unit="epochs")
    trainer = make_trainer(**limits)
    trainer.fit(make(lr=1.0, schedule=by_epoch), batches(8, 8), batches(8))
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.5 ** (trainer.global_step / 2))


@pytest.fixture
def further(compose):
    nodes = check.plain(compose("metrics=[macro_f1,top5,balanced_accuracy,per_class]"))["metrics"]
    return {name: assemble.build(node, "metrics", num_classes=CLASSES) for name, node in nodes.items()}


def test_the_further_metrics_equal_what_is_counted_by_hand(make_trainer, further):
    classifier, trainer, test = make(metrics=further), make_trainer(), batches(64, 64, 13)
    trainer.fit(classifier, batches(64, seed=1), batches(7, 20, seed=2))
    images, labels = join(test)
    with torch.no_grad():
        logits = classifier.eval()(images)
    guess, recalls, f1s = logits.argmax(1), [], []
    for c in range(CLASSES):
        right = ((guess == c) & (labels == c)).sum().item()
        recalls.append(right / (labels == c).sum().item())
        f1s.append(2 * right / ((guess == c).sum() + (labels == c).sum()).item())
    expected = {f"test/class_acc/class {c}": recall for c, recall in enumerate(recalls)}
    expected["test/balanced_acc"] = sum(recalls) / CLASSES
    expected["test/macro_f1"] = sum(f1s) / CLASSES
    expected["test/top5_acc"] = (logits.topk(5).indices == labels[:, None]).any(1).double().mean().item()
    for _ in range(2):  # a second test starts from nothing
        trainer.test(classifier, test, verbose=False)
        metrics = {k: v for k, v in values(trainer).items() if k not in ("test/loss", "test/acc", "test/inputs")}
        assert metrics == pytest.approx(expected, abs=1e-6)


def test_the_further_metrics_add_nothing_to_a_checkpoint(further):
    assert make(metrics=further).state_dict().keys() == make().state_dict().keys()


def learning_rates(make_trainer, losses, monitor="val/loss", warmup=0, **knobs):
    """The rate after each epoch of one training step and one validation, where there is one."""
    rates = []

    class Watch(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    plateau = schedules.Schedule(partial(ReduceLROnPlateau, patience=0, factor=0.1), warmup=warmup)
    # Lightning calls a callback's hook before the module's, and only those that save or stop after it
    classifier = make(loss=Scripted(*losses), lr=1.0, schedule=plateau, monitor=monitor)
    trainer = make_trainer(callbacks=[Watch()], **knobs)
    trainer.fit(classifier, batches(8), batches(8))
    return [*rates[1:], trainer.optimizers[0].param_groups[0]["lr"]]


def test_plateau_follows_what_is_monitored(make_trainer):
    val = [9, 5, 9, 4, 9, 4, 9, 3, 9, 3]  # every other loss is a training step's
    assert learning_rates(make_trainer, val, max_epochs=5) == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    train = [5, 9, 4, 9, 4, 9, 3, 9, 3, 9]
    rates = learning_rates(make_trainer, train, monitor="train/loss", max_epochs=5)
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_plateau_moves_only_when_there_was_a_validation(make_trainer):
    val = [9, 9, 5, 9, 9, 4, 9, 9, 4]
    rates = learning_rates(make_trainer, val, max_epochs=6, check_val_every_n_epoch=2)
    assert rates == pytest.approx([1, 1, 1, 1, 1, 0.1])


def test_plateau_begins_after_the_warm_up_with_a_validation_of_its_own(make_trainer):
    """The 1 of the warm-up is not what 5 is compared with."""
    val = [9, 9, 1, 9, 9, 5, 9, 9, 6, 9, 9, 4]  # validated after every second step, and the warm-up has three
    rates = learning_rates(make_trainer, val, warmup=3, max_epochs=8, check_val_every_n_epoch=2)
    assert rates == pytest.approx([3 / 4, 1, 1, 1, 1, 0.1, 0.1, 0.1])


def test_schedulers_of_torch_move_once_an_epoch_and_before_its_checkpoint_is_written(make_trainer, tmp_path):
    classifier = make(lr=1.0, schedule=schedules.Schedule(partial(StepLR, step_size=1, gamma=0.5)))
    trainer = make_trainer(
        max_epochs=3, enable_checkpointing=True, callbacks=[Checkpoints("train/loss", "min", 1, "best", None)]
    )
    trainer.fit(classifier, batches(8, 8), batches(8))
    contents = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert contents["lr_schedulers"][0]["last_epoch"] == 3
    assert contents["optimizer_states"][0]["param_groups"][0]["lr"] == 0.125
    assert contents["athanor"] == classifier.record
