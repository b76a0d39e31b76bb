"""Trains on the user's own history, and puts a new version into use only where it is better.

A model that is retrained is not therefore better: an outage of last week may be all it has seen. So before a version
replaces another, both are asked about cases that came after the one in use was trained, by a candidate that has not
seen those either; the better one wins, part by part, and a tie leaves things as they are. Only then is the winner
trained on everything. The price is training twice, which takes seconds, where a decision made worse takes a run.

Two parts are learned. *Classes*: what rules and receipts have named teaches a model to name what no rule knows.
*Retries*: what became of retries, by fingerprint, class and text; whether that has a say is its own verdict
(`analytics.retrychance`).
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from workflowmaster.analytics import calibration, modelfile, retrychance, texts
from workflowmaster.analytics.retrychance import Trial
from workflowmaster.blocks.atomic import write_atomically
from workflowmaster.flows import failurehistory, learned, sharing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from workflowmaster.analytics.retrychance import Learned
    from workflowmaster.analytics.texts import TextModel
    from workflowmaster.flows.failurehistory import Case, History
    from workflowmaster.flows.learned import Bundle

ENOUGH_NEW = 10
"""New cases from which it is worth training again."""

LEAST_TEXTS = 30
"""Texts below which no text model is trained."""

LEAST_A_LABEL = 5
"""Texts that a label needs to be one."""

SURE = 0.7
"""Probability below which the model of classes says nothing; decisions stop nothing for a class less sure (`facts`)."""

LATER = 0.25
"""Share of the cases, the last ones, that versions are compared on."""

KEPT = 5
"""Versions that are kept besides the one in use."""

DAY = 86_400.0


@dataclass(frozen=True)
class Report:
    """What came of learning."""

    version: int
    """The version in use now; 0 where there is none."""
    made: bool
    """Whether that version is new."""
    cases: int
    retries: int
    """Cases of which it is known what a retry came to."""
    told: dict[str, str] = field(default_factory=dict)
    """Part → what was found about it, in a sentence."""


def learn(home: Path | None = None, *, force: bool = False) -> Report:
    """Learn from the cases below a state directory, where there are enough new ones; `force` does not count them.

    OSError where the disk takes no more; what is in use stays in use then.
    """
    history = failurehistory.everything(home)
    trials = _trials(history.cases)
    before = learned.bundle(home)
    seen = _seen(home, before.version)
    new = len(history.cases) - seen
    counts = {"cases": len(history.cases), "retries": len(trials)}
    if not force and 0 <= new < ENOUGH_NEW:
        told = {"all": f"{new} new cases since the last time; {ENOUGH_NEW} are worth it"}
        return Report(before.version, made=False, told=told, **counts)
    parts, told = {}, {}
    parts["classes"], told["classes"] = _classes(history.cases, before.classes)
    found, told["retries"] = _retries(history.cases, sharing.trials(home), before)
    parts |= found
    if not any(parts.values()):
        return Report(before.version, made=False, told=told, **counts)
    version = _keep(home, before, {name: data for name, data in parts.items() if data}, history)
    return Report(version, made=True, told=told, **counts)


def use(home: Path | None, version: int) -> None:
    """Put another version into use, an earlier one too. ValueError where there is none, or it cannot be believed."""
    folder = learned.place(home)
    learned.read(folder, version)
    _point(folder, version, _seen(home, version))


# --- classes ---


def _classes(cases: Sequence[Case], before: TextModel | None) -> tuple[bytes | None, str]:
    """Return a model of classes that is better than the one in use, as a file; and what was found, in a sentence."""
    named = [case for case in cases if _named(case)]
    counts = Counter(case.cls for case in named)
    named = [case for case in named if counts[case.cls] >= LEAST_A_LABEL]
    if len(named) < LEAST_TEXTS or len({case.cls for case in named}) < 2:
        return None, f"{len(named)} texts that rules have named; {LEAST_TEXTS} of at least two classes are needed"
    split = round(len(named) * (1 - LATER))
    early, later = named[:split], named[split:]
    if len({case.cls for case in early}) < 2:
        return None, "the earlier cases are all of one class: there is nothing to tell apart yet"
    truth = [case.cls for case in later]
    ours = _agreement(_text_model(early), later)
    theirs = (
        _agreement(before, later) if before else calibration.macro_f1(truth, [counts.most_common(1)[0][0]] * len(truth))
    )
    told = f"macro-F1 {ours:.2f} on the last {len(later)} of {len(named)} cases, against {theirs:.2f}"
    rival = "of the version in use" if before else "of always saying the commonest class"
    if ours <= theirs:
        return None, f"{told} {rival}: not better, so nothing changes"
    return texts.save(_text_model(named)), f"{told} {rival}"


def _named(case: Case) -> bool:
    """Whether something better than a model has named a case's class, and there is a text."""
    return case.cls != "unknown" and case.source.startswith(("rule:", "receipt:")) and bool(case.lines)


def _text_model(cases: Sequence[Case]) -> TextModel:
    made = texts.train([case.lines for case in cases], [case.cls for case in cases], [case.at for case in cases])
    return replace(made, least=SURE)


def _agreement(model: TextModel, cases: Sequence[Case]) -> float:
    """Return the macro-F1 of a model against what rules have said; silence counts as a label that is never right."""
    said = [(model.classify(case.lines) or ("", 0.0))[0] for case in cases]
    return calibration.macro_f1([case.cls for case in cases], said)


