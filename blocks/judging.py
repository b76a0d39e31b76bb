"""What a control of a container is: the facts it needs, who promises it, and the function that judges it.

Declared by a decorator on the judge, so that a new control is one function and cannot be written and then forgotten in
a list; the price is that its name is the function's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from workflowmaster.blocks.effective import Effective
    from workflowmaster.blocks.engine import EngineInfo
    from workflowmaster.blocks.request import ContainerRequest
    from workflowmaster.policies import SecurityPolicy

Weakness = tuple[str, str]
"""What was declared, and what was found instead."""


@dataclass(frozen=True)
class Case:
    """One container before its judges: what was asked for, what holds, and on which engine."""

    request: ContainerRequest
    seen: Effective
    info: EngineInfo

    @property
    def policy(self) -> SecurityPolicy:
        """The policy to be kept."""
        return self.request.policy


@dataclass(frozen=True)
class Control:
    """One promise, and how it is looked at."""

    name: str
    facts: tuple[str, ...]
    """Fields of `Effective` it needs; `own.net` is one namespace of `own`."""
    judge: Callable[[Case], Weakness | None]
    promised: Callable[[ContainerRequest], bool]
    """Whether there is such a promise at all."""
    preferred: Callable[[SecurityPolicy, EngineInfo], bool]
    """Whether its absence on such an engine is only recorded."""
    mend: str

    def told_by(self, seen: Effective | None) -> bool:
        """Whether a source has all the facts."""
        return seen is not None and all(_fact(seen, name) is not None for name in self.facts)


CONTROLS: list[Control] = []
"""Every control, in the order of `controls.py`; import it from there, or it is empty."""


def control(
    *facts: str,
    mend: str,
    promised: Callable[[ContainerRequest], bool] = lambda _request: True,
    preferred: Callable[[SecurityPolicy, EngineInfo], bool] = lambda _policy, _info: False,
) -> Callable[[Callable[[Case], Weakness | None]], Callable[[Case], Weakness | None]]:
    """Make a function the judge of the control of its name."""

    def declare(judge: Callable[[Case], Weakness | None]) -> Callable[[Case], Weakness | None]:
        # The function itself is handed back: tests and readers call it by its name.
        CONTROLS.append(Control(judge.__name__, facts, judge, promised, preferred, mend))
        return judge

    return declare


def _fact(seen: Effective, name: str) -> object:
    field, _, part = name.partition(".")
    # One namespace may be known where another is not, so each counts as a fact of its own.
    value = getattr(seen, field)
    return _part(value, part) if part else value


def _part(value: Mapping[str, bool] | None, name: str) -> bool | None:
    return None if value is None else value.get(name)
