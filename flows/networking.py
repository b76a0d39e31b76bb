"""Who may reach what in one run, and who tried: one proxy for all steps, started when the first of them needs it.

A step's own words can only narrow what its policy grants, in the order bridge, any public host, named hosts, none. So a
list under `minimal`, whose bridge no list could bound, brings that step the proxy, and `network: {}` takes the network
away under every policy; nobody has to know which policy can keep which list.

Each attempt is written to the audit log when squid has logged it, which is when the request ended. A step's receipt
waits for the end of its lines: its connections are cut, and a mark goes through the proxy behind them.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from workflowmaster.blocks import egress, squid
from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.blocks.imagebuild import PROXY
from workflowmaster.flows.settings import SettingsError
from workflowmaster.policies.hosts import ANY, Exceptions, Reach

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from workflowmaster.blocks.engine import Engine
    from workflowmaster.blocks.squid import Attempt
    from workflowmaster.flows.journey import Journey
    from workflowmaster.flows.plan import Network, Plan, Step
    from workflowmaster.policies import SecurityPolicy

DETAILED = 1000
"""Attempts of one container that get a record each; equal ones beyond are counted in one. A step can make thousands a
second, and the log must neither miss one nor fill the disk."""

SHOWN = 10
"""Refused hosts that a receipt and a step's log name."""

GATEWAY = "host.docker.internal"
"""The engine's name for its own host; the proxy knows it where `private_hosts` has it."""

log = logging.getLogger(__name__)


def granted(policy: SecurityPolicy, wish: Network | None) -> SecurityPolicy:
    """Return the policy with its network narrowed to what a step wishes for."""
    ways = ("bridge", "proxy-any", "proxy-allowlist", "none")
    if wish is None:
        return policy
    if not wish.allowed:
        wanted = "proxy-any" if wish.blocked else "none"
    else:
        wanted = "proxy-any" if ANY in wish.allowed else "proxy-allowlist"
    narrower = max(wanted, policy.network, key=ways.index)
    return policy.model_copy(update={"network": narrower}) if narrower != policy.network else policy


def reach_of(policy: SecurityPolicy, wish: Network | None) -> Reach | None:
    """Return what a step may reach through the proxy under its narrowed policy; None where it needs none."""
    if policy.network not in ("proxy-any", "proxy-allowlist"):
        return None
    allowed, blocked = (wish.allowed, wish.blocked) if wish else ((), ())
    if policy.network == "proxy-any":
        allowed = (*allowed, *(() if allowed else (ANY,)))
    return Reach.of(allowed, blocked) if allowed else None


def need_proxy(plan: Plan, limits: Mapping[str, SecurityPolicy], engine: Engine) -> None:
    """Refuse a run whose steps need the proxy on an engine that has no image for it."""
    needs = [step for step in plan.tasks if step.in_container and reach_of(limits[step.id], step.network)]
    if needs and engine.image_id(PROXY.reference) is None:
        raise SandboxUnavailable(
            f"the engine has no image {PROXY.reference}, through which step {needs[0].id} reaches the network: "
            "workflowmaster image build makes it",
            reason="image",
        )


@dataclass
class Traffic:
    """What one container did on the network."""

    attempts: int = 0
    refused: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    """(host, port, why) → how often."""
    bytes: int = 0
    folded: Counter[tuple[Any, ...]] = field(default_factory=Counter)
    """Attempts beyond those that got a record each."""

    def account(self) -> dict[str, Any]:
        """Return the fields of the receipt."""
        hosts = dict.fromkeys(_spelled(host, port) for host, port, _ in self.refused)
        return {
            "network_attempts": self.attempts,
            "network_refused": self.refused.total(),
            "network_bytes": self.bytes,
            "network_refused_hosts": tuple(hosts)[:SHOWN],
        }

    def notes(self) -> list[str]:
        """Return lines for the step's log that say what was refused and how to allow it: clients seldom do."""
        lines = []
        for (host, port, why), times in list(self.refused.items())[:SHOWN]:
            text = squid.REFUSALS.get(why, "it was no request that a proxy understands.")
            text = text.replace("%H", host).replace("%p", str(port))
            lines.append(f"[workflowmaster: refused {_spelled(host, port)}{f', {times} times' * (times > 1)}: {text}]")
        more = len(self.refused) - SHOWN
        return [*lines, f"[workflowmaster: refused {more} more hosts; see the audit log]"] if more > 0 else lines


