"""States constructed by hand: what runs of several shapes leave behind, without running them."""

from __future__ import annotations

import base64
import hashlib
import json
import lzma
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.blocks.receipt import Receipt
from workflowmaster.flows import checkpoints, folders, persisted, snapshots
from workflowmaster.flows.asking import Options
from workflowmaster.flows.checkpoints import Checkpoint
from workflowmaster.flows.folders import Folder
from workflowmaster.flows.journal import Journal
from workflowmaster.flows.journey import Record
from workflowmaster.flows.plan import (
    Criterion,
    Decision,
    Plan,
    PromptRef,
    Retries,
    Source,
    Step,
    StepResult,
    Work,
)
from workflowmaster.flows.state import WorkflowState, final_status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

START = 1_700_000_000.0
IMAGE = "workflowmaster/step:1"
IMAGE_ID = "sha256:" + "4f5c" * 16
COMMIT = "8d3f1c0e5b7a49d2c6f0e1a2b3c4d5e6f7a8b9c0"


def step(step_id: str, /, *needs: str, script: str = "", **fields: Any) -> Step:
    fields = {"kind": "command", "name": step_id, "image": IMAGE, "source": Source(line=7, end_line=12), **fields}
    words = {"command": ("bash", script or f"make {step_id}"), "agent": ("prompt", f"{fields['name']}.")}
    interpreter, text = words.get(fields["kind"], ("bash", ""))
    work = Work.model_validate({"interpreter": interpreter, "text": text, "line": 9}) if text else None
    return Step.model_validate({"id": step_id, "needs": needs, "work": work, **fields})


def plan(*steps: Step, **fields: Any) -> Plan:
    prompt = PromptRef(path="prompts/fix-parser.md", sha256="9b1d" * 16, kind="explicit")
    return Plan.model_validate(
        {"name": "Fix the parser", "prompt": prompt, "compiler": "2.0.0", "tasks": steps, **fields}
    )


def receipt(begin: float, seconds: float, **fields: Any) -> Receipt:
    """One container that got its go `begin` seconds after the workflow's start."""
    given: dict[str, Any] = {
        "container_id": "c0ffee" * 10,
        "image": IMAGE,
        "image_id": IMAGE_ID,
        "policy": "standard",
        "exit_code": 0,
        "queued_seconds": 0.0,
        "parked_seconds": min(begin, 0.4),
        "seconds": seconds,
        "cpu_seconds": seconds * 0.7,
        "peak_memory": 40 * 1024**2,
        "started_at": START + begin,
        "enforced": ("user", "capabilities", "network", "memory"),
        **fields,
    }
    return Receipt.model_validate(given)


def result(name: str, *receipts: Receipt, **fields: Any) -> StepResult:
    given: dict[str, Any] = {
        "step": name,
        "status": "completed",
        "key": "k",
        "receipts": receipts,
        "attempts": max(1, sum(r.purpose == "work" for r in receipts)),
        "seconds": sum(r.seconds for r in receipts),
        "exit_code": receipts[-1].exit_code if receipts else None,
        "started_at": receipts[0].started_at if receipts else START,
        "commit": COMMIT,
        **fields,
    }
    return StepResult.model_validate(given)


def state(of: Plan, results: Iterable[StepResult], **fields: Any) -> WorkflowState:
    found = {r.step: r for r in results}
    ends = [r.started_at + r.seconds - START for res in found.values() for r in res.receipts]
    given: dict[str, Any] = {
        "workflow_id": "task-20261122-140233-1f2e3d4c",
        "plan": of,
        "status": final_status(of.tasks, found),
        "images": {IMAGE: IMAGE_ID},
        "results": found,
        "base_commit": "1a2b3c4d" * 5,
        "branch": "workflowmaster/task-20261122-140233-1f2e3d4c",
        "commit": COMMIT,
        "workspace": "/home/ada/parser",
        "started_at": START,
        "seconds": max(ends, default=0.0) + 0.3,
        **fields,
    }
    return WorkflowState.model_validate(given)


def scheduled(steps: Iterable[Step], times: Mapping[str, float], slots: int = 3) -> list[StepResult]:
    """Run the steps on paper: each for its seconds, as soon as its needs ended and a slot is free."""
    free, ended, results = [0.2] * slots, {}, []
    for one in steps:
        ready = max([0.2, *(ended[n] for n in one.needs if n in ended)])
        slot = min(range(slots), key=free.__getitem__)
        begin = max(ready, free[slot]) + 0.05
        seconds = times.get(one.id, 1.0)
        ended[one.id] = free[slot] = begin + seconds
        results.append(result(one.id, receipt(begin, seconds, queued_seconds=begin - ready, policy=one.policy)))
    return results


