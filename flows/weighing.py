"""How much a line of a log says about a failure, by the forms in which tools report one. Pure.

A table per weight, each row with the tool whose form it is; `tests/flows/test_weighing.py` runs what those tools really
print through them. Forms are anchored at the line's beginning, because a program's own way to begin an error is better
evidence than a word in the middle of a sentence, and because that judges a line in five microseconds: what may stand
anywhere is looked for as plain text.
"""

from __future__ import annotations

import re
from typing import Final, Literal

Weight = Literal[0, 1, 2, 3]
NOTHING: Final = 0
A_WORD: Final = 1
"""A word of trouble is in it: a warning, an attempt that was repeated, a sentence."""
THAT: Final = 2
"""It says that something failed: a summary, a make that gives up."""
WHY: Final = 3
"""It says what failed, in a tool's form for that."""

LOOKED_AT = 400
"""Characters of a line that are weighed."""

TRACE = re.compile(r"\++ \S")
"""`set -x`: the commands as they are run."""
WITH_NEXT = re.compile(r"panicked at .{1,200}:$|What went wrong:$")
"""The line after this one is what it announces: Rust since 1.73, Gradle."""

_PREFIX = re.compile(
    r"#[0-9]+ +(?:[0-9]+\.[0-9]+ )?"  # docker build
    r"|\[?[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.,]+(?:Z|[+-][0-9:]{4,6})?\]?[ \t]+"
    r"|\[?[0-9]{2}:[0-9]{2}:[0-9]{2}(?:[.,][0-9]+)?\]?[ \t]+"
    r"|(?:remote|stderr|stdout): (?=\w+: )"
)
"""What a tool around the tool puts before its lines."""


def _table(*rows: str, flags: re.RegexFlag = re.NOFLAG) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{row})" for row in rows), flags)


_CALM = _table(
    r"ok\b(?! \w+ (?:error|failed))",  # TAP, go
    r"(?:PASS|PASSED|XFAIL|SKIPPED|XPASS)\b",  # pytest, go, jest
    r"--- (?:PASS|SKIP)",  # go
    r"\s*[✓✔√]",  # jest, mocha
    r"test .*\.\.\. (?:ok|ignored)\b",  # cargo
    r"test result: ok\.",
    r"\s*(?:Compiling|Checking|Downloading|Downloaded|Fetched|Fresh|Unpacking|Setting up|Preparing|Collecting|Using"
    r" cached|Requirement already|Installing|Building|Running|Selecting|Get:[0-9]+|Hit:[0-9]+|creating|copying|adding"
    r"|inflating|added) ",
    r"\++ \S",  # set -x: what is run, not what it said
    r"(?:gcc|g\+\+|cc|c\+\+|clang|rustc|javac|ar|ld) [^:]*-[a-zA-Z][^:]*$",  # make repeats the command
    r"section_(?:start|end):[0-9]+:",  # GitLab
    r"\s*note: ",
    flags=re.IGNORECASE,
)
_CALM_END = re.compile(r"(?:\s(?:PASSED|XFAIL|SKIPPED)(?:\s+\[ *[0-9]+%\])?|\.\.\. ?ok)\s*$")
_ENDS = ("PASSED", "XFAIL", "SKIPPED", "%]", "ok")
_NONE = re.compile(
    r"(?<![0-9.,])(?:0|no|zero) (?:errors?|failures?|failed|problems?|issues?|conflicts?|vulnerabilities)\b"
    r"|\bwithout (?:any )?(?:errors?|failures?|conflicts?)\b|\bfailed=0\b"
)
_SOME = re.compile(r"(?<![0-9.,])[1-9][0-9,]* (?:\w+ )?(?:errors?|failures?|failed|problems?)\b|\bfailed=[1-9]")
_BOILERPLATE = (
    "Job failed: exit code",
    "Job failed: exit status",
    "Process completed with exit code",
    "A complete log of this run",
    "note: run with `RUST_BACKTRACE",
    "Cleaning up project directory",
    "Cleaning up file based",
    "For more information about this error, try",
    "[workflowmaster: the output",
)
"""What runners and tools say under every failure, whatever it was."""

