"""The commands that run something: `run`, `resume`, `approve`."""

from __future__ import annotations

import getpass
import json
import signal
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from workflowmaster.flows import folders, offering, repairing, report, resuming, running, serving
from workflowmaster.flows.asking import BadOption, Options, inputs, plan_of
from workflowmaster.flows.audit import AuditLog
from workflowmaster.flows.claim import Claim, NeedsPerson, take
from workflowmaster.flows.journal import Journal
from workflowmaster.flows.journey import Journey, Record, prepare
from workflowmaster.flows.progress import Progress
from workflowmaster.flows.settings import Settings, load

if TYPE_CHECKING:
    import argparse

    from workflowmaster.flows.folders import Folder
    from workflowmaster.flows.resuming import Wish
    from workflowmaster.flows.state import WorkflowState

INTERRUPTED = 130


def asked_for(given: argparse.Namespace) -> Options:
    """Read the options of a run from the command line. ValueError-like PromptError for a bad `--input`."""
    return Options(
        prompt=given.file,
        workspace=str(Path(getattr(given, "workspace", ".")).resolve()),
        policy=given.policy,
        inputs=inputs(given.input),
        max_parallel=given.max_parallel,
        agent=given.agent,
        include_dirty=getattr(given, "include_dirty", False),
    )


def run(given: argparse.Namespace) -> int:
    """Run a prompt file from its first step on, or go on with an unfinished run of it where that is wanted."""
    settings = load()
    options = asked_for(given)
    if not Path(options.workspace).is_dir():
        raise NotADirectoryError(f"--workspace {options.workspace}: no such directory")
    plan_of(options, settings)  # what is wrong with the prompt is said before anything is started
    folder = offering.chosen(given, options)
    if folder:
        return _again(folder, given, _take(folder, given), kept=False)
    return _go(options, settings, given)


def resume(given: argparse.Namespace) -> int:
    """Go on with a run: what finished comes back from its results, the rest runs."""
    folder = folders.find(given.id)
    return _again(folder, given, _take(folder, given), kept=given.kept, start=given.start)


def approve(given: argparse.Namespace) -> int:
    """Keep a person's answer with the run, and go on with it. An escalated step that is approved is tried again."""
    folder = folders.find(given.id)
    record = folders.kept(folder.record, Record)
    step = _waiting(folder, given.step)
    answer = f"{'denied' if given.deny else 'approved'} by {getpass.getuser()}"
    held = _take(folder, given)
    try:
        log = AuditLog(folder.audit)
        changed = record.model_copy(update={"approvals": {**record.approvals, step: answer}})
        folders.keep(folder.record, changed)
        with closing(Journal(folder.journal)) as records:
            records.append("approval", durable=True, step=step, answer=answer)
        log.append("approval", step=step, answer=answer)
        log.close()
    except BaseException:
        held.close()
        raise
    return _again(folder, given, held, kept=True)


def _waiting(folder: Folder, name: str | None) -> str:
    """Return the step that waits for an answer, the named one or the only one."""
    state = folder.state()
    waits = {step.id for step in state.plan.tasks if state.step_status(step.id) == "waiting"}
    # The others wait for these.
    asks = [step.id for step in state.plan.tasks if step.id in waits and not waits & set(step.needs)]
    if name in asks or (name is None and len(asks) == 1):
        return name or asks[0]
    listed = ", ".join(asks) or "none"
    if name:
        raise BadOption(f"--step {name}: {folder.id} has no such step waiting; waiting: {listed}")
    what = f"more than one step waits ({listed}): name it with --step" if asks else "no step waits"
    raise NeedsPerson(f"{folder.id}: {what}")


def _take(folder: Folder, given: argparse.Namespace) -> Claim:
    """Claim a workflow, before anything is started for it; with `--wait` as soon as its holder has ended."""
    return take(folder, wait=given.wait, tell=lambda text: None if given.quiet else sys.stderr.write(f"{text}\n"))


def _again(folder: Folder, given: argparse.Namespace, held: Claim, *, kept: bool, start: str | None = None) -> int:
    """Go on with a claimed run; unless `kept`, with what its prompt says by now."""
    settings = load()
    try:
        for mend in repairing.before_resume(folder):
            sys.stderr.write(f"repaired: {mend.what}\n")
        serving.keep_results_in(folder.state().results_place)
        asked = resuming.wish(folder, settings, kept=kept, start=start)
        sys.stderr.writelines(f"{line}\n" for line in asked.told)
    except BaseException:
        held.close()
        raise
    return _go(asked.options, settings, given, asked, held)


def _go(
    options: Options,
    settings: Settings,
    given: argparse.Namespace,
    asked: Wish | None = None,
    held: Claim | None = None,
) -> int:
    """Prepare while the server starts, run, and say how it ended. `held` is the claim of the run that is asked for."""
    # Until the flow runs there is nothing to end in order: stopping is the same however it is asked for.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack:
        if held:
            stack.enter_context(held)
        own = stack.enter_context(serving.server())
        opened = _opened(options, settings, asked, held)
        progress = stack.enter_context(Progress(opened.plan, quiet=given.quiet))
        if given.verbose:
            progress.show_logs = True
        opened.claim.tell = progress.note
        progress.note(f"{opened.id}: {opened.plan.name}")
        try:
            state = running.execute(opened, progress, own)
        except KeyboardInterrupt:
            progress.close()
            if not opened.folder.begun:
                raise  # nothing has begun
            _say(given, opened.folder.state())
            return INTERRUPTED
    _say(given, state)
    return running.exit_code(state, infrastructure=bool(opened.infrastructure), refused=bool(opened.refusals))


def _opened(options: Options, settings: Settings, asked: Wish | None, held: Claim | None) -> Journey:
    """Open a run, or one that was begun with what is asked of it now."""
    if asked is None:
        return prepare(options, settings, claim=held)
    opened = prepare(options, settings, resume=asked.folder, edited=asked.edited, claim=held)
    try:
        resuming.apply(opened, asked)
    except BaseException:
        opened.abandon()
        raise
    return opened


def _say(given: argparse.Namespace, state: WorkflowState) -> None:
    """Tell people on stderr, and programs on stdout, how it ended."""
    folder = folders.Folder(folders.workflows() / state.workflow_id)
    logs = folder.tails(state.results, 40)
    lines = [*report.failure_excerpt(state, logs), *report.closing(state)]
    sys.stderr.write("\n".join(lines) + "\n")
    if given.json:
        print(json.dumps(running.answer(state)))
