"""What a resume changes: the plan, where the prompt was edited meanwhile, and which steps have to run anew.

Nothing here decides what runs. An edited prompt gives another plan, `--from` gives steps another generation, and both
reach the results' keys; a step runs if its key has no result. So what is printed about steps that are new, changed or
gone is told for people, and a crash in between loses nothing: the plan and the generations are on the disk before the
first step begins. Only a person at a command line may bring in an edited prompt. Approving, a deployment's retry and
the recovery of orphans go by the kept plan: nobody is there to read what changed.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflowmaster.blocks.atomic import write_atomically
from workflowmaster.flows import folders
from workflowmaster.flows.asking import BadOption, Options, compilation, plan_of
from workflowmaster.flows.diagnostics import PromptError, did_you_mean
from workflowmaster.flows.inputs import as_text
from workflowmaster.flows.journey import Journey, Record, keep
from workflowmaster.flows.scheduling import ancestors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workflowmaster.flows.folders import Folder
    from workflowmaster.flows.plan import Plan, Step
    from workflowmaster.flows.settings import Settings

MOST_NAMES = 8
"""Steps of one sort that are named on the terminal; the audit log has all."""


@dataclass(frozen=True)
class Difference:
    """How the steps of two plans differ, by id in the plans' order."""

    new: tuple[str, ...]
    changed: tuple[str, ...]
    gone: tuple[str, ...]
    same: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{sort}: {_listed(names)}" for sort, names in self.sorts().items() if names]
        return "; ".join([*parts, f"{len(self.same)} as before"])

    def sorts(self) -> dict[str, tuple[str, ...]]:
        """Return those that are not as before, by what happened to them."""
        return {"new": self.new, "changed": self.changed, "gone": self.gone}


@dataclass(frozen=True)
class Wish:
    """What somebody who goes on with a run asks for."""

    folder: Folder
    options: Options
    edited: Plan | None = None
    """The plan of the edited prompt; None where it is as it was."""
    difference: Difference | None = None
    again: tuple[str, ...] = ()
    """Steps that must run anew although nothing about them has changed."""
    start: str = ""
    """The step that was named for it."""
    told: tuple[str, ...] = ()
    """Lines for people."""


def by_kept(folder: Folder) -> Wish:
    """Go on with a run as it was begun."""
    return Wish(folder, folders.kept(folder.record, Record).options)


def wish(folder: Folder, settings: Settings, *, kept: bool = False, start: str | None = None) -> Wish:
    """Find out what a resume would change. PromptError if the edited prompt does not compile; BadOption."""
    record = folders.kept(folder.record, Record)
    plan, as_kept = folder.plan(), Wish(folder, record.options)
    found, told = (as_kept, ()) if kept else _edited(folder, record, plan, settings)
    again = from_step(found.edited or plan, start) if start else ()
    return Wish(folder, found.options, found.edited, found.difference, again, start or "", told)


def _edited(folder: Folder, record: Record, plan: Plan, settings: Settings) -> tuple[Wish, tuple[str, ...]]:
    """Take the prompt as it is now, where it was edited since the run kept it."""
    as_before = Wish(folder, record.options)
    source = Path(record.source)
    if not record.source:
        return as_before, ()
    try:
        data = source.read_bytes()
    except OSError as error:
        why = "is gone" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        return as_before, (f"{source} {why}: the run goes on by the plan it kept",)
    if hashlib.sha256(data).hexdigest() == plan.prompt.sha256:
        return as_before, ()
    try:
        options, edited = _compiled(record.options, plan, source, settings)
    except PromptError:
        sys.stderr.write(f"{source} was edited since {folder.id} began, and does not compile as it is now.\n")
        sys.stderr.write(f"hint: workflowmaster resume {folder.id} --kept goes on by the plan that the run kept\n")
        raise
    found = difference(plan, edited)
    told = f"{source} was edited since: {found}"
    return Wish(folder, options, edited, found), (told,)


