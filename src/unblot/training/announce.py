"""The first two lines of a training: the data, the model and the place."""

from pathlib import Path

from unblot.data.readers.listing import counted
from unblot.errors import arg
from unblot.runs.conditions import describe_text
from unblot.training.trainer import Trainer


def announce(trainer: Trainer, folder: Path) -> str:
    """What is about to be trained, on which data and device, and where to, in two lines, and notes."""
    data, train = trainer.config.data, trainer.config.train
    parameters = sum(p.numel() for p in trainer.denoiser.parameters())
    classes = "1 class" if len(data.classes) == 1 else f"{len(data.classes)} classes"
    labels = f", {classes}" if data.classes else ""
    labels = f", in {counted(len(data.clusters), 'cluster')}" if data.clusters else labels
    shape = "x".join(str(s) for s in (data.height, data.width, data.channels))
    how = "spread over" if trainer.sharded else "whole on each of"
    processes = f", {how} {trainer.group.world} processes" if trainer.group.world > 1 else ""
    lines = [
        f"{data.name}: {counted(data.count, data.kind.removesuffix('s'))} of {shape}{labels}; preset {train.preset}, "
        f"{parameters / 1e6:.2f} M parameters on {trainer.device}{processes}",
        f"{counted(train.steps, 'step')} of {train.batch_size} into {folder}",
    ]
    if trainer.micro_batch < train.batch_size:
        lines.append(
            f"note: {trainer.micro_batch} pictures at a time go through the network, in the same steps, so that they "
            "fit into memory"
        )
    if data.text is not None:
        lines.append(f"captions of {counted(data.text.pictures, 'picture')}, {describe_text(data.text)}")
    if (data.num_labels or data.text) and not train.label_dropout and trainer.config.distill is None:
        lines.append(
            f"note: with {arg('label_dropout', 0.0)} the model always sees what a picture shows: guidance will not work"
        )
    return "\n".join(lines)
