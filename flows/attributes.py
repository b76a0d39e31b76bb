"""The keys of a prompt: front matter and step attributes as typed models.

One model says what a key is called, what it may hold, what it defaults to and what its JSON Schema looks like, so that
`check`, `schema` and the documentation cannot disagree. The models refuse what they do not know: a misspelt limit
would otherwise be no limit. The accepted cost: a key some other tool understands must be listed here to be let through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, LiteralString

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from workflowmaster.flows import durations
from workflowmaster.policies import parse_size

if TYPE_CHECKING:
    from collections.abc import Callable

ALIASES = {
    "requires": "needs",
    "depends-on": "needs",
    "depends_on": "needs",
    "dependencies": "needs",
    "timeout": "timeout-minutes",
    "policy": "security-policy",
    "container": "image",
    "retry": "retries",
    "on-error": "on-failure",
    "safe-outputs": "outputs",
}
"""Other tools' words for our keys, in front matter and steps alike."""

FOREIGN = frozenset(("model", "tools", "allowed-tools", "argument-hint", "agent", "max-turns", "mode"))
"""Keys of agents' own prompt files: kept as metadata, with a note."""

DESCRIPTIVE = frozenset(
    (
        "title",
        "author",
        "authors",
        "created_by",
        "created",
        "date",
        "version",
        "tags",
        "status",
        "issue_number",
        "issue",
    )
)
"""Keys that say something about the file and change nothing about a run: kept as metadata."""


def _coded(code: LiteralString, convert: Callable[[object], object]) -> Callable[[object], object]:
    """Return the conversion with its ValueError turned into an error that carries our code."""

    def validate(value: object) -> object:
        try:
            return convert(value)
        except ValueError as error:
            raise PydanticCustomError(code, "{said}", {"said": str(error)}) from None

    return validate


def _listed(value: object) -> object:
    """One word is a list of one; words with commas between them are a list."""
    if isinstance(value, str):
        return tuple(word.strip() for word in value.split(",") if word.strip())
    return tuple(value) if isinstance(value, list) else value


# The short form people write first; the mapping comes when they need more.
def _keyed(key: str) -> BeforeValidator:
    """Let a plain value stand for a mapping with one key: `retries: 3`."""
    return BeforeValidator(lambda value: value if isinstance(value, (dict, BaseModel)) else {key: value})


def _approval(value: object) -> object:
    words = {"required": True, "true": True, "false": False, "none": False}
    found = words.get(str(value).lower())
    if found is None:
        raise ValueError(f"{value!r} is no approval: write `required`")
    return found


_TIME = {"type": ["number", "string"], "examples": [10, "90s", "2h"]}
_DURATION = {"type": "string", "examples": ["30s", "5m", "2h"]}
_SIZE = {"type": ["integer", "string"], "examples": ["512m", "2g"]}
_LIST: dict[str, Any] = {"type": ["array", "string"], "items": {"type": "string"}}
_OPEN: dict[str, Any] = {"type": "object"}

Minutes = Annotated[float, BeforeValidator(_coded("WM302", durations.seconds_of_minutes)), WithJsonSchema(_TIME)]
Duration = Annotated[float, BeforeValidator(_coded("WM302", durations.seconds)), WithJsonSchema(_DURATION)]
Size = Annotated[int, BeforeValidator(_coded("WM303", parse_size)), Field(gt=0), WithJsonSchema(_SIZE)]
Cron = Annotated[str, BeforeValidator(_coded("WM317", durations.cron)), WithJsonSchema({"type": "string"})]
Words = Annotated[tuple[str, ...], BeforeValidator(_listed), WithJsonSchema(_LIST)]
Approval = Annotated[
    bool, BeforeValidator(_coded("WM304", _approval)), WithJsonSchema({"enum": ["required", True, False]})
]


def kebab(name: str) -> str:
    """Return a field's name as it is written in a prompt."""
    return name.rstrip("_").replace("_", "-")


class Keys(BaseModel):
    """Base of everything a prompt may say: frozen, kebab-case, and strict about unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=kebab, populate_by_name=False, defer_build=True
    )


class RetryKeys(Keys):
    """`retries`: how often and how patiently a failed step is tried again."""

    max: int | None = Field(default=None, ge=0, le=20)
    backoff: Literal["exponential", "linear", "fixed"] | None = None
    wait: Duration | None = None
    on: Annotated[
        tuple[Literal["transient", "oom", "timeout", "failure"], ...], BeforeValidator(_listed), WithJsonSchema(_LIST)
    ] = ()


class ResourceKeys(Keys):
    """`resources`: limits below the policy's."""

    memory: Size | None = None
    cpus: float | None = Field(default=None, gt=0)
    pids: int | None = Field(default=None, gt=0)
    disk: Size | None = None


class NetworkKeys(Keys):
    """`network`: hosts or ecosystem names; an empty mapping means none."""

    allowed: Words = ()
    blocked: Words = ()


class BudgetKeys(Keys):
    """`budget`: a hard stop for a workflow or a step."""

    minutes: float | None = Field(default=None, gt=0)
    attempts: int | None = Field(default=None, gt=0)
    container_minutes: float | None = Field(default=None, gt=0)
    usd: float | None = Field(default=None, ge=0)


class InputKeys(Keys):
    """One entry of the front matter's `inputs`."""

    type: Literal["string", "integer", "number", "boolean"] = "string"
    required: bool = False
    default: Any = None
    enum: tuple[Any, ...] = ()
    description: str = ""


class DecisionKeys(Keys):
    """`decisions`: how far failures are decided on without a person."""

    mode: Literal["autonomous", "assist", "off"] = "autonomous"
    escalate_to: Literal["issue", "comment", "pause"] | None = None


