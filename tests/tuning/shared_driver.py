"""Evaluates and tunes a run, in one process or as one of several: `shared_driver.py RUN`, few samplers and pictures."""

import sys
from pathlib import Path

from unblot import api
from unblot.tuning import guidance_candidates, screening, search


def main(run: Path) -> None:
    for room in (screening, search):
        room.NFES = (2, 4)
    screening.DETERMINISTIC, screening.STOCHASTIC, screening.NOISES = ("dpmpp_2m",), (), 8
    screening.REFINED_TO, guidance_candidates.GUIDED_FROM = 2, ()
    api.evaluate(run, n=260, steps=2, features="pixels:dims=8", likelihood=4, quiet=True)
    api.tune(run, n=130, features="pixels:dims=8", budget="1h")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
