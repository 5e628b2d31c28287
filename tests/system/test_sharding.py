"""When a network is spread out over processes; that it then is the same network is in test_processes.py."""

import pytest
import torch
from torch import nn

from unblot import UnblotError
from unblot.system.distributed import Group
from unblot.system.sharding import like, put_together, wants_shards, whole

CPU = torch.device("cpu")


def test_it_is_spread_out_where_that_is_asked_for_and_can_be():
    network, several = [nn.Linear(2, 2)], Group(0, 2)
    assert wants_shards("on", several, network, CPU)
    assert not wants_shards("off", several, network, CPU)
    assert not wants_shards("auto", several, network, CPU)
    assert not wants_shards("on", Group(), network, CPU)  # a run of one process, as one may go on
    with pytest.raises(UnblotError, match="'never'"):
        wants_shards("never", several, network, CPU)


def test_a_tensor_that_is_not_spread_out_stays_what_it_is():
    x = torch.ones(3)
    assert whole(x) is x
    assert like(x, torch.zeros(3)) is x
    assert put_together(x, torch.zeros(3)) is x
