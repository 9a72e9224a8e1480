"""The error that this project raises on purpose when a person has made a mistake."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake of the person at the keyboard: an override, a file, a shape, a setting that does not fit.

    Its text is all that is shown, without a traceback: what was got, what is allowed, what to type.
    """


class NonFiniteError(FloatingPointError):
    """A loss that is nan or infinite. As of UserError, its text is all that is shown: it names the place itself."""


def require(condition: object, message: str) -> None:
    """Raise UserError with this message where the condition does not hold, which says what is allowed.

    The message is made in either case: in code that runs at every step, write `if ...: raise UserError(...)` instead.
    """
    if not condition:
        raise UserError(message)


def closest(name: str, choices: Iterable[str], least: float = 0.6) -> str | None:
    """The most similar of the choices, in small or capital letters; None where none is as similar as `least`.

    least: from 0 to 1, which is the same name; see difflib.SequenceMatcher.ratio.
    """
    by_letters = {choice.lower(): choice for choice in sorted(choices)}
    close = difflib.get_close_matches(name.lower(), by_letters, n=1, cutoff=least)
    return by_letters[close[0]] if close else None


def nearest(name: str, choices: Iterable[str]) -> str:
    """Advice on a name that does not exist: `did you mean x?` where one is similar, else the list of all choices."""
    choices = sorted(choices)
    close = closest(name, choices)
    return f"did you mean {close}?" if close else f"choose from: {', '.join(choices)}"


def first_line(error: BaseException) -> str:
    """One line of an error's text: of a YAML error the place and the problem, of any other the first line that is not
    empty, joined with the second where it ends in a colon. The name of the class where there is no text.
    """
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark and problem:
        return f"line {mark.line + 1}: {problem}"
    return opening(str(error)) or type(error).__name__


def opening(text: str) -> str:
    """The first line of a text that is not empty, joined with the second where it ends in a colon."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])
