#!/usr/bin/env python3
"""Provokes every kind of engine trouble on a real engine and prints what the engine said, as JSON.

The classifier goes by words that engines really use, and words change from version to version. So they are not
remembered but asked for: run this against another engine (DOCKER_HOST), and compare with the constants in
`tests/blocks/messages.py`. It makes containers, two tiny images and some networks, all named `wm-capture-…`, and
removes them. `--full FOLDER` also provokes a full disk: FOLDER is the data directory of the engine that DOCKER_HOST
names, on a disk that nobody else uses.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import socket
import sys
import tarfile
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
import docker.errors
from docker.utils import kwargs_from_env

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME = f"wm-capture-{os.getpid()}"
Said = dict[str, Any]

CREATE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mount source missing": (
        {},
        {"mounts": [{"Type": "bind", "Source": "/no/such", "Target": "/x", "ReadOnly": True}]},
    ),
    "cpus above the host's": ({}, {"nano_cpus": 4_096_000_000_000}),
    "memory too small": ({}, {"mem_limit": 1024}),
    "unknown capability": ({}, {"cap_add": ["NO_SUCH"]}),
    "unknown runtime": ({}, {"runtime": "no-such-runtime"}),
    "storage option": ({}, {"storage_opt": {"size": "1G"}}),
    "security option": ({}, {"security_opt": ["no-such-option=1"]}),
    "image missing": ({"image": "wm-capture/not-there:1"}, {}),
    "image reference": ({"image": "UPPER CASE"}, {}),
    "tmpfs option": ({}, {"tmpfs": {"/x": "no-such-option"}}),
    "log driver": ({}, {"log_config": {"Type": "no-such-driver", "Config": {}}}),
}
"""What is wrong with the configuration → (changes of it, changes of the host's part)."""

START: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "command not found": ({"command": ["no-such-command"]}, {}),
    "command not found, init": ({"command": ["no-such-command"]}, {"init": True}),
    "not executable": ({"command": ["/etc/passwd"]}, {}),
    "a directory": ({"command": ["/etc"]}, {}),
    "exec format": ({"image": f"{NAME}:garbage", "command": ["/bin/sh"]}, {}),
    "exec format, init": ({"image": f"{NAME}:garbage", "command": ["/bin/sh"]}, {"init": True}),
    "no shell": ({"image": f"{NAME}:empty", "command": ["/bin/sh"]}, {}),
    "user unknown": ({"user": "no-such-user"}, {}),
    "working directory": ({"working_dir": "/etc/passwd"}, {}),
    "network missing": ({}, {"network_mode": "no-such-network"}),
    "network of a container": ({}, {"network_mode": "container:no-such-container"}),
    "seccomp profile": ({}, {"security_opt": ["seccomp={}x"]}),
    "apparmor profile": ({}, {"security_opt": ["apparmor=no-such-profile"]}),
    "memory below the runtime's own": ({}, {"mem_limit": "6m", "memswap_limit": "6m"}),
    "one process only": ({"command": ["sh", "-c", "true & true"]}, {"pids_limit": 1, "init": True}),
    "file over a directory": (
        {},
        {"mounts": [{"Type": "bind", "Source": "/etc/passwd", "Target": "/etc", "ReadOnly": True}]},
    ),
    "argument too long": ({"command": ["true", "x" * 200_000]}, {}),
    "device missing": ({}, {"devices": ["/dev/no-such:/dev/x:r"]}),
    "more open files than the host's": ({}, {"ulimits": [{"Name": "nofile", "Soft": 10**9, "Hard": 10**9}]}),
    "sysctl": ({}, {"sysctls": {"kernel.no_such": "1"}}),
}


def said(error: Exception) -> Said:
    """Return what an exception says: the engine's own words, or the transport's."""
    status = getattr(error, "status_code", None)
    return {"status": status, "said": str(getattr(error, "explanation", None) or error)}


