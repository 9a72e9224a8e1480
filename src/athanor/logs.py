"""What goes to the terminal and to train.log."""

import logging
import warnings

from athanor.ranks import is_main_process

NOISE = (
    "💡 Tip:",  # advertises services
    "`Trainer.fit` stopped:",
    "GPU available:",
    "TPU available:",
    "HPU available:",
    "The number of training batches",  # the epoch's metrics are logged whatever log_every_n_steps is
    "Loading `train_dataloader`",
    "Restoring states from the checkpoint",
    "Restored all states from the checkpoint",
    "It is recommended to use `self.log(",  # about sync_dist: what the classifier logs is reduced already
    "Initializing distributed",
    "distributed_backend=",
    "All distributed processes",
    "----------",
    "`isinstance(treespec, LeafSpec)` is deprecated",  # torch 2.15 about Lightning 2.6
)


def set_up_logging() -> None:
    """Lightning's lines and Python's warnings into train.log, without advertisements, from the main process alone."""
    import lightning.pytorch  # noqa: F401  # it installs its handlers when imported

    for name in [name for name in logging.root.manager.loggerDict if name.startswith("lightning")]:
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    if not is_main_process():
        logging.getLogger().handlers.clear()
        logging.disable(logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(worth_reading)
    logging.raiseExceptions = False  # `python train.py | head` is no reason for a traceback
    warnings.showwarning = lambda message, *_, **__: logging.getLogger("py.warnings").warning("warning: %s", message)


def worth_reading(record: logging.LogRecord) -> bool:
    return not any(noise in record.getMessage() for noise in NOISE)
