"""One line and one class for every way a container can end, and for everything an engine was heard to say."""

from __future__ import annotations

import re
from typing import Any

import pytest

from workflowmaster.blocks.failure import (
    ADVICE,
    ROWS,
    TRANSIENT,
    Kind,
    Reason,
    classify,
    engine_reason,
    explain,
    foreign,
    signal_of,
)
from workflowmaster.blocks.receipt import Receipt

TABLE: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({"exit_code": 0}, "", ""),
    # A child was killed for memory, and the step did without it.
    ({"exit_code": 0, "oom_killed": True}, "", ""),
    ({"exit_code": 1}, "exit 1", "failure"),
    ({"exit_code": 255}, "exit 255", "failure"),
    ({"exit_code": 127}, "a command was not found in the image (exit 127); see its log", "failure"),
    ({"exit_code": 126}, "a command may not be executed in the image (exit 126); see its log", "failure"),
    ({"exit_code": 137, "signal": 9}, "it was killed by SIGKILL (exit 137)", "killed"),
    ({"exit_code": 139, "signal": 11}, "it was killed by SIGSEGV (exit 139)", "killed"),
    ({"exit_code": 160, "signal": 32}, "it was killed by signal 32 (exit 160)", "killed"),
    (
        {"exit_code": 137, "signal": 9, "oom_killed": True},
        "it ran out of memory under policy standard (exit 137)",
        "oom",
    ),
    (
        {"exit_code": 1, "oom_killed": True},
        "a process of it was killed for memory under policy standard, and it failed (exit 1)",
        "oom",
    ),
    (
        {"exit_code": 137, "signal": 9, "disk_capped": True},
        "its files grew by more than policy standard allows, and it was stopped; write less",
        "disk",
    ),
    (
        {"exit_code": 137, "signal": 9, "timed_out": True},
        "it ran longer than 90 s and was stopped; raise timeout-minutes if it needs more",
        "timeout",
    ),
    # Its own answer to being stopped does not make it a success.
    (
        {"exit_code": 0, "timed_out": True},
        "it ran longer than 90 s and was stopped; raise timeout-minutes if it needs more",
        "timeout",
    ),
    (
        {"exit_code": 137, "signal": 9, "output_capped": True},
        "it printed more than policy standard keeps and was stopped; write to a file instead",
        "output",
    ),
    ({"exit_code": 0, "refused": "no such runtime"}, "the engine could not run it: no such runtime", "sandbox"),
    (
        {"exit_code": 127, "refused": "no such runtime", "timed_out": True},
        "the engine could not run it: no such runtime",
        "sandbox",
    ),
    ({}, "nobody saw how it ended", "sandbox"),
)


@pytest.mark.parametrize(("facts", "reason", "cause"), TABLE)
def test_facts_become_a_reason_and_a_cause(facts: dict[str, Any], reason: str, cause: str) -> None:
    assert explain(Receipt(policy="standard", **facts), 90) == (reason, cause)


def test_half_a_second_is_said_as_such() -> None:
    assert "longer than 0.5 s" in explain(Receipt(exit_code=137, timed_out=True), 0.5)[0]


@pytest.mark.parametrize(
    ("code", "number"),
    [
        (0, None),
        (1, None),
        (127, None),
        (128, None),
        (129, 1),
        (137, 9),
        (143, 15),
        (192, 64),
        (193, None),
        (255, None),
    ],
)
def test_an_exit_code_that_stands_for_a_signal(code: int, number: int | None) -> None:
    assert signal_of(code) == number


@pytest.mark.parametrize(
    ("facts", "kind"),
    [
        ({"exit_code": 0}, "completed"),
        ({"exit_code": 0, "oom_killed": True}, "completed"),
        ({"exit_code": 3}, "failed"),
        ({"exit_code": 127}, "command not found"),
        ({"exit_code": 126}, "not executable"),
        ({"exit_code": 137, "signal": 9, "oom_killed": True}, "out of memory"),
        ({"exit_code": 1, "oom_killed": True}, "child out of memory"),
        ({"exit_code": 143, "signal": 15, "timed_out": True}, "timed out"),
        ({"exit_code": 143, "signal": 15}, "killed"),
        ({"exit_code": 137, "signal": 9, "output_capped": True}, "output cap"),
        ({"exit_code": 137, "signal": 9, "disk_capped": True}, "disk cap"),
        ({"exit_code": 0, "refused": "no such runtime"}, "sandbox unavailable"),
        ({}, "sandbox unavailable"),
    ],
)
def test_every_end_has_a_kind_of_its_own(facts: dict[str, Any], kind: Kind) -> None:
    found = classify(Receipt(policy="standard", **facts), 90)
    assert found.kind == kind
    assert bool(found.reason) == bool(found.cause) == (kind != "completed")


# --- what engines said: Docker Engine 20.10.24 (runc 1.1.5), by scripts/capture_messages.py ---