def _compiled(options: Options, before: Plan, source: Path, settings: Settings) -> tuple[Options, Plan]:
    """Compile the edited prompt with what the run was asked for; inputs that nobody gave have its new defaults."""
    defaults = {spec.name: as_text(spec.default) for spec in before.inputs if spec.default is not None}
    given = {name: value for name, value in options.inputs.items() if value not in (defaults.get(name), "")}
    asked = options.model_copy(update={"prompt": str(source), "inputs": {}})
    # Asked without any first: one that the prompt no longer has would be an error, and is nobody's mistake.
    outline = compilation(asked, settings, running=False).plan
    known = {spec.name for spec in outline.inputs} if outline else set(given)
    asked = asked.model_copy(update={"inputs": {name: value for name, value in given.items() if name in known}})
    plan = plan_of(asked, settings)
    return asked.model_copy(update={"prompt": options.prompt, "inputs": plan.input_values}), plan


def difference(old: Plan, new: Plan) -> Difference:
    """Compare two plans by what their steps do, wherever in the prompt they stand."""
    before, after = ({step.id: meaning(step) for step in plan.tasks} for plan in (old, new))
    return Difference(
        new=tuple(name for name in after if name not in before),
        changed=tuple(name for name in after if name in before and after[name] != before[name]),
        gone=tuple(name for name in before if name not in after),
        same=tuple(name for name in after if after[name] == before.get(name)),
    )


def meaning(step: Step) -> dict[str, Any]:
    """Return all of a step but where it is written."""
    return step.model_dump(mode="json", exclude={"source": True, "work": {"line"}, "check": {"line"}})


def from_step(plan: Plan, start: str) -> tuple[str, ...]:
    """Return a step, the steps it was split into, and everything that needs one of them. BadOption if there is none."""
    steps = {step.id: step for step in plan.tasks}
    if start not in steps:
        shown = ", ".join(list(steps)[:MOST_NAMES]) + (" …" if len(steps) > MOST_NAMES else "")
        raise BadOption(f"--from {start}: the run has no such step; {did_you_mean(start, steps) or f'it has {shown}'}")
    needed = ancestors(plan.tasks)
    first = {start, *steps[start].children}
    return tuple(name for name in steps if name in first or needed[name] & first)


def apply(journey: Journey, asked: Wish) -> None:
    """Make a wish the run's own. The claim is held; nothing has begun."""
    if asked.edited and asked.difference:
        _take_plan(journey, asked.folder, asked.edited, asked.difference)
        withdraw(journey, (*asked.difference.changed, *asked.difference.gone))
    if asked.again:
        anew(journey, asked.again, f"resume --from {asked.start}")
        withdraw(journey, asked.again)


def _take_plan(journey: Journey, folder: Folder, plan: Plan, found: Difference) -> None:
    old = folder.plan()
    fields: dict[str, Any] = {"old": old.workflow_hash, "new": plan.workflow_hash, **found.sorts()}
    earlier = folder.earlier_plan(old.workflow_hash)
    earlier.parent.mkdir(exist_ok=True)
    write_atomically(earlier, folder.plan_file.read_bytes())
    journey.journal.append("plan", durable=True, hash=plan.workflow_hash, **fields)
    write_atomically(folder.plan_file, plan.model_dump_json())
    write_atomically(folder.prompt, Path(journey.record.source).read_bytes())
    journey.audit.append("plan.changed", **fields)


def anew(journey: Journey, steps: Iterable[str], why: str) -> None:
    """Give steps a new generation: whatever results they have, they run again, also after a crash."""
    names, known = tuple(steps), journey.past.generations
    generation = 1 + max(known.get(name, 0) for name in names)
    known.update(dict.fromkeys(names, generation))
    journey.journal.append("rerun", durable=True, steps=names, generation=generation, why=why)
    journey.audit.append("steps.rerun", steps=names, generation=generation, why=why)


def withdraw(journey: Journey, steps: Iterable[str]) -> None:
    """Forget what was asked and answered about steps that are others now: it was about what stood there then."""
    book = journey.past.book
    for name in steps:
        if name not in journey.record.approvals and not book.open_of(name):
            continue
        journey.journal.append("approval", durable=True, step=name, answer="")
        journey.audit.append("approval.withdrawn", step=name, answer=journey.record.approvals.get(name, ""))
        book.withdraw(name)
        rest = {step: answer for step, answer in journey.record.approvals.items() if step != name}
        keep(journey, journey.record.model_copy(update={"approvals": rest}))


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