class Capture:
    """One engine, and what it said so far."""

    def __init__(self, image: str) -> None:
        self.client: Any = docker.APIClient(version="auto", timeout=60, **kwargs_from_env())
        self.image = image
        self.found: dict[str, list[Said] | Said] = {}

    def record(self, what: str, call: Callable[[], object]) -> None:
        """Keep what a call that must fail says."""
        try:
            call()
        except (docker.errors.DockerException, OSError) as error:
            self.found[what] = said(error)
        else:
            self.found[what] = {"status": None, "said": ""}

    def create(self, config: dict[str, Any], host: dict[str, Any], name: str | None = None) -> str:
        """Create a container with these changes to a plain one."""
        plain = {"image": self.image, "command": ["true"], "labels": {NAME: ""}, **config}
        made = self.client.create_host_config(**{"network_mode": "none", **host})
        return str(self.client.create_container(name=name, host_config=made, **plain)["Id"])

    @contextlib.contextmanager
    def container(self, config: dict[str, Any], host: dict[str, Any]) -> Iterator[str]:
        """Create a container for a moment."""
        made = self.create(config, host)
        try:
            yield made
        finally:
            with contextlib.suppress(docker.errors.APIError):
                self.client.remove_container(made, force=True, v=True)

    def start(self, config: dict[str, Any], host: dict[str, Any]) -> Said:
        """Create and start one, and return what start said, the state it left and its log."""
        answer: Said = {"status": None, "said": ""}
        try:
            with self.container(config, host) as made:
                try:
                    self.client.start(made)
                    self.client.wait(made, timeout=30)
                except docker.errors.APIError as error:
                    answer = said(error)
                state = self.client.inspect_container(made)["State"]
                log = self.client.logs(made).decode(errors="replace").strip()
                return {**answer, "exit": state["ExitCode"], "error": state["Error"], "log": log}
        except docker.errors.APIError as error:
            return {**said(error), "at": "create"}


def configurations(engine: Capture) -> None:
    """Provoke what create and start refuse."""
    for what, (config, host) in CREATE.items():
        engine.record(f"create: {what}", lambda config=config, host=host: engine.create(config, host))  # type: ignore[misc]
    for what, (config, host) in START.items():
        engine.found[f"start: {what}"] = engine.start(config, host)


def lives(engine: Capture) -> None:
    """Provoke what depends on a container's life: taken names, containers that are gone, paused or not running."""
    client = engine.client
    with engine.container({}, {}) as made:
        client.rename(made, NAME)
        engine.record("name taken", lambda: engine.create({}, {}, NAME))
        engine.record("kill: not running", lambda: client.kill(made))
    for what in ("start", "kill", "inspect_container", "wait", "attach", "logs", "remove_container"):
        engine.record(f"gone: {what}", lambda what=what: getattr(client, what)("wm-capture-gone"))  # type: ignore[misc]
    with engine.container({"command": ["sleep", "60"]}, {}) as made:
        client.start(made)
        engine.record("remove: running", lambda: client.remove_container(made))
        client.pause(made)
        engine.record("start: paused", lambda: client.start(made))
        engine.record("wait: too long", lambda: client.wait(made, timeout=0.5))
        client.unpause(made)
        killer = threading.Timer(0.5, lambda: client.remove_container(made, force=True))
        killer.start()
        engine.record("gone while waiting", lambda: client.wait(made, timeout=30))
        killer.join()


def networks(engine: Capture) -> None:
    """Provoke what networks and volumes refuse."""
    client = engine.client
    network = client.create_network(NAME, internal=True, labels={NAME: ""})["Id"]
    with engine.container({"command": ["sleep", "60"]}, {"network_mode": NAME}) as made:
        client.start(made)
        engine.record("network: in use", lambda: client.remove_network(network))
    engine.record("network: name taken", lambda: client.create_network(NAME, check_duplicate=True))
    client.remove_network(network)
    engine.record("network: gone", lambda: client.remove_network(network))
    pool = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet="127.0.0.1/33")])
    engine.record("network: bad subnet", lambda: client.create_network(NAME, ipam=pool))
    _exhaust(engine)
    client.create_volume(NAME, labels={NAME: ""})
    with engine.container({}, {"mounts": [{"Type": "volume", "Source": NAME, "Target": "/x"}]}):
        engine.record("volume: in use", lambda: client.remove_volume(NAME))
    client.remove_volume(NAME)
    engine.record("volume: gone", lambda: client.remove_volume(NAME))
    options = {"type": "none", "o": "bind", "device": "/no/such"}
    client.create_volume(NAME, driver_opts=options)
    mounts = [{"Type": "volume", "Source": NAME, "Target": "/x"}]
    engine.found["start: volume of nothing"] = engine.start({}, {"mounts": mounts})
    client.remove_volume(NAME)


