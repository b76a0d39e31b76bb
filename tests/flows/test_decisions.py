"""The table of decisions, held over the full product of its factors and by its properties."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workflowmaster.flows.decisions import RULES, Facts, decide, rule_for
from workflowmaster.flows.facts import (
    LIMITED,
    LONGEST_PAUSE,
    NEVER,
    PERMANENT,
    TRANSIENT,
    UNCLEAR,
    Recalled,
    barred,
    recalled,
)
from workflowmaster.flows.plan import Failure, FailureClass, Limits

if TYPE_CHECKING:
    from collections.abc import Iterator

CLASSES: tuple[FailureClass, ...] = get_args(FailureClass)
ROOM = Limits(memory=128 * 2**20)
LIKELY, UNLIKELY = Recalled(0.9, 40), Recalled(0.01, 40)


def failure(cls: FailureClass = "unknown", **more: Any) -> Failure:
    return Failure(cls=cls, fingerprint="0123456789abcdef", **more)


def facts(cls: FailureClass = "unknown", **more: Any) -> Facts:
    """A plain step of medium priority whose first attempt has failed, with retries that nobody has asked for."""
    known: dict[str, Any] = {
        "step": "build",
        "kind": "command",
        "priority": "medium",
        "mandatory": True,
        "on_failure": "auto",
        "mode": "autonomous",
        "attempt": 1,
        "most": 4,
        "stated": False,
        "failure": failure(cls),
        "delays": (2.0, 4.0, 8.0),
    }
    return Facts(**{**known, **more})


# --- single decisions, as people would ask for them ---


@pytest.mark.parametrize(
    ("case", "verb", "rule"),
    [
        # The guide's examples.
        (facts(priority="high"), "retry", "high-priority"),
        (facts(priority="high", attempt=4), "escalate", "otherwise"),
        (facts(priority="low", progress=0.8), "skip", "low-and-late"),
        (facts("network"), "retry", "transient"),
        (facts("rate_limit", priority="low"), "retry", "transient"),
        (facts(health=0.4), "skip", "unwell"),
        (facts(priority="high", health=0.4), "retry", "high-priority"),
        (facts(), "continue", "medium-goes-on"),
        (facts("network", priority="high", mode="off"), "escalate", "not-autonomous"),
        # Its gaps, closed.
        (facts("permission", priority="high"), "abort", "mandatory-permanent"),
        (facts("permission", priority="high", mandatory=False), "escalate", "otherwise"),
        (facts("permission"), "continue", "medium-goes-on"),
        (facts("permission", stated=True), "continue", "medium-goes-on"),
        (facts("policy_refused", health=0.1), "continue", "refused-by-policy"),
        (facts("network", attempt=4), "continue", "medium-goes-on"),
        (facts("network", attempt=4, priority="high"), "escalate", "otherwise"),
        (facts("network", budget_spent="62 of 60 minutes are used"), "abort", "budget-spent"),
        # Limits.
        (facts("out_of_memory", growth=ROOM), "retry", "more-room"),
        (facts("out_of_memory", growth=ROOM, grown=True, repeated=True, attempt=2), "retry", "more-room"),
        (facts("out_of_memory"), "continue", "medium-goes-on"),
        (facts("timeout", grown=True, repeated=True, attempt=2), "escalate", "still-too-small"),
        (facts("timeout", grown=True, priority="low", attempt=2), "continue", "low-goes-on"),
        (facts("timeout", stated=True), "retry", "prompt-retries"),
        (facts("timeout", stated=True, repeated=True, attempt=2), "continue", "medium-goes-on"),
        # The same failure on the same inputs.
        (facts("test_failure", priority="high", attempt=2, repeated=True), "escalate", "otherwise"),
        (facts("test_failure", stated=True, attempt=2, repeated=True), "continue", "medium-goes-on"),
        (facts("network", attempt=2, repeated=True), "retry", "transient"),
        (facts("test_failure"), "continue", "medium-goes-on"),
        # What the prompt says.
        (facts("code_error", stated=True), "retry", "prompt-retries"),
        (facts("network", stated=True, most=1), "continue", "medium-goes-on"),
        (facts("network", stated=True, retries_on=("oom",)), "continue", "medium-goes-on"),
        (facts("network", stated=True, retries_on=("oom",), priority="high"), "escalate", "otherwise"),
        (facts(on_failure="retry"), "retry", "prompt-retries"),
        (facts("test_failure", on_failure="skip", priority="high"), "skip", "prompt-skips"),
        (facts("network", on_failure="skip"), "retry", "transient"),
        (facts("network", on_failure="abort", attempt=4), "abort", "prompt-aborts"),
        (facts(on_failure="escalate"), "escalate", "prompt-escalates"),
        (facts("code_error", priority="high", continue_on_error=True), "continue", "prompt-goes-on"),
        (facts("network", continue_on_error=True), "retry", "transient"),
        (facts(on_failure="abort", continue_on_error=True), "abort", "prompt-aborts"),
        # A mode between the two.
        (facts("network", mode="assist"), "retry", "transient"),
        (facts("timeout", mode="assist", growth=ROOM), "escalate", "assist"),
        (facts("test_failure", mode="assist", priority="high"), "escalate", "assist"),
        (facts(mode="assist", stated=True), "retry", "prompt-retries"),
        (facts(mode="assist", on_failure="skip"), "skip", "prompt-skips"),
        (facts("code_error", priority="high", mode="assist"), "escalate", "assist"),
        # A service that is down.
        (facts("sandbox_unavailable", breaker="open", breaker_wait=9, patience=60), "retry", "circuit-open"),
        (facts("sandbox_unavailable", breaker="open", breaker_wait=9, patience=5), "abort", "circuit-open"),
        (facts("sandbox_unavailable", breaker="open", patience=9, stated=True, most=1), "continue", "medium-goes-on"),
        (facts("sandbox_unavailable", breaker="half-open", patience=60), "retry", "transient"),
        (facts("network", kind="forge", breaker="open", patience=60, attempt=4), "retry", "circuit-open"),
        (facts("network", breaker="open", patience=60, attempt=4), "continue", "medium-goes-on"),
        # Where two rows hold, the upper one is told.
        (facts(mode="off", budget_spent="62 of 60 minutes are used"), "escalate", "not-autonomous"),
        (
            facts("sandbox_unavailable", budget_spent="9 of 9 attempts", breaker="open", patience=9),
            "abort",
            "budget-spent",
        ),
        (facts("sandbox_unavailable", stated=True, breaker="open", patience=9), "retry", "circuit-open"),
        (facts("sandbox_unavailable", stated=True, breaker="open", breaker_wait=9), "abort", "circuit-open"),
        (facts("out_of_memory", growth=ROOM, on_failure="skip"), "retry", "more-room"),
        (facts(on_failure="escalate", continue_on_error=True), "escalate", "prompt-escalates"),
        (facts(mode="assist", continue_on_error=True), "continue", "prompt-goes-on"),
        (facts(mode="assist", priority="high", chance=UNLIKELY), "escalate", "assist"),
        (facts("policy_refused", priority="low", progress=0.8), "continue", "refused-by-policy"),
        (facts(priority="low", progress=0.8, health=0.4), "skip", "low-and-late"),
        # A person's time is for what is in somebody's way.
        (facts(priority="low"), "continue", "low-goes-on"),
        (facts(priority="low", dependants=2), "escalate", "low-in-the-way"),
        (facts(priority="low", dependants=2, mandatory=False), "continue", "low-goes-on"),
        # Agents and guesses.
        (facts("code_error", priority="high", kind="agent"), "retry", "high-priority"),
        (facts("code_error", priority="high"), "abort", "mandatory-permanent"),
        (facts("merge_conflict", priority="high", kind="agent"), "abort", "mandatory-permanent"),
        (facts(priority="high", failure=failure("code_error", confidence=0.5)), "retry", "high-priority"),
        (facts(priority="high", failure=failure("permission", confidence=0.5)), "escalate", "otherwise"),
        # What was learned.
        (facts(chance=LIKELY), "retry", "learned-retry"),
        (facts(chance=LIKELY, attempt=2), "continue", "medium-goes-on"),
        (facts(chance=LIKELY, health=0.4), "skip", "unwell"),
        (facts("code_error", chance=LIKELY), "continue", "medium-goes-on"),
        (facts(priority="low", dependants=2, chance=LIKELY), "retry", "learned-retry"),
        (facts(priority="high", chance=UNLIKELY), "escalate", "learned-hopeless"),
        (facts("network", priority="high", chance=UNLIKELY), "retry", "transient"),
        (facts(stated=True, chance=UNLIKELY), "retry", "prompt-retries"),
        (facts(failure=failure("network", retry_after=4000.0)), "continue", "medium-goes-on"),
        (facts(failure=failure("out_of_memory", confidence=0.5), growth=ROOM), "continue", "medium-goes-on"),
        (
            facts(failure=failure("out_of_memory", confidence=0.5), growth=ROOM, priority="high"),
            "retry",
            "high-priority",
        ),
    ],
)
def test_what_is_decided(case: Facts, verb: str, rule: str) -> None:
    found = decide(case)
    assert (found.verb, found.rule) == (verb, rule), found.reason
    assert found.reason.startswith(f"{rule}: ")


# --- the full product ---

FACTORS: dict[str, tuple[Any, ...]] = {
    "mode": ("autonomous", "assist", "off"),
    "priority": ("high", "medium", "low"),
    "mandatory": (True, False),
    "on_failure": ("auto", "retry", "skip", "abort", "escalate"),
    "attempt": (1, 4),
    "repeated": (False, True),
    "growth": (None, ROOM),
    "progress": (0.2, 0.9),
    "health": (0.9, 0.2),
    "dependants": (0, 2),
    "budget_spent": ("", "62 of 60 minutes are used"),
}
"""With the fifteen classes: 172,800 failures."""

COUNTED = {
    "autonomous": {"abort": 34640, "skip": 8552, "escalate": 7330, "retry": 4608, "continue": 2470},
    "assist": {"abort": 33984, "escalate": 14688, "skip": 5184, "retry": 3744},
    "off": {"escalate": 57600},
}
"""What the table makes of them; half have a spent budget. A change here is one of what users see."""

CIRCUMSTANCES: dict[str, tuple[Any, ...]] = {
    "kind": ("command", "agent", "forge"),
    "priority": ("high", "medium", "low"),
    "mode": ("autonomous", "assist"),
    "attempt": (1, 4),
    "stated": (False, True),
    "continue_on_error": (False, True),
    "growth": (None, ROOM),
    "grown": (False, True),
    "breaker": ("closed", "open"),
    "patience": (0.0, 60.0),
    "chance": (None, LIKELY, UNLIKELY),
}
"""What the first product leaves out: services, growth, history. With the classes: 103,680 failures."""

OF_CIRCUMSTANCES = {
    "transient": 4_032,
    "otherwise": 2_184,
    "mandatory-permanent": 3_168,
    "high-priority": 384,
    "learned-hopeless": 192,
    "circuit-open": 4_608,
    "still-too-small": 720,
    "more-room": 864,
    "prompt-goes-on": 38_160,
    "prompt-retries": 17_856,
    "assist": 19_296,
    "medium-goes-on": 5_160,
    "refused-by-policy": 1_152,
    "learned-retry": 384,
    "low-goes-on": 5_520,
}


def product(factors: dict[str, tuple[Any, ...]], **plain: Any) -> Iterator[Facts]:
    failed = {cls: facts(cls, **plain) for cls in CLASSES}
    for values in itertools.product(*factors.values()):
        changed = dict(zip(factors, values, strict=True))
        for cls in CLASSES:
            yield dataclasses.replace(failed[cls], **changed)


@functools.cache
def decided() -> Counter[tuple[str, str, str]]:
    """How many failures of the first product come to which rule, by mode and verb."""
    rules = ((one.mode, rule_for(one)) for one in product(FACTORS))
    return Counter((mode, rule.verb, rule.name) for mode, rule in rules)


def test_the_full_product_is_decided_as_pinned() -> None:
    counted: dict[str, Counter[str]] = {mode: Counter() for mode in COUNTED}
    for (mode, verb, _), count in decided().items():
        counted[mode][verb] += count
    assert counted == COUNTED


def test_every_rule_is_reached() -> None:
    reached = Counter(rule_for(one).name for one in product(CIRCUMSTANCES, breaker_wait=9.0))
    assert reached == OF_CIRCUMSTANCES
    assert {name for _, _, name in decided()} | set(reached) == {rule.name for rule in RULES}


def test_classes_are_told_apart_completely() -> None:
    groups = (TRANSIENT, LIMITED, UNCLEAR, PERMANENT)
    assert sum(map(len, groups)) == len(CLASSES)
    assert frozenset().union(*groups) == set(CLASSES)
    assert NEVER < PERMANENT


# --- against the original ---

MESSAGES: tuple[FailureClass, ...] = ("network", "rate_limit", "permission", "missing_resource", "unknown", "unknown")
"""What the original's classifier makes of the six messages that its table was counted over, as classes of ours."""


