"""What all figures share: their size, colours and grid, and how a figure is written to a file."""

import io
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from athanor.base.files import write_atomically

# the palette of Okabe & Ito 2008, which colour-blind people can tell apart
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")


def new_figure(title: str, panels: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side, drawn without a screen; its file is made by `save_figure`."""
    figure = Figure(figsize=(1 + 5.5 * panels, 4.2), dpi=120, layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = [figure.add_subplot(1, panels, number + 1) for number in range(panels)]
    for axis in axes:
        axis.set_prop_cycle(color=COLOURS)
        axis.grid(True, color="0.9", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, in one piece; gives the path. Folders are made where they are missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_atomically(path, picture.getvalue())
    return path
