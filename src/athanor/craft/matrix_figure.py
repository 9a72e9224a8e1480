"""A matrix as a heat map and as a table, such as the confusion matrix of classes."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

from torch import Tensor

from athanor.base.files import write_csv
from athanor.craft.figure import new_figure, save_figure

MOST_NAMES = 40  # on an axis
MOST_NUMBERS = 400  # in the cells


def save_matrix(matrix: Tensor, names: Sequence[str], title: str, path: Path) -> None:
    """Draw a matrix [R, C] into the file `path`, a PNG, and write its numbers beside it as CSV.

    names: of the classes; rows and columns of another number are named by numbers. Where both are classes, rows are
    those of the targets and columns those of the predictions, as in the confusion matrices of torchmetrics.
    """
    rows, columns = (names if len(names) == size else [str(i) for i in range(size)] for size in matrix.shape)
    figure, [axis] = new_figure(title)
    figure.set_size_inches(5.5, 4.6)
    axis.grid(False)
    figure.colorbar(axis.imshow(matrix.numpy(), cmap="Blues"))
    if rows is columns is names:
        axis.set(ylabel="target", xlabel="prediction")
    if len(rows) <= MOST_NAMES:
        axis.set_yticks(range(len(rows)), rows)
    if len(columns) <= MOST_NAMES:
        axis.set_xticks(range(len(columns)), columns, rotation=90)
    middle = (matrix.min() + matrix.max()) / 2
    for y, x in product(range(len(rows)), range(len(columns))) if matrix.numel() <= MOST_NUMBERS else ():
        colour = "white" if matrix[y, x] > middle else "black"
        axis.text(x, y, f"{matrix[y, x].item():.4g}", ha="center", va="center", fontsize=7, color=colour)
    save_figure(figure, path)
    named = zip(rows, matrix.tolist(), strict=True)
    write_csv(path.with_suffix(".csv"), [{"": row, **dict(zip(columns, cells, strict=True))} for row, cells in named])
