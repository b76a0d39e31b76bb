"""From a written step to the plan's steps: defaults filled in, values checked, one for each matrix instance."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from workflowmaster.blocks.globs import is_glob
from workflowmaster.flows.limits import check_environment, check_image, resources, step_policy, timeout
from workflowmaster.flows.naming import RESERVED_ENV, instance_id, is_env_name, is_value_name, variable
from workflowmaster.flows.placeholders import Values, fill, is_open, refuse_elsewhere
from workflowmaster.flows.plan import Kind, Phase, Retries, Step
from workflowmaster.flows.reachable import reachable
from workflowmaster.flows.secretnames import secret_names, secret_variables

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from workflowmaster.flows.attributes import StepAttributes
    from workflowmaster.flows.context import Context
    from workflowmaster.flows.diagnostics import Place, Report
    from workflowmaster.flows.explicit import Draft
    from workflowmaster.flows.validation import Read
    from workflowmaster.policies import SecurityPolicy

_HOST_KINDS: frozenset[Kind] = frozenset(("setup", "forge", "approval"))
_FORGE_PHASES: Mapping[str | None, Phase] = {
    "create-pull-request": "pull_request_creation",
    "create-issue": "issue_creation",
}
# Only what can be told without an engine; whether the image exists is found out before a run.
_IMAGE = re.compile(r"[a-z0-9][\w.:/-]*(@sha256:[0-9a-f]{64})?", re.IGNORECASE)


def steps_of(draft: Draft, values: Sequence[Mapping[str, str]], context: Context) -> list[Step]:
    """Return the plan's steps for a written one, without their needs. Reports values that cannot be used."""
    refuse_elsewhere(draft.read.located, context.report)
    whole = _whole(draft, context)
    return [_instance(whole, draft, dict(one), context) for one in values]


def shared_outputs(drafts: Iterable[Draft], report: Report) -> None:
    """Report outputs of different steps that would be one environment variable."""
    owners: dict[str, tuple[str, str]] = {}
    for draft in drafts:
        for name in draft.read.keys.outputs:
            spelling = variable("STEP", draft.id, name)
            first = owners.setdefault(spelling, (draft.id, name))
            if first != (draft.id, name):
                said = f"output {name!r} and {first[1]!r} of step {first[0]!r} are one environment variable, {spelling}"
                report.add("WM211", said, draft.read.at("outputs"), help="rename one of them")


def _whole(draft: Draft, context: Context) -> Step:
    keys, read = draft.read.keys, draft.read
    policy, reason = step_policy(read, context.standing, context.report)
    granted = context.standing.policy(policy)
    hosted = draft.kind in _HOST_KINDS
    if not hosted:
        admit_variables(read, granted, context)
    return Step(
        id=draft.id,
        name=draft.name,
        kind=draft.kind,
        phase=_FORGE_PHASES.get(keys.uses, "implementation"),
        description=keys.description,
        priority=keys.priority or "medium",
        mandatory=True if keys.mandatory is None else keys.mandatory,
        policy=policy,
        policy_reason=reason,
        image="" if hosted else keys.image or context.front.keys.image or context.options.default_image,
        work=draft.work,
        check=draft.check,
        env=environment(read, context),
        secrets=secret_names(read, context, hosted=hosted),
        secret_env=secret_variables(read, context, granted),
        inputs=_files(read, "inputs", context.report),
        outputs=_outputs(read, context.report),
        artifacts=_files(read, "artifacts", context.report),
        condition=keys.if_,
        timeout_seconds=timeout(read, draft.kind, granted, context),
        retries=retries(read, context),
        on_failure=keys.on_failure or context.front.keys.on_failure or "auto",
        continue_on_error=keys.continue_on_error,
        approval=keys.approval,
        cache=next((given for given in (keys.cache, context.front.keys.cache) if given is not None), False),
        resources=resources(read, granted, context),
        network=reachable(read, granted, context),
        checkpoint=keys.checkpoint,
        git=draft.kind == "agent" if keys.git is None else keys.git,
        on_retry=keys.on_retry,
        idempotency=keys.idempotency,
        budget=keys.budget.model_dump(by_alias=True, exclude_none=True) if keys.budget else {},
        metadata=read.metadata,
        source=draft.source,
    )


