"""The command `policy probe`: what a policy really stops, tried out and set against what it promises."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from workflowmaster import policies
from workflowmaster.flows.looking import out

if TYPE_CHECKING:
    import argparse

    from workflowmaster.blocks.engine import Engine
    from workflowmaster.blocks.growth import Growth
    from workflowmaster.blocks.probing import Placed, ProbeReport
    from workflowmaster.blocks.promises import Verdict, Word

BROKEN = 5
"""Exit code when a promise is not kept: a run that relied on it would have to be refused."""

MARKS: dict[Word, tuple[str, str]] = {
    "blocked": ("green", "blocked"),
    "open": ("default", "granted"),
    "broken": ("bold red", "NOT BLOCKED"),
    "stricter": ("yellow", "stricter"),
    "guest": ("cyan", "guest only"),
    "void": ("dim", "void"),
}
"""Verdict → how it looks, and what a person reads."""


def probe(given: argparse.Namespace) -> int:
    """Try hostile operations in containers of a policy; exit code 5 if one succeeds that the policy says cannot."""
    from workflowmaster.blocks.engine import Engine, SandboxUnavailable
    from workflowmaster.blocks.probing import Proving
    from workflowmaster.flows.settings import load

    chosen = load()
    policy = policies.load(given.name, chosen.own_policies)
    engine, reference = Engine(), given.image or chosen.image
    image_id = engine.image_id(reference)
    if image_id is None:
        raise SandboxUnavailable(
            f"the engine has no image {reference}, and it is never pulled here: build it with `workflowmaster image "
            "build`, or name another with --image",
            reason="image",
        )
    with Proving(engine, image_id, watch) as proving:
        report = proving.report(policy)
    if given.json:
        out(json.dumps(public(report)))
    else:
        show(report)
    return BROKEN if report.having("broken") else 0


def public(report: ProbeReport) -> dict[str, Any]:
    """Return what `policy probe --json` prints: stable names that other programs rely on."""
    counts = {word: len(report.having(word)) for word in MARKS}
    return {**report.model_dump(mode="json"), "counts": counts, "broken": list(report.having("broken"))}


def watch(engine: Engine, placed: Placed) -> Growth | None:
    """Return the watch over a container's files that a step's container has."""
    from workflowmaster.blocks.growth import size_of
    from workflowmaster.flows import guarding
    from workflowmaster.flows.parking import Parked, Tree

    tree = Tree(placed.workspace) if placed.workspace else None
    laid = size_of(tree.path) if tree else 0
    return guarding.watch(engine, Parked(placed.container, placed.exchange, tree, bound=placed.bound, laid=laid))


def show(report: ProbeReport) -> None:
    """Print the report for people: a table by group, and the counts."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"policy {report.policy}", show_edge=False, header_style="bold", title_justify="left")
    for name in ("probe", "tries to", "verdict", "because of"):
        table.add_column(name, overflow="fold")
    group = ""
    for one in report.probes:
        if one.group != group:
            group = one.group
            table.add_section()
            table.add_row(f"[bold]{group}[/bold]")
        style, word = MARKS[one.verdict]
        table.add_row(one.name, one.tries, f"[{style}]{word}[/{style}]", because(one))
    console = Console(file=sys.stderr)
    console.print(table)
    console.print(summary(report), highlight=False)


def because(one: Verdict) -> str:
    """Say in a few words what a verdict rests on."""
    if one.verdict == "open":
        return "no control of this policy is against it"
    if one.verdict in ("blocked", "broken"):
        return ", ".join(one.promised_by)
    return one.detail


def summary(report: ProbeReport) -> str:
    """Return the last lines: how many of each verdict, and every promise that is not kept."""
    counts = {word: len(report.having(word)) for word in MARKS}
    words: dict[Word, str] = {
        "blocked": "blocked as promised",
        "open": "granted",
        "stricter": "blocked though granted",
        "guest": "granted by a kernel of its own",
        "void": "void",
    }
    said = ", ".join(f"{counts[word]} {text}" for word, text in words.items() if counts[word])
    said = f"{len(report.probes)} probes in {report.seconds:.1f} s: {said}"
    broken = report.having("broken")
    return f"{said}\nNOT BLOCKED ALTHOUGH PROMISED: {', '.join(broken)}" if broken else said
