"""What is about to be trained, in two lines."""

from pathlib import Path

from unblot.training.trainer import Trainer


def announce(trainer: Trainer, folder: Path) -> str:
    """What is about to be trained, on what, where, in two lines."""
    data, train = trainer.config.data, trainer.config.train
    parameters = sum(p.numel() for p in trainer.denoiser.parameters())
    labels = f", {len(data.classes)} classes" if data.classes else ""
    labels = f", in {len(data.clusters)} clusters" if data.clusters else labels
    shape = "x".join(str(s) for s in (data.height, data.width, data.channels))
    how = "spread over" if trainer.sharded else "whole on each of"
    processes = f", {how} {trainer.group.world} processes" if trainer.group.world > 1 else ""
    return (
        f"{data.name}: {data.count} {data.kind} of {shape}{labels}; preset {train.preset}, "
        f"{parameters / 1e6:.2f} M parameters on {trainer.device}{processes}\n"
        f"{train.steps} steps of {train.batch_size} into {folder}"
    )
