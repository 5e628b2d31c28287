"""Which first stage of a run in latents brings back most after the same minutes of one core? One JSON line a candidate.

Every candidate trains for --minutes of the process's CPU time on the same pictures with the same seed; its steps follow
from its first ones. Then, on held-out pictures without noise on the latents:

- psnr: of the pictures that come back, in dB, of the range from -1 to 1.
- octaves: their power over that of the pictures in each octave of the spectrum, finest first; 1 is right.

Candidates are written NAME=CHOICE;CHOICE of optimizer, batch, rate, detail, and the choices of a run in latents, as in
'small=optimizer=muon;batch=4;rate=4e-3;latent_channels=8'.
Usage: python autoencoder.py --data DIR --size 128 --minutes 3 --out DIR CANDIDATE ...
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from recipe import read
from unblot.config.schema import DataConfig
from unblot.data.dataset import Dataset, open_data
from unblot.data.output import sheet
from unblot.process.octaves import octave_powers
from unblot.training import first_stage
from unblot.training.optim import Optimizer
from unblot.training.plan import plan_run

HELD_OUT, SHEET = 128, 16  # pictures that are measured, and those on a sheet
TRIED = 8  # steps that are timed
DEFAULTS = first_stage.BATCH, first_stage.LEARNING_RATE, first_stage.DETAIL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--size", default="128")
    parser.add_argument("--minutes", type=float, default=3, help="CPU time of one core, each candidate")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("candidates", nargs="+", help="NAME=CHOICE;CHOICE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    dataset = open_data(args.data, size=args.size, labels=False, captions=False)
    source = DataConfig(data=args.data, size=args.size)
    for candidate in args.candidates:
        name, choices = read(candidate)
        line = {"name": name, **choices} | measured(source, dataset, choices, args, name)
        with open(args.out / "autoencoder.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


def stage_of(source: DataConfig, dataset: Dataset, choices: dict[str, str]) -> first_stage.FirstStage:
    """A fresh first stage with these choices; batch, rate and weight of detail are its module's from here on."""
    first_stage.BATCH = int(choices.get("batch", DEFAULTS[0]))
    first_stage.LEARNING_RATE = float(choices.get("rate", DEFAULTS[1]))
    first_stage.DETAIL = float(choices.get("detail", DEFAULTS[2]))
    latent = {
        name: float(value) if name == "latent_noise" else int(value)
        for name, value in choices.items()
        if name.startswith("latent_")
    }
    config = plan_run(source, dataset, {"latent": True, "steps": 1, "clusters": 0, **latent})
    stage = first_stage.FirstStage(config, dataset, torch.device("cpu"))
    stage.optimizer = Optimizer(stage.autoencoder, choices.get("optimizer", "muon"), 0.0)
    return stage


def measured(
    source: DataConfig, dataset: Dataset, choices: dict[str, str], args: argparse.Namespace, name: str
) -> dict:
    """The figures of a candidate after its minutes; its sheet, pictures above what comes back, is written."""
    trial = stage_of(source, dataset, choices)
    trial.take_step(TRIED + 1)
    start = time.process_time()
    for _ in range(TRIED):
        trial.take_step(TRIED + 1)
    steps = max(1, int(60 * args.minutes / (time.process_time() - start) * TRIED))
    stage = stage_of(source, dataset, choices)
    start = time.process_time()
    for _ in range(steps):
        stage.take_step(steps)
    seconds = time.process_time() - start
    stage.measure()
    x = dataset.batch(dataset.held_out[:HELD_OUT])[0]
    with torch.no_grad():
        parts = [stage.autoencoder.decode(stage.autoencoder.encode(p), *p.shape[2:]) for p in x.split(8)]
    y = torch.cat(parts)
    rows = torch.cat([torch.cat([x[i : i + 8], y[i : i + 8]]) for i in range(0, SHEET, 8)])
    stored = dataset.values.decode(rows.numpy())
    sheet(stored, dataset.values, columns=8).save(args.out / f"{name}.png")
    return {
        "steps": steps,
        "cpu_seconds": round(seconds, 1),
        "psnr": round(float(10 * torch.log10(4 / (y - x).square().mean())), 2),
        "octaves": np.round((octave_powers(y).mean(0) / octave_powers(x).mean(0)).numpy(), 2).tolist(),
    }


if __name__ == "__main__":
    main()
