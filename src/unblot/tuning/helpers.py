"""Processes that draw the samples of a search together: the main one searches, the others do what it asks for."""

import json
from dataclasses import asdict, dataclass
from types import TracebackType

import torch
from torch import Tensor

from unblot.config.sampling import SampleConfig
from unblot.errors import UnblotError
from unblot.runs.run import Run
from unblot.runs.shared import in_shares
from unblot.sampling.settings import SamplerConfig
from unblot.system.distributed import Group
from unblot.system.turns import decided
from unblot.tuning.reference import Reference


@dataclass(frozen=True)
class Helpers:
    """The processes of a search. The main one asks for features within `with`; the others are in `help` meanwhile.

    An UnblotError of the search ends `help` in all of them.
    """

    group: Group

    def features(
        self, run: Run, reference: Reference, sampler: SamplerConfig, config: SampleConfig, first: int
    ) -> Tensor:
        """Features (n, d) of the samples numbered first … first + config.n − 1, in the main process."""
        asked = {"sampler": asdict(sampler), "config": asdict(config), "first": first}
        decided(self.group, lambda: json.dumps(asked))
        return torch.cat(_seen(run, reference, self.group, sampler, config, first))

    def help(self, run: Run, reference: Reference) -> None:
        """Draws what the main process asks for, until its search has ended."""
        while asked := decided(self.group, str):
            about = json.loads(asked)
            config = SampleConfig(**about["config"])
            _seen(run, reference, self.group, SamplerConfig(**about["sampler"]), config, about["first"])

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Tells the others that the search has ended, and how."""

        def ended() -> str:
            if isinstance(error, UnblotError):
                raise error
            return ""

        decided(self.group, ended)


ALONE = Helpers(Group())


def _seen(
    run: Run,
    reference: Reference,
    group: Group,
    sampler: SamplerConfig,
    config: SampleConfig,
    first: int,
) -> list[Tensor]:
    """The features of each process's share of the samples, in the main process; an empty list in the others."""
    return in_shares(run, group, sampler, config, first, reference.see)
