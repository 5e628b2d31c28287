"""How a run went, in a few lines at its end, and whether more time would help."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unblot.config.schema import RunConfig
from unblot.errors import arg, typed
from unblot.runs.folder import BEST
from unblot.runs.metrics import HELD_OUT, STEP, Line, mean_loss, of_kind
from unblot.training.diagnostics.held_out import PARTS
from unblot.training.diagnostics.rules import turned

LAST = 0.5  # the part of the run that is extrapolated
LITTLE = 0.01  # a gain below it is little
SLOWER = 1.2  # times the planned seconds of a step from which on the machine counts as slower than planned


class Session(NamedTuple):
    """One session of a run: seconds, steps taken, and the factor on the learning rate at its end.

    step_seconds, planned_step_seconds: mean seconds of a step, and as trial steps measured them; 0 where not known.
    stopped: the step after which the run was stopped before its end, 0 where it was not.
    """

    seconds: float
    taken: int
    rate_scale: float = 1.0
    step_seconds: float = 0.0
    planned_step_seconds: float = 0.0
    stopped: int = 0


def summary(folder: Path, config: RunConfig, lines: Sequence[Line], session: Session) -> list[str]:
    """Lines for people: the steps taken, the losses, the speed against the plan, and whether more time would help."""
    steps = of_kind(lines, STEP)
    if not steps:
        return []
    last, time = session.stopped or steps[-1]["step"], _duration(session.seconds)
    passes = last * config.train.batch_size / config.data.count
    how_long = f", {session.taken} of them in {time}" if session.taken < last else f" in {time}"
    skipped = sum(line["loss"] is None for line in steps)
    done = f"done      {last} steps" if not session.stopped else f"stopped   after {last} of {config.train.steps} steps"
    found = [f"{done} of {config.train.batch_size}{how_long}, {passes:.3g} passes over the data"]
    if skipped:
        found[0] += f"; {skipped} of {len(steps)} logged steps were skipped as not finite"
    if of_kind(lines, HELD_OUT):
        found.append(f"loss      {losses(lines)}")
    planned, actual = session.planned_step_seconds, session.step_seconds
    if planned and actual > SLOWER * planned and not session.stopped:
        found.append(
            f"machine   {actual / planned:.1f} times slower than planned ({actual:.3g} s a step, {planned:.3g} s in "
            "the trial steps), so the run took fewer steps; other work may have run at the same time"
        )
    if session.rate_scale < 1:
        lower = arg("learning_rate", float(f"{config.train.learning_rate * session.rate_scale:.2g}"))
        found.append(f"rate      lowered during the run: a new run with {lower} would do better")
    if session.stopped:  # whether more time than planned would help can be judged at the end
        return found
    return [*found, f"more time {more_time(lines, folder, config.train.budget)}"]


def losses(lines: Sequence[Line]) -> str:
    """The last measured losses of the averaged weights, on training and on held-out pictures, and how far they are
    apart, with two standard errors: few pictures differ by chance."""
    last = of_kind(lines, HELD_OUT)[-1]
    training, held_out = mean_loss(last, "training"), mean_loss(last, "held_out")
    text = "not finite" if training is None else f"training {training:.4g}"
    if training is not None and held_out is not None:
        chance = 2 * np.subtract(last["held_out_parts"], last["training_parts"]).std(ddof=1) / math.sqrt(PARTS)
        text += f", held-out {held_out:.4g} ({held_out / training - 1:+.1%}, give or take {chance / training:.1%})"
    return f"{text} at step {last['step']}"


def more_time(lines: Sequence[Line], folder: Path, budget: str = "") -> str:
    """Whether more steps would help, judged by the held-out loss; with the command to take them."""
    steps = of_kind(lines, STEP)[-1]["step"]
    turn = turned(lines)
    if turn is not None:
        return (
            "would not help: the model is learning its pictures by heart. Its loss on pictures that it was not trained "
            f"on (held-out) was least at step {turn.best_step}, {turn.best:.4g}, and is {turn.now:.4g} now; more "
            f"pictures or {arg('augment', 'non_leaking')} would help. The best weights are kept; sample from them "
            f"with: unblot sample {typed(folder / BEST)}"
        )
    command = f"unblot train --resume {typed(folder)} " + (f"--budget +{budget}" if budget else f"--steps {2 * steps}")
    gain = gain_of_twice(lines)
    if gain is None:
        measured = of_kind(lines, HELD_OUT)
        why = "without held-out pictures" if measured and not measured[-1]["held_out"] else "from so few measurements"
        return f"may help, but that cannot be judged {why}; go on with: {command}"
    if gain < LITTLE:
        return (
            f"would gain little: about {max(gain, 0):.1%} of the held-out loss for twice the steps; go on with: "
            f"{command}"
        )
    return f"would help: about {gain:.1%} less held-out loss for twice the steps; go on with: {command}"


def gain_of_twice(lines: Sequence[Line]) -> float | None:
    """The relative fall of the held-out loss to be expected from twice the steps; None where it is not known.

    The loss falls about as a power of the steps: the slope of its logarithm over that of the steps, in the last part of
    the run, times log 2. Where the learning rate decays to the end, part of the slope is due to the decay, so this is
    an upper bound.
    """
    measured = [(line["step"], mean_loss(line, "held_out")) for line in of_kind(lines, HELD_OUT)]
    known = [(step, loss) for step, loss in measured if step and loss is not None and loss > 0]
    known = [(step, loss) for step, loss in known if step >= (1 - LAST) * known[-1][0]]
    if len(known) < 3:
        return None
    if known[-1][1] > min(loss for _, loss in known):  # it has begun to rise, which a straight line would not see
        return 0.0
    step, loss = np.log(np.array(known, float)).T
    slope = np.polyfit(step, loss, 1)[0]
    return 1 - math.exp(float(slope) * math.log(2))


def _duration(seconds: float) -> str:
    """A time in a person's words: 48 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
