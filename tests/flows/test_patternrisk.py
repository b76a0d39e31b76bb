"""Patterns that could take for ever are refused, and those that pass do not take long."""

from __future__ import annotations

import re
import time

import pytest

from workflowmaster.flows.decisive import LONGEST
from workflowmaster.flows.patternrisk import MOST_STEPS, risk

REFUSED = [
    "(a+)+$",
    "(a|a)*$",
    "(a|ab)*c",
    "(?:a*b?)*c",
    "([a-z]+)*!",
    "(x+x+)+y",
    "((ab)*)*",
    "(?P<n>a+){2,}b",
    ".*.*x",
    r"\S+ .* [^x]+y",
    r"(?:.*a){9}",
    ".*foo.{0,99}bar",
]
FINE = [
    "",
    "connection refused",
    "^error: .*refused",
    r"(\d+) of (\d+) tests failed",
    "^(?:FAILED|ERROR) [^ ]+",
    "a{3}b{1,3}c?",
    r"E\[[0-9]+\]: [^]]*x",
    r"\(.+\)",
    ".{0,40}code .{0,40}[45][0-9]{2}",
    "(?:[0-9]+:){1,2} error",
    r"a\+\+ b\*",
    "[+*(]+x",
    "(?<!no )(?:error|fault)s?",
    "^.*foo|^.*bar",
]


@pytest.mark.parametrize("pattern", REFUSED)
def test_what_could_take_for_ever_is_refused(pattern):
    re.compile(pattern)
    assert risk(pattern, LONGEST)


@pytest.mark.parametrize("pattern", FINE)
def test_what_people_write_is_fine(pattern):
    re.compile(pattern)
    assert risk(pattern, LONGEST) == ""


@pytest.mark.parametrize("pattern", FINE)
@pytest.mark.parametrize("sign", ["a", " ", "0", "x", "(", "E", ":", "code "])
def test_what_passes_takes_no_time_on_the_worst_line(pattern, sign):
    worst = (sign * LONGEST)[:LONGEST] + "\x00"
    before = time.process_time()
    re.compile(pattern, re.IGNORECASE).search(worst)
    # Five million steps take a twentieth of a second; ten times that is a machine with other things to do.
    assert time.process_time() - before < 0.5


def test_the_message_says_how_many_steps_and_what_to_do():
    said = risk(".*x.*", LONGEST)
    assert said.endswith("bound its gaps, as in `.{0,40}`")
    assert int(re.sub(r"\D", "", said.split(" steps")[0])) > MOST_STEPS


def test_an_anchored_pattern_begins_at_one_place():
    assert risk(".{0,99}x.{0,99}y", LONGEST)
    assert not risk("^.{0,99}x.{0,99}y", LONGEST)
    assert risk("^.{0,99}x|.{0,99}x.{0,99}y", LONGEST)
