"""report.html: one page that holds everything it shows, for a reader who knows none of the words."""

from html import escape
from typing import Any

import numpy as np

from unblot.data.dataset import Dataset
from unblot.reports.charts import history_chart, loss_chart, share_bars, sheet, small, whiskers
from unblot.reports.style import STYLE
from unblot.reports.verdicts import MEANINGS, QUESTIONS, bits_per_dim, number

SHOWN, SHOWN_POINTS = 64, 4000

ANSWERS = {"good": "yes", "middling": "partly", "bad": "no", "unknown": "unknown"}

AGAINST = {  # label and colour of each comparison
    "held-out": ("drawn, held-out", "drawn"),
    "floor": ("real, held-out", "real"),
    "training": ("drawn, training", "drawn"),
}

TITLES = {"frechet_distance": "Fréchet distance", "frechet_infinity": "Fréchet distance, of infinitely many samples"}

DRAWN, REAL = '<span class="key drawn"></span>', '<span class="key real"></span>'


def page(report: dict[str, Any], dataset: Dataset, samples: np.ndarray) -> str:
    """The whole page. samples: the drawn pictures (N, C, H, W), stored values."""
    sections = [
        _head(report),
        _look(report, dataset, samples),
        _pairs(report, dataset, samples),
        _figures(report),
        _shares(report),
        _learning(report),
        _history(report),
        _likelihood(report),
        _how(report),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report['run'])}: evaluation</title><style>{STYLE}</style></head>\n"
        "<body><main>\n" + "\n".join(sections) + "\n</main></body></html>\n"
    )


def _section(title: str, text: str, body: str) -> str:
    return f"<h2>{title}</h2><p>{text}</p>{body}"


def _head(report: dict[str, Any]) -> str:
    data, kind = report["data"], report["data"]["kind"]
    cards = []
    for key, question in QUESTIONS.items():
        level, text = report["verdicts"][key]["level"], escape(report["verdicts"][key]["text"])
        heading = f"<h3>{question} <span>{ANSWERS[level]}</span></h3>"
        cards.append(f'<section class="card verdict {level}">{heading}<p>{text}</p></section>')
    notes = "".join(f'<p class="faint">Note: {escape(line)}</p>' for line in report["notes"])
    return (
        f"<h1>{escape(report['run'])}</h1>"
        f"<p>A model with {report['model']['parameters'] / 1e6:.2f} million parameters learned from"
        f" {data['training']:,} {kind} of “{escape(data['name'])}” and drew {report['count']:,} new ones."
        f" Here they are compared with those, and with {data['held_out']:,} {kind} that it never saw"
        f' (held-out).</p><div class="cards">{"".join(cards)}</div>{notes}'
    )


def _look(report: dict[str, Any], dataset: Dataset, samples: np.ndarray) -> str:
    count = min(SHOWN_POINTS if report["data"]["kind"] == "points" else SHOWN, len(samples), len(dataset.train))
    chosen = np.asarray(dataset.pictures[np.sort(np.random.default_rng(0).permutation(dataset.train)[:count])])
    extent = 1.15 * float(np.abs(chosen).max())
    drawn = sheet(samples[:count], dataset.values, "drawn pictures", extent)
    real = sheet(chosen, dataset.values, "training pictures", extent)
    return _section(
        "See for yourself",
        "The first drawn ones, not the best, beside training ones taken at random.",
        f'<div class="cards"><div class="card"><h3>Drawn by the model</h3>{drawn}</div>'
        f'<div class="card"><h3>Real, from the training data</h3>{real}</div></div>',
    )


def _pairs(report: dict[str, Any], dataset: Dataset, samples: np.ndarray) -> str:
    found = report["originality"]
    if found is None:
        return ""
    pairs = []
    for pair in found["pairs"]:
        drawn = small(samples[pair["sample"]], dataset.values, "drawn")
        real = small(np.asarray(dataset.pictures[pair["training"]]), dataset.values, "nearest training picture")
        kind, word = ("pair copy", "copy, ") if pair["copy"] else ("pair", "")
        caption = f"<figcaption>{word}{pair['ratio']:.2f}</figcaption>"
        pairs.append(f'<figure class="{kind}"><div>{drawn}{real}</div>{caption}</figure>')
    forms = ["mirrored pictures"] * found["flip"] + [f"pictures moved by up to {found['shift']} px"] * bool(
        found["shift"]
    )
    also = f" Here {' and '.join(forms)} count as copies, too." if forms else ""
    return _section(
        "The nearest pairs",
        "Of all drawn pictures the ones nearest to a training picture: left what was drawn, right the training"
        " picture. The number says how near: their distance, as a share of the distance to the fifth nearest"
        f" training picture. Below 0.33 it is called a copy; what is merely alike comes to 0.5 and more.{also}",
        f'<div class="card pairs">{"".join(pairs)}</div>',
    )


