"""After the last step of a run in latents: its decoder is fine-tuned on what the model draws, for as long as it may."""

import math
import time
from collections.abc import Callable

from unblot.config.durations import format_seconds
from unblot.config.schema import RunConfig
from unblot.errors import is_out_of_memory
from unblot.system.turns import decided
from unblot.training.adversarial import DecoderTuning, affordable_count, decoder_steps, tune_decoder
from unblot.training.budget_controller import FINE_TUNING, BudgetController
from unblot.training.previews import drawn_latents
from unblot.training.trainer import Trainer

LEAST = 0.01  # share of a budget, also where a run is late
DRAWN, DRAWING = 256, 0.25  # latents that the model draws, and the share of the time in which no more are begun


class Pace:
    """When fine-tuning is over: after its steps, and with a budget in the time that is left.

    All processes make one together. clock: of this process alone.
    """

    def __init__(self, config: RunConfig, controller: BudgetController, clock: Callable[[], float] = time.monotonic):
        self.steps, self.clock, self.start = decoder_steps(config), clock, clock()
        self.seconds = math.inf
        if controller.budget is not None:
            self.seconds = max(LEAST * controller.budget, controller.seconds_for(FINE_TUNING, config.train))

    def __str__(self) -> str:
        return f"in {self.steps} steps" if self.steps else f"for {format_seconds(math.ceil(self.seconds))}"

    def progress(self, step: int) -> float:
        """The share that is done after this step of the fine-tuning; 1 and more at its end."""
        used = (self.clock() - self.start) / self.seconds
        return used if self.steps is None else max(used, step / self.steps)

    def late(self) -> bool:
        """Whether drawing has taken as much of the time as it may."""
        return self.clock() - self.start > DRAWING * self.seconds


def run_decoder_stage(
    trainer: Trainer, controller: BudgetController, note: Callable[[str], None], interrupted: Callable[[], bool]
) -> bool:
    """Fine-tunes the decoder of the trainer's model, and notes what that did. False where it was interrupted.

    The main process does it, and the others wait. Where memory runs out the decoder stays as it was, with a note.
    """
    config, model, group = trainer.config, trainer.denoiser.autoencoder, trainer.group
    assert model is not None
    pace, count = Pace(config, controller), affordable_count(config, DRAWN)
    note(f"decoder: fine-tuned {pace} against a discriminator, on latents that the model draws")
    # Sampling a sharded network needs all processes, to the end.
    drawn = drawn_latents(trainer, count, lambda: False) if trainer.sharded else None

    def work() -> str:
        try:
            latents = drawn_latents(trainer, count, lambda: pace.late() or interrupted()) if drawn is None else drawn
            tuning = DecoderTuning(config, trainer.task.batches.dataset, model, latents)
            detail = tune_decoder(tuning, model, pace.progress, interrupted)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            note("decoder: out of memory; it stays as it was")
            return "done"
        note("decoder: fine-tuning was stopped" if detail is None else str(detail))
        return "" if detail is None else "done"

    return bool(decided(group, work))
