"""A model card: README.md as the hub reads it, and a picture of samples beside it.

Figures are those of the run's last evaluation, with their intervals and what real pictures reach. Everything that is
named by a person or by the data is escaped: it can be neither markup nor a field of the metadata.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from unblot.config.card import CardConfig
from unblot.data.output import save_sheet
from unblot.errors import UnblotError, arg, counted, printable
from unblot.reports.evaluation import JSON, read_report
from unblot.reports.samplers import given
from unblot.reports.verdicts import MEANINGS, TITLES, asked, bits_per_dim, find, number
from unblot.runs.folder import CARD, REPORT, fingerprint
from unblot.runs.run import Run
from unblot.specs import several
from unblot.system.files import write_text
from unblot.system.folders import must_be_writable

README, PICTURE = "README.md", "samples.png"
MARKUP = re.compile(  # what acts in Markdown, with tables, formulas and bare links
    r"[\\`*\[\]|~$<>&@]|(?<!\w)_|_(?!\w)|(?<=www)\.|:(?=//)"
)
CLASSES = 50  # classes that are named
UNKNOWN = "not known: the run was imported"
NAME = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # of a licence

Rows = Sequence[tuple[str, str]]


def write_card(run: Run, config: CardConfig | None = None) -> Path:
    """Writes RUN/card/README.md and RUN/card/samples.png; returns the README.

    Raises UnblotError for a licence that is no name, and for a damaged report.
    """
    config = config or CardConfig()
    if not NAME.fullmatch(config.license):
        raise UnblotError(f"{arg('license', config.license)} is no name of a licence; give one such as apache-2.0")
    folder = run.path / CARD
    must_be_writable(folder)
    report = own_report(run)
    label = "all" if run.config.draws_labels else None
    samples = run.sample(config.n, seed=config.seed, label=label)
    folder.mkdir(parents=True, exist_ok=True)
    save_sheet(folder / PICTURE, samples.grid(), samples.provenance)
    write_text(folder / README, card(run, config, report, samples.provenance))
    return folder / README


def own_report(run: Run) -> dict[str, Any] | None:
    """The last evaluation of a run; None where there is none, or it is of pictures that were given to be judged.

    Raises UnblotError for a damaged report.
    """
    report = read_report(run.path) if (run.path / REPORT / JSON).exists() else None
    return None if report is None or given(report) is not None else report


def card(run: Run, config: CardConfig, report: dict[str, Any] | None, sampled: dict[str, Any]) -> str:
    """The text of the card. report: of the run's evaluation. sampled: what made the samples of the picture."""
    name = run.path.resolve().name
    note = "" if report is None else earlier(run, report)
    parts = [
        f"---\n{metadata(run, config, None if note else report)}---",
        f"# {plain(name)}",
        f"![{config.n} samples]({PICTURE})",
        f"{_what(run)} Made with unblot {plain(run.config.version)}.",
        f"The picture shows the first {counted(config.n, 'sample')} of seed {config.seed}: {plain(sampled['solver'])},"
        f" {counted(sampled['steps'], 'step')}.",
        "## Data\n\n" + _table(_data(run)),
        "## Recipe\n\n" + _table(_recipe(run)),
        "## How good it is\n\n" + _figures(report, note),
        "## Does it copy its training pictures?\n\n" + _originality(report, note),
        "## Use\n\n```\nunblot sample RUN -n 16\n```\n\n"
        "RUN is the folder of these files, or `hf:OWNER/NAME` where they are on the hub. `model.safetensors` alone is"
        " enough: its header holds the whole configuration. Nothing is pickled.",
    ]
    return "\n\n".join(parts) + "\n"


def metadata(run: Run, config: CardConfig, report: dict[str, Any] | None) -> str:
    """The fields at the head of the card, as YAML whose values are JSON, which is YAML too.

    report: of the run's evaluation, None where its figures are not those of these weights.
    """
    data = run.config.data
    source = run.config.source.data
    fields: dict[str, Any] = {
        "license": config.license,
        "library_name": "unblot",
        "pipeline_tag": "text-to-image" if data.text else "unconditional-image-generation",
        "tags": ["unblot", "diffusion", "image-generation"],
    }
    if source.startswith("hf:") and re.fullmatch(r"hf:[\w.-]+(/[\w.-]+)?", source):
        fields["datasets"] = [source.removeprefix("hf:")]
    if report is not None and (results := _results(run, report)):
        fields["model-index"] = [{"name": printable(run.path.resolve().name), "results": results}]
    return "".join(f"{name}: {json.dumps(value, ensure_ascii=False)}\n" for name, value in fields.items())


def earlier(run: Run, report: dict[str, Any]) -> str:
    """A sentence where the figures of a report are those of other weights than the run's; otherwise nothing.

    Reports of earlier versions do not know their weights, only the steps and the average.
    """
    model, steps = report["model"], run.config.train.steps
    if model["steps"] != steps:
        return f"They were measured after {model['steps']} steps, on an earlier state."
    ema = several(run.config.train.ema)[0]
    known = model.get("fingerprint")
    same = known == fingerprint(run.denoiser) if known else (report.get("sampled_with") or {}).get("ema", ema) == ema
    return "" if same else "They were measured with other weights; `unblot evaluate RUN` measures these."


def plain(text: str) -> str:
    """A text that is shown as it is in Markdown: in one line, with nothing in it that acts."""
    return MARKUP.sub(lambda found: f"&#{ord(found[0])};", printable(" ".join(text.split())))


