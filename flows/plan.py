"""The nouns of the journey: what a prompt compiles to, and what a step leaves behind.

Everything here is a frozen value. A `Plan` is a function of the prompt's bytes, the compile options and the
compiler's version, so its JSON is byte-identical for equal input and its hash can name a workflow. That is why no
clock, path of this machine or image id may enter it: `run` pins image references to ids in its own record.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from workflowmaster.blocks.artifacts import Artifact
from workflowmaster.blocks.receipt import Receipt

SCHEMA = "workflowmaster/plan/1"
"""Version of the plan's JSON. A reader refuses a plan with another one."""

Kind = Literal["setup", "command", "agent", "forge", "approval", "check"]
Priority = Literal["high", "medium", "low"]
Phase = Literal[
    "initialization",
    "issue_creation",
    "branch_management",
    "research_planning",
    "implementation",
    "testing",
    "documentation",
    "pull_request_creation",
    "review",
]
Interpreter = Literal["bash", "sh", "python", "prompt"]
FailureClass = Literal[
    "network",
    "rate_limit",
    "out_of_memory",
    "timeout",
    "disk",
    "permission",
    "missing_resource",
    "dependency_not_found",
    "test_failure",
    "code_error",
    "merge_conflict",
    "policy_refused",
    "sandbox_unavailable",
    "agent_gave_up",
    "unknown",
]
"""What went wrong, as far as it matters for what to do about it. `code_error` is a syntax or type error."""
StepStatus = Literal["pending", "in_progress", "completed", "failed", "skipped", "blocked", "waiting"]
WorkflowStatus = Literal["running", "completed", "partial", "failed", "aborted", "waiting", "paused"]


class Noun(BaseModel):
    """Base of every persisted value: frozen, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(Noun):
    """Where in the prompt something was written. Lines count from 1."""

    line: int
    end_line: int
    section: str = ""
    """Heading of the section it came from, as written."""


class Work(Noun):
    """What a step does: a script for an interpreter, or a prompt for an agent."""

    interpreter: Interpreter
    text: str
    line: int
    """Line of the first line of `text` in the prompt file."""


class Retries(Noun):
    """How often and how patiently a failed step is tried again."""

    max: int = Field(default=0, ge=0, le=20)
    """Retries after the first attempt."""
    backoff: Literal["exponential", "linear", "fixed"] = "exponential"
    wait_seconds: float = Field(default=2.0, ge=0)
    """Delay before the first retry, in seconds."""
    on: tuple[Literal["transient", "oom", "timeout", "failure"], ...] = ()
    """Failure classes that are retried; empty means all of them."""
    automatic: bool = False
    """Nobody said how often: `max` is the operator's number, and only what is worth it is tried again."""


class Resources(Noun):
    """Limits asked for by a step. They can only lower what its policy grants."""

    memory: int | None = None
    """Bytes."""
    cpus: float | None = None
    pids: int | None = None
    disk: int | None = None
    """Bytes a writable workspace may grow by."""


class Network(Noun):
    """Hosts a step may reach, as written: ecosystem names or host names. Empty means none."""

    allowed: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()


class InputSpec(Noun):
    """A typed input of the workflow: a flow parameter, and `INPUT_<NAME>` in every step."""

    name: str
    type: Literal["string", "integer", "number", "boolean"] = "string"
    required: bool = False
    default: str | int | float | bool | None = None
    enum: tuple[str | int | float, ...] = ()
    description: str = ""


class Criterion(Noun):
    """One line of a prompt's success criteria."""

    text: str
    line: int
    check: str = ""
    """Id of the task that proves it, or empty where a person or an agent must judge."""


class Reference(Noun):
    """Something outside the prompt that it mentions: an issue, a pull request, a file or another prompt."""

    kind: Literal["issue", "pull_request", "branch", "file", "prompt", "url"]
    value: str
    line: int


