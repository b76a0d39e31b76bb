"""The compiled form: what is in it, that it is the same each time, and that it refuses to lie."""

from __future__ import annotations

import ast
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.flows import compiled
from workflowmaster.flows.compiled import StaleLock, identifier, plain, read

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.docker

PROMPT = "---\nname: Weekly refresh\n---\n# Refresh\n\n## Steps\n\n### pin\n- security-policy: hardened\n```bash\necho 1\n```\n\n### test\n- needs: pin\n```bash\necho 2\n```\n"

HOSTILE = '---\nname: "\\"\\"\\"); import os; os.abort() # {LOCK} \\\\"\n---\n' + PROMPT.partition("---\n# ")[2].join(
    ["# ", ""]
)


@pytest.fixture(scope="module")
def compiled_once(bare: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a prompt and, in `made`, its lock and module."""
    place = tmp_path_factory.mktemp("compiled")
    source, module = place / "weekly-refresh.md", place / "made/weekly_refresh.py"
    source.write_text(PROMPT)
    said = bare("compile", source, "-o", place / "made")
    assert said.code == 0, said.text
    assert said.out.splitlines() == [
        str(place / "made/weekly_refresh.lock.json"),
        str(module),
        f"deploy it with: prefect deploy {module}:weekly_refresh --name weekly_refresh --pool workflowmaster",
    ]
    return place


@pytest.fixture
def written(compiled_once: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of it: the prompt and the lock; the module lies beside the lock."""
    place = shutil.copytree(compiled_once, tmp_path / "copy")
    return place / "weekly-refresh.md", place / "made/weekly_refresh.lock.json"


def test_a_lock_holds_what_would_be_decided_at_run_time(written: tuple[Path, Path]) -> None:
    lock = json.loads(written[1].read_text())
    assert set(lock) == set(compiled.Lock.model_fields)
    assert lock["images"].keys() == {"workflowmaster/step:1"}
    assert lock["images"]["workflowmaster/step:1"].startswith("sha256:")
    assert set(lock["policies"]) == set(lock["policy_hashes"]) == {"standard", "hardened"}
    assert lock["policies"]["hardened"]["network"] == "none"
    assert [task["id"] for task in lock["plan"]["tasks"]] == ["pin", "test"]


def test_a_lock_names_nothing_of_this_machine(written: tuple[Path, Path]) -> None:
    text = written[1].read_text().replace(json.loads(written[1].read_text())["source"], "")
    assert str(written[0].parent) not in text
    assert str(written[1].parent) not in text


def test_the_same_prompt_gives_the_same_bytes(bare: Any, written: tuple[Path, Path]) -> None:
    source, lock = written
    before = [path.read_bytes() for path in sorted(lock.parent.iterdir())]
    assert bare("compile", source, "-o", lock.parent).code == 0
    assert [path.read_bytes() for path in sorted(lock.parent.iterdir())] == before


def test_the_module_has_one_literal_flow(written: tuple[Path, Path]) -> None:
    tree = ast.parse(written[1].with_name("weekly_refresh.py").read_text())
    (function,) = [node for node in tree.body if isinstance(node, ast.AsyncFunctionDef)]
    (decorator,) = function.decorator_list
    assert function.name == "weekly_refresh"
    assert isinstance(decorator, ast.Call)
    assert {k.arg: ast.unparse(k.value) for k in decorator.keywords} == {
        "name": "'Weekly refresh'",
        "flow_run_name": "'{workflow_id}'",
        "on_cancellation": "[after_the_end]",
    }


def test_no_text_of_a_prompt_becomes_code(bare: Any, prompt_file: Callable[..., Path], tmp_path: Path) -> None:
    said = bare("compile", prompt_file(HOSTILE, "häßlich 7%.md"), "-o", tmp_path)
    assert said.code == 0, said.text
    (module,) = tmp_path.glob("*.py")
    tree = ast.parse(module.read_text())
    kinds = [type(node).__name__ for node in tree.body]
    assert kinds == ["Expr", *["ImportFrom"] * 4, "Assign", "AsyncFunctionDef"]
    assert "abort" not in {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("weekly-refresh", "weekly_refresh"),
        ("3 ways", "prompt_3_ways"),
        ("日本", "prompt"),
        ("Ünï", "uni"),
        ("class", "prompt_class"),
        ("json", "prompt_json"),
        ("deliver_locked", "prompt_deliver_locked"),
    ],
)
def test_any_file_name_becomes_an_identifier(stem: str, name: str) -> None:
    import keyword

    found = identifier(stem)
    assert found.isidentifier()
    assert not keyword.iskeyword(found)
    assert found == name


def test_a_title_can_stand_in_a_docstring() -> None:
    assert plain('a """ b \\ {c} %d\n\te') == "a b c d e"
    assert plain("'\"") == "prompt"
    assert len(plain("x" * 500)) == 120


