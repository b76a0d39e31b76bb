"""The report of one run as a single HTML file.

It must be readable from a mail attachment, offline, in ten years, and it shows text that nobody has vetted. So: no
script, no font, no image and no address is loaded; the policy in its head allows one style sheet, named by its digest,
and nothing else; every string is escaped by `element`. Accepted cost: no sorting and no filter; folding is the
browser's own `<details>`.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files as package_files
from typing import TYPE_CHECKING

from workflowmaster.flows.drawing import stylesheet
from workflowmaster.flows.elements import Markup, element, joined
from workflowmaster.flows.graphpicture import graph
from workflowmaster.flows.plaintext import decisive
from workflowmaster.flows.reading import Outcome, read
from workflowmaster.flows.reportparts import (
    asked_section,
    criteria_section,
    decisions_section,
    environment_section,
    files_section,
    outcome_section,
)
from workflowmaster.flows.steptable import steps_section
from workflowmaster.flows.timeline import timeline
from workflowmaster.flows.wording import WORKFLOW_WORDS, duration, moment, size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from workflowmaster.blocks.forge import ChangedFile
    from workflowmaster.flows.state import WorkflowState


def html(state: WorkflowState, logs: Mapping[str, str], *, files: Sequence[ChangedFile] = ()) -> str:
    """Return the report of a run; `logs` are the raw outputs by step id, `files` what the branch changed."""
    # What, why, when, how, details: a reader may stop after any section and know the more important half.
    outcome = read(state)
    body = element(
        "main",
        _header(outcome),
        element("div", asked_section(outcome), outcome_section(outcome, files), class_="pair"),
        _why(outcome, logs),
        _picture("Timeline", _timeline_hint(outcome), timeline(outcome)),
        _picture("Plan", "What each step needed, from the first to the last.", graph(outcome)),
        steps_section(outcome, logs),
        files_section(files),
        decisions_section(outcome),
        criteria_section(outcome),
        environment_section(outcome),
        _footer(outcome),
    )
    page = element("html", _head(outcome), element("body", body), lang="en")
    return f"<!doctype html>\n{page}\n"


@cache
def _style() -> str:
    own = package_files("workflowmaster.flows").joinpath("report.css").read_text("utf-8")
    return f"{own}{stylesheet()}"


def _head(outcome: Outcome) -> Markup:
    # Named by its digest, the sheet is the only style that is allowed: one in a prompt's text is dead.
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", f"{WORKFLOW_WORDS[outcome.state.status]}: {outcome.state.plan.name}"),
        # The sheet is our own file and holds no text of the run, so it may go in unescaped.
        element("style", Markup(_style())),
    )


def _header(outcome: Outcome) -> Markup:
    state = outcome.state
    began = f" · {moment(state.started_at)}" if state.started_at else ""
    status = element("span", WORKFLOW_WORDS[state.status], class_=f"status {state.status}")
    about = element("p", state.plan.description, class_="about") if state.plan.description else None
    return element(
        "header",
        element("p", f"Workflow {state.workflow_id}{began}", class_="eyebrow"),
        element("h1", state.plan.name),
        element("p", status, f": {outcome.account}.", class_="lead"),
        about,
        element("dl", *(_figure(name, value) for name, value in _figures(outcome)), class_="figures"),
    )


def _figure(name: str, value: str) -> Markup:
    return element("div", element("dt", name), element("dd", value))


def _figures(outcome: Outcome) -> list[tuple[str, str]]:
    """Return the numbers a reader looks for first, without those that are zero for this run."""
    counts, rows = outcome.counts, outcome.rows
    # A reused step cost this run nothing, so its time and memory are not counted again.
    fresh = [row for row in rows if not row.reused]
    peak = max((row.peak_memory or 0 for row in fresh), default=0)
    cpu = sum(row.cpu_seconds or 0.0 for row in fresh)
    figures = [
        ("Time", duration(outcome.state.seconds), bool(outcome.state.seconds)),
        ("Steps done", f"{counts['completed']} of {len(rows)}", True),
        ("Containers", str(sum(len(row.receipts) for row in fresh)), any(row.receipts for row in fresh)),
        ("Reused", str(counts["reused"]), bool(counts["reused"])),
        ("Retried", str(counts["retried"]), bool(counts["retried"])),
        ("CPU time", duration(cpu), cpu > 0),
        ("Peak memory", size(peak), peak > 0),
    ]
    return [(name, value) for name, value, there in figures if there]


def _why(outcome: Outcome, logs: Mapping[str, str]) -> Markup | None:
    """Say why it did not complete, with the lines that decided it and what to type next."""
    state, culprit = outcome.state, outcome.culprit
    if state.status == "completed":
        return None
    # The same lines that the terminal shows, so that people who compare the two are not misled.
    lines = decisive(logs.get(culprit.step.id, "")) if culprit else []
    titles = {"waiting": "What it waits for", "running": "Where it stands", "paused": "Where it stands"}
    return element(
        "section",
        element("h2", titles.get(state.status, "Why it ended this way")),
        element("p", outcome.reason or f"{outcome.account}."),
        element("pre", "\n".join(lines)) if lines else None,
        element("p", "Next:", element("code", outcome.next_command), class_="next") if outcome.next_command else None,
        class_=f"why {state.status}",
    )


def _picture(title: str, hint: str, drawing: Markup) -> Markup:
    return element(
        "section",
        element("h2", title),
        element("p", hint, class_="hint"),
        element("div", drawing, class_="picture"),
    )


def _timeline_hint(outcome: Outcome) -> str:
    path = [row for row in outcome.rows if row.critical]
    if not path:
        return "One bar per container, from its go to its exit."
    spent = sum(bar.end - bar.begin for row in path for bar in row.bars if bar.verdict != "wait")
    return (
        "One bar per container, from its go to its exit. "
        f"The critical path, {len(path)} of {len(outcome.rows)} steps, worked for {duration(spent)}."
    )


def _footer(outcome: Outcome) -> Markup:
    run = f" · flow run {outcome.state.flow_run_id}" if outcome.state.flow_run_id else ""
    words = f"WorkflowMaster, compiler {outcome.state.plan.compiler} · plan {outcome.state.plan.workflow_hash}{run}"
    return element("footer", joined([words]))
