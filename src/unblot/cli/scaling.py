"""What `unblot plan DATA --devices 8xH100` prints."""

from typing import Any

from unblot.cli.commands import say


def plan_command(args: dict[str, Any]) -> None:
    """Say what a training would take on other machines, before they are rented: seconds of a step, pictures/s, memory
    of a device, and the number of devices beyond which one more gains less than half of its share.

    For GPUs it is computed from their makers' figures and stated assumptions; for CPUs (--devices 2xcpu) from trial
    steps here. Nothing is trained. See docs/scale.md.
    """
    from unblot import api
    from unblot.config.commands import PlanConfig
    from unblot.errors import counted
    from unblot.runs.describe import latent_words
    from unblot.system.memory import in_words
    from unblot.training.forecast import hours_needed, steps_within

    hours = PlanConfig(hours=args.pop("hours", None)).hours
    found = api.forecast(args.pop("data"), **args)
    data, train, wanted, one = found.config.data, found.config.train, found.wanted, found.steps[0]
    pictures = f"{counted(data.count, data.kind.removesuffix('s'))} of {data.height}x{data.width}x{data.channels}"
    network = f"{train.network}, {found.parameters / 1e6:.2f} M parameters"
    say(f"{data.name}: {pictures}\n{network}\n{counted(train.steps, 'step')} of {train.batch_size}")
    if found.first_steps:
        each = found.devices.first
        say(f"latents: {latent_words(found.config)}")
        in_all = _time(found.first_steps * each / 3600)
        say(f"its autoencoder is trained first, on one device: {1e3 * each:.2f} ms a step, {in_all} in all")
    say("\n".join(found.devices.told))
    say("devices  pictures each  step, ms  sending  pictures/s  times one  memory each")
    for step in found.steps:
        fits = found.devices.memory is None or step.memory < found.devices.memory
        notes = [in_words(round(step.memory)), *["sharded"] * step.sharded, *["in parts, to fit"] * (not fits)]
        say(
            f"{step.devices:7d}  {step.pictures:13d}  {1e3 * step.seconds:8.2f}  {step.sending / step.seconds:7.0%}  "
            f"{train.batch_size / step.seconds:10.0f}  {one.seconds / step.seconds:9.1f}  {', '.join(notes)}"
        )
    end = "one more device gains less than half of its share"
    say(f"from {counted(found.ends, 'device')} on {end}" if found.ends else f"nowhere up to the last row {end}")
    what = f"{wanted.devices}x{found.devices.name}"
    say(f"the run as planned takes {_time(hours_needed(found))} on {what}")
    if hours is not None:
        first, steps = steps_within(found, hours)
        seen = f"{steps * train.batch_size} pictures, {steps * train.batch_size / data.count:.1f} passes over the data"
        after = f" after {counted(first, 'step')} of the autoencoder" if first else ""
        say(f"{_time(hours)} on {what} are {counted(steps, 'step')}{after}: {seen}")


def _time(hours: float) -> str:
    from unblot.config.durations import format_seconds

    return format_seconds(3600 * hours)
