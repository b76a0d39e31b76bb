"""Build our images: the one that a step runs in when it names none, and the one that the proxy runs in.

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

__all__ = [
    "DEFAULT_IMAGE",
    "PROXY",
    "RECIPE_LABEL",
    "STEP",
    "BuiltImage",
    "ImageBuildError",
    "Recipe",
    "build",
    "current",
    "recipe_hash",
]

DEFAULT_IMAGE = "workflowmaster/step:1"
"""Image of a step that names none. The number rises when a recipe breaks what steps could rely on."""

RECIPE_LABEL = "workflowmaster.recipe"
"""Label that holds the hash of the recipe an image was built by."""

_SETTING_LINES = ("ENV ", "WORKDIR ", "USER ", "CMD ")
"""The Dockerfile's instructions that an import takes over, so that they are written once."""

# Long enough for the base image on a slow line; an unreachable registry answers sooner, by an error.
_PULL_SECONDS = 60


@dataclass(frozen=True)
class Recipe:
    """What one of our images is made from."""

    reference: str
    """The name it gets."""
    folder: Path
    """Where its `Dockerfile`, `packages.txt` and `finish.sh` lie."""
    trial: tuple[str, ...]
    """A command that ends with 0 in an image that is whole."""


_IMAGES = Path(__file__).parent / "images"
STEP = Recipe(DEFAULT_IMAGE, _IMAGES / "step", ("python3", "-c", "import ssl, venv"))
PROXY = Recipe("workflowmaster/proxy:1", _IMAGES / "proxy", ("sh", "-c", "socat -V && squid --version"))


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
    recipe: Recipe = STEP,
    *,
    reference: str = "",
    force: bool = False,
    log: Callable[[str], object] = lambda _line: None,
) -> BuiltImage:
    """Build the image unless one by the same recipe is there, and return it. `reference` is another name for it.

    Raises ImageBuildError when neither way works, and docker's own DockerException when the engine does not answer.
    """
    import docker
    from docker.utils import parse_repository_tag

    start = time.monotonic()
    reference = reference or recipe.reference
    client = docker.from_env(timeout=600)
    # The question is asked under the lock, or a second process would build what the first has just finished.
    with _alone(recipe):
        found = None if force else current(client, reference, recipe)
        how = "cached"
        if found is None:
            found, how = _build(client, recipe, log)
            _try_out(client, found, recipe)
            repository, tag = parse_repository_tag(reference)
            client.api.tag(found, repository, tag)
    return BuiltImage(found, reference, time.monotonic() - start, how)


def current(client: Any, reference: str = DEFAULT_IMAGE, recipe: Recipe = STEP) -> str | None:
    """Return the id of the local image of that name if today's recipe built it, else None."""
    import docker.errors

    try:
        image = client.images.get(reference)
    except docker.errors.ImageNotFound:
        return None
    return str(image.id) if image.labels.get(RECIPE_LABEL) == recipe_hash(recipe) else None


def recipe_hash(recipe: Recipe = STEP) -> str:
    """Return the hash (16 hex digits) of everything the image is made from but the packages' versions."""
    digest = hashlib.sha256()
    for path in sorted(recipe.folder.iterdir()):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def _alone(recipe: Recipe) -> Iterator[None]:
    """Wait until no other process builds: the second one then finds the image of the first."""
    # The recipe's folder itself is the lock: nothing is left behind, and the kernel frees it with the process.
    folder = os.open(recipe.folder, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _try_out(client: Any, image: str, recipe: Recipe) -> None:
    """Run the image once before it gets its name: an engine imports even a truncated archive without a word."""
    from docker.errors import DockerException

    container = client.containers.create(image, list(recipe.trial), network_mode="none")
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


def _build(client: Any, recipe: Recipe, log: Callable[[str], object]) -> tuple[str, str]:
    """Return (id, how) of a new image without a name."""
    refused = _pull_base(client, recipe, log)
    if not refused:
        try:
            return _from_dockerfile(client, recipe, log), "dockerfile"
        except ImageBuildError as error:
            # The base may be here and its package mirror out of a container's reach; the host's may still answer.
            refused = str(error)
    log(f"no build from a base image: {refused}")
    with rootfs.made(recipe.folder, log) as (archive, how):
        return _import(client, archive, recipe, log), how


def _pull_base(client: Any, recipe: Recipe, log: Callable[[str], object]) -> str:
    """Make the Dockerfile's base image available. Return why that failed, or nothing."""
    import docker
    from requests.exceptions import RequestException

    first = next(line for line in (recipe.folder / "Dockerfile").read_text().splitlines() if line.startswith("FROM"))
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


def _from_dockerfile(client: Any, recipe: Recipe, log: Callable[[str], object]) -> str:
    from docker.errors import APIError, BuildError

    log(f"building {recipe.reference} from its Dockerfile")
    try:
        image, _lines = client.images.build(
            path=str(recipe.folder),
            rm=True,
            forcerm=True,
            labels={RECIPE_LABEL: recipe_hash(recipe)},
            use_config_proxy=True,
        )
    except (APIError, BuildError) as error:
        raise ImageBuildError(f"the Dockerfile did not build: {error}") from error
    return str(image.id)


def _import(client: Any, archive: Path, recipe: Recipe, log: Callable[[str], object]) -> str:
    log(f"importing {archive.stat().st_size / 1024**2:.0f} MB")
    lines = (recipe.folder / "Dockerfile").read_text().splitlines()
    settings = [line for line in lines if line.startswith(_SETTING_LINES)]
    changes = [*settings, f"LABEL {RECIPE_LABEL}={recipe_hash(recipe)}"]
    answer = client.api.import_image_from_file(str(archive), changes=changes)
    said = json.loads(answer.splitlines()[-1])
    if "error" in said:
        raise ImageBuildError(f"the engine did not take the image: {said['error']}")
    return str(said["status"])


def main() -> int:
    """Build our images and say what was done. Return the exit code."""
    from docker.errors import DockerException

    for recipe in (STEP, PROXY):
        try:
            image = build(recipe, log=lambda line: print(line, file=sys.stderr))
        except (DockerException, ImageBuildError) as error:
            print(f"{recipe.reference} was not built: {error}", file=sys.stderr)
            return 4
        print(f"{image.reference} {image.id[:19]} ({image.how}, {image.seconds:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
