"""Which picture files lie below a folder."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from athanor.base.errors import UserError, require
from athanor.data.sources.image_file import is_image

File = tuple[str, int, int]  # path below the root, size in bytes, modification time in ns


@dataclass
class Listing:
    """Lists the pictures below folders of `root`. Hidden files and folders are left out.

    Links to folders and out of `root` are refused, unless `follow_links`. No folder is listed twice, by whatever links:
    that would be a circle, or pictures that count twice, perhaps in train and in test.
    """

    root: Path
    follow_links: bool
    num_others: int = 0  # files that are not images by their suffix
    _entered: dict[tuple[int, int], str] = field(default_factory=dict)  # path by device and number of the folder

    def pictures(self, folder: Path) -> list[File]:
        """The pictures at any depth below `folder`, which is in `root`, sorted by their paths."""
        images, pending = [], [str(folder)]
        prefix = len(os.path.join(self.root, ""))
        while pending:
            path = pending.pop()
            self._enter(path)
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        pending.append(entry.path)
                    elif is_image(entry.name) and (entry.is_file() or entry.is_symlink()):
                        if entry.is_symlink():
                            self._judge_link(entry.path)
                        # of a link to nothing its own: it is listed, and then counts as a file that cannot be read
                        stat = entry.stat(follow_symlinks=entry.is_file())
                        images.append((entry.path[prefix:], stat.st_size, stat.st_mtime_ns))
                    else:
                        self.num_others += 1
        return sorted(images)

    def folders(self, folder: Path) -> tuple[str, ...]:
        """The names of the folders in `folder`, sorted."""
        if folder != self.root:
            self._judge_link(folder)
        return folder_names(folder)

    def _enter(self, folder: str) -> None:
        if folder != str(self.root):
            self._judge_link(folder)
        stat = os.stat(folder)
        first = self._entered.setdefault((stat.st_dev, stat.st_ino), folder)
        if first != folder:
            raise UserError(f"{folder} and {first} are one folder, by a link: a circle, or pictures that count twice")

    def _judge_link(self, path: str | Path) -> None:
        if self.follow_links or not os.path.islink(path):
            return
        if os.path.isdir(path) or not Path(path).resolve().is_relative_to(self.root.resolve()):
            raise UserError(
                f"{path} is a link to {os.path.realpath(path)}; links to folders or out of {self.root} are refused; "
                "data=image_folder data.follow_links=true follows them"
            )


def folder_names(folder: Path) -> tuple[str, ...]:
    """The names of the folders in `folder` that are not hidden, sorted."""
    with os.scandir(folder) as entries:
        return tuple(sorted(e.name for e in entries if e.is_dir() and not e.name.startswith(".")))


def expanded(paths: Iterable[str]) -> Iterator[str]:
    """These paths, and in place of each folder all pictures below it, sorted; UserError where it has none."""
    for path in paths:
        if os.path.isdir(path):
            files = Listing(Path(path), follow_links=True).pictures(Path(path))
            require(files, f"no images below the folder {path}")
            yield from (os.path.join(path, name) for name, *_ in files)
        else:
            yield path
