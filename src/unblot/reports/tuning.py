"""The page of a tuning: distance to real pictures over evaluations, as a chart and as a table."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from unblot.reports.charts import Frame, log_axis
from unblot.reports.style import STYLE
from unblot.sampling.settings import (
    QUALITIES,
    Candidate,
    choose,
    describe_guidance,
    describe_sampler,
    front,
    levels,
    short,
)
from unblot.sampling.solvers import SOLVERS

MARKS = """
rect.mark { fill: var(--drawn); stroke: var(--drawn); stroke-width: 2; }
rect.guided { fill: var(--card); }
circle.other { fill: var(--real); opacity: .5; }
.floor { stroke: var(--real); stroke-dasharray: 5 5; }
.chart text.mark { fill: var(--ink); }
td:nth-child(2) { white-space: nowrap; }
tr:last-child > * { font-weight: 400; }
tr.chosen > * { font-weight: 600; }
"""


def front_page(run: str, about: Mapping[str, Any], candidates: Sequence[Candidate], others: Sequence[Candidate]) -> str:
    """The whole page. trials: the best for each number of evaluations; others: what was tried on fewer pictures."""
    chosen = {quality: choose(candidates, quality) for quality in QUALITIES}
    floor = "" if about["floor"] is None else f" Dashed: as many real pictures in their place, {about['floor']:.3g}."
    text = (
        f"Fréchet distance of {about['pictures']:,} drawn pictures to {about['reference']}, seen in"
        f" {about['features']} features, over the network calls that a picture takes; a guided estimate takes two."
        " Less is better. Hollow: guided. The bars are"
        f" 95 % of how far each lies above the best by chance alone.{floor} Small dots: other ways, on fewer pictures,"
        " which makes every distance greater."
    )
    rows = []
    for t in sorted(candidates, key=lambda t: (t.nfe, t.figure)):
        qualities = ", ".join(quality for quality, found in chosen.items() if found == t)
        cells = (
            str(t.nfe),
            f"{t.figure:.4g} ± {2 * t.spread:.2g}",
            qualities,
            short(SOLVERS, t.sampler.solver, "solver"),
            describe_guidance(t.sampler),
            levels(t.sampler),
        )
        kind = ' class="chosen"' if qualities else ""
        rows.append(f"<tr{kind}>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    names = "calls", "distance", "quality", "solver", "guidance", "levels (sigma/alpha)"
    head = "".join(f"<th>{name}</th>" for name in names)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(run)}: tuning</title><style>{STYLE}{MARKS}</style></head>\n"
        f"<body><main><h1>{escape(run)}: how it samples best</h1><p>{escape(text)}</p>"
        f'<div class="card">{chart(candidates, others, about["floor"], chosen)}</div>'
        f'<div class="card"><table><tr>{head}</tr>{"".join(rows)}</table></div></main></body></html>\n'
    )


def table(about: Mapping[str, Any], candidates: Sequence[Candidate]) -> str:
    """The same in text, for the terminal."""
    floor = "" if about["floor"] is None else f"; as many real ones: {about['floor']:.3g}"
    lines = [
        f"Fréchet distance ({about['features']} features) of {about['pictures']} drawn pictures to {about['reference']}"
        f"{floor}",
        "calls  distance            by chance  setting",
    ]
    chosen = {quality: choose(candidates, quality) for quality in QUALITIES}
    for t in sorted(candidates, key=lambda t: (t.nfe, t.figure)):
        words = ", ".join(quality for quality, found in chosen.items() if found == t)
        figure, chance = f"{t.figure:.4g}", f"± {2 * t.spread:.2g}"
        lines.append(f"{t.nfe:5d}  {figure:<8}{words:<18}  {chance:<9}  {describe_sampler(t.sampler)}")
    return "\n".join(lines)


def chart(
    candidates: Sequence[Candidate], others: Sequence[Candidate], floor: float | None, chosen: Mapping[str, Candidate]
) -> str:
    """Distance over evaluations, both on logarithmic axes; the line is the front, what nothing beats."""
    width, height, left, bottom, _ = frame = Frame(640, 340, 60, 46, 26)
    top_figure = 1.3 * max(t.figure for t in candidates)
    fewest, most = (f(t.nfe for t in candidates) for f in (min, max))
    shown = [t for t in others if t.figure <= 2 * top_figure and fewest <= t.nfe <= most]
    figures = [t.figure for t in (*candidates, *shown)] + ([floor] if floor else [])
    low, high = np.log10(max(min(figures), 1e-6) / 1.2), np.log10(max(figures) * 1.1)
    first, last = np.log(fewest), np.log(most)

    def x(nfe: float) -> float:
        share = (np.log(nfe) - first) / max(last - first, 1e-9)
        return float(left + 20 + (width - left - 40) * share)

    y, parts = log_axis(frame, low, high)
    beyond = 0.0
    for calls in sorted({t.nfe for t in candidates}):
        if x(calls) > beyond:  # else its number would touch the last one
            parts.append(f'<text x="{x(calls):.1f}" y="{height - bottom + 20}" text-anchor="middle">{calls}</text>')
            beyond = x(calls) + 22
    if floor:
        parts.append(f'<line class="floor" x1="{left}" x2="{width}" y1="{y(floor):.1f}" y2="{y(floor):.1f}"/>')
    parts += [f'<circle class="other" cx="{x(t.nfe):.1f}" cy="{y(t.figure):.1f}" r="3"/>' for t in shown]
    line = " ".join(f"{x(t.nfe):.1f},{y(t.figure):.1f}" for t in front(candidates))
    parts.append(f'<g class="drawn"><polyline class="curve" points="{line}"/>')
    for t in candidates:
        at, ends = x(t.nfe), [y(t.figure + sign * 1.96 * t.spread) for sign in (-1, 1)]
        parts.append(f'<line class="curve" x1="{at:.1f}" x2="{at:.1f}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}"/>')
        kind = "mark guided" if t.sampler.guided else "mark"
        parts.append(f'<rect class="{kind}" x="{at - 4:.1f}" y="{y(t.figure) - 4:.1f}" width="8" height="8"/>')
    parts.append("</g>")
    for t in {id(t): t for t in chosen.values()}.values():
        words = ", ".join(quality for quality, found in chosen.items() if found is t)
        over = y(t.figure + 1.96 * t.spread) - 10
        parts.append(f'<text class="mark" x="{x(t.nfe):.1f}" y="{over:.1f}" text-anchor="middle">{words}</text>')
    label = "network calls a picture takes"
    parts.append(f'<text x="{(left + width) / 2}" y="{height - 4}" text-anchor="middle">{label}</text>')
    role = f'viewBox="0 0 {width} {height}" role="img" aria-label="distance over network calls"'
    return f'<svg class="chart" {role}>{"".join(parts)}</svg>'