def test_the_original_s_cases_are_decided_otherwise_only_where_it_had_gaps() -> None:
    """The original: 56 retry, 48 skip, 24 escalate, 16 continue, 0 abort, of the same 144."""
    factors = {"priority": ("high", "medium", "low"), "attempt": (1, 4), "progress": (0.0, 0.9), "health": (0.9, 0.2)}
    counted: Counter[str] = Counter()
    for values in itertools.product(*factors.values()):
        changed = dict(zip(factors, values, strict=True))
        counted.update(decide(facts(cls, **changed)).verb for cls in MESSAGES)
    assert counted == {"retry": 32, "skip": 50, "escalate": 16, "continue": 30, "abort": 16}


# --- properties ---

shares = st.floats(0, 1)
seconds = st.floats(0, 10_000)
limits = st.builds(Limits, memory=st.none() | st.integers(1, 2**40), seconds=st.none() | st.floats(1, 1e6))
failures = st.builds(
    Failure,
    cls=st.sampled_from(CLASSES),
    fingerprint=st.just("0123456789abcdef"),
    confidence=shares,
    source=st.sampled_from(["receipt:oom", "rule:dns", "model:1"]),
    retry_after=st.none() | seconds,
)
anything = st.builds(
    Facts,
    step=st.just("build"),
    kind=st.sampled_from(["setup", "command", "agent", "forge", "approval", "check"]),
    priority=st.sampled_from(["high", "medium", "low"]),
    mandatory=st.booleans(),
    on_failure=st.sampled_from(["retry", "skip", "abort", "escalate", "auto"]),
    mode=st.sampled_from(["autonomous", "assist", "off"]),
    attempt=st.integers(1, 8),
    most=st.integers(1, 8),
    stated=st.booleans(),
    failure=failures,
    continue_on_error=st.booleans(),
    retries_on=st.lists(st.sampled_from(["transient", "oom", "timeout", "failure"]), unique=True).map(tuple),
    repeated=st.booleans(),
    growth=st.none() | limits,
    grown=st.booleans(),
    progress=shares,
    health=shares,
    budget_spent=st.sampled_from(["", "62 of 60 minutes are used"]),
    breaker=st.sampled_from(["closed", "half-open", "open"]),
    breaker_wait=seconds,
    patience=seconds,
    dependants=st.integers(0, 50),
    chance=st.none() | st.builds(Recalled, probability=shares, cases=st.integers(0, 500)),
    delays=st.lists(seconds, max_size=8).map(tuple),
)


