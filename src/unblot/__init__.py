"""Train a diffusion model from scratch on your own pictures, and draw new ones from it.

run = unblot.train("pictures/")
unblot.load("runs/pictures").sample(16, steps=20, seed=0).grid().save("new.png")
"""

from typing import TYPE_CHECKING, Any

from unblot._version import __version__
from unblot.errors import UnblotError

if TYPE_CHECKING:
    from unblot.api import Pictures, Run, distill, evaluate, load, resume, train, tune

__all__ = ["Pictures", "Run", "UnblotError", "__version__", "distill", "evaluate", "load", "resume", "train", "tune"]


def __getattr__(name: str) -> Any:
    """The rest of the package is imported when it is first asked for, so that `import unblot` costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'unblot' has no attribute {name!r}")
    from unblot import api

    return getattr(api, name)
