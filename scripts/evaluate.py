"""Evaluate a run again: python scripts/evaluate.py <run or checkpoint> [--stage val] [overrides]

The same split and batches give the recorded accuracy to the last digit. Overrides are those of train.py, such as
data.limit=1000 or metrics=macro_f1; the weights and what belongs to them stay the checkpoint's.
"""

import argparse
import logging

from athanor.engine.app import command_line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run's directory, or a checkpoint in it")
    parser.add_argument("overrides", nargs="*", help="data.limit=1000, metrics=macro_f1, trainer=gpu, ...")
    parser.add_argument("--stage", choices=("test", "val"), default="test")
    arguments = parser.parse_args()

    from athanor.base.errors import UserError
    from athanor.engine.app.logs import set_up_logging
    from athanor.engine.config import assemble, check
    from athanor.engine.runs.run import Run, checkpoint_of, fill, read_checkpoint

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    set_up_logging()
    path = checkpoint_of(arguments.run)
    contents = read_checkpoint(path)
    config = command_line.changed(Run.at(arguments.run).dir, arguments.overrides)
    check.check(config)
    data = assemble.data(config)
    assemble.refuse_other_data(contents["athanor"], data)
    classifier = assemble.from_record({**contents["athanor"], "config": config})
    fill(classifier, contents, path)
    if arguments.stage == "val" and not len(data.val_index):
        raise UserError("there are no validation images; use --stage test, or data.val_fraction above 0")
    alone = {**config["trainer"], "devices": 1, "strategy": "auto"}
    bare = {**config, "trainer": alone, "logger": {}, "callbacks": {}}
    trainer = assemble.trainer(bare, str(path.parent), data, classifier.network)
    if arguments.stage == "test":
        results = trainer.test(classifier, data, verbose=False)[0]
    else:
        results = trainer.validate(classifier, data, verbose=False)[0]

    recorded = Run(path.parent.parent).results.get(arguments.stage, {})
    for name, value in results.items():
        before = recorded.get(name.partition("/")[2])
        print(f"{name}  {value!r}" + ("" if before is None else f"  (recorded {before!r})"))


if __name__ == "__main__":
    command_line.run(main)
