"""From a secret's name to its value, and what may be done with the value: nothing but handing it out and masking it.

A value comes from this process's environment or from a Prefect Secret block, in that order: a variable is the
operator's word for one run and costs nothing, a block needs the server. Both are looked up before anything starts, so
that a secret that is missing is an error of the prompt's line and not of a step an hour later. Values live in this
object alone, whose text shows names only; no parameter, record, result or key of a result ever has one. The accepted
cost: a value that is changed while a run is under way counts from the next run or resume on.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from workflowmaster.blocks.forms import LEAST, lines_of
from workflowmaster.blocks.handout import LARGEST, NOTHING, Handout
from workflowmaster.blocks.masking import Masker
from workflowmaster.blocks.screening import Screen
from workflowmaster.flows import serving
from workflowmaster.flows.diagnostics import Diagnostic, PromptError
from workflowmaster.flows.naming import variable
from workflowmaster.flows.settings import PREFIX, SECRETS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from workflowmaster.blocks.masking import Masking
    from workflowmaster.flows.plan import Plan, Step


@dataclass(frozen=True)
class Secrets:
    """The secrets of one run."""

    values: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        return f"Secrets({sorted(self.values)})"

    @cached_property
    def masker(self) -> Masker | None:
        """Masks all of them; None where there are none, which costs nothing."""
        return Masker(self.values) if self.values else None

    def stream(self) -> Masking | None:
        """Begin to mask one container's output. All secrets of the run, not only those that it was given."""
        return self.masker.stream() if self.masker else None

    def text(self, text: str) -> str:
        """Mask a text that may repeat what a step said: a reason, a finding, the name of a file or host."""
        return self.masker.text(text) if self.masker else text

    def label(self, text: str) -> str:
        """Mask a word that a step chose and others have cut or put into small letters: a host, a request's method."""
        word = text.lower().encode(errors="surrogateescape")
        for value in map(bytes.lower, self.values.values()):
            if value in word or (len(word) >= LEAST and word in value):
                return "***"
        return self.text(text)

    def screen(self, step: Step) -> Screen | None:
        """Return what looks for secrets in a step's files; None for a step that is given none."""
        return Screen(self.masker) if step.secrets and self.masker else None

    def handout(self, step: Step) -> Handout:
        """Return what a step's containers are given."""
        if not step.secrets:
            return NOTHING
        return Handout(
            {name: self.values[name] for name in step.secrets},
            {name: self.values[secret] for name, secret in step.secret_env.items()},
        )


def variable_of(name: str) -> str:
    """Return the environment variable that a secret is taken from: `WORKFLOWMASTER_SECRET_PYPI_TOKEN`."""
    return PREFIX + variable(SECRETS, name)


def block_of(name: str) -> str:
    """Return the name of a secret's Prefect block, which may hold lower-case letters, digits and dashes only."""
    return name.lower().replace("_", "-")


def resolve(plan: Plan) -> Secrets:
    """Find the value of every secret that the plan's containers are given.

    PromptError, with a diagnostic for each, names those that are nowhere or cannot be handed out or masked.
    SandboxUnavailable if a block is needed and the Prefect server does not answer.
    """
    asking = {name: step for step in reversed(plan.tasks) if step.in_container for name in step.secrets}
    if not asking:
        return Secrets()
    found = {name: os.environb[os.fsencode(variable_of(name))] for name in asking if variable_of(name) in os.environ}
    missing = sorted(set(asking) - set(found))
    if missing and serving.api_url():
        found |= _from_blocks(missing)
    faults = [fault for name in sorted(asking) if (fault := _fault(plan, asking[name], name, found.get(name)))]
    if faults:
        raise PromptError(*faults)
    return Secrets(found)


def _from_blocks(names: Iterable[str]) -> dict[str, bytes]:
    """Read Secret blocks of the server in use, leaving out those that it has not."""
    serving.ready()
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    found: dict[str, bytes] = {}
    with serving.trouble(), get_client(sync_client=True) as client:
        for name in names:
            try:
                block = client.read_block_document_by_name(block_of(name), "secret", include_secrets=True)
            except ObjectNotFound:
                continue
            value = block.data.get("value")
            # A block may hold any JSON; a step is given its text.
            found[name] = (value if isinstance(value, str) else json.dumps(value)).encode()
    return found


def _fault(plan: Plan, step: Step, name: str, value: bytes | None) -> Diagnostic | None:
    """Return why a secret cannot be handed out, at the step that asks for it."""
    place, block = variable_of(name), block_of(name)
    if value is None:
        said = f"secret {name!r} of step {step.id} is nowhere: {place} is not set, and no Secret block is {block!r}"
        code, mend = "WM326", f"set {place}, or save a Prefect Secret block {block!r} on the server in use"
    elif len(value) > LARGEST:
        said = f"secret {name!r} has {len(value):,} bytes, and a secret may have {LARGEST:,}"
        code, mend = "WM327", "put the data into a file, encrypted, and make its key the secret"
    elif not lines_of(value):
        said = f"secret {name!r} is too short to be masked in what steps print: no line of it has {LEAST} bytes"
        code, mend = "WM327", "use a longer one; what everybody may see is no secret and belongs into `env` or `inputs`"
    elif b"\0" in value and name in step.secret_env.values():
        said = f"secret {name!r} has a NUL byte, which an environment variable cannot carry"
        code, mend = "WM327", f"leave `env` out and read /run/secrets/{name}"
    else:
        return None
    at = {"line": step.source.line, "column": 1, "end_column": 2}
    return Diagnostic(code=code, severity="error", file=plan.prompt.path, message=said, help=mend, **at)
