"""The commands that read security policies: `policy list`, `policy show`, `policy diff`.

What is wrong with a policy file is invalid input here, exit code 2: nobody's step is refused by a question.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from workflowmaster import policies
from workflowmaster.flows.asking import BadOption
from workflowmaster.flows.looking import out
from workflowmaster.flows.settings import Settings, load
from workflowmaster.policies import PolicyError
from workflowmaster.policies.showing import words

if TYPE_CHECKING:
    import argparse

    from workflowmaster.policies import Link, SecurityPolicy

_LONG = 200
"""Characters of an engine's option that are shown to people; the seccomp profile has 15,000."""


def show_list(given: argparse.Namespace) -> int:
    """List the policies, the six from the loosest to the strictest, then the others; exit code 2 if one is broken."""
    folders = load().own_policies
    # A broken file must not hide the others: whoever mends it wants to see what it should extend.
    rows, broken = {}, []
    for name in policies.available(folders):
        try:
            rows[name] = policies.load(name, folders).description
        except PolicyError as error:
            rows[name] = f"cannot be used: {error}"
            broken.append(str(error))
    out(json.dumps(rows) if given.json else "\n".join(f"{name:<12} {text}" for name, text in rows.items()))
    if broken:
        raise BadOption("\n".join(broken))
    return 0


def show(given: argparse.Namespace) -> int:
    """Show what one policy grants; with `--effective`, where each value comes from and what the engine is asked for."""
    settings = load()
    lineage = _lineage(given.name, settings)
    policy = lineage[0].policy
    if not given.effective:
        body = policy.model_dump(mode="json")
        out(json.dumps(body) if given.json else "\n".join(f"{key:<22} {value}" for key, value in body.items()))
        return 0
    told = effective(lineage, settings)
    out(json.dumps(told) if given.json else "\n".join(_lines(told, policy, settings)))
    return 0


def effective(lineage: tuple[Link, ...], settings: Settings) -> dict[str, Any]:
    """Return a policy fully spelt out: its values, where they come from, what lowers them, and the engine's words."""
    policy = lineage[0].policy
    origins = policies.origins(lineage)
    lowered = _lowered(policy, settings)
    return {
        "name": policy.name,
        "hash": policy.hash,
        "extends": [link.policy.name for link in lineage[1:]],
        "loosened": [
            {**asdict(one), "findings": [finding._asdict() for finding in one.findings], "path": str(one.path)}
            for one in policies.loosened(policy.name, settings.own_policies)
        ],
        "controls": {name: {"value": value, "from": origins[name]} for name, value in policy.controls.items()},
        "lowered_by_settings": {name: value for name, value, _ in policies.differing(lowered, policy)},
        "engine": _engines_words(lowered),
    }


def _lowered(policy: SecurityPolicy, settings: Settings) -> SecurityPolicy:
    """Lower a policy as a run would for a step that asks for nothing itself."""
    from workflowmaster.flows.limiting import effective as limits_of
    from workflowmaster.flows.plan import Source, Step

    asks_nothing = Step(id="shown", name="shown", kind="setup", source=Source(line=1, end_line=1))
    return limits_of(asks_nothing, settings, policy)


def _engines_words(policy: SecurityPolicy) -> dict[str, Any]:
    """Return what this engine would be asked for, in its API's words; empty where none answers."""
    from workflowmaster.blocks.arguments import create_arguments
    from workflowmaster.blocks.engine import Engine, SandboxUnavailable
    from workflowmaster.blocks.request import ContainerRequest

    user = "UID:GID" if policy.user == "workspace" else "UID OF THE RUN"
    request = ContainerRequest(name="NAME", image_id="IMAGE", policy=policy, argv=("COMMAND",), user=user)
    try:
        config, host = create_arguments(request, Engine().info)
    except SandboxUnavailable as error:
        # The values are the policy's, whatever engine there is; only their translation needs to know it.
        sys.stderr.write(f"note: what an engine would be asked for is left out: {error}\n")
        return {}
    return {**config, **host}


def _lines(told: dict[str, Any], policy: SecurityPolicy, settings: Settings) -> list[str]:
    shown, lowered = words(policy), words(_lowered(policy, settings))
    lines = [" extends ".join([policy.name, *told["extends"]]), ""]
    for name, control in told["controls"].items():
        less = f"  (settings: {lowered[name]})" if lowered[name] != shown[name] else ""
        lines.append(f"{name:<22} {shown[name]}{less}  [{control['from']}]")
    for one in told["loosened"]:
        said = "; ".join(f"{finding['control']} {finding['detail']}" for finding in one["findings"])
        lines += ["", f"{one['policy']} grants more than {one['against']}: {said}", f"  because: {one['reason']}"]
    lines += ["", "the engine is asked for:"] if told["engine"] else []
    lines += [f"  {name:<20} {_short(value)}" for name, value in told["engine"].items()]
    return lines


def _short(value: object) -> str:
    # Cut for people alone; `--json` has all of it, the seccomp profile included.
    text = json.dumps(value)
    return text if len(text) <= _LONG else f"{text[:_LONG]} … ({len(text):,} characters)"


def diff(given: argparse.Namespace) -> int:
    """Compare two policies, control by control."""
    settings = load()
    ours, theirs = (_lineage(name, settings)[0].policy for name in given.names)
    changes = policies.differing(ours, theirs)
    text = "\n".join(f"{field:<22} {a}  →  {b}" for field, a, b in changes)
    listed = [{"field": field, given.names[0]: a, given.names[1]: b} for field, a, b in changes]
    out(json.dumps(listed) if given.json else text or "they grant the same")
    return 0


def _lineage(name: str, settings: Settings) -> tuple[Link, ...]:
    try:
        return policies.lineage_of(name, settings.own_policies)
    except PolicyError as error:
        raise BadOption(str(error)) from error
