"""What `unblot train DATA --dry-run` prints."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from unblot.errors import flag


def dry_run(data: str, args: dict[str, Any]) -> Iterator[str]:
    """Every choice of a run with what decides it, in lines."""
    from unblot import api
    from unblot.config.presets import found_by_trial_steps, reasons
    from unblot.runs.describe import latent_words
    from unblot.runs.origin import describe_origin
    from unblot.system.memory import in_words
    from unblot.training.memory import planned_bytes

    choices = {k: v for k, v in args.items() if k not in ("out", "overwrite")}
    config = api.plan(data, **choices)
    facts, train = config.data, config.train
    shape = f"{facts.height}x{facts.width}x{facts.channels}"
    yield f"data: {facts.name}, {facts.count} training {facts.kind} of {shape}, {len(facts.classes) or 'no'} classes"
    if config.latent is not None:
        how = "given" if args.get("latent") else "the size of the pictures and the budget"
        yield f"latents: {latent_words(config)} ({how})"
    if (memory := planned_bytes(config)) is not None:
        yield f"memory: about {in_words(memory)}"
    given = {k: v for k, v in choices.items() if k != "quiet"}
    rows = [(f.name, getattr(config.source, f.name), "given" if f.name in given else "default or from the data")
            for f in dataclasses.fields(config.source) if f.name != "data"]  # fmt: skip
    why = reasons(facts, given)
    if config.latent is not None:
        of_latents = "latents, which have mean 0 and standard deviation 1"
        why |= {
            name: of_latents for name in ("schedule", "data_std") if name not in given and train.preset == "default"
        }
    if "augment" not in given and train.augment != "none" and config.adapter is None:
        why["augment"] = "the budget, the number of pictures, and what turned ones are worth"
    later = found_by_trial_steps(facts, train) - set(given) if train.budget else set()
    why |= dict.fromkeys(sorted(later), "trial steps, when training starts")
    if config.origin is not None:
        why |= dict.fromkeys(config.origin.choices, "of the run that it begins with")
        yield describe_origin(config.origin)
    # What trial steps will find has a placeholder until then, which nobody should take for the plan.
    rows += [(name, None if name in later else getattr(train, name), reason) for name, reason in why.items()]
    width = max(len(flag(name)) for name, *_ in rows)
    for name, value, reason in rows:
        yield f"{flag(name):<{width}}  {'-' if value in (None, '') else value}  ({reason})"
