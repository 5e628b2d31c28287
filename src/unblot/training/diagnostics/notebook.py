"""How far a run is, in a notebook: a small table with a curve that is drawn anew in its place."""

import sys
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

POINTS = 200  # of a curve


def in_notebook() -> bool:
    """Whether this Python serves the cells of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


class NotebookDisplay:
    """One display in the cell that trains; `show` replaces what it shows."""

    def __init__(self) -> None:
        from IPython.display import HTML, display

        self.html = HTML
        self.handle: Any = display(HTML(""), display_id=True)

    def show(self, row: Mapping[str, str], curves: Mapping[str, Sequence[tuple[float, float]]], share: float) -> None:
        """row: what stands in the table; curves: (step, loss) by name; share: of the run that is done."""
        self.handle.update(self.html(html(row, curves, share)))


def html(row: Mapping[str, str], curves: Mapping[str, Sequence[tuple[float, float]]], share: float) -> str:
    """The display as HTML: a bar, a table of one row, and the curves on a logarithmic axis."""
    heads = "".join(f"<th>{escape(name)}</th>" for name in row)
    cells = "".join(f"<td>{escape(value)}</td>" for value in row.values())
    bar = f'<progress value="{share:.4f}" max="1" style="width:480px"></progress>'
    return f"{bar}<table><tr>{heads}</tr><tr>{cells}</tr></table>{_sparkline(curves)}"


def _sparkline(curves: Mapping[str, Sequence[tuple[float, float]]], width: int = 480, height: int = 120) -> str:
    import numpy as np

    shown = {}
    for name, curve in curves.items():
        points = np.array([(x, y) for x, y in curve if y and y > 0], float).reshape(-1, 2)
        if len(points) > 1:
            keep = np.linspace(0, len(points) - 1, min(POINTS, len(points))).round().astype(int)
            shown[name] = np.stack([points[keep, 0], np.log(points[keep, 1])], 1)
    if not shown:
        return ""
    every = np.concatenate(list(shown.values()))
    low, high = every.min(0), every.max(0)
    span = np.maximum(high - low, 1e-9)
    parts = []
    for (name, points), colour in zip(shown.items(), ("#9a9a9a", "#1c3e6e", "#b4502d")):
        xy = (points - low) / span * (width - 8, -(height - 28)) + (4, height - 8)
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in xy)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{line}"/>')
        at = 4 + 120 * list(shown).index(name)
        parts.append(f'<text x="{at}" y="12" font-size="12" fill="{colour}">{escape(name)}</text>')
    return f'<svg width="{width}" height="{height}">{"".join(parts)}</svg>'
