"""The first two lines of a training: the data, the model and the place."""

from pathlib import Path

from unblot.config.durations import format_seconds, parse_budget
from unblot.data.audit.advice import TURNS
from unblot.data.augment import AUGMENTATIONS
from unblot.errors import arg, counted
from unblot.runs.conditions import describe_text
from unblot.runs.origin import describe_origin
from unblot.specs import parse
from unblot.system.memory import in_words
from unblot.training.adversarial import decoder_seconds, decoder_steps, fine_tunes_decoder
from unblot.training.diagnostics.held_out import is_held
from unblot.training.memory import expected_bytes
from unblot.training.previews import PREVIEW_PICTURES, preview_count
from unblot.training.trainer import Trainer


def announce(trainer: Trainer, folder: Path) -> str:
    """What is about to be trained, on which data and device, and where to, in two lines, and notes."""
    data, train = trainer.config.data, trainer.config.train
    parameters = sum(p.numel() for p in trainer.denoiser.parameters())
    classes = "1 class" if len(data.classes) == 1 else f"{len(data.classes)} classes"
    labels = f", {classes}" if trainer.config.draws_labels else ""
    labels = f", in {counted(len(data.clusters), 'cluster')}" if data.clusters else labels
    shape = "x".join(str(s) for s in (data.height, data.width, data.channels))
    how = "spread over" if trainer.sharded else "whole on each of"
    processes = f", {how} {trainer.group.world} processes" if trainer.group.world > 1 else ""
    lines = [
        f"{data.name}: {counted(data.count, data.kind.removesuffix('s'))} of {shape}{labels}; preset {train.preset}, "
        f"{parameters / 1e6:.2f} M parameters on {trainer.device}{processes}",
        f"{counted(train.steps, 'step')} of {train.batch_size} into {folder}{_memory(trainer)}",
        *_savings(trainer),
    ]
    if fine_tunes_decoder(trainer.config):
        steps = decoder_steps(trainer.config)
        how_long = _decoder_time(train.budget) if steps is None else f"in {counted(steps, 'step')}"
        lines.append(f"at the end its decoder is fine-tuned against a discriminator, {how_long}")
    if trainer.config.origin is not None:
        lines.append(describe_origin(trainer.config.origin))
    if data.text is not None and data.text.pictures:  # an adapter may add to a run that reads them, without any
        lines.append(f"captions of {counted(data.text.pictures, 'picture')}, {describe_text(data.text)}")
    if data.text is None and trainer.task.batches.dataset.captions is not None:
        lines.append(f"note: captions are not read: {arg('network', train.network.partition(':')[0])} reads no text")
    turns = _turns(train.augment)
    if turns and data.text is not None and trainer.task.batches.dataset.captions is not None:
        lines.append(
            f"note: pictures are {' and '.join(turns)} under their captions, which may say what is left and right: "
            f"check them first, or train with {arg('augment', 'none')}"
        )
    if (data.num_labels or data.text) and not train.label_dropout and trainer.config.distill is None:
        lines.append(
            f"note: with {arg('label_dropout', 0.0)} the model is never trained unconditionally, so classifier-free "
            "guidance will not work"
        )
    return "\n".join(lines)


def _turns(augment: str) -> list[str]:
    """How an augmentation mirrors or turns pictures without telling the network, in words."""
    kind, options = parse(AUGMENTATIONS, augment, "augmentation")
    return [done for turn, done in TURNS.items() if kind == "plain" and options[turn]]


def _memory(trainer: Trainer) -> str:
    """The memory that the run will take, where it is known beforehand; the plan of a budget has it measured."""
    if trainer.config.train.budget or trainer.group.world > 1:
        return ""
    size = expected_bytes(trainer.config, trainer.denoiser, trainer.device)
    return "" if size is None else f", about {in_words(size)} of memory"


def _savings(trainer: Trainer) -> list[str]:
    """What is done so that large pictures fit into memory, a line each."""
    data, train, found = trainer.config.data, trainer.config.train, []
    if trainer.micro_batch < train.batch_size:
        twice = ", computing parts of itself twice" if trainer.recomputes else ""
        at_a_time = counted(trainer.micro_batch, "picture")
        found.append(
            f"note: the network takes {at_a_time} at a time{twice}, in the same steps, so that memory suffices"
        )
    few = preview_count(data) < PREVIEW_PICTURES
    anew = train.held_out_every and not is_held(train, trainer.config.x0_facts)
    if data.kind == "pictures" and (few or anew):
        shown = f"previews have {counted(preview_count(data), 'picture')} instead of {PREVIEW_PICTURES}"
        measured = "the pictures that the held-out loss is measured on are read anew each time"
        found.append(f"note: pictures are large, so {' and '.join([shown] * few + [measured] * bool(anew))}")
    return found


def _decoder_time(budget: str) -> str:
    return f"for the last {format_seconds(decoder_seconds(parse_budget(budget)[0]))} of the budget"
