"""How many fewer steps does a training need that begins with the weights of another run? JSON on the standard output.

    python benchmarks/transfer.py SOURCE DATA --steps 240 --all augment:none --way 'same=' --way 'a quarter=old:0.25'

SOURCE is a run. On DATA a model of the same network is trained from scratch for --steps steps, and for each way of
beginning with the source's weights for an eighth, a quarter, a half and all of them; each with its own learning rate
schedule, decayed to its end. The held-out loss (of the averaged weights, 320 pictures at fixed levels and noise) is
read at the end. The factor is --steps over the number of steps that reaches the loss from scratch, interpolated in the
logarithm of the steps.

Ways are written NAME=CHANGE;CHANGE: rate:X multiplies the learning rate, old:X that of the layers that were taken whole
(0 freezes them), adapter:RANK trains an addition alone, CHOICE:VALUE is a choice of the training. --all is a choice of
every training but that of adapters, whose recipe is the source's.
"""

import argparse
import json
import math
import time
from typing import Any

import torch

from unblot.config.schema import DataConfig
from unblot.data.dataset import Dataset, open_data
from unblot.runs.metrics import mean_loss
from unblot.training.adapter import adapter_config, put_below
from unblot.training.diagnostics.held_out import HeldOutLoss
from unblot.training.plan import plan_run
from unblot.training.task import DenoisingTask
from unblot.training.trainer import Trainer, denoising_trainer
from unblot.training.transfer import Pretrained, inherit_choices, matched, pretrained_of, with_origin

SHARES = (1 / 8, 1 / 4, 1 / 2, 1)


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    source_data = DataConfig(data=args.data, size=args.size, held_out=args.held_out)
    dataset = open_data(args.data, size=args.size, held_out=args.held_out)
    scratch = trained(source_data, dataset, args, None, args.steps, {})
    line: dict[str, Any] = {"from": args.source, "data": dataset.name, "steps": args.steps, "scratch": scratch}
    print(json.dumps(line), flush=True)
    for way in args.way or ["same="]:
        name, _, changes = way.partition("=")
        change = dict(part.split(":", 1) for part in changes.split(";") if part)
        curve = {}
        for steps in (max(1, round(args.steps * share)) for share in SHARES):
            start = pretrained_of({"from_": args.source})
            curve[steps] = trained(source_data, dataset, args, start, steps, dict(change))
            if curve[steps]["loss"] <= scratch["loss"]:
                break
        line = {"way": name, "changes": changes, "curve": curve, "factor": factor(curve, scratch["loss"], args.steps)}
        print(json.dumps(line), flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("data")
    parser.add_argument("--size")
    parser.add_argument("--held-out", type=float, default=0.2)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--all", action="append", default=[], metavar="CHOICE:VALUE")
    parser.add_argument("--way", action="append")
    return parser.parse_args()


def trained(
    data: DataConfig,
    dataset: Dataset,
    args: argparse.Namespace,
    start: Pretrained | None,
    steps: int,
    change: dict[str, str],
) -> dict[str, float]:
    """The held-out loss before and after a training, and its CPU seconds without measuring."""
    if "adapter" in change and start is not None:
        return trained_adapter(data, dataset, args, start._replace(rank=int(change.pop("adapter"))), steps, change)
    rate, old = (float(change.pop(name, 1)) for name in ("rate", "old"))
    like = start or pretrained_of({"from_": args.source})
    choices: dict[str, Any] = {"steps": steps, "batch_size": args.batch_size, "seed": args.seed, **change}
    choices |= dict(choice.split(":", 1) for choice in args.all)
    begun = inherit_choices(like, dataset, choices)  # from scratch with the same network and recipe
    config = plan_run(data, dataset, choices)
    config = plan_run(data, dataset, {**choices, "learning_rate": config.train.learning_rate * rate})
    trainer = denoising_trainer(with_origin(config, start, begun), dataset, start)
    if start is not None and old != 1:
        hold_back(trainer, start, old)
    return after(trainer, steps)


def trained_adapter(
    data: DataConfig, dataset: Dataset, args: argparse.Namespace, start: Pretrained, steps: int, change: dict[str, str]
) -> dict[str, float]:
    """The same of an adapter, and its numbers."""
    choices: dict[str, Any] = {"steps": steps, "batch_size": args.batch_size, "seed": args.seed}
    choices |= {name: float(value) for name, value in change.items()}
    config, dataset = adapter_config(start, data, dataset, choices, quiet=True)
    task = DenoisingTask(config, dataset)
    put_below(task.denoiser, start)
    numbers = sum(p.numel() for p in task.learners["denoiser"].parameters())
    return after(Trainer(config, task), steps) | {"numbers": numbers}


def after(trainer: Trainer, steps: int) -> dict[str, float]:
    """The held-out loss before and after the steps, and their CPU seconds."""
    held_out = HeldOutLoss(trainer.config, trainer.task, trainer.group, trainer.device)
    first = measured(trainer, held_out)
    before = time.process_time()
    for _ in range(steps):
        trainer.take_step()
    seconds = time.process_time() - before
    return {"first": round(first, 4), "loss": round(measured(trainer, held_out), 4), "cpu_seconds": round(seconds, 1)}


def measured(trainer: Trainer, held_out: HeldOutLoss) -> float:
    """The held-out loss of the averaged weights."""
    with trainer.averaged():
        line = held_out.measure(trainer.step)
    loss = mean_loss({**line, "held_out": line["held_out"].tolist()}, "held_out")
    assert loss is not None
    return loss


def hold_back(trainer: Trainer, start: Pretrained, share: float) -> None:
    """Lets the layers that were taken whole go only this share of each step: as a lower learning rate does.

    The update of AdamW and of Muon is in proportion to the learning rate.
    """
    new = dict(trainer.denoiser.named_parameters())
    found = matched(start, start.weights, trainer.config, {name: p.shape for name, p in new.items()})
    taken = [new[name] for name, match in found.items() if match.axes is not None and not match.why]
    optimizer = trainer.optimizers["denoiser"]
    whole_step = optimizer.step

    def step(rate: float, bad: torch.Tensor) -> None:
        before = [p.detach().clone() for p in taken]
        whole_step(rate, bad)
        with torch.no_grad():
            for p, b in zip(taken, before, strict=True):
                p.copy_(torch.lerp(b, p, share))

    optimizer.step = step  # type: ignore[method-assign]


def factor(curve: dict[int, dict[str, float]], wanted: float, steps: int) -> float | None:
    """How many times fewer steps reach the wanted loss; None where even all of them do not."""
    before: tuple[float, float] | None = None
    for taken, point in curve.items():
        loss = point["loss"]
        if loss <= wanted:
            if before is None:
                return round(steps / taken, 1)  # at least
            share = (before[1] - wanted) / (before[1] - loss)
            return round(steps / math.exp(before[0] + share * (math.log(taken) - before[0])), 1)
        before = math.log(taken), loss
    return None


if __name__ == "__main__":
    main()
