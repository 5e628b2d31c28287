"""Where the samples of a report come from: the model and the sampler that drew them, or pictures that were given."""

import json
from collections.abc import Sequence
from typing import Any

from unblot.errors import counted, printable
from unblot.runs.samples import GUIDANCE_OPTIONS

SAMPLER = ("solver", "spacing", "steps", "guidance", *GUIDANCE_OPTIONS)
"""What is recorded of a sampler, by which two of them are told apart."""

UNKNOWN = "–"


def given(report: dict[str, Any]) -> str | None:
    """The place of the pictures that were given to be judged; None where the run drew its samples."""
    return _about(report).get("samples")


def from_where(report: dict[str, Any]) -> str:
    """The place of the pictures that were given, to be set behind their number; nothing where the run drew them."""
    place = given(report)
    return "" if place is None else f" (the pictures of {place})"


def origins(reports: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Rows of a comparison, a column for each report: the model, where it drew the samples, and the sampler."""
    models = [r["model"] if given(r) is None else None for r in reports]
    return [
        ("network", [UNKNOWN if m is None else printable(m["network"].split(":")[0]) for m in models]),
        ("parameters", [UNKNOWN if m is None else f"{m['parameters'] / 1e6:.2f} M" for m in models]),
        ("steps", [UNKNOWN if m is None else str(m["steps"]) for m in models]),
        ("sampled with", [_in_words(r) for r in reports]),
        ("network calls", [printable(str(_about(r).get("nfe", UNKNOWN))) for r in reports]),
    ]


def same_sampler(reports: Sequence[dict[str, Any]]) -> bool:
    """Whether the samples of all reports were drawn by one sampler, as far as that is recorded."""
    known = [about for r in reports if "solver" in (about := _about(r))]
    return len({json.dumps([about.get(name) for name in SAMPLER]) for about in known}) < 2


def _about(report: dict[str, Any]) -> dict[str, Any]:
    return report.get("sampled_with") or {}


def _in_words(report: dict[str, Any]) -> str:
    """The pictures that were given, and solver, steps, spacing and guidance, as far as they are known."""
    about, place = _about(report), given(report)
    parts = [] if place is None else [f"pictures of {place}"]
    if {"solver", "spacing", "steps"} <= about.keys():
        parts += [str(about["solver"]), counted(about["steps"], "step"), str(about["spacing"])]
    if about.get("guidance", 1) != 1:
        parts.append(f"guidance {about['guidance']}")
    return printable(", ".join(parts)) or UNKNOWN