def single() -> WorkflowState:
    return state(plan(step("hello", script="echo hello"), name="Say hello"), [result("hello", receipt(0.3, 0.12))])


def fan(width: int = 8) -> WorkflowState:
    branches = [step(f"test/{n}", "build", matrix={"n": str(n)}) for n in range(width)]
    steps = [step("build"), *branches, step("join", *(b.id for b in branches))]
    times = {"build": 2.1, "join": 1.2} | {b.id: 1.0 + (n * 7 % 5) * 0.55 for n, b in enumerate(branches)}
    return state(plan(*steps, name="Test on every version"), scheduled(steps, times, slots=4))


def failing() -> WorkflowState:
    """A step that failed three times, one that was retried with luck, one blocked, one reused, a decision each."""
    steps = [
        step("reproduce", script="python -m pytest tests/test_parser.py -q"),
        step(
            "fix", "reproduce", policy="development", retries=Retries(max=2), script="patch -p1 < fix.patch\nmake build"
        ),
        step("lint", "fix", mandatory=False, script="ruff check ."),
        step("tests", "fix", policy="testing", retries=Retries(max=2), script="python -m pytest -q\necho done"),
        step("docs", "fix"),
        step("release", "tests", "docs", name="Release notes"),
    ]
    oom = receipt(1.2, 2.0, exit_code=137, oom_killed=True, peak_memory=512 * 1024**2)
    fails = [receipt(4.8 + 4.2 * n, 2.4, exit_code=1, queued_seconds=0.2, policy="testing") for n in range(3)]
    results = [
        result("reproduce", receipt(0.2, 3.1), started_at=START - 500),
        result("fix", oom, receipt(3.4, 1.2, policy="development"), outputs={"version": "2.0.1", "files": "3"}),
        result(
            "lint", receipt(4.9, 0.6), receipt(5.6, 0.4, purpose="check"), findings=("left out: build/cache (60 MiB)",)
        ),
        result("tests", *fails, status="failed", reason="exit code 1 after 3 attempts", commit=""),
        result("docs", receipt(5.0, 3.3, queued_seconds=0.15)),
        result("release", status="blocked", reason="needs tests, which failed", seconds=0.0, started_at=0.0),
    ]
    decisions = (
        Decision(
            step="fix",
            verb="retry",
            reason="out of memory, and 2 retries are left",
            factors={"class": "oom", "attempt": 1, "progress": 0.17},
        ),
        Decision(
            step="tests",
            verb="retry",
            reason="failed, and retries are left",
            factors={"class": "failure", "attempt": 1},
        ),
        Decision(
            step="tests",
            verb="abort",
            reason="the same failure three times",
            factors={"class": "failure", "attempt": 3, "health": 0.8},
        ),
    )
    criteria = (
        Criterion(text="All tests pass", line=40, check="tests"),
        Criterion(text="Documentation describes the new syntax", line=41, check="docs"),
        Criterion(text="A maintainer is happy with the error message", line=42),
    )
    asked = plan(*steps, criteria=criteria, description="Nested brackets crash the parser; fix it and prove it.")
    return state(asked, results, decisions=decisions, reused=("reproduce",))


SKELETON = (
    ("1", "setup", "setup", ()),
    ("2", "issue_creation", "forge", ("1",)),
    ("3", "branch_management", "setup", ("2",)),
    ("4", "research_planning", "agent", ("3",)),
    ("5.1", "Read the old workflow and list its states", "agent", ("4",)),
    ("5.2", "Replace the shell calls by library calls", "agent", ("5.1",)),
    ("5.3", "Remove the dead configuration", "agent", ("5.1",)),
    ("5", "implementation", "agent", ("5.2", "5.3")),
    ("6", "testing", "command", ("5",)),
    ("7", "documentation", "agent", ("5",)),
    ("8", "pull_request", "forge", ("6", "7")),
    ("9", "code_review", "approval", ("8",)),
)