def _what(run: Run) -> str:
    data, config = run.config.data, run.config
    conditions = [f"one of {len(data.classes)} classes"] * config.draws_labels + ["a text"] * (data.text is not None)
    asked_for = f" Samples can be asked for by {' or '.join(conditions)}." if conditions else ""
    kind = "A few-step student of a diffusion model" if config.distill else "A diffusion model"
    size = f"{data.height}×{data.width} pixels with {counted(data.channels, 'channel')}"
    what = "points in the plane" if data.kind == "points" else f"pictures of {size}"
    return f"{kind} that draws {what}.{asked_for}"


def _data(run: Run) -> Rows:
    """What it learned from; the path of the data is not told, only its name."""
    data, source = run.config.data, run.config.source
    classes = ", ".join(map(plain, data.classes[:CLASSES])) + (", …" if len(data.classes) > CLASSES else "")
    if classes and not run.config.draws_labels:
        classes += " (of the model that it was made from; itself it learned without labels)"
    known = bool(data.fingerprint)
    count = f"{data.count:,}{'; others were held out' if source.held_out else ''}" if known else UNKNOWN
    return [
        ("name", plain(data.name)),
        (f"training {data.kind}", count),
        (
            "size",
            f"{data.height}×{data.width}, {counted(data.channels, 'channel')} of {plain(str(data.values['dtype']))}",
        ),
        ("classes", f"{len(data.classes)}: {classes}" if classes else "none"),
        ("clusters", f"{len(data.clusters)}, found by k-means and learned as labels" if data.clusters else "none"),
        ("captions", f"of {data.text.pictures:,} pictures" if data.text else "none"),
        *([("fingerprint", plain(data.fingerprint))] if known else []),
    ]


def _recipe(run: Run) -> Rows:
    config, train = run.config, run.config.train
    parameters = sum(p.numel() for p in run.denoiser.parameters())
    training = [
        ("training", f"{counted(train.steps, 'step')} of {train.batch_size}, {plain(train.optimizer)}, learning rate "
                     f"{train.learning_rate:g}, seed {train.seed}"),
        ("averages", plain(train.ema)),
        ("augmentation", plain(train.augment)),
    ]  # fmt: skip
    rows = [
        ("network", f"{plain(train.network)} ({parameters / 1e6:.2f} M parameters)"),
        ("prediction", f"{plain(train.parameterization)}, schedule {plain(train.schedule)}"),
        *(training if config.data.fingerprint else [("training", UNKNOWN)]),
        ("sampling", f"{plain(train.solver)}, {train.sampling_steps} steps, {plain(train.spacing)}"),
    ]
    if config.latent is not None:
        rows.append(("latents", f"of an own autoencoder, factor {config.latent.latent_factor}"))
    if config.distill is not None:
        rows.append(("distilled from", f"{plain(Path(config.distill.teacher).name)}, NFE {config.distill.nfe}"))
    if config.origin is not None:
        begun = f"{plain(Path(config.origin.path).name)} (sha256 {plain(config.origin.sha256[:16])})"
        rows.append(("began with", f"{config.origin.share:.1%} of its weights from {begun}"))
    return rows


def _figures(report: dict[str, Any] | None, note: str) -> str:
    """Metrics against held-out pictures, each with its interval, beside those of as many real training pictures.

    note: on which weights they were measured, where these are others.
    """
    if report is None:
        return "Not measured. `unblot evaluate RUN` measures it."
    features = plain(report["metrics"]["features"][0])
    head = f"{report['count']:,} samples against {report['data']['held_out']:,} held-out {report['data']['kind']}"
    rows = [("metric", "samples", "real training pictures")]
    for name in MEANINGS:
        if found := find(report, name, "held-out"):
            rows.append((TITLES.get(name, name.replace("_", " ")), number(found), number(find(report, name, "floor"))))
    bits = bits_per_dim(report, "held_out")
    if bits is not None:
        rows.append(("bits per dimension, at most", number(bits), "–"))
    answers = [f"- **{q}** {plain(report['verdicts'][key]['text'])}" for key, q in asked(report).items()]
    about = f"{head}, in {features} features, with 95 % intervals. {note}".rstrip()
    return "\n\n".join([about, _grid(rows), "\n".join(answers)])


def _originality(report: dict[str, Any] | None, note: str) -> str:
    if report is None or report["originality"] is None:
        return "Not measured. A model can hold copies of its training pictures; search for them before you publish it."
    found = report["originality"]
    rows = [("", "copies of training pictures", "95 % interval")]
    for part in ("samples", "held_out"):
        if part in found:
            s = found[part]
            share = f"{s['copies']} of {s['count']} ({s['share']:.1%})"
            rows.append((part.replace("_", "-"), share, f"{s['low']:.1%} to {s['high']:.1%}"))
    return "\n\n".join([note] * bool(note) + [_grid(rows)])


def _results(run: Run, report: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures as the hub's `model-index` has them."""
    found = [(name, find(report, name, "held-out")) for name in MEANINGS]
    metrics = [{"type": n, "value": row["value"], "name": TITLES.get(n, n)} for n, row in found if row is not None]
    data = {"type": "own", "name": printable(run.config.data.name)}
    task = {"type": "unconditional-image-generation"}
    return [{"task": task, "dataset": data, "metrics": metrics}] if metrics else []


def _table(rows: Rows) -> str:
    return _grid([("", ""), *rows])


def _grid(rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells, whose texts are escaped, as a table of Markdown; the first is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * (lines[0].count(" | ") + 1), *lines[1:]])
