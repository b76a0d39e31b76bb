"""The house rules that a machine can hold: rooms, names, documentation, sizes."""

from __future__ import annotations

import ast
import statistics
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("flows", "blocks", "policies", "analytics")
MAY_IMPORT = {
    "policies": set(),
    "analytics": set(),
    "blocks": {"policies"},
    "flows": {"policies", "blocks", "analytics"},
}
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and node.module == "workflowmaster":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("workflowmaster."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("workflowmaster.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    room = path.relative_to(ROOT).parts[0]
    assert imported_rooms(path) - {room} <= MAY_IMPORT[room]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_relative_imports(path):
    # Under Prefect's file entrypoints a relative import has no package to be relative to.
    assert not [node for node in ast.walk(parsed(path)) if isinstance(node, ast.ImportFrom) and node.level]


def test_no_file_is_named_like_a_module_of_somebody_else():
    # Prefect's file loader leaves `flows/` on sys.path: a `github.py` there would become PyGithub for everyone.
    taken = set(sys.stdlib_module_names) | set(packages_distributions())
    ours = {path.stem for path in FILES if path.parent.name in ("flows", "blocks")} - {"__init__"}
    assert not ours & (taken - {"workflowmaster", *ROOMS})


def undocumented(path: Path) -> list[str]:
    """Public modules, classes, functions and methods without a docstring."""
    tree = parsed(path)
    missing = [] if ast.get_docstring(tree) else ["the module"]
    scopes: list[tuple[str, ast.Module | ast.ClassDef]] = [("", tree)]
    while scopes:
        prefix, scope = scopes.pop()
        for node in scope.body:
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name.startswith("_"):
                continue
            if not ast.get_docstring(node) and not any("overload" in ast.unparse(d) for d in node.decorator_list):
                missing.append(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                scopes.append((f"{prefix}{node.name}.", node))
    return missing


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_public_name_is_documented(path):
    assert undocumented(path) == []


def functions() -> list[tuple[str, int, int]]:
    """(name, lines, parameters) of every function."""
    found = []
    for path in FILES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                count = len([name for name in names if name not in ("self", "cls")])
                where = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
                found.append((where, (node.end_lineno or 0) - node.lineno + 1, count))
    return found


def test_functions_stay_small():
    lines = sorted(length for _, length, _ in functions())
    assert [name for name, length, _ in functions() if length > 60] == []
    assert statistics.median(lines) <= 10
    assert lines[int(0.9 * (len(lines) - 1))] <= 35


def test_functions_take_few_parameters():
    # The flow's parameters are the fields of its form in the Prefect UI; settings sources are pydantic's signature.
    forms = ("flows/delivery.py", "flows/settings.py")
    assert [name for name, _, count in functions() if count > 6 and not name.startswith(forms)] == []


def test_files_stay_small():
    assert [f"{p.relative_to(ROOT)}" for p in FILES if p.read_text(encoding="utf-8").count("\n") >= 400] == []


def test_nothing_is_ever_started_through_a_shell():
    assert [str(p) for p in FILES if "shell=True" in p.read_text(encoding="utf-8")] == []


def test_every_package_is_typed():
    assert [room for room in ROOMS if not (ROOT / room / "py.typed").exists()] == []
