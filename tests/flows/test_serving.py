"""Which Prefect server a run talks to, and what is said about one that does not answer."""

from __future__ import annotations

import os
import socket
import ssl
from typing import TYPE_CHECKING

import httpx
import pytest

from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.flows import serving

if TYPE_CHECKING:
    from pathlib import Path

PROFILES = """\
active = "work"

[profiles.work]
PREFECT_API_URL = "http://work.example/api"

[profiles.home]
PREFECT_API_URL = "http://home.example/api"

[profiles.none]
"""


@pytest.fixture
def profiles(home: Path, tmp_path: Path) -> Path:
    file = tmp_path / "user/.prefect/profiles.toml"
    file.parent.mkdir(parents=True)
    file.write_text(PROFILES)
    return file


def test_nothing_configured_is_no_server(home: Path) -> None:
    assert serving.api_url() == ""


def test_the_active_profile_counts(profiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert serving.api_url() == "http://work.example/api"
    monkeypatch.setenv("PREFECT_PROFILE", "home")
    assert serving.api_url() == "http://home.example/api"
    monkeypatch.setenv("PREFECT_PROFILE", "none")
    assert serving.api_url() == ""


def test_a_variable_wins_also_when_it_is_empty(profiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://variable.example/api")
    assert serving.api_url() == "http://variable.example/api"
    monkeypatch.setenv("PREFECT_API_URL", "")
    assert serving.api_url() == ""


def test_broken_profiles_are_prefects_business(profiles: Path) -> None:
    profiles.write_text("[[[")
    assert serving.api_url() == ""


def test_a_configured_server_is_used_and_ours_is_not_started(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{listener.getsockname()[1]}/api")
        with serving.server() as own:
            assert own is None
            assert os.environ["PREFECT_LOCAL_STORAGE_PATH"] == str(home / "results")
            assert os.environ["PREFECT_HOME"] == str(home / "prefect")
    assert [path.name for path in home.rglob("*") if path.is_file()] == ["one-certificate.pem"]


def test_no_bundle_of_certificates_is_loaded_where_no_tls_is_spoken(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setenv("PREFECT_API_URL", f"https://127.0.0.1:{port}/api")
        with serving.server():
            assert "PREFECT_API_SSL_CERT_FILE" not in os.environ
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
        with serving.server():
            context = ssl.create_default_context(cafile=os.environ["PREFECT_API_SSL_CERT_FILE"])
    assert len(context.get_ca_certs()) == 1
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_a_users_own_certificates_are_left_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_SSL_CERT_FILE", "/own.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{listener.getsockname()[1]}/api")
        with serving.server():
            assert os.environ["PREFECT_API_SSL_CERT_FILE"] == "/own.pem"


def test_a_users_own_prefect_home_is_left_to_prefect(profiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{listener.getsockname()[1]}/api")
        with serving.server():
            assert "PREFECT_HOME" not in os.environ


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/api", "http://127.0.0.1:99999/api", "http://no.such.host.invalid/api"]
)
def test_a_server_that_does_not_answer_is_named_at_once(home: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("PREFECT_API_URL", url)
    with pytest.raises(SandboxUnavailable) as caught, serving.server():
        pass
    assert caught.value.reason == "prefect"
    assert str(caught.value).startswith(f"the Prefect server {url} does not answer (")
    assert "unset PREFECT_API_URL" in str(caught.value)


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (httpx.ConnectError("refused"), SandboxUnavailable),
        (httpx.ReadTimeout("slow"), SandboxUnavailable),
        (RuntimeError("Failed to reach API at http://x/api/"), SandboxUnavailable),
        (RuntimeError("a bug"), RuntimeError),
        (ValueError("a bug"), ValueError),
    ],
)
def test_a_server_that_went_away_is_told_from_a_bug(error: Exception, wanted: type[Exception]) -> None:
    with pytest.raises(wanted) as caught, serving.trouble():
        raise error
    assert type(caught.value) is wanted