def _exhaust(engine: Capture) -> None:
    """Make networks until the engine has no more addresses for them."""
    made = []
    try:
        for number in range(64):
            made.append(  # noqa: PERF401 - what was made must be known when one fails
                engine.client.create_network(f"{NAME}-{number}", internal=True)["Id"]
            )
    except docker.errors.APIError as error:
        engine.found["network: no addresses"] = said(error)
    for network in made:
        engine.client.remove_network(network)


def transport(engine: Capture) -> None:
    """Provoke what is said when there is no engine to say anything."""
    with tempfile.TemporaryDirectory() as folder:
        dead = Path(folder) / "dead.sock"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(dead))
        places = {
            "no socket": "unix:///no/such/docker.sock",
            "nobody listens": f"unix://{dead}",
            "port closed": "tcp://127.0.0.1:1",
            "host unknown": "tcp://no-such-host.invalid:1",
        }
        for what, url in places.items():
            engine.record(f"connect: {what}", lambda url=url: docker.APIClient(base_url=url, version="auto"))  # type: ignore[misc]
        if os.geteuid() == 0:
            engine.record("connect: not allowed", lambda: _as_nobody(str(dead)))


def _as_nobody(path: str) -> None:
    """Use a socket that is there, as a user who may not."""
    Path(path).chmod(0)
    Path(path).parent.chmod(0o755)
    os.seteuid(65533)
    try:
        docker.APIClient(base_url=f"unix://{path}", version="auto")
    finally:
        os.seteuid(0)


def images(engine: Capture) -> None:
    """Import an image of nothing, and one whose programs are for no machine there is."""
    for tag, files in (("empty", {}), ("garbage", {"bin/sh": b"no program of any machine\n\0\1\2"})):
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as archive:
            for name, content in {"etc/none": b"", **files}.items():
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(content), 0o755
                archive.addfile(member, io.BytesIO(content))
        engine.client.import_image_from_data(data.getvalue(), repository=NAME, tag=tag)


def disk(engine: Capture, folder: Path) -> None:
    """Fill the engine's disk, and provoke what it says then."""
    filler = folder / NAME
    made = engine.create({}, {})
    try:
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(1 << 16)):
                pass
        engine.record("disk full: create", lambda: engine.create({}, {}))
        engine.record("disk full: start", lambda: engine.client.start(made))
    finally:
        filler.unlink(missing_ok=True)
        engine.client.remove_container(made, force=True)


def main() -> int:
    """Provoke everything and print it."""
    given = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    given.add_argument("--image", default="workflowmaster/step:1", help="an image with a shell that the engine has")
    given.add_argument("--full", metavar="FOLDER", help="data directory of an engine of your own: fill its disk, too")
    asked = given.parse_args()
    engine = Capture(asked.image)
    try:
        images(engine)
        for provoke in (transport, configurations, lives, networks):
            provoke(engine)
        if asked.full:
            disk(engine, Path(asked.full))
    finally:
        for tag in ("empty", "garbage"):
            with contextlib.suppress(docker.errors.APIError):
                engine.client.remove_image(f"{NAME}:{tag}", force=True)
        for left in engine.client.containers(all=True, filters={"label": NAME}):
            engine.client.remove_container(left["Id"], force=True)
    version = engine.client.version()
    print(json.dumps({"version": version["Version"], **engine.found}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
