"""What no policy grants, whatever it is called: the host's paths, devices, sockets, namespaces and privileges.

People ask for these by the words of the tools they know. An unknown key would be an error as it is; but "unknown"
sounds like a typing mistake, and sends the writer looking for the right spelling of something that does not exist. So
the words are known, and each has its answer. They are spelt in kebab case, as in prompts.
"""

from __future__ import annotations

_MOUNT = (
    "no path of this host is ever mounted into a step: it works on a copy of the workspace in /workspace, takes files "
    "in by `inputs` and leaves them by /out; put what it needs into the repository or the image"
)
_ENGINE = (
    "the engine's socket is never given to a step: whoever can talk to it owns this machine; let the workflow's steps "
    "be the containers, each with its own `image`"
)
_PRIVILEGED = (
    "no step is ever privileged; a policy of your own may name single `capabilities`, with a `reason`, and "
    "`workflowmaster policy show NAME` says what one grants"
)
_DEVICE = "no device of this host is ever given to a step"
_NAMESPACE = "a step never shares a namespace with this host; a policy's `network` says whom it may reach"
_CONFINEMENT = "how a step is confined is said by its policy alone: name another one, or write one that extends it"

HOST_ACCESS: dict[str, str] = {
    **dict.fromkeys(("mounts", "mount", "volumes", "volume", "volumes-from", "binds", "bind", "host-paths"), _MOUNT),
    **dict.fromkeys(("docker-socket", "docker-sock", "docker-in-docker", "dind", "docker-host", "docker"), _ENGINE),
    **dict.fromkeys(("privileged", "cap-add", "cap-drop", "capabilities"), _PRIVILEGED),
    **dict.fromkeys(("devices", "device", "gpus", "device-cgroup-rules"), _DEVICE),
    **dict.fromkeys(("network-mode", "host-network", "pid-mode", "ipc-mode", "userns-mode"), _NAMESPACE),
    **dict.fromkeys(("security-opt", "seccomp", "apparmor", "no-new-privileges", "docker-options"), _CONFINEMENT),
}
"""Word that people ask with → what they are told."""

UNMISTAKABLE = frozenset(HOST_ACCESS) - {"docker", "capabilities", "device", "devices", "mount", "volume", "bind"}
"""Those that mean nothing else, also where any other unknown word is taken as a note of the writer's."""


def host_access(word: str) -> str:
    """Return what to say to somebody who asks for a part of the host by this word; empty where it is none of them."""
    return HOST_ACCESS.get(_kebab(word), "")


def is_unmistakable(word: str) -> bool:
    """Whether the word asks for a part of the host and can mean nothing else."""
    return _kebab(word) in UNMISTAKABLE


def _kebab(word: str) -> str:
    return word.strip().lower().replace("_", "-").replace(" ", "-")
