"""The temporary server: it answers, keeps everything in one folder, tells nobody, and ends with its owner."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.flows.embedded import EmbeddedServer, environment

if TYPE_CHECKING:
    from collections.abc import Callable


def test_its_settings_keep_everything_under_one_folder_and_tell_nobody() -> None:
    settings = environment(Path("/somewhere"))
    assert (settings["PREFECT_SERVER_ANALYTICS_ENABLED"], settings["DO_NOT_TRACK"]) == ("false", "1")
    places = [value.removeprefix("sqlite+aiosqlite:///") for value in settings.values() if "/" in value]
    assert len(places) == 3
    assert all(place.startswith("/somewhere/prefect") for place in places)


@pytest.mark.prefect
def test_it_answers_and_reports_nothing(prefect_server: Any) -> None:
    assert prefect_server.get("/health") is True
    server = prefect_server.get("/admin/settings")["server"]
    assert server["analytics_enabled"] is False
    assert server["ephemeral"]["enabled"] is False
    assert (prefect_server.home / "prefect/prefect.db").exists()
    assert (prefect_server.home / "prefect").stat().st_mode & 0o777 == 0o700
    assert "Traceback" not in (prefect_server.home / "prefect/server.log").read_text()


OWNER = """
import sys, time
from pathlib import Path
from workflowmaster.flows.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1])).start()
print(server.pid, server.url, flush=True)
time.sleep(600)
"""


@pytest.mark.prefect
@pytest.mark.long
def test_it_ends_when_its_owner_is_killed(
    tmp_path: Path, wait_until: Callable[..., Any], ready_database: Callable[[Path], None]
) -> None:
    ready_database(tmp_path)
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout
    pid, url = owner.stdout.readline().split()
    owner.send_signal(signal.SIGKILL)
    owner.communicate()

    def gone() -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        return state in "ZX"

    wait_until(gone, 60.0)
    with pytest.raises((URLError, OSError)):
        urlopen(f"{url}/health", timeout=5)


def test_a_server_that_cannot_start_is_named_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect/prefect.db").mkdir()  # no database can be made there
    server = EmbeddedServer(tmp_path).start()
    began = time.monotonic()
    with pytest.raises(SandboxUnavailable) as caught:
        server.wait_ready(60.0)
    server.stop()
    assert caught.value.reason == "prefect"
    assert f"see the end of {tmp_path}/prefect/server.log" in str(caught.value)
    assert time.monotonic() - began < 45
    assert (tmp_path / "prefect/server.log").stat().st_size > 0


def test_stopping_what_never_started_is_fine(tmp_path: Path) -> None:
    EmbeddedServer(tmp_path).stop()
    assert json.dumps(os.listdir(tmp_path)) == "[]"
