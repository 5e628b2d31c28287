"""A report in words: a sentence on each question, and a summary."""

from typing import Any

from unblot.errors import counted, printable
from unblot.evaluation.coverage import share_distance_by_chance
from unblot.process.octaves import FINEST, ratio_in_words
from unblot.reports.samplers import from_where, given

QUESTIONS = {
    "good": "Is it good?",
    "varied": "Is it varied?",
    "new": "Is it new?",
    "learning": "Is it still learning?",
}
CAPTIONS = {"captions": "Does it obey captions?"}  # asked of captioned runs

NOISE = 4.0  # times the power of real fine detail from which on samples are no good, whatever else is right
ANSWERS = {"good": "yes", "middling": "partly", "bad": "no", "unknown": "unknown"}

TITLES = {"frechet_distance": "Fréchet distance", "frechet_infinity": "Fréchet distance of infinitely many samples"}

MEANINGS = {
    "frechet_distance": "How far apart the two sets are in mean and spread; 0 is the same. Poor pictures, missing"
    " variety and few samples all raise it.",
    "frechet_infinity": "The same, extrapolated to infinitely many samples, so that their number does not matter.",
    "kernel_distance": "How far apart the two sets are, whatever their sizes; 0 is the same. By chance it can be a"
    " little below 0.",
    "precision": "Share of the samples that lie where real pictures lie: quality.",
    "recall": "Share of the real pictures that lie where samples lie: variety.",
    "density": "How many real pictures lie around the samples. About 1 is right. Less is poor quality; much more means"
    " that only typical pictures are sampled.",
    "coverage": "Share of the real pictures that have a sample in their neighbourhood: variety.",
    "class_share_distance": "Share of the samples that would have to change class for the classes to be as frequent"
    " as in the data.",
    "classes_reached": "Number of classes that occur at all.",
}
"""What each metric says."""

FEW_COPIES = 0.1  # the share of copies beyond chance that must be ruled out before samples are said not to be copies
MEMORIZES = 0.25  # held-out loss above the training loss, as a share of it, from which on a model memorizes

BY_CLASS = ("class_share_distance", "classes_reached")
PARTS = ("samples", "training", "held_out")  # whose members are counted by class
EXPECTED = 5  # expected samples of a class, from which on it is missing where there are none

TEXTURES = {
    "grainy": "Samples are grainy: their fine detail has {ratio} times the power of real pictures.",
    "smooth": "Samples are too smooth: their fine detail has {ratio} times the power of real pictures.",
}

Answer = dict[str, str]  # `level` and `text`


def verdicts(report: dict[str, Any]) -> dict[str, Answer]:
    """For each question a `level` (good, middling, bad or unknown) and a `text` that names the metrics."""
    answers = {"good": _good(report), "varied": _varied(report), "new": _new(report), "learning": _learning(report)}
    if report["captions"] is not None:
        answers["captions"] = _captions(report["captions"])
    if report["data"]["kind"] == "points":
        return {key: {k: v.replace("picture", "point") for k, v in answer.items()} for key, answer in answers.items()}
    return answers


def asked(report: dict[str, Any]) -> dict[str, str]:
    """The questions that a report answers."""
    return QUESTIONS | (CAPTIONS if "captions" in report["verdicts"] else {})


def find(report: dict[str, Any], name: str, against: str) -> dict[str, Any] | None:
    """The metric `name` in the first features, against training, held-out or floor; None where it has no value.

    What is counted by class is taken from the features that tell the classes.
    """
    first = report["metrics"]["features"][0]
    for row in report["metrics"]["rows"]:
        chosen = name in BY_CLASS or row["features"] == first
        if chosen and (row["name"], row["against"]) == (name, against) and row["value"] is not None:
            return row
    return None


def number(metric: dict[str, Any] | None) -> str:
    """A value with its interval, as `1.23 (1.11 to 1.34)`."""
    if metric is None or metric.get("value") is None:
        return "–"
    shown = f"{metric['value']:.3g}"
    if metric.get("low") is None:
        return shown
    return f"{shown} ({metric['low']:.3g} to {metric['high']:.3g})"


def _answer(level: str, *sentences: str) -> Answer:
    return {"level": level, "text": " ".join(filter(None, sentences))}


