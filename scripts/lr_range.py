"""Find a learning rate before training: python scripts/lr_range.py model=cnn data=mnist [overrides]

Words are those of train.py; callbacks.lr_range.<knob> are the test's own. It trains nothing and reads no validation or
test image: it prints the rules' answers and what to type, and draws the curve. One setting may have several values,
data.batch_size=16,32,64,128 or optim.weight_decay=0,1e-4,1e-3, which are compared.
"""

import argparse
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

import lightning.pytorch as L
from hydra.core.override_parser.overrides_parser import OverridesParser

from athanor.engine.app import command_line

if TYPE_CHECKING:
    from athanor.callbacks.lr_range import LRRange
    from athanor.craft.lr_range.range_test import RangeTest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="model=cnn data=mnist optim=nesterov callbacks.lr_range.steps=200")
    words = parser.parse_args().overrides

    from athanor.callbacks.lr_range import write
    from athanor.craft.figure import save_figure
    from athanor.craft.lr_range.range_report import comparison_table, draw_comparison, draw_range_test, rules_table
    from athanor.engine.app.logs import set_up_logging
    from athanor.engine.runs.claim import claim
    from athanor.engine.runs.run import shown

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    axis, settings = spread_out(words)
    configs = {value: command_line.composed(setting) for value, setting in settings.items()}
    set_up_logging()
    tests: dict[str, RangeTest] = {}
    for value, config in configs.items():
        tests[value], finder, typed = find(config)
        print(("" if axis is None else f"{axis}={value}  ") + rules_table(tests[value], finder.rule))
        print(f"  to start with it: {' '.join(typed)}", flush=True)
        for warning in tests[value].warnings:
            logging.warning("  the range test cannot be trusted: %s", warning)
    name = next(iter(configs.values()))["name"]
    folder = Path(claim(f"outputs/lr_range/{time.strftime('%Y-%m-%d_%H-%M-%S')}_{name}"))
    for value, test in tests.items():
        write(test, folder / ("lr_range.csv" if axis is None else f"{axis}={value}.csv"))
    if axis is None:
        drawn = draw_range_test(test, finder.rule, f"learning-rate range test: {' '.join(words)}")
    else:
        print("\n" + comparison_table(tests, axis, finder.rule))
        drawn = draw_comparison(tests, axis, finder.rule)
    print(f"  {shown(save_figure(drawn, folder / 'lr_range.png'))}")


def spread_out(words: list[str]) -> tuple[str | None, dict[str, list[str]]]:
    """The setting that has several values, and the words for each of these; (None, {"": words}) where none has."""
    from athanor.base.errors import UserError

    parser = OverridesParser.create()
    several = [word for word in words if "," in word and parser.parse_override(word).is_sweep_override()]
    finder = "callbacks=[lr_range]"
    if not several:
        return None, {"": [*words, finder]}
    if len(several) > 1:
        raise UserError(f"{' '.join(several)}: one setting at a time may have several values")
    override = parser.parse_override(several[0])
    axis, others = override.get_key_element(), [word for word in words if word != several[0]]
    return axis, {value: [*others, f"{axis}={value}", finder] for value in override.sweep_string_iterator()}


def find(config: dict) -> "tuple[RangeTest, LRRange, list[str]]":
    """Up to the first step of a run, on one device."""
    from athanor.engine.config import assemble

    finder = assemble.build(config["callbacks"]["lr_range"])
    L.seed_everything(config["seed"], verbose=False)  # the weights that train.py would start from
    data = assemble.data(config)
    classifier = assemble.classifier(config, data)
    alone = {**config["trainer"], "devices": 1, "strategy": "auto"}
    trainer = assemble.trainer({**config, "trainer": alone, "callbacks": {}}, ".", data, classifier.network)
    finder.setup(trainer, classifier, "fit")
    probe = Probe(finder)
    trainer.callbacks.append(probe)
    trainer.fit(classifier, data)
    return probe.test, finder, finder.overrides(classifier, probe.test)


class Probe(L.Callback):
    """The range test, and the end of the run."""

    def __init__(self, finder: "LRRange") -> None:
        self.finder = finder

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.test = self.finder.find(trainer, pl_module)
        trainer.should_stop = True


if __name__ == "__main__":
    command_line.run(main)
