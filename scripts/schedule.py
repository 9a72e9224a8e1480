"""Draw learning rate and momentum of a run before it begins: python scripts/schedule.py scheduler=cosine [overrides]

Words are those of train.py: scheduler.warmup=0.1 scheduler.momentum=rise trainer.max_epochs=20. The data is read, to
know the steps of an epoch, and nothing is trained.
"""

import argparse
import logging
import math
import re
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

import lightning.pytorch as L

from athanor.engine.app import command_line

if TYPE_CHECKING:
    from athanor.craft.schedule_figure import ScheduleCourse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="scheduler=one_cycle optim.lr=0.1 data=mnist ...")
    parser.add_argument("--output", type=Path, help="a PNG; outputs/schedules/<name>_<scheduler>.png without")
    arguments = parser.parse_args()

    from athanor.craft.figure import save_figure
    from athanor.craft.schedule_figure import draw_schedule
    from athanor.engine.app.logs import set_up_logging
    from athanor.engine.runs.run import shown

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    set_up_logging()
    config = command_line.composed(arguments.overrides)
    scheduler = config["scheduler"]["_target_"].rpartition(".")[2]
    course = foresee(config)
    print("\n".join(course.lines))
    if scheduler == "ReduceLROnPlateau":
        print(f"drawn as if it never fell: it falls when {config['monitor']['metric']} stalls, which no one knows yet")
    file = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{config['name']}_{scheduler}.png")
    title = shorten(" ".join(arguments.overrides) or scheduler, 90)
    print(shown(save_figure(draw_schedule(course, title), arguments.output or Path("outputs/schedules") / file)))


def foresee(config: dict) -> "ScheduleCourse":
    """Up to the first step of a run, on the processor: steps are counted over all devices."""
    from athanor.engine.config import assemble

    data = assemble.data(config)
    record = {"config": config, "input_shape": list(data.input_shape), "class_names": list(data.class_names)}
    classifier = assemble.from_record(record)
    here = {"accelerator": "cpu", "devices": 1, "strategy": "auto", "precision": "32-true"}
    here |= {"min_epochs": None, "min_steps": None}  # or it would not end at once
    bare = {**config, "trainer": {**config["trainer"], **here}, "callbacks": {}}
    trainer = assemble.trainer(bare, ".", data, classifier.network)
    trainer.callbacks.append(probe := Probe())
    trainer.fit(classifier, data)
    if scaled := classifier.lr_scaling.words(config["optim"]["lr"], classifier.global_batch):
        print(scaled)
    return probe.course


class Probe(L.Callback):
    """Where a run would begin: what its schedulers will do, and its end."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        from athanor.base.errors import UserError
        from athanor.craft.schedule_figure import ScheduleCourse

        if math.isinf(pl_module.run_length.steps):
            raise UserError("this run has no end that is known; set trainer.max_epochs or trainer.max_steps")
        schedulers = [
            (each.scheduler, "epoch" if each.interval == "epoch" else "step") for each in trainer.lr_scheduler_configs
        ]
        self.course = ScheduleCourse.of(trainer.optimizers[0], schedulers, pl_module.run_length)
        trainer.should_stop = True


if __name__ == "__main__":
    command_line.run(main)
