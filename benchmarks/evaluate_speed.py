"""How long an evaluation takes, and how much memory: 10,000 samples against 60,000 MNIST pictures.

    python benchmarks/evaluate_speed.py --threads 2

MNIST's test pictures pose as samples, so that everything but sampling is measured: features (with the training of their
classifier), all metrics, the search for copies, likelihood, loss by noise level, the page. The model is untrained, of
the default recipe's size. MNIST is searched in the folder UNBLOT_DATA. Prints JSON.
"""

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from unblot import api
from unblot.config.schema import DataConfig
from unblot.data.dataset import open_data
from unblot.evaluation.measure import Options
from unblot.reports.evaluation import evaluate_run
from unblot.runs.folder import build_denoiser


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--features", default="", help="specs joined by + (default: the data's)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = Path(os.environ.get("UNBLOT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    path = folder / "mnist.npz"
    with np.load(path, allow_pickle=False) as file:
        samples = file["x_test"][: args.samples, None]
    with tempfile.TemporaryDirectory() as scratch:
        dataset = open_data(str(path), cache=scratch)
        config = api.plan_run(DataConfig(data=str(path)), dataset, {})
        torch.manual_seed(0)
        denoiser = build_denoiser(config).eval()
        before = _peak()
        start, used = time.perf_counter(), time.process_time()
        options = Options(features=tuple(filter(None, args.features.split("+"))), cache=Path(scratch) / "features")
        report = evaluate_run(Path(scratch), config, denoiser, dataset, samples, options)
        seconds, used = time.perf_counter() - start, time.process_time() - used
    print(
        json.dumps(
            {
                "samples": len(samples),
                "training": len(dataset.train),
                "held_out": len(dataset.held_out),
                "seconds": round(seconds, 1),
                "cpu_seconds": round(used, 1),
                "parts": report["seconds"],
                "peak_gb": round(_peak(), 3),
                "peak_gb_before": round(before, 3),
                "called_copies": report["originality"]["samples"],
                "machine": f"{platform.processor() or platform.machine()}, {args.threads} of {os.cpu_count()} cores",
                "torch": torch.__version__,
            },
            indent=1,
        )
    )


def _peak() -> float:
    """The most memory that this process has held so far, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
