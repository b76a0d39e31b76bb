"""The automation that tells the Prefect server to notice dead runs by itself.

A run of ours sends a heartbeat every thirty seconds. The automation waits for the next sign after each one, a heartbeat
or any change of state, and where none comes for ninety seconds it says `Crashed`. It looks only at flow runs that carry
a workflow's id as their name. Other people's flows on the same server beat every three minutes unless they say
otherwise, and an automation for all would kill them. The price is a second heartbeat beside Prefect's own.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from workflowmaster.flows.signs import FREQUENCY, HEARTBEAT, MISSED

if TYPE_CHECKING:
    from prefect.events.schemas.automations import AutomationCore

NAME: Final = "workflowmaster: runs whose heartbeat stopped"
WITHIN: Final = timedelta(seconds=MISSED * FREQUENCY)
MESSAGE: Final = (
    f"no heartbeat for {WITHIN.seconds} s: its process is gone. `workflowmaster resume` with the run's name goes on, "
    "and so does the flow recover-orphans"
)


def wanted() -> AutomationCore:
    """Return the automation as it should be on the server."""
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    return AutomationCore(
        name=NAME,
        # Said although it is the default: an update sends only what was said.
        enabled=True,
        description="Installed by `workflowmaster init`, which also brings it up to date.",
        trigger=EventTrigger(
            posture=Posture.Proactive,
            match={"prefect.resource.id": "prefect.flow-run.*", "prefect.resource.name": "task-*"},
            for_each={"prefect.resource.id"},
            after={HEARTBEAT},
            expect={"prefect.flow-run.*"},
            threshold=1,
            within=WITHIN,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=MESSAGE)],
    )


async def install(*, force: bool = False) -> str:
    """Have the automation on the server that this process uses; return `installed`, `updated` or `kept`.

    One that somebody has switched off stays off, and with another text or time it is brought up to date; `force` makes
    it entirely what it should be. A second one of the same name, which two installers at once may leave, is removed.
    """
    from prefect import get_client

    new = wanted()
    async with get_client() as client:
        there = sorted(await client.read_automations_by_name(NAME), key=lambda one: str(one.id))
        for spare in there[1:]:
            await client.delete_automation(spare.id)
        if not there:
            await client.create_automation(new)
            return "installed"
        new = new if force else new.model_copy(update={"enabled": there[0].enabled})
        if _essence(there[0]) == _essence(new):
            return "kept"
        await client.update_automation(there[0].id, new)
    return "updated"


def _essence(one: AutomationCore) -> dict[str, Any]:
    """Return what matters of an automation: the server adds ids, and defaults of its own."""
    said = one.model_dump(mode="json", include={"description", "enabled", "trigger", "actions"})
    trigger, actions = said.pop("trigger"), said.pop("actions")
    fields = ("posture", "match", "for_each", "after", "expect", "threshold", "within")
    return {
        **said,
        **{name: sorted(v) if isinstance(v := trigger.get(name), list) else v for name in fields},
        "actions": [{name: action.get(name) for name in ("type", "state", "message")} for action in actions],
    }
