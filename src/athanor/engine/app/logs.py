"""What goes to the terminal and to train.log."""

import logging
import threading
import warnings

from athanor.engine.app.ranks import is_main_process

NOWHERE = (
    "💡 Tip:",  # advertises services
    "----------",
    "`isinstance(treespec, LeafSpec)` is deprecated",  # torch 2.15 about Lightning 2.6
    "It is recommended to use `self.log(",  # about sync_dist: what the classifier logs is reduced already
    "The number of training batches",  # the epoch's metrics are logged whatever log_every_n_steps is
)
FILE_ONLY = (
    "`Trainer.fit` stopped:",
    "GPU available:",
    "TPU available:",
    "HPU available:",
    "Loading `train_dataloader`",
    "Restoring states from the checkpoint",
    "Restored all states from the checkpoint",
    "Initializing distributed",
    "distributed_backend=",
    "All distributed processes",
)


def set_up_logging() -> None:
    """Lightning's lines and Python's warnings into train.log, without advertisements, from the main process alone."""
    import lightning.pytorch  # noqa: F401  # it installs its handlers when imported

    logging.basicConfig(format="%(message)s")  # for scripts, to the terminal; a job has Hydra's handlers already
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("lightning")]:
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    if not is_main_process():
        logging.getLogger().handlers.clear()
        logging.disable(logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(for_file if isinstance(handler, logging.FileHandler) else for_terminal)
    logging.raiseExceptions = False  # `python train.py | head` is no reason for a traceback
    threading.excepthook = in_a_thread
    warnings.showwarning = lambda message, *_, **__: logging.getLogger("py.warnings").warning("warning: %s", message)


def for_file(record: logging.LogRecord) -> bool:
    return not any(noise in record.getMessage() for noise in NOWHERE)


def for_terminal(record: logging.LogRecord) -> bool:
    return record.name != __name__ and for_file(record) and not any(noise in record.getMessage() for noise in FILE_ONLY)


def in_a_thread(failed: threading.ExceptHookArgs) -> None:
    """Only the log gets the traceback: whoever uses a thread's work, as TensorBoard's writer does, raises its error."""
    logging.getLogger(__name__).error("in a thread", exc_info=(failed.exc_type, failed.exc_value, failed.exc_traceback))
