"""A step's fences: which one is its work, which one its check, and which are only shown.

The first fence in a language we can run is the work. Any other is an illustration and is named in a warning, because a
fence that was meant to run and does not is the worst of misunderstandings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workflowmaster.flows.bullets import fence_attributes
from workflowmaster.flows.diagnostics import did_you_mean
from workflowmaster.flows.plan import Interpreter, Work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workflowmaster.flows.diagnostics import Place, Report
    from workflowmaster.flows.outline import Block

LANGUAGES: dict[str, Interpreter] = {
    "bash": "bash",
    "shell": "bash",
    "sh": "sh",
    "python": "python",
    "python3": "python",
    "py": "python",
    "prompt": "prompt",
}
"""Words behind the opening marks that make a fence work, and what runs it."""


# Only `{{ name }}`: Go templates (`{{.Names}}`) and doubled braces of format strings are the script's own.
_PLACEHOLDER = re.compile(r"\$?\{\{-?\s*[A-Za-z_][\w.\[\]'\"-]*(?:\s*\|[^}]*)?\s*-?\}\}")


@dataclass(frozen=True, slots=True)
class Fences:
    """What the fences of one step say."""

    work: Work | None = None
    check: Work | None = None
    info: str = ""
    """Of the work's fence: it may carry attributes in braces."""
    line: int = 0
    """Of the work's fence."""
    refused: bool = False
    """Whether there are fences, but none that could be run; that has been reported."""


def is_runnable(fence: Block) -> bool:
    """Whether a fence's language is one that can be a step's work."""
    return _language(fence) in LANGUAGES


def read_fences(blocks: Sequence[Block], step: str, report: Report) -> Fences:
    """Return the work and the check among a step's blocks, and report what is wrong with them."""
    fences = [block for block in blocks if block.kind == "fence"]
    checks = [fence for fence in fences if _is_check(fence)]
    works = [fence for fence in fences if fence not in checks and _language(fence) in LANGUAGES]
    others = [fence for fence in fences if fence not in checks and fence not in works]
    for kind, found in (("work", works), ("check", checks)):
        if len(found) > 1:
            _second(kind, found[1], found[0], step, report)
    for fence in others:
        _not_run(fence, step, report, alone=not works and not checks)
    work, check = next(iter(works), None), next(iter(checks), None)
    return Fences(
        work=_work(work, step, report) if work else None,
        check=_work(check, step, report) if check else None,
        info=work.info if work else "",
        line=work.line if work else 0,
        refused=bool(others) and not works and not checks,
    )


def _language(fence: Block) -> str:
    # The first word only: pflow writes `shell command` and `python code`, runme puts braces right behind it.
    return re.split(r"[\s{]", fence.info, maxsplit=1)[0].lower()


def _is_check(fence: Block) -> bool:
    words = re.sub(r"\{.*\}", " ", fence.info).lower().split()
    return "check" in words or fence_attributes(fence.info).get("name") == "check"


def _place(fence: Block) -> Place:
    return (fence.line, 1, 4 + len(fence.info))


def _second(kind: str, fence: Block, first: Block, step: str, report: Report) -> None:
    code, advice = ("WM208", "make it a step of its own, or call one `check`")
    if kind == "check":
        code, advice = ("WM216", "put both tests into one fence")
    message = f"step {step!r} has two {kind} fences; the first is in line {first.line}"
    report.add(code, message, _place(fence), help=advice)


def _not_run(fence: Block, step: str, report: Report, *, alone: bool) -> None:
    language = _language(fence)
    if not alone:
        message = f"this fence is not run: {language or 'no language'!r} is only shown"
        report.add("WM217", message, _place(fence), severity="warning", help="step languages: bash, sh, python, prompt")
        return
    said = f"unknown fence language {language!r}" if language else "the fence names no language"
    choices = f"{did_you_mean(language, LANGUAGES)} write one of bash, sh, python, prompt behind the opening marks"
    report.add("WM209", f"{said}, so step {step!r} has no work", _place(fence), help=choices.strip())


def _work(fence: Block, step: str, report: Report) -> Work:
    language = _language(fence)
    # "```check" has no language of its own: the check is a shell script then.
    interpreter = LANGUAGES.get(language, "bash")
    if language not in LANGUAGES and language != "check":
        report.add(
            "WM209", f"unknown fence language {language!r} of a check", _place(fence), help="write ```bash check"
        )
    if not fence.text.strip():
        report.add("WM213", f"the fence of step {step!r} is empty", _place(fence), help="write what is to be run")
    _placeholders(fence, interpreter, report)
    return Work(interpreter=interpreter, text=fence.text, line=fence.line + 1)


def _placeholders(fence: Block, interpreter: Interpreter, report: Report) -> None:
    for number, line in enumerate(fence.text.split("\n"), fence.line + 1):
        for found in _PLACEHOLDER.finditer(line):
            place = (number, found.start() + 1, found.end() + 1)
            if interpreter == "prompt":
                said, advice = "a placeholder in a prompt is not filled in", "inputs reach the agent as environment"
                report.add("WM210", said, place, severity="warning", help=advice)
            else:
                said = f"{found[0]} inside a {interpreter} fence: values never become code"
                advice = 'read the environment instead: "$INPUT_NAME", "$STEP_ID_OUTPUT", "$MATRIX_NAME"'
                report.add("WM210", said, place, help=advice)
