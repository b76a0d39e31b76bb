"""What a policy says to a step before anything runs: which images it may use, which variables it may carry.

Only names are judged here, so the compiler can ask without an engine. Whether an image is held by id, signed, or built
by us is seen when the reference is resolved, and is for the sandbox to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflowmaster.policies.values import covers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workflowmaster.policies.model import SecurityPolicy

# Spellings of one place: `python`, `library/python` and `docker.io/library/python` are the same repository.
_IMPLIED = ("docker.io/", "index.docker.io/", "library/")


def repository(reference: str) -> str:
    """Return the repository an image reference names: without tag, digest and what is implied.

    Empty for an image id, which names none.
    """
    name = reference.strip().split("@", 1)[0]
    head, slash, last = name.rpartition("/")
    # A colon before the last slash belongs to a port; `sha256:…` alone is an id.
    last = last.split(":", 1)[0]
    name = f"{head}{slash}{last}"
    for implied in _IMPLIED:
        name = name.removeprefix(implied)
    return "" if name == "sha256" else name


def refused_image(policy: SecurityPolicy, reference: str) -> str:
    """Return why the policy refuses an image by its name; empty when it does not."""
    if policy.image == "any" or policy.images is None:
        return ""
    name = repository(reference)
    if name and any(covers(allowed, name) for allowed in policy.images):
        return ""
    known = ", ".join(policy.images) or "none"
    return f"policy {policy.name!r} does not allow the image {reference!r}; it allows the repositories {known}"


def refused_variables(policy: SecurityPolicy, names: Iterable[str]) -> tuple[str, ...]:
    """Return the variables the policy does not let a step carry, sorted."""
    if policy.environment is None:
        return ()
    allowed = policy.environment
    return tuple(sorted(name for name in names if not any(covers(pattern, name) for pattern in allowed)))
