"""What a container is told to run, and what it is given to know."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.flows.invocation import argv, environment, files, upper
from workflowmaster.flows.plan import InputSpec, Plan, PromptRef, Source, Step, StepResult, Work

PLACE = Source(line=1, end_line=1)


def step(name: str = "build", interpreter: str = "bash", text: str = "make", **fields: Any) -> Step:
    work = Work.model_validate({"interpreter": interpreter, "text": text, "line": 1})
    kind = "agent" if interpreter == "prompt" else "command"
    return Step.model_validate({"id": name, "name": name, "kind": kind, "work": work, "source": PLACE, **fields})


def plan(*steps: Step, inputs: tuple[InputSpec, ...] = ()) -> Plan:
    where = PromptRef(path="p.md", sha256="0", kind="explicit")
    return Plan(name="p", compiler="1", tasks=steps, prompt=where, inputs=inputs, input_values={"dry-run": "true"})


def result(name: str, **outputs: str) -> StepResult:
    return StepResult(step=name, status="completed", key="", outputs=outputs)


@pytest.mark.parametrize(
    ("interpreter", "wanted"),
    [
        ("bash", ("bash", "--noprofile", "--norc", "-eo", "pipefail", "/wm/work")),
        ("sh", ("sh", "-e", "/wm/work")),
        ("python", ("python3", "/wm/work")),
        ("prompt", ("my-agent", "--model", "two words")),
    ],
)
def test_each_interpreter_has_its_command(interpreter: str, wanted: tuple[str, ...]) -> None:
    assert argv(step(interpreter=interpreter), "work", "my-agent --model 'two words'") == wanted


def test_a_check_is_run_as_a_check() -> None:
    check = Work(interpreter="sh", text="test -f built", line=3)
    one = step(check=check)
    assert argv(one, "check", "") == ("sh", "-e", "/wm/check")
    assert files(one, "check") == {"check": "test -f built\n"}
    with pytest.raises(ValueError, match="step build has nothing to run as its check"):
        argv(step(), "check", "")


def test_a_script_is_a_file_and_a_prompt_is_stdin() -> None:
    assert files(step(text="make\n"), "work") == {"work": "make\n"}
    assert files(step(interpreter="prompt", text="Mend it."), "work")["stdin"] == "Mend it."


def test_the_environment_has_inputs_matrix_outputs_and_its_own() -> None:
    specs = (InputSpec(name="dry-run", type="boolean"), InputSpec(name="group"), InputSpec(name="n"))
    one = step(matrix={"python": "3.12"}, env={"MODE": "fast"})
    values = environment(
        one, plan(one, inputs=specs), {"group": "a b"}, {"test/3.11": result("test/3.11", **{"new-ver": "2"})}
    )
    assert values == {
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "WM_OUTPUT": "/out/outputs",
        "INPUT_DRY_RUN": "true",
        "INPUT_GROUP": "a b",
        "INPUT_N": "",
        "MATRIX_PYTHON": "3.12",
        "STEP_TEST_3_11_NEW_VER": "2",
        "MODE": "fast",
    }


def test_the_attempt_is_no_part_of_it() -> None:
    """It would change a result's key."""
    assert "WM_ATTEMPT" not in environment(step(), plan(step()), {}, {})


@given(st.text())
def test_any_name_becomes_a_part_of_a_variables(name: str) -> None:
    assert all(letter.isascii() and (letter.isupper() or letter.isdigit() or letter == "_") for letter in upper(name))
