"""What to do about a failed attempt. Pure: facts in, a `Decision` with its reason out."""

from __future__ import annotations

from workflowmaster.flows.plan import Decision, Retries, Step

LONGEST_WAIT = 300.0
"""Cap of a delay between two attempts, in seconds."""

NEVER = frozenset({"output", "disk", "policy"})
"""Failures that the same attempt under the same limits can only repeat."""

CLASS = {"timeout": "timeout", "oom": "oom", "sandbox": "transient", "killed": "transient"}
"""Cause of a failure → the word `retries: {on: …}` uses for it; anything else is `failure`."""


def delays(retries: Retries, count: int) -> list[float]:
    """Return the wait before each retry, in seconds: doubling, growing by the first wait, or always the same."""
    first = retries.wait_seconds
    grown = {
        "exponential": [first * 2**n for n in range(count)],
        "linear": [first * (n + 1) for n in range(count)],
        "fixed": [first] * count,
    }[retries.backoff]
    return [min(wait, LONGEST_WAIT) for wait in grown]


def worth_retrying(step: Step, *, attempt: int, cause: str, reason: str) -> Decision:
    """Decide whether a failed attempt is followed by another. `attempt` counts from 1."""
    factors = {
        "attempt": attempt,
        "max": step.retries.max,
        "cause": cause,
        "failure": reason,
        "priority": step.priority,
    }
    word = CLASS.get(cause, "failure")
    if cause in NEVER:
        return Decision(step=step.id, verb="abort", reason=f"never-retried: {cause} would only repeat", factors=factors)
    if attempt > step.retries.max:
        return Decision(step=step.id, verb="continue", reason="retries-spent: no attempt is left", factors=factors)
    if step.retries.on and word not in step.retries.on:
        listed = ", ".join(step.retries.on)
        return Decision(
            step=step.id, verb="continue", reason=f"not-listed: {word} is not among {listed}", factors=factors
        )
    return Decision(
        step=step.id, verb="retry", reason=f"attempts-left: {attempt} of {step.retries.max} retries", factors=factors
    )
