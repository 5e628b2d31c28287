"""`unblot pack`: its arguments, and what it does."""

import argparse
from collections.abc import Callable
from typing import Any

from unblot.cli.commands import say
from unblot.cli.flags import DATA, add_flags, add_path
from unblot.config.pack import PackConfig
from unblot.config.schema import DataConfig
from unblot.errors import typed


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command. command: makes one of a name, a line, a function and a usage."""
    usage = "DATA --shards FOLDER [--part K/N] [flags]"
    pack = command("pack", "write data that no disk holds into shards", pack_command, usage)
    add_path(pack, "data", type=str, metavar="DATA", help=DATA)
    add_path(pack, "--shards", required=True, metavar="FOLDER", help="folder to write the shards into")
    pack.add_argument("--quiet", action="store_true", help="show nothing while packing")
    add_flags(pack, PackConfig)
    add_flags(pack, DataConfig, skip=["data"])


def pack_command(args: dict[str, Any]) -> None:
    """Write a data set into shards, files of some thousand pictures each, for data that no disk holds in one piece:
    unblot train SHARDS reads them as it goes, from a folder or an address (s3://…, http://…).

    Several machines share the work with --part K/N. Packing that was stopped goes on with the same command.
    """
    from unblot.runs.packing import pack_data

    folder = args.pop("shards")
    index = pack_data(args.pop("data"), folder, **args)
    if index is None:
        return say(f"this part is packed; the index is written when all parts are there: {folder}")
    say(f"packed    {index.count:,} pictures into {len(index.shards):,} shards\nnext      unblot train {typed(folder)}")
