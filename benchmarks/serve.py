"""Many clients of one service: are their pictures those of `unblot sample`, and what does sharing cost?

    python benchmarks/serve.py --seconds 20 --clients 64 --out serve.json

errors: answers other than 200 and 429. equal: of the pictures that were answered, those that are byte for byte the
file that sampling one by one writes for their seed, of a sample of them. pictures/s: of the service, of bulk sampling
(`Run.sample` of as many as a batch, before and after), and of a peer: a DDPMPipeline of diffusers with a network of
about as many weights behind FastAPI, one request at a time, in as many steps. Each serves in a process of its own; the
clients are threads of this one.
"""

import argparse
import http.client
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import unblot
from measure import report

FAST = {"network": "unet:width=32,multipliers=1,blocks=1,patch=2,attention=", "steps": 300}
CHECKED = 200  # pictures that are sampled again

PEER = """
import io, sys, threading, torch, uvicorn
from diffusers import DDIMScheduler, DDIMPipeline, UNet2DModel
from fastapi import FastAPI, Response
net = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, block_out_channels=(32,), layers_per_block=1,
                  down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), norm_num_groups=8)
pipe = DDIMPipeline(net, DDIMScheduler())
pipe.set_progress_bar_config(disable=True)
app, one = FastAPI(), threading.Lock()

@app.get("/healthz")
def healthz(): return {}

@app.post("/samples")
def samples(asked: dict):
    with one:
        seed = torch.Generator().manual_seed(asked["seed"])
        image = pipe(generator=seed, num_inference_steps=asked["steps"]).images[0]
    file = io.BytesIO()
    image.save(file, "PNG")
    return Response(file.getvalue(), media_type="image/png")

uvicorn.run(app, port=int(sys.argv[1]), log_level="error")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run = unblot.load(args.run) if args.run else unblot.train("digits", out=folder / "run", quiet=True, **FAST)
        before = bulk(run, args)
        serve = [sys.executable, "-m", "unblot", "serve", str(run.path), "--port"]
        served, answers = load(serve, args)
        peer, _ = load([sys.executable, "-c", PEER], args)
        rates = [before, bulk(run, args)]
        found = compared(run, answers, args.steps)
    ratio = served["pictures/s"] / statistics.mean(rates)
    report(args.out, clients=args.clients, seconds=args.seconds, steps=args.steps, service=served, peer=peer,
           **{"bulk pictures/s": rates, "service/bulk": ratio, "equal": found})  # fmt: skip


def bulk(run: unblot.Run, args: argparse.Namespace) -> float:
    """Pictures a second of `Run.sample`, in batches of as many as there are clients."""
    start, made = time.perf_counter(), 0
    while time.perf_counter() - start < args.seconds / 4:
        run.sample(args.clients, steps=args.steps, batch_size=args.clients, first=made, label="all")
        made += args.clients
    return made / (time.perf_counter() - start)


def load(command: list[str], args: argparse.Namespace) -> tuple[dict[str, Any], dict[int, bytes]]:
    """How a service stands many clients, each of which asks again once it is answered; the pictures by seed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([*command, str(port)], stdout=subprocess.DEVNULL)
    answers: dict[int, bytes] = {}
    times: list[float] = []
    statuses: dict[int, int] = {}
    try:
        wait_for(port)
        end = time.perf_counter() + args.seconds
        clients = [threading.Thread(target=ask, args=(port, i, args, end, answers, times, statuses))
                   for i in range(args.clients)]  # fmt: skip
        for client in clients:
            client.start()
        for client in clients:
            client.join()
    finally:
        server.terminate()
        server.wait()
    times.sort()
    errors = sum(n for status, n in statuses.items() if status not in (200, 429))
    return {
        "pictures/s": len(answers) / args.seconds,
        "errors": errors,
        "statuses": statuses,
        "p50 ms": 1000 * times[len(times) // 2],
        "p95 ms": 1000 * times[int(0.95 * len(times))],
    }, answers


def ask(port: int, client: int, args: Any, end: float, answers: dict, times: list, statuses: dict) -> None:
    """One client: seeds of its own, one request after the other on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    seed = client
    while (start := time.perf_counter()) < end:
        body = json.dumps({"seed": seed, "steps": args.steps, "count": 1})
        connection.request("POST", "/samples", body, {"Content-Type": "application/json", "Accept": "image/png"})
        answer = connection.getresponse()
        content = answer.read()
        statuses[answer.status] = statuses.get(answer.status, 0) + 1
        if answer.status == 200:
            answers[seed] = content
            times.append(time.perf_counter() - start)
            seed += args.clients
        elif answer.status == 429:
            time.sleep(float(answer.headers["Retry-After"]))


def wait_for(port: int) -> None:
    """Returns when the service answers."""
    for _ in range(600):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the service did not start")


def compared(run: unblot.Run, answers: dict[int, bytes], steps: int) -> dict[str, int]:
    """Of some pictures, how many are the very file that `unblot sample` writes for their seed."""
    seeds = sorted(answers)[:: max(1, len(answers) // CHECKED)]
    equal = 0
    with tempfile.TemporaryDirectory() as scratch:
        for seed in seeds:
            run.sample(1, seed=seed, steps=steps).save_files(Path(scratch))
            equal += (Path(scratch) / "000000.png").read_bytes() == answers[seed]
    return {"compared": len(seeds), "equal": equal}


if __name__ == "__main__":
    main()
