"""report.html: the evaluation of a run as one page, for a reader who is new to the field."""

from typing import Any

import numpy as np

from unblot.data.dataset import Dataset
from unblot.errors import counted
from unblot.process.octaves import GRAINY, SMOOTH
from unblot.reports import charts
from unblot.reports.render import Picture, render, sheet, thumbnail
from unblot.reports.samplers import given
from unblot.reports.verdicts import ANSWERS, MEANINGS, TITLES, asked, bits_per_dim, number

SHOWN, SHOWN_POINTS, SHOWN_CLASSES = 64, 4000, 40

AGAINST = {  # label and colour of each comparison
    "held-out": ("held-out", "samples"),
    "floor": ("real pictures", "real"),
    "training": ("training", "training"),
}


def page(report: dict[str, Any], dataset: Dataset, samples: np.ndarray) -> str:
    """The whole page. samples: (N, C, H, W), stored values."""
    learning = report["learning"]
    return render(
        "evaluation.html",
        report=report,
        given=given(report),
        questions=asked(report),
        answers=ANSWERS,
        number=number,
        counted=counted,
        sheets=_sheets(report, dataset, samples),
        pairs=_pairs(report, dataset, samples),
        metrics=[_metrics(report["metrics"]["rows"], features) for features in report["metrics"]["features"]],
        shares=_shares(report),
        bounds=[
            (part.replace("_", "-"), report["likelihood"][part]["bound"])
            for part in ("held_out", "training")
            if bits_per_dim(report, part)
        ],
        charts={
            "spectrum": charts.power_ratios((report["spectrum"] or {}).get("octaves", ()), SMOOTH, GRAINY),
            "levels": charts.losses_by_level(learning["bins"]) if learning else "",
            "history": charts.loss_history(report["history"]),
        },
    )


def _sheets(report: dict[str, Any], dataset: Dataset, samples: np.ndarray) -> dict[str, Picture]:
    """Samples and training pictures, as many of either."""
    count = min(SHOWN_POINTS if report["data"]["kind"] == "points" else SHOWN, len(samples), len(dataset.train))
    chosen = np.asarray(dataset.pictures[np.sort(np.random.default_rng(0).permutation(dataset.train)[:count])])
    extent = 1.15 * float(np.abs(chosen).max())
    shown = {"samples": samples[:count], "training": chosen}
    return {name: sheet(stored, dataset.values, extent) for name, stored in shown.items()}


def _pairs(report: dict[str, Any], dataset: Dataset, samples: np.ndarray) -> list[dict[str, Any]]:
    """The nearest pairs of the report, each with its two pictures."""
    return [
        {
            **pair,
            "sample_picture": thumbnail(samples[pair["sample"]], dataset.values),
            "training_picture": thumbnail(np.asarray(dataset.pictures[pair["training"]]), dataset.values),
        }
        for pair in (report["originality"] or {}).get("pairs", ())
    ]


def _metrics(rows: list[dict[str, Any]], features: str) -> dict[str, Any]:
    """The metrics in one kind of features, each with its meaning, its rows (label, colour, metric) and its chart."""
    rows = [row for row in rows if row["features"] == features]
    found = []
    for name, meaning in MEANINGS.items():
        against = {row["against"]: row for row in rows if row["name"] == name}
        shown = [(*look, against[key]) for key, look in AGAINST.items() if key in against]
        if shown:
            needs = dict.fromkeys(row["needs"] for *_, row in shown if row["needs"])
            title, chart = TITLES.get(name, name.replace("_", " ").capitalize()), charts.intervals(shown)
            found.append({"title": title, "meaning": meaning, "rows": shown, "chart": chart, "needs": list(needs)})
    return {"features": features, "references": ", ".join(sorted({r["reference"] for r in rows})), "metrics": found}


def _shares(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The share of each class among samples and training pictures; of many classes those that differ most."""
    counts = report["metrics"]["class_counts"]
    if not counts:
        return []
    a, b = (np.array(counts[part]) / max(1, sum(counts[part])) for part in ("samples", "training"))
    longest = max(float(a.max()), float(b.max()), 1e-9)
    return [
        {
            "name": report["data"]["classes"][i],
            "samples": a[i],
            "training": b[i],
            "samples_bar": a[i] / longest,
            "training_bar": b[i] / longest,
        }
        for i in np.sort(np.argsort(-np.abs(a - b), kind="stable")[:SHOWN_CLASSES])
    ]
