"""`get_execution_statistics`: the guide's dictionary, with the arithmetic that its names promise.

The original counted executions as tasks, forgot successes that came with a retry, and counted one container for five
commands. Here every number is drawn from what runs have left, by the same counting as `stats`, so it holds after a
restart too; the cost is that it reads the state directory instead of a counter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from workflowmaster.blocks import breaker
from workflowmaster.flows import folders, statshow
from workflowmaster.flows.counting import grouped, numbers, tally
from workflowmaster.flows.settings import load

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workflowmaster.flows.accounts import RunAccount, StepAccount

GUIDE: Final = ("total_tasks", "completed_tasks", "failed_tasks", "autonomous_decisions", "container_executions")
"""Keys that `stats --json` has under the same name and with the same meaning."""
OWN: Final = ("runtime_seconds", "success_rate")
"""What is told of each workflow besides."""
AGENTS: Final = ("test-solver", "test-writer")
"""Agents of the original that it counted the calls of."""


def get_execution_statistics(workflow_id: str | None = None) -> dict[str, Any]:
    """Return what was executed: over all runs of this state directory, or by one run. Times are seconds.

    `total_tasks` counts the tasks of the plans, each once however often it was tried; a task that went well at its
    third attempt is completed; `container_executions` counts containers, checks and killed ones included.
    `runtime_seconds` is the time in which runs were worked on. `current_workflow` is the id of the newest run that a
    process of this machine works on, or None. `test_solver_invocations` and `test_writer_invocations` count the
    attempts of agent steps with that id or name: WorkflowMaster itself calls no such agent, so they are 0 unless a
    prompt has a step `test-solver` or `test-writer`. The two breakers have `failure_count` (in a row) and `state`
    (`closed`, `half-open`, `open`). `workflows` has the guide's counts by the name of the prompt. Without a run all
    counts are 0. A damaged run is named on stderr and not counted.

    Raises UnknownWorkflow for an id that nobody has, SettingsError where the settings cannot be read.
    """
    known = [folders.find(workflow_id)] if workflow_id else None
    runs = list(statshow.readable(known))
    found = numbers(tally(runs))
    # `everything` gives the newest first, and so do the accounts.
    going = next((run.id for run in runs if run.standing == "going"), None)
    invoked = {f"{name.replace('-', '_')}_invocations": _invoked(runs, name) for name in AGENTS}
    return {
        **{key: found[key] for key in GUIDE},
        **invoked,
        "runtime_seconds": found["runtime_seconds"],
        "current_workflow": going,
        "autonomous_mode": load().autonomous_mode,
        "github_circuit_breaker_status": _breaker("github"),
        "execution_circuit_breaker_status": _breaker("engine"),
        "workflows": _by_name(runs),
    }


def _by_name(runs: Iterable[RunAccount]) -> dict[str, dict[str, Any]]:
    found = {name: numbers(counted) for name, counted in grouped(runs, "workflow").items()}
    return {name: {key: one[key] for key in (*GUIDE, *OWN)} for name, one in found.items()}


def _invoked(runs: Iterable[RunAccount], name: str) -> int:
    return sum(step.attempts for run in runs for step in run.steps if _is(step, name))


def _is(step: StepAccount, name: str) -> bool:
    words = (step.id, step.name)
    return step.kind == "agent" and name in ["-".join(word.lower().replace("_", " ").split()) for word in words]


def _breaker(name: str) -> dict[str, Any]:
    told = breaker.states().get(name, {})
    return {"failure_count": told.get("failure_count", 0), "state": told.get("state", "closed")}
