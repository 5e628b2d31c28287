"""Warnings while a run trains: rules over its metrics, each with a margin that chance does not reach, and a line that
names the way out.

A rule is a pure function of the lines of metrics so far, oldest first; it returns its warning, or None.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from unblot.errors import arg
from unblot.process.octaves import FINEST, GRAINY, SMOOTH, ratio_in_words
from unblot.runs.metrics import HELD_OUT, PREVIEW, STEP, Line, mean_loss, of_kind

Rule = Callable[[Sequence[Line]], str | None]

STANDARD_ERRORS = 4.0  # that a change must exceed
RISE = 0.01  # relative rise of the held-out loss, at least
RECENT, BEFORE = 30, 100  # lines of training steps: judged, and compared with
SPIKES, SKIPPED = 3, 3  # among the recent lines
DIVERGED, DIVERGED_LINES = 3.0, 5  # times the loss of an untrained network; logged steps in a row
DRIFT = 0.15  # in standard deviations of the channel, or of its standard deviation relative to what it should be
CHANCE = 1.5  # times the farthest that sets of real pictures lie apart, in the logarithm


class Turn(NamedTuple):
    """The step of the least held-out loss, that loss, and the present one."""

    best_step: int
    best: float
    now: float


def turned(lines: Sequence[Line]) -> Turn | None:
    """Where the held-out loss began to rise for good while the training loss kept falling; None where it did not.

    The last two measurements must both lie above the least one, by RISE and by STANDARD_ERRORS of the change, which
    are estimated from parts of the held-out pictures. The untrained weights, at step 0, are nothing to go back to.
    """
    measured = [line for line in of_kind(lines, HELD_OUT) if line["step"] and mean_loss(line, "held_out") is not None]
    measured = [line for line in measured if mean_loss(line, "training") is not None]
    if len(measured) < 3:
        return None
    best = min(measured, key=lambda line: mean_loss(line, "held_out") or 0.0)
    later = [line for line in measured if line["step"] > best["step"]][-2:]
    if len(later) < 2 or not all(_rose(best, line) and _fell(best, line) for line in later):
        return None
    return Turn(best["step"], mean_loss(best, "held_out") or 0.0, mean_loss(later[-1], "held_out") or 0.0)


def _rose(before: Line, after: Line) -> bool:
    change = np.subtract(after["held_out_parts"], before["held_out_parts"])
    error = change.std(ddof=1) / math.sqrt(len(change))
    return bool(change.mean() > RISE * np.mean(before["held_out_parts"]) + STANDARD_ERRORS * error)


def _fell(before: Line, after: Line) -> bool:
    return (mean_loss(after, "training") or 0.0) < (mean_loss(before, "training") or 0.0)


def overfitting(lines: Sequence[Line]) -> str | None:
    """Overfitting: the held-out loss rises while the training loss falls."""
    turn = turned(lines)
    if turn is None:
        return None
    return (
        f"overfitting: the held-out loss has risen from {turn.best:.4g} at step {turn.best_step} to {turn.now:.4g}, "
        "while the training loss falls: the model memorizes its pictures; give it more pictures, "
        f"{arg('augment', 'non_leaking')}, a smaller {arg('network')}, or {arg('steps', turn.best_step)}"
    )


def rate_too_high(lines: Sequence[Line]) -> str | None:
    """Skipped steps, spikes of the loss or of the gradient norm, or a loss that has risen for good.

    Compared with the lines before on a logarithmic scale, in units of their spread: the loss of a small batch is noisy
    by itself.
    """
    steps = of_kind(lines, STEP)
    recent, before = steps[-RECENT:], steps[-RECENT - BEFORE : -RECENT]
    way_out = f"use a lower {arg('learning_rate')}, or a longer {arg('warmup')}"
    skipped = sum(line["loss"] is None or line["grad_norm"] is None for line in recent)
    if skipped >= SKIPPED:
        return f"learning rate too high? {skipped} of the last {len(recent)} logged steps were not finite; {way_out}"
    for key, least, word in (("loss", 3.0, "loss"), ("grad_norm", 10.0, "gradient")):
        new, old = _logs(recent, key), _logs(before, key)
        if len(new) < RECENT // 2 or len(old) < RECENT:
            continue
        middle, spread = _middle(old)
        spikes = int((new - middle > max(math.log(least), 6 * spread)).sum())
        if spikes >= SPIKES:
            last = recent[-1]["step"]
            return f"learning rate too high? the {word} jumped {spikes} times up to step {last}; {way_out}"
    losses = _logs(steps, "loss")
    if len(losses) >= 2 * RECENT:
        ends = range(RECENT, len(losses) - RECENT + 1, RECENT)
        least = min(float(np.median(losses[end - RECENT : end])) for end in ends)
        now, (_, spread) = float(np.median(losses[-RECENT:])), _middle(losses[-RECENT:])
        if now - least > max(math.log(1.5), 10 * spread / math.sqrt(RECENT)):
            return (
                f"learning rate too high? the loss has risen from {math.exp(least):.4g} to {math.exp(now):.4g} up to "
                f"step {steps[-1]['step']}; {way_out}"
            )
    return None


def diverged(losses: Sequence[float | None], untrained: float | None, in_a_row: int = DIVERGED_LINES) -> bool:
    """Divergence: the last logged losses are all far above that of the untrained network (None where not known).

    Not a warning but a reason to go back to a checkpoint: such weights do not recover in reasonable time.
    """
    last = losses[-in_a_row:]
    if untrained is None or len(last) < in_a_row:
        return False
    return all(loss is not None and loss > DIVERGED * untrained for loss in last)


def _logs(lines: Sequence[Line], key: str) -> np.ndarray:
    values = np.array([line[key] for line in lines if line[key] is not None], float)
    return np.log(np.maximum(values, 1e-30))


def _middle(values: np.ndarray) -> tuple[float, float]:
    """The median, and the standard deviation estimated by the median absolute deviation."""
    middle = float(np.median(values))
    return middle, 1.4826 * float(np.median(np.abs(values - middle)))


def colour_drift(lines: Sequence[Line]) -> str | None:
    """Colour drift: the colours of the last two previews are off in the same way, visibly and by more than chance.

    Not before the fourth preview, nor while the difference shrinks: early samples have odd colours.
    """
    previews = [line["preview"] for line in of_kind(lines, PREVIEW)]
    if len(previews) < 4:
        return None
    last, now = previews[-2:]
    for off, words in (("mean", ("darker", "brighter")), ("std", ("with less contrast", "with more contrast"))):
        for channel in range(len(now["mean"])):
            both = [(p[f"{off}_off"][channel], p[f"{off}_z"][channel]) for p in (last, now)]
            if any(value is None for pair in both for value in pair):
                continue
            (before, _), (shift, _) = both
            stays = shift * before > 0 and abs(shift) > 0.8 * abs(before)
            if stays and all(abs(o) > DRIFT and abs(z) > STANDARD_ERRORS for o, z in both):
                which = f" in channel {channel}" if len(now["mean"]) > 1 else ""
                return (
                    f"colour drift: previews are {words[shift > 0]} than the training pictures{which} ({off} "
                    f"{now[off][channel]:.3g}, off by {abs(shift):.2g} standard deviations); if it stays, try a "
                    f"shorter average ({arg('ema', 'power:std=0.02')}), a schedule with more noise, or "
                    f"{arg('parameterization', 'edm')} where another was given"
                )
    return None


def fine_detail(lines: Sequence[Line]) -> str | None:
    """Grain, or a lack of fine detail: in the last two previews one of the two finest octaves has too much or too
    little power, beyond GRAINY or SMOOTH and by far more than sets of as many real pictures ever differ.

    Not before the fourth preview, nor while the difference shrinks: young models are grainy or smooth.
    """
    previews = [line["preview"] for line in of_kind(lines, PREVIEW)]
    if len(previews) < 4 or not all("octaves" in preview for preview in previews[-2:]):
        return None
    before, now = (_beyond_chance(preview) for preview in previews[-2:])
    stays = [k for k, off in now.items() if off * before.get(k, 0.0) > 0 and abs(off) > 0.8 * abs(before[k])]
    if not stays:
        return None
    k = max(stays, key=lambda k: abs(now[k]))
    grainy, ratio = now[k] > 0, math.exp(now[k])
    low, high = (previews[-1][f"octaves_{end}"][k] for end in ("low", "high"))
    given = ", ".join(arg(name) for name in ("preset", "network", "parameterization", "spectrum"))
    way_out = f"or the default recipe, without {given} of your own"
    if not grainy:
        average = f"a shorter average ({arg('ema', 'power:std=0.02')})"
        way_out = f"{average}, a larger {arg('network')}, or in latents less {arg('latent_noise')}"
    return (
        f"{'grainy' if grainy else 'too smooth'}: details of {2 ** (k + 1)} to {2 ** (k + 2)} pixels have "
        f"{ratio_in_words(ratio)} times as much power in previews as in training pictures (sets of as many real ones "
        f"have {low:.2g} to {high:.2g} times); if it stays, try more {arg('steps')}, {way_out}"
    )


def _beyond_chance(preview: dict[str, list[float | None]]) -> dict[int, float]:
    """The logarithm of the ratio of power for those of the finest octaves where it is off by more than chance."""
    found = {}
    for k, bounds in enumerate(zip(*(preview[f"octaves{end}"][:FINEST] for end in ("", "_low", "_high")))):
        ratio, low, high = (None if b is None else math.log(max(b, 1e-12)) for b in bounds)
        if ratio is None or low is None or high is None:
            continue
        if ratio > max(math.log(GRAINY), CHANCE * high) or ratio < min(math.log(SMOOTH), CHANCE * low):
            found[k] = ratio
    return found


RULES: dict[str, Rule] = {
    "overfitting": overfitting,
    "rate_too_high": rate_too_high,
    "colour_drift": colour_drift,
    "fine_detail": fine_detail,
}


class Diagnostics:
    """Gives each warning once: `look(lines)` returns the new ones. Those that hold when a run is resumed were given
    before."""

    def __init__(self, lines: Sequence[Line] = ()):
        self.given: set[str] = set()
        self.look(lines)

    def look(self, lines: Sequence[Line]) -> list[str]:
        """The warnings of rules that hold for these lines and were not given yet."""
        found = {name: rule(lines) for name, rule in RULES.items() if name not in self.given}
        self.given |= {name for name, line in found.items() if line}
        return [line for line in found.values() if line]
