"""What a policy says to a step before anything runs: which images it may use, which variables it may carry.

Twice, because not all is known at once. The compiler has only names, and asks without an engine: `refused_image`,
`refused_variables`. When a reference has been resolved to an id, `refused_held` judges what is known of that id. Each
word of `image` adds a condition to the one before it, so what a stricter word lets through every looser one does.
"""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Held:
    """What is known of the image that a reference stands for now, beyond its name."""

    image_id: str
    by: str = ""
    """What holds the reference to this id and nothing else: `digest`, `lock` or `record`; empty: a tag may be moved."""
    signed: bool = False
    """Whether a manifest that is trusted here lists the id."""
    product: bool = False
    """Whether it is signed, and was built by the recipe of this version."""
    trouble: str = ""
    """Why it is not signed; empty where it is."""


def refused_held(policy: SecurityPolicy, reference: str, held: Held) -> str:
    """Return why the policy refuses an image by what is known of its id, and what to do; empty when it does not."""
    rule = policy.image
    if rule in ("any", "allowed"):
        return ""
    said = f"policy {policy.name!r} wants images that are {rule}, and {reference!r} ({held.image_id[7:19]}) "
    if rule == "pinned":
        # What is in a signed manifest is held to its id as well, or `signed` would let through what `pinned` does not.
        return "" if held.by or held.signed else f"{said}is a tag that may be moved: {_how_to_pin(reference)}"
    if not held.signed:
        return f"{said}is not: {held.trouble}; {_how_to_sign(reference)}"
    if rule == "product" and not held.product:
        return f"{said}was built by another recipe than this version's: workflowmaster image build"
    return ""


def _how_to_pin(reference: str) -> str:
    if is_ours(reference):
        return "sign it with `workflowmaster image build`"
    return (
        f"write it as {repository(reference)}@sha256:… (`docker image inspect -f '{{{{.RepoDigests}}}}' {reference}` "
        "says it), or compile the prompt and run its lock"
    )


def _how_to_sign(reference: str) -> str:
    if is_ours(reference):
        return "build and sign it with `workflowmaster image build`"
    return "only what `workflowmaster image build` makes is signed: leave `image` out, or name another policy"


def is_ours(reference: str) -> bool:
    """Whether a reference names an image that `workflowmaster image build` makes."""
    return repository(reference).startswith("workflowmaster/")


def refused_variables(policy: SecurityPolicy, names: Iterable[str]) -> tuple[str, ...]:
    """Return the variables the policy does not let a step carry, sorted."""
    if policy.environment is None:
        return ()
    allowed = policy.environment
    return tuple(sorted(name for name in names if not any(covers(pattern, name) for pattern in allowed)))
