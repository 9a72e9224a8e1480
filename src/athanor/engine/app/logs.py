"""Which log lines go to the terminal and to train.log."""

import logging
import os
import threading
import warnings
from typing import Any

from athanor.base.error_place import told
from athanor.base.text import printable
from athanor.engine.app.ranks import is_main_process

DROPPED = (  # lines that begin so
    "💡 Tip:",  # advertisements
    "----------",
    "`isinstance(treespec, LeafSpec)` is deprecated",  # torch 2.15 about Lightning 2.6
    "It is recommended to use `self.log(",  # about sync_dist: the task logs values that are reduced already
    "The number of training batches",  # the epoch's metrics are logged whatever log_every_n_steps is
)
FILE_ONLY = (
    "`Trainer.fit` stopped:",
    "GPU available:",
    "TPU available:",
    "HPU available:",
    "LOCAL_RANK:",  # which GPU this process uses
    "Loading `train_dataloader`",
    "Restoring states from the checkpoint",
    "Restored all states from the checkpoint",
    "Initializing distributed",
    "distributed_backend=",
    "All distributed processes",
)

COLOURS = {logging.WARNING: 33, logging.ERROR: 31}  # yellow and red


def set_up_logging() -> None:
    """Send Lightning's lines and Python's warnings to train.log, without advertisements, from the main process only."""
    import lightning.pytorch  # noqa: F401  # installs its handlers when it is imported

    logging.basicConfig(format="%(message)s")  # for scripts, to the terminal; a job has Hydra's handlers already
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("lightning")]:
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    if not is_main_process():
        logging.getLogger().handlers.clear()
        logging.disable(logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(without_control_characters)
        handler.addFilter(for_file if isinstance(handler, logging.FileHandler) else for_terminal)
        if has_colours(getattr(handler, "stream", None)):
            handler.setFormatter(Coloured())
    logging.raiseExceptions = False  # else `python train.py | head` prints a traceback
    threading.excepthook = log_thread_error
    warnings.showwarning = lambda message, *_, **__: logging.getLogger("py.warnings").warning("warning: %s", message)


class Coloured(logging.Formatter):
    """The message alone, in the colour that its record asks for (`extra={"colour": <code>}`) or that of its level."""

    def format(self, record: logging.LogRecord) -> str:
        colour = getattr(record, "colour", COLOURS.get(record.levelno))
        text = super().format(record)
        return f"\x1b[{colour}m{text}\x1b[0m" if colour else text


def has_colours(stream: Any) -> bool:
    """Whether it is a terminal with colours, whose person has not set NO_COLOR (no-color.org)."""
    is_terminal = stream is not None and stream.isatty()
    return is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def without_control_characters(record: logging.LogRecord) -> bool:
    """The filter of all that is logged: names from files reach it, and a terminal would obey what is in them."""
    record.msg, record.args = printable(record.getMessage(), keep="\n\t"), ()
    return True


def for_file(record: logging.LogRecord) -> bool:
    return not record.getMessage().removeprefix("warning: ").startswith(DROPPED)


def for_terminal(record: logging.LogRecord) -> bool:
    return record.name != __name__ and for_file(record) and not any(noise in record.getMessage() for noise in FILE_ONLY)


def log_thread_error(error: threading.ExceptHookArgs) -> None:
    """Write the traceback to train.log: who uses the thread, as TensorBoard's writer, raises the error again. Nobody
    may do so for code of a person's own, of which the terminal tells as well.
    """
    logging.getLogger(__name__).error("in a thread", exc_info=(error.exc_type, error.exc_value, error.exc_traceback))
    if place := error.exc_value and told(error.exc_value):
        logging.getLogger("py.warnings").warning("warning: a thread has ended: %s", place)