def renew(written: tuple[Path, Path]) -> str:
    return f"renew it with: workflowmaster compile {written[0]} -o {written[1].parent}"


def test_a_prompt_that_changed_makes_the_lock_stale(written: tuple[Path, Path]) -> None:
    read(written[1])
    written[0].write_text(PROMPT + "\n")
    with pytest.raises(StaleLock) as caught:
        read(written[1])
    assert (
        str(caught.value) == f"{written[1]} is stale: {written[0]} has changed since it was compiled; {renew(written)}"
    )


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    lock = json.loads(path.read_text())
    change(lock)
    path.write_text(json.dumps(lock))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lock: lock["plan"]["tasks"][0].update(policy="minimal"), "was edited by hand"),
        (lambda lock: lock["plan"]["tasks"][0]["work"].update(text="evil"), "was edited by hand"),
        (lambda lock: lock["policy_hashes"].update(hardened="0" * 64), "was edited by hand"),
        (lambda lock: lock.update(extra=1), "cannot be read as a lock"),
        (lambda lock: lock.pop("images"), "cannot be read as a lock"),
        (lambda lock: lock.update(schema_name="workflowmaster/lock/99"), "cannot be read as a lock"),
    ],
)
def test_a_lock_that_was_edited_is_refused(
    written: tuple[Path, Path], change: Callable[[dict[str, Any]], object], words: str
) -> None:
    edit(written[1], change)
    with pytest.raises(StaleLock, match=words) as caught:
        read(written[1])
    assert "renew it with: workflowmaster compile " in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda lock: lock["policies"]["hardened"].update(network="bridge"),
        lambda lock: lock["images"].update({"workflowmaster/step:1": "sha256:" + "0" * 64}),
        lambda lock: lock["options"].update(agent="evil"),
    ],
)
def test_all_of_it_is_what_was_reviewed(written: tuple[Path, Path], change: Callable[[dict[str, Any]], object]) -> None:
    edit(written[1], change)
    with pytest.raises(StaleLock, match="edited by hand"):
        read(written[1])


def test_a_policy_that_changed_since_makes_the_lock_stale(written: tuple[Path, Path]) -> None:
    def older(lock: dict[str, Any]) -> None:
        lock["policy_hashes"]["hardened"] = "0" * 64
        lock["seal"] = compiled.Lock.model_validate(lock).sealed()

    edit(written[1], older)
    with pytest.raises(StaleLock, match="is stale: policy hardened has changed since"):
        read(written[1])


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"who": "ada"}, {"who": "ada"}),
        ({"who": "ada", "loud": "yes"}, {"who": "ada", "loud": "true"}),
        ({"who": "ada", "times": "3"}, {"who": "ada", "times": "3"}),
        ({}, "input who is required and has no value"),
        ({"who": "ada", "loud": "perhaps"}, "input 'loud' must be true or false, not 'perhaps'"),
        ({"who": "ada", "times": "5"}, "input 'times' must be one of 1, 3, not '5'"),
        ({"who": "ada", "colour": "red"}, "unknown input 'colour'; known: who, loud, times"),
    ],
)
def test_inputs_of_a_compiled_flow_are_checked_as_those_of_a_run(
    given: dict[str, str], wanted: dict[str, str] | str
) -> None:
    from workflowmaster.flows.asking import BadOption
    from workflowmaster.flows.plan import InputSpec, Plan, PromptRef

    specs = (
        InputSpec(name="who", required=True),
        InputSpec(name="loud", type="boolean", default=False),
        InputSpec(name="times", type="integer", enum=(1, 3)),
    )
    where = PromptRef(path="p.md", sha256="0", kind="explicit")
    plan = Plan(name="p", compiler="1", prompt=where, inputs=specs, input_values={"loud": "false"}, tasks=())
    if isinstance(wanted, dict):
        assert compiled.checked(plan, given) == wanted
        return
    with pytest.raises(BadOption) as caught:
        compiled.checked(plan, given)
    assert str(caught.value) == wanted


def test_a_lock_without_its_prompt_still_runs(written: tuple[Path, Path]) -> None:
    """A deployment may ship the lock alone."""
    written[0].unlink()
    assert read(written[1]).plan.name == "Weekly refresh"


def test_a_lock_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StaleLock, match="cannot be read as a lock"):
        read(tmp_path / "none.lock.json")


def test_a_bad_prompt_writes_nothing(bare: Any, prompt_file: Callable[..., Path], tmp_path: Path) -> None:
    said = bare("compile", prompt_file(PROMPT.replace("needs: pin", "needs: pen")), "-o", tmp_path / "made")
    assert said.code == 2
    assert "did you mean" in said.err
    assert not (tmp_path / "made").exists()
