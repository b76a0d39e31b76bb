"""What the chaos tests share: the arena, who counts, and how an undisturbed run ends.

`chaoskit` beside this file holds the harness itself. It is used by tests only, and the product knows nothing of it.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

sys.path.append(str(Path(__file__).parent))

from chaoskit import subject
from chaoskit.aftermath import Outcome, outcome
from chaoskit.arena import Arena
from chaoskit.engines import OwnEngine
from chaoskit.tally import Events, Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session")
def tally() -> Iterator[Tally]:
    """The listener that the steps knock at, outside of everything that is torn apart."""
    counting = Tally()
    yield counting
    counting.close()


@pytest.fixture(scope="session")
def events() -> Iterator[Events]:
    """The engine's own account of our containers."""
    following = Events()
    yield following
    following.close()


@pytest.fixture(scope="session")
def make_arena(
    tally: Tally,
    events: Events,
    repository: Callable[..., Any],
    ready_database: Callable[[Path], None],
    signed_images: Callable[[Path], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Arena]:
    """Make an arena of another user: a state directory, a HOME, and the torn prompt (or a given one).

    Environment is given by name: `PREFECT_API_URL=…` for a server, none for the embedded one. Its repository is the
    same in content for all, so equal plans end in equal commits.
    """

    def make(text: str = "", **env: str) -> Arena:
        place = tmp_path_factory.mktemp("arena")
        for name in ("state", "home"):
            (place / name).mkdir()
        if "PREFECT_API_URL" not in env:
            ready_database(place / "state")
        signed_images(place / "state")
        (place / "torn.md").write_text(text or subject.prompt(tally.address))
        repo = repository().path
        return Arena(place / "state", place, repo, place / "torn.md", tally, events, env)

    return make


@pytest.fixture(scope="session")
def arena(make_arena: Callable[..., Arena], prefect_server: Any) -> Arena:
    """The arena of most rounds, with the session's server."""
    return make_arena(PREFECT_API_URL=prefect_server.url)


@pytest.fixture(scope="session")
def undisturbed(arena: Arena) -> Outcome:
    """How the torn prompt ends where nothing is torn."""
    said = arena.run()
    assert said.code == 0, said.out + said.err
    return outcome(arena, said.json["workflow_id"])


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, wait_until: Callable[..., Any]) -> Iterator[OwnEngine]:
    """An engine of its own, which may die."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("dockerd", "ip"))):
        pytest.skip("an engine of its own needs root, dockerd and ip")
    made = OwnEngine(tmp_path_factory.mktemp("e"), f"wmchaos{os.getpid() % 10000}", wait_until)
    try:
        made.start()
        made.load("workflowmaster/step:1")
        yield made
    finally:
        made.clear()
