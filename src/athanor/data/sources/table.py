"""Tables: CSV files, and Parquet where pandas is installed. Each row is an input, a vector of float32."""

import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from athanor.base.errors import UserError, nearest, require
from athanor.data.sources.csv_file import CsvFile, read_table
from athanor.data.sources.folder_labels import Kind, class_indices, number, targets_of
from athanor.data.sources.source import Source
from athanor.data.split import split

log = logging.getLogger(__name__)

MISSING = {"", "na", "n/a", "nan", "null"}  # cells in small letters that hold no value
MOSTLY = 0.9  # share of numbers above which the rest of a column counts as mistakes, and not as texts
MOST_CATEGORIES = 1000  # of a column: one-hot, each is a number of an input


def table(
    file: str | Path,
    target_columns: str | list[str],
    target_kind: Kind,
    columns: list[str] | None,
    leave_out: list[str],
    categorical_columns: list[str],
    missing: Literal["mean", "drop"] | None,
    test_file: str | Path | None,
    test_fraction: float,
    group_column: str | None,
    time_column: str | None,
    split_seed: int,
) -> Source:
    """The rows of `file`, with those of `test_file` or a part of its own as the test set.

    target_columns, target_kind: as in `folder_labels.targets_of`. columns: of the inputs; None, for all that have no
    other use and are not in `leave_out`. Columns of texts, and categorical_columns, become one number for each category
    of the train split, 1 where a row has it; other categories are 0 in all of these. missing: what is done with rows
    that have empty cells: refused (None), left out (drop), or filled with the mean of the train split (mean), where a
    missing category is 0 in all numbers. group_column, time_column: see Source; the test part is drawn by them too.
    Raises UserError for wrong settings, files and cells.
    """
    require(0 < test_fraction < 1, f"data.test_fraction={test_fraction}; use a number above 0 and below 1, as 0.2")
    require(missing in (None, "mean", "drop"), f"data.missing={missing}; use mean, drop, or null to refuse empty cells")
    rows = read_table(file, "data.file")
    require_columns(rows, {"data.leave_out": leave_out, "data.categorical_columns": categorical_columns})
    roles = Roles.of(rows, target_columns, columns, leave_out, group_column, time_column)
    rows = roles.complete(rows, missing)
    count = len(rows)
    if test_file is not None:
        rows = rows.joined(roles.complete(read_table(test_file, "data.test_file"), missing), list(roles.used))
    parts = split_rows(rows, roles, target_kind, None if test_file is None else count, test_fraction, split_seed)
    made = [Column.read(rows, name, name in categorical_columns) for name in roles.inputs]
    train, test = parts.train, parts.test
    origin = f"table {rows.path}: {len(train):,} train and {len(test):,} test rows, {len(made)} columns of inputs"
    drawn = f"split with test_fraction={test_fraction}, split_seed={split_seed}"
    origin = f"{origin}, {'a test file of its own' if test_file else drawn}"
    fit = partial(fitted, made, parts, origin, missing == "mean")
    return replace(fit(torch.arange(len(train))), fit=fit)


def fitted(made: "list[Column]", parts: "Parts", origin: str, fills: bool, index: Tensor) -> Source:
    """The source, whose means and categories are those of the training rows `index`."""
    train, test = parts.train, parts.test
    described = [column.described(train[index], fills) for column in made]
    values = torch.cat([column.encoded(known) for column, known in zip(made, described, strict=True)], 1)
    arrays = (values[train], parts.targets[train], values[test], parts.targets[test])
    order = {"groups": parts.groups, "times": parts.times}
    order = {name: None if each is None else each[train] for name, each in order.items()}
    return Source(*arrays, parts.class_names, origin, columns=described, **order)


