"""What several tests of the command line use."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unblot.cli.parser import main
from unblot.training.trainer import Trainer
from unblot.tuning import guidance_candidates, screening

NETWORK = "unet:width=16,multipliers=1,blocks=1,attention="
TINY = ["--network", NETWORK, "--steps", "4", "--batch-size", "8", "--preview-every", "4"]
TINY_RUN = {"network": NETWORK, "steps": 4, "batch_size": 8, "preview_every": 0}
FEW = {  # choices beside the steps
    "batch_size": 4,
    "sampling_steps": 2,
    "preview_every": 0,
    "held_out_every": 0,
    "clusters": 0,
    "quiet": True,
}
TINY_LATENT_RUN = {**TINY_RUN, "latent": True, "latent_width": 8, "latent_steps": 6, "clusters": 0}
STUDIO_TOKEN = "a-token-of-the-tests"


def shaken(run):
    """The run with small numbers in place of the zeros that it began with, so that labels and texts matter."""
    torch.manual_seed(0)
    for parameter in run.denoiser.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return run


def captioned_folder(folder: Path, size: tuple[int, int], captions: Sequence[str]) -> Path:
    """24 pictures in colour of this height and width, whose captions take turns."""
    rng = np.random.default_rng(0)
    for i in range(24):
        Image.fromarray(rng.integers(0, 200, (*size, 3), np.uint8)).save(folder / f"{i:02d}.png")
        (folder / f"{i:02d}.txt").write_text(captions[i % len(captions)])
    return folder


def printed_by_hash_seed(seeds: Sequence[str], code: str, *arguments: str) -> set[str]:
    """What Python code prints with each of these hash seeds; one text where it follows none of them."""
    environments = [os.environ | {"PYTHONHASHSEED": seed} for seed in seeds]
    command = [sys.executable, "-c", code, *arguments]
    return {subprocess.run(command, env=e, capture_output=True, text=True, check=True).stdout for e in environments}


def torchrun(*command: str) -> subprocess.CompletedProcess:
    """Two processes of torchrun, to their end, which can import what tests can."""
    started = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", *command]
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.run(started, env=environment, capture_output=True, text=True)


def by_two_processes(*commands: Sequence[str]) -> None:
    """Two processes run these commands of unblot, one after the other, as to start processes takes seconds."""
    done = torchrun(str(Path(__file__).with_name("commands_driver.py")), json.dumps(commands))
    assert done.returncode == 0, done.stderr


def flags(choices: dict[str, object]) -> list[str]:
    """Choices of Python as the command line writes them; True is a switch."""
    named = [(f"--{name.replace('_', '-')}", value) for name, value in choices.items()]
    return [flag if value is True else f"{flag}={value}" for flag, value in named]


def few_samplers(patched: pytest.MonkeyPatch) -> None:
    """Tunings try one solver with little noise, refine no levels and guide nothing."""
    few = {"DETERMINISTIC": ("dpmpp_2m",), "STOCHASTIC": (), "NOISES": 8, "REFINED_TO": 2}
    for name, value in few.items():
        patched.setattr(screening, name, value)
    patched.setattr(guidance_candidates, "GUIDED_FROM", ())


def refused(capsys, *argv) -> str:
    """The one line of complaint about these arguments."""
    try:
        code = main([str(a) for a in argv])
    except SystemExit as e:
        code = e.code
    told = capsys.readouterr().err
    assert code == 2
    assert told.count("\n") == 1, told
    assert "Traceback" not in told
    assert re.match(r"unblot( \w+)*: error: ", told)
    return told


def stopped_after(patched: pytest.MonkeyPatch, step: int) -> None:
    """Trainings get Ctrl-C after this step."""
    take_step = Trainer.take_step

    def interrupted_step(trainer: Trainer):
        result = take_step(trainer)
        if trainer.step == step:
            signal.raise_signal(signal.SIGINT)
        return result

    patched.setattr(Trainer, "take_step", interrupted_step)
