"""Pieces of the report page that are drawn: pictures as data, and small SVG charts that follow the page's colours."""

import base64
import io
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from unblot.data.output import as_display, grid, scatter
from unblot.data.values import ValueMap

SIDES = {"training": "real", "held_out": "drawn"}  # whose loss, and its colour


def image(picture: Image.Image, alt: str) -> str:
    """A picture as an <img> that holds its own data."""
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    size = f'width="{picture.width}" height="{picture.height}"'
    return f'<img alt="{escape(alt)}" {size} src="data:image/png;base64,{data}">'


def sheet(stored: np.ndarray, values: ValueMap, alt: str, extent: float) -> str:
    """Pictures (N, C, H, W) in a grid, or points in the plane as a plot of the square of ±extent."""
    if stored.shape[1:] == (2, 1, 1):
        return image(scatter(stored, size=512, extent=extent), alt)
    return image(grid(stored, values), alt)


def small(stored: np.ndarray, values: ValueMap, alt: str, side: int = 96) -> str:
    """One picture (C, H, W), reduced to `side` pixels where it is larger."""
    shown = Image.fromarray(as_display(stored[None], values)[0])
    shown.thumbnail((side, side))
    return image(shown, alt)


def whiskers(rows: Sequence[tuple[str, str, dict[str, Any]]]) -> str:
    """Values with their intervals on one axis: rows of (label, CSS class, figure), each with its number beside it."""
    ends = [v for _, _, f in rows for v in (f["value"], f["low"], f["high"]) if v is not None]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    span = (high - low) or 1.0

    def x(value: float) -> float:
        return 4 + 192 * (value - low) / span

    lines, needs = [], []
    for label, kind, figure in rows:
        name = f"<span>{escape(label)}</span>"
        if figure["value"] is None:
            needs.append(figure["needs"])
            continue
        if figure["low"] is None:
            lines.append(f'<div class="row">{name}<i></i><b>{figure["value"]:.3g}</b></div>')
            continue
        at, beside = x(figure["value"]), f" <small>{figure['low']:.3g} to {figure['high']:.3g}</small>"
        bar = f'<line x1="{x(figure["low"]):.1f}" x2="{x(figure["high"]):.1f}" y1="8" y2="8"/>'
        dot = f'<line class="dot" x1="{at:.1f}" x2="{at:.1f}" y1="2" y2="14"/>'
        axis = 'viewBox="0 0 200 16" preserveAspectRatio="none" aria-hidden="true"'
        svg = f'<svg class="{kind}" {axis}>{bar}{dot}</svg>'
        lines.append(f'<div class="row">{name}{svg}<b>{figure["value"]:.3g}{beside}</b></div>')
    missing = [f"<p>It {escape(line)}.</p>" for line in dict.fromkeys(needs)]
    return "".join(lines + missing)


