"""The controls of a container that waits for its go, each judged by one function. Pure.

A function's docstring is the standard; it answers with (declared, found) where what holds is weaker, else None. What a
policy promises and no kernel file can show is not here: limits of time and output are kept by the reader, growth by the
watcher of the disk, images and environment before anything is created (`ELSEWHERE` lists them).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from workflowmaster.blocks.accent import profile_path
from workflowmaster.blocks.capabilities import mask, names
from workflowmaster.blocks.effective import MASKED
from workflowmaster.blocks.handout import SECRETS
from workflowmaster.blocks.judging import CONTROLS, Case, Weakness, control
from workflowmaster.blocks.mountinfo import MountPoint, at
from workflowmaster.blocks.request import SCRATCH, WORKSPACE
from workflowmaster.blocks.runtime import confinement_for, is_gvisor, pids_granted, runtime_for
from workflowmaster.policies import seccomp_text, show_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["CONTROLS", "ELSEWHERE"]

ELSEWHERE = frozenset(
    {"disk", "result_cap", "wall_seconds_default", "wall_seconds_max", "output_cap", "image", "images", "environment"}
)
"""Fields of a policy that are kept by other parts of the sandbox."""

SHM = "/dev/shm"  # noqa: S108 - a mount's place, no file

INITS = frozenset({"docker-init", "tini", "tini-static", "catatonit", "podman-init", "dumb-init", "init"})
"""Programs that engines put in as pid 1; `init` is the engine's word for whichever it is."""

ENGINE_FILES = frozenset({"/etc/resolv.conf", "/etc/hosts", "/etc/hostname", "/run/.containerenv"})
"""What an engine lays over an image, from files of its own for this container."""

USER_FILES = frozenset({"/etc/passwd", "/etc/group"})
"""What Podman lays over an image that does not know the user: copies with one line more, in the container's folder."""

INIT_FILES = frozenset({"/sbin/docker-init", "/usr/sbin/docker-init", "/dev/init", "/run/podman-init"})

