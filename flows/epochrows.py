"""The rows that claims are kept in on the Prefect server: one Variable for each epoch of a workflow.

Prefect has no compare-and-set, and its leased limits need a minute to free a slot, or never do. What it has is a unique
name: creating the Variable `wm_claim_<id>_<n>` is refused where it exists, and that refusal is the compare-and-set. So
an epoch is never written over, only followed by the next; a holder writes its own row and nobody else's. The cost is a
row for each workflow that was not completed, and that people see them among their Variables.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import asdict, dataclass
from typing import Any

from prefect import get_client
from prefect.client.schemas.actions import VariableCreate, VariableUpdate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectHTTPStatusError

from workflowmaster.blocks.owner import Owner
from workflowmaster.flows.claim import Holder
from workflowmaster.flows.plan import canonical

PREFIX = "wm_claim_"
MOST = 50
"""Rows of one workflow that are looked at. There are two for a moment, and more only where rows were made by hand."""

SHORTEST, LONGEST = 4.0, 600.0
"""Seconds that a lease may have, whatever a row says."""

UNKNOWN = 60.0
"""Seconds without a change after which a row that cannot be read is nobody's."""


@dataclass(frozen=True)
class Row:
    """One epoch of a workflow, as its holder last wrote it."""

    number: int
    owner: Owner | None
    """Who holds it; None for a row that is not ours to read, whose beat is a checksum of what it says."""
    beat: int = 0
    """Counts up with each sign of life."""
    since: float = 0.0
    """Unix time of its beginning, seconds; told to people, never compared."""
    lease: float = 0.0
    """Seconds without a beat after which somebody else may begin the next epoch."""
    released: bool = False
    engine: str = ""
    """Container engine that its steps run on."""
    flow_run: str = ""
    command: str = ""

    @classmethod
    def read(cls, number: int, value: Any) -> Row:
        """Read a Variable's value, whatever a newer version or a person has put into it."""
        try:
            owner = Owner(str(value["host"]), int(value["pid"]), str(value["started"]))
            words = [str(value[name]) for name in ("engine", "flow_run", "command")]
            # In this order a NaN becomes the shortest.
            numbers = float(value["since"]), min(max(SHORTEST, float(value["lease"])), LONGEST)
            return cls(number, owner, int(value["beat"]), *numbers, bool(value["released"]), *words)
        except (KeyError, TypeError, ValueError):
            return cls(number, None, zlib.crc32(canonical(value)), lease=UNKNOWN)

    def value(self) -> dict[str, Any]:
        """Spell it for the server."""
        said = asdict(self)
        return {**(said.pop("owner") or {}), "epoch": said.pop("number"), **said}

    @property
    def holder(self) -> Holder | None:
        """Whom to name to people."""
        if self.owner is None:
            return None
        return Holder(self.owner, self.since, self.number, self.command, self.released)


@dataclass(frozen=True)
class Rows:
    """The epochs of one workflow on the server. Every method may raise what httpx raises for a server that is away."""

    workflow: str

    def name(self, number: int) -> str:
        """Return the Variable's name."""
        return f"{PREFIX}{self.workflow}_{number:06d}"

    async def all(self) -> list[Row]:
        """Return the workflow's rows, the newest first. One request."""
        # `_` stands for any letter there, so the names are compared again here.
        wanted = {"variables": {"name": {"like_": f"{PREFIX}{self.workflow}_"}}, "sort": "NAME_DESC", "limit": MOST}
        async with get_client() as client:
            answer = await client.request("POST", "/variables/filter", json=wanted)
        form = re.compile(re.escape(f"{PREFIX}{self.workflow}_") + r"(\d{6,9})")
        found = [(form.fullmatch(one["name"]), one["value"]) for one in answer.json()]
        rows = [Row.read(int(name[1]), value) for name, value in found if name]
        return sorted(rows, key=lambda row: row.number, reverse=True)

    async def create(self, row: Row) -> bool:
        """Begin an epoch; False if it has been begun already, by whomever."""
        async with get_client() as client:
            try:
                await client.create_variable(VariableCreate(name=self.name(row.number), value=row.value()))
            except ObjectAlreadyExists:
                return False
        return True

    async def write(self, row: Row) -> bool:
        """Write one's own row; False if it is no more."""
        async with get_client() as client:
            try:
                await client.update_variable(VariableUpdate(name=self.name(row.number), value=row.value()))
            except PrefectHTTPStatusError as error:
                if error.response.status_code != 404:
                    raise
                return False
        return True

    async def delete(self, number: int) -> None:
        """Remove a row, if it is there."""
        async with get_client() as client:
            try:
                await client.delete_variable_by_name(self.name(number))
            except ObjectNotFound:
                return
