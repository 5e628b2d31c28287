"""Evaluates and tunes a run, in one process or as one of several: `shared_driver.py RUN`, few samplers and pictures."""

import sys
from pathlib import Path

import pytest

from helpers import few_samplers
from unblot import api
from unblot.tuning import screening, search


def evaluate_and_tune(run: Path) -> None:
    with pytest.MonkeyPatch.context() as patched:
        for room in (screening, search):
            patched.setattr(room, "NFES", (2, 4))
        few_samplers(patched)
        api.evaluate(run, n=260, steps=2, features="pixels:dims=8", likelihood=4, quiet=True)
        api.tune(run, n=130, features="pixels:dims=8", budget="1h")


if __name__ == "__main__":
    evaluate_and_tune(Path(sys.argv[1]))