DEVICE_FILES = frozenset(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty"))
"""Devices that an engine without root must borrow from the host, because it can make none."""

KERNEL_MOUNTS = frozenset({"/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys/fs/cgroup"})
"""Writable by their nature, each the container's own and closed to all but root where it matters."""

SOCKETS = ("docker.sock", "podman.sock", "containerd.sock", "crio.sock")
"""Whoever reaches one of these owns the host."""

DEVICE_RULES = frozenset(
    {"c *:* m", "b *:* m", "c 10:200 rwm", "c 136:* rwm"}
    | {f"c 1:{minor} rwm" for minor in (3, 5, 7, 8, 9)}
    | {f"c 5:{minor} rwm" for minor in (0, 1, 2)}
)
"""What runtimes always allow: null, zero, full, random, urandom, the terminals, and making nodes nobody can open."""

_ENGINE = "use an engine that enforces it (`workflowmaster doctor` shows which controls this one does)"
_CGROUP = "give the engine this cgroup controller, or use one that has it"
_OPTIONS = "the engine was started with options that widen containers: take them back"


@control("uids", "gids", mend="run the engine without a user of its own making, and see that the step's is not root")
def user(case: Case) -> Weakness | None:
    """Require all four uids to be the step's own and not 0, and no other group beside its own."""
    # The image's own list of users may add groups to a uid; asked for with a group, the engine leaves them out.
    uid, _, gid = case.request.user.partition(":")
    uids, gids = case.seen.uids or frozenset(), case.seen.gids or frozenset()
    if uids == {int(uid)} and gids == {int(gid or uid)} and 0 not in uids:
        return None
    return f"uid {uid}, gid {gid}, never 0", f"uid {_numbers(uids)}, gid {_numbers(gids)}"


@control("bounding", mend=_ENGINE)
def capabilities(case: Case) -> Weakness | None:
    """Require exactly the policy's bounding set, and no more in any other set; Podman is asked for none (`accent`)."""
    asked = () if case.info.flavour == "podman" else case.policy.capabilities
    # Fewer are refused as well: what `minimal` declares, package managers rely on.
    wanted, bounding, granted = mask(asked), case.seen.bounding or 0, case.seen.granted or 0
    if bounding == wanted and not granted & ~wanted:
        return None
    return _listed(case.policy.capabilities), _listed(names(bounding | granted))


@control("no_new_privileges", promised=lambda asked: asked.policy.no_new_privileges, mend=_ENGINE)
def no_new_privileges(case: Case) -> Weakness | None:
    """Require that setuid programs raise nothing."""
    return None if case.seen.no_new_privileges else ("on", "off")


@control("seccomp", mend="use a kernel and an engine with seccomp, and no option that switches it off")
def seccomp(case: Case) -> Weakness | None:
    """Require a filter of system calls."""
    return None if case.seen.seccomp else (f"a filter ({case.policy.seccomp})", "none")


@control("profile", mend=_OPTIONS)
def seccomp_profile(case: Case) -> Weakness | None:
    """Require the policy's own profile. The kernel shows that there is a filter and not which: the engine's word."""
    ours = profile_path(case.policy) if case.info.flavour == "podman" else seccomp_text(case.policy)
    same = case.seen.profile == ours
    return None if same else (f"our profile {case.policy.seccomp}", "another")


@control("init", promised=lambda asked: asked.policy.init, mend="install the engine's init (docker-init, catatonit)")
def init(case: Case) -> Weakness | None:
    """Require an init as pid 1, which reaps orphans."""
    # Asked for the host's processes, Docker 20.10 leaves its init out without a word.
    return None if case.seen.init in INITS else ("an init as pid 1", case.seen.init or "none")


@control("mounts", promised=lambda asked: asked.policy.root_filesystem == "ro", mend=_ENGINE)
def root_filesystem(case: Case) -> Weakness | None:
    """Require that the image's files cannot be changed."""
    root = at(case.seen.mounts or (), "/")
    return None if root and not root.writable else ("read-only", "writable")


@control("mounts", promised=lambda asked: asked.policy.tmp is not None, mend=_ENGINE)
def tmp(case: Case) -> Weakness | None:
    """Require `/tmp` in memory, not larger than declared, without devices and setuid, and noexec where declared."""
    tmp, mount = case.policy.tmp, at(case.seen.mounts or (), SCRATCH)
    if tmp is None:
        return None
    # The mount's own flags count: those of the file system say nothing of setuid or programs.
    flags = {"nosuid", "nodev", *(() if tmp.exec else ("noexec",))}
    declared = f"tmpfs {show_size(tmp.size)} {' '.join(sorted(flags))} inodes {tmp.inodes or 'any'}"
    if mount is None or mount.kind != "tmpfs":
        return declared, "no tmpfs"
    # To the kernel 0 means without end, for the size as for the number of files.
    inodes = mount.detail("nr_inodes")
    few = tmp.inodes is None or (inodes.isdigit() and 0 < int(inodes) <= tmp.inodes)
    if flags <= mount.options and 0 < (mount.size or 0) <= tmp.size and few:
        return None
    return declared, f"tmpfs {' '.join(sorted(mount.options | mount.details))}"


@control("mounts", promised=lambda asked: bool(asked.secrets), mend=_ENGINE)
def secrets(case: Case) -> Weakness | None:
    """Require a file system in memory for secrets, from which nothing runs."""
    mount = at(case.seen.mounts or (), SECRETS)
    if mount and mount.kind == "tmpfs" and {"nosuid", "nodev", "noexec"} <= mount.options:
        return None
    return "a tmpfs nodev noexec nosuid", f"{mount.kind} {' '.join(sorted(mount.options))}" if mount else "none"


@control("mounts", promised=lambda asked: asked.policy.workspace in ("overlay", "none"), mend=_OPTIONS)
def workspace(case: Case) -> Weakness | None:
    """Require a read-only working tree, or none at all."""
    mount = at(case.seen.mounts or (), WORKSPACE)
    if mount is None or (case.policy.workspace == "overlay" and not mount.writable):
        return None
    return ("read-only", "writable") if case.policy.workspace == "overlay" else ("none", f"a mount at {WORKSPACE}")


@control("mounts", "misplaced", mend="look whether something else than the engine answers on its socket")
def mounts(case: Case) -> Weakness | None:
    """Require of each folder handed in that it is the one meant, read-only where asked, and no engine's socket."""
    seen = case.seen.mounts or ()
    wrong = [f"{target} leads elsewhere or nowhere" for target in sorted(case.seen.misplaced or ())]
    for asked in case.request.mounts:
        there = at(seen, asked.target)
        if there and there.writable and not asked.writable:
            wrong.append(f"{asked.target} is writable")
    # By the name it has on the host: what it is called inside, whoever asked for it chose.
    wrong += [f"{mount.target} is the socket of an engine" for mount in seen if mount.root.endswith(SOCKETS)]
    return ("the folders of the step, as asked for", "; ".join(wrong)) if wrong else None


@control("mounts", "foreign", mend="use an image without that VOLUME, or take the engine's default mounts back")
def other_mounts(case: Case) -> Weakness | None:
    """Require that nothing else can be written, and nothing else of the host is seen."""
    # A bind is recursive, and what is mounted below a read-only one can be written: that shows up here.
    stray = [*_stray(case)]
    return ("no other writable mount, and none of the host", ", ".join(stray)) if stray else None


def _stray(case: Case) -> Iterator[str]:
    # Those have a control of their own.
    judged = {"/", SHM, *(asked.target for asked in case.request.mounts)}
    judged |= {SCRATCH} if case.policy.tmp else set()
    judged |= {SECRETS} if case.request.secrets else set()
    # Where the root can be written, a volume is no more than that: a place of the engine's without a limit.
    loose = case.policy.root_filesystem == "rw"
    for mount in case.seen.mounts or ():
        if mount.target in judged or (loose and (_is_volume(mount) or mount.target in ENGINE_FILES)):
            continue
        if _is_volume(mount) and mount.writable:
            yield f"{mount.target}, a writable volume that image {case.request.image_id[:19]} declares"
        elif mount.writable and mount.target not in KERNEL_MOUNTS | DEVICE_FILES and not _is_mask(mount):
            yield f"{mount.target}, writable ({mount.kind})"
        elif mount.target in (case.seen.foreign or ()) and not _is_engines(mount):
            yield f"{mount.target}, of the host ({mount.kind})"


def _is_volume(mount: MountPoint) -> bool:
    return "/volumes/" in mount.root and mount.root.endswith("/_data")


def _is_mask(mount: MountPoint) -> bool:
    # A file is hidden by /dev/null, which is writable on purpose; a directory by an empty read-only tmpfs.
    return mount.target in MASKED and mount.root == "/null"


def _is_engines(mount: MountPoint) -> bool:
    known = ENGINE_FILES | INIT_FILES | DEVICE_FILES
    users = mount.target in USER_FILES and mount.root.endswith(f"/userdata{mount.target.removeprefix('/etc')}")
    return mount.target in known or mount.kind.startswith("cgroup") or _is_mask(mount) or users


@control("exposed", mend=_OPTIONS)
def kernel_paths(case: Case) -> Weakness | None:
    """Require that what shows or steers the kernel in `/proc` and `/sys` is hidden or read-only."""
    return ("hidden or read-only", ", ".join(sorted(case.seen.exposed))) if case.seen.exposed else None


@control("devices", mend=_OPTIONS)
def devices(case: Case) -> Weakness | None:
    """Require that no device of the host can be opened."""
    # Version 2 keeps the list in a BPF program: there it is the engine's word.
    more = (case.seen.devices or frozenset()) - DEVICE_RULES
    return ("no device of the host", ", ".join(sorted(more))) if more else None


@control("memory", mend=_CGROUP)
def memory(case: Case) -> Weakness | None:
    """Require that the cgroup's limit is not above the policy's."""
    return _above(case.seen.memory, case.policy.memory, size=True)


@control("memory_and_swap", mend="switch swap accounting on (swapaccount=1), or swap off")
def swap(case: Case) -> Weakness | None:
    """Require the same limit for memory and swap together as for memory alone."""
    # Left out, an engine grants as much swap again.
    return _above(case.seen.memory_and_swap, case.policy.memory, size=True)


@control("cpus", mend=_CGROUP)
def cpus(case: Case) -> Weakness | None:
    """Require a quota of time not above the policy's; more cores than the host has cannot be asked for."""
    return _above(case.seen.cpus, min(case.policy.cpus, case.info.cpus))


@control("pids", mend=_CGROUP)
def pids(case: Case) -> Weakness | None:
    """Require that the cgroup's limit is not above the policy's; under gVisor its own threads are granted as well."""
    return _above(case.seen.pids, pids_granted(case.policy, gvisor=is_gvisor(case.seen.runtime)))


@control("rlimits", mend=_ENGINE)
def nofile(case: Case) -> Weakness | None:
    """Require a hard limit of open files that is not above the policy's."""
    return _above((case.seen.rlimits or {}).get("nofile", math.inf), case.policy.nofile)


@control("rlimits", mend=_ENGINE)
def core(case: Case) -> Weakness | None:
    """Require a hard limit of core dumps that is not above the policy's."""
    return _above((case.seen.rlimits or {}).get("core", math.inf), case.policy.core, size=True)


@control("rlimits", mend=_ENGINE)
def memlock(case: Case) -> Weakness | None:
    """Require a hard limit of locked memory that is not above the policy's."""
    return _above((case.seen.rlimits or {}).get("memlock", math.inf), case.policy.memlock, size=True)


@control("mounts", mend=_ENGINE)
def shm(case: Case) -> Weakness | None:
    """Require that `/dev/shm` is not larger than declared and runs no programs, and is not there without `shm`."""
    # The host's own is larger and runs programs, so a shared one is seen here as well as by its namespace.
    mount, most = at(case.seen.mounts or (), SHM), case.policy.shm
    if mount is None:
        return None
    good = most is not None and {"nosuid", "nodev", "noexec"} <= mount.options and 0 < (mount.size or 0) <= most
    found = f"{show_size(mount.size)} {' '.join(sorted(mount.options))}"
    return None if good else (show_size(most) if most else f"no {SHM}", found)


@control("own.ipc", mend=_OPTIONS)
def ipc(case: Case) -> Weakness | None:
    """Require shared memory and message queues that are not the host's."""
    return _apart(case, "ipc")


@control("own.pid", mend=_OPTIONS)
def pid_namespace(case: Case) -> Weakness | None:
    """Require that processes of the host are not seen."""
    return _apart(case, "pid")


@control("own.uts", mend=_OPTIONS)
def uts_namespace(case: Case) -> Weakness | None:
    """Require a host name of its own."""
    return _apart(case, "uts")


@control("own.mnt", mend=_OPTIONS)
def mount_namespace(case: Case) -> Weakness | None:
    """Require that the host's mounts are not seen."""
    return _apart(case, "mnt")


@control("own.cgroup", preferred=lambda _policy, _info: True, mend="use an engine of API 1.41 or later")
def cgroup_namespace(case: Case) -> Weakness | None:
    """Prefer that the host's tree of cgroups is not seen; older engines cannot be asked for that."""
    return _apart(case, "cgroup")


@control("own.net", mend=_OPTIONS)
def network_namespace(case: Case) -> Weakness | None:
    """Require that the host's interfaces, and what listens on its loopback, are out of reach."""
    return _apart(case, "net")


@control("interfaces", promised=lambda asked: asked.policy.network != "bridge", mend=_OPTIONS)
def network(case: Case) -> Weakness | None:
    """Require the loopback and nothing else, also where a proxy is promised: that listens on the loopback."""
    # Not by the name of the network: an internal one still has a route to the host and every service on it.
    more = (case.seen.interfaces or frozenset()) - {"lo"}
    return ("loopback only", ", ".join(sorted(more))) if more else None


@control(
    "apparmor",
    promised=lambda asked: asked.policy.apparmor != "none",
    preferred=lambda policy, info: policy.apparmor == "prefer" and not confinement_for(policy, info),
    mend="use a host with AppArmor, or `apparmor: prefer`",
)
def apparmor(case: Case) -> Weakness | None:
    """Require an AppArmor profile in enforcing mode."""
    # Which profile does not count: operators load stricter ones. A complaining one is no profile.
    return None if case.seen.apparmor else ("an AppArmor profile", "none")


@control(
    "runtime",
    promised=lambda asked: asked.policy.runtime != "runc",
    preferred=lambda policy, info: policy.runtime == "prefer-gvisor" and not runtime_for(policy, info),
    mend="give the engine the runtime runsc, or use `runtime: prefer-gvisor`",
)
def runtime(case: Case) -> Weakness | None:
    """Require gVisor between the container and the host's kernel."""
    return None if is_gvisor(case.seen.runtime) else ("gVisor (runsc)", case.seen.runtime or "none")


def _apart(case: Case, name: str) -> Weakness | None:
    # Compared with ours, because the host's cannot be named from here: run in a container, we are not on it.
    return None if (case.seen.own or {}).get(name) else ("a namespace of its own", "that of the host")


def _above(found: float | None, most: float, *, size: bool = False) -> Weakness | None:
    # A quota is kept as whole microseconds in a period, so it may be a hair above the decimal it was made from.
    if found is not None and found <= most * (1 + 1e-6):
        return None
    return _amount(most, size=size), _amount(found, size=size)


def _amount(value: float | None, *, size: bool) -> str:
    if value is None or value == math.inf:
        return "unlimited"
    return show_size(int(value)) if size else f"{value:g}"


def _numbers(found: Iterable[int]) -> str:
    return " ".join(map(str, sorted(found))) or "none"


def _listed(found: Iterable[str]) -> str:
    return ", ".join(sorted(found)) or "none"
