"""Train a diffusion model from scratch on your own pictures, and sample new ones from it.

run = unblot.train("pictures/")
unblot.load("runs/pictures").sample(16, steps=20, seed=0).grid().save("new.png")
"""

import importlib
from typing import TYPE_CHECKING, Any

from unblot._version import __version__
from unblot.errors import UnblotError

if TYPE_CHECKING:
    from unblot.api import audit, choose_ema, distill, evaluate, plan, resume, train, tune
    from unblot.interchange.card import write_card
    from unblot.interchange.publish import publish
    from unblot.lessons.page import explain
    from unblot.runs.run import Run, Samples, load

# Where each name comes from: imported when it is first asked for, so that `import unblot` costs nothing, and sampling
# from a run imports nothing of training.
_HOMES = {
    **dict.fromkeys(("audit", "choose_ema", "distill", "evaluate", "plan", "resume", "train", "tune"), "unblot.api"),
    "explain": "unblot.lessons.page",
    "publish": "unblot.interchange.publish",
    "write_card": "unblot.interchange.card",
    **dict.fromkeys(("Run", "Samples", "load"), "unblot.runs.run"),
}
__all__ = [
    "Run",
    "Samples",
    "UnblotError",
    "__version__",
    "audit",
    "choose_ema",
    "distill",
    "evaluate",
    "explain",
    "load",
    "plan",
    "publish",
    "resume",
    "train",
    "tune",
    "write_card",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'unblot' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
