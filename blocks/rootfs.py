"""A root file system from Debian's packages, for hosts that no registry answers.

mmdebstrap is taken first: it needs no root where user namespaces or fakechroot work, resolves dependencies with apt,
and writes an archive instead of a folder. It does not read the host's apt configuration, so what the host says about
mirrors, proxies and dates is handed to it. debootstrap is the second choice where only that is installed.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Files are dated at most this, so that two builds from the same packages differ in nothing else. 2024-01-01.
_EPOCH = "1704067200"

# A system and its archive take 0.7 GB; the rest is left to whatever else runs.
_ROOM = 4 * 1024**3

_HANDED_ON = ("Acquire::http", "Acquire::https", "Acquire::Check-Valid-Until", "Acquire::Check-Date")

_ADVICE = (
    "Let this machine pull debian:bookworm-slim (`docker pull debian:bookworm-slim`), or on Debian or Ubuntu install "
    "mmdebstrap (`sudo apt-get update && sudo apt-get install mmdebstrap`), then run `workflowmaster image build` again"
)


class ImageBuildError(RuntimeError):
    """The step image could not be built; the message says what to do."""


@contextlib.contextmanager
def made(recipe: Path, log: Callable[[str], object]) -> Iterator[tuple[Path, str]]:
    """Yield (archive, tool): a tar archive of the recipe's system, deleted afterwards.

    Raises ImageBuildError when this host has neither the tools nor the rights, or the tool fails.
    """
    tool = _tool(log)
    with tempfile.TemporaryDirectory(prefix="workflowmaster-image-", dir=_scratch()) as folder:
        archive = Path(folder) / "rootfs.tar"
        log(f"making a root file system with {tool}")
        sources = _sources(log)
        if tool == "mmdebstrap":
            _run(_mmdebstrap(recipe, archive, sources), stdin="\n".join(sources), scratch=folder)
        else:
            _debootstrap(recipe, archive, sources)
        yield archive, tool


def _scratch() -> str | None:
    """Return a folder in memory where there is plenty: unpacking there takes half the time. Else None, the default."""
    import psutil

    memory = Path("/dev/shm")  # noqa: S108 - a fresh folder is made in it
    try:
        facts = os.statvfs(memory)
    except OSError:
        return None
    usable = os.access(memory, os.W_OK) and not facts.f_flag & (os.ST_NOEXEC | os.ST_NOSUID | os.ST_NODEV)
    room = min(facts.f_bavail * facts.f_frsize, psutil.virtual_memory().available)
    return str(memory) if usable and room > _ROOM else None


def _tool(log: Callable[[str], object]) -> str:
    """Return the tool to use, installing mmdebstrap where that is ours to do."""
    if shutil.which("apt-get") is None:
        raise ImageBuildError(f"no registry answers, and this host has no Debian packages. {_ADVICE}")
    if shutil.which("mmdebstrap"):
        return "mmdebstrap"
    if os.geteuid() == 0 and _installed("mmdebstrap", log):
        return "mmdebstrap"
    if os.geteuid() == 0 and shutil.which("debootstrap"):
        return "debootstrap"
    raise ImageBuildError(f"no registry answers, and mmdebstrap is not installed. {_ADVICE}")


def _installed(package: str, log: Callable[[str], object]) -> bool:
    """Install a package; whether that worked."""
    log(f"installing {package}")
    argv = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "install", "--yes", "--no-install-recommends", package]
    for _attempt in ("with the lists that are here", "with new ones"):
        try:
            _run(argv)
        except ImageBuildError as error:
            log(str(error))
            with contextlib.suppress(ImageBuildError):
                _run(["apt-get", "update"])
        else:
            return True
    return False


def _sources(log: Callable[[str], object]) -> list[str]:
    """Return apt's own Debian or Ubuntu sources as one-line entries; third-party ones stay out of the image."""
    found = _configured()
    if not found and os.geteuid() == 0:
        log("apt-get update")
        # A third-party source that does not answer fails the whole; whether Debian's did is asked below.
        with contextlib.suppress(ImageBuildError):
            _run(["apt-get", "update"])
        found = _configured()
    if not found:
        raise ImageBuildError("apt knows no Debian or Ubuntu packages: run `sudo apt-get update`, then this again")
    return found


def _configured() -> list[str]:
    asked = "$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)"
    return own_sources(_run(["apt-get", "indextargets", "--format", asked, "Created-By: Packages"]))


def own_sources(targets: str) -> list[str]:
    """Return one-line apt sources for the lines `origin|uri|suite|component` that are Debian's or Ubuntu's own.

    apt knows an origin only after an update; before, nothing is returned.
    """
    lines = dict.fromkeys(targets.splitlines())
    return ["deb {1} {2} {3}".format(*line.split("|")) for line in lines if line.split("|")[0] in ("Debian", "Ubuntu")]


def _mmdebstrap(recipe: Path, archive: Path, sources: list[str]) -> list[str]:
    packages = ",".join((recipe / "packages.txt").read_text().split())
    suite = sources[0].split()[2]
    finish = f'chroot "$1" sh -s < {shlex.quote(str(recipe / "finish.sh"))}'
    return [
        "mmdebstrap",
        "--quiet",
        "--variant=essential",
        f"--include={packages}",
        # No path-exclude for what finish.sh deletes: it would start a filter for each package, 16 s in all.
        # A crash loses the whole archive anyway; syncing every file would double the time.
        "--dpkgopt=force-unsafe-io",
        *(f"--aptopt={line}" for line in _apt_settings()),
        f"--customize-hook={finish}",
        suite,
        str(archive),
        "-",
    ]


def _apt_settings() -> list[str]:
    """Return what the host's apt says about proxies and dates."""
    lines = _run(["apt-config", "dump", "--format", "%f %v%n", *_HANDED_ON]).splitlines()
    pairs = (line.split(" ", 1) for line in lines)
    return [f'{name} "{value}";' for name, value in pairs if value]


def _debootstrap(recipe: Path, archive: Path, sources: list[str]) -> None:
    packages = ",".join((recipe / "packages.txt").read_text().split())
    _deb, mirror, suite, _component = sources[0].split()
    root = archive.parent / "root"
    _run(["debootstrap", "--variant=minbase", f"--include={packages}", suite, str(root), mirror])
    _run(["chroot", str(root), "sh", "-s"], stdin=(recipe / "finish.sh").read_text())
    _run(["tar", "--create", "--numeric-owner", "--one-file-system", f"--file={archive}", f"--directory={root}", "."])


def _run(argv: list[str], *, stdin: str = "", scratch: str = "") -> str:
    """Run a program and return its output. ImageBuildError holds the last lines of what it said."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "SOURCE_DATE_EPOCH": _EPOCH}
    environment |= {"TMPDIR": scratch} if scratch else {}
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise ImageBuildError(f"{argv[0]} failed with exit code {done.returncode}:\n{said}\n{_ADVICE}")
    return done.stdout
