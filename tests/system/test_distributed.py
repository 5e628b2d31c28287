"""Several processes of torchrun on one run."""

from pathlib import Path

from helpers import torchrun

LEAVING = """
import atexit, os
import torch.distributed as dist
from unblot.system.distributed import join_group, wait_for_all

atexit.register(lambda: os._exit(3) if dist.is_initialized() else None)  # runs after those registered later
group = join_group()
wait_for_all(group)
assert dist.is_initialized() and group.world == 2
"""


def test_a_process_that_ends_has_left_the_group(tmp_path: Path) -> None:
    """Its threads, if they live on to the end of a process, abort it now and then, and torchrun stops the others."""
    (tmp_path / "leaving.py").write_text(LEAVING)
    done = torchrun(str(tmp_path / "leaving.py"))
    assert done.returncode == 0, done.stderr
