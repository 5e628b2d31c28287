"""The choices of `unblot pack`, besides those of how pictures are read."""

from dataclasses import dataclass

from unblot.config.options import Checked, option


@dataclass(frozen=True, kw_only=True)
class PackConfig(Checked):
    """How a data set is packed into shards."""

    per_shard: int | None = option(
        "pictures in a shard (default: about 64 MB of them)", "pack", "N", low=1, default=None
    )
    part: str = option("write the K-th of N shares alone, one machine each", "pack", "K/N", default="1/1")
    workers: int = option("decoding processes; 0 for one a core", "pack", "N", low=0, default=0)