NO_SOCKET = "Error while fetching server API version: ('Connection aborted.', FileNotFoundError(2, 'No such file or directory'))"
NOBODY_LISTENS = "Error while fetching server API version: ('Connection aborted.', ConnectionRefusedError(111, 'Connection refused'))"
READ_TIMED_OUT = "UnixHTTPConnectionPool(host='localhost', port=None): Read timed out."
NO_SOURCE = 'invalid mount config for type "bind": bind source path does not exist: /no/such'
CPUS = "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"
MEMORY = "Minimum memory limit allowed is 6MB"
CAPABILITY = 'invalid CapAdd: unknown capability: "CAP_NO_SUCH"'
RUNTIME = "Unknown runtime specified no-such-runtime"
STORAGE_OPTION = "--storage-opt is supported only for overlay over xfs with 'pquota' mount option"
SECURITY_OPTION = 'invalid --security-opt 2: "no-such-option=1"'
NO_IMAGE = "No such image: wm-capture/not-there:1"
BAD_REFERENCE = "invalid reference format: repository name must be lowercase"
LOG_DRIVER = 'error looking up logging plugin no-such-driver: plugin "no-such-driver" not found'
CREATE_FAILED = "failed to create shim task: OCI runtime create failed: runc create failed: "
COMMAND_NOT_FOUND = (
    CREATE_FAILED
    + 'unable to start container process: exec: "no-such-command": executable file not found in $PATH: unknown'
)
NOT_EXECUTABLE = CREATE_FAILED + 'unable to start container process: exec: "/etc/passwd": permission denied: unknown'
NO_SHELL = (
    CREATE_FAILED
    + 'unable to start container process: exec: "/bin/sh": stat /bin/sh: no such file or directory: unknown'
)
INIT_NOT_FOUND = "[FATAL tini (6)] exec no-such-command failed: No such file or directory"
INIT_EXEC_FORMAT = "[FATAL tini (7)] exec /bin/sh failed: Exec format error"
INIT_FORK = "[FATAL tini (1)] fork failed: Resource temporarily unavailable"
EXEC_FORMAT = "exec /bin/sh: exec format error"
ARGUMENT_TOO_LONG = "exec /usr/bin/true: argument list too long"
NO_USER = "unable to find user no-such-user: no matching entries in passwd file"
WORKDIR = "Cannot mkdir: /etc/passwd is not a directory"
NO_NETWORK = "network no-such-network not found"
SECCOMP = "Decoding seccomp profile failed: invalid character 'x' after top-level value"
FILE_OVER_DIRECTORY = (
    CREATE_FAILED
    + 'unable to start container process: error during container init: error mounting "/etc/passwd" to rootfs at "/etc": mount /etc/passwd:/etc (via /proc/self/fd/6), flags: 0x5001: not a directory: unknown: Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is the expected type'
)
NO_DEVICE = 'error gathering device information while adding custom device "/dev/no-such": no such file or directory'
RLIMIT = (
    CREATE_FAILED
    + "unable to start container process: error during container init: error setting rlimits for ready process: error setting rlimit type 7: operation not permitted: unknown"
)
SYSCTL = CREATE_FAILED + 'sysctl "kernel.no_such" is not in a separate kernel namespace: unknown'
NAME_TAKEN = 'Conflict. The container name "/wm-capture-30673" is already in use by container "890c999d4e85816ee52cb38829c6e50719ffd71177280eefe6c78e2460eb6bed". You have to remove (or rename) that container to be able to reuse that name.'
NOT_RUNNING = "Cannot kill container: 890c999d4e85: Container 890c999d4e85816ee52cb38829c6e50719ffd71177280eefe6c78e2460eb6bed is not running"
GONE = "No such container: wm-capture-gone"
GONE_KILL = "Cannot kill container: wm-capture-gone: No such container: wm-capture-gone"
IN_USE = "error while removing network: network wm-capture-30673 id dbb021855522d759f7fc627071ab35231565792e6d11fd087c8e53f271f6e423 has active endpoints"
NETWORK_TAKEN = "network with name wm-capture-30673 already exists"
SUBNET = "Invalid subnet 127.0.0.1/33 : invalid CIDR address: 127.0.0.1/33"
NO_ADDRESSES = (
    "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network"
)
VOLUME_IN_USE = (
    "remove wm-capture-30673: volume is in use - [30d9193d5c0e43b4fcf4635c12d4995245c6f4fe2fa506e68276cf215075f09a]"
)
NO_VOLUME = "get wm-capture-30673: no such volume"
VOLUME_OF_NOTHING = "error while mounting volume '/var/lib/docker/volumes/wm-capture-12935/_data': failed to mount local volume: mount /no/such:/var/lib/docker/volumes/wm-capture-12935/_data, flags: 0x1000: no such file or directory"
DISK_FULL_CREATE = "write /var/lib/docker/overlay2/37cabb50ece1986787d2670283516f929ba36766c07fcf5cb36149c55edd7fa5-init/link: no space left on device"
DISK_FULL_START = "write /var/lib/docker/containers/e9bab7a0bc5f930e249956748c67fc5396ed851d83162061580acbaf4f8dfb7b/hosts: no space left on device"