def _spelled(host: str, port: int) -> str:
    return f"{f'[{host}]' if ':' in host else host or '?'}:{port}"


class Line:
    """One container's way to the proxy. Removed with the container."""

    def __init__(
        self, networking: Networking, proxy: egress.Proxy, door: egress.Door, labels: Mapping[str, str]
    ) -> None:
        self._networking, self._proxy, self.door = networking, proxy, door
        self.about = {name: labels[name] for name in ("step", "attempt") if name in labels}
        self.traffic = Traffic()
        self.forwarder: egress.Forwarder | None = None
        self._settled = False

    def settle(self) -> Traffic:
        """Cut its connections and return what it did, once all of it is in the audit log. Blocks; call it in a thread.

        What is not there in time is missing in the receipt, and goes to the audit log later.
        """
        if not self._settled:
            self._settled = True
            if not self._proxy.close(self.door) and self._proxy.alive:
                log.warning("the proxy's log of step %s came late; its receipt may miss lines", self.about.get("step"))
            self._networking.forget(self)
        return self.traffic

    def remove(self) -> None:
        """Remove its forwarder. Raises SandboxUnavailable."""
        self.settle()
        if self.forwarder:
            self.forwarder.remove()


def traffic_of(line: Line | None) -> Traffic:
    """Return what an ended container did on the network, complete; nothing where it had no proxy. Blocks."""
    return line.settle() if line else Traffic()


