"""The models of a service, and from a request to a job of its queue."""

import tempfile
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from unblot.config.edits import EDITS
from unblot.config.sampling import SampleConfig
from unblot.config.serving import ServeConfig
from unblot.data.output import picture_suffix
from unblot.data.values import ValueMap
from unblot.editing.files import edit_files
from unblot.editing.result import EditResult
from unblot.errors import UnblotError, arg
from unblot.runs.run import Run, load
from unblot.runs.samples import Samples
from unblot.runs.together import Call, checked_call, sample_together
from unblot.sampling.settings import SamplerConfig
from unblot.serving.queue import Check
from unblot.serving.requests import Choices, EditRequest, SampleRequest

BEGINNINGS = {  # of files, which tell their type whatever a client calls it
    b"\x89PNG\r\n\x1a\n": ".png",
    b"\xff\xd8\xff": ".jpg",
    b"II*\x00": ".tif",
    b"MM\x00*": ".tif",
    b"\x93NUMPY": ".npy",
}
OWN = {kind: [f.name for f in fields(edit.choices)] for kind, edit in EDITS.items()} | {"interpolate": ["other"]}
MOST_BORDER = 4  # outpainted pixels to a side, as a multiple of the run's height or width


class UnknownModel(UnblotError):
    """A request names no model of this service."""


def load_models(runs: Sequence[str | Path], device: str = "auto") -> dict[str, "Model"]:
    """The models of runs, by the names of their folders. Raises UnblotError for two of one name."""
    models: dict[str, Model] = {}
    for path in runs:
        run = load(path, device)
        name = run.path.resolve().name
        if name in models:
            raise UnblotError(f"two runs are named {name!r}, and requests name a model by its run; rename a folder")
        if run.config.data.kind == "points":
            raise UnblotError(f"{str(run.path)!r} was trained on points in the plane; a service draws pictures")
        models[name] = Model(name, run)
    return models


def chosen(models: dict[str, "Model"], name: str | None) -> "Model":
    """The model of this name. Raises UnknownModel where there is none, and for no name where there are several."""
    if name is None and len(models) == 1:
        return next(iter(models.values()))
    if name not in models:
        asked = "no model is named" if name is None else f"no model {name!r}"
        raise UnknownModel(f"{asked}; choose one of {', '.join(models)}")
    return models[name]


