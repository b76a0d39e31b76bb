"""A machine that is unwell does fewer steps at a time, and says so, before it costs any of them."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

SLOW_SECONDS = 3.0
"""What the road to the engine adds to its answer: a part of about 0.34, and so two of four steps."""

PROMPT = "# Many\n\n## Steps\n\n" + "".join(
    f"### {name}{number}\n```bash\nsleep {seconds}\n```\n\n"
    for name, seconds in (("early", 6), ("late", 2))
    for number in range(4)
)


def forward(source: socket.socket, target: socket.socket) -> None:
    """Pass on what one end sends; a question whether the engine is there takes its time."""
    with suppress(OSError):
        while data := source.recv(1 << 16):
            if data.startswith(b"GET /_ping"):
                time.sleep(SLOW_SECONDS)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def serve(server: socket.socket, held: list[socket.socket]) -> None:
    with suppress(OSError):
        while True:
            outer, inner = server.accept()[0], socket.socket(socket.AF_UNIX)
            inner.connect("/var/run/docker.sock")
            held += [outer, inner]
            for ends in ((outer, inner), (inner, outer)):
                threading.Thread(target=forward, args=ends, daemon=True).start()


@pytest.fixture
def slow_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The engine of this machine, over a road on which its answer to a ping takes three seconds."""
    place = tmp_path_factory.mktemp("s") / "d.sock"
    held: list[socket.socket] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place))
        server.listen(64)
        threading.Thread(target=serve, args=(server, held), daemon=True).start()
        yield f"unix://{place}"
    for one in held:
        one.close()


def at_once(spans: list[tuple[float, float]]) -> int:
    """How many ran at the same time at most."""
    return max(sum(begun <= moment < ended for begun, ended in spans) for moment, _ in spans)


def test_an_engine_that_is_slow_gets_fewer_steps_at_a_time(
    slow_engine: str,
    command_line: Callable[..., Any],
    prefect_server: Any,
    repository: Callable[..., Any],
    prompt_file: Callable[..., Path],
) -> None:
    line = command_line(PREFECT_API_URL=prefect_server.url, DOCKER_HOST=slow_engine)
    given = ("--workspace", repository().path, "--max-parallel", "4", "--json")
    said = line("run", prompt_file(PROMPT), *given)
    assert said.code == 0, said.text
    assert {task["status"] for task in said.json["tasks"]} == {"completed"}

    events = [json.loads(text) for text in Path(said.json["audit_log"]).read_text().splitlines()]
    low = next(event for event in events if event["event"] == "health.low")
    assert (low["parallel"], low["limit"]) == (2, 4)
    assert "engine" in low["low"]
    assert low["parts"]["engine"] < 0.4
    assert "2 of 4 steps at one time" in said.err

    sent = [event for event in events if event["event"] in ("container.started", "container.finished")]
    begun = {event["step"]: event["ts"] for event in sent if event["event"] == "container.started"}
    ended = {event["step"]: event["ts"] for event in sent if event["event"] == "container.finished"}
    assert at_once([(begun[name], ended[name]) for name in begun if name.startswith("early")]) == 4
    assert at_once([(begun[name], ended[name]) for name in begun if name.startswith("late")]) <= 2
