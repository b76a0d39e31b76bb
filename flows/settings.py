"""The operator's settings: the guide's configuration table as one model, from a file, the environment or a call.

Order, the later wins: defaults, `settings.toml` in the state directory, `WORKFLOWMASTER_*` variables, arguments. A
limit given here can only lower what a policy grants: policies are a promise, settings are a convenience. An unknown
key is an error wherever it can be told from somebody else's variable, because a misspelt limit is no limit.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from workflowmaster.blocks.home import PREFIX, home
from workflowmaster.blocks.signing import is_public_key
from workflowmaster.policies.hosts import Exceptions

__all__ = ["PREFIX", "SECRETS", "Settings", "SettingsError", "home", "load"]

SECRETS = "SECRET"
"""What follows the prefix in the variables that hold secrets, before another `_` and the secret's name."""


def _listed(value: object) -> object:
    """Let a variable hold a list as words with commas between them; TOML has lists of its own."""
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


def _keys(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        if not is_public_key(text):
            raise ValueError(f"{text!r} is no public key: 32 bytes in base64, as `image list --json` prints them")
    return texts


def _anchors(words: tuple[str, ...]) -> tuple[str, ...]:
    for word in words:
        kind, _, name = word.partition(":")
        if not kind or not name:
            raise ValueError(f"{word!r} is no anchor: write folder:/path, or module:Class of an installed package")
    return words


def _inside(words: tuple[str, ...]) -> tuple[str, ...]:
    Exceptions.of(words)
    return words


Paths = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_listed)]
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed), AfterValidator(_anchors)]
PublicKeys = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed), AfterValidator(_keys)]
PrivateHosts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed), AfterValidator(_inside)]


class SettingsError(ValueError):
    """A setting that does not exist or has an impossible value; the message says which, where and what is allowed."""


class Settings(BaseSettings):
    """What may be configured. Each field is a key of `settings.toml` and, in capitals, a `WORKFLOWMASTER_` variable."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    security_policy: str = "standard"
    """Policy of prompts that name none."""
    max_parallel_tasks: int = Field(default=3, ge=1, le=256)
    """Steps that may run at the same time."""
    claim_lease_seconds: float = Field(default=20, ge=4, le=600)
    """Silence, in seconds, after which another machine may take a run over. A sign of life goes out every quarter."""
    default_timeout_seconds: float = Field(default=300, gt=0)
    """Wall time of command steps that name none, in seconds. Not a cap: a policy's maximum is."""
    max_retry_attempts: int = Field(default=3, ge=0, le=20)
    """Most retries any step gets, and what the skeleton's tasks get when nothing is said."""
    retry_backoff_strategy: Literal["exponential", "linear", "fixed"] = "exponential"
    """How the delay grows from one retry to the next, where a step does not say."""
    circuit_breaker_threshold: int = Field(default=3, ge=1, le=100)
    """Failures in a row of the engine, or of GitHub, after which nobody asks it again for a while."""
    circuit_breaker_seconds: float = Field(default=10, ge=0.1, le=3600)
    """How long that while is, in seconds; then one looks whether it answers."""
    engine_patience_seconds: float = Field(default=120, ge=0, le=86_400)
    """How long an engine that is away is waited for, in seconds, before the run stops and can be resumed."""
    budget_minutes: float | None = Field(default=None, gt=0)
    """Minutes that any run may work, at most; a prompt or `--budget` can only say less."""
    budget_attempts: int | None = Field(default=None, gt=0)
    """Attempts of steps in containers that any run may make, at most."""
    budget_container_minutes: float | None = Field(default=None, gt=0)
    """Minutes that the containers of any run may work, all together, at most."""
    budget_usd: float | None = Field(default=None, ge=0)
    """Money that the steps of any run may say they have spent, at most."""
    max_memory_mb: int | None = Field(default=None, ge=6)
    """Memory of any container in MiB at most, below its policy's."""
    max_cpu_cores: float | None = Field(default=None, gt=0)
    """Cores of any container at most, below its policy's."""
    image: str = "workflowmaster/step:1"
    """Image of steps that name none."""
    agent: str = ""
    """Command that does agent steps inside the sandbox, its prompt on stdin. Empty: agent steps cannot run."""
    policy_folders: Paths = ()
    """Further folders with policies of one's own, besides `policies` in the state directory."""
    trusted_image_keys: PublicKeys = ()
    """Public keys (base64) of other machines whose signed images are trusted here."""
    private_hosts: PrivateHosts = ()
    """Names, addresses and networks inside the organisation that steps may reach where their lists name them."""
    audit_enabled: bool = True
    """Whether the audit log's checkpoints are signed and anchored. The log itself is always kept."""
    audit_seeds: Path | None = None
    """Folder for the seeds that audit logs are verified with; another disk's or user's. None: the state directory."""
    audit_anchors: Words = ()
    """Where further copies of the audit log's checkpoints go: `folder:/path`, or `module:Class` of a package."""
    trusted_audit_keys: PublicKeys = ()
    """Public keys (base64) of other machines whose audit checkpoints hold here."""
    audit_max_mb: int = Field(default=100, ge=1)
    """Size in MiB at which a file of the audit log is full."""
    audit_retention_days: int = Field(default=90, ge=1)
    """Days after which `clean` drops whole files of the audit log; their checkpoints stay."""
    approval_timeout_hours: float | None = Field(default=None, gt=0)
    """Hours that a question to a person stays open. None: until somebody answers."""
    approval_timeout_action: Literal["wait", "skip", "abort", "deny"] = "deny"
    """What a question is answered when its time is over. `wait` only marks it as overdue."""
    autonomous_mode: bool = True
    """Whether failures are decided on without a person, and dead runs go on without anybody asking. Off: neither."""
    learning_enabled: bool = True
    """Whether past failures are learned from, and what was learned has a say in decisions. Rules stay on top."""
    resume_within_hours: float = Field(default=24, gt=0)
    """How long a run may have been dead and still go on by itself."""
    failure_rules: Paths = ()
    """Further files, or folders of files, with rules of one's own that say what a failure is (`failurerules`)."""
    commit_author: str = "WorkflowMaster <workflowmaster@localhost>"
    """Author of the commits on the run's branch."""

    @property
    def own_policies(self) -> tuple[Path, ...]:
        """Folders in which policies of one's own lie. Never the repository: who writes prompts must not write these."""
        return (home() / "policies", *(folder.expanduser() for folder in self.policy_folders))

    @property
    def own_failure_rules(self) -> tuple[Path, ...]:
        """Files and folders of failure rules of one's own, `failures.yaml` in the state directory first."""
        here = home() / "failures.yaml"
        return (*([here] if here.is_file() else []), *(place.expanduser() for place in self.failure_rules))

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
        # Which secrets there are, the prompts say.
        if name.startswith(PREFIX) and name not in known and not name.startswith(f"{PREFIX}{SECRETS}_"):
            raise SettingsError(f"{name}: no such setting. Known: {', '.join(sorted(known))}")
