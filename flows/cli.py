"""The command line `workflowmaster` (or `wm`): what it understands, and what its exit codes mean.

Each command's work is imported only when it is called, because `--help` and `check` must answer at once and Prefect
alone takes three quarters of a second. JSON goes to stdout, everything for people to stderr; an error is a sentence
that says what, where and what to do, never a traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import math
import os
import sys
from typing import TYPE_CHECKING

from workflowmaster.flows.importing import uncollected

if TYPE_CHECKING:
    from collections.abc import Sequence

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - it has no public name

EPILOG = """\
exit codes:
  0 done   1 failed   2 invalid input   3 waits for a person   4 infrastructure (Docker, Prefect, disk)
  5 refused by policy   6 budget spent   7 audit broken   130 interrupted
"""


WAIT = "wait for the process that works on it to end (default: as long as it takes)"


def parser() -> argparse.ArgumentParser:
    """Build the command line's grammar. Each command names the function that does it as `module:function`."""
    top = argparse.ArgumentParser(
        prog="workflowmaster",
        description="Prompt files become Prefect flows whose steps run in Docker containers, under named policies.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="store_true", help="print the version and exit")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    _writing(commands)
    _running(commands)
    _stopping(commands)
    _reading(commands)
    _keeping(commands)
    return top


def _command(commands: Commands, name: str, does: str, text: str, *, json: bool = False) -> argparse.ArgumentParser:
    made = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    made.set_defaults(does=f"workflowmaster.flows.{does}")
    if json:
        made.add_argument("--json", action="store_true", help="print JSON on stdout")
    return made


def _writing(commands: Commands) -> None:
    check = _command(commands, "check", "checking:check", "check prompt files without running anything", json=True)
    check.add_argument("files", nargs="+", metavar="FILE")
    plan = _command(commands, "plan", "checking:plan", "show what a prompt file would do", json=True)
    plan.add_argument("file", metavar="FILE")
    _asked(plan)
    compiled = _command(commands, "compile", "compiled:write", "write the reviewable, deployable form of a prompt")
    compiled.add_argument("file", metavar="FILE")
    compiled.add_argument("-o", "--output", metavar="DIR", default=".", help="folder to write to")
    _asked(compiled)
    schema = _command(commands, "schema", "checking:schema", "print the JSON Schema of front matter or plan")
    schema.add_argument("what", choices=("prompt", "plan"))


def _asked(command: argparse.ArgumentParser) -> None:
    """Add the options that decide what a prompt compiles to."""
    command.add_argument("--policy", metavar="P", help="security policy of a prompt that names none")
    command.add_argument("--input", metavar="K=V", action="append", default=[], help="value of an input; may repeat")
    command.add_argument("--max-parallel", metavar="N", type=int, help="steps at one time")
    command.add_argument("--agent", metavar="CMD", default="", help="command that does agent steps, prompt on stdin")


def _running(commands: Commands) -> None:
    run = _command(commands, "run", "launching:run", "run a prompt file", json=True)
    run.add_argument("file", metavar="FILE")
    run.add_argument("--workspace", metavar="DIR", default=".", help="directory to work on (default: this one)")
    run.add_argument("--include-dirty", action="store_true", help="take uncommitted changes along as a first commit")
    _asked(run)
    going_on = run.add_mutually_exclusive_group()
    text = "go on with the newest run of this prompt here, or with that one"
    going_on.add_argument("--resume", metavar="ID", nargs="?", const="the newest", help=text)
    going_on.add_argument("--new", action="store_true", help="start anew, without a word about an unfinished run")
    resume = _command(commands, "resume", "launching:resume", "go on with a run that stopped", json=True)
    resume.add_argument("id", metavar="ID")
    resume.add_argument("--from", metavar="STEP", dest="start", help="run that step anew, and all that needs it")
    resume.add_argument("--kept", action="store_true", help="go by the kept plan, though the prompt was edited")
    approve = _approving(commands)
    for command in (run, resume, approve):
        text = "limits of its budget, such as minutes=30,usd=5, or of a step's, such as build:attempts=4; may repeat"
        command.add_argument("--budget", metavar="LIMITS", action="append", default=[], help=text)
        wait = command.add_argument("--wait", metavar="SECONDS", nargs="?", type=_seconds, const=math.inf, help=WAIT)
        wait.default = 0.0
        command.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
        command.add_argument("-v", "--verbose", action="store_true", help="show the steps' output as it comes")


def _approving(commands: Commands) -> argparse.ArgumentParser:
    approve = _command(commands, "approve", "answering:approve", "answer a step that waits, and go on", json=True)
    approve.add_argument("id", metavar="ID")
    which = approve.add_mutually_exclusive_group()
    which.add_argument("--step", metavar="S", help="the step; needed when more than one waits")
    which.add_argument("--all", action="store_true", help="everything that waits, with the same answer")
    verb = approve.add_mutually_exclusive_group()
    verb.add_argument("--retry", action="store_true", help="try the failed step again (without a word: the same)")
    verb.add_argument("--skip", action="store_true", help="give the step up")
    verb.add_argument("--abort", action="store_true", help="end the whole workflow")
    verb.add_argument("--deny", action="store_true", help="say no: the step fails, or its failure stands")
    approve.add_argument("--note", metavar="TEXT", default="", help="why; kept and audited")
    approve.add_argument("--memory", metavar="SIZE", help="memory of the next attempt, such as 2g")
    approve.add_argument("--minutes", metavar="N", type=float, help="time of the next attempt")
    return approve


def _seconds(text: str) -> float:
    """Read a number of seconds that one can wait."""
    with contextlib.suppress(ValueError):
        if (seconds := float(text)) >= 0:
            return seconds
    raise argparse.ArgumentTypeError(f"{text} is no number of seconds; what is not one stands before --wait")


def _stopping(commands: Commands) -> None:
    for name, text in (("cancel", "stop a run for good, or close an orphan"), ("pause", "stop a run until `resume`")):
        _command(commands, name, f"ceasing:{name}", text, json=True).add_argument("id", metavar="ID")


def _reading(commands: Commands) -> None:
    runs = _command(commands, "list", "looking:show_list", "list the runs", json=True)
    runs.add_argument("--waiting", action="store_true", help="what waits for a person, and the command to answer")
    _command(commands, "orphans", "orphans:show", "list the runs whose process died", json=True)
    tasks = _command(commands, "tasks", "taskshow:show", "show how each task of a run stands now", json=True)
    tasks.add_argument("id", metavar="ID", nargs="?", default="latest")
    logs = _command(commands, "logs", "looking:logs", "print what the steps printed")
    logs.add_argument("id", metavar="ID")
    logs.add_argument("--step", metavar="S", help="one step's raw output and nothing else")
    logs.add_argument("--attempt", metavar="N", type=int, help="that attempt (default: the last)")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the run has ended")
    report = _command(commands, "report", "looking:show_report", "print where the report is, or write it")
    report.add_argument("id", metavar="ID", nargs="?", default="latest")
    report.add_argument("-o", "--output", metavar="FILE", help="write it there; - is stdout")
    report.add_argument("--format", choices=("html", "md"), default="html")
    why = _command(commands, "why", "why:why", "say why steps ran, came back, or did not run", json=True)
    why.add_argument("step", metavar="STEP", nargs="?", help="one step only")
    why.add_argument("--id", metavar="ID", default="latest", help="of that run (default: the newest)")
    stats = _command(commands, "stats", "statshow:stats", "count runs, steps, decisions and containers", json=True)
    stats.add_argument("id", metavar="ID", nargs="?", help="one run only")
    stats.add_argument("--by", choices=("workflow", "step", "policy"), help="group by group too")
    stats.add_argument("--since", metavar="TIME", help="runs begun since then: a date and time, or so long ago (7d)")
    _audits(commands)
    _states(commands)


def _states(commands: Commands) -> None:
    state = _whats(_family(commands, "state", "show, validate, repair or restore a run's state"))
    show = _part(state, "show", "statecommands:show", "show the state of a run, and its checkpoints")
    validate = _part(state, "validate", "statecommands:validate", "check everything that is kept of a run")
    repair = _part(state, "repair", "statecommands:repair", "mend what is damaged, from what still holds")
    for command in (show, validate, repair):
        command.add_argument("id", metavar="ID", nargs="?", default="latest")
    show.add_argument("--checkpoint", metavar="N", type=int, help="as that checkpoint has it")
    restore = _part(state, "restore", "statecommands:restore", "go back to a checkpoint: what came after it runs again")
    restore.add_argument("id", metavar="ID")
    restore.add_argument("--checkpoint", metavar="N", type=int, required=True, help="number of the checkpoint")


def _audits(commands: Commands) -> None:
    audit = _whats(_family(commands, "audit", "show, verify or prove by a run's audit log"))
    show = _part(audit, "show", "auditing:show", "print the records of a run's log")
    verify = _part(audit, "verify", "auditing:verify", "check a run's log: keys, chain, checkpoints, anchors")
    prove = _part(audit, "prove", "auditing:prove", "prove the line from the prompt to the pull request")
    for command in (show, verify, prove):
        command.add_argument("id", metavar="ID", nargs="?", default="latest")
    show.add_argument("--since", metavar="TIME", help="records since then: a date and time, or so long ago (2h, 3d)")
    show.add_argument("--type", metavar="GLOB", help="events of that name, such as `container.*`")


def _keeping(commands: Commands) -> None:
    _policies(commands)
    _coaching(commands)
    _failures(commands)
    _images(commands)
    init = _command(commands, "init", "upkeep:init", "save the policies as blocks on the Prefect server")
    init.add_argument("--force", action="store_true", help="overwrite documents that were edited")
    _command(commands, "doctor", "doctor:doctor", "check what this machine can do, and say the mend", json=True)
    _command(commands, "clean", "upkeep:clean", "remove what runs of dead owners left behind", json=True)
    ui = _command(commands, "ui", "upkeep:ui", "serve the runs' database with the Prefect UI")
    ui.add_argument("--port", type=int, default=4200)


def _policies(commands: Commands) -> None:
    policy = _whats(_family(commands, "policy", "list, show, compare or probe security policies"))
    _part(policy, "list", "policing:show_list", "list the policies, the loosest first")
    show = _part(policy, "show", "policing:show", "show what a policy grants")
    show.add_argument("name", metavar="NAME")
    show.add_argument("--effective", action="store_true", help="say where each value comes from and what it becomes")
    diff = _part(policy, "diff", "policing:diff", "compare two policies")
    diff.add_argument("names", metavar="NAME", nargs=2)
    probe = _part(policy, "probe", "probing:probe", "try hostile operations in a container of that policy")
    probe.add_argument("name", metavar="NAME")
    probe.add_argument("--image", metavar="REF", help="image to try in (default: the step image)")


def _coaching(commands: Commands) -> None:
    coach = _whats(_family(commands, "coach", "say what the history of runs teaches"))
    _part(coach, "backtest", "coaching:backtest", "replay past failures under each way of deciding")


def _failures(commands: Commands) -> None:
    failures = _whats(_family(commands, "failures", "list past failures, learn from them, or share them"))
    _part(failures, "list", "lessons:show_list", "list past failures, and what was learned from them")
    learn = _part(failures, "learn", "lessons:learn", "learn from past failures, where there are enough new ones")
    learn.add_argument("--force", action="store_true", help="however few are new")
    learn.add_argument("--use", metavar="N", type=int, help="put that version into use, and learn nothing")
    export = _part(failures, "export", "lessons:export", "write masked fingerprints for other repositories")
    export.add_argument("-o", "--output", metavar="FILE", help="write them there (default: stdout)")
    export.add_argument("--min", metavar="N", type=int, default=2, help="seen at least N times (default: 2)")
    export.add_argument("--without-lines", action="store_true", help="numbers only, without any line of a log")
    take_in = _part(failures, "import", "lessons:take_in", "take in what others have exported, as weaker evidence")
    take_in.add_argument("file", metavar="FILE")
    take_in.add_argument("--as", metavar="NAME", dest="name", help="call the source so (default: the file's name)")
    forget = _part(failures, "forget", "lessons:forget", "take back what was imported from a source")
    forget.add_argument("source", metavar="SOURCE")


def _images(commands: Commands) -> None:
    family = _family(commands, "image", "build, list, scan images, or list their packages")
    # Was an option of the family before `build` had options of its own; lines that say so go on working.
    family.add_argument("--force", action="store_true", help=argparse.SUPPRESS)
    image = _whats(family)
    build = _part(image, "build", "imaging:build", "build and sign the step image")
    build.add_argument("--force", action="store_true", default=argparse.SUPPRESS, help="build although it is there")
    _part(image, "list", "imaging:show_list", "list our images")
    for name, text in (
        ("sbom", "list the packages in an image, as CycloneDX"),
        ("scan", "look the packages of an image up among the known vulnerabilities"),
    ):
        _part(image, name, f"imaging:{name}", text).add_argument(
            "reference", metavar="REF", nargs="?", help="an image (default: the step image)"
        )


def _family(commands: Commands, name: str, text: str) -> argparse.ArgumentParser:
    """Add a command that has commands of its own. `--json` may stand before or after the second word."""
    family = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    family.add_argument("--json", action="store_true", help="print JSON on stdout")
    return family


def _whats(family: argparse.ArgumentParser) -> Commands:
    return family.add_subparsers(dest="what", metavar="WHAT", required=True)


def _part(family: Commands, name: str, does: str, text: str) -> argparse.ArgumentParser:
    made = _command(family, name, does, text)
    # Without a default of its own, so that it does not undo the family's.
    made.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON on stdout")
    return made


def _flushed(code: int) -> int:
    """Return an exit code once all output is out: at exit, a reader that has gone could only be complained about."""
    sys.stdout.flush()
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    grammar = parser()
    given = grammar.parse_args(argv)
    if given.version:
        from importlib.metadata import version

        print(version("workflowmaster"))
        return 0
    if given.command is None:
        grammar.print_help(sys.stderr)
        return 2
    module, _, name = given.does.partition(":")
    try:
        with uncollected():
            work = getattr(importlib.import_module(module), name)
        return _flushed(int(work(given) or 0))
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone. What is still buffered has to go somewhere at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        from workflowmaster.flows.refusals import explained

        code = explained(error, json=getattr(given, "json", False))
        if code is None:
            raise
        return code


if __name__ == "__main__":
    sys.exit(main())
