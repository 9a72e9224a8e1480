"""Where in a person's own code an error arose: the file, the number of the line, and the line itself.

Own code is what belongs neither to Python nor to an installed library: files outside this package, and those rooms of
the package to which people add files.
"""

import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from itertools import dropwhile
from pathlib import Path
from traceback import FrameSummary
from types import TracebackType

from athanor.base.errors import opening

PACKAGE = Path(__file__).parents[1]
OUTSIDE = "outside"  # the package
OWN = (OUTSIDE, "models", "data", "optim", "tasks", "callbacks")  # the rooms of the package to which people add files
FRAME = re.compile(r'File "(.+?)", line (\d+), in (\S+)')  # how Python writes a frame
HEAD = "Traceback (most recent call last):\n"


def told(error: BaseException, everywhere: bool = False) -> str | None:
    """What failed in a person's own code, and in a line each of one or two, where; None where no code of theirs did.

    everywhere: where no code of theirs failed, any of the package.
    """
    cause, frames = located(error, everywhere)
    return "\n".join([words(cause), *map(written, frames)]) if frames else None


def places(error: BaseException) -> list[str]:
    """The lines of `told` that say where: a line of a person's own code, after the one outside the package that has
    called it where it is in a room of the package; none where no code of theirs failed.
    """
    return list(map(written, located(error)[1]))


def located(error: BaseException, everywhere: bool = False) -> tuple[BaseException, list[FrameSummary]]:
    """The last of the errors that led to this one, itself included, that has frames of a person's own code, and those;
    none where no error has one.
    """
    found = ((cause, own_frames(cause, everywhere)) for cause in chain(error))
    return next((pair for pair in found if pair[1]), (error, []))


def words(error: BaseException) -> str:
    """The name of the error's class and the first line of its text."""
    name, text = name_and_text(error)
    return f"{name}: {opening(text)}" if text else name


def name_and_text(error: BaseException) -> tuple[str, str]:
    """The name of an error's class and its text; of what a process of torch's DataLoader has sent, the original's."""
    before, found, sent = str(error).rpartition(HEAD)
    if found and before.startswith("Caught "):
        last = "\n".join(dropwhile(lambda line: line.startswith(" "), sent.splitlines()))
        name, _, text = last.partition(": ")
        return name.rpartition(".")[2].strip(), text.strip()
    return type(error).__name__, str(error).strip()


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what has led to it, the last first."""
    seen: list[BaseException] = []  # `raise error.__cause__` makes a circle
    while error and not any(error is each for each in seen):
        yield error
        seen.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def own_frames(error: BaseException, everywhere: bool = False) -> list[FrameSummary]:
    """The last frame of a person's own code, after the one outside the package that has called it, if that is another.

    Frames in the text of the error come first: worker processes and compilers give no others.
    """
    if isinstance(error, SyntaxError) and error.filename and owner(error.filename):
        return [FrameSummary(error.filename, error.lineno, "", line=error.text)]
    text = "\n".join([str(error), *getattr(error, "__notes__", [])])
    in_text = [FrameSummary(file, int(line), name) for file, line, name in FRAME.findall(text)]
    for frames in in_text, traceback.extract_tb(error.__traceback__):
        owners = [(owner(frame.filename), frame) for frame in frames]
        own = [frame for name, frame in owners if name in OWN or (everywhere and name)]
        outside = [frame for name, frame in owners if name == OUTSIDE]
        if own:
            return own[-1:] if own[-1] in outside else [*outside[-1:], own[-1]]
    return []


def owner(file: str) -> str | None:
    """OUTSIDE, or the room of the package in which the file is; None for Python, libraries and what is no file."""
    path = Path(os.path.abspath(file))
    if path.is_relative_to(PACKAGE):
        return path.relative_to(PACKAGE).parts[0]
    is_library = {"site-packages", "dist-packages"} & {*path.parts} or path.is_relative_to(sysconfig.get_path("stdlib"))
    is_script = path == Path(os.path.abspath(getattr(sys.modules["__main__"], "__file__", None) or ""))
    return None if is_library or is_script or not path.is_file() else OUTSIDE


def written(frame: FrameSummary) -> str:
    """A frame as `  file:line: code`, the file relative to the current folder where it is below it."""
    file = os.path.abspath(frame.filename).removeprefix(os.getcwd() + os.sep)
    return f"  {file}:{frame.lineno}: {(frame.line or '').strip()[:140]}"


def own_traceback(error: BaseException) -> TracebackType | None:
    """The traceback, cut after the last frame of a person's own code, so that a debugger opens there; the whole where
    there is none.
    """
    places = [frame[:2] for frame in located(error)[1][-1:]]
    for cause in chain(error):
        last, each = None, cause.__traceback__
        while each:
            last = each if (each.tb_frame.f_code.co_filename, each.tb_lineno) in places else last
            each = each.tb_next
        if last:
            last.tb_next = None
            return cause.__traceback__
    return error.__traceback__
