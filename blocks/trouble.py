"""The one error for everything that is the engine's trouble and not the step's, and how each way of failing becomes it.

Apart from `engine`, which is its only user besides those who catch it: what is asked of an engine grows with the
product, and the ways in which it fails do not.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from workflowmaster.blocks.failure import ADVICE, engine_reason

if TYPE_CHECKING:
    from collections.abc import Iterator


MOST_SAID = 1000
"""Characters of an engine's own words that are passed on."""


class SandboxUnavailable(ConnectionError):
    """The engine or a thing it needs is not there; the step's code is not to blame.

    `reason` is a stable short word: `engine` (it does not answer), `permission` (we may not use it), `image` (missing,
    or for another machine), `command` (the image has no such program), `mount`, `conflict` (the name is taken), `disk`
    (full), `network`, `unsupported` (it cannot do what the policy asks for), `runtime` (what is below it failed),
    `gone` (somebody removed the container), `parked` (it ended before it got its go), `stuck` (it does not die),
    `ownership` (what it left stays somebody else's), `prefect` (its server does not answer), `unclassified`.
    """

    def __init__(self, message: str, *, reason: str = "engine") -> None:
        super().__init__(message)
        self.reason = reason


@contextlib.contextmanager
def engine_trouble(what: str) -> Iterator[None]:
    """Turn every way the engine can fail into `SandboxUnavailable` with the remedy."""
    import docker.errors
    import requests.exceptions

    try:
        yield
    except SandboxUnavailable:
        raise  # said already, by a call within this one
    except docker.errors.ImageNotFound as error:
        raise SandboxUnavailable(
            f"{what}: the image is gone from the engine: {_said(error)}", reason="image"
        ) from error
    except docker.errors.APIError as error:
        reason = engine_reason(_said(error))
        advice = f" ({ADVICE[reason]})" if reason in ADVICE else ""
        raise SandboxUnavailable(f"{what}: the engine refused: {_said(error)}{advice}", reason=reason) from error
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
        raise _unreachable(what, error) from error


def _unreachable(what: str, error: Exception) -> SandboxUnavailable:
    if "permission denied" in str(error).lower():
        return SandboxUnavailable(
            f"{what}: this user may not use the Docker Engine ({error}). Join its group (`sudo usermod -aG docker "
            "$USER`, then log in again), or point DOCKER_HOST at an engine of your own",
            reason="permission",
        )
    return SandboxUnavailable(
        f"{what}: the Docker Engine does not answer ({error}). Start it (`sudo systemctl start docker`, or as root "
        "`scripts/engine`), or point DOCKER_HOST at one; `workflowmaster doctor` says what is missing",
    )


def _said(error: Any) -> str:
    text = str(getattr(error, "explanation", None) or error).strip()
    # An engine may repeat the whole profile that it cannot read.
    return text if len(text) <= MOST_SAID else f"{text[: MOST_SAID // 2]} … {text[-MOST_SAID // 2 :]}"
