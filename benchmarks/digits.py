"""Are digits asked for by label that digit, and do unlabelled ones cover all classes?

A support-vector classifier is trained on real digits and judges the sampled ones; its accuracy on held-out real digits
stands beside. Usage: python benchmarks/digits.py RUN [--n 500] [--guidance 1]
"""

import argparse
import json
import platform

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

import unblot

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("run")
parser.add_argument("-n", type=int, default=500)
parser.add_argument("--guidance", type=float, default=1.0)
args = parser.parse_args()

real, label = load_digits(return_X_y=True)
fit_x, test_x, fit_y, test_y = train_test_split(real, label, test_size=0.25, random_state=0, stratify=label)
judge = SVC(gamma=0.001, C=10).fit(fit_x, fit_y)

run = unblot.load(args.run)


def sampled(**choices) -> tuple[np.ndarray, list[int] | None]:
    pictures = run.sample(args.n, **choices)
    return judge.predict(pictures.array.reshape(args.n, -1) * (16 / 255)), pictures.labels


seen, asked = sampled(label="all", guidance=args.guidance, seed=1)
free, _ = sampled(seed=2)
shares = np.bincount(free, minlength=10) / args.n
print(
    json.dumps(
        {
            "judge_accuracy_on_held_out_real": round(float(judge.score(test_x, test_y)), 4),
            "conditional_agreement": round(float(np.mean(seen == np.array(asked))), 4),
            "unconditional_smallest_share": round(float(shares.min()), 4),
            "unconditional_shares": shares.round(4).tolist(),
            "n": args.n,
            "guidance": args.guidance,
            "network": run.config.train.network,
            "steps": run.config.train.steps,
            "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
            "torch": torch.__version__,
        },
        indent=2,
    )
)
