"""The automation that notices dead runs: installed once, brought up to date, and only ever about our own."""

from __future__ import annotations

import asyncio
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.flows import automation
from workflowmaster.flows.folders import new_id

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.prefect


def there(prefect_server: Any) -> list[dict[str, Any]]:
    """The automations of our name on the server."""
    found = prefect_server.post("/automations/filter", {})
    return [one for one in found if one["name"] == automation.NAME]


@pytest.fixture
def server(prefect_server: Any) -> Iterator[Any]:
    """The session's server as this process's own, without our automation before and after."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    def clear() -> None:
        for one in there(prefect_server):
            prefect_server.delete(f"/automations/{one['id']}")

    clear()
    with temporary_settings({PREFECT_API_URL: prefect_server.url}):
        yield prefect_server
    clear()


def test_it_waits_three_heartbeats_and_says_what_to_do() -> None:
    wanted = automation.wanted()
    assert wanted.trigger.within.total_seconds() == 90
    (action,) = wanted.actions
    assert (action.type, action.state.value) == ("change-flow-run-state", "CRASHED")
    assert "workflowmaster resume" in action.message


@pytest.mark.parametrize(
    ("name", "ours"), [(new_id(), True), ("ancient-otter", False), ("nightly", False)], ids=["ours", "otter", "nightly"]
)
def test_it_is_about_our_own_runs_only(name: str, ours: bool) -> None:
    wanted = automation.wanted().model_dump(mode="json")["trigger"]["match"]
    assert fnmatch(name, wanted["prefect.resource.name"]) is ours


def test_it_is_installed_once(server: Any) -> None:
    assert asyncio.run(automation.install()) == "installed"
    assert asyncio.run(automation.install()) == "kept"
    assert asyncio.run(automation.install(force=True)) == "kept", "there is nothing to change"
    (one,) = there(server)
    assert (one["enabled"], one["trigger"]["posture"], one["trigger"]["within"]) == (True, "Proactive", 90.0)


def test_one_that_was_switched_off_stays_off_unless_forced(server: Any) -> None:
    asyncio.run(automation.install())
    (one,) = there(server)
    change(server, one, enabled=False)
    assert asyncio.run(automation.install()) == "kept"
    assert there(server)[0]["enabled"] is False
    assert asyncio.run(automation.install(force=True)) == "updated"
    assert there(server)[0]["enabled"] is True


def test_an_outdated_one_is_brought_up_to_date_and_a_second_one_goes(server: Any) -> None:
    asyncio.run(automation.install())
    (one,) = there(server)
    change(server, one, trigger={**one["trigger"], "within": 540}, enabled=False)
    assert asyncio.run(automation.install()) == "updated"
    (mended,) = there(server)
    assert (mended["id"], mended["trigger"]["within"], mended["enabled"]) == (one["id"], 90.0, False)
    server.post("/automations/", {name: mended[name] for name in ("name", "trigger", "actions", "description")})
    assert len(there(server)) == 2
    asyncio.run(automation.install())
    assert len(there(server)) == 1


def change(server: Any, one: dict[str, Any], **fields: Any) -> None:
    """Edit an automation as the UI does."""
    import json
    from urllib.request import Request, urlopen

    kept = {name: one[name] for name in ("name", "description", "enabled", "trigger", "actions")}
    body = json.dumps({**kept, **fields}).encode()
    request = Request(f"{server.url}/automations/{one['id']}", body, {"Content-Type": "application/json"}, method="PUT")
    urlopen(request, timeout=30).close()
