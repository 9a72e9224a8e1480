"""What Athanor hands to the targets of a config by the names of their arguments, and no config may set."""

from collections.abc import Iterable

from athanor.base.errors import UserError
from athanor.engine.config import schema

FACTS = {  # in messages: "<name> is <this>"
    "input_shape": "the shape of one input of the data",
    "num_classes": "the number of classes of the data",
    "class_counts": "the number of training images of each class",
    "seed": "the run's (type seed=<number>)",
    "data_dir": "the same for all data (type data_dir=<folder>)",
    "source": "what the target of data returns",
    "agreement": "one object for all callbacks",
    "parameters": "the table of the run's settings",
    "purge_step": "the step at which a run is resumed",
    "callbacks": "what the group callbacks says (type callbacks=<option>)",
    "logger": "what the group logger says (type logger=<option>)",
    "default_root_dir": "the run's directory (type hydra.run.dir=<folder>)",
    "enable_checkpointing": "true where callbacks has checkpoints",
    "enable_progress_bar": "true where callbacks has a progress bar",
    "enable_model_summary": "false (lightning.pytorch.callbacks.ModelSummary as a callback prints one)",
    "record": "what a checkpoint needs to be read",
    **dict.fromkeys(schema.MADE, "made from another part of the config"),
    "num_sanity_val_steps": "0, so that nothing is validated before the first step",
}


def refuse_facts(path: str, node: dict, names: Iterable[str]) -> None:
    """Raise UserError where a node sets what is handed to its target, whose arguments have these names."""
    for key in schema.group_of(path).facts:
        if key in names and node.get(key) is not None:
            raise UserError(f"{path}.{key}={node[key]}: {key} is {FACTS[key]} and is handed over; leave it out")
