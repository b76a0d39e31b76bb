"""The commands about past failures: `failures list`, `learn`, `export`, `import`, `forget`."""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflowmaster.blocks.atomic import write_atomically
from workflowmaster.flows import failurehistory, learned, settings, sharing
from workflowmaster.flows.asking import BadOption

if TYPE_CHECKING:
    import argparse

    from workflowmaster.flows.failurehistory import Case, History
    from workflowmaster.flows.learned import Bundle

SHOWN = 15
"""Fingerprints that `list` shows to people; with `--json` it shows all."""


def show_list(given: argparse.Namespace) -> int:
    """Say what failed, how often, whether retries helped, what others handed on, and whether learning has a say."""
    history = failurehistory.everything()
    groups = _groups(history)
    enabled = settings.load().learning_enabled
    found = {
        "cases": len(history.cases),
        "without_failure": history.without,
        "damaged": history.damaged,
        "fingerprints": groups,
        "sources": [{"source": one.id, "name": one.name, "fingerprints": len(one.shared)} for one in sharing.sources()],
        "learning": _learning(learned.bundle(), enabled=enabled),
    }
    if given.json:
        print(json.dumps(found))
        return 0
    for one in groups[:SHOWN]:
        text = one["lines"][-1][:80] if one["lines"] else ""
        helped = f"{one['succeeded']}/{one['tried']} retries helped" if one["tried"] else "never retried"
        print(f"{one['fingerprint']}  {one['seen']:>4} x  {one['class']:<20}  {helped:<22}  {text}")
    sys.stderr.write(_told(found))
    return 0


def _groups(history: History) -> list[dict[str, Any]]:
    """Return what is known of each fingerprint, the commonest first."""
    alike: dict[str, list[Case]] = defaultdict(list)
    for case in history.cases:
        alike[case.fingerprint].append(case)
    found = []
    for fingerprint, cases in alike.items():
        outcomes = Counter(case.outcome for case in cases)
        last = cases[-1]
        found.append(
            {
                "fingerprint": fingerprint,
                "class": last.cls,
                "source": last.source,
                "seen": len(cases),
                "tried": outcomes["succeeded"] + outcomes["failed"],
                "succeeded": outcomes["succeeded"],
                "steps": sorted({case.step for case in cases}),
                "lines": list(last.lines),
                "at": last.at,
            }
        )
    return sorted(found, key=lambda one: (-one["seen"], one["fingerprint"]))


def _learning(bundle: Bundle, *, enabled: bool) -> dict[str, Any]:
    verdict = bundle.chances.verdict if bundle.chances else None
    return {
        "enabled": enabled,
        "version": bundle.version,
        "classes": dict(bundle.classes.about.get("labels", {})) if bundle.classes else {},
        "retries": asdict(verdict) if verdict else None,
        "trouble": bundle.trouble,
    }


def _told(found: dict[str, Any]) -> str:
    """Return what is said to people below the list."""
    texts = [f"{found['cases']} failed attempts, {len(found['fingerprints'])} kinds"]
    if found["damaged"]:
        texts.append(f"{found['damaged']} records were damaged and left out (`workflowmaster state validate`)")
    if found["without_failure"]:
        texts.append(f"{found['without_failure']} decisions name no failure: older versions recorded none")
    texts += [f"from {one['name']}: {one['fingerprints']} fingerprints" for one in found["sources"]]
    learning = found["learning"]
    if not learning["enabled"]:
        texts.append("learning is off (learning_enabled)")
    elif learning["trouble"]:
        texts.append(learning["trouble"])
    elif not learning["version"]:
        texts.append("nothing was learned yet: workflowmaster failures learn")
    else:
        retries = learning["retries"]
        say = f"{'has a say' if retries['used'] else 'has no say'}: {retries['why']}" if retries else "was not learned"
        texts.append(f"version {learning['version']}; the chance of retries {say}")
    return "".join(f"{text}\n" for text in texts)


def learn(given: argparse.Namespace) -> int:
    """Learn from the cases there are, or put an earlier version into use again."""
    from workflowmaster.flows import learning

    if not settings.load().learning_enabled:
        raise BadOption("learning is off: set learning_enabled to true (docs/learning.md)")
    if given.use is not None:
        try:
            learning.use(None, given.use)
        except ValueError as error:
            raise BadOption(str(error)) from error
        sys.stderr.write(f"version {given.use} is in use\n")
        return 0
    report = learning.learn(force=given.force)
    if given.json:
        print(json.dumps(asdict(report)))
    sys.stderr.write("".join(f"{name}: {text}\n" for name, text in report.told.items()))
    sys.stderr.write(f"version {report.version} is in use{' and new' if report.made else ''}\n")
    return 0


def export(given: argparse.Namespace) -> int:
    """Write what may be handed on."""
    text = sharing.export(failurehistory.everything().cases, least=given.min, lines=not given.without_lines)
    if given.output in (None, "-"):
        sys.stdout.write(text)
        return 0
    write_atomically(Path(given.output), text)
    sys.stderr.write(f"{text.count(chr(10)) - 1} fingerprints in {given.output}: read it before you hand it on\n")
    return 0


def take_in(given: argparse.Namespace) -> int:
    """Take in what somebody else has handed on."""
    path = Path(given.file)
    try:
        with path.open("rb") as file:
            data = file.read(sharing.MOST_BYTES + 1)
    except OSError as error:
        raise BadOption(f"{path}: {error.strerror}") from error
    source, changed = sharing.take_in(data, str(path), name=given.name or path.stem)
    if given.json:
        print(json.dumps({"source": source.id, "name": source.name, "fingerprints": len(source.shared)}))
    what = f"{len(source.shared)} fingerprints of {source.name}"
    sys.stderr.write(f"{what}: {'taken in' if changed else 'nothing new'}; `failures forget {source.name}` undoes it\n")
    return 0


def forget(given: argparse.Namespace) -> int:
    """Take back what was taken in from a source."""
    sys.stderr.write(f"forgotten: {sharing.forget(given.source)}; `failures learn --force` learns without it\n")
    return 0
