"""What the samples of a run show: the prompts of a call, or labels and captions as in the training data."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from unblot.config.sampling import EditConfig, SampleConfig
from unblot.config.schema import DataFacts, RunConfig, TextFacts
from unblot.denoiser import Condition, Denoiser
from unblot.errors import UnblotError, arg, counted, note
from unblot.process.randomness import labels_for, spread_labels, training_order
from unblot.runs.labels import choose_labels, labels_as_trained
from unblot.text.encoder import TextEncoder
from unblot.text.frozen import FrozenEncoder
from unblot.text.tokenizer import captions_of
from unblot.text.words import MOST_WORDS, unseen

if TYPE_CHECKING:  # sampling needs no reader of data
    from unblot.data.dataset import Dataset

NAMED = 12  # unseen words named in a note


def conditions(
    denoiser: Denoiser,
    run: RunConfig,
    config: SampleConfig | EditConfig,
    indices: Sequence[int],
) -> tuple[list[int] | None, list[str] | None, Condition]:
    """Classes, prompts and condition of the samples numbered `indices`.

    Raises UnblotError for a label or a prompt that the run cannot use, and for an edit that would need pictures without
    a label of a model that never saw any.
    """
    data = run.data
    if isinstance(config, EditConfig) and config.label is None and never_unlabelled(run):
        way = f"give {arg('label')}" if data.classes else f"train with {arg('label_dropout', 0.15)}"
        if run.distill is not None:
            way = f"edit with its teacher, {run.distill.teacher!r}"
        raise UnblotError(
            f"this model never saw pictures without a {'label' if data.classes else 'cluster'}, as an edit without one "
            f"needs it; {way}"
        )
    chosen = choose_labels(config.label, data.classes, indices)
    labels = None if chosen is None else torch.tensor(chosen)
    if labels_by_share(run, config):
        labels = spread_labels(config.seed, indices, run.label_shares)
        chosen = labels.tolist() if run.draws_labels else None  # clusters have no names
        if config.prompt is not None:
            note(f"this model never saw pictures without a label, and shows them all; give {arg('label')} to choose")
    prompts = choose_prompts("prompt", config.prompt, data.text, indices)
    negatives = choose_prompts("negative", config.negative, data.text, indices[:1])
    texts = [""] * len(indices) if prompts is None and negatives else prompts
    note_on_prompts([*(prompts or []), *(negatives or [])], data.text, denoiser.text_encoder)
    return chosen, prompts, denoiser.condition(labels, texts)


def labels_by_share(run: RunConfig, config: SampleConfig | EditConfig) -> bool:
    """Whether samples show labels as often as the data does: where a call asks for none, and either says nothing else
    of what they show, or the model never saw pictures without. An edit begins with a picture, which shows something."""
    if config.label is not None or not run.label_shares or not isinstance(config, SampleConfig):
        return False
    return config.prompt is None or never_unlabelled(run)


def never_unlabelled(run: RunConfig) -> bool:
    """Whether the model knows labels or clusters, and never saw pictures without one."""
    return bool(run.label_shares) and not run.train.label_dropout


def needs_clusters(run: RunConfig) -> bool:
    """Whether the model never saw pictures without their cluster, which is known of training pictures alone."""
    return bool(run.data.clusters) and never_unlabelled(run)


def towards(data: DataFacts) -> str:
    """What guidance leads towards, and how that is given."""
    if data.text is None and not data.classes:
        return f"a label or a text, and this run learned neither; leave it out, or give {arg('autoguide')}"
    if data.text is None:
        return f"a label; give one with {arg('label')}"
    if not data.classes:
        return f"a text; give one with {arg('prompt')}"
    return f"a label or a text; give one with {arg('label')} or {arg('prompt')}"


def tokens_of(config: RunConfig) -> tuple[str, int, str] | None:
    """What decides the tokens that a run reads a text as; None where it reads none."""
    text, spec = config.data.text, config.train.text_encoder
    frozen = spec.partition(",width=")[0] if spec.startswith("transformers:") else ""
    return None if text is None else (text.merges, text.length, frozen)


def describe_text(text: TextFacts) -> str:
    """What a run learned from its captions, in words."""
    count = len(text.words.split(" "))
    known = f"{counted(count, 'word')}" if count < MOST_WORDS else f"the {count:,} commonest words"
    cut = f"; {counted(text.cut, 'longer caption')} {'was' if text.cut == 1 else 'were'} cut" if text.cut else ""
    return f"{known}, up to {text.length} tokens{cut}"


def choose_prompts(
    name: str, prompt: str | Sequence[str] | None, text: TextFacts | None, indices: Sequence[int]
) -> list[str] | None:
    """The text of each sample numbered `indices`, for a text or several that take turns; None for none.

    name: of the choice, "prompt" or "negative". Raises UnblotError where the run reads no captions, and for no text.
    """
    if prompt is None:
        return None
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if text is None:
        raise UnblotError(
            f"{arg(name, prompts[0] if prompts else '')} asks for words, and this run was trained without captions"
        )
    if not prompts:
        raise UnblotError(f"{arg(name, [])} holds no prompt; leave it out to sample without a text")
    return [prompts[i % len(prompts)] for i in indices]


def note_on_turns(prompt: str | Sequence[str] | None, count: int) -> None:
    """Notes the prompts of a call that are not drawn, where it draws fewer pictures than it has prompts."""
    prompts = 0 if prompt is None or isinstance(prompt, str) else len(prompt)
    if prompts > count:
        left = f"{prompts - count} of these {'is' if prompts - count == 1 else 'are'} not drawn"
        note(f"{counted(count, 'picture')} for {prompts} prompts: {left}")


def note_on_prompts(
    prompts: Iterable[str], text: TextFacts | None, encoder: TextEncoder | FrozenEncoder | None
) -> None:
    """Notes the words that no caption of the training data had, and prompts that are too long."""
    if text is None or encoder is None:
        return
    prompts = list(dict.fromkeys(prompts))
    known = text.words.split(" ")
    if strange := unseen(prompts, known):
        more = f" and {len(strange) - NAMED} more" if len(strange) > NAMED else ""
        where = "not in any caption" if len(known) < MOST_WORDS else "not in enough captions"
        note(f"{where} that this run learned from: {', '.join(strange[:NAMED])}{more}")
    sizes = encoder.tokenizer.sizes(prompts)
    if long := sum(size > text.length for size in sizes):
        those = "a prompt is" if long == 1 else f"{long} prompts are"
        note(f"{those} longer than the longest caption, {text.length} tokens; the rest is cut")


def pictures_and_condition(denoiser: Denoiser, dataset: "Dataset", indices: np.ndarray) -> tuple[Tensor, Condition]:
    """Pictures (B, C, H, W) and their condition: label and first caption, where the denoiser uses them."""
    x0, label = dataset.batch(indices)
    return x0, denoiser.condition(label, captions_of(dataset.captions, indices.tolist()))


def condition_as_trained(denoiser: Denoiser, data: DataFacts, dataset: "Dataset", seed: int, count: int) -> Condition:
    """What `count` samples show: labels and captions of training pictures in random order, or clusters by shares."""
    classes, prompts = as_trained(data, dataset, seed, count).values()
    labels = labels_for(seed, range(count), clusters=data.clusters) if classes is None else torch.tensor(classes)
    return denoiser.condition(labels, prompts)


def as_trained(data: DataFacts, dataset: "Dataset", seed: int, count: int) -> dict[str, Any]:
    """The choices `label` and `prompt` of `count` samples: of training pictures in random order, each perhaps None."""
    order = training_order(len(dataset.train), seed, count)
    prompts = captions_of(dataset.captions, dataset.train[order.numpy()].tolist()) if data.text else None
    return {"label": labels_as_trained(data, dataset, seed, count), "prompt": prompts}
