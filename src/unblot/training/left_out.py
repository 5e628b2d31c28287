"""What a training can do without: where memory does not suffice for it, it is left out, and the training goes on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from unblot.errors import UnblotError, arg, is_out_of_memory
from unblot.training.trainer import Trainer

NEVER = {"preview": "preview_every", "held-out loss": "held_out_every"}  # the choice of which 0 leaves it out always
FORGIVEN = {"preview": UnblotError}  # what is no more than a reason to leave it out: pictures that are not finite


@contextmanager
def left_out_where_it_fails(
    what: str, trainer: Trainer, note: Callable[[str], None], others_wait: bool
) -> Iterator[None]:
    """`what` of NEVER is made within it. Where memory runs out, or for an error that is FORGIVEN, it is left out with a
    note; other errors end the training.

    Raises UnblotError where memory runs out while `others_wait`: other processes are in the middle of the same.
    """
    try:
        yield
        return
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if others_wait:
            way_out = f"leave it out with {arg(NEVER[what], 0)}"
            raise UnblotError(f"out of memory: no {what} after step {trainer.step}; {way_out}") from None
        why = "out of memory"
    except FORGIVEN.get(what, ()) as error:
        why = str(error)
    note(f"no {what} after step {trainer.step}: {why}")