def loss_chart(bins: Sequence[dict[str, float]]) -> str:
    """Training and held-out loss over the noise level, with bands of 95 %; loss on a logarithmic axis."""
    width, height, left, bottom, _ = frame = Frame(480, 270, 56, 44, 10)
    values = [b[k] for b in bins for k in ("training", "held_out")]
    low, high = np.log10(max(min(values), 1e-9) / 1.3), np.log10(max(values) * 1.3)
    xs = [left + 10 + (width - left - 20) * i / (len(bins) - 1) for i in range(len(bins))]
    y, parts = log_axis(frame, low, high)
    for key in ("training", "held_out"):
        upper = [f"{x:.1f},{y(b[key] + b[key + '_half']):.1f}" for x, b in zip(xs, bins)]
        lower = [f"{x:.1f},{y(b[key] - b[key + '_half']):.1f}" for x, b in zip(xs, bins)]
        line = " ".join(f"{x:.1f},{y(b[key]):.1f}" for x, b in zip(xs, bins))
        kind = "drawn" if key == "held_out" else "real"
        parts.append(f'<polygon class="band {kind}" points="{" ".join(upper + lower[::-1])}"/>')
        parts.append(f'<polyline class="curve {kind}" points="{line}"/>')
    for i in (0, len(bins) // 2, len(bins) - 1):
        anchor = ("start", "middle", "end")[(i > 0) + (i == len(bins) - 1)]
        ratio = f"{np.exp(bins[i]['noise']):.2g}"
        parts.append(f'<text x="{xs[i]:.1f}" y="{height - bottom + 18}" text-anchor="{anchor}">{ratio}</text>')
    label = "noise, as a multiple of the picture"
    parts.append(f'<text x="{(left + width) / 2}" y="{height - 6}" text-anchor="middle">{label}</text>')
    role = f'viewBox="0 0 {width} {height}" role="img" aria-label="loss by noise level"'
    return f'<svg class="chart" {role}>{"".join(parts)}</svg>'


def history_chart(history: Sequence[dict[str, Any]]) -> str:
    """Training and held-out loss over the steps of a run, on a logarithmic axis; "" where there are too few."""
    width, height, left, bottom, _ = frame = Frame(480, 220, 56, 44, 10)
    curves = {kind: [(h["step"], h[side]) for h in history if h[side]] for side, kind in SIDES.items()}
    curves = {kind: curve for kind, curve in curves.items() if len(curve) > 2}
    if not curves:
        return ""
    every = np.array([point for curve in curves.values() for point in curve], float)
    low, high = np.log10(every[:, 1].min() / 1.1), np.log10(every[:, 1].max() * 1.1)
    last = max(1.0, every[:, 0].max())

    def x(step: float) -> float:
        return left + 10 + (width - left - 20) * step / last

    y, parts = log_axis(frame, low, high)
    for kind, curve in curves.items():
        points = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in curve)
        parts.append(f'<polyline class="curve {kind}" points="{points}"/>')
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        at = f'x="{x(share * last):.1f}" y="{height - bottom + 18}" text-anchor="{anchor}"'
        parts.append(f"<text {at}>{share * last:.0f}</text>")
    parts.append(f'<text x="{(left + width) / 2}" y="{height - 6}" text-anchor="middle">steps</text>')
    role = f'viewBox="0 0 {width} {height}" role="img" aria-label="loss while it trained"'
    return f'<svg class="chart" {role}>{"".join(parts)}</svg>'


def share_bars(classes: Sequence[str], drawn: Sequence[int], real: Sequence[int], most: int = 40) -> str:
    """The share of each class among drawn and among training pictures; of many classes those that differ most."""
    a, b = np.array(drawn) / max(1, sum(drawn)), np.array(real) / max(1, sum(real))
    chosen = np.sort(np.argsort(-np.abs(a - b), kind="stable")[:most])
    longest = max(float(a.max()), float(b.max()), 1e-9)
    rows = []
    for i in chosen:
        bars = "".join(
            f'<div class="bar {kind}" style="width:{100 * share / longest:.1f}%"></div>'
            for kind, share in (("drawn", a[i]), ("real", b[i]))
        )
        rows.append(
            f'<div class="share"><span>{escape(str(classes[i]))}</span><div>{bars}</div>'
            f"<b>{a[i]:.1%} <small>real {b[i]:.1%}</small></b></div>"
        )
    return f'<div class="shares">{"".join(rows)}</div>'


class Frame(NamedTuple):
    """The size of a chart, and the room left of its plot, below it and above it, in SVG units."""

    width: int
    height: int
    left: int
    bottom: int
    top: int


def log_axis(frame: Frame, low: float, high: float) -> tuple[Callable[[float], float], list[str]]:
    """The height of a value in a chart whose logarithmic axis goes from 10**low to 10**high, and the axis itself.

    Values beyond are held at its ends. The axis: SVG elements, a line across the plot and a number for each tick.
    """
    width, height, left, bottom, top = frame

    def y(value: float) -> float:
        share = (np.log10(max(value, 10**low)) - low) / (high - low)
        return float(height - bottom - (height - bottom - top) * min(share, 1.0))

    lines = []
    for tick in log_ticks(low, high):
        lines.append(f'<line class="grid" x1="{left}" x2="{width}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        lines.append(f'<text x="{left - 6}" y="{y(tick) + 5:.1f}" text-anchor="end">{tick:g}</text>')
    return y, lines


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between 10**low and 10**high: about as many as fit."""
    for steps in ((1, 2, 3, 4, 5, 6, 8), (1, 2, 5), (1,)):
        ticks = [m * 10.0**e for e in range(int(np.floor(low)), int(np.ceil(high)) + 1) for m in steps]
        inside = [t for t in ticks if 10**low <= t <= 10**high]
        if len(inside) <= 6:
            break
    return inside
