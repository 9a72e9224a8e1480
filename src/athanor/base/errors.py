"""The error that this project raises on purpose when a person has made a mistake."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake of the person at the keyboard: an override, a file, a shape, a setting that does not fit.

    Its text is all that is shown, without a traceback: what was got, what is allowed, what to type.
    """


def nearest(name: str, choices: Iterable[str]) -> str:
    """Advice on a name that does not exist: `did you mean x?` where one is similar, else the list of all choices."""
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=1)
    return f"did you mean {close[0]}?" if close else f"choose from: {', '.join(choices)}"