class Networking:
    """The network of one run. Its methods may be called from any thread."""

    def __init__(self, journey: Journey) -> None:
        self._journey = journey
        self._starting = threading.Lock()
        self._proxies: list[tuple[tuple[Reach, ...], egress.Proxy]] = []
        self._lines: dict[tuple[int, str], Line] = {}
        """(proxy, address) → whose it is."""
        self._lock = threading.Lock()
        self._closed = False
        self._unsaid: list[dict[str, Any]] = []
        """Proxies of which the audit log does not know yet: the first is started before the run has begun."""

    def connect(self, step: Step, policy: SecurityPolicy, name: str, container: str) -> Line | None:
        """Give a parked container its way to the network; None if it has none. Blocks. Raises SandboxUnavailable."""
        reach = reach_of(policy, step.network)
        if reach is None:
            return None
        journey = self._journey
        if not journey.engine.state(container).get("Running"):
            raise SandboxUnavailable(
                f"step {step.id} names hosts, and its container cannot wait for its way to them: its image has no "
                "/bin/sh, or it has ended already. Use an image with a shell",
                reason="unsupported",
            )
        number, index, proxy = self._proxy(reach)
        labels = {"workflow": journey.id, "step": step.id, "role": "forwarder", **journey.owner.labels()}
        labels["attempt"] = name.removesuffix("-check").rpartition("-")[2]
        line = Line(self, proxy, proxy.open(number), labels)
        with self._lock:
            self._lines[index, line.door.source] = line
        try:
            with journey.starts:
                line.forwarder = egress.Forwarder(journey.engine, proxy, line.door).start(
                    container, name=f"{name}-net", image_id=self._image(), labels=labels
                )
        except BaseException:
            line.settle()
            raise
        return line

    def _proxy(self, reach: Reach) -> tuple[int, int, egress.Proxy]:
        """Return (number of the list, index, proxy) of a proxy that knows this list; started if there is none."""
        with self._starting:
            for index, (known, proxy) in enumerate(self._proxies):
                if reach in known and proxy.alive:
                    return known.index(reach) + 1, index, proxy
            # All that the run will need at once, as far as it is known: a later change of a policy gets another one.
            reaches = dict.fromkeys([reach, *self._reaches()])
            index = len(self._proxies)
            proxy = self._start(tuple(reaches), index)
            self._proxies.append((tuple(reaches), proxy))
            return 1, index, proxy

    def _reaches(self) -> Iterable[Reach]:
        for step in self._journey.plan.tasks:
            reach = reach_of(self._journey.policies[step.id], step.network) if step.in_container else None
            if reach:
                yield reach

    def _start(self, reaches: tuple[Reach, ...], index: int) -> egress.Proxy:
        journey = self._journey
        exceptions = Exceptions.of(journey.settings.private_hosts)
        configuration = squid.configuration(
            reaches, exceptions=exceptions, own=egress.own_addresses(journey.engine), parent=own_proxy()
        )
        request = egress.ProxyRequest(
            name=f"{journey.id}-proxy{index or ''}",
            image_id=self._image(),
            configuration=configuration,
            labels={"workflow": journey.id, "role": "proxy", **journey.owner.labels()},
            hosts={GATEWAY: "host-gateway"} if any(host.name == GATEWAY for host in exceptions.names) else {},
        )
        with journey.starts:
            proxy = egress.Proxy(journey.engine, request, lambda attempt: self._tell(index, attempt)).start()
        opened = [str(one) for one in (*exceptions.names, *exceptions.networks)]
        with self._lock:
            self._unsaid.append({"container": proxy.id, "image": request.image_id, "private_hosts": opened})
        return proxy

    def _image(self) -> str:
        found = self._journey.engine.image_id(PROXY.reference)
        if found is None:
            raise SandboxUnavailable(
                f"the engine has no image {PROXY.reference}: workflowmaster image build makes it", reason="image"
            )
        return found

    def _tell(self, index: int, attempt: Attempt) -> None:
        """Write one attempt down. Called from the proxy's thread."""
        hidden = self._journey.secrets.label
        attempt = replace(attempt, host=hidden(attempt.host), method=hidden(attempt.method))
        with self._lock:
            line = self._lines.get((index, attempt.source))
            traffic = line.traffic if line else Traffic()
            traffic.attempts += 1
            traffic.bytes += attempt.bytes
            if attempt.why:
                traffic.refused[attempt.host, attempt.port, attempt.why] += 1
            about = line.about if line else {"step": "", "attempt": ""}
            if traffic.attempts > DETAILED:
                traffic.folded[attempt.host, attempt.port, attempt.why] += 1
            elif not self._closed:
                self._announce()
                self._journey.audit.append("network.attempt", **about, **_fields(attempt))

    def forget(self, line: Line) -> None:
        """Take a container's lines as complete: what was only counted is written down now."""
        with self._lock:
            folded, line.traffic.folded = line.traffic.folded, Counter()
            if self._closed:
                return
            self._announce()
            for (host, port, why), count in folded.items():
                fields = {"host": host, "port": port, "allowed": not why, "why": why, "count": count}
                self._journey.audit.append("network.attempt", **line.about, **fields)

    def _announce(self) -> None:
        """Say which proxies there are, before anything is said of what went through them. The lock is held."""
        for fields in self._unsaid:
            self._journey.audit.append("network.started", **fields)
        self._unsaid.clear()

    def hush(self) -> None:
        """Write nothing down any more: every container that could have tried anything has ended."""
        with self._lock:
            self._closed = True

    def close(self) -> None:
        """Stop every proxy. Blocks. What cannot be removed is left to the sweep."""
        self.hush()
        with self._starting:
            for _, proxy in self._proxies:
                try:
                    proxy.stop()
                except SandboxUnavailable as error:
                    self._journey.troubled = True
                    log.warning("a proxy is left behind: %s", error)
            self._proxies.clear()


def _fields(attempt: Attempt) -> dict[str, Any]:
    """Return an audit record's fields. Without the path, in which secrets travel."""
    return {
        "host": attempt.host,
        "port": attempt.port,
        "method": attempt.method,
        "allowed": attempt.allowed,
        "why": attempt.why,
        "status": attempt.status,
        "bytes_in": attempt.received,
        "bytes_out": attempt.sent,
        **({"private": True} if attempt.private else {}),
    }


def own_proxy() -> squid.Parent | None:
    """Return the proxy that this machine itself must use, as its environment names it. SettingsError for a bad one."""
    given = {name: os.environ.get(name) or os.environ.get(name.upper()) or "" for name in ("http_proxy", "https_proxy")}
    try:
        # Most of what steps ask for is https, and squid asks its parent for everything alike.
        return squid.Parent.of(
            given["https_proxy"] or given["http_proxy"], os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        )
    except ValueError as error:
        raise SettingsError(f"HTTPS_PROXY or HTTP_PROXY in the environment: {error}") from error
