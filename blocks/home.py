"""Where the product keeps its own, in a file that costs nothing to import: `check` asks for it before anything else."""

from __future__ import annotations

import os
from pathlib import Path

PREFIX = "WORKFLOWMASTER_"


def home() -> Path:
    """Return the state directory: `WORKFLOWMASTER_HOME`, or the platform's place for a user's state."""
    given = os.environ.get(f"{PREFIX}HOME")
    if given:
        return Path(given).expanduser().resolve()
    from platformdirs import user_state_path

    return user_state_path("workflowmaster")


def configured() -> bool:
    """Whether anything but the defaults may hold: a variable of ours, a settings file, or policies of one's own."""
    # Conservative on purpose: whoever has set anything pays the 0.1 s that reading all of it costs.
    if any(name.startswith(PREFIX) and name != f"{PREFIX}HOME" for name in os.environ):
        return True
    return any((home() / name).exists() for name in ("settings.toml", "policies"))