def retried(one: Facts) -> bool:
    return rule_for(one).verb == "retry"


@given(anything)
def test_it_is_total_and_says_why(one: Facts) -> None:
    found = decide(one)
    assert found.rule in {rule.name for rule in RULES}
    name, _, sentence = found.reason.partition(": ")
    assert name == found.rule
    assert sentence
    assert "  " not in sentence


@given(anything)
def test_it_is_bounded(one: Facts) -> None:
    """A retry that counts follows only where an attempt is left; one that does not only while patience lasts."""
    found = decide(one)
    if found.verb != "retry":
        assert (found.wait_seconds, found.limits) == (0.0, None)
    elif found.factors["counts"]:
        assert one.attempt < one.most
        assert barred(one) is None
        assert found.wait_seconds <= max(LONGEST_PAUSE, 0)
    else:
        assert found.rule == "circuit-open"
        assert found.wait_seconds <= one.patience


@given(anything)
def test_what_is_never_tried_again_is_not(one: Facts) -> None:
    if one.cls in NEVER or one.budget_spent:
        assert not retried(one)


@given(anything, shares)
def test_worse_health_never_makes_it_retry_more(one: Facts, worse: float) -> None:
    if retried(dataclasses.replace(one, health=one.health * worse)):
        assert retried(one)