def _instance(whole: Step, draft: Draft, matrix: dict[str, str], context: Context) -> Step:
    changed: dict[str, Any] = {}
    if matrix:
        changed = {"id": instance_id(whole.id, matrix), "matrix": matrix}
        # A name with a placeholder already tells the instances apart.
        if "{{" not in whole.name:
            changed["name"] = f"{whole.name} ({', '.join(matrix.values())})"
    values = Values(_input_values(context), matrix)
    for key, text in (("image", whole.image), ("name", whole.name), ("description", whole.description)):
        if "{{" in text:
            changed[key] = fill(text, values, draft.read.at(key), context.report)
    if any("{{" in text for text in whole.env.values()):
        changed["env"] = {
            name: fill(text, values, draft.read.at("env", name), context.report) for name, text in whole.env.items()
        }
    image = changed.get("image", whole.image)
    if image and not is_open(image) and not _IMAGE.fullmatch(image):
        place = draft.read.at("image") if draft.read.given("image") else context.front.at("image")
        context.report.add("WM322", f"{image!r} is no image reference", place, help="write name:tag or name@sha256:…")
    elif image and not is_open(image):
        granted = context.standing.policy(whole.policy)
        check_image(image, granted, image_place(draft.read, context), context.report)
    # Copies are not validated again: a thousand instances differ in four fields that were checked here.
    return whole.model_copy(update=changed) if changed else whole


def _input_values(context: Context) -> dict[str, str | None]:
    return {spec.name: context.values.get(spec.name) for spec in context.inputs}


def retries(read: Read[StepAttributes], context: Context) -> Retries:
    """Return how a step is retried: its own words, then the file's; where neither says, it is decided on.

    Nothing said, and `on-failure: retry`, bring the operator's number, which is also the most any step gets. But only
    what somebody has written is done for the asking; otherwise a failure must be worth another attempt.
    """
    own, inherited = read.keys.retries, context.front.keys.retries
    on_failure = read.keys.on_failure or context.front.keys.on_failure
    if not own and not inherited:
        return _plain_retries(context.options.max_retries, context.options.backoff, on_failure != "retry")
    given = [one for one in (own, inherited) if one]
    most = context.options.max_retries
    count = next((one.max for one in given if one.max is not None), most)
    if count > most:
        place = read.at("retries", "max") if own and own.max is not None else context.front.at("retries", "max")
        said = f"{count} retries are more than the operator's {most}, so {most} it is"
        context.report.add("WM319", said, place, severity="note", help="raise `max_retry_attempts` in the settings")
    return Retries(
        max=min(count, most),
        backoff=next((one.backoff for one in given if one.backoff), context.options.backoff),
        wait_seconds=next((one.wait for one in given if one.wait is not None), Retries().wait_seconds),
        on=next((one.on for one in given if one.on), ()),
    )


@cache
def _plain_retries(count: int, backoff: Any, automatic: bool) -> Retries:
    return Retries(max=count, backoff=backoff, automatic=automatic)


def image_place(read: Read[StepAttributes], context: Context) -> Place:
    """Return where a step's image is written; where the operator's is taken, what it stands against: the policy."""
    for one in (read, context.front):
        if one.given("image"):
            return one.at("image")
    return read.at("security-policy") if read.given("security-policy") else context.front.at("security-policy")


def environment(read: Read[StepAttributes], context: Context) -> dict[str, str]:
    """Return the variables of a step: the file's, then its own. Reports names that cannot be variables."""
    places = (context.front.located, read.located)
    for keys, located in zip((context.front.keys, read.keys), places, strict=True):
        for name in keys.env:
            _environment_name(name, located.key("env", name), context.report)
    return {**context.front.keys.env, **read.keys.env}


def admit_variables(read: Read[StepAttributes], policy: SecurityPolicy, context: Context) -> None:
    """Report the variables of a step, the file's and its own, that its policy does not let through."""
    for one in (context.front, read):
        written = [(name, one.located.key("env", name)) for name in one.keys.env]
        check_environment(written, policy, context.report)


def _environment_name(name: str, place: Place, report: Report) -> None:
    if not is_env_name(name):
        advice = "letters, digits and `_`, and no digit first"
        report.add("WM306", f"{name!r} cannot name an environment variable", place, help=advice)
    elif name.upper().startswith(RESERVED_ENV):
        said = f"{name!r}: variables that begin with {', '.join(RESERVED_ENV)} are ours"
        report.add("WM307", said, place, help="choose another name")


def _files(read: Read[StepAttributes], key: Literal["inputs", "artifacts"], report: Report) -> tuple[str, ...]:
    """Return the globs of files that a step names, each checked to stay inside and to be one."""
    top = {"inputs": "the workspace", "artifacts": "/out/artifacts"}[key]
    globs: tuple[str, ...] = getattr(read.keys, key)
    for index, glob in enumerate(globs):
        if glob.startswith(("/", "~")) or ".." in glob.split("/"):
            report.add("WM320", f"{glob!r} lies outside {top}", read.at(key, index), help=f"write a path below {top}")
        elif not is_glob(glob):
            said = f"{glob!r} is no glob: a bracket or a backslash is open"
            report.add("WM320", said, read.at(key, index), help="close it, or put a backslash before it")
    return globs


def _outputs(read: Read[StepAttributes], report: Report) -> tuple[str, ...]:
    for index, name in enumerate(read.keys.outputs):
        if not is_value_name(name):
            said = f"{name!r} cannot name an output"
            report.add("WM318", said, read.at("outputs", index), help="a word of letters, digits, `_` and `-`")
    return read.keys.outputs
