"""Which Prefect server a run talks to: the one the user has configured, or a temporary one of our own.

Decided before Prefect is imported, because a server takes seconds to start and Prefect reads its settings only once. A
configured server that does not answer is told at once: Prefect would try for ten seconds and end in a traceback.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from workflowmaster.blocks.atomic import write_atomically
from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.flows import diskspace, embedded
from workflowmaster.flows.embedded import EmbeddedServer
from workflowmaster.flows.settings import home

if TYPE_CHECKING:
    from collections.abc import Iterator

KNOCK_SECONDS = 5.0
"""How long a configured server may take to accept a connection."""

_own: list[EmbeddedServer] = []
"""The temporary server of this process, while there is one."""


def api_url() -> str:
    """Return the server the user has configured, by variable or in Prefect's active profile; empty if there is none.

    Read without importing Prefect: whether to start a server of our own is decided long before that.
    """
    given = os.environ.get("PREFECT_API_URL")
    if given is not None:
        return given
    place = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH", place / "profiles.toml"))
    try:
        known = tomllib.loads(profiles.read_text())
    except (OSError, tomllib.TOMLDecodeError):
        return ""
    active = os.environ.get("PREFECT_PROFILE", known.get("active", ""))
    return str(known.get("profiles", {}).get(active, {}).get("PREFECT_API_URL", ""))


def keep_results_in(place: str) -> None:
    """Have Prefect keep results where a run has kept its own so far, unless the user says where. Call before `server`.

    A deployment's run has the place of its worker, and what was persisted there last may not be on record yet.
    """
    if place and Path(place).is_dir():
        os.environ.setdefault("PREFECT_LOCAL_STORAGE_PATH", place)


def lives_on() -> str:
    """Return the server that this process's flow runs live on, without a password; empty for one of its own."""
    place = urlsplit("" if _own else api_url())
    return place._replace(netloc=place.netloc.rpartition("@")[2]).geturl()


@contextlib.contextmanager
def server() -> Iterator[EmbeddedServer | None]:
    """Provide a Prefect server for what follows: the configured one, or a temporary one of our own.

    Call `ready` before the first use of Prefect. Sets this process's environment, which Prefect reads at its import.
    """
    os.environ.setdefault("PREFECT_LOCAL_STORAGE_PATH", str(home() / "results"))
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    # Its background threads print a page for each event while a server is away, and try again all the same.
    os.environ.setdefault("PREFECT_INTERNAL_LOGGING_LEVEL", "CRITICAL")
    if url := api_url():
        _must_answer(url)
        _spare_certificates(url)
        if not Path("~/.prefect").expanduser().exists():
            # Prefect would make that folder for its own bookkeeping; we write only where we keep everything.
            os.environ.setdefault("PREFECT_HOME", str(home() / "prefect"))
        yield None
        return
    os.environ.update(embedded.environment(home()))
    # The database holds everything a run prints and is asked.
    (home() / "prefect").mkdir(parents=True, exist_ok=True, mode=0o700)
    own = EmbeddedServer(home()).start()
    _own.append(own)
    os.environ["PREFECT_API_URL"] = own.url
    _spare_certificates(own.url)
    try:
        yield own
    finally:
        del os.environ["PREFECT_API_URL"]
        _own.remove(own)
        own.stop()


def _spare_certificates(url: str) -> None:
    """Have Prefect load one certificate instead of all where it will speak no TLS.

    Each of its five clients loads certifi's whole bundle, 24 ms of processor time a piece, also for an `http://`
    address. Verification stays on: should such a server ever send us to `https://`, the connection fails.
    """
    if not url.startswith("http://") or "PREFECT_API_SSL_CERT_FILE" in os.environ:
        return
    import certifi

    one = home() / "prefect" / "one-certificate.pem"
    if not one.exists():
        end = "-----END CERTIFICATE-----\n"
        one.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(one, Path(certifi.where()).read_text(encoding="utf-8").partition(end)[0] + end)
    os.environ["PREFECT_API_SSL_CERT_FILE"] = str(one)


def ready() -> None:
    """Wait until this process's own server answers, if it has one. Raises SandboxUnavailable."""
    for own in _own:
        own.wait_ready()


def _must_answer(url: str) -> None:
    """Knock at the configured server's port. SandboxUnavailable if nobody opens."""
    place = urlsplit(url)
    if "HTTPS_PROXY" in os.environ or "https_proxy" in os.environ or not place.hostname:
        return  # it is not we who would connect
    try:
        port = place.port or (443 if place.scheme == "https" else 80)
        socket.create_connection((place.hostname, port), timeout=KNOCK_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _silent(url, error) from error


def _silent(url: str, error: Exception) -> SandboxUnavailable:
    return SandboxUnavailable(
        f"the Prefect server {url} does not answer ({error}). Start it (`prefect server start`), or unset "
        "PREFECT_API_URL: a run without it has a server of its own",
        reason="prefect",
    )


def _unwilling(status: int, path: str) -> SandboxUnavailable:
    """Say that a server answers and does not do what it is asked, and why that may be."""
    why = "see its log"
    if _own:
        log = home() / "prefect" / "server.log"
        why = diskspace.cramped(log) or f"see the end of {log}; `workflowmaster doctor` checks the versions it needs"
    elif status in (401, 403):
        why = "it wants a key: set PREFECT_API_KEY or PREFECT_API_AUTH_STRING"
    return SandboxUnavailable(f"the Prefect server {api_url()} answers {status} to {path}: {why}", reason="prefect")


@contextlib.contextmanager
def trouble() -> Iterator[None]:
    """Turn what Prefect raises about a server that went away, or refuses us, into SandboxUnavailable."""
    import httpx

    try:
        yield
    except httpx.HTTPStatusError as error:
        raise _unwilling(error.response.status_code, error.request.url.path) from error
    except httpx.HTTPError as error:
        raise _silent(api_url(), error) from error
    except RuntimeError as error:
        if "reach API" not in str(error):
            raise
        raise _silent(api_url(), error) from error