@dataclass(frozen=True)
class Roles:
    """What the columns of a table are for, by their names."""

    inputs: list[str]
    targets: list[str]
    group: str | None
    time: str | None

    @classmethod
    def of(
        cls,
        rows: CsvFile,
        targets: str | list[str],
        columns: list[str] | None,
        leave_out: list[str],
        group: str | None,
        time: str | None,
    ) -> "Roles":
        """As the settings say; `columns` None: all that have no other use are inputs."""
        targets = [targets] if isinstance(targets, str) else targets
        others = {*targets, *leave_out, group, time}
        inputs = [name for name in rows.columns if name not in others] if columns is None else columns
        require(inputs, f"{rows.path} has no columns of inputs beside those that have another use; add one")
        return cls(inputs, targets, group, time)

    @property
    def used(self) -> dict[str, None]:
        """All columns that are read, each once."""
        return dict.fromkeys([*self.inputs, *self.targets, *(name for name in (self.group, self.time) if name)])

    def complete(self, rows: CsvFile, missing: str | None) -> CsvFile:
        """The rows, without those that are left out; UserError where a column does not exist, or cells are missing."""
        named = {"data.columns": self.inputs, "data.target_columns": self.targets}
        named |= {"data.group_column": [self.group] if self.group else []}
        require_columns(rows, named | {"data.time_column": [self.time] if self.time else []})
        if missing == "drop":
            gaps = {i for name in self.used for i, cell in enumerate(rows.columns[name]) if is_missing(cell)}
            if gaps:
                log.info("%s: %s of %s rows have missing cells and are left out", rows.path, len(gaps), len(rows))
            return rows.without(gaps)
        filled = self.inputs if missing == "mean" else []
        advice = "type data.missing=drop to leave these rows out, or data.missing=mean to fill those of inputs"
        refuse_missing(rows, [name for name in self.used if name not in filled], advice)
        return rows


@dataclass(frozen=True)
class Parts:
    """Targets, groups and times of all rows, and which rows are for training and for the test, int64."""

    targets: Tensor
    class_names: tuple[str, ...]
    groups: Tensor | None
    times: Tensor | None
    train: Tensor
    test: Tensor


def split_rows(rows: CsvFile, roles: Roles, kind: Kind, num_train: int | None, fraction: float, seed: int) -> Parts:
    """num_train: the rows after so many are the test set; None draws it."""
    targets, class_names = targets_of(rows, roles.targets, kind)
    groups = class_indices(rows.columns[roles.group])[0] if roles.group else None
    times = times_of(rows, roles.time) if roles.time else None
    if num_train is None:
        train, test = split(targets, float(fraction), seed, groups, times)
    else:
        train, test = torch.arange(num_train), torch.arange(num_train, len(rows))
    return Parts(targets, class_names, groups, times, train, test)