@given(anything)
def test_less_budget_never_makes_it_retry_more(one: Facts) -> None:
    if retried(dataclasses.replace(one, budget_spent="9 of 9 attempts are used")):
        assert retried(dataclasses.replace(one, budget_spent=""))


@given(anything, st.integers(1, 8))
def test_more_attempts_never_turn_no_retry_into_one(one: Facts, more: int) -> None:
    if retried(dataclasses.replace(one, attempt=one.attempt + more)):
        assert retried(one)


@given(anything, st.integers(1, 8))
def test_fewer_attempts_at_most_never_make_it_retry_more(one: Facts, fewer: int) -> None:
    if retried(dataclasses.replace(one, most=max(one.most - fewer, 1))):
        assert retried(one)


@given(anything)
def test_repetition_never_makes_it_retry_more(one: Facts) -> None:
    if retried(dataclasses.replace(one, repeated=True)):
        assert retried(dataclasses.replace(one, repeated=False))


@given(anything, shares)
def test_less_patience_never_makes_it_retry_more(one: Facts, share: float) -> None:
    """Where patience ends the run stops: it does not go on to burn an attempt instead."""
    if retried(dataclasses.replace(one, patience=one.patience * share)):
        assert retried(one)


@given(anything)
def test_without_autonomy_everything_is_a_person_s(one: Facts) -> None:
    assert decide(dataclasses.replace(one, mode="off")).verb == "escalate"


