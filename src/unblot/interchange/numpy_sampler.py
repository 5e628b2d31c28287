"""Draws pictures with an exported denoiser, in NumPy alone: beside it this file is called sample.py.

    python sample.py -n 4 --label 3 --out pictures.npy

It needs numpy and onnxruntime. From the same noise its pictures are those of `unblot sample --solver ddim`.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime


def draw(
    folder: Path,
    noise: np.ndarray,
    label: np.ndarray | None = None,
    tokens: np.ndarray | None = None,
    seed: int = 0,
    guidance: float | None = None,
) -> np.ndarray:
    """Pictures (B, C, H, W), with the values of the data, from standard normal noise (B, C, H, W).

    label: (B,) numbers of classes; None for each class or cluster as often as it comes in the data, from the seed; with
    tokens for no label, if the model saw pictures without. tokens: (B, L) of prompts, see tokenizer.json; None for no
    text. guidance: towards label and text, at two calls of the network a step; 1 is none, by default that of unblot.
    Raises ValueError for a model that cannot be guided, for a guidance towards nothing, and for a label that the model
    does not know.
    """
    about = json.loads((folder / "sampler.json").read_text())
    network = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    count = len(noise)
    if label is None and about.get("shares") and (tokens is None or about.get("always_labelled")):
        label = spread_labels(seed, count, about["shares"])
    if guidance is None:
        towards = "label" if tokens is None else "text"
        guidance = 1 if label is None and tokens is None else about.get(f"{towards}_guidance", 1)
    check(about, label, tokens, guidance)
    hidden, shown = inputs(about, count), inputs(about, count, label, tokens)
    levels = list(zip(about["alpha"], about["sigma"]))
    if "noise" in about["inputs"]:  # a distilled model, which is exported whole
        (x,), levels = network.run(None, {"noise": noise.astype(np.float32), **shown}), []
    else:
        x = start(np.load(folder / "prior.npz"), noise).astype(np.float32)
    for (alpha, sigma), (next_alpha, next_sigma) in pairwise(levels):  # from the noisiest to the clean one
        level = {"alpha": np.full(count, alpha), "sigma": np.full(count, sigma)}
        (x0,) = network.run(None, {"x": x, **level, **shown})
        if guidance != 1:
            (x0_none,) = network.run(None, {"x": x, **level, **hidden})
            x0 = x0_none + guidance * (x0 - x0_none)
        eps = (x - alpha * x0) / sigma
        x = (next_alpha * x0 + next_sigma * eps).astype(np.float32)
    if (folder / "decoder.onnx").exists():  # x0 is latents
        decoder = onnxruntime.InferenceSession(str(folder / "decoder.onnx"), providers=["CPUExecutionProvider"])
        (x,) = decoder.run(None, {"x0": x})
    scale, offset = (np.array(about[name]).reshape(-1, 1, 1) for name in ("scale", "offset"))
    stored = x.astype(np.float64) * scale + offset
    low, high = about["limits"] or (-np.inf, np.inf)
    stored = np.clip(np.rint(stored) if about["limits"] else stored, low, high)
    return stored.astype(about["dtype"])


def check(about: Mapping, label: np.ndarray | None, tokens: np.ndarray | None, guidance: float) -> None:
    """Raises ValueError for a guidance that the model cannot have, and for a label that it does not know."""
    if guidance != 1 and not about.get("guides"):
        raise ValueError("this model cannot be guided; leave out guidance")
    if guidance != 1 and label is None and tokens is None:
        raise ValueError("guidance is towards a label or a text; give one of them")
    if label is None:
        return
    if "label" not in about["inputs"]:
        raise ValueError("this model knows no labels; leave out label")
    if np.min(label) < 0 or np.max(label) > about["no_label"]:
        raise ValueError(f"labels are numbers from 0 to {about['no_label']}, of which the last is no label")


def inputs(
    about: Mapping, count: int, label: np.ndarray | None = None, tokens: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """What the network is told of `count` pictures: label (B,) and tokens (B, L), or those that stand for none."""
    told = {}
    if "label" in about["inputs"]:
        told["label"] = np.full(count, about["no_label"]) if label is None else np.asarray(label, np.int64)
    if "tokens" in about["inputs"]:
        told["tokens"] = np.array([about["no_text"]] * count) if tokens is None else np.asarray(tokens, np.int64)
    return told


def spread_labels(seed: int, count: int, shares: Sequence[float]) -> np.ndarray:
    """The labels (B,) int64 with these shares that unblot gives the first pictures of a seed."""
    twister = np.random.RandomState(np.random.SeedSequence(seed, spawn_key=(5,)).generate_state(1)[0])
    high, low = np.frombuffer(twister.bytes(8), "<u4").tolist()  # PyTorch makes a float64 of two numbers of 32 bits
    places = ((high << 32 | low) % 2**53 / 2**53 + np.arange(count) * (5**0.5 - 1) / 2) % 1
    ends = np.cumsum(shares) / np.sum(shares)
    return np.searchsorted(ends[:-1], places, side="right")


def start(prior: Mapping[str, np.ndarray], noise: np.ndarray) -> np.ndarray:
    """x_T (B, C, H, W) for standard normal noise (B, C, H, W): its waves have the mean and the std of the data's."""
    axes, rows, columns = (prior[name] for name in ("axes", "rows", "columns"))
    waves = rows @ np.einsum("dc,nchw->ndhw", axes, noise) @ columns.T
    return np.einsum("dc,ndhw->nchw", axes, rows.T @ (prior["mean"] + prior["std"] * waves) @ columns)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=16, help="number of pictures")
    parser.add_argument("--seed", type=int, default=0, help="of NumPy's noise, which is not unblot's, and of labels")
    parser.add_argument("--label", type=int, help="number of a class (default: as often as in the data)")
    parser.add_argument("--guidance", type=float, help="towards the label; 1 is none, by default that of unblot")
    parser.add_argument("--out", default="pictures.npy")
    args, here = parser.parse_args(), Path(__file__).parent
    shape = json.loads((here / "sampler.json").read_text())["shape"]
    normal = np.random.default_rng(args.seed).standard_normal((args.n, *shape), np.float32)
    label = None if args.label is None else np.full(args.n, args.label)
    try:
        pictures = draw(here, normal, label, seed=args.seed, guidance=args.guidance)
    except ValueError as error:
        parser.error(str(error))
    np.save(args.out, pictures)
