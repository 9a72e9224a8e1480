"""The debugger pdb at the line of a person's own code that has failed: debug=pdb, or python -m pdb train.py."""

import sys
import traceback
from pathlib import Path

from athanor.base.error_place import own_traceback
from athanor.base.errors import UserError

DEBUGGERS = ("bdb.py", "pydevd.py")  # files of Python's own, and of those of editors


def is_asked() -> bool:
    return any(word.lstrip("+") == "debug=pdb" for word in sys.argv[1:])


def check(is_sweep: bool) -> None:
    """Raise UserError where debug=pdb is typed and nobody could type into it."""
    if is_asked() and is_sweep:
        raise UserError("debug=pdb stops in one run; type the settings of one job, without -m")
    if is_asked() and not sys.stdin.isatty():
        raise UserError("debug=pdb takes commands from a terminal, and there is none; leave it out")


def stop_at(error: BaseException) -> None:
    """Open the debugger where debug=pdb asks for it, and the error is no mistake in what was typed; raise the error to
    a debugger that runs this process already.
    """
    if is_asked() and not isinstance(error, UserError):
        import pdb

        pdb.post_mortem(own_traceback(error))
    elif any(Path(frame.f_code.co_filename).name in DEBUGGERS for frame, _ in traceback.walk_stack(None)):
        raise error.with_traceback(own_traceback(error))
