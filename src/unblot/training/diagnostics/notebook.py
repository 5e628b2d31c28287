"""Progress of a training in a notebook: a table of one row and the loss curves, replaced in place."""

import math
import sys
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from unblot.system.plots import COLOURS, chart, log_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 200  # of a curve, at most


def in_notebook() -> bool:
    """Whether this Python runs the cells of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


class NotebookDisplay:
    """One display in the cell that trains; `show` replaces its content."""

    def __init__(self) -> None:
        from IPython.display import HTML, display

        self.html = HTML
        self.handle: Any = display(HTML(""), display_id=True)

    def show(self, row: Mapping[str, str], curves: Mapping[str, Sequence[tuple[float, float]]], share: float) -> None:
        """row: headings and values of the table; curves: (step, loss) by name; share: of the training done, 0 to 1."""
        self.handle.update(self.html(html(row, curves, share)))


def html(row: Mapping[str, str], curves: Mapping[str, Sequence[tuple[float, float]]], share: float) -> str:
    """The display as HTML: a progress bar, a table of one row, and the curves on a logarithmic axis."""
    heads = "".join(f"<th>{escape(name)}</th>" for name in row)
    cells = "".join(f"<td>{escape(value)}</td>" for value in row.values())
    bar = f'<progress value="{share:.4f}" max="1" style="width:480px"></progress>'
    return f"{bar}<table><tr>{heads}</tr><tr>{cells}</tr></table>{_curves(curves)}"


def _curves(curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """A chart of the curves with two losses or more; "" where there is none."""
    usable = {name: [(x, y) for x, y in curve if y and 0 < y < math.inf] for name, curve in curves.items()}
    shown = {name: curve for name, curve in usable.items() if len(curve) > 1}
    if not shown:
        return ""

    def draw(axes: "Axes") -> None:
        losses = [y for curve in shown.values() for _, y in curve]
        for (name, curve), colour in zip(shown.items(), ("real", "samples", "training")):
            last = len(curve) - 1
            kept = sorted({round(i * last / (POINTS - 1)) for i in range(POINTS)})
            axes.plot(*zip(*(curve[i] for i in kept)), color=COLOURS[colour], label=name)
        log_axis(axes, "y", min(losses) / 1.05, max(losses) * 1.05)
        axes.legend(loc="upper right", ncols=3)

    return f'<div style="max-width: 480px">{chart(480, 200, "loss over training steps", draw)}</div>'
