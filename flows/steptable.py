"""The table of steps: one line of figures each, below it the command, and everything else folded away.

The command stands under the figures because it says what a step did better than its name; the rest (log, outputs,
findings, container) is one click away. Steps that failed are open, since they are what the report is opened for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from workflowmaster.flows import decided
from workflowmaster.flows.elements import Markup, element
from workflowmaster.flows.folders import safe
from workflowmaster.flows.plaintext import one_line, tail
from workflowmaster.flows.reading import Outcome, Row
from workflowmaster.flows.wording import STEP_WORDS, counted, duration, short, size

if TYPE_CHECKING:
    from workflowmaster.flows.plan import StepResult, Work

LOG_LINES: Final = 40
COMMAND_LINES: Final = 12
ARTIFACTS: Final = 40
"""Files of one step that are listed."""
NONE: Final = element("span", "\N{EN DASH}", class_="none")

Cell = Callable[[Row], object]


def _optional(show: Callable[[float], str], value: float | None) -> object:
    return NONE if value is None else show(value)


COLUMNS: Final[tuple[tuple[str, Cell], ...]] = (
    ("Policy", lambda row: row.step.policy if row.step.in_container else "host"),
    ("Attempts", lambda row: row.attempts or NONE),
    ("Queued", lambda row: _optional(duration, row.queued)),
    ("Time", lambda row: _optional(duration, row.seconds)),
    ("Peak memory", lambda row: _optional(size, row.peak_memory)),
    ("CPU", lambda row: _optional(duration, row.cpu_seconds)),
    ("Exit", lambda row: NONE if row.result is None or row.result.exit_code is None else row.result.exit_code),
)
"""Columns after step and status; all but the first are numbers."""


def steps_section(outcome: Outcome, logs: Mapping[str, str]) -> Markup:
    """Return the table of all steps, in plan order."""
    names = [element("th", "Step"), element("th", "Status")]
    names += [element("th", name, class_="num" if index else None) for index, (name, _) in enumerate(COLUMNS)]
    bodies = [_step(outcome, row, logs.get(row.step.id, "")) for row in outcome.rows]
    table = element("table", element("thead", element("tr", *names)), *bodies)
    return element(
        "section",
        element("h2", "Steps"),
        element("p", "Open a line for its log, outputs and container.", class_="hint"),
        element("div", table, class_="scroll"),
    )


def _step(outcome: Outcome, row: Row, log: str) -> Markup:
    step, word = row.step, "reused" if row.reused else STEP_WORDS[row.status]
    # A number says nothing by itself, so the name stands beside it; another id says what the step is.
    beside = "beside" if step.id[:1].isdigit() else None
    name = element("span", one_line(step.name, 90), class_=beside) if step.name not in ("", step.id) else None
    cells = [
        element("td", one_line(step.id, 90), " " if beside else None, name, class_="step"),
        element("td", element("span", word, class_=f"status {row.status}")),
    ]
    cells += [element("td", cell(row), class_="num" if index else None) for index, (_, cell) in enumerate(COLUMNS)]
    more = element("td", _more(outcome, row, log), class_="more", colspan=len(COLUMNS) + 2)
    return element("tbody", element("tr", *cells), element("tr", more))


def _more(outcome: Outcome, row: Row, log: str) -> Markup:
    # Open only where a reader has a question already; three hundred open logs answer none.
    inner = element("div", _facts(row), *_blocks(outcome, row, log), class_="inner")
    return element("details", element("summary", _summary(row)), inner, open="" if row.status == "failed" else None)


def _summary(row: Row) -> Markup:
    """Show the first line of the command, or what stands in its place."""
    # A reason beats a command: why a step did not do its work is asked before what the work was.
    if row.status in ("failed", "blocked", "skipped", "waiting") and row.reason:
        return element("span", row.reason)
    work = row.step.work
    if work is None or not work.text.strip():
        return element("span", row.step.description or f"{row.step.kind}, on the host")
    lines = [line for line in work.text.strip().splitlines() if line.strip()]
    return element("code", one_line(lines[0], 110), f"  (+{len(lines) - 1})" if len(lines) > 1 else None)


def _facts(row: Row) -> Markup | None:
    facts = [
        ("Why", row.reason),
        ("From", f"line {row.step.source.line}" + (f", {row.step.source.section}" if row.step.source.section else "")),
        ("Needs", ", ".join(row.step.needs)),
        ("Image", row.step.image),
        ("Container", " ".join(short(r.container_id) for r in row.receipts if r.container_id)),
        ("User", ", ".join(dict.fromkeys(r.user for r in row.receipts if r.user))),
        ("Ended by", "; ".join(_endings(row))),
        ("Adopted", _adopted(row)),
        ("Network", _network(row)),
        ("Condition", row.step.condition),
        ("Looser policy", row.step.policy_reason),
        ("Commit", short(row.result.commit) if row.result and row.result.commit else ""),
    ]
    items = [part for name, value in facts if value for part in (element("dt", name), element("dd", value))]
    return element("dl", *items, class_="facts") if items else None


def _adopted(row: Row) -> str:
    """Say which of its containers another owner went on with, and how long nobody watched; nothing where none."""
    found = [receipt for receipt in row.receipts if receipt.adopted]
    return "; ".join(
        f"{receipt.purpose}, after its owner had died; unwatched for at most {duration(receipt.unwatched_seconds)}"
        for receipt in found
    )


def _network(row: Row) -> str:
    """Say what its containers asked of the proxy; nothing where they asked nothing."""
    asked = sum(receipt.network_attempts for receipt in row.receipts)
    if not asked:
        return ""
    refused = sum(receipt.network_refused for receipt in row.receipts)
    hosts = dict.fromkeys(host for receipt in row.receipts for host in receipt.network_refused_hosts)
    said = f"{counted(asked, 'request')}, {size(sum(receipt.network_bytes for receipt in row.receipts))}"
    # The names, because a list that lacks one is the usual reason why a step behind a proxy fails.
    return f"{said}; {refused} refused: {', '.join(one_line(host, 80) for host in hosts)}" if refused else said


def _endings(row: Row) -> list[str]:
    """Say what ended a container other than its own exit, one phrase each."""
    found = []
    for receipt in row.receipts:
        # An exit code of 137 looks the same for all of these; the receipt tells them apart.
        found += ["out of memory"] if receipt.oom_killed else []
        found += ["time limit"] if receipt.timed_out else []
        found += ["output cut at its cap"] if receipt.output_capped else []
        found += [receipt.refused] if receipt.refused else []
    return list(dict.fromkeys(found))


def _blocks(outcome: Outcome, row: Row, log: str) -> list[Markup]:
    result = row.result
    outputs = "\n".join(f"{name} = {one_line(value, 300)}" for name, value in result.outputs.items()) if result else ""
    choices = "\n".join(map(decided.line, outcome.decisions(row.step.id)))
    shown = tail(log, LOG_LINES)
    blocks = [
        ("Command", _script(row.step.work)),
        ("Check", _script(row.step.check)),
        ("Outputs", outputs),
        ("Artifacts", "\n".join(_artifacts(result)) if result else ""),
        ("Findings", "\n".join(result.findings) if result else ""),
        ("Decisions", choices),
        (_log_title(outcome, row, len(shown)), "\n".join(shown)),
    ]
    return [part for title, text in blocks if text for part in (element("h3", title), element("pre", text))]


def _artifacts(result: StepResult) -> list[str]:
    """List the files a step handed out, and say where they lie."""
    if not result.artifacts:
        return []
    shown = [f"{one.name}  {one.bytes:,} bytes  sha256 {one.sha256[:16]}…" for one in result.artifacts[:ARTIFACTS]]
    left = len(result.artifacts) - len(shown)
    where = f"in artifacts/{safe(result.step)}/ of the folder of {result.workflow or 'the run'}"
    return [*shown, *([f"… {left} more"] if left else []), where]


def _script(work: Work | None) -> str:
    if work is None:
        return ""
    lines = work.text.strip("\n").splitlines()
    left = len(lines) - COMMAND_LINES
    return "\n".join(lines[:COMMAND_LINES]) + (f"\n… {left} more" if left > 0 else "")


def _log_title(outcome: Outcome, row: Row, shown: int) -> str:
    # The caller may have cut the log already, so a full tail never claims to be everything.
    if shown < LOG_LINES:
        return "Log"
    command = f"workflowmaster logs {outcome.state.workflow_id} --step {row.step.id}"
    return f"Log, last {shown} lines; all of it: {command}"
