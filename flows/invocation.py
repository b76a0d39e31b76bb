"""What a container is told to run, and what it is given to know: argv, files and environment of a step. Pure."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from workflowmaster.blocks.request import EXCHANGE, OUT, SCRATCH
from workflowmaster.policies import refused_variables

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workflowmaster.flows.plan import Interpreter, Plan, Step, StepResult, Work
    from workflowmaster.policies import SecurityPolicy

INTERPRETERS: Mapping[Interpreter, tuple[str, ...]] = {
    # As GitHub's runner starts bash: the first failing command fails the step, also within a pipe.
    "bash": ("bash", "--noprofile", "--norc", "-eo", "pipefail"),
    "sh": ("sh", "-e"),
    "python": ("python3",),
}

BASICS: Mapping[str, str] = {"HOME": SCRATCH, "LANG": "C.UTF-8", "WM_OUTPUT": f"{OUT}/outputs"}


def argv(step: Step, purpose: str, agent: str) -> tuple[str, ...]:
    """Return the command of a step's work or check. An agent's is the operator's, its prompt comes on stdin."""
    work = step.check if purpose == "check" else step.work
    if work is None:
        raise ValueError(f"step {step.id} has nothing to run as its {purpose}")
    if work.interpreter == "prompt":
        return tuple(shlex.split(agent))
    return (*INTERPRETERS[work.interpreter], f"{EXCHANGE}/{purpose}")


def files(step: Step, purpose: str) -> dict[str, str]:
    """Return the files a container finds in `/wm`: the script, or the prompt as stdin."""
    work = step.check if purpose == "check" else step.work
    if work is None:
        return {}
    return {"stdin": work.text} if work.interpreter == "prompt" else {purpose: _script(work)}


def _script(work: Work) -> str:
    return work.text if work.text.endswith("\n") else work.text + "\n"


def environment(step: Step, plan: Plan, given: Mapping[str, str], before: Mapping[str, StepResult]) -> dict[str, str]:
    """Return a step's environment: basics, inputs, matrix, outputs of the steps before it, then its own `env`.

    `given` are the run's input values; `before` the results of all steps it builds on. The attempt is left out on
    purpose: this is part of the result's key.
    """
    values = dict(BASICS)
    for spec in plan.inputs:
        value = given.get(spec.name, plan.input_values.get(spec.name, ""))
        values[f"INPUT_{upper(spec.name)}"] = value
    values |= {f"MATRIX_{upper(name)}": value for name, value in step.matrix.items()}
    for step_id, result in before.items():
        for name, value in result.outputs.items():
            values[f"STEP_{upper(step_id)}_{upper(name)}"] = value
    return values | step.env


def passed(values: Mapping[str, str], policy: SecurityPolicy) -> dict[str, str]:
    """Return those variables that the policy lets through. What a prompt itself declares was judged by the compiler."""
    refused = refused_variables(policy, values)
    return {name: value for name, value in values.items() if name not in refused}


def upper(name: str) -> str:
    """Spell a name as a part of a variable's: capitals, digits and underscores."""
    return re.sub(r"[^A-Za-z0-9]", "_", name).upper()
