"""Evaluated runs side by side."""

from collections.abc import Iterable, Sequence
from typing import Any

from unblot.errors import printable
from unblot.reports.samplers import origins, same_sampler
from unblot.reports.verdicts import MEANINGS, bits_per_dim, find, number


def compare(reports: Sequence[dict[str, Any]]) -> str:
    """Several runs side by side, one a column: metrics against held-out pictures, copies, likelihood, loss gap."""
    rows: list[tuple[str, list[str]]] = [
        ("run", [printable(r["run"]) for r in reports]),
        ("data", [printable(r["data"]["name"]) for r in reports]),
        *origins(reports),
        ("samples", [str(r["count"]) for r in reports]),
        ("features", [printable(r["metrics"]["features"][0]) for r in reports]),
    ]
    for name in MEANINGS:
        found = [find(r, name, "held-out") for r in reports]
        if any(found):
            rows.append((name, [number(f) for f in found]))
            rows.append(("  floor", [number(find(r, name, "floor")) for r in reports]))
    rows.append(("fine detail", [(r["spectrum"] or {}).get("texture", "–") for r in reports]))
    rows.append(("copies", [_copies(r) for r in reports]))
    rows.append(("bits per dimension", [number(bits_per_dim(r, "held_out")) for r in reports]))
    rows.append(("held-out loss, gap", [f"{r['learning']['gap']:+.1%}" if r["learning"] else "–" for r in reports]))
    widths = [max(len(column[i]) for _, column in rows) for i in range(len(reports))]
    first = max(len(name) for name, _ in rows)
    lines = [
        "  ".join([f"{name:<{first}}", *(f"{cell:<{w}}" for cell, w in zip(cells, widths, strict=True))]).rstrip()
        for name, cells in rows
    ]
    return "\n".join(map(printable, lines + [f"note: {line}" for line in _caveats(reports)]))


def _copies(report: dict[str, Any]) -> str:
    found = (report["originality"] or {}).get("samples")
    return "–" if found is None else f"{found['share']:.3g} ({found['low']:.3g} to {found['high']:.3g})"


def _caveats(reports: Sequence[dict[str, Any]]) -> Iterable[str]:
    """Why columns may not be comparable."""
    for what, key in (("data", "fingerprint"), ("numbers of held-out pictures", "held_out")):
        if len({r["data"][key] for r in reports}) > 1:
            yield f"the runs have different {what}: their metrics do not compare"
    if len({r.get("measures") for r in reports}) > 1:
        yield "the evaluations are of versions that measure in different ways: evaluate all anew"
    elif len({r["metrics"]["features"][0] for r in reports}) > 1:
        yield "the metrics are in different features: they do not compare"
    if len({r["count"] for r in reports}) > 1:
        yield "the numbers of samples differ: Fréchet distance, recall and coverage do not compare"
    searched = [r["originality"] for r in reports if r["originality"]]
    if len({(found.get("flip"), found.get("shift")) for found in searched}) > 1:
        yield "mirrored or moved copies count in some evaluations alone: the shares of copies do not compare"
    if not same_sampler(reports):
        yield "the runs were sampled with different samplers: their metrics compare models and samplers at once"
