"""The result of a tuning: the distance to real pictures over NFE, as a page and as a table for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from unblot.errors import printable
from unblot.evaluation.distances import Z95
from unblot.reports.charts import candidates_chart
from unblot.reports.render import render
from unblot.sampling.settings import (
    QUALITIES,
    Candidate,
    choose,
    describe_guidance,
    describe_sampler,
    describe_spacing,
)
from unblot.sampling.solvers import SOLVERS
from unblot.specs import without_defaults


def front_page(run: str, about: Mapping[str, Any], candidates: Sequence[Candidate], others: Sequence[Candidate]) -> str:
    """The whole page.

    candidates: the best ones for each NFE. others: those that were measured on fewer samples, which are shown where
    theirs is the same distance.
    """
    others = others if about["evaluated_by"] == about["distance"] else []
    chosen = {quality: choose(candidates, quality) for quality in QUALITIES}
    rows = [
        {
            "NFE": c.nfe,
            "distance": f"{c.distance:.4g} ± {Z95 * c.spread:.2g}",
            "quality": _qualities(c, chosen),
            "solver": without_defaults(SOLVERS, c.sampler.solver, "solver"),
            "guidance": describe_guidance(c.sampler),
            "levels": describe_spacing(c.sampler),
        }
        for c in _ordered(candidates)
    ]
    chart = candidates_chart(candidates, others, about["floor"], chosen, about["distance"])
    return render("tuning.html", run=run, about=about, chart=chart, rows=rows, others=others)


def table(about: Mapping[str, Any], candidates: Sequence[Candidate]) -> str:
    """The same as text for the terminal."""
    floor = "" if about["floor"] is None else f"; of as many real pictures: {about['floor']:.3g}"
    guided = "" if about["guidance"] == 1 else f", drawn with guidance {about['guidance']:g} at twice the NFE,"
    lines = [
        f"{about['distance']} ({about['features']} features) of {about['pictures']} samples"
        f"{guided} to {about['reference']}{floor}",
        "  NFE  distance                  ±         sampler",
    ]
    chosen = {quality: choose(candidates, quality) for quality in QUALITIES}
    for c in _ordered(candidates):
        distance, interval = f"{c.distance:.4g}", f"{Z95 * c.spread:.2g}"
        lines.append(f"{c.nfe:5d}  {distance:<8}{_qualities(c, chosen):<18}{interval:<10}{describe_sampler(c.sampler)}")
    return "\n".join(map(printable, lines))


def _ordered(candidates: Sequence[Candidate]) -> list[Candidate]:
    return sorted(candidates, key=lambda c: (c.nfe, c.distance))


def _qualities(candidate: Candidate, chosen: Mapping[str, Candidate]) -> str:
    """The qualities that this candidate is chosen for."""
    return ", ".join(quality for quality, found in chosen.items() if found == candidate)
