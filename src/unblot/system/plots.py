"""Charts made by matplotlib: as SVG, transparent, in the colours of the page around it; or as pixels, on white."""

import io
import re
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL import Image

COLOURS = {
    "ink": "#1d1f23",
    "faint": "#767c86",
    "line": "#c4c6ca",
    "samples": "#2f74c4",
    "real": "#8a8f98",
    "training": "#b06a10",
}
"""Colours by role, to draw with. In the SVG each is the CSS property of that name (`--ink`), or itself without one."""

UNWANTED = r'<!--.*?-->|<style.*?</style>|<clipPath.*?</clipPath>| clip-path="[^"]*"|\n *(?=<)'
"""Of matplotlib's SVG: comments, a style sheet that would hold for the whole page, references by URL, indentation."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "unblot",
    "font.size": 13,
    "font.sans-serif": ["DejaVu Sans"],
    "text.color": COLOURS["ink"],
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["faint"],
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": COLOURS["line"],
    "ytick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["faint"],
    "ytick.labelcolor": COLOURS["faint"],
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
}


def chart(width: int, height: int, label: str, draw: Callable[["Axes"], None]) -> str:
    """An <svg> of width x height CSS pixels, to stand in HTML. draw fills the axes; label says what is shown."""
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    file = _rendered(width, height, draw, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue().decode()
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(UNWANTED, "", body, flags=re.DOTALL)
    used = set(re.findall(r'"#([^"]+)"', body))
    body = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", body)  # else two charts' clash
    for name, colour in COLOURS.items():
        body = body.replace(colour, f"var(--{name}, {colour})")
    size = f'viewBox="0 0 {width} {height}" stroke-linejoin="round"'
    return f'<svg class="chart" {size} role="img" aria-label="{escape(label)}">{body.strip()}'


def chart_picture(width: int, height: int, draw: Callable[["Axes"], None]) -> "Image.Image":
    """The chart as a picture of width x height pixels, on white, to stand beside other pictures."""
    from PIL import Image

    return Image.open(_rendered(width, height, draw, format="png", dpi=72)).convert("RGB")


def _rendered(width: int, height: int, draw: Callable[["Axes"], None], **how: Any) -> io.BytesIO:
    """What matplotlib saves of a chart of width x height points. how: arguments of `savefig`.

    matplotlib is imported here, since few calls of the package need it; the state of pyplot is not touched.
    """
    import matplotlib
    from matplotlib.figure import Figure

    file = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the reader's own matplotlibrc says
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")  # in SVG, a point is a CSS pixel
        draw(figure.add_subplot())
        figure.savefig(file, **how)
    return file


def svg_file(width: int, height: int, label: str, draw: Callable[["Axes"], None]) -> str:
    """The chart as the text of an SVG file, on white."""
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    head, body = chart(width, height, label, draw).split(">", 1)
    return f'{head} {names}><rect width="{width}" height="{height}" fill="white"/>{body}\n'


def log_axis(axes: "Axes", which: str, low: float, high: float) -> None:
    """Makes the axis "x" or "y" logarithmic from low to high (both above 0), with plain numbers at its ticks."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high / low > 8 else MaxNLocator(5))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