@given(anything)
def test_in_mode_assist_nothing_is_decided_that_is_a_judgement(one: Facts) -> None:
    found = decide(dataclasses.replace(one, mode="assist"))
    stated = {rule.name for rule in RULES if rule.name.startswith("prompt-")} | {"budget-spent"}
    assert found.rule in {*stated, "circuit-open", "transient", "assist"}


@given(anything)
def test_history_has_no_say_where_the_class_or_the_prompt_has_one(one: Facts) -> None:
    without = rule_for(dataclasses.replace(one, chance=None))
    if rule_for(one) != without:
        assert one.unclear
        assert not one.asked
        assert one.on_failure == "auto"
        assert not one.continue_on_error
        assert without.name in {"high-priority", "medium-goes-on", "low-goes-on", "low-in-the-way"}
        assert one.mode == "autonomous"


@given(anything)
def test_a_skip_says_what_becomes_of_those_that_need_it(one: Facts) -> None:
    found = decide(one)
    assert ("dependants_run" in found.factors) == (found.verb == "skip")
    if found.verb == "skip" and one.dependants:
        run = found.factors["dependants_run"]
        assert run == (one.on_failure == "skip" or not one.mandatory)
        assert ("on what it started from" in found.reason) == run


@given(anything)
@example(facts("timeout", growth=ROOM, chance=LIKELY, retries_on=("timeout",)))
def test_a_record_gives_the_same_decision_again(one: Facts) -> None:
    found = decide(one)
    kept = type(found).model_validate_json(found.model_dump_json())
    assert kept.failure is not None
    again = decide(recalled(kept.step, kept.failure, kept.factors))
    assert again.model_dump_json() == found.model_dump_json()


