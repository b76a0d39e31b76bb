"""The report's sections other than its pictures and the table of steps."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal, NamedTuple
from urllib.parse import quote

from workflowmaster.flows import budgets, decided
from workflowmaster.flows.elements import Markup, element, joined
from workflowmaster.flows.plaintext import WEB_ADDRESS
from workflowmaster.flows.wording import counted, short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workflowmaster.blocks.forge import ChangedFile
    from workflowmaster.blocks.receipt import Receipt
    from workflowmaster.flows.plan import Criterion
    from workflowmaster.flows.reading import Outcome

MOST_FILES = 200
"""So many changed files are listed; a change of more is read in the patch."""

Met = Literal["completed", "failed", "pending"]


def asked_section(outcome: Outcome) -> Markup:
    """Say what was asked for: prompt, plan, policy, and where it started."""
    state, plan = outcome.state, outcome.state.plan
    prompt = f"{plan.prompt.kind}, {counted(len(plan.tasks), 'step')}"
    return _facts(
        "Asked",
        [
            ("Prompt", element("code", plan.prompt.path)),
            ("Kind", prompt),
            ("SHA-256", _digest(plan.prompt.sha256)),
            ("Plan", _digest(plan.workflow_hash)),
            ("Policy", plan.policy),
            ("Budget", budgets.line(state.budget)),
            ("Workspace", element("code", state.workspace) if state.workspace else None),
            ("Started from", _digest(state.base_commit)),
        ],
    )


def outcome_section(outcome: Outcome, files: Sequence[ChangedFile]) -> Markup:
    """Say what came out: branch, commit, pull request, patch, issue."""
    state = outcome.state
    # The local forge writes the patch beside the text; another forge has its own view of the change.
    local = PurePosixPath(state.pull_request)
    patch = str(local.with_name("changes.patch")) if local.is_absolute() and local.name else ""
    facts = [
        ("Branch", element("code", state.branch) if state.branch else None),
        ("Commit", _digest(state.commit)),
        ("Change", change_size(files) if files else None),
        ("Pull request", _place(state.pull_request, state.report)),
        ("Patch", _place(patch, state.report)),
        ("Issue", _place(state.issue, state.report)),
        ("Audit log", _place(state.audit_log, state.report)),
    ]
    if not any(value for _, value in facts):
        facts = [("Result", "nothing was published")]
    return _facts("Came out", facts)


def change_size(files: Sequence[ChangedFile]) -> str:
    """Return `3 files, +40 -12 lines`."""
    added, deleted = sum(f.added for f in files), sum(f.deleted for f in files)
    return f"{counted(len(files), 'file')}, +{added} \N{MINUS SIGN}{deleted} lines"


def files_section(files: Sequence[ChangedFile]) -> Markup | None:
    """List the files of the change."""
    if not files:
        return None
    rows = [
        element(
            "tr",
            element("td", element("code", file.path)),
            element("td", "binary" if file.binary else file.change),
            element("td", f"+{file.added}", class_="num"),
            element("td", f"\N{MINUS SIGN}{file.deleted}", class_="num"),
        )
        for file in files[:MOST_FILES]
    ]
    left = len(files) - MOST_FILES
    return element(
        "section",
        element("h2", "Files changed"),
        element("p", change_size(files) + (f"; {left} more are in the patch" if left > 0 else ""), class_="hint"),
        _table(("File", "Change", "Added", "Deleted"), rows, numeric=(2, 3)),
    )


def decisions_section(outcome: Outcome) -> Markup | None:
    """List what was decided about failures, with reasons, and the factors looked at on demand."""
    if not outcome.state.decisions:
        return None
    hint = element("p", "What was done about each failure, and why.", class_="hint")
    table = _table(decided.HEAD, decided.rows(outcome.state.decisions), numeric=(1,))
    return element("section", element("h2", "Decisions"), hint, table)


def criteria_section(outcome: Outcome) -> Markup | None:
    """List the prompt's success criteria and what proves each."""
    criteria = outcome.state.plan.criteria
    if not criteria:
        return None
    items = []
    for criterion in criteria:
        met, words = criterion_state(outcome, criterion)
        mark = element("span", element("span", words, class_=f"status {met}"))
        proof = joined([criterion.text, " ", element("span", f"(step {criterion.check})", class_="factor")])
        items.append(element("li", mark, element("span", proof if criterion.check else criterion.text)))
    heading = element("h2", "Success criteria")
    return element("section", heading, element("ul", *items, class_="criteria"))