@dataclass(frozen=True, eq=False)
class Model:
    """A run that is served, by its name."""

    name: str
    run: Run

    def call(self, request: SampleRequest, limits: ServeConfig) -> Call:
        """The checked call of a request. Raises UnblotError for what this run cannot use, and beyond the limits."""
        _check_limits(request, limits)
        config = SampleConfig(**_common(request), n=request.count)
        given = (request.label is not None, bool(request.prompt), bool(request.negative))
        sampler = _sampler(self, request.steps, request.solver, request.spacing, request.guidance, *given)
        _check_steps(sampler.steps, limits)
        return checked_call(self.run, sampler, config, request.first)

    def key(self, call: Call) -> Hashable:
        """Calls of an equal key are sampled together."""
        return self.name, *call.shared

    def sample(self, calls: Sequence[Call], check: Check) -> Sequence[Samples | Exception]:
        """The samples of calls of one key."""
        return sample_together(self.run, calls, lambda progress: check())

    def checked_edit(self, request: EditRequest, limits: ServeConfig) -> EditRequest:
        """The request. Raises UnblotError beyond the limits, and for fields that do not go with its kind."""
        _check_limits(request, limits)
        height, width = self.run.config.data.shape[1:]
        sides = {"left": width, "right": width, "top": height, "bottom": height}
        for side, size in sides.items():
            if getattr(request, side) > MOST_BORDER * size:
                raise UnblotError(f"{arg(side, getattr(request, side))} is too far; give {MOST_BORDER * size} or less")
        if request.kind == "img2img" and request.steps is None:  # other kinds have a default of their own
            _check_steps(self.run.config.train.sampling_steps, limits)
        if request.kind == "reconstruct" and request.count > 1:
            raise UnblotError(f"there is one reconstruction; leave out {arg('count')}")
        if request.kind == "interpolate" and request.other is None:
            raise UnblotError(f"interpolation is between two pictures; give {arg('other')}")
        for name in sorted({own for names in OWN.values() for own in names} - set(OWN[request.kind])):
            if getattr(request, name):
                raise UnblotError(f"{arg(name)} does not go with {arg('kind', request.kind)}; leave it out")
        return request

    def edit(self, requests: Sequence[EditRequest], check: Check) -> Sequence[EditResult | Exception]:
        """The results of edits, one after the other."""
        check()
        return [self._edit(request) for request in requests]

    def _edit(self, request: EditRequest) -> EditResult | Exception:
        choices = {**_common(request), **{name: getattr(request, name) for name in OWN[request.kind]}}
        choices |= {"steps": request.steps, "solver": request.solver, "spacing": request.spacing, "fit": request.fit}
        choices |= {"guidance": request.guidance} | ({} if request.kind == "reconstruct" else {"n": request.count})
        choices = {name: value for name, value in choices.items() if value is not None}
        with tempfile.TemporaryDirectory() as folder:
            try:
                paths = [_kept(request.picture, Path(folder), "picture")]
                if (other := choices.pop("other", None)) is not None:
                    paths.append(_kept(other, Path(folder), "other"))
                if "mask" in choices:
                    choices["mask"] = _kept(choices["mask"], Path(folder), "mask")
                edited = edit_files(self.run, request.kind, paths, **choices)
                return replace(edited, names=[Path(name).name for name in edited.names])
            except UnblotError as error:
                return UnblotError(str(error).replace(f"{folder}/", ""))

    def about(self) -> dict[str, Any]:
        """What clients may want to know of the model."""
        data, train = self.run.config.data, self.run.config.train
        return {
            "name": self.name,
            "height": data.height,
            "width": data.width,
            "channels": data.channels,
            "dtype": data.values["dtype"],
            "file": picture_suffix(data.channels, ValueMap.from_dict(data.values)),
            "classes": list(data.classes) if self.run.config.draws_labels else [],
            "reads_prompts": data.text is not None,
            "solver": train.solver,
            "steps": train.sampling_steps,
            "edits": self.run.config.distill is None,
        }


@lru_cache(maxsize=256)
def _sampler(
    model: Model,
    steps: int | None,
    solver: str | None,
    spacing: str | None,
    guidance: float | None,
    label: bool,
    prompt: bool,
    negative: bool,
) -> SamplerConfig:
    """The sampler of these choices, found once: looking for what tuning found reads the run.

    label, prompt, negative: whether they are given; which, makes no difference.
    """
    config = SampleConfig(
        steps=steps,
        solver=solver,
        spacing=spacing,
        guidance=guidance,
        label="all" if label else None,
        prompt="any" if prompt else None,
        negative="any" if negative else None,
    )
    return model.run.sampler(config)


def _common(request: Choices) -> dict[str, Any]:
    """The choices that samples and edits share, as both configurations name them."""
    return {name: getattr(request, name) for name in ("label", "prompt", "negative", "seed")}


def _check_limits(request: Choices, limits: ServeConfig) -> None:
    """Raises UnblotError for more pictures or steps than one request may ask for."""
    if request.count > limits.most_pictures:
        raise UnblotError(f"{arg('count', request.count)} is too many; give {limits.most_pictures} or less")
    if request.steps is not None:
        _check_steps(request.steps, limits)


def _check_steps(steps: int, limits: ServeConfig) -> None:
    if steps > limits.most_steps:
        raise UnblotError(f"{arg('steps', steps)} are too many; give {limits.most_steps} or less")


def _kept(content: bytes, folder: Path, name: str) -> Path:
    """The file that uploaded bytes are written to. Raises UnblotError for bytes of no known type."""
    for beginning, suffix in BEGINNINGS.items():
        if content.startswith(beginning):
            path = folder / f"{name}{suffix}"
            path.write_bytes(content)
            return path
    raise UnblotError(f"{name} is no PNG, JPEG, TIFF or NPY; send the content of such a file")
