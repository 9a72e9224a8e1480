"""Download into a temporary folder first, so that a broken download leaves nothing half done."""

import http.client
import socket
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FAILED = (OSError, RuntimeError, http.client.HTTPException)  # what urllib and torchvision's checksums raise


@contextmanager
def downloading(name: str, data_dir: Path, remedy: str) -> Iterator[Path]:
    """A temporary folder in `data_dir` to download into and move out of; a failure says `remedy`."""
    with tempfile.TemporaryDirectory(dir=data_dir, prefix=".download-") as folder:
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(30)  # seconds; torchvision sets none, and behind a silent firewall waits for minutes
        try:
            yield Path(folder)
        except _FAILED as error:
            reason = textwrap.shorten(str(error), 200)
            raise FileNotFoundError(
                f"{name} is not in {data_dir} and could not be downloaded ({reason});\n"
                f"{remedy}, or use data=digits, which needs no download"
            ) from error
        finally:
            socket.setdefaulttimeout(timeout)
