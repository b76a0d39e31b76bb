"""One workspace a module of journeys, as it was before and as the module's own `said` run left it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="module")
def repo(repository: Callable[..., Any]) -> Any:
    return repository()


@pytest.fixture(scope="module")
def before(repo: Any) -> dict[str, object]:
    state: dict[str, object] = repo.state()
    return state


@pytest.fixture(scope="module")
def tasks(said: Any) -> dict[str, dict[str, Any]]:
    """Step → what `run --json` says of it; `said` is the module's own."""
    return {task["id"]: task for task in said.json["tasks"]}


@pytest.fixture(scope="session")
def own_orphans() -> Callable[[Any], list[dict[str, Any]]]:
    """Ask a command line for its orphans; the session's server knows those of other tests, whose folders are not here."""
    return lambda line: [
        one for one in line("orphans", "--json").json if (line.home / "workflows" / one["workflow_id"]).exists()
    ]