# --- retries ---


def _trials(cases: Sequence[Case]) -> list[Trial]:
    """Return the retries whose outcome is known and that were given no more than the attempt before."""
    return [trial_of(case) for case in cases if tried_again(case)]


def tried_again(case: Case) -> bool:
    """Whether a case tells what a retry with the same limits comes to, and has a text to tell it by."""
    return case.outcome != "unknown" and not case.grown and bool(case.lines)


def trial_of(case: Case, text: float | None = None) -> Trial:
    """Return a case as rates are learned from it; `text` is what a text model of earlier cases says of it."""
    return Trial(
        case.fingerprint,
        case.cls,
        succeeded=case.outcome == "succeeded",
        # How often it had been tried in a row, which is what a decision counts.
        attempt=int(case.factors.get("attempt") or case.attempt or 1),
        text=text,
        at=case.at,
        known_at=case.at + 60 * (case.minutes or 0.0),
    )


def _retries(cases: Sequence[Case], foreign: Sequence[Trial], before: Bundle) -> tuple[dict[str, bytes], str]:
    """Return files of rates and texts of retries that are better than those in use; and a sentence."""
    tried = [case for case in cases if tried_again(case)]
    if len(tried) < retrychance.WARM_UP:
        return {}, f"{len(tried)} retries with a known outcome; {retrychance.WARM_UP} are the least to begin with"
    model, found = _foretold(tried, foreign)
    verdict = found.verdict
    if before.chances:
        split = round(len(tried) * (1 - LATER))
        later = tried[split:]
        ours = _error(*_foretold(tried[:split], foreign), later)
        theirs = _error(before.retries, before.chances, later)
        if ours >= theirs:
            told = f"squared error {ours:.3f} on the last {len(later)} retries, against {theirs:.3f} of the one in use"
            return {}, f"{told}: not better, so nothing changes"
    about = {"retries": len(tried), "verdict": {"used": verdict.used, "why": verdict.why}}
    files = {"chances": modelfile.packed("retry rates", found.to_json(), about)}
    if model:
        files["retries"] = texts.save(model)
    return files, f"{'has a say' if verdict.used else 'has no say'}: {verdict.why}"


def _foretold(tried: Sequence[Case], foreign: Sequence[Trial]) -> tuple[TextModel | None, Learned]:
    """Learn from retries, each with what a text model of earlier ones would have said of it."""
    about = [learned.described(case.lines, case.cls) for case in tried]
    labels = [case.outcome for case in tried]
    times = [case.at for case in tried]
    counts = Counter(labels)
    model, said = None, {}
    if len(tried) >= LEAST_TEXTS and len(counts) == 2 and min(counts.values()) >= LEAST_A_LABEL:
        model = texts.train(about, labels, times)
        said = texts.foretold(about, labels, times, way=model.way or texts.GRID[0])
    own = [trial_of(case, said[n][learned.WORKED] if n in said else None) for n, case in enumerate(tried)]
    return model, retrychance.learn([*own, *foreign])


def _error(model: TextModel | None, found: Learned, later: Sequence[Case]) -> float:
    """Return the squared error of what was learned on later retries, whether or not it would have had a say."""
    said = []
    for case in later:
        about = learned.described(case.lines, case.cls)
        said.append(retrychance.probability(found, trial_of(case, learned.helped(model, about))))
    return calibration.brier(said, [case.outcome == "succeeded" for case in later])


# --- versions ---


def _seen(home: Path | None, version: int) -> int:
    """Return how many cases there were when a version was made; 0 where that is not known."""
    try:
        about = json.loads((learned.place(home) / str(version) / "about.json").read_bytes())
        return int(about["cases"])
    except (OSError, ValueError, TypeError, KeyError):
        return 0


def _keep(home: Path | None, before: Bundle, parts: dict[str, bytes], history: History) -> int:
    """Write a new version, the parts that are not new taken from the one in use, and put it into use."""
    failurehistory.learning(home)
    folder = learned.place(home)
    folder.mkdir(mode=0o700, exist_ok=True)
    known = _versions(folder)
    version = max(known, default=0) + 1
    new = folder / str(version)
    new.mkdir(mode=0o700)
    for name in ("classes", "retries", "chances"):
        old = folder / str(before.version) / f"{name}.json"
        # A text model of retries belongs to the rates that were fitted with it.
        kept = old.exists() and name not in parts and not (name == "retries" and "chances" in parts)
        if name in parts or kept:
            write_atomically(new / f"{name}.json", parts[name] if name in parts else old.read_bytes(), durable=False)
    about = {"cases": len(history.cases), "made_at": time.time(), "new": sorted(parts)}
    write_atomically(new / "about.json", json.dumps(about), durable=False)
    _point(folder, version, len(history.cases))
    for old_version in sorted(known - {before.version})[: -KEPT or None]:
        shutil.rmtree(folder / str(old_version))
    return version


def _versions(folder: Path) -> set[int]:
    return {int(path.name) for path in folder.iterdir() if path.name.isdigit()}


def _point(folder: Path, version: int, cases: int) -> None:
    """Put a version into use: one small file, replaced last, so that a reader sees the old or the new one whole."""
    write_atomically(folder / "current.json", json.dumps({"schema_version": 1, "version": version, "cases": cases}))
