"""When a container must be over, as its label says it, and who goes by that."""

from __future__ import annotations

import time

import pytest

from workflowmaster.blocks import deadline


def test_the_label_covers_the_longest_wait_the_wall_time_and_what_is_around_it() -> None:
    before = int(time.time())
    until = int(deadline.labels(300)["deadline"])
    most = deadline.PARKED_MOST + 300 + deadline.MARGIN
    assert before + most <= until <= time.time() + most


def test_it_is_read_back_with_and_without_our_prefix() -> None:
    assert deadline.of({"deadline": "1700000000"}) == 1.7e9
    assert deadline.of({"workflowmaster.deadline": "1700000000"}, "workflowmaster") == 1.7e9
    assert deadline.of({"workflowmaster.deadline": "soon"}, "workflowmaster") is None
    assert deadline.of({}) is None


@pytest.mark.parametrize(
    ("waited", "fits"), [(0.0, True), (deadline.PARKED_MOST - 5, True), (deadline.PARKED_MOST + 5, False)]
)
def test_one_that_has_waited_too_long_gets_no_go(waited: float, monkeypatch: pytest.MonkeyPatch, *, fits: bool) -> None:
    labels, now = deadline.labels(60), time.time
    monkeypatch.setattr(deadline.time, "time", lambda: now() + waited)
    assert deadline.in_time(labels, 60) is fits


def test_one_without_a_deadline_is_always_in_time() -> None:
    assert deadline.in_time({}, 1e9)