@dataclass(frozen=True)
class Column:
    """A column of inputs: numbers, or of texts their places in `texts`; nan where a cell is missing."""

    name: str
    values: Tensor  # float64 [rows]
    texts: tuple[str, ...] | None

    @classmethod
    def read(cls, rows: CsvFile, name: str, is_categorical: bool = False) -> "Column":
        """Raises UserError where a few cells of a column of numbers are none, or nearly all texts differ."""
        cells = rows.columns[name]
        is_there = torch.tensor([not is_missing(cell) for cell in cells])
        values = torch.tensor([number(cell) for cell in cells], dtype=torch.float64)
        is_text = is_there & ~values.isfinite()
        if not (is_categorical or is_text.any()):
            return cls(name, values, None)
        if not is_categorical and is_text.sum() < (1 - MOSTLY) * is_there.sum():
            wrong = is_text.nonzero().flatten().tolist()
            raise UserError(
                f"{rows.path}: {len(wrong):,} cells of {name} are no numbers, the first is {cells[wrong[0]]!r} in row "
                f"{wrong[0] + 1}; correct them, or type data.categorical_columns=[{name}] where numbers are categories"
            )
        texts = tuple(sorted({cell for cell in cells if not is_missing(cell)}))
        if len(texts) > min(MOST_CATEGORIES, max(50, len(cells) // 2)):
            raise UserError(
                f"{rows.path}: column {name} has {len(texts):,} different texts in {len(cells):,} rows, too many for "
                f"categories; leave it out: data.leave_out=[{name}]"
            )
        places = {text: float(place) for place, text in enumerate(texts)}
        return cls(name, torch.tensor([places.get(cell, torch.nan) for cell in cells], dtype=torch.float64), texts)

    def described(self, index: Tensor, fills: bool) -> dict[str, Any]:
        """What new rows are encoded by, of the rows `index`, as plain data."""
        known = self.values[index]
        known = known[~known.isnan()]
        if self.texts is not None:
            return {"name": self.name, "mean": None, "categories": [self.texts[int(i)] for i in known.unique()]}
        require(len(known), f"column {self.name} has no number in any training row; leave it out: data.leave_out")
        return {"name": self.name, "mean": known.mean().item() if fills else None, "categories": None}

    def encoded(self, described: dict[str, Any]) -> Tensor:
        """float32 [rows, 1] of numbers, [rows, categories] of categories."""
        if described["categories"] is None:
            mean = torch.nan if described["mean"] is None else described["mean"]
            return self.values.nan_to_num(mean)[:, None].float()
        places = {text: i for i, text in enumerate(described["categories"])}
        own = torch.tensor([places.get(text, -1) for text in self.texts or ()] + [-1])
        place = own[self.values.nan_to_num(len(own) - 1).long()]
        return (place[:, None] == torch.arange(len(places))).float()


def encoded(rows: CsvFile, described: list[dict[str, Any]]) -> Tensor:
    """Rows of a new file as float32 [N, D], as those were encoded that a model was trained on.

    Raises UserError where it lacks a column, or a number that nothing fills.
    """
    require_columns(rows, {"the columns of the model": [known["name"] for known in described]})
    needed = [known["name"] for known in described if known["categories"] is None and known["mean"] is None]
    refuse_missing(rows, needed, "the model was trained without such rows (data.missing=mean fills them)")
    parts = []
    for known in described:
        column = Column.read(rows, known["name"], known["categories"] is not None)
        if known["categories"] is None and column.texts is not None:
            raise UserError(f"{rows.path}: column {known['name']} has texts, and the model was trained on numbers")
        parts.append(column.encoded(known))
    return torch.cat(parts, 1)


def require_columns(rows: CsvFile, named: dict[str, list[str]]) -> None:
    """Raise UserError where a column does not exist. named: columns by the settings that name them."""
    for setting, names in named.items():
        for name in names:
            if name not in rows.columns:
                raise UserError(f"{setting}: {rows.path} has no column {name}; {nearest(name, rows.columns)}")


def refuse_missing(rows: CsvFile, names: list[str], advice: str) -> None:
    """Raise UserError that tells each of these columns with missing cells."""
    gaps = {name: [i for i, cell in enumerate(rows.columns[name], 1) if is_missing(cell)] for name in names}
    if told := [f"{name} {len(places):,} (first in row {places[0]})" for name, places in gaps.items() if places]:
        raise UserError(f"{rows.path} has missing cells: {', '.join(told[:5])}\n  {advice}")


def is_missing(cell: str) -> bool:
    return cell.lower() in MISSING


def times_of(rows: CsvFile, column: str) -> Tensor:
    """Times of the rows, [N]: numbers, or dates such as 2024-01-31 or 2024-01-31T12:00."""
    cells = rows.columns[column]
    numbers = torch.tensor([number(cell) for cell in cells], dtype=torch.float64)
    if numbers.isfinite().all():
        return numbers
    try:
        return torch.from_numpy(np.array(cells, dtype="datetime64[s]").astype(np.int64))
    except ValueError as error:
        raise UserError(
            f"{rows.path}: data.time_column={column}: {error}; use numbers, or dates as 2024-01-31"
        ) from None
