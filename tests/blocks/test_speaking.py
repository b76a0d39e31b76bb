"""Which version of its language an engine is spoken to in."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from workflowmaster.blocks.engine import NEWEST_API, Engine, SandboxUnavailable


class Pretender(http.server.BaseHTTPRequestHandler):
    """Answers any question with what an engine of some version says of itself."""

    said: dict[str, str]
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        body = json.dumps(self.said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def engine_saying() -> Iterator[Callable[..., tuple[Engine, list[str]]]]:
    servers: list[Any] = []

    def make(**said: str) -> tuple[Engine, list[str]]:
        handler = type("Handler", (Pretender,), {"said": said, "asked": []})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return Engine(f"tcp://127.0.0.1:{server.server_port}"), handler.asked

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("most", "least", "spoken"),
    [
        ("1.41", "1.12", "1.41"),  # 20.10
        ("1.43", "1.24", "1.43"),  # 24
        ("1.44", "1.24", NEWEST_API),  # 25
        ("1.51", "1.24", NEWEST_API),  # 28
        ("1.52", "1.44", NEWEST_API),  # 29
        ("1.60", "1.50", "1.50"),  # one that has forgotten ours: tried in the oldest it knows
        ("1.100", "1.9", NEWEST_API),  # numbers, not text
    ],
)
def test_the_newest_version_that_both_know_is_spoken(
    engine_saying: Callable[..., tuple[Engine, list[str]]], most: str, least: str, spoken: str
) -> None:
    engine, asked = engine_saying(ApiVersion=most, MinAPIVersion=least, Version="x")
    assert engine.client.api_version == spoken
    assert asked == ["/version"], "one question, in no version"


def test_an_engine_that_is_too_old_is_told_so(engine_saying: Callable[..., tuple[Engine, list[str]]]) -> None:
    engine, _ = engine_saying(ApiVersion="1.40", MinAPIVersion="1.12", Version="19.03.15")
    with pytest.raises(SandboxUnavailable, match=r"version 19\.03\.15 with API 1\.40; 1\.41 is needed: update it"):
        _ = engine.client


def test_what_has_no_version_is_no_engine(engine_saying: Callable[..., tuple[Engine, list[str]]]) -> None:
    engine, _ = engine_saying(hello="world")
    with pytest.raises(SandboxUnavailable, match="is no Docker Engine"):
        _ = engine.client
