"""How fast does a run draw through ONNX, beside PyTorch? The ratio of the times of one network call, in one process.

The same denoiser with the same inputs, as exported by `unblot export RUN` (onnxruntime) and as the run has it (torch),
take turns on as many threads. Usage: python benchmarks/runtimes.py RUN [--pictures 1,16] [--threads 2] [--rounds 15]
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import onnxruntime
import torch

import unblot
from measure import report, seconds
from unblot.config.export import ExportConfig
from unblot.interchange.export import export_run
from unblot.interchange.exported import examples, exported_module

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("run", type=Path)
parser.add_argument("--pictures", default="1,16", help="numbers of pictures in a call")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--rounds", type=int, default=15)
args = parser.parse_args()

torch.set_num_threads(args.threads)
run = unblot.load(args.run)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = args.threads
with tempfile.TemporaryDirectory() as place:
    folder, difference = export_run(run, ExportConfig(), Path(place) / "onnx")
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
names = [given.name for given in session.get_inputs()]
module = exported_module(run)
found = {}
for n in map(int, args.pictures.split(",")):
    inputs = examples(run, n)
    arrays = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    with torch.inference_mode():
        taken = seconds(
            {"torch": lambda: module(*inputs), "onnx": lambda: session.run(None, arrays)},  # noqa: B023
            args.rounds,
        )
    ratios = [a / b for a, b in zip(taken["torch"], taken["onnx"], strict=True)]
    found[n] = {
        "torch_seconds": round(statistics.median(taken["torch"]), 5),
        "onnx_times_as_fast": round(statistics.median(ratios), 3),
        "least": round(min(ratios), 3),
        "most": round(max(ratios), 3),
    }
report(run=args.run.name, network=run.config.train.network, largest_difference=difference, pictures=found)
