"""The operator's settings: the guide's configuration table as one model, from a file, the environment or a call.

Order, the later wins: defaults, `settings.toml` in the state directory, `WORKFLOWMASTER_*` variables, arguments. A
limit given here can only lower what a policy grants: policies are a promise, settings are a convenience. An unknown
key is an error wherever it can be told from somebody else's variable, because a misspelt limit is no limit.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

PREFIX = "WORKFLOWMASTER_"


class SettingsError(ValueError):
    """A setting that does not exist or has an impossible value; the message says which, where and what is allowed."""


def home() -> Path:
    """Return the state directory: `WORKFLOWMASTER_HOME`, or the platform's place for a user's state."""
    given = os.environ.get(f"{PREFIX}HOME")
    if given:
        return Path(given).expanduser().resolve()
    from platformdirs import user_state_path

    return user_state_path("workflowmaster")


class Settings(BaseSettings):
    """What may be configured. Each field is a key of `settings.toml` and, in capitals, a `WORKFLOWMASTER_` variable."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    security_policy: str = "standard"
    """Policy of prompts that name none."""
    max_parallel_tasks: int = Field(default=3, ge=1, le=256)
    """Steps that may run at the same time."""
    default_timeout_seconds: float = Field(default=300, gt=0)
    """Wall time of command steps that name none, in seconds. Not a cap: a policy's maximum is."""
    max_retry_attempts: int = Field(default=3, ge=0, le=20)
    """Most retries any step gets, and what the skeleton's tasks get when nothing is said."""
    retry_backoff_strategy: Literal["exponential", "linear", "fixed"] = "exponential"
    """How the delay grows from one retry to the next, where a step does not say."""
    max_memory_mb: int | None = Field(default=None, ge=6)
    """Memory of any container in MiB at most, below its policy's."""
    max_cpu_cores: float | None = Field(default=None, gt=0)
    """Cores of any container at most, below its policy's."""
    image: str = "workflowmaster/step:1"
    """Image of steps that name none."""
    agent: str = ""
    """Command that does agent steps inside the sandbox, its prompt on stdin. Empty: agent steps cannot run."""
    commit_author: str = "WorkflowMaster <workflowmaster@localhost>"
    """Author of the commits on the run's branch."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments over variables over the file; no .env of a repository ever configures us."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, home() / "settings.toml")


def load(**given: Any) -> Settings:
    """Read the settings. SettingsError names the first bad key, its value's fault and where it was set."""
    _refuse_strangers()
    try:
        return Settings(**{key: value for key, value in given.items() if value is not None})
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{home() / 'settings.toml'}: not valid TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        place = f"{PREFIX}{key.upper()}" if f"{PREFIX}{key.upper()}" in os.environ else str(home() / "settings.toml")
        known = ", ".join(sorted(Settings.model_fields))
        raise SettingsError(f"{place}: {key}: {first['msg']} (got {first['input']!r}). Keys: {known}") from error


def _refuse_strangers() -> None:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | {f"{PREFIX}HOME"}
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            raise SettingsError(f"{name}: no such setting. Known: {', '.join(sorted(known))}")