# --- what comes with a retry ---


@pytest.mark.parametrize(
    ("case", "wait"),
    [
        (facts("network"), 2.0),
        (facts("network", attempt=3), 8.0),
        (facts("network", attempt=6, most=9), 8.0),
        (facts("network", delays=()), 0.0),
        (facts(failure=failure("rate_limit", retry_after=90.0)), 90.0),
        (facts(failure=failure("rate_limit", retry_after=0.5)), 2.0),
        (facts("network", breaker="open", breaker_wait=30.0), 30.0),
        (facts("network", breaker="half-open", breaker_wait=30.0), 2.0),
        (facts("sandbox_unavailable", breaker="open", breaker_wait=9.0, patience=60.0), 9.0),
    ],
)
def test_how_long_it_waits(case: Facts, wait: float) -> None:
    found = decide(case)
    assert (found.verb, found.wait_seconds) == ("retry", wait)


def test_limits_grow_only_where_a_limit_was_the_cause() -> None:
    assert decide(facts("out_of_memory", growth=ROOM)).limits == ROOM
    assert decide(facts("out_of_memory", growth=ROOM, stated=True)).limits == ROOM
    assert decide(facts("network", growth=ROOM)).limits is None
    assert decide(facts("out_of_memory", growth=ROOM, mode="assist")).limits is None


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (
            facts("network"),
            "transient: a network failure passes by itself; it was attempt 1 of 4",
        ),
        (
            facts("out_of_memory", growth=Limits(memory=128 * 2**20, seconds=60.0)),
            "more-room: running out of memory in attempt 1 of 4, and the next gets 128 MiB and 60 s",
        ),
        (
            facts("test_failure", attempt=2, repeated=True),
            (
                "medium-goes-on: a test failure is final, because the same failure came twice on the same inputs; "
                "steps that do not need it go on"
            ),
        ),
        (
            facts("permission", priority="high"),
            (
                "mandatory-permanent: the run cannot complete without this step; a refused permission is final, because "
                "such failures are never tried again"
            ),
        ),
        (
            facts("unknown", priority="low", progress=0.8, dependants=1),
            (
                "low-and-late: low priority, and 0.8 of the run is done; an unknown failure is final, because nobody asks "
                "for retries and nothing says that one would help; 1 step needs it and is skipped with it"
            ),
        ),
        (
            facts("unknown", on_failure="skip", dependants=3),
            (
                "prompt-skips: its on-failure says so; an unknown failure is final, because nobody asks for retries and "
                "nothing says that one would help; 3 steps need it and run on what it started from"
            ),
        ),
        (
            facts("unknown", chance=LIKELY),
            (
                "learned-retry: retries of such failures succeed with probability 0.90 (0.82 to 0.95, 40 cases), and an "
                "unknown failure was the first of 4 attempts"
            ),
        ),
        (
            facts("sandbox_unavailable", breaker="open", breaker_wait=9.0, patience=60.0),
            "circuit-open: the engine is down, so it waits 9 s of 60 s; no attempt is counted",
        ),
    ],
)
def test_reasons_are_sentences(case: Facts, reason: str) -> None:
    assert decide(case).reason == reason


def test_every_factor_is_in_the_record() -> None:
    found = decide(facts("timeout", growth=ROOM, chance=LIKELY))
    names = {one.name for one in dataclasses.fields(Facts)} - {"step", "failure"}
    assert names < set(found.factors)
    assert found.factors["class"] == "timeout"
    assert found.factors["chance"] == {"probability": 0.9, "cases": 40}
    assert (found.factors["barred"], found.factors["counts"]) == ("", True)
    assert decide(facts("permission")).factors["barred"] == "never"
