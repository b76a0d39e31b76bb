"""What a prompt says about the network, judged when it is compiled.

A list of hosts is judged whole before anything runs: a typing error in it would otherwise be found by the one step that
is refused its host, an hour into the run. A list under a policy that has no network is an error and not a warning,
because a step that was meant to have it would fail for reasons nobody sees in the prompt. Only a file's list that
reaches a stricter step is taken as what it is, a bound: that step has no network, and nobody promised it one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workflowmaster.flows.plan import Network
from workflowmaster.policies.hosts import ANY, hosts

if TYPE_CHECKING:
    from workflowmaster.flows.attributes import FrontMatter, StepAttributes
    from workflowmaster.flows.context import Context
    from workflowmaster.flows.diagnostics import Report
    from workflowmaster.flows.validation import Read
    from workflowmaster.policies import SecurityPolicy

_ADVICE = "write an ecosystem name such as python, or a host such as example.org or *.example.org"


def reachable(read: Read[StepAttributes], policy: SecurityPolicy, context: Context) -> Network | None:
    """Return the hosts a step may reach under its policy: its own words, else the file's, else None.

    Reports words that are no hosts, and a list that the policy has no use for.
    """
    if read.given("network"):
        return _judged(read, policy, context.report)
    if not context.front.given("network"):
        return None
    # The file's list is reported once, with the file: see `check_file_network`.
    asked = _said(context.front)
    if policy.network == "none" or (policy.network == "proxy-allowlist" and ANY in asked.allowed):
        return Network()
    return asked


def check_file_network(front: Read[FrontMatter], policy: SecurityPolicy, report: Report) -> None:
    """Report a list in the front matter that the file's own policy cannot give, and words in it that are no hosts."""
    if front.given("network"):
        _judged(front, policy, report)


def _judged(read: Read[Any], policy: SecurityPolicy, report: Report) -> Network:
    asked = _said(read)
    place = read.located.key("network")
    if _faulty(read, report):
        return Network()  # what cannot be read is asked for by nobody; the prompt does not run anyway
    if asked.allowed and policy.network == "none":
        said = f"policy {policy.name!r} has no network, so nothing of this can be reached"
        report.add("WM407", said, place, help="name a policy with a network, such as standard, or remove the line")
    elif ANY in asked.allowed and policy.network == "proxy-allowlist":
        said = f"policy {policy.name!r} lets only named hosts be reached, and `*` names none"
        report.add("WM408", said, place, help="name the hosts, or a policy that allows any, such as development")
    return asked


def _said(read: Read[Any]) -> Network:
    keys = read.keys.network
    return Network(allowed=keys.allowed, blocked=keys.blocked) if keys else Network()


def _faulty(read: Read[Any], report: Report) -> bool:
    """Report each word that is neither an ecosystem nor a host; whether there was one."""
    faults = 0
    for kind in ("allowed", "blocked"):
        for index, word in enumerate(getattr(read.keys.network, kind, ())):
            try:
                hosts(word)
            except ValueError as error:
                # A plain list stands for `allowed`, so its items are written one level higher; so does a single word.
                path = (kind, index) if isinstance(read.located.values["network"], dict) else (index,)
                report.add("WM323", str(error), read.located.at("network", *path), help=_ADVICE)
                faults += 1
    return faults > 0
