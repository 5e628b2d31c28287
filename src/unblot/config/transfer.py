"""A run that begins with the weights of another: the choice, and what the run's record says of it."""

from dataclasses import dataclass

from unblot.config.options import Checked, option
from unblot.errors import UnblotError

MOST_RANK = 256  # of an adapter


@dataclass(frozen=True, kw_only=True)
class TransferConfig(Checked):
    """Which weights a training begins with."""

    from_: str | None = option(
        "begin with the weights of this run, model file or snapshot, as far as they fit (default: new weights)",
        "weights",
        "PATH",
        default=None,
    )
    adapter: int = option(
        "leave those weights as they are, and train an addition of this rank to them (default: none)",
        "weights",
        "RANK",
        low=0,
        high=MOST_RANK,
        default=0,
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "from_", None if self.from_ is None else str(self.from_))
        super().__post_init__()


@dataclass(frozen=True)
class Taken:
    """What became of some tensors of one part of a network.

    taken: whole, in part, new (the source has none that fits) or left (the new network has no place for it). share: of
    the part's weights that came from the source, 0 to 1; of a part that was left, 0. why: in words.
    """

    part: str
    taken: str
    tensors: int
    share: float
    why: str


@dataclass(frozen=True)
class Origin:
    """Where the first weights of a run came from.

    path: as it was given. sha256: of that file. share: of all weights of the network that came from there. choices: of
    the training that were taken from there too. parts: what was taken and what not.
    """

    path: str
    sha256: str
    share: float
    choices: tuple[str, ...]
    parts: tuple[Taken, ...]


@dataclass(frozen=True)
class AdapterFacts:
    """What a run that trained an adapter must know of it: its rank, and a hash of the weights that it adds to.

    unlabelled: whether it learned without labels, as samples then are drawn with it. Raises UnblotError for a rank that
    no adapter has.
    """

    rank: int
    model: str
    unlabelled: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= MOST_RANK:
            raise UnblotError(f"an adapter of rank {self.rank} is impossible")
