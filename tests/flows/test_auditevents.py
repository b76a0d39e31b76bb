"""One vocabulary: every event that the code writes is in it, and every one in it is written and documented."""

from __future__ import annotations

import ast
from fnmatch import fnmatchcase
from pathlib import Path

from workflowmaster.flows import stopping
from workflowmaster.flows.auditevents import EVENTS, SEALS, about, reaches

ROOT = Path(__file__).resolve().parents[2]


def appended() -> dict[str, set[str]]:
    """Event → files that write it: the first argument of every `audit.append(…)`, and what passes one on."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "flows").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and (argument := event_of(node, path)) is not None:
                for name in names(argument, path):
                    found.setdefault(name, set()).add(path.name)
    return found


def event_of(call: ast.Call, path: Path) -> ast.expr | None:
    """The argument that names the event, of a call that writes one."""
    if not call.args:
        return None
    if isinstance(call.func, ast.Name):
        return call.args[1] if call.func.id == "_audit" else None
    if not isinstance(call.func, ast.Attribute):
        return None
    target = ast.unparse(call.func.value).rpartition(".")[2]
    if path.name == "audit.py":
        return call.args[0] if call.func.attr in ("_add", "_tell") else None
    if call.func.attr == "append" and target in ("audit", "log", "writer"):
        return None if isinstance(call.args[0], (ast.Name, ast.Call, ast.Tuple)) else call.args[0]
    # `asyncio.to_thread(journey.audit.append, "…")`
    passed_on = call.func.attr == "to_thread" and ast.unparse(call.args[0]).endswith("audit.append")
    return call.args[1] if passed_on else None


def names(node: ast.expr, path: Path) -> set[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return {node.value} if "." in node.value or node.value in EVENTS else set()
    if isinstance(node, ast.IfExp):
        return names(node.body, path) | names(node.orelse, path)
    if isinstance(node, ast.JoinedStr):
        # `f"container.{verb}ed"`: whichever of the known ones it can be.
        form = "".join(part.value if isinstance(part, ast.Constant) else "*" for part in node.values)
        return {name for name in EVENTS if fnmatchcase(name, form)} or {form}
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "EVENTS":
        return set(stopping.EVENTS.values())
    return set()


def test_every_event_that_is_written_is_known() -> None:
    unknown = {name: files for name, files in appended().items() if name not in EVENTS}
    assert not unknown


def test_every_known_event_is_written_somewhere() -> None:
    assert set(EVENTS) - set(appended()) == set()


def test_every_event_is_documented() -> None:
    text = (ROOT / "docs/audit.md").read_text()
    assert [name for name in EVENTS if f"`{name}`" not in text] == []


def test_what_ends_an_epoch_is_on_the_disk_at_once() -> None:
    assert {about(event).reaches for event in SEALS} == {"now"}


def test_a_decision_that_ends_something_waits_for_the_disk() -> None:
    verbs = ("continue", "retry", "skip", "abort", "escalate")
    assert [reaches("decision", {"verb": verb}) for verb in verbs] == ["soon", "soon", "soon", "now", "now"]
    assert reaches("of a later version", {}) == "soon"
