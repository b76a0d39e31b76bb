"""The report as Prefect shows it: one Markdown artifact.

Prefect's page draws tables, mermaid and data-URI images, but no inline SVG and no styles, and it shows the state's
message nowhere prominent. So the first line is the outcome as a sentence and the second its reason; the timeline is
an image; logs are there only for steps that failed, because Prefect keeps its own.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final

from workflowmaster.flows import budgets, decided
from workflowmaster.flows.graphs import mermaid
from workflowmaster.flows.plaintext import WEB_ADDRESS, decisive
from workflowmaster.flows.quoting import code, fence, inline, prose, table
from workflowmaster.flows.reading import Outcome, Row, read
from workflowmaster.flows.reportparts import criterion_state
from workflowmaster.flows.timeline import timeline
from workflowmaster.flows.wording import GLYPHS, STEP_WORDS, counted, duration, short, size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workflowmaster.flows.state import WorkflowState

MOST_ROWS: Final = 400
"""Rows of the step table; beyond that only steps that did not simply complete are listed."""
MOST_LOGS: Final = 8
"""Failed steps whose log is quoted."""


def markdown(state: WorkflowState, logs: Mapping[str, str]) -> str:
    """Return the artifact of a run; `logs` are the raw outputs by step id."""
    # Cards on the run page show nothing but a description, so the text itself starts with the outcome.
    outcome = read(state)
    blocks = [
        f"**{inline(outcome.sentence, 400)}**",
        inline(outcome.reason, 400),
        prose(state.plan.description),
        _summary(outcome),
        _failures(outcome, logs),
        f"## Timeline\n\n{_image(outcome)}",
        f"## Plan\n\n{fence(mermaid(outcome.rows), 'mermaid')}",
        f"## Steps\n\n{_steps(outcome)}",
        _decisions(outcome),
        _criteria(outcome),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def link(target: str) -> str:
    """Return a Markdown link for a web address, a code span for everything else."""
    if WEB_ADDRESS.fullmatch(target):
        return f"[{inline(target)}](<{target}>)"
    return code(target)


def _summary(outcome: Outcome) -> str:
    state, counts = outcome.state, outcome.counts
    done = [counted(counts["ran"], "step") + " ran"]
    done += [f"{counts[word]} {word}" for word in ("reused", "retried", "failed", "skipped", "blocked") if counts[word]]
    facts = [
        ("Prompt", f"{code(state.plan.prompt.path)} (`{short(state.plan.prompt.sha256)}`)"),
        ("Steps", ", ".join(done)),
        ("Time", duration(state.seconds)),
        ("Policy", inline(state.plan.policy)),
        ("Budget", inline(budgets.line(state.budget))),
        (
            "Branch",
            code(state.branch) + (f" at `{short(state.commit)}`" if state.commit else "") if state.branch else "",
        ),
        ("Pull request", link(state.pull_request)),
        ("Issue", link(state.issue)),
        ("Report", code(state.report)),
        ("Workflow", code(state.workflow_id)),
        ("Next", code(outcome.next_command)),
    ]
    return table(("", ""), [(f"**{name}**", value) for name, value in facts if value])


def _image(outcome: Outcome) -> str:
    data = base64.b64encode(timeline(outcome, standalone=True).encode()).decode()
    return f"![timeline](data:image/svg+xml;base64,{data})"


def _failures(outcome: Outcome, logs: Mapping[str, str]) -> str:
    # The first failures explain the others; all logs are in Prefect's own tab.
    failed = [row for row in outcome.rows if row.status == "failed"][:MOST_LOGS]
    blocks = []
    for row in failed:
        lines = decisive(logs.get(row.step.id, ""))
        words = f"{code(row.step.id)}: {inline(row.reason, 300) or 'failed'}"
        blocks.append(f"{words}\n\n{fence(chr(10).join(lines))}" if lines else words)
    return "## What failed\n\n" + "\n\n".join(blocks) if blocks else ""


def _steps(outcome: Outcome) -> str:
    rows = outcome.rows
    # An artifact is stored in Prefect's database and sent with every view of the run.
    if len(rows) > MOST_ROWS:
        rows = tuple(row for row in rows if row.status != "completed" or row.retried)[:MOST_ROWS]
    head = ("Step", "Status", "Policy", "Attempts", "Queued", "Time", "Peak memory", "CPU", "Exit")
    listed = table(head, [_cells(row) for row in rows], numeric=range(3, 9))
    left = len(outcome.rows) - len(rows)
    return listed + (f"\n\n{counted(left, 'step')} that simply completed are not listed." if left else "")


def _cells(row: Row) -> list[str]:
    word = "reused" if row.reused else STEP_WORDS[row.status]
    exit_code = row.result.exit_code if row.result else None
    name = f" {inline(row.step.name, 60)}" if row.step.name not in ("", row.step.id) else ""
    figures = [
        f"{GLYPHS[row.status]} {word}",
        row.step.policy if row.step.in_container else "host",
        str(row.attempts or ""),
        "" if row.queued is None else duration(row.queued),
        "" if row.seconds is None else duration(row.seconds),
        "" if row.peak_memory is None else size(row.peak_memory),
        "" if row.cpu_seconds is None else duration(row.cpu_seconds),
        "" if exit_code is None else str(exit_code),
    ]
    # Prefect's page is narrow and would break a figure from its unit.
    return [code(row.step.id, 60) + name, *(inline(text).replace(" ", "\N{NO-BREAK SPACE}") for text in figures)]


def _decisions(outcome: Outcome) -> str:
    found = outcome.state.decisions
    return f"## Decisions\n\n{decided.listed(found)}" if found else ""


def _criteria(outcome: Outcome) -> str:
    criteria = outcome.state.plan.criteria
    if not criteria:
        return ""
    rows = []
    for criterion in criteria:
        _, words = criterion_state(outcome, criterion)
        rows.append((inline(criterion.text, 300), words, code(criterion.check)))
    return "## Success criteria\n\n" + table(("Criterion", "State", "Step"), rows)
