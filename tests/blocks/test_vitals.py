"""What is measured of a machine: the same as other tools say, and None or infinity where there is nothing to measure."""

from __future__ import annotations

import math
import os
import shutil
import socket
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from workflowmaster.blocks import vitals
from workflowmaster.blocks.engine import Engine
from workflowmaster.blocks.vitals import Room, measure

if TYPE_CHECKING:
    from collections.abc import Iterator

GIB = 2**30


def near(found: float, said: float, share: float = 0.2) -> bool:
    """Others use the machine at the same time."""
    return abs(found - said) <= share * said


class Health(BaseHTTPRequestHandler):
    """A server that is well."""

    def do_GET(self) -> None:
        body = b"true"
        self.send_response_only(200 if self.path == "/api/health" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def well() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/api"
    server.shutdown()
    server.server_close()


@pytest.fixture
def mute() -> Iterator[int]:
    """A port that takes connections and never says anything."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


def test_memory_is_what_the_kernel_says() -> None:
    found = vitals.memory()
    said = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    assert found is not None
    assert found.total == int(said["MemTotal"].split()[0]) * 1024
    assert near(found.free, int(said["MemAvailable"].split()[0]) * 1024)


def test_load_is_by_processor() -> None:
    found = vitals.load()
    said = float(Path("/proc/loadavg").read_text().split()[0])
    assert found is not None
    assert abs(found * (os.cpu_count() or 1) - said) < 2


def test_room_is_that_of_a_folder_that_is_still_to_be_made(tmp_path: Path) -> None:
    found = vitals.room(tmp_path / "not" / "there")
    said = shutil.disk_usage(tmp_path)
    assert found is not None
    assert found.total == said.total
    assert near(found.free, said.free)


def test_a_small_disk_is_seen_as_one(small_disk: Path) -> None:
    found = vitals.room(small_disk)
    assert found is not None
    assert found.total < GIB
    (small_disk / "full").write_bytes(b"x" * (found.free // 2))
    left = vitals.room(small_disk)
    assert left is not None
    assert left.free < found.free * 0.6


def test_a_server_that_is_well_answers_in_time(well: str) -> None:
    assert 0 < vitals.server_answer(well) < vitals.SERVER_SECONDS
    assert vitals.server_answer(f"{well}/") < vitals.SERVER_SECONDS


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/api", "no address", "http://nobody.invalid/api"])
def test_one_that_is_not_there_is_infinitely_slow(url: str) -> None:
    assert vitals.server_answer(url) == math.inf


def test_one_that_answers_with_an_error_is_not_well(well: str) -> None:
    assert vitals.server_answer(well.removesuffix("/api")) == math.inf


def test_one_that_hangs_is_given_up(mute: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitals, "SERVER_SECONDS", 0.2)
    begun = time.monotonic()
    assert vitals.server_answer(f"http://127.0.0.1:{mute}/api") == math.inf
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("url", ["unix:///none.sock", "tcp://127.0.0.1:9"])
def test_an_engine_that_is_not_there_is_infinitely_slow_and_its_disk_unknown(url: str, tmp_path: Path) -> None:
    found = measure(Engine(url), state=tmp_path)
    assert found.engine == math.inf
    assert found.engine_disk is None
    assert found.server is None
    assert found.memory
    assert found.disk


def test_without_an_engine_the_rest_is_measured(tmp_path: Path) -> None:
    found = measure(None, state=tmp_path)
    assert (found.engine, found.engine_disk) == (None, None)
    assert isinstance(found.disk, Room)


@pytest.mark.docker
def test_a_real_engine_answers_and_its_disk_is_seen(tmp_path: Path) -> None:
    with closing(Engine()) as engine:
        found = measure(engine, state=tmp_path)
        assert found.engine is not None
        assert found.engine < 5
        assert found.engine_disk is not None
        assert found.engine_disk.total == shutil.disk_usage(engine.info.root).total


@pytest.mark.docker
def test_an_engine_elsewhere_answers_and_its_disk_is_unknown(far_engine: str, tmp_path: Path) -> None:
    with closing(Engine(far_engine)) as engine:
        found = measure(engine, state=tmp_path)
    assert found.engine is not None
    assert found.engine < 5
    assert found.engine_disk is None


@pytest.mark.docker
def test_an_engine_that_hangs_is_given_up(far_engine: str, mute: int) -> None:
    with closing(Engine(far_engine)) as engine:
        assert engine.ping() is not None
        engine.client.base_url = f"http://127.0.0.1:{mute}"
        begun = time.monotonic()
        assert engine.ping(seconds=0.2) is None
        assert time.monotonic() - begun < 10


def test_what_cannot_be_measured_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise OSError("no /proc")

    monkeypatch.setattr(psutil, "getloadavg", fails)
    monkeypatch.setattr(psutil, "virtual_memory", fails)
    monkeypatch.setattr(shutil, "disk_usage", fails)
    assert (vitals.load(), vitals.memory(), vitals.room(Path("/"))) == (None, None, None)
