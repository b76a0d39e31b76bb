#!/usr/bin/env python3
"""Write the seccomp profiles S0 … S4 from `policies/seccomp/syscalls.yaml`.

A tier is made by taking from the one before it, never by listing what it allows: so the tiers are nested by
construction, and a call that a later S0 gains is gained by all tiers until somebody takes it away with a reason. The
accepted cost is that new calls are let in by default; the table's groups keep that visible.

    scripts/make_seccomp.py            write the five files
    scripts/make_seccomp.py --check    exit 1 where a file differs from what would be written
"""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent.parent / "policies" / "seccomp"
ALLOW = "SCMP_ACT_ALLOW"

# Which foreign instruction sets a kernel also runs; their calls are filtered by the same rules.
ARCHITECTURES = {
    "SCMP_ARCH_X86_64": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "SCMP_ARCH_AARCH64": ["SCMP_ARCH_ARM"],
    "SCMP_ARCH_S390X": ["SCMP_ARCH_S390"],
    "SCMP_ARCH_RISCV64": [],
}

Rule = dict[str, Any]


class Tier:
    """What one tier allows, while it is being made: free calls by group, and rules by title."""

    def __init__(self, groups: dict[str, list[str]], rules: dict[str, list[Rule]]) -> None:
        self.titles = dict(groups)
        self.groups = groups
        self.rules = rules

    def take(self, title: str) -> None:
        """Remove a whole group or a whole set of rules. KeyError when there is none of that title."""
        if title in self.titles:
            # By name: a limit may have moved some of the group's calls into rules.
            self.without(self.titles[title])
        else:
            del self.rules[title]

    def without(self, names: list[str]) -> None:
        """Remove calls by name wherever they are allowed."""
        self.groups = {title: [n for n in group if n not in names] for title, group in self.groups.items()}
        for title, rules in self.rules.items():
            kept = [{**rule, "names": [n for n in rule["names"] if n not in names]} for rule in rules]
            self.rules[title] = [rule for rule in kept if rule["names"]]

    def limit(self, title: str, rules: list[Rule]) -> None:
        """Allow the calls of the rules only as far as the rules do."""
        self.rules.pop(title, None)
        self.without(sorted({name for rule in rules for name in rule["names"]}))
        self.rules[title] = rules

    @property
    def allowed(self) -> frozenset[str]:
        """Names that are allowed in some case."""
        free = {name for group in self.groups.values() for name in group}
        bound = {n for rules in self.rules.values() for r in rules if r["action"] == ALLOW for n in r["names"]}
        return frozenset(free | bound)

    def profile(self) -> dict[str, Any]:
        """Return the profile in Docker's format."""
        free = sorted(name for group in self.groups.values() for name in group)
        bound = [rule for rules in self.rules.values() for rule in rules]
        return {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 1,
            "archMap": [{"architecture": a, "subArchitectures": sub or None} for a, sub in ARCHITECTURES.items()],
            "syscalls": [{"names": free, "action": ALLOW}, *bound],
        }


def make(table: dict[str, Any]) -> dict[str, Tier]:
    """Return every tier of the table, each made from the one before it."""
    groups = {title: _names(names) for title, names in table["groups"].items()}
    rules = {title: [r for rule in written for r in _rules(rule)] for title, written in table["conditions"].items()}
    tier = Tier(groups, rules)
    # Each tier starts as a copy of the one before: nothing else makes them nested for good.
    tiers = {}
    for name, changes in table["tiers"].items():
        tier = deepcopy(tier)
        for change in changes:
            _apply(tier, change)
        tiers[name] = tier
    return tiers


def texts() -> dict[Path, str]:
    """Return each profile's path and the text it should have."""
    table = yaml.safe_load((FOLDER / "syscalls.yaml").read_text(encoding="utf-8"))
    return {FOLDER / f"{name}.json": json.dumps(t.profile(), indent=1) + "\n" for name, t in make(table).items()}


def main(argv: list[str]) -> int:
    """Write or check the files; return the exit code."""
    stale = [path for path, text in texts().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if argv == ["--check"]:
        sys.stdout.writelines(f"{path.name} is stale: run scripts/make_seccomp.py\n" for path in stale)
        return 1 if stale else 0
    for path in stale:
        path.write_text(texts()[path], encoding="utf-8")
        sys.stdout.write(f"wrote {path.name}\n")
    return 0


def _apply(tier: Tier, change: dict[str, Any]) -> None:
    if "take" in change:
        tier.take(change["take"])
    elif "limit" in change:
        written = change.get("rules") or [{"names": change["each"]["names"], "each": change["each"]}]
        tier.limit(change["limit"], [r for rule in written for r in _rules(rule)])
    elif "never" in change:
        present = tier.allowed & set(_names(change["never"]))
        tier.without(sorted(present))
    else:
        names = _names(change["names"])
        # A misspelt name would silently take nothing away.
        unknown = set(names) - tier.allowed
        if unknown:
            raise ValueError(f"syscalls.yaml takes {', '.join(sorted(unknown))} away, which nothing allows")
        tier.without(names)


def _rules(written: Rule) -> list[Rule]:
    """Return the engine's rules for one of the table: `each` stands for one rule per value."""
    rule = {key: value for key, value in written.items() if key != "each"}
    rule = {"names": _names(rule.pop("names")), "action": rule.pop("action", ALLOW), **rule}
    rule["args"] = [_argument(arg) for arg in rule.get("args", [])]
    if "each" in written:
        each = written["each"]
        # One rule per value: comparisons within a rule must all hold, rules of one call need only one to.
        return [{**rule, "args": [_argument({**each, "value": value})]} for value in each["values"]]
    return [rule if rule["args"] else {key: value for key, value in rule.items() if key != "args"}]


def _argument(arg: dict[str, Any]) -> dict[str, Any]:
    # Masked comparisons: `value` is the mask, `valueTwo` what must be left, which here is always nothing.
    return {"index": arg["index"], "value": int(arg["value"]), "valueTwo": 0, "op": arg["op"]}


def _names(written: str | list[str]) -> list[str]:
    return sorted(written.split() if isinstance(written, str) else written)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
