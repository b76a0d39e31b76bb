"""Unix time that nobody can set while a run is under way."""

from __future__ import annotations

import time

import pytest

from workflowmaster.flows import steady


def test_it_is_unix_time_and_goes_on() -> None:
    first = steady.now()
    assert abs(first - time.time()) < 60
    assert steady.now() >= first


@pytest.mark.parametrize("jump", [-3600, 3600])
def test_a_clock_that_is_set_does_not_move_it(jump: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before, true = steady.now(), time.time
    monkeypatch.setattr(time, "time", lambda: true() + jump)
    assert 0 <= steady.now() - before < 60
