"""Draw learning rate and momentum of a run before it begins: python scripts/schedule.py scheduler=cosine [overrides]

Overrides are those of train.py: scheduler.warmup=0.1 trainer.max_epochs=20 optim=momentum scheduler.momentum=rise. The
data is read, because the number of steps in an epoch depends on it; nothing is trained.
"""

import argparse
import re
from pathlib import Path
from textwrap import shorten

from athanor.engine.app import command_line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="scheduler=one_cycle optim.lr=0.1 data=mnist ...")
    parser.add_argument("--output", type=Path, help="a PNG file, instead of outputs/schedules/<name>_<scheduler>.png")
    arguments = parser.parse_args()

    from athanor.craft.figure import save_figure
    from athanor.craft.schedule_figure import ScheduleCourse, draw_schedule
    from athanor.engine.app.logs import set_up_logging
    from athanor.engine.config import assemble
    from athanor.engine.runs.run import shown
    from athanor.tasks.task import require_task
    from athanor.training.at_first_step import at_first_step

    set_up_logging()
    config = command_line.composed(arguments.overrides)
    data = assemble.data(config)
    task = assemble.from_record({"config": config, **assemble.described(config, data)})
    require_task(task, "schedule.py")
    # on one CPU, whatever the config asks for: batches are global, so the number of steps is the same
    settings = {**config["trainer"], "accelerator": "cpu", "precision": "32-true"}
    trainer = assemble.bare_trainer({**config, "trainer": settings}, ".", data, task)
    course = at_first_step(trainer, task, data, ScheduleCourse)
    if scaled := task.lr_scaling.notice(config["optim"]["lr"], task.global_batch):
        print(scaled)
    print("\n".join(course.lines))
    scheduler = config["scheduler"]["_target_"].rpartition(".")[2]
    if scheduler == "ReduceLROnPlateau":
        print(f"drawn as if it never fell: it falls when {config['monitor']['metric']} stalls, which no one knows yet")
    file = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{config['name']}_{scheduler}.png")
    title = shorten(" ".join(arguments.overrides) or scheduler, 90)
    print(shown(save_figure(draw_schedule(course, title), arguments.output or Path("outputs/schedules") / file)))


if __name__ == "__main__":
    command_line.start(main)