# --- and others, from public issues; not provoked here ---

COMMAND_NOT_FOUND_26_1 = 'failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: "docker-entrypoint.sh": executable file not found in $PATH: unknown'  # moby#47847, Engine 26.1.2
NO_FILE_27 = 'failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: "./docker/docker-entrypoint.sh": stat ./docker/docker-entrypoint.sh: no such file or directory: unknown'  # qinglong#2567, November 2024
NO_ADDRESSES_27_2 = "all predefined address pools have been fully subnetted"  # buildpacks/pack#2259, Engine 27.2.0
NO_ADDRESS_LEFT = "no available IPv4 addresses on this network's address pools: main (59b9a753d5a8)"  # moby#35994
EXEC_FORMAT_18_06 = 'standard_init_linux.go:190: exec user process caused "exec format error"'  # docker/for-linux#105
DISK_FULL_18_03 = "mkdir /var/lib/docker/overlay2/80b87cb3384f465cbc2f82c244b4183ea7c34090f152af26907faf914300c625-init: no space left on device"  # moby#36473
NAME_TAKEN_PODMAN_4_3 = 'creating container storage: the container name "wf-a-1" is already in use by 0c1bd7. You have to remove that container to be able to reuse that name: that name is already in use'
NOT_EXECUTABLE_CRUN = (
    "crun: open executable: Permission denied: OCI permission denied"  # containers/podman#9377, earthly#2267
)

SAID: tuple[tuple[str, Reason], ...] = (
    *((text, "engine") for text in (NO_SOCKET, NOBODY_LISTENS, READ_TIMED_OUT)),
    *((text, "disk") for text in (DISK_FULL_CREATE, DISK_FULL_START, DISK_FULL_18_03)),
    *((text, "conflict") for text in (NAME_TAKEN, NAME_TAKEN_PODMAN_4_3)),
    *((text, "image") for text in (NO_IMAGE, BAD_REFERENCE, NO_USER, WORKDIR)),
    *((text, "image") for text in (EXEC_FORMAT, INIT_EXEC_FORMAT, EXEC_FORMAT_18_06)),
    *((text, "command") for text in (COMMAND_NOT_FOUND, COMMAND_NOT_FOUND_26_1, NO_FILE_27, NO_SHELL, INIT_NOT_FOUND)),
    *((text, "command") for text in (NOT_EXECUTABLE, NOT_EXECUTABLE_CRUN, ARGUMENT_TOO_LONG)),
    *((text, "mount") for text in (NO_SOURCE, FILE_OVER_DIRECTORY, VOLUME_OF_NOTHING, VOLUME_IN_USE, NO_VOLUME)),
    *((text, "network") for text in (NO_NETWORK, IN_USE, NETWORK_TAKEN, SUBNET)),
    *((text, "network") for text in (NO_ADDRESSES, NO_ADDRESSES_27_2, NO_ADDRESS_LEFT)),
    *((text, "gone") for text in (GONE, GONE_KILL, NOT_RUNNING)),
    *((text, "unsupported") for text in (CPUS, MEMORY, CAPABILITY, RUNTIME, STORAGE_OPTION, SECURITY_OPTION)),
    *((text, "unsupported") for text in (LOG_DRIVER, SECCOMP, NO_DEVICE, RLIMIT, SYSCTL, INIT_FORK)),
    (CREATE_FAILED, "runtime"),
    ("Internal error 17", "unclassified"),
    ("", "unclassified"),
)


@pytest.mark.parametrize(("text", "reason"), SAID)
def test_what_an_engine_says_becomes_a_reason(text: str, reason: Reason) -> None:
    assert engine_reason(text) == reason


def test_every_row_is_there_because_an_engine_said_so() -> None:
    """A row that no pinned message needs would be a guess. Alternatives within one may be other engines' words."""
    needed = {next((row for row in ROWS if re.search(row[0], text.lower())), None) for text, _ in SAID}
    assert set(ROWS) - needed == set()


def test_advice_is_given_for_reasons_that_there_are() -> None:
    known = {reason for _, reason in ROWS} | {"unclassified"}
    assert set(ADVICE) <= known
    assert "no fault of the step's" in ADVICE["unclassified"]
    assert not TRANSIENT & {"image", "command", "permission", "mount", "disk", "unsupported", "conflict"}


@pytest.mark.parametrize(
    ("image", "machine", "is_foreign"),
    [
        ("amd64", "x86_64", False),
        ("386", "x86_64", False),
        ("arm64", "aarch64", False),
        ("arm", "aarch64", False),
        ("arm64", "x86_64", True),
        ("amd64", "aarch64", True),
        ("amd64", "i686", True),
        ("s390x", "s390x", False),
        ("riscv64", "x86_64", True),
        ("", "x86_64", False),
        ("amd64", "", False),
    ],
)
def test_an_image_for_another_machine(image: str, machine: str, *, is_foreign: bool) -> None:
    assert foreign(image, machine) is is_foreign
