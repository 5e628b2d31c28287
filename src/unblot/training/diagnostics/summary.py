"""How a run went, in a few lines at its end, and whether more time would help."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unblot.config.schema import RunConfig
from unblot.runs.folder import BEST
from unblot.runs.metrics import HELD_OUT, STEP, Line, mean_loss, of_kind
from unblot.training.diagnostics.rules import turned

LAST = 0.5  # the part of the run that is extrapolated from
LITTLE = 0.01  # a gain below it is little


def summary(
    folder: Path, config: RunConfig, lines: Sequence[Line], seconds: float, taken: int, rate_scale: float = 1.0
) -> list[str]:
    """Lines for people: what was done (`taken` steps in `seconds`), the losses, and whether more time would help.

    rate_scale: what the learning rate was multiplied by after the run had gone wrong.
    """
    steps = of_kind(lines, STEP)
    if not steps:
        return []
    last = steps[-1]["step"]
    passes = last * config.train.batch_size / config.data.count
    how_long = f", {taken} of them in {_duration(seconds)}" if taken < last else f" in {_duration(seconds)}"
    skipped = sum(line["loss"] is None for line in steps)
    told = [f"done      {last} steps of {config.train.batch_size}{how_long}, {passes:.3g} passes over the data"]
    if skipped:
        told[0] += f"; {skipped} of {len(steps)} logged steps were skipped as not finite"
    if of_kind(lines, HELD_OUT):
        told.append(f"loss      {losses(lines)}")
    if rate_scale < 1:
        lower = f"{config.train.learning_rate * rate_scale:.2g}"
        told.append(f"rate      lowered to {lower} on the way: a new run with --learning-rate {lower} would do better")
    return [*told, f"more time {more_time(lines, folder, config.train.budget)}"]


def losses(lines: Sequence[Line]) -> str:
    """The last measured losses of the averaged weights, on training and on held-out pictures."""
    last = of_kind(lines, HELD_OUT)[-1]
    training, held_out = mean_loss(last, "training"), mean_loss(last, "held_out")
    text = "not finite" if training is None else f"training {training:.4g}"
    if training is not None and held_out is not None:
        text += f", held-out {held_out:.4g} ({held_out / training - 1:+.1%})"
    return f"{text} at step {last['step']}"


def more_time(lines: Sequence[Line], folder: Path, budget: str = "") -> str:
    """Whether more steps would help, from the held-out loss; with the command to take them."""
    steps = of_kind(lines, STEP)[-1]["step"]
    turn = turned(lines)
    if turn is not None:
        return (
            f"would not help: the held-out loss was least at step {turn.best_step} ({turn.best:.4g}, now "
            f"{turn.now:.4g}); more pictures or --augment would. Draw from the best: unblot sample {folder / BEST}"
        )
    command = f"unblot train --resume {folder} " + (f"--budget +{budget}" if budget else f"--steps {2 * steps}")
    gain = gain_of_twice(lines)
    if gain is None:
        measured = of_kind(lines, HELD_OUT)
        why = "without held-out pictures" if measured and not measured[-1]["held_out"] else "from so few measurements"
        return f"may help, {why} it cannot be told; go on with: {command}"
    if gain < LITTLE:
        return (
            f"would gain little: twice the steps about {max(gain, 0):.1%} of the held-out loss; go on with: {command}"
        )
    return f"would help: twice the steps about {gain:.1%} less held-out loss; go on with: {command}"


def gain_of_twice(lines: Sequence[Line]) -> float | None:
    """The share by which the held-out loss would fall in twice the steps; None where it is not known.

    It falls about as a power of the steps: the slope of its logarithm over that of the steps, in the last part of the
    run, times log 2. Where the learning rate decays to the end, part of the slope is the decay, so it is an
    upper estimate.
    """
    measured = [(line["step"], mean_loss(line, "held_out")) for line in of_kind(lines, HELD_OUT)]
    known = [(step, loss) for step, loss in measured if step and loss is not None and loss > 0]
    known = [(step, loss) for step, loss in known if step >= (1 - LAST) * known[-1][0]]
    if len(known) < 3:
        return None
    step, loss = np.log(np.array(known, float)).T
    slope = np.polyfit(step, loss, 1)[0]
    return 1 - math.exp(float(slope) * math.log(2))


def _duration(seconds: float) -> str:
    """A time as one says it: 48 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
