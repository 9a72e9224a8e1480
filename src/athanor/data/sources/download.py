"""Download into a temporary folder first, so that an interrupted download leaves no incomplete file."""

import http.client
import socket
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from athanor.base.errors import UserError

_FAILED = (OSError, RuntimeError, http.client.HTTPException)  # what urllib and torchvision's checksums raise


@contextmanager
def downloading(name: str, data_dir: Path, remedy: str) -> Iterator[Path]:
    """Gives a temporary folder in `data_dir`, to download into and to move files out of.

    Raises UserError where the download fails; `remedy` says in it which files to put where by hand.
    """
    with tempfile.TemporaryDirectory(dir=data_dir, prefix=".download-") as folder:
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(30)  # seconds; torchvision sets none, and a firewall without an answer takes minutes
        try:
            yield Path(folder)
        except _FAILED as error:
            raise UserError(
                f"{name} is not in {data_dir} and could not be downloaded ({textwrap.shorten(str(error), 200)});\n"
                f"{remedy}, or use data=digits, which needs no download"
            ) from error
        finally:
            socket.setdefaulttimeout(timeout)
