"""Adapters: low-rank additions to the weights of a run, in files of their own, applied and left out at will.

adapter.safetensors    `up` and `down` of each layer; the header has the rank, a hash of the run's weights, and
                       whether it learned without labels
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from unblot.config.schema import RunConfig
from unblot.config.transfer import AdapterFacts
from unblot.denoiser import Denoiser
from unblot.errors import UnblotError, arg
from unblot.nn.low_rank import additions, merge_low_rank
from unblot.runs.folder import build_model, fingerprint
from unblot.runs.run import Run
from unblot.system.files import checksum, read_tensors, write_tensors
from unblot.system.folders import user_path
from unblot.system.stored import parse_stored

ADAPTER, KEY = "adapter.safetensors", "unblot_adapter"


def save_adapter(run: Run) -> Path:
    """Writes the adapter of a run that trained one into its folder."""
    assert run.config.adapter is not None
    tensors: dict[str, torch.Tensor] = {}
    for name, addition in additions(run.denoiser.network).items():
        tensors |= {f"{name}.up": addition.up, f"{name}.down": addition.down}
    header = {KEY: json.dumps(dataclasses.asdict(run.config.adapter))}
    write_tensors(run.path / ADAPTER, tensors, header)
    return run.path / ADAPTER


def adapted(run: Run, files: Sequence[str]) -> Run:
    """The run with adapters added to its weights, each FILE or FILE:WEIGHT; the run that was given stays as it is.

    The files that it draws name the adapters. Raises UnblotError for a file that is no adapter of this run.
    """
    if not files:
        return run
    config, plain = merged(run.config, run.denoiser)  # an adapter that the run itself trained is part of its weights
    model, denoiser, names = fingerprint(plain), build_model(config), [*run.adapters]
    denoiser.load_state_dict(plain.state_dict())
    denoiser = denoiser.to(run.device).eval()
    for file in files:
        path, weight = split_weight(file)
        tensors, header = read_tensors(path)
        if KEY not in header:
            raise UnblotError(f"{str(path)!r} is no adapter; give the {ADAPTER} of a run that was trained as one")
        facts = parse_stored(header[KEY], AdapterFacts, f"the header of {str(path)!r}")
        if facts.model != model:
            raise UnblotError(
                f"{str(path)!r} adds to other weights than those of {str(run.path)!r}; give the run that it was trained"
                f" from, as it was then"
            )
        _add(denoiser, tensors, weight, path)
        source = dataclasses.replace(config.source, unlabelled=facts.unlabelled)  # as the last one learned
        config = dataclasses.replace(config, source=source)
        names.append(f"{path.name}:{weight:g} (sha256 {checksum(path)[:8]})")
    return dataclasses.replace(run, config=config, denoiser=denoiser, adapters=tuple(names))


def split_weight(text: str) -> tuple[Path, float]:
    """The file and the weight of `FILE` or `FILE:WEIGHT`; 1 where there is none. Raises UnblotError for no number."""
    place, colon, number = str(text).rpartition(":")
    if not colon or user_path(text).exists():
        return user_path(text), 1.0
    try:
        weight = float(number)
        if abs(weight) <= 100:
            return user_path(place), weight
    except ValueError:
        pass
    raise UnblotError(f"{arg('adapter', text)} has no weight from -100 to 100 after the colon; give FILE or FILE:0.5")


def without_adapter(denoiser: Denoiser) -> Denoiser:
    """A denoiser whose adapter, if it has one, is part of its weights."""
    merge_low_rank(denoiser.network)
    return denoiser


def merged(config: RunConfig, denoiser: Denoiser) -> tuple[RunConfig, Denoiser]:
    """A model whose adapter, if it has one, is part of its weights, all of which can be trained.

    The denoiser that was given stays as it is.
    """
    if config.adapter is None:
        return config, denoiser
    added = build_model(config)  # not a deep copy, which would lose its layers to the merging of the other
    added.load_state_dict(denoiser.state_dict())
    config = dataclasses.replace(config, adapter=None)
    plain = build_model(config)
    plain.load_state_dict(without_adapter(added).state_dict())
    return config, plain.eval()


@torch.no_grad()
def _add(denoiser: Denoiser, tensors: dict[str, torch.Tensor], weight: float, path: Path) -> None:
    parameters = dict(denoiser.network.named_parameters())
    for name in sorted({name.rpartition(".")[0] for name in tensors}):
        layer, up, down = (found.get(key) for found, key in (
            (parameters, f"{name}.weight"), (tensors, f"{name}.up"), (tensors, f"{name}.down")))  # fmt: skip
        fits = layer is not None and up is not None and down is not None
        if not fits or (up @ down).shape != layer.flatten(1).shape:  # type: ignore[union-attr,operator]
            raise UnblotError(f"{str(path)!r} is damaged: layer {name!r} is not one of this run's")
        layer += weight * (up @ down).view_as(layer).to(layer.device)  # type: ignore[operator,union-attr,arg-type]