def criterion_state(outcome: Outcome, criterion: Criterion) -> tuple[Met, str]:
    """Return whether a criterion is met, and the word for it: only a completed step of this run proves one."""
    # Nobody looked at it, so it is neither met nor failed, however green the run is.
    if not criterion.check:
        return "pending", "to be judged"
    status = next((row.status for row in outcome.rows if row.step.id == criterion.check), "pending")
    if status == "completed":
        return "completed", "met"
    return ("failed", "not met") if status == "failed" else ("pending", "not proved")


def environment_section(outcome: Outcome) -> Markup:
    """Say in what the steps ran: images with the ids they were pinned to, policies with what was read back."""
    images = [
        element("tr", element("td", element("code", name)), element("td", element("code", image_id)))
        for name, image_id in sorted(outcome.state.images.items())
    ]
    policies = _policies(outcome)
    read_back = "; what is in force was read back from the kernel" if any(kept.controls for kept in policies) else ""
    rows = [
        element(
            "tr",
            element("td", kept.policy),
            element("td", kept.controls or "not recorded"),
            element("td", kept.told),
            element("td", kept.absent),
            element("td", kept.containers, class_="num"),
        )
        for kept in policies
    ]
    head = ("Policy", "Controls in force", "By the engine's word", "Absent here", "Containers")
    return element(
        "section",
        element("h2", "Environment"),
        element("p", f"Images are pinned to ids{read_back}.", class_="hint"),
        _table(("Image", "Id"), images) if images else None,
        _table(head, rows, numeric=(4,)) if rows else None,
        element("p", "No container ran.", class_="hint") if not images and not rows else None,
    )


class _Kept(NamedTuple):
    """How a policy was kept in the containers of a run."""

    policy: str
    controls: str
    told: str
    absent: str
    containers: int


def _policies(outcome: Outcome) -> list[_Kept]:
    receipts = [receipt for row in outcome.rows for receipt in row.receipts if not row.reused]
    names = sorted({receipt.policy for receipt in receipts})
    return [_kept(name, [receipt for receipt in receipts if receipt.policy == name]) for name in names]


def _kept(name: str, own: Sequence[Receipt]) -> _Kept:
    # Only what held in every container of the policy may be claimed for it; what is amiss in one is told.
    common = set(own[0].enforced).intersection(*(receipt.enforced for receipt in own[1:]))
    told = {control for receipt in own for control in receipt.told}
    absent = {text for receipt in own for text in receipt.absent}
    return _Kept(name, ", ".join(sorted(common)), ", ".join(sorted(told)), "; ".join(sorted(absent)), len(own))


def _facts(title: str, facts: Sequence[tuple[str, object]]) -> Markup:
    items = [joined([element("dt", name), element("dd", value)]) for name, value in facts if value]
    return element("section", element("h2", title), element("dl", *items, class_="facts"))


def _digest(value: str) -> Markup | None:
    return element("code", short(value), title=value) if value else None


def _place(value: str, report: str) -> Markup | None:
    """Show where something is: a link for the web and for a file beside the report, plain text for all else."""
    if not value:
        return None
    if WEB_ADDRESS.fullmatch(value):
        return element("a", value, href=value, rel="noopener noreferrer")
    # Relative, so that the folder can be moved or packed and the links still hold.
    path = PurePosixPath(value)
    if path.is_absolute() and path.name and path.parent == PurePosixPath(report).parent:
        return element("a", path.name, href=f"./{quote(path.name)}")
    return element("code", value)


def _table(head: Sequence[str], rows: Sequence[Markup], *, numeric: Sequence[int] = ()) -> Markup:
    cells = [element("th", name, class_="num" if index in numeric else None) for index, name in enumerate(head)]
    table = element("table", element("thead", element("tr", *cells)), element("tbody", *rows), class_="plain")
    return element("div", table, class_="scroll")
