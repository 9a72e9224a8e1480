"""Tables in CSV files."""

import csv
import logging
import os
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from athanor.base.errors import UserError, nearest, require
from athanor.data.sources.listing import File
from athanor.data.sources.pictures import PARTS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CsvFile:
    """The columns of a CSV file with a header, by their names; all cells are texts, without spaces around them."""

    path: Path
    columns: dict[str, list[str]]

    @classmethod
    def read(cls, path: str | Path, setting: str) -> "CsvFile":
        """The file that `setting` names; UserError where it cannot be read, or its rows have another length."""
        path = Path(path).expanduser().absolute()
        require(path.is_file(), f"{setting}={path} is not a file; it must be a CSV file with a header")
        try:
            with path.open(encoding="utf-8-sig", newline="") as lines:  # -sig: spreadsheets begin with a mark
                delimiter = max(",;\t", key=lines.readline().count)  # in the header
                lines.seek(0)
                rows = list(csv.reader(lines, strict=True, delimiter=delimiter))
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path} is not a CSV file in UTF-8: {error}") from error
        rows = [[cell.strip() for cell in row] for row in rows if row]  # a blank line is no row
        require(len(rows) > 1, f"{path} has no rows; it needs a header and a row for each picture")
        header, *rows = rows
        odd = [number for number, row in enumerate(rows, 1) if len(row) != len(header)]
        if odd:
            raise UserError(
                f"{path}: {len(odd):,} rows have more or fewer cells than the header; the first is row {odd[0]}"
            )
        if twice := repeated(header):
            raise UserError(f"{path}: more than one column is called {', '.join(twice)}")
        return cls(path, dict(zip(header, map(list, zip(*rows, strict=True)), strict=True)))

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def without(self, rows: set[int]) -> "CsvFile":
        """The other rows."""
        kept = [i for i in range(len(self)) if i not in rows]
        return CsvFile(self.path, {name: [cells[i] for i in kept] for name, cells in self.columns.items()})

    def joined(self, other: "CsvFile", names: list[str]) -> "CsvFile":
        """These columns, with the rows of another file below."""
        return CsvFile(self.path, {name: self.columns[name] + other.columns[name] for name in names})

    def cells(self, column: str, setting: str) -> list[str]:
        """The column that `setting` names; UserError where there is none of this name, or cells are empty."""
        if column not in self.columns:
            raise UserError(f"{setting}={column}: {self.path} has no such column; {nearest(column, self.columns)}")
        cells = self.columns[column]
        self.refuse([f"in row {i}" for i, cell in enumerate(cells, 1) if not cell], f"empty cells in column {column}")
        return cells

    def parts(self, column: str, setting: str) -> Tensor:
        """The number in PARTS of each row, int64 [rows], from the words train, val and test."""
        cells = self.cells(column, setting)
        self.refuse([cell for cell in cells if cell not in PARTS], f"cells of {column} are not train, val or test")
        return torch.tensor([PARTS.index(cell) for cell in cells])

    def rows_of(self, files: list[File], root: Path, column: str, setting: str) -> Tensor:
        """The number of each picture's row, int64 [files]; -1 of a picture that has none, which is said.

        A row names a picture by its path below `root`, with or without the suffix. Raises UserError where a row names
        no picture, or two rows the same.
        """
        names = self.cells(column, setting)
        places = {path: i for i, (path, *_) in enumerate(files)}
        stems = {os.path.splitext(path)[0]: i for path, i in places.items()}
        stems = {} if len(stems) < len(files) else stems  # a.png and a.jpg: no name without suffix is clear
        keys = [os.path.normpath(os.path.relpath(name, root) if os.path.isabs(name) else name) for name in names]
        numbers = [places.get(key, stems.get(key)) for key in keys]
        missing = [name for name, place in zip(names, numbers, strict=True) if place is None]
        self.refuse(missing, f"rows name no picture below {root}")
        self.refuse([files[place][0] for place in repeated(numbers)], "pictures have more than one row")
        rows = torch.full([len(files)], -1)
        rows[numbers] = torch.arange(len(numbers))
        if (rows < 0).any():
            left = (rows < 0).nonzero().flatten().tolist()
            log.warning("%s pictures have no row in %s and are left out; the first is %s",
                        f"{len(left):,}", self.path, files[left[0]][0])  # fmt: skip
        return rows

    def refuse(self, cases: list[str], what: str) -> None:
        """Raise UserError where there are such cases, with their number and the first."""
        if cases:
            raise UserError(f"{self.path}: {len(cases):,} {what}; the first is {cases[0]}")


def read_table(path: str | Path, setting: str) -> CsvFile:
    """A CSV file, or with pandas a Parquet file, whose cells become texts; UserError as of CsvFile.read."""
    if Path(path).suffix.lower() != ".parquet":
        return CsvFile.read(path, setting)
    path = Path(path).expanduser().absolute()
    require(path.is_file(), f"{setting}={path} is not a file")
    try:
        import pandas

        frame = pandas.read_parquet(path)
    except ImportError as error:
        raise UserError(f"{setting}={path}: Parquet needs pandas: pip install pandas pyarrow, or use CSV") from error
    columns = {str(name): ["" if pandas.isna(cell) else str(cell) for cell in frame[name]] for name in frame.columns}
    return CsvFile(path, columns)


def repeated(values: Iterable[Hashable]) -> list:
    """The values that occur more than once, in the order of their first places."""
    return [value for value, count in Counter(values).items() if count > 1]
