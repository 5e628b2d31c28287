"""The memory of the machine, as far as this process may use it, and what this process has taken of it."""

import os
import sys
from pathlib import Path

LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # cgroup 2 and 1


def machine_memory(limits: tuple[Path, ...] = LIMITS) -> int:
    """Bytes of memory of the machine, or of this process's control group where that has less; without end where the
    system says neither."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if hasattr(os, "sysconf") else []
    for path in limits:
        try:
            found.append(int(path.read_text()))  # "max": no limit
        except (OSError, ValueError):
            continue
    return min(found, default=sys.maxsize)


def peak_of_process() -> int | None:
    """Peak memory of this process in bytes; None where the system does not say, as on Windows."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def in_words(size: int) -> str:
    """A number of bytes for people: 1.4 GB, 350 MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
