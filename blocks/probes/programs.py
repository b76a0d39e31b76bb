"""Programs of the step's own making: where they can be put and run, with and without a file."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import subprocess
import sys
from pathlib import Path

from workflowmaster.blocks.probes.battery import ALWAYS, Absent, Outside, probe
from workflowmaster.blocks.probes.kernel import call, failed

SOURCE = Path(shutil.which("true") or "/bin/true")
NOEXEC = "tmp.exec == false"
TMP = Path("/tmp")  # noqa: S108 - the container's own


def _copied(folder: Path) -> Path:
    """Put a program into a folder, under a name that nobody else uses at this time."""
    path = folder / f"probe-{os.getpid()}"
    shutil.copyfile(SOURCE, path)
    path.chmod(0o755)
    return path


def _run(*argv: str | Path) -> None:
    """Run it; OSError where the kernel refuses to."""
    if code := subprocess.run(argv, check=False).returncode:
        raise failed(errno.EACCES, f"it ended with {code}")


def _run_here(path: Path) -> None:
    """Become the program, which ends this probe: with success when its pipe is closed by nobody else."""
    child = os.fork()
    if child == 0:
        try:
            os.execv(path, [str(path)])  # noqa: S606 - a shell would only stand in the way
        except OSError as error:
            os._exit(error.errno or 1)
    status = os.waitpid(child, 0)[1]
    if code := os.waitstatus_to_exitcode(status):
        raise failed(max(code, 1))


@probe(NOEXEC)
def run_from_tmp(_: Outside) -> None:
    """Run a program of its own from /tmp."""
    _run_here(_copied(TMP))


@probe("root_filesystem >= ro")
def run_from_var_tmp(_: Outside) -> None:
    """Run a program of its own from /var/tmp."""
    _run_here(_copied(Path("/var/tmp")))  # noqa: S108 - that anybody may write there is what is probed


@probe()
def run_from_out(_: Outside) -> None:
    """Run a program of its own from /out."""
    _run_here(_copied(Path("/out")))


@probe("workspace >= overlay")
def run_from_workspace(_: Outside) -> None:
    """Run a program of its own from the workspace."""
    _run_here(_copied(Path("/workspace")))


@probe(ALWAYS)
def run_from_shared_memory(_: Outside) -> None:
    """Run a program of its own from /dev/shm."""
    _run_here(_copied(Path("/dev/shm")))  # noqa: S108 - likewise


@probe(NOEXEC)
def loader_on_tmp(_: Outside) -> None:
    """Have the dynamic loader run a program in /tmp that may not be run itself."""
    loader = next(iter(sorted(Path("/").glob("lib*/ld-linux*.so.*"))), None)
    if loader is None:
        raise Absent("the image has no loader of glibc's")
    _run(loader, _copied(TMP))


@probe(NOEXEC)
def map_code_from_tmp(_: Outside) -> None:
    """Map a file in /tmp as code."""
    with _copied(TMP).open("rb") as file:
        mmap.mmap(file.fileno(), mmap.PAGESIZE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()


@probe()
def script_on_tmp(_: Outside) -> None:
    """Have an interpreter read a script in /tmp, which no mount option can stop."""
    script = TMP / f"probe-{os.getpid()}.py"
    script.write_text("raise SystemExit(0)")
    _run(sys.executable, "-I", script)


@probe("seccomp >= S3")
def memory_file(_: Outside) -> None:
    """Make a file that lies in memory only (memfd_create)."""
    os.close(call("memfd_create", b"probe", 0))


@probe("seccomp >= S3")
def run_memory_file(_: Outside) -> None:
    """Run a program from memory, past every noexec."""
    fd = call("memfd_create", b"probe", 0)
    os.write(fd, SOURCE.read_bytes())
    _run_here(Path(f"/proc/{os.getpid()}/fd/{fd}"))


@probe("seccomp >= S3")
def secret_memory(_: Outside) -> None:
    """Make memory that not even the kernel looks into (memfd_secret)."""
    os.close(call("memfd_secret", 0))


@probe("seccomp >= S3")
def run_descriptor(_: Outside) -> None:
    """Run an open file that needs no name (execveat)."""
    child = os.fork()
    if child == 0:
        try:
            fd = os.open(SOURCE, os.O_RDONLY)
            call("execveat", fd, b"", 0, 0, 0x1000)  # AT_EMPTY_PATH
        except OSError as error:
            os._exit(error.errno or 1)
        except Absent:
            os._exit(errno.ENOSYS)
    status = os.waitpid(child, 0)[1]
    # Without arguments `true` still ends with 0, or is ended by a loader that misses them: it ran either way.
    if code := max(os.waitstatus_to_exitcode(status), 0):
        raise failed(code)


@probe()
def writable_code(_: Outside) -> None:
    """Have memory that is written and run, as every just-in-time compiler does."""
    mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


@probe("seccomp >= S3")
def protection_key(_: Outside) -> None:
    """Take a memory protection key."""
    call("pkey_alloc", 0, 0)