def prose() -> WorkflowState:
    """The nine-task skeleton with three steps of its prose, ended by a person's review that took two hours."""
    steps = [step(i, *needs, name=name, kind=kind) for i, name, kind, needs in SKELETON]
    times = {"4": 61.0, "5.1": 84.0, "5.2": 240.0, "5.3": 130.0, "5": 20.0, "6": 75.0, "7": 96.0}
    results = []
    for done in scheduled(steps, {"1": 0.1, "2": 0.4, "3": 0.3, "8": 0.8, "9": 7400.0} | times):
        of = next(s for s in steps if s.id == done.step)
        on_host = {"receipts": (), "started_at": done.receipts[0].started_at, "exit_code": None}
        results.append(done if of.kind in ("agent", "command") else done.model_copy(update=on_host))
    prompt = PromptRef(path="prompts/brittleness.md", sha256="4c7e" * 16, kind="prose")
    asked = plan(*steps, name="Fix the brittleness of the workflow engine", policy="development", prompt=prompt)
    ended = max(r.started_at + r.seconds for r in results) - START
    return state(asked, results, seconds=ended + 0.5, pull_request="https://github.com/ada/parser/pull/12")


def many(count: int = 300) -> WorkflowState:
    width = (count - 20) // 4
    steps = [step("prepare")]
    for stage in ("unit", "build", "scan", "e2e"):
        before = [s.id for s in steps[-20:]]
        steps += [step(f"{stage}/{n}", before[n % len(before)]) for n in range(width)]
    steps += [step(f"report-{n}", *(s.id for s in steps[-width:])) for n in range(count - len(steps))]
    times = {s.id: 0.4 + (n * 37 % 23) / 8 for n, s in enumerate(steps)}
    results = scheduled(steps, times, slots=12)
    bad = results[133]
    broken = bad.receipts[0].model_copy(update={"exit_code": 2})
    results[133] = bad.model_copy(update={"status": "failed", "reason": "exit code 2", "receipts": (broken,)})
    return state(plan(*steps, name=f"{count} steps", max_parallel=12), results)


HOSTILE = (
    "<script>alert(1)</script>",
    "</style></title><img src=x onerror=alert(1)>",
    "]]><svg onload=alert(1)>",
    '"><a href="javascript:alert(1)">x</a>',
    "' onmouseover='alert(1)",
    "[x](javascript:alert(1)) ![y](https://evil.example/p.png)",
    "```\n# heading\n| a | b |\n| - | - |",
    "@everyone Fixes #1 <!-- workflowmaster:issue:1 -->",
    "\x1b[31mred\x1b[0m\x1b]0;title\x07 \x00\x08\x1f",
    "\u202egnp.exe\u200b\ufffe",
)
"""One text for each way out of the places where text of strangers is shown."""


def hostile() -> WorkflowState:
    """A run in which every text that a prompt, a repository or a container can choose is an attack."""
    bad = " ".join(HOSTILE)
    steps = [
        step(f"{n}{text}", name=text, script=text, description=text, condition=text, policy_reason=text, policy=text)
        for n, text in enumerate(HOSTILE)
    ]
    steps.append(step(bad, *(s.id for s in steps), kind="setup"))
    ran = [
        receipt(n, 1.0, exit_code=1, policy=bad, user=bad, refused=bad, enforced=(bad,)) for n in range(len(HOSTILE))
    ]
    results = [
        result(s.id, r, status="failed", reason=s.name, outputs={s.name: s.name}, findings=(s.name,), commit=s.name)
        for s, r in zip(steps, ran, strict=False)
    ]
    asked = plan(
        *steps,
        name=bad,
        description=bad,
        context=bad,
        policy=bad,
        criteria=[Criterion(text=text, line=1, check=steps[0].id) for text in HOSTILE],
        prompt=PromptRef(path=bad + "\udcff", sha256=bad, kind="explicit"),
    )
    told = dict.fromkeys(("workflow_id", "flow_run_id", "reason", "workspace", "branch", "commit", "base_commit"), bad)
    told |= {"pull_request": "javascript:alert(1)", "issue": bad, "report": bad, "audit_log": bad}
    decisions = [Decision(step=bad, verb="retry", reason=bad, factors={bad: bad})]
    return state(asked, results, decisions=decisions, images={bad: bad}, **told)


def hostile_logs() -> dict[str, str]:
    return {f"{n}{text}": f"{text}\nError: {text} \udcff\n" for n, text in enumerate(HOSTILE)}


SHAPES: dict[str, Callable[[], WorkflowState]] = {
    "single": single,
    "fan": fan,
    "failing": failing,
    "prose": prose,
    "many": many,
}


@pytest.fixture(params=sorted(SHAPES))
def shape(request: pytest.FixtureRequest) -> WorkflowState:
    """Each of the constructed states in turn."""
    made: WorkflowState = SHAPES[request.param]()
    return made


@pytest.fixture
def failed_state() -> WorkflowState:
    return failing()


