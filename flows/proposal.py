"""What is proposed to other people: the text of the issue and of the pull request.

Written for somebody who has never seen the prompt: what and why, what was done, what changed, what proves it, how to
check it. Everything quoted is made harmless first (`quoting.py`), since these texts are published under our name.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from workflowmaster.flows import decided
from workflowmaster.flows.quoting import bounded, code, fence, inline, neutral, prose, table, title
from workflowmaster.flows.reading import Outcome, Row, read
from workflowmaster.flows.reportparts import change_size, criterion_state
from workflowmaster.flows.wording import STEP_WORDS, counted, duration, short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workflowmaster.blocks.forge import ChangedFile
    from workflowmaster.flows.plan import Plan
    from workflowmaster.flows.state import WorkflowState

BODY_LIMIT: Final = 65_000
"""Characters; GitHub refuses a body of more than 65,536."""
MOST_LISTED: Final = 60


def pull_request(state: WorkflowState, *, files: Sequence[ChangedFile] = ()) -> tuple[str, str]:
    """Return title and Markdown body of the pull request for a run; `files` is what its branch changed."""
    # In the order in which a reviewer asks; what is cut for length is the least needed.
    outcome = read(state)
    blocks = [
        f"## What and why\n\n{_why(outcome)}",
        f"## What was done\n\n{_done(outcome)}",
        f"## Files changed\n\n{_files(files)}" if files else "",
        f"## Checks\n\n{_checks(outcome)}",
        f"## Decisions\n\n{_decisions(outcome)}" if state.decisions else "",
        f"## How to verify\n\n{_verify(outcome)}",
        _origin(outcome),
    ]
    return title(state.plan.name), bounded([block for block in blocks if block], BODY_LIMIT)


def issue_text(plan: Plan) -> tuple[str, str]:
    """Return title and Markdown body of the issue that says what a plan is about to do."""
    steps = [f"- {_named(step.id, step.name)}" for step in plan.tasks[:MOST_LISTED]]
    left = len(plan.tasks) - MOST_LISTED
    criteria = "\n".join(f"- [ ] {inline(criterion.text, 300)}" for criterion in plan.criteria)
    blocks = [
        prose(plan.description),
        prose(plan.context),
        "## Steps\n\n" + "\n".join([*steps, f"- and {left} more"] if left > 0 else steps),
        f"## Success criteria\n\n{criteria}" if criteria else "",
        f"From {code(plan.prompt.path)} (`{short(plan.prompt.sha256)}`), plan `{short(plan.workflow_hash)}`.",
    ]
    return title(plan.name), bounded([block for block in blocks if block], BODY_LIMIT)


def _why(outcome: Outcome) -> str:
    plan = outcome.state.plan
    asked = prose(plan.description) or f"Asked for by {code(plan.prompt.path)}."
    return "\n\n".join(part for part in (asked, inline(outcome.sentence, 400), inline(outcome.reason, 400)) if part)


def _done(outcome: Outcome) -> str:
    rows = [row for row in outcome.rows if row.status != "pending"]
    # Of a wide matrix the steps that went wrong are told one by one, the others counted.
    shown = rows if len(rows) <= MOST_LISTED else [row for row in rows if row.status != "completed"][:MOST_LISTED]
    left = len(rows) - len(shown)
    more = [f"- {counted(left, 'more step')}, see the report"] if left else []
    return "\n".join([*map(_step_line, shown), *more]) or "Nothing ran."


def _step_line(row: Row) -> str:
    word = "reused" if row.reused else STEP_WORDS[row.status]
    spent = f" in {duration(row.seconds)}" if row.seconds and not row.reused else ""
    tries = f" after {row.attempts} attempts" if row.retried else ""
    where = f" under {inline(row.step.policy)}" if row.step.in_container else ""
    reason = f": {inline(row.reason, 200)}" if row.reason else ""
    return f"- {_named(row.step.id, row.step.name)}: {word}{tries}{spent}{where}{reason}"


def _named(step_id: str, name: str) -> str:
    return code(step_id, 80) + (f" {inline(name, 120)}" if name not in ("", step_id) else "")


def _files(files: Sequence[ChangedFile]) -> str:
    rows = [
        (code(f.path), "binary" if f.binary else f.change, f"+{f.added}", f"\N{MINUS SIGN}{f.deleted}")
        for f in files[:MOST_LISTED]
    ]
    left = len(files) - MOST_LISTED
    more = f"\n\n{left} more are in the patch." if left > 0 else ""
    return f"{change_size(files)}\n\n" + table(("File", "Change", "Added", "Deleted"), rows, numeric=(2, 3)) + more


def _checks(outcome: Outcome) -> str:
    lines = []
    for criterion in outcome.state.plan.criteria:
        met, words = criterion_state(outcome, criterion)
        proof = f", step {code(criterion.check)}" if criterion.check else ""
        lines.append(f"- [{'x' if met == 'completed' else ' '}] {inline(criterion.text, 300)} ({words}{proof})")
    lines += [
        f"- [{'x' if row.status == 'completed' else ' '}] step {code(row.step.id)}: {STEP_WORDS[row.status]}"
        for row in outcome.rows
        if _is_check(row)
    ]
    return "\n".join(lines[:MOST_LISTED]) or "The prompt names no check."


def _is_check(row: Row) -> bool:
    return row.step.kind == "check" or row.step.check is not None or row.step.phase == "testing"


def _decisions(outcome: Outcome) -> str:
    lines = list(map(decided.told, outcome.state.decisions))
    return "\n".join(lines[:MOST_LISTED])


def _verify(outcome: Outcome) -> str:
    """Give commands that can be copied; one in which something had to be neutralised is named instead."""
    state = outcome.state
    # A command with an invisible character in it would be copied with it, and fail for no visible reason.
    own = state.branch if neutral(state.branch) == state.branch else ""
    start = [f"git switch {shlex.quote(own)}"] if own else []
    # The prompt's own checks, because they are what was agreed on as proof.
    works = [row.step.check or row.step.work for row in outcome.rows if _is_check(row) and row.step.in_container]
    scripts = [work.text.strip("\n") for work in works if work is not None and neutral(work.text) == work.text]
    named = sorted({work.line for work in works if work is not None and neutral(work.text) != work.text})
    commands = [*start, *dict.fromkeys(scripts[:5])]
    lines = ", ".join(map(str, named))
    also = f"Also the checks at {code(state.plan.prompt.path)}, line {lines}." if named else ""
    return "\n\n".join(part for part in (fence("\n".join(commands), "sh") if commands else "", also) if part) or (
        f"Run {code(state.plan.prompt.path)} again: equal work gives an equal commit."
    )


def _origin(outcome: Outcome) -> str:
    state = outcome.state
    return (
        f"Made by WorkflowMaster, compiler {inline(state.plan.compiler)}, from {code(state.plan.prompt.path)} "
        f"(`{short(state.plan.prompt.sha256)}`); workflow {code(state.workflow_id)}, "
        f"plan `{short(state.plan.workflow_hash)}`."
    )
