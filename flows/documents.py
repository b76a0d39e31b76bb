"""The policies as the server has them: what an operator changed in the Prefect UI takes effect here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflowmaster import policies
from workflowmaster.blocks.sandbox import TYPE, DockerHost, DockerSandbox
from workflowmaster.flows.admitting import admit
from workflowmaster.flows.limiting import caps, effective
from workflowmaster.policies import PolicyError, SecurityPolicy

if TYPE_CHECKING:
    from workflowmaster.flows.journey import Journey

PAGE = 200
"""Most concurrency limits that the server lists at once."""


async def limited_tags() -> frozenset[str]:
    """Return the tags that a concurrency limit of the server names."""
    from prefect import get_client

    names: list[str] = []
    async with get_client() as client:
        while page := await client.read_global_concurrency_limits(limit=PAGE, offset=len(names)):
            names += [limit.name for limit in page]
            if len(page) < PAGE:
                break
    return frozenset(name.removeprefix("tag:") for name in names if name.startswith("tag:"))


async def from_server(journey: Journey) -> dict[str, SecurityPolicy]:
    """Return, by step id, the limits of those steps whose policy has a document on the server.

    PolicyError for a document that grants more than its policy without a reason, or names another engine than the
    run's: nothing of the run has started then.
    """
    documents = await saved(policies.available(journey.settings.own_policies))
    found: dict[str, SecurityPolicy] = {}
    for step in journey.plan.tasks:
        block = documents.get(step.policy)
        if block is None or not step.in_container:
            continue
        try:
            _same_engine(journey, block)
            policy = block.effective(journey.settings.own_policies)
        except PolicyError as error:
            journey.audit.append("policy.refused", policy=step.policy, detail=str(error))
            raise
        if block.limits:
            journey.audit.append("policy.changed", policy=step.policy, limits=block.limits, reason=block.reason)
        found[step.id] = effective(step, journey.settings, policy)
        journey.caps[step.id] = caps(step, journey.settings, policy)
    # A document may have made the rule for images stricter than the one they were admitted by.
    admit(journey.plan, found, journey.record.images, journey.settings, by=journey.held)
    return found


def _same_engine(journey: Journey, block: DockerSandbox) -> None:
    """Refuse a document that names another engine than the run's, where images are pinned and containers parked."""
    wanted, ours = block.host.url, journey.engine.url
    if wanted not in ("", ours):
        raise PolicyError(
            f"block {TYPE}/{block.policy} names the engine {wanted}, and this run's is {ours or 'its own machine'}: "
            f"start the run, or its worker, with DOCKER_HOST={wanted}, or empty the block's field host.url"
        )


async def saved(names: tuple[str, ...] = ()) -> dict[str, DockerSandbox]:
    """Read the server's documents, by policy; empty where `workflowmaster init` was never run. One request.

    `names` are the policies there are; the built-in ones if it is left out.

    A policy's document has its name. Others are blocks of the user's own, for his flows to trigger, and change nothing.
    PolicyError for a document of one policy's name that stands for another.
    """
    from prefect import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    async with get_client() as client:
        try:
            documents = await client.read_block_documents_by_type(TYPE, include_secrets=True)
        except PrefectHTTPStatusError as error:
            if error.response.status_code == 404:
                return {}
            raise
    known = names or policies.available()
    # Prefect has no public way from a document to its block.
    blocks = {
        document.name: DockerSandbox._from_block_document(document)  # noqa: SLF001
        for document in documents
        if document.name in known
    }
    for name, block in blocks.items():
        if block.policy != name:
            raise PolicyError(
                f"block {TYPE}/{name} stands for policy {block.policy}: set its field `policy` back to {name}, or save "
                "it under another name"
            )
    return blocks


async def save(*, force: bool = False) -> dict[str, str]:
    """Save a document for each built-in policy; return what happened to each, `saved` or `kept`.

    One that is there already is kept, because an operator may have edited it; `force` overwrites it.
    """
    await DockerHost.aregister_type_and_schema()
    await DockerSandbox.aregister_type_and_schema()
    there = await saved()
    told = {}
    for name in policies.names():
        told[name] = "kept" if name in there and not force else "saved"
        if told[name] == "saved":
            await DockerSandbox(policy=name).asave(name, overwrite=True)
    return told
