"""Train a diffusion model from scratch on your own pictures, and sample new ones from it.

run = unblot.train("pictures/", budget="30m")
unblot.load("runs/pictures").sample(16, steps=20, seed=0).grid().save("new.png")
"""

from typing import TYPE_CHECKING

from unblot._version import __version__
from unblot.errors import UnblotError
from unblot.system.lazy import names_from

if TYPE_CHECKING:
    from unblot.api import audit, choose_ema, distill, evaluate, forecast, plan, resume, train, tune
    from unblot.interchange.card import write_card
    from unblot.interchange.publish import publish
    from unblot.lessons.page import explain
    from unblot.nn.own import import_networks
    from unblot.runs.packing import pack_data
    from unblot.runs.run import Run, Samples, load

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
    "forecast",
    "import_networks",
    "load",
    "pack_data",
    "plan",
    "publish",
    "resume",
    "train",
    "tune",
    "write_card",
]


# Each name is imported when it is first asked for: `import unblot` costs nothing, drawing imports nothing of training.
__getattr__ = names_from(
    __name__,
    {
        "unblot.api": ("audit", "choose_ema", "distill", "evaluate", "forecast", "plan", "resume", "train", "tune"),
        "unblot.interchange.card": ("write_card",),
        "unblot.interchange.publish": ("publish",),
        "unblot.lessons.page": ("explain",),
        "unblot.nn.own": ("import_networks",),
        "unblot.runs.packing": ("pack_data",),
        "unblot.runs.run": ("Run", "Samples", "load"),
    },
)
