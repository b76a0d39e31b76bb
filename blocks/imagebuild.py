"""Build the step image: the container that a step runs in when it names none.

The hard choice: two ways to the same image. Where a registry answers, `docker build` from Debian's slim image; where
none does (a closed network, a rate limit), a root file system made from Debian's own packages and imported. One way
would be less code, but a product whose first command needs a public registry stops at the first firewall. The accepted
cost is that the two are equal in packages and set-up (`packages.txt`, `finish.sh`), not byte for byte.

Nothing is built twice: the image carries the hash of its recipe, and a half-built one never gets the name, because
the name is given last.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflowmaster.blocks import rootfs
from workflowmaster.blocks.rootfs import ImageBuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["DEFAULT_IMAGE", "RECIPE_LABEL", "BuiltImage", "ImageBuildError", "build", "current", "recipe_hash"]

DEFAULT_IMAGE = "workflowmaster/step:1"
"""Image of a step that names none. The number rises when a recipe breaks what steps could rely on."""

RECIPE = Path(__file__).parent / "images" / "step"
RECIPE_LABEL = "workflowmaster.recipe"
"""Label that holds the hash of the recipe an image was built by."""

_SETTING_LINES = ("ENV ", "WORKDIR ", "USER ", "CMD ")
"""The Dockerfile's instructions that an import takes over, so that they are written once."""

# Long enough for the base image on a slow line; an unreachable registry answers sooner, by an error.
_PULL_SECONDS = 60


@dataclass(frozen=True)
class BuiltImage:
    """The outcome of a build."""

    id: str
    """The engine's id, `sha256:…`."""
    reference: str
    seconds: float
    how: str
    """`cached`, `dockerfile`, `mmdebstrap` or `debootstrap`."""


def build(
    *,
    reference: str = DEFAULT_IMAGE,
    force: bool = False,
    log: Callable[[str], object] = lambda _line: None,
) -> BuiltImage:
    """Build the image unless one by the same recipe is there, and return it.

    Raises ImageBuildError when neither way works, and docker's own DockerException when the engine does not answer.
    """
    import docker
    from docker.utils import parse_repository_tag

    start = time.monotonic()
    client = docker.from_env(timeout=600)
    # The question is asked under the lock, or a second process would build what the first has just finished.
    with _alone():
        found = None if force else current(client, reference)
        how = "cached"
        if found is None:
            found, how = _build(client, log)
            _try_out(client, found)
            repository, tag = parse_repository_tag(reference)
            client.api.tag(found, repository, tag)
    return BuiltImage(found, reference, time.monotonic() - start, how)


def current(client: Any, reference: str = DEFAULT_IMAGE) -> str | None:
    """Return the id of the local image of that name if today's recipe built it, else None."""
    import docker.errors

    try:
        image = client.images.get(reference)
    except docker.errors.ImageNotFound:
        return None
    return str(image.id) if image.labels.get(RECIPE_LABEL) == recipe_hash() else None


def recipe_hash() -> str:
    """Return the hash (16 hex digits) of everything the image is made from but the packages' versions."""
    digest = hashlib.sha256()
    for path in sorted(RECIPE.iterdir()):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Wait until no other process builds: the second one then finds the image of the first."""
    # The recipe's folder itself is the lock: nothing is left behind, and the kernel frees it with the process.
    folder = os.open(RECIPE, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _try_out(client: Any, image: str) -> None:
    """Run the image once before it gets its name: an engine imports even a truncated archive without a word."""
    from docker.errors import DockerException

    container = client.containers.create(image, ["python3", "-c", "import ssl, venv"], network_mode="none")
    try:
        container.start()
        code = container.wait()["StatusCode"]
        said = container.logs(tail=5).decode(errors="replace")
    except DockerException as error:
        code, said = -1, str(error)
    finally:
        container.remove(force=True)
    if code:
        with contextlib.suppress(DockerException):
            client.images.remove(image)
        raise ImageBuildError(f"the new image does not run, and was removed: {said}")


def _build(client: Any, log: Callable[[str], object]) -> tuple[str, str]:
    """Return (id, how) of a new image without a name."""
    refused = _pull_base(client, log)
    if not refused:
        try:
            return _from_dockerfile(client, log), "dockerfile"
        except ImageBuildError as error:
            # The base may be here and its package mirror out of a container's reach; the host's may still answer.
            refused = str(error)
    log(f"no build from a base image: {refused}")
    with rootfs.made(RECIPE, log) as (archive, how):
        return _import(client, archive, log), how


def _pull_base(client: Any, log: Callable[[str], object]) -> str:
    """Make the Dockerfile's base image available. Return why that failed, or nothing."""
    import docker
    from requests.exceptions import RequestException

    first = next(line for line in (RECIPE / "Dockerfile").read_text().splitlines() if line.startswith("FROM"))
    base = first.split()[1]
    # A base that is here is good enough: a pull would only ask a registry for permission to use it.
    if base in {tag for image in client.images.list() for tag in image.tags}:
        return ""
    log(f"pulling {base}")
    try:
        docker.from_env(timeout=_PULL_SECONDS).images.pull(base)
    except (docker.errors.APIError, RequestException) as error:
        return f"{base}: {getattr(error, 'explanation', None) or error}"
    return ""


def _from_dockerfile(client: Any, log: Callable[[str], object]) -> str:
    from docker.errors import APIError, BuildError

    log("building from the Dockerfile")
    try:
        image, _lines = client.images.build(
            path=str(RECIPE), rm=True, forcerm=True, labels={RECIPE_LABEL: recipe_hash()}, use_config_proxy=True
        )
    except (APIError, BuildError) as error:
        raise ImageBuildError(f"the Dockerfile did not build: {error}") from error
    return str(image.id)


def _import(client: Any, archive: Path, log: Callable[[str], object]) -> str:
    log(f"importing {archive.stat().st_size / 1024**2:.0f} MB")
    lines = (RECIPE / "Dockerfile").read_text().splitlines()
    changes = [line for line in lines if line.startswith(_SETTING_LINES)] + [f"LABEL {RECIPE_LABEL}={recipe_hash()}"]
    answer = client.api.import_image_from_file(str(archive), changes=changes)
    said = json.loads(answer.splitlines()[-1])
    if "error" in said:
        raise ImageBuildError(f"the engine did not take the image: {said['error']}")
    return str(said["status"])


def main() -> int:
    """Build the default image and say what was done; what `scripts/setup` calls. Return the exit code."""
    from docker.errors import DockerException

    try:
        image = build(log=lambda line: print(line, file=sys.stderr))
    except (DockerException, ImageBuildError) as error:
        print(f"the step image was not built: {error}", file=sys.stderr)
        return 4
    print(f"{image.reference} {image.id[:19]} ({image.how}, {image.seconds:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
