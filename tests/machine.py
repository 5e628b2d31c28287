"""A machine whose clock and speed are made up, so that budgets are tested without waiting and without chance."""

import signal

import torch

from unblot import api
from unblot.training import checkpoint, previews
from unblot.training import trainer as engine
from unblot.training.learning_rate import learning_rate
from unblot.training.trainer import StepResult


class Machine:
    """A clock that only work moves: a step takes `step_seconds(trainer, now)`, a preview 1 s and a save 0.3 s."""

    def __init__(self, monkeypatch, step_seconds):
        self.now, self.rates, self.step_seconds, self.stop_at = 1000.0, [], step_seconds, None
        save = checkpoint.save

        def take_step(trainer):
            self.now += self.step_seconds(trainer, self.now - 1000.0)
            self.rates.append(learning_rate(trainer.config.train, trainer.step, trainer.switch))
            trainer.step += 1
            if trainer.step == self.stop_at:
                signal.raise_signal(signal.SIGINT)
            return StepResult(torch.tensor(1.0), torch.tensor(1.0), torch.tensor(0.0))

        def preview_pictures(trainer, steps):
            self.now += steps / 20
            return torch.zeros(1, *trainer.config.data.shape), None

        def preview_samples(trainer, steps):
            preview_pictures(trainer, steps)
            return [torch.zeros(1, *trainer.config.shape)], None

        def slow_save(*args):
            self.now += 0.3
            return save(*args)

        monkeypatch.setattr(engine.Trainer, "take_step", take_step)
        monkeypatch.setattr("unblot.training.timing.preview_samples", preview_samples)
        monkeypatch.setattr(previews, "preview_pictures", preview_pictures)
        monkeypatch.setattr(checkpoint, "save", slow_save)
        monkeypatch.setattr(api, "shared_clock", lambda group: self)

    def __call__(self):
        return self.now

    @property
    def gone(self):
        return self.now - 1000.0