class Step(Noun):
    """One task of the plan. The guide's `TaskInfo` is a view of it."""

    id: str
    """Unique in the plan; children are `5.1`, matrix instances `tests/3.11`."""
    name: str
    kind: Kind
    phase: Phase = "implementation"
    description: str = ""
    needs: tuple[str, ...] = ()
    priority: Priority = "medium"
    mandatory: bool = True
    """A workflow is not completed while a mandatory step is not."""
    policy: str = "standard"
    policy_reason: str = ""
    """Why a step may run under a looser policy than its file's; audited."""
    image: str = ""
    """Image reference; empty for steps that run on the host."""
    work: Work | None = None
    check: Work | None = None
    """Run after `work` in a container of its own, on its tree; it must exit 0 for the step to count as completed."""
    env: dict[str, str] = {}
    secrets: tuple[str, ...] = ()
    """Names only; each is a file in `/run/secrets`."""
    secret_env: dict[str, str] = {}
    """Variable → name of the secret that it holds too."""
    inputs: tuple[str, ...] = ()
    """Files (globs, relative to the workspace) that a step without a workspace is given."""
    outputs: tuple[str, ...] = ()
    """Names the step must write to `$WM_OUTPUT`; one that is missing fails the step."""
    artifacts: tuple[str, ...] = ()
    """Globs below `/out/artifacts` that the step must leave files for; empty takes whatever is there."""
    matrix: dict[str, str] = {}
    """This instance's values; in the container as `MATRIX_<NAME>`."""
    condition: str = ""
    """The step's `if`, as written; see `conditions.py`."""
    timeout_seconds: float = 300.0
    retries: Retries = Retries()
    on_failure: Literal["retry", "skip", "abort", "escalate", "auto"] = "auto"
    continue_on_error: bool = False
    approval: bool = False
    cache: bool = False
    """Reuse the result of an equal step of an earlier workflow, not only of this one."""
    resources: Resources = Resources()
    network: Network | None = None
    estimated_minutes: float = 1.0
    checkpoint: bool = False
    children: tuple[str, ...] = ()
    """Ids of the steps found in the prose that this skeleton task stands for."""
    details: tuple[str, ...] = ()
    """Nested bullets of the prose step: acceptance details, handed to the agent."""
    git: bool = False
    """The step sees a throw-away one-commit repository of its workspace."""
    on_retry: Literal["reset", "keep"] = "reset"
    idempotency: str = ""
    """Key under which the step's outside effects happen at most once, as written."""
    budget: dict[str, float] = {}
    """Hard stop of this step: `minutes`, `attempts`, `container-minutes`, `usd`."""
    metadata: dict[str, Any] = {}
    """Keys of agents' own prompt files (`model`, `tools` …), kept as written."""
    source: Source

    @property
    def in_container(self) -> bool:
        """Whether the step's own work runs in the sandbox rather than on the host."""
        return self.work is not None and self.kind in ("command", "agent", "check")


class PromptRef(Noun):
    """Which prompt a plan was made from."""

    path: str
    """As given on the command line; shown, and not part of the hash."""
    sha256: str
    kind: Literal["explicit", "prose"]


class Plan(Noun):
    """A compiled prompt: tasks in a fixed topological order, and everything that can change the outcome."""

    name: str
    description: str = ""
    prompt: PromptRef
    compiler: str
    """Version of the compiler that made it."""
    policy: str = "standard"
    """The workflow's policy; a step runs under the stricter of this and its own."""
    max_parallel: int = 3
    inputs: tuple[InputSpec, ...] = ()
    input_values: dict[str, str] = {}
    """Value of each input that has one, as the text a step sees in `INPUT_<NAME>`."""
    labels: tuple[str, ...] = ()
    tasks: tuple[Step, ...]
    criteria: tuple[Criterion, ...] = ()
    references: tuple[Reference, ...] = ()
    resume_phase: str = ""
    """Phase at which a prompt that continues earlier work starts; earlier skeleton tasks only look things up."""
    context: str = ""
    """Prose that belongs to every agent step: problem, requirements, design, notes."""
    metadata: dict[str, Any] = {}
    """Front-matter keys that do not change a run, kept as written."""
    front: dict[str, Any] = {}
    """Validated front-matter keys that other parts read: `on`, `concurrency`, `outputs`, `budget`, `decisions` …"""

    @property
    def workflow_hash(self) -> str:
        """SHA-256 (hex) over everything but the prompt's path and what is as by default.

        A later version has fields that a kept plan has not, and must not take it for a damaged one.
        """
        body = self.model_dump(mode="json", exclude={"prompt": {"path"}}, exclude_defaults=True)
        return hashlib.sha256(canonical(body)).hexdigest()

    def step(self, step_id: str) -> Step:
        """Return the step of that id; KeyError if there is none."""
        return next(s for s in self.tasks if s.id == step_id) if step_id in self.ids else _missing(step_id)

    @property
    def ids(self) -> frozenset[str]:
        """Ids of all tasks."""
        return frozenset(s.id for s in self.tasks)


