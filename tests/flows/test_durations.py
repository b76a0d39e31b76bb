"""Durations, minutes and schedules as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflowmaster.flows.durations import LONGEST, cron, seconds, seconds_of_minutes


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("30s", 30),
        ("5m", 300),
        ("2h", 7200),
        ("1h30m", 5400),
        ("250ms", 0.25),
        ("1.5h", 5400),
        ("1 h 30 m", 5400),
        ("7d", LONGEST),
    ],
)
def test_durations(text, value):
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("bad", ["5", 5, "", "m", "5 minutes", "-5s", "0s", "8d", "1h 5", True, None, "5S", [], "٣s"])
def test_what_is_no_duration(bad):
    with pytest.raises(ValueError, match=r"no duration|out of range"):
        seconds(bad)


@pytest.mark.parametrize(("written", "value"), [(10, 600), (0.5, 30), ("90s", 90), ("2h", 7200)])
def test_minutes(written, value):
    assert seconds_of_minutes(written) == value


@pytest.mark.parametrize("bad", [0, -1, True, "ten", float("nan"), float("inf"), 20000, None, "10"])
def test_what_is_no_number_of_minutes(bad):
    with pytest.raises(ValueError, match=r"no time|out of range"):
        seconds_of_minutes(bad)


@pytest.mark.parametrize(
    "good",
    [
        "0 6 * * 1",
        "*/5 * * * *",
        "0,30 8-18 * jan-mar mon-fri",
        "0 0 1,15 * 0",
        "@daily",
        "5 4 * * 7",
        "0 0 31 dec sun",
    ],
)
def test_schedules(good):
    assert cron(good) == good


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("* * * *", "4 fields"),
        ("60 * * * *", "'60' is no minute"),
        ("0 24 * * *", "'24' is no hour"),
        ("0 0 0 * *", "'0' is no day of month"),
        ("0 0 * 13 *", "'13' is no month"),
        ("0 0 * * 8", "'8' is no day of week"),
        ("0 0 * foo *", "'foo' is no month"),
        ("9-5 * * * *", "'9-5' is no minute"),
        ("*/0 * * * *", r"'\*/0' is no minute"),
        ("@never", "1 fields"),
        (7, "1 fields"),
    ],
)
def test_what_is_no_schedule(bad, said):
    with pytest.raises(ValueError, match=said):
        cron(bad)


@settings(deadline=None)
@given(st.integers(0, 23), st.integers(0, 59), st.integers(1, 59))
def test_the_parts_of_a_duration_add_up(hours, minutes, rest):
    assert seconds(f"{hours}h{minutes}m{rest}s") == hours * 3600 + minutes * 60 + rest


@settings(deadline=None)
@given(st.one_of(st.text(max_size=20), st.integers(), st.floats(), st.none(), st.booleans()))
def test_anything_is_a_time_or_a_value_error(value):
    for convert in (seconds, seconds_of_minutes):
        try:
            found = convert(value)
        except ValueError:
            found = LONGEST
        assert 0 < found <= LONGEST
