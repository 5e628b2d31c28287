"""A run for other runtimes: its denoiser as ONNX or as a program of torch.export, with a sampler beside it.

    model.onnx or model.pt2   x0_hat of x (B, C, H, W), alpha (B,), sigma (B,) [, label (B,)] [, tokens (B, L)];
                              of a distilled run pictures of noise (B, C, H, W) [, label (B,)] [, tokens (B, L)]
    decoder.onnx or .pt2      of a run in latents: pictures of its x0_hat
    sampler.json              the levels, the map to stored values, the classes, the shares of labels
    sample.py, prior.npz      a sampler in NumPy, and what it starts from (ONNX); without it a distilled one
    tokenizer.json            of a run that reads captions, for the library tokenizers; texts are normalised first

A file whose x0_hat differs from that of the run is not written.
"""

import importlib
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unblot.config.export import ExportConfig
from unblot.config.sampling import SampleConfig
from unblot.data.values import ValueMap
from unblot.errors import UnblotError, arg
from unblot.interchange.exported import Part, input_names, levels_of, parts_of
from unblot.process.levels import NoiseLevel
from unblot.process.prior import Prior
from unblot.process.spectrum import cosines
from unblot.runs.choosing import can_be_guided, label_guidance, text_guidance
from unblot.runs.conditions import never_unlabelled
from unblot.runs.run import Run
from unblot.system.files import write_json, write_text, write_whole
from unblot.system.folders import begin_folder, claimed, removed_on_failure
from unblot.text.frozen import FrozenEncoder

SAMPLER, SCRIPT, PRIOR, TOKENIZER = "sampler.json", "sample.py", "prior.npz", "tokenizer.json"
ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}
PACKAGES: dict[str, tuple[str, ...]] = {"onnx": ("onnx", "onnxruntime", "onnxscript"), "torch": ()}  # beside PyTorch
MOST = {False: 1e-4, True: 1e-2}  # difference of x0_hat, in the network's range, with float32 and with half weights
TRIED = (1, 5)  # numbers of pictures that the exported file is compared with the run on
TRACED = 3  # pictures in the call that is traced

Exported = Callable[[Sequence[Tensor]], np.ndarray]  # the exported denoiser: inputs -> x0_hat


def export_run(run: Run, config: ExportConfig, out: Path | None = None, overwrite: bool = False) -> tuple[Path, float]:
    """Writes a run for another runtime into a folder, by default a new one; the folder, and the largest difference.

    Raises UnblotError where what was exported differs from the run's by more than MOST, and ModuleNotFoundError where
    a package is missing; then nothing is left.
    """
    if isinstance(run.denoiser.text_encoder, FrozenEncoder):
        raise UnblotError("this run reads captions with a published encoder, which is not exported; use an own encoder")
    if config.to not in ENDINGS:
        raise UnblotError(f"{arg('to', config.to)} is unknown; choose one of {', '.join([*ENDINGS, 'diffusers'])}")
    if config.half and config.to != "onnx":
        raise UnblotError(f"{arg('half')} is for {arg('to', 'onnx')} alone")
    for package in PACKAGES[config.to]:
        importlib.import_module(package)
    parts, extra = parts_of(run), []
    if config.to == "onnx":
        extra = [SCRIPT] if run.config.distill else [SCRIPT, PRIOR]  # a distilled model is exported whole
    files = {name: f"{name}{ENDINGS[config.to]}" for name in parts}
    names = [*files.values(), SAMPLER, *extra, *([TOKENIZER] if run.config.data.text else [])]
    levels = visited_levels(run, config)
    sampler = describe_sampling(run, levels)
    with claimed(out, Path(f"{run.path.resolve().name}-{config.to}")) as folder:
        begin_folder(folder, names, {"run": run.path.resolve().name, "to": config.to, "half": config.half}, overwrite)
        with removed_on_failure(folder):
            worst = max(_written(run, config, part, folder / files[name]) for name, part in parts.items())
            write_json(folder / SAMPLER, sampler)
            if SCRIPT in extra:
                write_text(folder / SCRIPT, Path(__file__).with_name("numpy_sampler.py").read_text())
            if PRIOR in extra:
                save_prior(folder / PRIOR, run.denoiser.prior(levels.at(0)), run.config.shape)
            if run.denoiser.text_encoder is not None:
                write_text(folder / TOKENIZER, run.denoiser.text_encoder.tokenizer.to_json())
    return folder, worst


def _written(run: Run, config: ExportConfig, part: Part, path: Path) -> float:
    """Writes a part of an export; the largest difference from the run's. Raises UnblotError for more than MOST."""
    worst = difference(run, part, (_to_onnx if config.to == "onnx" else _to_torch)(run, part, path, config.half))
    if not worst <= MOST[config.half]:
        way_out = f"leave out {arg('half', True)}" if config.half else "its weights may be damaged: unblot evaluate RUN"
        raise UnblotError(
            f"the exported denoiser differs from the run's by {worst:.2g}, more than {MOST[config.half]:g}; {way_out}"
        )
    return worst