class OutputKeys(Keys):
    """One kind of GitHub write under the front matter's `outputs`."""

    max: int | None = Field(default=None, ge=0)
    title_prefix: str | None = None
    labels: Words = ()
    draft: bool | None = None
    base_branch: str | None = None
    allowed_branches: Words = ()
    max_patch_files: int | None = Field(default=None, gt=0)
    max_patch_size: Size | None = None
    protected_files: Words = ()
    reviewers: Words = ()
    assignees: Words = ()


Output = Annotated[OutputKeys | None, BeforeValidator(lambda value: {} if value is None or value is True else value)]


class OutputsKeys(Keys):
    """The front matter's `outputs`: what may be written to GitHub."""

    create_issue: Output = None
    create_pull_request: Output = None
    add_comment: Output = None
    add_labels: Output = None


class ScheduleKeys(Keys):
    """One schedule: cron's five fields, or an interval."""

    cron: Cron | None = None
    interval: Duration | None = None
    timezone: str | None = None


class TriggerKeys(Keys):
    """`on`: what starts the workflow besides a person."""

    schedule: Annotated[
        tuple[Annotated[ScheduleKeys, _keyed("cron")], ...],
        BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else (value,)),
    ] = ()
    workflow_dispatch: Any = Field(default=None, alias="workflow_dispatch")
    event: Annotated[Any, WithJsonSchema({"type": ["string", "object", "array"]})] = None
    after: Words = ()


class SecretKeys(Keys):
    """One entry of a step's `secrets`: a file in `/run/secrets`, and a variable if `env` says so."""

    name: str
    env: bool | str = False

    @property
    def variable(self) -> str:
        """The variable that is to hold it: its own name for `true`; empty for none."""
        # As it is spelt: the values of `secrets` are texts.
        word = str(self.env).lower()
        return "" if word == "false" else self.name if word == "true" else str(self.env)


class ConcurrencyKeys(Keys):
    """`concurrency`: one run of a group at a time."""

    group: str
    cancel_in_progress: bool = False


class CoachKeys(Keys):
    """`coach`: whether learned changes are applied."""

    apply: Literal["never", "suggest", "auto"] = "suggest"


class CommonKeys(Keys):
    """Keys of the front matter that a step may override."""

    text_keys: ClassVar[frozenset[str]]
    """Keys whose scalars are taken as they are spelt: `3.10` stays `3.10`."""

    name: str | None = None
    description: str = ""
    security_policy: str | None = None
    image: str | None = None
    env: dict[str, str] = {}
    network: (
        Annotated[
            NetworkKeys, BeforeValidator(lambda value: {"allowed": value} if isinstance(value, (list, str)) else value)
        ]
        | None
    ) = None
    resources: ResourceKeys | None = None
    timeout_minutes: Minutes | None = None
    retries: Annotated[RetryKeys, _keyed("max")] | None = None
    on_failure: Literal["retry", "skip", "abort", "escalate", "auto"] | None = None
    cache: bool | None = None
    budget: BudgetKeys | None = None


class FrontMatter(CommonKeys):
    """What may stand between the `---` lines."""

    text_keys = frozenset(
        (
            "name",
            "description",
            "security-policy",
            "image",
            "env",
            "secrets",
            "labels",
            "requires",
            "kept",
            "dropped",
            "on-failure",
        )
    )

    secrets: Words = ()
    labels: Words = ()
    metadata: dict[str, Any] = {}
    inputs: dict[str, Annotated[InputKeys, _keyed("default")]] = {}
    on: (
        Annotated[TriggerKeys, BeforeValidator(lambda value: value if isinstance(value, dict) else {str(value): {}})]
        | None
    ) = None
    max_parallel: int | None = Field(default=None, ge=1, le=256)
    decisions: Annotated[DecisionKeys, _keyed("mode")] | None = None
    outputs: OutputsKeys | None = None
    staged: bool | None = None
    concurrency: Annotated[ConcurrencyKeys, _keyed("group")] | None = None
    coach: Annotated[CoachKeys, _keyed("apply")] | None = None
    github: Annotated[dict[str, Any], WithJsonSchema(_OPEN)] | None = None
    kept: Words = ()
    dropped: Words = ()
    requires: Words = ()


class StepAttributes(CommonKeys):
    """What may stand as `- key: value` right below a step's heading."""

    text_keys = frozenset(
        (
            "name",
            "description",
            "security-policy",
            "image",
            "env",
            "secrets",
            "needs",
            "if",
            "matrix",
            "check",
            "reason",
            "outputs",
            "artifacts",
            "inputs",
            "on-failure",
            "idempotency",
            "uses",
            "priority",
            "on-retry",
        )
    )

    secrets: Annotated[
        tuple[Annotated[SecretKeys, _keyed("name")], ...],
        BeforeValidator(lambda value: (value,) if isinstance(value, dict) else _listed(value)),
    ] = ()
    needs: Words = ()
    if_: str = ""
    priority: Literal["high", "medium", "low"] | None = None
    outputs: Words = ()
    artifacts: Words = ()
    inputs: Words = ()
    matrix: Annotated[dict[str, Any], WithJsonSchema(_OPEN)] = {}
    check: str = ""
    continue_on_error: bool = False
    approval: Approval = False
    reason: str = ""
    checkpoint: bool = False
    on_retry: Literal["keep", "reset"] = "reset"
    idempotency: str = ""
    git: bool | None = None
    mandatory: bool | None = None
    uses: Literal["create-pull-request", "create-issue"] | None = None


def key_names(model: type[Keys]) -> tuple[str, ...]:
    """Return the keys a model accepts, as they are written, in the order of its fields."""
    return tuple(field.alias or name for name, field in model.model_fields.items())