_WARNS = _table(
    r"\s*\[?(?:warning|warn|info|debug|notice|hint|deprecat\w+)\b[\]:!]?[ :\[]",
    r"npm warn|W: ",
    flags=re.IGNORECASE,
)
_WARNING_WORDS = (
    *("warning: ", "level=info", "level=warn", "level=debug", "will retry", "retrying", "retry in ", "trying again"),
    *(" info ", " info: ", "[info]", " warn ", " warning ", "[warn", " debug ", "[debug]", " trace "),
)

_VERDICT = _table(
    r"(?:FAILED|ERROR) \S+(?:::| - )",  # pytest's summary
    r"E\s{2,}(?:assert\b|AssertionError\b|fixture '|Failed:)",  # pytest
    r"(?:FAIL|ERROR): \w+ \(",  # unittest
    r"test .*\.\.\. FAILED$",  # cargo
    r"\s*--- FAIL: ",  # go
    r"\s*not ok [0-9]+",  # TAP
    r"\s*[✕✗✖\u00d7●] ?(?![0-9]+ problem)\S",  # jest, mocha, vitest
    r"rspec \./",
    r"\[ERROR\]\s+(?:Tests run:|\w+(?:\.\w+)*:[0-9]+)",  # maven
    r"(?:[\w.]+\.)?Assertion(?:Failed)?Error\b",  # Python, node, Java
    r"(?:thread .* panicked at '|\S+: .*)?\b[Aa]ssertion .*failed",  # Rust, C
)
_VERDICT_THAT = _table(
    r"=+ .*\b(?:failed|errors?)\b.* =+$",  # pytest's last line
    r"_{3,} .* _{3,}$",  # pytest's headings
    r"FAILED \((?:failures|errors)=",  # unittest
    r"test result: FAILED",  # cargo
    r"FAIL\b[\s:]",  # go, jest
    r"(?:Tests?|Test Suites|Test Files):?\s+.*\b[0-9]+ failed",  # jest, vitest
    r"\s+[0-9]+\) \S",  # mocha
    r"error: test failed, to rerun",  # cargo
)
_RAISED = (
    r"(?:[A-Za-z_][\w$]*\.)*[A-Z]\w*"
    r"(?:Error|Exception|Exit|Interrupt|Timeout|Refused|Fault|Failure|Expired|Denied|NotFound|Exceeded)"
)
_WHY = _table(
    r"\[workflowmaster: refused ",
    # Python, node, Java: the name of what was thrown.
    rf"(?:E\s{{2,}}|[| +-]+|Uncaught |Caused by: |Exception in thread \S+ )?{_RAISED}\b(?: \[\w+\])?(?::|$)",
    r"(?:Uncaught )?Exception(?: \[\w+\])?: ",
    r"error\[\w+\]: ",  # rustc
    r"error: (?!could not compile|aborting due|test failed|process didn't exit|script |Recipe )",  # cargo, git, many
    r"\S+?:[0-9]+(?::[0-9]+)?:? (?:- )?(?:fatal )?error\b",  # gcc, clang, tsc, mypy
    r"\S+\([0-9]+,[0-9]+\): (?:fatal )?error\b",  # tsc, dotnet, msvc
    r"\S+\.go:[0-9]+(?::[0-9]+)?: ",
    r"\S*\bld(?:\.\w+)?: (?:cannot find|error|undefined|unable)",
    r"make(?:\[[0-9]+\])?: \*\*\* No rule to make target",
    r"npm (?:ERR!|error) (?!code ELIFECYCLE|errno|path|command|syscall|signal|A complete log|\s|at |enoent This|$)",
    r"(?:ERROR|Error|FATAL|Fatal|fatal|CRITICAL|PANIC|panic|E|Err|FATAL ERROR|fatal error)(?::[0-9]+)?: ?\S",
    r"(?:##)?\[(?:ERROR|error|fatal|FATAL)\] ?\S",
    r"(?:ERROR|FATAL|CRITICAL) \S",
    r"CONFLICT \(|Automatic merge failed| ?! \[(?:remote )?rejected\]|remote: (?:error|fatal|Permission|Invalid|Repo)",
    r"curl: \([0-9]+\)|wget: ",
    r"thread '.*' (?:\([0-9]+\) )?panicked at",  # Rust
    r"(?:\S+: line [0-9]+: +[0-9]+ )?(?:Killed|Aborted|Terminated)\b",  # shells
    r"\* What went wrong:",  # Gradle
)
_WHY_WORDS = (
    *("undefined reference to", "multiple definition of", "Error response from daemon", "failed to solve"),
    *("Segmentation fault", "core dumped", "Bus error", "Illegal instruction", "ut of memory", "OutOfMemoryError"),
    *("No space left on device", "Read-only file system", "Disk quota exceeded", "Cannot allocate memory"),
    *("level=error", "level=fatal", " ERROR ", " ERROR:", " FATAL ", " FATAL:", " CRITICAL "),
    *("Refused by WorkflowMaster's proxy", "let this through, but"),
)
_PROGRAM = re.compile(r"[\w./+@-]+(?:\[[0-9]+\])?: ")
"""`program: what it has to say`."""
_SAYS = (
    *("No such file or directory", "not found", "ermission denied", "Read-only file", "annot ", "can't ", "onnection "),
    *("timed out", "peration not permitted", "s a directory", "ot a directory", "Text file busy", "nput/output error"),
    *(
        "ould not ",
        "ouldn't ",
        "nable to ",
        "failed",
        "efused",
        "nexpected ",
        "yntax error",
        "nvalid ",
        "unrecognized ",
    ),
    *("missing ", "Temporary failure", "unbound variable", "parameter not set", "format error", "Killed", "must be"),
    *("does not exist", "Too many", "roken pipe", "unavailable", "illegal option", "ad address", "not installed"),
)

