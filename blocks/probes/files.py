"""Files: the image's, the product's own, the workspace's, and what may be left in `/out` for the host to fall over."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from workflowmaster.blocks.probes.battery import ALWAYS, Outside, probe
from workflowmaster.blocks.probes.kernel import call, failed, words

OUT = Path("/out")
AT_FDCWD = -100


def _fresh(path: Path) -> Path:
    path.unlink(missing_ok=True)
    return path


def _write(path: Path) -> None:
    _fresh(path).write_bytes(b"probe")
    path.unlink()


def _kept(path: Path, bit: int) -> None:
    """Make sure that a bit is really there: some file systems take it and drop it."""
    if not path.stat().st_mode & bit:
        raise failed(errno.EPERM, "the bit was dropped")


@probe("user >= workspace")
def write_image(_: Outside) -> None:
    """Write into the image's /usr/bin."""
    _write(Path("/usr/bin/wm-probe"))


@probe("user >= workspace")
def read_root_home(_: Outside) -> None:
    """Look into root's home in the image."""
    list(Path("/root").iterdir())


@probe("root_filesystem >= ro")
def write_var_tmp(_: Outside) -> None:
    """Leave a file in /var/tmp, in the container's own layer."""
    _write(Path("/var/tmp/wm-probe"))  # noqa: S108 - that anybody may write there is what is probed


@probe(ALWAYS)
def write_exchange(_: Outside) -> None:
    """Change what the product handed in at /wm."""
    _write(Path("/wm/probe"))


@probe("workspace >= none")
def read_workspace(_: Outside) -> None:
    """Read the workspace."""
    Path("/workspace/readme").read_bytes()


@probe("workspace >= overlay")
def write_workspace(_: Outside) -> None:
    """Change a file of the workspace."""
    Path("/workspace/readme").write_bytes(b"changed")


@probe("workspace >= overlay")
def git_hook(_: Outside) -> None:
    """Plant a git hook in the workspace, for the host's git to run."""
    folder = Path("/workspace/.git/hooks")
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "post-checkout")


@probe()
def write_out(_: Outside) -> None:
    """Write into /out."""
    _write(OUT / "file")


@probe()
def absolute_symlink(_: Outside) -> None:
    """Leave a symbolic link to a file of the host in /out."""
    _fresh(OUT / "link").symlink_to("/etc/passwd")
    (OUT / "link").unlink()


@probe("seccomp >= S1")
def setuid_bit(_: Outside) -> None:
    """Leave a setuid program in /out."""
    path = _fresh(OUT / "suid")
    path.touch()
    path.chmod(0o4755)
    _kept(path, stat.S_ISUID)


@probe("seccomp >= S1")
def setgid_bit(_: Outside) -> None:
    """Leave a setgid program in /out."""
    path = _fresh(OUT / "sgid")
    path.touch()
    path.chmod(0o2755)
    _kept(path, stat.S_ISGID)


@probe("seccomp >= S1")
def setuid_open(_: Outside) -> None:
    """Create a setuid program in /out at once, without chmod."""
    path = _fresh(OUT / "suid-open")
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o4755))
    _kept(path, stat.S_ISUID)


@probe("seccomp >= S1")
def setuid_openat2(_: Outside) -> None:
    """Create a setuid program in /out with openat2, whose mode no filter can see."""
    path = _fresh(OUT / "suid-openat2")
    how = words(os.O_CREAT | os.O_WRONLY, 0o4755, 0)
    os.close(call("openat2", AT_FDCWD, bytes(path), how, len(how) - 1))
    _kept(path, stat.S_ISUID)


@probe("seccomp >= S1")
def setuid_mknod(_: Outside) -> None:
    """Create a setuid program in /out with mknod."""
    path = _fresh(OUT / "suid-mknod")
    os.mknod(path, stat.S_IFREG | 0o4755)
    _kept(path, stat.S_ISUID)


@probe("seccomp >= S1")
def setgid_folder(_: Outside) -> None:
    """Leave a folder in /out that hands its group on."""
    path = OUT / "sgid-folder"
    path.mkdir(exist_ok=True)
    path.chmod(0o2755)
    _kept(path, stat.S_ISGID)


@probe("seccomp >= S4")
def fifo(_: Outside) -> None:
    """Leave a named pipe in /out, on which a careless reader waits for ever."""
    os.mkfifo(_fresh(OUT / "fifo"))
    (OUT / "fifo").unlink()


@probe("seccomp >= S4")
def hard_link(_: Outside) -> None:
    """Make a hard link in /out."""
    source = _fresh(OUT / "linked")
    source.touch()
    os.link(source, _fresh(OUT / "hard"))


@probe("seccomp >= S4")
def attribute(_: Outside) -> None:
    """Leave an extended attribute on a file in /out."""
    path = OUT / "attributed"
    path.touch()
    os.setxattr(path, "user.probe", b"1")


@probe("capabilities without SETFCAP")
def file_capability(_: Outside) -> None:
    """Leave a program in /out that gains CAP_SYS_ADMIN when it is run."""
    path = OUT / "able"
    path.touch()
    # Version 2 of the attribute, effective, with bit 21 permitted.
    value = bytes.fromhex("0100000200002000000000000000000000000000")
    os.setxattr(path, "security.capability", value)
    path.unlink()


@probe("seccomp >= S3")
def own_chown(_: Outside) -> None:
    """Call chown, if only to what the file is already."""
    path = OUT / "owned"
    path.touch()
    os.chown(path, os.getuid(), os.getgid())


@probe("user >= workspace")
def give_away(_: Outside) -> None:
    """Make a file in /out root's own."""
    path = _fresh(OUT / "given")
    path.touch()
    os.chown(path, 0, 0)
    path.unlink()


@probe("ipc >= none")
def shared_memory_folder(_: Outside) -> None:
    """Leave a file in /dev/shm."""
    _write(Path("/dev/shm/wm-probe"))  # noqa: S108 - likewise


@probe("seccomp >= S3")
def watch_files(_: Outside) -> None:
    """Watch a folder for changes (inotify)."""
    os.close(call("inotify_init1", 0))


@probe()
def climb_out(_: Outside) -> None:
    """Find names above the root of the file system; there are none, and the same ones are found."""
    if Path("/../../..").stat().st_ino != Path("/").stat().st_ino:
        raise failed(errno.EPERM)