def _good(report: dict[str, Any]) -> Answer:
    """Held-out pictures against samples, and the power of fine detail, which features may not see."""
    texture, level = _texture(report)
    name = "frechet_distance" if find(report, "frechet_distance", "floor") else "kernel_distance"
    called = {"frechet_distance": "Fréchet distance", "kernel_distance": "Kernel distance"}[name]
    found, floor = find(report, name, "held-out"), find(report, name, "floor")
    if found is None or floor is None:
        few = "There are too few samples or held-out pictures to say. The metrics say how many they need."
        return _answer(level if texture else "unknown", texture, few)
    text = (
        f"{called} to held-out pictures: {number(found)}; of as many real training pictures: {number(floor)}"
        f" ({found['features']} features)."
    )
    # The kernel distance is unbiased: a perfect model's interval holds 0, also against the many training pictures. But
    # where features were trained on these, other real pictures are some way from them: as far as the floor says.
    kernel, real_kernel = (find(report, "kernel_distance", against) for against in ("training", "floor"))
    by_chance = max(0.0, real_kernel["high"] if real_kernel else 0.0)
    far = (report["originality"] or {}).get("median_percentile", 50.0) > 80
    farther = (
        "The typical sample is farther from every training picture than most held-out pictures are." if far else ""
    )
    precision, real = find(report, "precision", "held-out"), find(report, "precision", "floor")
    apart = found["low"] > floor["high"] or (kernel is not None and kernel["low"] > by_chance)
    if precision is not None and real is not None:
        text += f" Precision: {number(precision)}; of real pictures: {number(real)}."
        apart = apart or precision["high"] < real["low"]
    if not apart and not far:
        same = "The features cannot tell samples from real pictures."
        return _answer(level, texture, same, text)
    if precision is not None and real is not None and precision["value"] >= 0.9 * real["value"]:
        level = "bad" if level == "bad" else "middling"
        return _answer(level, texture, "Most samples look real, but as a whole they differ.", text, farther)
    return _answer("bad", texture, "Samples can be told from real pictures.", text, farther)


def _texture(report: dict[str, Any]) -> tuple[str, str]:
    """A sentence where fine detail is too strong or too weak, with the ratio that is farthest off, else ""; and the
    best level of an answer that says so."""
    found = report["spectrum"]
    if found is None or found["texture"] == "right":
        return "", "good"
    ratios = [octave["ratio"] for octave in found["octaves"][:FINEST] if octave["ratio"] is not None]
    ratio = max(ratios) if found["texture"] == "grainy" else min(ratios)
    said = TEXTURES[found["texture"]].format(ratio=ratio_in_words(ratio))
    return said, "bad" if ratio > NOISE else "middling"


def _varied(report: dict[str, Any]) -> Answer:
    found, floor = find(report, "recall", "held-out"), find(report, "recall", "floor")
    classes, reached = find(report, "classes_reached", "training"), ""
    if classes is not None:
        reached = f"{classes['value']:.0f} of {len(report['data']['classes'])} classes occur."
    if found is None or floor is None:
        return _answer("unknown", "There are too few samples or held-out pictures to say.", reached)
    text = f"Recall of held-out pictures: {number(found)}; by real training pictures: {number(floor)}."
    if (classes is not None and _misses_a_class(report)) or found["high"] < 0.7 * floor["value"]:
        return _answer("bad", "Part of the data is never sampled.", text, reached)
    if found["high"] < floor["low"]:
        return _answer("middling", "Less varied than real pictures.", text, reached)
    shares, counts = find(report, "class_share_distance", "training"), report["metrics"]["class_counts"]
    chance = share_distance_by_chance(counts["samples"], counts["training"]) if shares is not None else 0.0
    if shares is not None and shares["low"] - chance > 0.1:
        often = f"{shares['value']:.0%} of the samples are of classes that occur too often; {chance:.0%} by chance."
        return _answer("middling", "Varied, but the classes are out of balance.", text, reached, often)
    return _answer("good", "As varied as real pictures.", text, reached)


def _misses_a_class(report: dict[str, Any]) -> bool:
    """Whether the samples have none of a class of which EXPECTED were to be expected.

    By the smaller of its shares as the classifier sees training and held-out pictures: it may know a rare class by the
    training pictures alone, and then finds it in no others, real or not.
    """
    samples, training, held_out = (report["metrics"]["class_counts"][part] for part in PARTS)
    shares = (min(a / sum(training), b / sum(held_out)) for a, b in zip(training, held_out, strict=True))
    return any(not n and share * sum(samples) >= EXPECTED for n, share in zip(samples, shares, strict=True))