_THAT = _table(
    r"error: (?:could not compile|aborting due|process didn't exit|script |Recipe )",  # cargo, just
    r"make(?:\[[0-9]+\])?: \*\*\* (?!No rule)",
    r"npm (?:ERR!|error) (?:code|errno|command|signal)",
    r"collect2: error",
    r"✖ [0-9]+ problem",  # eslint
    r"[<*]? ?HTTP/[0-9.]+ [45][0-9]{2}",
    r"\s+[0-9]+:[0-9]+\s+error\s",  # eslint
    r"\S+:[0-9]+:[0-9]+: [A-Z]+[0-9]+ ",  # ruff, flake8
)
_THAT_WORDS = ("FAILED", "FAILURE", "ERROR")
_EXITED = re.compile(r"\b(?:exit(?:ed)?|returned)\b.{0,30}\b(?:code|status):? [1-9]")


def weigh(line: str) -> tuple[Weight, bool]:
    """Return how much a line says about a failure, and whether it is a test's verdict.

    The words in a verdict are names and expectations of tests, so they are evidence for nothing but a failed test.
    """
    line = unprefixed(line)[:LOOKED_AT]
    low = line.lower()
    if _calm(line, low) or boilerplate(line):
        return NOTHING, False
    if _WARNS.match(line) or any(word in low for word in _WARNING_WORDS):
        return A_WORD, False
    if _VERDICT.match(line):
        return WHY, True
    if _VERDICT_THAT.match(line):
        return THAT, True
    return (THAT if _THAT.match(line) else _plain(line, low)), False


def _plain(line: str, low: str) -> Weight:
    """Weigh a line that is no warning, no verdict and no summary."""
    if _WHY.match(line) or any(word in line for word in _WHY_WORDS):
        return WHY
    if _PROGRAM.match(line) and any(word in line for word in _SAYS):
        return WHY
    says = any(word in line for word in _THAT_WORDS) or ("exit" in low and _EXITED.search(line))
    return THAT if says else A_WORD


def boilerplate(line: str) -> bool:
    """Whether a line stands under every failure of its runner."""
    return any(words in line for words in _BOILERPLATE)


def unprefixed(line: str) -> str:
    """Return a line without the times and numbers that runners put before it."""
    while line[:1] in "#[0123456789rs" and (found := _PREFIX.match(line)):
        line = line[found.end() :]
    return line


def _calm(line: str, low: str) -> bool:
    """Whether a line says that something went well, or only what is being done."""
    if _CALM.match(line) or (line.rstrip().endswith(_ENDS) and _CALM_END.search(line)):
        return True
    if "0" not in low and "no " not in low and "zero " not in low and "without " not in low:
        return False
    return bool(_NONE.search(low)) and not _SOME.search(low)