def difference(run: Run, part: Part, exported: Exported) -> float:
    """The largest difference of what an exported part and the run's compute, as a share of its size where > 1."""
    worst = 0.0
    for n in TRIED:
        inputs = part.examples(n, n)
        with torch.no_grad():
            x0 = part.module(*(given.to(run.device) for given in inputs)).cpu().numpy()
        wrong = np.abs(exported(inputs) - x0).max() / max(1.0, np.abs(x0).max())
        worst = max(worst, float(wrong)) if np.isfinite(wrong) else float("inf")
    return worst


def visited_levels(run: Run, config: ExportConfig) -> NoiseLevel:
    """The levels (N + 1,) that the exported sampler visits, noisiest first."""
    solver = "ddim" if run.config.distill is None else None
    return levels_of(run, run.sampler(SampleConfig(solver=solver, steps=config.steps, spacing=config.spacing)))


def save_prior(path: Path, prior: Prior, shape: tuple[int, int, int]) -> None:
    """Writes what a sampler in NumPy draws x_T with: mean and std (C, H, W) of its waves, and the matrices of waves.

    Waves are axes (C, C) of the colours, rows (H, H) and columns (W, W), all orthonormal; without a spectrum they are
    the colours and pixels themselves.
    """
    mean, std = (part.expand(1, *shape)[0].numpy() for part in prior.moments(torch.zeros(1, *shape)))
    axes, rows, columns = (np.eye(n, dtype=np.float32) for n in shape)
    if prior.spectrum is not None:
        axes, rows, columns = (part.numpy() for part in (prior.spectrum.axes, *map(cosines, shape[1:])))

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # NumPy changes the ending of a name
            np.savez(file, mean=mean, std=std, axes=axes, rows=rows, columns=columns)

    write_whole(path, write)


def describe_sampling(run: Run, levels: NoiseLevel) -> dict[str, Any]:
    """All that a sampler needs besides the denoiser and x_T, as plain JSON values."""
    data, denoiser = run.config.data, run.denoiser
    values, dtype = ValueMap.from_dict(data.values), np.dtype(data.values["dtype"])
    limits = None
    if values.bounded:
        limits = [0, 1] if dtype.kind == "b" else [int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)]
    return {
        "run": run.path.resolve().name,
        "inputs": input_names(run),
        "shape": list(run.config.shape),
        "alpha": levels.alpha.tolist(),
        "sigma": levels.sigma.tolist(),
        "classes": list(data.classes),
        "shares": list(run.config.label_shares),
        "always_labelled": never_unlabelled(run.config),
        "guides": can_be_guided(run.config),
        "text_guidance": text_guidance(run.config),
        "label_guidance": label_guidance(run.config),
        "no_label": denoiser.num_classes,
        "no_text": None if denoiser.text_encoder is None else denoiser.text_encoder.read([""])[0].tolist(),
        "dtype": data.values["dtype"],
        "offset": list(values.offset),
        "scale": list(values.scale),
        "limits": limits,
    }


def _program(run: Run, part: Part) -> torch.export.ExportedProgram:
    """The traced part, on the CPU, for any number of pictures."""
    inputs, batch = part.examples(TRACED, 0), {0: torch.export.Dim("batch")}
    run.denoiser.cpu()
    with torch.no_grad():
        part.module(*inputs)  # what is computed once and kept, such as tables, is not part of the program
    more = (batch,) * part.shown
    shapes = (batch,) * (len(inputs) - part.shown) + ((more,) if more else ())
    return torch.export.export(part.module, inputs, dynamic_shapes=shapes, strict=False)


def _to_torch(run: Run, part: Part, path: Path, half: bool) -> Exported:
    torch.export.save(_program(run, part), path)
    module = torch.export.load(path).module()

    def exported(inputs: Sequence[Tensor]) -> np.ndarray:
        with torch.no_grad():
            return module(*inputs).numpy()

    return exported


def _to_onnx(run: Run, part: Part, path: Path, half: bool) -> Exported:
    import onnxruntime

    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                _program(run, part), dynamo=True, input_names=part.inputs, output_names=[part.output], verbose=False
            )
        finally:
            logger.setLevel(level)
    assert program is not None
    program.save(path)
    if half:
        _halve(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    return lambda inputs: session.run(None, {n: x.numpy() for n, x in zip(names, inputs, strict=True)})[0]


def _halve(path: Path) -> None:
    """Keeps the float32 weights of an ONNX file as float16, half the size; they become float32 again when it is read.

    The computation stays in float32, in which embeddings and norms need to be.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    graph, casts = model.graph, []
    for weight in graph.initializer:
        if weight.data_type == TensorProto.FLOAT and len(weight.dims) > 1:
            name, array = weight.name, numpy_helper.to_array(weight).astype(np.float16)
            weight.CopyFrom(numpy_helper.from_array(array, f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    for node in reversed(casts):
        graph.node.insert(0, node)
    onnx.save(model, path)