@pytest.fixture(scope="session")
def shapes() -> dict[str, Callable[[], WorkflowState]]:
    return SHAPES


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """The factories, for tests that need a state of their own."""
    return SimpleNamespace(
        step=step,
        plan=plan,
        receipt=receipt,
        result=result,
        state=state,
        scheduled=scheduled,
        start=START,
        hostile=hostile,
        hostile_logs=hostile_logs,
        attacks=HOSTILE,
        persist=persist,
    )


@dataclass
class KeptRun:
    """A workflow as a run writes it down: plan, record, journal, persisted results, snapshots."""

    folder: Folder
    plan: Plan
    records: Journal
    settled: dict[str, StepResult] = field(default_factory=dict)

    @property
    def results(self) -> Path:
        return self.folder.path.parent.parent / "results"

    def begin(self) -> None:
        known = {"flow_run_id": "f1", "started_at": START, "base_commit": COMMIT, "workspace": "/w", "images": {}}
        record = folders.kept(self.folder.record, Record).model_dump(mode="json")
        fields = {**known, "plan_hash": self.plan.workflow_hash, "audit_log": "", "record": record}
        self.records.append("begun", **fields)

    def settle(self, name: str, status: str = "completed", *, reused: bool = False, generation: int = 0) -> StepResult:
        key = f"{self.folder.id}-{hashlib.sha256(f'{name}{generation}'.encode()).hexdigest()}"
        made = result(name, key=key, status=status, commit="", workflow=self.folder.id)
        self.records.append("keys", step=name, key=key, parts={})
        if status == "completed":
            persist(self.results / key, made)
        self.records.append("result", step=name, reused=reused, result=made.model_dump(mode="json"))
        self.settled[name] = made
        return made

    def close(self, status: str) -> None:
        last = self.folder.state().model_copy(
            update={"status": status, "branch": "b", "commit": COMMIT, "seconds": 9.0}
        )
        self.records.append("closed", **snapshots.closing(last))

    def snapshot(self) -> None:
        snapshots.write(self.folder, self.folder.state())

    def checkpoint(self, number: int, name: str = "end") -> Path:
        raw = folders.kept(self.folder.record, Record).model_dump(mode="json")
        now = self.folder.state()
        made = Checkpoint(number=number, name=name, step="", made_at=START, record=raw, state=now)
        return checkpoints.write(self.folder, made)

    def files(self) -> dict[str, Path]:
        """Every file of it that can be damaged, by a name."""
        own = {path.name: path for path in self.folder.path.iterdir() if path.is_file() and "audit" not in path.name}
        own |= {path.name: path for path in checkpoints.files(self.folder).values()}
        return own | {
            f"result {name}": self.results / made.key for name, made in self.settled.items() if self.has(made)
        }

    def has(self, made: StepResult) -> bool:
        return made.status == "completed"


def persist(path: Path, made: StepResult, **changes: Any) -> None:
    """Write a result as Prefect 3.8 writes it; `test_persisted` holds that it does."""
    data = json.dumps({"__class__": persisted.OURS, "data": made.model_dump(mode="json") | changes}).encode()
    serializer = {"type": "compressed/json", "serializer": {"type": "json"}, "compressionlib": "lzma"}
    outer = {"metadata": {"storage_key": str(path), "serializer": serializer, "prefect_version": "3.8.8"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**outer, "result": base64.encodebytes(lzma.compress(data)).decode()}))


def kept_run(*steps: Step, workflow: str = "task-kept") -> KeptRun:
    ref = PromptRef(path="p.md", sha256=hashlib.sha256(b"# p").hexdigest(), kind="explicit")
    asked = plan(*(steps or (step("a"), step("b", "a"), step("c", "b"))), prompt=ref)
    folder = folders.create(workflow)
    options = Options(prompt="p.md", workspace="/w")
    named = {"workflow_id": workflow, "workflow_hash": asked.workflow_hash, "images": {}}
    folder.prompt.write_bytes(b"# p")
    folder.plan_file.write_text(asked.model_dump_json())
    folders.keep(folder.record, Record(options=options, **named))
    (folder.path / "store.git").mkdir()
    return KeptRun(folder, asked, Journal(folder.journal))


@pytest.fixture
def run_of(home: Path, shapes: Any) -> Callable[..., KeptRun]:
    """Make a workflow of these steps, prepared and not begun."""
    return kept_run


@pytest.fixture
def halfway(home: Path) -> KeptRun:
    """A workflow of three steps: one completed, one failed, one blocked; with a snapshot and two checkpoints."""
    made = kept_run()
    made.begin()
    made.settle("a")
    made.checkpoint(1, "a")
    made.settle("b", "failed")
    made.settle("c", "blocked")
    made.close("partial")
    made.snapshot()
    made.checkpoint(2)
    return made
