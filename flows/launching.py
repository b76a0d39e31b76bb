"""The commands that run something: `run` and `resume`."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from workflowmaster.flows import (
    folders,
    granting,
    offering,
    overdue,
    repairing,
    report,
    resuming,
    running,
    serving,
    standing,
)
from workflowmaster.flows.asking import Options, inputs, plan_of
from workflowmaster.flows.claim import Claim, take
from workflowmaster.flows.journey import Journey, prepare
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
    # What is wrong with the prompt, or with what is asked of it, is said before anything is started.
    granting.admit(granting.wanted(given.budget), plan_of(options, settings), settings)
    folder = offering.chosen(given, options)
    if folder:
        return go_on(folder, given, take_up(folder, given), kept=False)
    return _go(options, settings, given)


def resume(given: argparse.Namespace) -> int:
    """Go on with a run: what finished comes back from its results, the rest runs."""
    folder = folders.find(given.id)
    return go_on(folder, given, take_up(folder, given), kept=given.kept, start=given.start)


def take_up(folder: Folder, given: argparse.Namespace) -> Claim:
    """Claim a workflow, before anything is started for it; with `--wait` as soon as its holder has ended."""
    return take(folder, wait=given.wait, tell=lambda text: None if given.quiet else sys.stderr.write(f"{text}\n"))


def go_on(folder: Folder, given: argparse.Namespace, held: Claim, *, kept: bool, start: str | None = None) -> int:
    """Go on with a claimed run; unless `kept`, with what its prompt says by now."""
    settings = load()
    try:
        for mend in repairing.before_resume(folder):
            sys.stderr.write(f"repaired: {mend.what}\n")
        sys.stderr.writelines(f"step {ruled.step} is {ruled.reason}\n" for ruled in overdue.enforce(folder))
        serving.keep_results_in(folder.state().results_place)
        asked = resuming.wish(folder, settings, kept=kept, start=start)
        sys.stderr.writelines(f"{line}\n" for line in asked.told)
        spent = granting.unaffordable(folder, asked.edited, settings, granting.wanted(given.budget))
        done = standing.finished(asked, settings)
    except BaseException:
        held.close()
        raise
    if spent:
        held.close()
        return _no_further(given, folder.state(), spent)
    if done:
        held.close()
        _say(given, done)
        return 0
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
        granting.apply(opened, granting.wanted(given.budget))
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


def _no_further(given: argparse.Namespace, state: WorkflowState, why: str) -> int:
    """Tell that a run would stop again at once, and that nothing was started for it."""
    sys.stderr.write(f"{state.workflow_id}: {why}\n")
    if given.json:
        print(json.dumps(running.answer(state)))
    return running.BUDGET


def _say(given: argparse.Namespace, state: WorkflowState) -> None:
    """Tell people on stderr, and programs on stdout, how it ended."""
    folder = folders.Folder(folders.workflows() / state.workflow_id)
    logs = folder.tails(state.results, 40)
    lines = [*report.failure_excerpt(state, logs), *report.closing(state)]
    sys.stderr.write("\n".join(lines) + "\n")
    if given.json:
        print(json.dumps(running.answer(state)))
