"""Official files: verified, and downloaded into a temporary folder first, so that none is ever incomplete."""

import hashlib
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


def verified(path: Path, md5: str, advice: str) -> bytes:
    """The content of an official file; UserError, which ends with the advice, where it is missing or another."""
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        problem = "differs from the official file" if content else "is missing"
        raise UserError(f"{path} {problem}; {advice}")
    return content
