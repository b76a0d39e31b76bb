#!/usr/bin/env python3
"""Write the table of `docs/probes.md`: every probe, what it tries, and which of the six policies promise to stop it.

`--check` exits 1 where the file is stale.
"""

from __future__ import annotations

import sys
from pathlib import Path

import generated

from workflowmaster import policies
from workflowmaster.blocks.probes import battery
from workflowmaster.blocks.promises import promises

PAGE = Path(__file__).resolve().parent.parent / "docs" / "probes.md"
STOPPED, GRANTED = "●", "·"


def table() -> str:
    """Return one table for each group, in the battery's order."""
    chosen = [policies.load(name) for name in policies.ORDER]
    head = ["probe", "tries to", "stopped by", *(policy.name for policy in chosen)]
    probes = battery.load().values()
    lines: list[str] = []
    for group in battery.GROUPS:
        lines += [f"### {group}", "", row(head), row(["---"] * len(head))]
        for one in (found for found in probes if found.group == group):
            marks = [STOPPED if promises(one.blocked_by, policy) else GRANTED for policy in chosen]
            controls = ", ".join(f"`{control}`" for control in one.blocked_by) or "nothing"
            lines.append(row([f"`{one.name}`", one.tries, controls, *marks]))
        lines.append("")
    return "\n".join(lines).rstrip()


def row(cells: list[str]) -> str:
    """Return one line of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def main(argv: list[str]) -> int:
    """Write or check the page; return the exit code."""
    return generated.write(PAGE, {"probes": table()}, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
