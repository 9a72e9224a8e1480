"""Download into a temporary folder beside the target, so that a broken download leaves nothing half done."""

import http.client
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

# what urllib and torchvision's checksums raise
_FAILED = (OSError, RuntimeError, http.client.HTTPException)


def download(fetch: Callable[[Path], None], move: Callable[[Path], None], data_dir: Path, help_text: str) -> None:
    """Call `fetch` with a temporary folder in `data_dir`, then `move` with it; a failed fetch says `help_text`."""
    with tempfile.TemporaryDirectory(dir=data_dir, prefix=".download-") as folder:
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(30)  # seconds; torchvision sets none, and a silent firewall would hold it for minutes
        try:
            fetch(Path(folder))
        except _FAILED as error:
            reason = " ".join(str(error).split())[:200]
            raise FileNotFoundError(f"{help_text} ({type(error).__name__}: {reason})") from error
        finally:
            socket.setdefaulttimeout(timeout)
        move(Path(folder))
