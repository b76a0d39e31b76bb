"""The operator's settings: where they come from, which wins, and how a mistake is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from workflowmaster.flows import settings
from workflowmaster.flows.settings import SettingsError, load

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(home: Path) -> Path:
    home.mkdir()
    return home / "settings.toml"


def test_the_defaults_are_the_guides(home: Path) -> None:
    found = load()
    assert (found.security_policy, found.max_parallel_tasks, found.default_timeout_seconds) == ("standard", 3, 300)
    assert (found.max_retry_attempts, found.retry_backoff_strategy) == (3, "exponential")


def test_arguments_over_variables_over_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("max_parallel_tasks = 5\nimage = 'from-file'\nagent = 'from-file'\n")
    monkeypatch.setenv("WORKFLOWMASTER_IMAGE", "from-variable")
    monkeypatch.setenv("WORKFLOWMASTER_AGENT", "from-variable")
    found = load(agent="from-call", image=None)
    assert (found.max_parallel_tasks, found.image, found.agent) == (5, "from-variable", "from-call")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_paralel_tasks = 5\n", ["settings.toml", "max_paralel_tasks", "Keys:", "max_parallel_tasks"]),
        ("max_parallel_tasks = 0\n", ["settings.toml", "max_parallel_tasks", "greater than or equal to 1", "got 0"]),
        ("retry_backoff_strategy = 'never'\n", ["retry_backoff_strategy", "'never'"]),
        ("max_parallel_tasks = \n", ["settings.toml", "not valid TOML"]),
    ],
)
def test_a_mistake_in_the_file_is_named(file: Path, text: str, words: list[str]) -> None:
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load()
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_mistake_in_a_variable_names_the_variable(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKFLOWMASTER_MAX_PARALLEL_TASKS", "many")
    with pytest.raises(SettingsError, match=r"^WORKFLOWMASTER_MAX_PARALLEL_TASKS: .*'many'"):
        load()


def test_an_unknown_variable_is_no_setting(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKFLOWMASTER_MAX_MEMORY", "512")
    with pytest.raises(SettingsError, match="WORKFLOWMASTER_MAX_MEMORY: no such setting"):
        load()


def test_no_env_file_of_a_repository_configures_us(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("WORKFLOWMASTER_SECURITY_POLICY=minimal\n")
    monkeypatch.chdir(tmp_path)
    assert load().security_policy == "standard"


def test_home_is_the_variable_or_the_users_state(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.home() == home
    monkeypatch.delenv("WORKFLOWMASTER_HOME")
    assert settings.home() == tmp_path / "user/.local/state/workflowmaster"
    monkeypatch.setenv("WORKFLOWMASTER_HOME", "~/elsewhere")
    assert settings.home() == tmp_path / "user/elsewhere"