def _new(report: dict[str, Any]) -> Answer:
    originality = report["originality"]
    if originality is None and report["data"]["kind"] == "points":
        return _answer("unknown", "Copies are not searched among points in the plane.")
    if originality is None:
        return _answer("unknown", "With fewer than 2 different training pictures, copies mean nothing.")
    found, real = originality["samples"], originality.get("held_out")
    text = f"{found['copies']} of {found['count']} samples are copies of training pictures ({interval(found)})"
    text += f"; by the same rule {real['share']:.1%} of held-out pictures are." if real else "."
    chance = real["share"] if real else 0.0
    typical = ""
    if real:
        nearer = 100 - originality["median_percentile"]
        side, share = ("nearer to", nearer) if nearer >= 50 else ("farther from", 100 - nearer)
        typical = (
            f"The typical sample is {side} its nearest training picture than {share:.0f} % of held-out pictures are"
            " to theirs (50 % would be chance)."
        )
    if found["low"] > max(0.01, chance):
        if real and found["low"] <= real["high"]:  # with few held-out pictures that end is far above their share
            few = f"{counted(real['count'], 'held-out picture')} cannot say how many would be by chance."
            return _answer("middling", f"Some samples are copies; {few}", text, typical)
        return _answer("bad", "It copies." if found["low"] > 0.5 else "It copies in part.", text, typical)
    if originality.get("copying_z", 0.0) < -3:
        return _answer("middling", "Few copies, but samples are too near to the training pictures.", text, typical)
    if found["high"] > chance + FEW_COPIES:
        return _answer("unknown", "Too few samples to say whether it copies.", text, typical)
    return _answer("good", "It does not copy.", text, typical)


def interval(share: dict[str, Any]) -> str:
    """A share in per cent with its interval."""
    return f"{share['share']:.1%}; 95 % interval {share['low']:.1%} to {share['high']:.1%}"


def _captions(found: dict[str, Any]) -> Answer:
    """Samples between real pictures with their captions and samples with shuffled ones."""
    samples, real, shuffled = (found[part] for part in ("samples", "held_out", "shuffled"))
    text = (
        f"Of {found['candidates']} captions the true one comes first for {samples['recall_at_1']:.0%} of the samples "
        f"({samples['low']:.0%} to {samples['high']:.0%}), for {real['recall_at_1']:.0%} of held-out pictures, "
        f"with shuffled captions for {shuffled['recall_at_1']:.0%} (mean ranks {samples['mean_rank']:.1f}, "
        f"{real['mean_rank']:.1f} and {shuffled['mean_rank']:.1f})."
    )
    way = (shuffled["mean_rank"] - samples["mean_rank"]) / max(1e-9, shuffled["mean_rank"] - real["mean_rank"])
    if samples["high"] >= 0.9 * real["recall_at_1"] and way >= 0.9:
        return _answer("good", "Samples show what their captions say, about as real pictures do.", text)
    if way >= 0.5:
        return _answer("middling", "Samples show much of what their captions say.", text)
    if way >= 0.1:
        return _answer("bad", "Samples show little of what their captions say.", text)
    return _answer("bad", "Samples do not follow their captions.", text)


def _learning(report: dict[str, Any]) -> Answer:
    found = report["learning"]
    if given(report) is not None:
        return _answer("unknown", "That is a question to the model, and these pictures were given.")
    if found is None and report["model"].get("distilled"):
        return _answer("unknown", "The model is distilled: ask its teacher, from which it learned.")
    if found is None and report["model"].get("needs_clusters"):
        return _answer("unknown", "The model never saw pictures without a cluster, and held-out pictures have none.")
    if found is None:
        return _answer("unknown", "There are too few held-out or training pictures to say.")
    ends = f"95 % interval {found['low']:+.1%} to {found['high']:+.1%}"
    text = f"The loss on held-out pictures differs from that on training pictures by {found['gap']:+.1%} ({ends})."
    if found["gap"] > 1:
        text = f"The loss on held-out pictures is {1 + found['gap']:.1f} times that on training pictures."
    if found["low"] > MEMORIZES:
        return _answer("bad", "It memorizes its training pictures. Stop earlier, or give it more pictures.", text)
    if found["low"] > 0:
        return _answer("middling", "It begins to memorize; more training helps less and less.", text)
    if found["high"] >= MEMORIZES:
        return _answer("unknown", "Too few held-out pictures to say whether it memorizes.", text)
    return _answer("good", "What it learns also holds for pictures that it never saw; more training can help.", text)


def summary(report: dict[str, Any]) -> str:
    """The report for the terminal: the questions with their answers."""
    data = report["data"]
    lines = [
        f"{report['run']}: {counted(report['count'], 'sample')}{from_where(report)}, {data['training']} training"
        f" and {data['held_out']} held-out {data['kind']} of {data['name']}",
        "",
    ]
    lines += [f"{question:<22} {report['verdicts'][key]['text']}" for key, question in asked(report).items()]
    bits = bits_per_dim(report, "held_out")
    if bits is not None:
        lines += [f"{'How probable?':<22} at most {number(bits)} bits per dimension for held-out pictures"]
    return "\n".join(map(printable, lines))


def bits_per_dim(report: dict[str, Any], part: str) -> dict[str, Any] | None:
    """The variational bound of the training or held_out pictures, a mean with its interval; None where not measured."""
    found = ((report["likelihood"] or {}).get(part) or {}).get("bound")
    return None if found is None else found["terms"]["total"]
