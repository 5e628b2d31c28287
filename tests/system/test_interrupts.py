"""Long work is asked to stop by Ctrl-C and by SIGTERM, and stops where it can stop well."""

import signal

import pytest

from unblot.system.interrupts import STOPS, end_where_terminated, interruptible


@pytest.mark.parametrize("stop", STOPS)
def test_the_first_signal_only_sets_a_flag_and_the_handlers_come_back(stop: signal.Signals) -> None:
    before = [signal.getsignal(one) for one in STOPS]
    with interruptible() as interrupted:
        assert not interrupted()
        signal.raise_signal(stop)
        assert interrupted()
        assert signal.getsignal(stop) is before[STOPS.index(stop)]
    assert [signal.getsignal(one) for one in STOPS] == before
    if stop == signal.SIGTERM:
        with pytest.raises(SystemExit, match="143"):
            end_where_terminated()
    end_where_terminated()  # once
