"""A person's own pictures, with classes, attributes or numbers in a CSV file."""

import logging
import math
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from athanor.base.errors import require
from athanor.data.sources.csv_file import CsvFile
from athanor.data.sources.decode import Decoding
from athanor.data.sources.listing import Listing
from athanor.data.sources.pictures import Pictures, source_of
from athanor.data.sources.source import Source

log = logging.getLogger(__name__)

Kind = Literal["auto", "classes", "attributes", "numbers"]


def folder_labels(
    root: str | Path,
    labels: str | Path,
    file_column: str,
    target_columns: list[str] | None,
    target_kind: Kind,
    split_column: str | None,
    group_column: str | None,
    test_fraction: float,
    image_size: int | None,
    mode: str,
    skip_broken: bool,
    follow_links: bool,
    resize: Literal["once", "each"],
    resize_area: list[float] | None,
    resize_workers: int,
    data_dir: str | Path,
    split_seed: int,
) -> Source:
    """The pictures below `root` that have a row in the CSV file `labels`, and its cells as their targets.

    file_column: paths below `root`, with or without suffix. target_columns: None: all that have no other use.
    target_kind: see `targets_of`. split_column: train, val, test; without rows for test, a part of train is. Pictures
    with one value in group_column, as of a patient, are not split. The other arguments are those of image_folder.
    Raises UserError for rows without a picture, pictures with two rows, and empty or wrong cells.
    """
    decoding = Decoding(mode, image_size, skip_broken, resize, resize_area, resize_workers)
    root = Path(root).expanduser().absolute()
    require(root.is_dir(), f"data.root={root} is not a folder; it must hold the pictures that data.labels names")
    require(files := Listing(root, follow_links).pictures(root), f"no images below data.root={root}")
    table = CsvFile.read(labels, "data.labels")
    rows = table.rows_of(files, root, file_column, "data.file_column")
    used = (file_column, split_column, group_column)
    columns = target_columns or [name for name in table.columns if name not in used]
    require(columns, f"{table.path} has no columns but {file_column}; add one of labels")
    targets, names = targets_of(table, columns, target_kind)
    parts = torch.zeros(len(targets)).long() if split_column is None else table.parts(split_column, "data.split_column")
    groups = None if group_column is None else class_indices(table.cells(group_column, "data.group_column"))[0][rows]
    pictures = Pictures(root, files, targets[rows], parts[rows].where(rows >= 0, -1), names, groups)
    return source_of(pictures, decoding, test_fraction, split_seed, data_dir)


def targets_of(table: CsvFile, columns: list[str], kind: Kind) -> tuple[Tensor, tuple[str, ...]]:
    """The targets of the rows, and the names of the classes, or of the columns.

    classes: texts or integers in one column, int64 [N]. attributes: 0 and 1, or -1 and 1, int64 [N, columns] of 0
    and 1. numbers: float32 [N, columns]. auto: one column is classes, unless all of it are numbers and some have a
    fraction; several are attributes where they have nothing but 0 and 1, or -1 and 1, else numbers.
    """
    cells = [table.cells(column, "data.target_columns") for column in columns]
    values = torch.tensor([[number(cell) for cell in column] for column in cells], dtype=torch.float64).T
    is_binary = ((values == 0) | (values == 1)).all() or ((values == -1) | (values == 1)).all()
    if kind == "auto" and len(columns) == 1:
        kind = "classes" if values.isnan().any() or (values == values.round()).all() else "numbers"
        if kind == "classes" and not values.isnan().any():
            log.info("%s: the integers in %s are classes; data.target_kind=numbers for task=regression",
                     table.path, columns[0])  # fmt: skip
    elif kind == "auto":
        kind = "attributes" if is_binary else "numbers"
    if kind == "classes":
        advice = "type data.target_columns=[<one of them>]"
        require(
            len(columns) == 1, f"{table.path}: classes are one column, and there are {', '.join(columns)}; {advice}"
        )
        return class_indices(cells[0])
    for column, texts, finite in zip(columns, cells, values.T.isfinite().tolist(), strict=True):
        wrong = [text for text, is_right in zip(texts, finite, strict=True) if not is_right]
        table.refuse(wrong, f"cells of {column} are not numbers (data.target_columns chooses columns)")
    if kind == "numbers":
        return values.float().contiguous(), tuple(columns)
    require(is_binary, f"{table.path}: attributes are 0 and 1, or -1 and 1; {', '.join(columns)} have other cells")
    return (values > 0).long().contiguous(), tuple(columns)


def class_indices(cells: list[str]) -> tuple[Tensor, tuple[str, ...]]:
    """int64 [N], and the names of the classes: in the order of numbers if all are integers, else of texts."""
    are_whole = all(number(cell).is_integer() for cell in set(cells))
    names = sorted(set(cells), key=float if are_whole else str)
    places = {name: i for i, name in enumerate(names)}
    return torch.tensor([places[cell] for cell in cells]), tuple(names)


def number(cell: str) -> float:
    """The number that a cell is, or nan."""
    try:
        return float(cell)
    except ValueError:
        return math.nan
