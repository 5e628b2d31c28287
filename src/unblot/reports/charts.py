"""The charts of the pages: metrics with intervals, losses, power spectra, candidates of a tuning, changes of a film."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from unblot.evaluation.distances import Z95
from unblot.sampling.changes import Changes
from unblot.sampling.settings import Candidate, front
from unblot.system.plots import COLOURS, chart, chart_picture, log_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL import Image

SIDES = {"training": "real", "held_out": "samples"}  # whose loss, and its colour


def intervals(rows: Sequence[tuple[str, str, dict[str, Any]]]) -> Markup:
    """Values with their 95 % intervals on one axis; rows of (label, colour, metric). "" where none has an interval."""
    rows = [row for row in rows if row[2]["low"] is not None]

    def draw(axes: "Axes") -> None:
        for i, (_, colour, metric) in enumerate(rows):
            value, low, high = metric["value"], metric["low"], metric["high"]
            errors = [[max(0.0, value - low)], [max(0.0, high - value)]]  # a rounding below zero is refused
            axes.errorbar(value, i, xerr=errors, fmt="o", color=COLOURS[colour], markersize=7, elinewidth=3)
        axes.set_yticks(range(len(rows)), [label for label, *_ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.locator_params(axis="x", nbins=5)
        axes.grid(False, axis="y")
        axes.spines.left.set_visible(False)
        axes.tick_params(axis="y", length=0)

    return Markup(chart(360, 32 + 26 * len(rows), "values with 95 % intervals", draw)) if rows else Markup("")


def losses_by_level(bins: Sequence[dict[str, float]]) -> Markup:
    """Training and held-out loss by noise level sigma/alpha, with 95 % intervals; the loss on a logarithmic axis."""

    def draw(axes: "Axes") -> None:
        values = [b[side] for b in bins for side in SIDES]
        low, high = max(min(values), 1e-9) / 1.3, max(values) * 1.3
        x = range(len(bins))
        for side, colour in SIDES.items():
            ends = ([b[side] + sign * b[f"{side}_half"] for b in bins] for sign in (-1, 1))
            lower, upper = ([min(max(low, end), high) for end in side_ends] for side_ends in ends)
            axes.fill_between(x, lower, upper, color=COLOURS[colour], alpha=0.2, linewidth=0)
            axes.plot(x, [b[side] for b in bins], color=COLOURS[colour], linewidth=2.5)
        log_axis(axes, "y", low, high)
        ticks = sorted({0, len(bins) // 2, len(bins) - 1})
        axes.set_xticks(ticks, [f"{2.718281828 ** bins[i]['log_noise_ratio']:.2g}" for i in ticks])
        axes.set(xlabel="noise, as a multiple of the picture", ylabel="loss")

    return Markup(chart(400, 250, "loss by noise level", draw))


def loss_history(history: Sequence[dict[str, Any]]) -> Markup:
    """Training and held-out loss over the steps of a run, on a logarithmic axis; "" where there are too few."""
    curves = {colour: [(h["step"], h[side]) for h in history if h[side]] for side, colour in SIDES.items()}
    curves = {colour: curve for colour, curve in curves.items() if len(curve) > 2}

    def draw(axes: "Axes") -> None:
        losses = [loss for curve in curves.values() for _, loss in curve]
        for colour, curve in curves.items():
            axes.plot(*zip(*curve), color=COLOURS[colour], linewidth=2.5)
        log_axis(axes, "y", min(losses) / 1.1, max(losses) * 1.1)
        axes.locator_params(axis="x", nbins=4)
        axes.set(xlabel="training steps", ylabel="loss")

    return Markup(chart(400, 250, "loss during training", draw)) if curves else Markup("")


def power_ratios(octaves: Sequence[dict[str, Any]], low: float, high: float) -> Markup:
    """Power of the samples over that of real pictures in each octave, finest first; low to high is right."""
    shown = [octave for octave in octaves if octave["ratio"]]

    def draw(axes: "Axes") -> None:
        axes.axhspan(low, high, color=COLOURS["real"], alpha=0.2, linewidth=0)
        axes.axhline(1, color=COLOURS["real"], linewidth=1.5, linestyle="--")
        x, ratios = range(len(shown)), [o["ratio"] for o in shown]
        least = min(o["low"] for o in shown) or min(ratios) / 2
        errors = [[o["ratio"] - max(o["low"], least) for o in shown], [o["high"] - o["ratio"] for o in shown]]
        axes.errorbar(x, ratios, yerr=errors, fmt="o-", color=COLOURS["samples"], elinewidth=3, markersize=7)
        log_axis(axes, "y", min(least, 0.7) / 1.1, max(*(o["high"] for o in shown), 1.45) * 1.1)
        axes.set_xticks(x, [f"{o['pixels']}–{2 * o['pixels']}" for o in shown[:-1]] + [f"{shown[-1]['pixels']}+"])
        axes.set(xlabel="size of the detail, in pixels", ylabel="power, samples / real")

    return Markup(chart(400, 240, "power spectrum of samples over real pictures", draw)) if shown else Markup("")


def candidates_chart(
    candidates: Sequence[Candidate],
    others: Sequence[Candidate],
    floor: float | None,
    chosen: Mapping[str, Candidate],
    distance: str,
) -> Markup:
    """A distance over NFE, on logarithmic axes; that of the distance is linear where one is not above 0.

    The line joins the candidates that nothing beats. distance: what it is called.
    """
    top = 2.6 * max(0.0, *(c.distance for c in candidates))
    fewest, most = (f(c.nfe for c in candidates) for f in (min, max))
    shown = [c for c in others if c.distance <= top and fewest <= c.nfe <= most]
    known = [*(c.distance for c in (*candidates, *shown)), *([] if floor is None else [floor])]
    logarithmic = min(known) > 0
    halves = [Z95 * c.spread for c in candidates]
    lows = [min(half, c.distance / 2) if logarithmic else half for c, half in zip(candidates, halves)]

    def draw(axes: "Axes") -> None:
        if floor is not None:
            axes.axhline(floor, color=COLOURS["real"], linestyle="--", linewidth=1.5)
        axes.plot(
            [c.nfe for c in shown], [c.distance for c in shown], "o", color=COLOURS["real"], markersize=5, alpha=0.5
        )
        axes.plot(*zip(*((c.nfe, c.distance) for c in front(candidates))), color=COLOURS["samples"], linewidth=2.5)
        for c, low, half in zip(candidates, lows, halves):
            face = "none" if c.sampler.guided else COLOURS["samples"]
            errors = [[low], [half]]
            axes.errorbar(c.nfe, c.distance, yerr=errors, fmt="s", color=COLOURS["samples"], mfc=face, markersize=7)
        for c in {id(c): c for c in chosen.values()}.values():
            words = ", ".join(quality for quality, found in chosen.items() if found is c)
            side = "left" if c.nfe == fewest else "right" if c.nfe == most else "center"
            axes.annotate(words, (c.nfe, c.distance + Z95 * c.spread), (0, 6), textcoords="offset points", ha=side)
        if logarithmic:
            ends = [c.distance - low for c, low in zip(candidates, lows)]
            highest = max(*known, *(c.distance + half for c, half in zip(candidates, halves)))
            log_axis(axes, "y", max(min(*known, *ends), 1e-6) / 1.2, highest * 1.2)
        log_axis(axes, "x", fewest / 1.15, most * 1.15)
        axes.set_xticks(sorted({c.nfe for c in candidates}))
        axes.set(xlabel="NFE (network calls for a picture)", ylabel=distance)

    return Markup(chart(440, 320, "distance over NFE", draw))


def changes_chart(width: int, found: Changes) -> "Image.Image":
    """The share of the whole change of x0_hat at each step, for coarse and fine waves, `width` pixels wide.

    A dotted line marks the step after which half of a change is over.
    """
    bands = {"coarse": (found.coarse, "samples", "o-"), "fine": (found.fine, "training", "s-")}

    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator

        for name, (band, colour, line) in bands.items():
            if (half := band.half()) is None:
                continue
            steps, shares = range(2, len(band.share) + 2), (100 * band.share).tolist()
            marker = 5 if len(shares) <= 60 else 0
            axes.fill_between(steps, 0, shares, color=COLOURS[colour], alpha=0.15, linewidth=0)
            axes.plot(steps, shares, line, color=COLOURS[colour], markersize=marker, linewidth=2, label=name)
            axes.axvline(half, color=COLOURS[colour], linestyle=":", linewidth=2)
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        axes.set(xlabel="step", ylabel="share of the change, %")
        axes.legend(title=f"fine: from {found.border_cycles:g} cycles a picture on", ncols=2, loc="best")

    return chart_picture(width, 240, draw)
