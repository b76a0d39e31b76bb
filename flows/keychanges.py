"""What changed between two keys of a step, component by component, in words.

The journal holds the components of every key: short ones as they are, long ones as hashes. So most changes can be
shown as they are, a long script is looked up among the plans that the run went by, and of what cannot be found again at
least the component is named. Values of variables are shown, because inputs and outputs are no secrets: those are named
in a key, and their values never reach it.
"""

from __future__ import annotations

import difflib
import hashlib
from typing import TYPE_CHECKING, Any

from workflowmaster.flows.plan import Noun, canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from workflowmaster.flows.plan import Plan

MOST_LINES = 12
"""Lines of a difference that are shown."""

WORDS = {
    "work": "its work",
    "check": "its check",
    "policy": "its policy's limits",
    "image": "its image",
    "tree": "the files it starts from",
    "environment": "its environment",
    "secrets": "the names of its secrets",
    "inputs": "the files it declares as inputs",
    "outputs": "the outputs it must give",
    "artifacts": "the artifacts it must leave",
    "timeout": "its timeout",
    "network": "the hosts it may reach",
    "generation": "it was made to run anew",
    "agent": "the agent's command",
    "kind": "its kind",
    "git": "whether it sees a repository",
}
"""Component of a key → what it is to a person."""


class Change(Noun):
    """One component that differs."""

    component: str
    old: Any = None
    """None where there was none."""
    new: Any = None
    detail: tuple[str, ...] = ()
    """Lines that show the difference."""

    def __str__(self) -> str:
        named = f"{WORDS.get(self.component, self.component)} ({self.component})"
        if self.detail:
            return f"{named}: " + "; ".join(self.detail) if len(self.detail) == 1 else f"{named} changed"
        return f"{named}: {_short(self.old)} → {_short(self.new)}"


def changes(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    *,
    texts: Mapping[str, str],
    files: Callable[[str, str], tuple[str, ...]],
) -> list[Change]:
    """Compare the recorded components of two keys.

    `texts` are known scripts by the hash a long one is recorded as; `files` tells what differs between two trees.
    """
    found = []
    for name in [*new, *(name for name in old if name not in new)]:
        before, after = old.get(name), new.get(name)
        if before != after:
            detail = _detail(name, before, after, texts, files)
            found.append(Change(component=name, old=before, new=after, detail=detail))
    return found


def _detail(
    name: str, old: Any, new: Any, texts: Mapping[str, str], files: Callable[[str, str], tuple[str, ...]]
) -> tuple[str, ...]:
    if name in ("work", "check"):
        return tuple(_script(old, new, texts))
    if name == "environment" and isinstance(old, dict) and isinstance(new, dict):
        return tuple(_variables(old, new))
    if name == "tree" and old and new:
        return files(old, new)
    return ()


def _script(old: Any, new: Any, texts: Mapping[str, str]) -> Iterable[str]:
    before, after = _text(old, texts), _text(new, texts)
    if before is None or after is None:
        return ["its text is no longer known"]
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), "old", "new", lineterm="", n=1))[2:]
    if isinstance(old, dict) and isinstance(new, dict) and old["interpreter"] != new["interpreter"]:
        lines.insert(0, f"interpreter: {old['interpreter']} → {new['interpreter']}")
    more = [f"… {len(lines) - MOST_LINES} lines more"] if len(lines) > MOST_LINES else []
    return [*lines[:MOST_LINES], *more]


def _text(part: Any, texts: Mapping[str, str]) -> str | None:
    if part is None:
        return ""
    return texts.get(part) if isinstance(part, str) else str(part["text"])


def _variables(old: Mapping[str, str], new: Mapping[str, str]) -> Iterable[str]:
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            yield f"{name}: {_short(old.get(name))} → {_short(new.get(name))}"


def texts(plans: Iterable[Plan]) -> dict[str, str]:
    """Return every script of some plans by the hash that a key's record has for it where it is long."""
    found = {}
    for step in (step for plan in plans for step in plan.tasks):
        for work in (step.work, step.check):
            if work:
                digest = hashlib.sha256(canonical(work.model_dump(exclude={"line"}))).hexdigest()
                found[f"sha256:{digest}"] = work.text
    return found


def _short(value: Any) -> str:
    text = "nothing" if value is None else value if isinstance(value, str) else canonical(value).decode()
    text = text.replace("\n", "⏎")
    return f"{text[:16]}…" if _is_id(text) else text if len(text) <= 80 else f"{text[:79]}…"


def _is_id(text: str) -> bool:
    plain = text.removeprefix("sha256:")
    return len(plain) >= 40 and not set(plain) - set("0123456789abcdef")