class StepResult(Noun):
    """What one finished step left behind; persisted by Prefect, and the truth for a resume."""

    schema_version: Literal[1] = 1
    step: str
    status: StepStatus
    workflow: str = ""
    """Workflow that did the work; with `cache: true` it may be another one, and its commit lies in that one's store."""
    key: str
    """Result key: workflow id and the hash of all that can change the outcome."""
    attempts: int = 1
    exit_code: int | None = None
    seconds: float = 0.0
    reason: str = ""
    """Why it ended this way, in one line; empty when it simply completed."""
    input_commit: str = ""
    commit: str = ""
    """Commit in the private store whose tree is the step's output."""
    outputs: dict[str, str] = {}
    receipts: tuple[Receipt, ...] = ()
    """One for each container that ran, checks included, in order."""
    artifacts: tuple[Artifact, ...] = ()
    """Files it handed out; they lie in `artifacts/<step>/` of the folder of `workflow`."""
    findings: tuple[str, ...] = ()
    """What was left out of or refused from the workspace and the artifacts, one line each."""
    log: str = ""
    """Path of the raw log, relative to the workflow's folder."""
    started_at: float = 0.0
    """Unix time, seconds."""
    epoch: int = 0
    """Epoch of the claim under which it was made; 0 where there was no Prefect server to count them."""
    waived: bool = False
    """A rule of ours, and not its prompt, gave it up although the workflow is not complete without it."""


class Failure(Noun):
    """What went wrong in one attempt."""

    cls: FailureClass
    fingerprint: str
    """16 hex digits; equal for failures that differ only in paths, numbers, hashes and times."""
    lines: tuple[str, ...] = ()
    """The decisive lines of its output, secrets masked."""
    confidence: float = 1.0
    """Of the class, in [0, 1]."""
    source: str = ""
    """What said so: `receipt:oom`, `rule:dns`, `model:3`."""
    retry_after: float | None = None
    """Seconds that whoever refused asked to be left alone, where it said so."""
    advice: str = ""
    """What a person can do about it, in one sentence, where the rule that said so knows."""


class Limits(Noun):
    """What an attempt gets where it is more than its step was given at first."""

    memory: int | None = None
    """Bytes."""
    seconds: float | None = None
    """Wall time."""


class Decision(Noun):
    """What is to be done about a failure, and why."""

    step: str
    verb: Literal["continue", "retry", "skip", "abort", "escalate"]
    reason: str
    """The rule's name, a colon, and a sentence."""
    factors: dict[str, Any] = {}
    """Everything it was decided by, as plain JSON."""
    rule: str = ""
    failure: Failure | None = None
    wait_seconds: float = 0.0
    """Before the next attempt."""
    limits: Limits | None = None
    """Of the next attempt, where they grow."""
    attempt: int = 0
    """The attempt that failed, counted over all parts of the run."""
    at: float = 0.0
    """Unix time, seconds."""


class Account(Noun):
    """What a run may use and has used, by `minutes`, `attempts`, `container-minutes` and `usd`; see `budgets.py`."""

    limit: dict[str, int | float] = {}
    """Of the run, and as `STEP:minutes` of a step; what is not named is not limited."""
    spent: dict[str, int | float] = {}
    """In all parts of the run together, by the same names."""
    over: tuple[str, ...] = ()
    """Limits that are reached: `minutes`, or `STEP:minutes` for a step's own."""


def canonical(value: Any) -> bytes:
    """Return the one JSON spelling of a value: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _missing(step_id: str) -> Step:
    raise KeyError(step_id)