def _figures(report: dict[str, Any]) -> str:
    body = []
    for features in report["metrics"]["features"]:
        rows = [r for r in report["metrics"]["rows"] if r["features"] == features]
        references = escape(", ".join(sorted({r["reference"] for r in rows})))
        counts = f"{report['count']:,} samples; compared with: {references}"
        body.append(f"<p><b>{escape(features)} features</b> <small>{counts}</small></p>")
        for name, meaning in MEANINGS.items():
            by_reference = {r["against"]: r for r in rows if r["name"] == name}
            if not by_reference:
                continue
            lines = [(*shown, by_reference[a]) for a, shown in AGAINST.items() if a in by_reference]
            title = TITLES.get(name, name.replace("_", " ").capitalize())
            body.append(f'<section class="card figure"><h3>{title}</h3><p>{meaning}</p>{whiskers(lines)}</section>')
    return _section(
        "The figures",
        f"Each with its 95 % interval: {DRAWN} drawn pictures, against held-out and against training ones;"
        f" {REAL} as many real training pictures in their place, which is what a perfect model would reach."
        " They compare what a feature extractor sees in the pictures: figures of different extractors, or of"
        " different numbers of pictures, do not compare.",
        "".join(body),
    )


def _shares(report: dict[str, Any]) -> str:
    counts = report["metrics"]["class_counts"]
    if not counts:
        return ""
    bars = share_bars(report["data"]["classes"], counts["samples"], counts["training"])
    return _section(
        "Classes",
        "How often each class occurs, as seen by a classifier trained on the data's labels:"
        f" {DRAWN} among drawn, {REAL} among training pictures.",
        f'<div class="card">{bars}</div>',
    )


def _learning(report: dict[str, Any]) -> str:
    found = report["learning"]
    if found is None:
        return ""
    return _section(
        "Loss by noise level",
        f"How far off the model is where it undoes little noise (left) and much (right): {DRAWN} on"
        f" {found['n_held_out']} held-out pictures, {REAL} on {found['n_training']} training pictures. Where the"
        " held-out loss lies well above the other, the model remembers what it should have understood.",
        f'<div class="card">{loss_chart(found["bins"])}</div>',
    )


def _history(report: dict[str, Any]) -> str:
    chart = history_chart(report.get("history") or [])
    if not chart:
        return ""
    return _section(
        "Loss while it trained",
        f"Of the averaged weights, on {DRAWN} held-out and {REAL} training pictures, always the same ones. Where the"
        " held-out loss turns up while the other falls, more training only taught it to remember.",
        f'<div class="card">{chart}</div>',
    )


def _likelihood(report: dict[str, Any]) -> str:
    if bits_per_dim(report, "training") is None:
        return ""
    found = report["likelihood"]
    parts = {
        label: found[key]["bound"]
        for label, key in (("held-out", "held_out"), ("training", "training"))
        if found[key]["bound"]
    }
    head = "".join(f"<th>{label}, {bound['count']} pictures</th>" for label, bound in parts.items())
    body = []
    for term, label in (("prior", "the start"), ("steps", "the steps"), ("decoder", "the last step"), ("total", "all")):
        cells = "".join(f"<td>{number(bound['terms'][term])}</td>" for bound in parts.values())
        body.append(f"<tr><th>{label}</th>{cells}</tr>")
    unit = "bits per value" if found["discrete"] else "bits per value (of a density, in the network's range)"
    return _section(
        "How probable real pictures are to the model",
        f"An upper bound in {unit}. Fewer is better, and a picture that needs many is unlike what the model"
        " learned. Held-out pictures should need about as many as training pictures.",
        f'<div class="card"><table><tr><th></th>{head}</tr>{"".join(body)}</table></div>',
    )


def _how(report: dict[str, Any]) -> str:
    seconds = ", ".join(f"{part} {value:g} s" for part, value in report["seconds"].items())
    rows = {
        "data": f"{report['data']['name']}, fingerprint {report['data']['fingerprint']}",
        "network": report["model"]["network"],
        "training": f"preset {report['model']['preset']}, {report['model']['steps']} steps",
        "drawn with": ", ".join(f"{key} {value}" for key, value in report["sampled_with"].items()) or "unknown",
        "measured by": f"unblot {report['unblot']}; {seconds}",
    }
    entries = "".join(f"<dt>{key}</dt><dd>{escape(str(value))}</dd>" for key, value in rows.items())
    return f"<h2>How it was measured</h2><dl>{entries}</dl>"
