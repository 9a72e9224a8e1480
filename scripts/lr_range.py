"""Find a learning rate before training: python scripts/lr_range.py model=cnn data=mnist [overrides]

Overrides are those of train.py; callbacks.lr_range.<setting> are the settings of the range test. Nothing is trained,
and no validation or test image is read: it prints the answer of each rule and what to type to use it, and draws the
curve. It ends with an error where the answers of the sweeps lie too far apart. One setting may have several values,
such as data.batch_size=16,32,64,128 or optim.weight_decay=0,1e-4,1e-3: then there is a test for each value, and they
are compared.
"""

import argparse
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.override_parser.overrides_parser import OverridesParser

from athanor.base.errors import UserError
from athanor.engine.app import command_line

if TYPE_CHECKING:
    from athanor.craft.lr_range.range_test import RangeTest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="model=cnn data=mnist optim=nesterov callbacks.lr_range.steps=200")
    words = parser.parse_args().overrides

    from athanor.callbacks.lr_range import write_csv
    from athanor.craft.figure import save_figure
    from athanor.craft.lr_range.range_report import comparison_table, draw_comparison, draw_range_test, rules_table
    from athanor.craft.lr_range.range_test import MOST_SPREAD
    from athanor.engine.app.logs import set_up_logging
    from athanor.engine.runs.claim import claim
    from athanor.engine.runs.run import shown

    axis, settings = separate_values(words)
    configs = {value: command_line.composed(overrides) for value, overrides in settings.items()}
    set_up_logging()
    tests: dict[str, RangeTest] = {}
    for value, config in configs.items():
        tests[value], rule, answer = run_test(config)
        print(("" if axis is None else f"{axis}={value}  ") + rules_table(tests[value], rule))
        if tests[value].spread(rule) <= MOST_SPREAD:
            print(f"  to start with it: {' '.join(answer)}", flush=True)
        for warning in tests[value].warnings:
            logging.warning("  the range test cannot be trusted: %s", warning)
    name = next(iter(configs.values()))["name"]
    folder = Path(claim(f"outputs/lr_range/{time.strftime('%Y-%m-%d_%H-%M-%S')}_{name}"))
    for value, test in tests.items():
        write_csv(test, folder / ("lr_range.csv" if axis is None else f"{axis}={value}.csv"))
    if axis is None:
        drawing = draw_range_test(test, rule, f"learning-rate range test: {' '.join(words)}")
    else:
        print("\n" + comparison_table(tests, axis, rule))
        drawing = draw_comparison(tests, axis, rule)
    print(f"  {shown(save_figure(drawing, folder / 'lr_range.png'))}", flush=True)
    for value, test in tests.items():
        test.check_spread(rule, "callbacks=lr_range" if axis is None else f"{axis}={value}")


def separate_values(words: list[str]) -> tuple[str | None, dict[str, list[str]]]:
    """The setting that has several values, and the words of a test by value; (None, {"": words}) where none has."""
    parser = OverridesParser.create()
    several = [word for word in words if "," in word and parser.parse_override(word).is_sweep_override()]
    if len(several) > 1:
        raise UserError(f"{' '.join(several)}: one setting at a time may have several values")
    others = [*(word for word in words if word not in several), "callbacks=[lr_range]"]
    if not several:
        return None, {"": others}
    override = parser.parse_override(several[0])
    axis = override.get_key_element()
    return axis, {value: [*others, f"{axis}={value}"] for value in override.sweep_string_iterator()}


def run_test(config: dict) -> "tuple[RangeTest, str, list[str]]":
    """The range test of a run, on one device and without its training: the test, its rule, and what to type."""
    import lightning.pytorch as L

    from athanor.engine.config import assemble
    from athanor.engine.runs.lineage import load_weights
    from athanor.training.at_first_step import at_first_step

    finder = assemble.build(config["callbacks"]["lr_range"], "callbacks")
    L.seed_everything(config["seed"], verbose=False)  # for the weights that train.py would start from
    data = assemble.data(config)
    task = assemble.task(config, data)
    if config["weights"]:
        load_weights(task, config["weights"])
    trainer = assemble.bare_trainer(config, ".", data, task)
    finder.setup(trainer, task, "fit")
    test = at_first_step(trainer, task, data, finder.find)
    return test, finder.rule, finder.overrides(task, test)


if __name__ == "__main__":
    command_line.start(main)
