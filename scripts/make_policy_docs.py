#!/usr/bin/env python3
"""Write the generated parts of `docs/policies.md`: the matrix, the fields and the seccomp tiers.

Prose and tables share one file because they are read together; a marked part is replaced, everything else is left as
written. `--check` exits 1 where the file is stale.
"""

from __future__ import annotations

import sys
from pathlib import Path

import generated
import make_seccomp
import yaml

from workflowmaster import policies
from workflowmaster.policies import showing

PAGE = Path(__file__).resolve().parent.parent / "docs" / "policies.md"


def parts() -> dict[str, str]:
    """Return the generated parts by their marker."""
    return {
        "matrix": showing.matrix([policies.load(name) for name in policies.ORDER]),
        "aliases": _aliases(),
        "fields": showing.fields(),
        "tiers": _tiers(),
    }


def main(argv: list[str]) -> int:
    """Write or check the page; return the exit code."""
    return generated.write(PAGE, parts(), argv)


def _aliases() -> str:
    lines = ["| name | extends | what differs |", "| --- | --- | --- |"]
    for name in policies.ALIASES:
        policy = policies.load(name)
        own, parent = showing.words(policy), showing.words(policies.load(str(policy.extends)))
        differs = ", ".join(f"`{key}` {own[key]}" for key in own if own[key] != parent[key])
        lines.append(f"| `{name}` | `{policy.extends}` | {differs or 'nothing'} |")
    return "\n".join(lines)


def _tiers() -> str:
    table = yaml.safe_load((make_seccomp.FOLDER / "syscalls.yaml").read_text(encoding="utf-8"))
    lines = ["| tier | calls | takes away, or limits | why |", "| --- | --- | --- | --- |"]
    for name, tier in make_seccomp.make(table).items():
        first = [name, str(len(tier.allowed))]
        for change in table["tiers"][name] or [{"why": "The start: what Docker's default grants."}]:
            title = change.get("take") or change.get("limit") or _listed(change.get("names") or change.get("never"))
            lines.append(f"| {' | '.join([*first, title, change['why']])} |")
            first = ["", ""]
    return "\n".join(lines)


def _listed(names: list[str] | None) -> str:
    return ", ".join(f"`{name}`" for name in names or [])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
