"""Loading, lowering and refusing policies, and the values of the six built-in ones."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from workflowmaster import policies
from workflowmaster.policies import PolicyError, looser

MB, GB = 1024**2, 1024**3

# The matrix of the design, transcribed by hand: a changed YAML file must be changed here with intent.
MATRIX = {
    "user": ("workspace", "workspace", "workspace", "workspace", "unique", "unique"),
    "no_new_privileges": (True,) * 6,
    "init": (True,) * 6,
    "seccomp": ("S0", "S1", "S2", "S2", "S3", "S4"),
    "root_filesystem": ("rw", "rw", "ro", "ro", "ro", "ro"),
    "workspace": ("rw", "rw", "rw", "copy", "overlay", "none"),
    "memory": (4 * GB, 4 * GB, 2 * GB, 2 * GB, GB, 256 * MB),
    "cpus": (2, 2, 2, 2, 1, 0.5),
    "pids": (2048, 2048, 512, 512, 256, 64),
    "nofile": (16384, 16384, 4096, 4096, 1024, 256),
    "core": (0,) * 6,
    "memlock": (65536,) * 6,
    "shm": (256 * MB, 256 * MB, 64 * MB, 64 * MB, 16 * MB, None),
    "ipc": ("private", "private", "private", "private", "private", "none"),
    "network": ("bridge", "proxy-any", "proxy-allowlist", "none", "none", "none"),
    "apparmor": ("none", "none", "prefer", "prefer", "prefer", "prefer"),
    "runtime": ("runc", "runc", "runc", "runc", "runc", "prefer-gvisor"),
    "wall_seconds_default": (300, 300, 300, 300, 300, 120),
    "wall_seconds_max": (3600, 3600, 1800, 900, 600, 300),
    "output_cap": (64 * MB, 64 * MB, 16 * MB, 16 * MB, 8 * MB, MB),
    "result_cap": (None, None, None, 2 * GB, 512 * MB, 64 * MB),
    "image": ("any", "allowed", "allowed", "pinned", "signed", "product"),
}


@pytest.fixture
def folder(tmp_path):
    """Write policy files into a folder of their own; return the folder."""

    def write(**files):
        for name, text in files.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize("field", MATRIX)
def test_the_matrix(field):
    assert tuple(getattr(policies.load(name), field) for name in policies.names()) == MATRIX[field]


@pytest.mark.parametrize(
    ("name", "size", "exec_", "inodes"),
    [
        ("development", GB, True, None),
        ("standard", 512 * MB, True, None),
        ("testing", 512 * MB, True, None),
        ("hardened", 128 * MB, False, 8192),
        ("paranoid", 64 * MB, False, 4096),
    ],
)
def test_the_matrix_of_tmp(name, size, exec_, inodes):
    tmp = policies.load(name).tmp
    assert (tmp.size, tmp.exec, tmp.inodes) == (size, exec_, inodes)


def test_minimal_keeps_eight_capabilities_and_the_others_none():
    assert policies.load("minimal").tmp is None
    assert policies.load("minimal").capabilities == (
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "NET_BIND_SERVICE",
        "SETGID",
        "SETUID",
    )
    assert {policies.load(name).capabilities for name in policies.names()[1:]} == {()}


@pytest.mark.parametrize("name", policies.ALIASES)
def test_the_originals_names_grant_no_more_than_what_they_extend(name):
    policy = policies.load(name)
    assert policy.extends in policies.names()
    assert looser(policy, policies.load(policy.extends)) == ()


def test_names_come_in_order_and_the_users_own_last(folder):
    own = folder(mine="extends: hardened\n")
    assert policies.names() == ("minimal", "development", "standard", "testing", "hardened", "paranoid")
    assert policies.available([own]) == (*policies.ORDER, *policies.ALIASES, "mine")


def test_limits_is_load_and_cached():
    assert policies.limits("standard") is policies.load("standard")


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("standard", "hardened", "hardened"),
        ("hardened", "standard", "hardened"),
        ("minimal", "minimal", "minimal"),
        ("production", "paranoid", "production"),
        ("paranoid", "sandbox", "sandbox"),
        # Neither is stricter in everything: demo has less memory, standard fewer capabilities. Its ancestor decides.
        ("demo", "standard", "standard"),
    ],
)
def test_stricter(a, b, expected):
    assert policies.stricter(a, b) == expected


def test_an_own_policy_extends_and_tightens(folder):
    own = folder(
        mine="description: less\nextends: hardened\nmemory: 512m\ntmp: {size: 64m, exec: false, inodes: 100}\n"
    )
    mine = policies.load("mine", [own])
    assert (mine.name, mine.memory, mine.tmp.inodes, mine.cpus) == ("mine", 512 * MB, 100, 1)
    assert mine.description == "less"
    assert policies.stricter("mine", "hardened", folders=[own]) == "mine"


def test_an_own_policy_may_loosen_with_a_reason_and_its_child_need_not_repeat_it(folder):
    own = folder(
        wide="extends: hardened\nreason: the compiler needs 3 GB\nmemory: 3g\n",
        child="extends: wide\npids: 100\n",
    )
    assert policies.load("wide", [own]).reason == "the compiler needs 3 GB"
    assert [f.control for f in looser(policies.load("wide", [own]), policies.load("hardened"))] == ["memory"]
    child = policies.load("child", [own])
    assert (child.memory, child.reason) == (3 * GB, "")


def test_an_own_policy_may_stand_alone(folder):
    text = "\n".join(
        line
        for line in (policies.model.FOLDER / "hardened.yaml").read_text().splitlines()
        if not line.startswith(("name:", "description:"))
    )
    own = folder(alone=text)
    assert policies.load("alone", [own]).hash == policies.load("hardened").hash


REFUSED = {
    "typo": ("extends: hardened\nmemroy: 2g\n", "mine.yaml:2: unknown field memroy; did you mean 'memory'?"),
    "typo in tmp": (
        "extends: hardened\ntmp: {size: 1m, exce: false}\n",
        "mine.yaml:2: unknown field tmp.exce; did you mean 'exec'?",
    ),
    "bad size": ("extends: hardened\nmemory: lots\n", "mine.yaml:2: memory: 'lots' is no size"),
    "negative size": ("extends: hardened\nmemory: -1\n", "mine.yaml:2: memory: -1 is no size"),
    "boolean size": ("extends: hardened\nmemory: yes\n", "mine.yaml:2: memory: True is no size"),
    "too small": ("extends: hardened\nmemory: 1m\n", "mine.yaml:2: memory: Input should be greater"),
    "bad word": (
        "extends: hardened\n\nnetwork: brigde\n",
        "mine.yaml:3: network: 'brigde' is none of bridge, proxy-any, proxy-allowlist, none; did you mean 'bridge'?",
    ),
    "bad capability": (
        "extends: minimal\ncapabilities: [SYS_PTRCE]\n",
        "mine.yaml:2: capabilities: 'SYS_PTRCE' is no Linux capability; did you mean 'SYS_PTRACE'?",
    ),
    "unknown parent": (
        "extends: hardend\n",
        "mine.yaml:1: extends 'hardend', which does not exist; did you mean 'hardened'?",
    ),
    "repeated": ("extends: hardened\npids: 5\npids: 500\n", "mine.yaml:3: pids stands here and in line 2; keep one"),
    "no mapping": ("- hardened\n", "mine.yaml:1: a policy file is a YAML mapping of fields"),
    "empty": ("", "mine.yaml:1: a policy file is a YAML mapping of fields"),
    "no yaml": ("extends: [hardened\nmemory: 1g\n", "mine.yaml:2: not YAML"),
    "missing fields": ("memory: 1g\n", "mine.yaml:1: user is missing; give it, or start from a policy with `extends:`"),
    "other name": ("name: yours\nextends: hardened\n", "mine.yaml:1: name is 'yours', but the file is mine.yaml"),
    "loosened": (
        "extends: hardened\nmemory: 2g\nnetwork: bridge\n",
        "mine.yaml:3: network is looser: bridge instead of none",
    ),
    "loosened quietly": ("extends: hardened\nreason: ' '\npids: 300\n", "mine.yaml:3: pids is larger: 300 > 256"),
    "circle": ("extends: mine\n", "policies extend each other in a circle: mine → mine"),
    "contradiction": ("extends: hardened\ntmp: null\nreason: x\n", "a read-only root_filesystem needs a tmp"),
    "shm without ipc": ("extends: hardened\nipc: none\n", "shm is a size where ipc is private"),
    "default above maximum": ("extends: hardened\nwall_seconds_max: 60\n", "wall_seconds_default is above"),
    "star inside": (
        "extends: hardened\nenvironment: ['A*B']\n",
        "mine.yaml:2: environment: 'A*B': a name, or the start",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_one_error_that_says_where(folder, case):
    text, message = REFUSED[case]
    with pytest.raises(PolicyError) as caught:
        policies.load("mine", [folder(mine=text)])
    assert message in str(caught.value)


def test_every_loosened_control_is_named_with_its_line(folder):
    with pytest.raises(PolicyError) as caught:
        policies.load("mine", [folder(mine="extends: hardened\nmemory: 2g\nnetwork: bridge\n")])
    said = str(caught.value).splitlines()
    assert [line.split(" ")[0].rsplit("/", 1)[1] for line in said[:2]] == ["mine.yaml:2:", "mine.yaml:3:"]
    assert said[2].endswith("it grants more than 'hardened'; add `reason:` saying why")


def test_undecodable_bytes_are_an_error(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PolicyError, match="cannot be read"):
        policies.load("mine", [tmp_path])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("standrad", "no policy 'standrad'; did you mean 'standard'?; known: minimal, development"),
        ("../standard", "no policy '../standard'"),
        ("", "no policy ''"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(name, said):
    with pytest.raises(PolicyError) as caught:
        policies.load(name)
    assert said in str(caught.value)


def test_a_built_in_name_cannot_be_replaced(folder):
    with pytest.raises(PolicyError, match="'standard' is a built-in policy and cannot be replaced"):
        policies.load("standard", [folder(standard="extends: minimal\n")])


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"memory": GB}, {"memory": GB}),
        ({"cpus": 0.5, "pids": 10}, {"cpus": 0.5, "pids": 10}),
        ({"disk": MB, "output_cap": 2048}, {"disk": MB, "output_cap": 2048}),
        ({"wall_seconds": 20}, {"wall_seconds_default": 20, "wall_seconds_max": 20}),
        # Longer than the default, within the maximum: a step may ask for that.
        ({"wall_seconds": 1700}, {"wall_seconds_default": 1700, "wall_seconds_max": 1700}),
        ({"wall_seconds": 0.2}, {"wall_seconds_default": 0.2, "wall_seconds_max": 0.2}),
        ({"memory": None}, {}),
    ],
)
def test_lower(wanted, expected):
    standard = policies.load("standard")
    lowered = policies.lower(standard, **wanted)
    assert {name: getattr(lowered, name) for name in expected} == expected
    assert looser(lowered, standard) == () or set(expected) == {"wall_seconds_default", "wall_seconds_max"}
    assert lowered.name == "standard"


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"memory": 3 * GB}, "memory 3g is above the 2g of policy 'standard'"),
        ({"cpus": 2.5}, "cpus 2.5 is above the 2 of policy 'standard'"),
        ({"pids": 513}, "pids 513 is above the 512 of policy 'standard'"),
        ({"wall_seconds": 1801}, "wall_seconds 1801 is above the 1800 of policy 'standard'"),
    ],
)
def test_lower_never_raises_a_limit(wanted, said):
    with pytest.raises(PolicyError) as caught:
        policies.lower(policies.load("standard"), **wanted)
    assert said in str(caught.value)


def test_a_limit_below_what_an_engine_takes_is_refused():
    with pytest.raises(PolicyError, match="memory"):
        policies.lower(policies.load("standard"), memory=1024)


def test_the_hash_is_of_what_is_enforced(folder):
    own = folder(
        same="extends: hardened\ndescription: other words\n",
        other="extends: hardened\npids: 255\n",
    )
    hardened = policies.load("hardened")
    assert policies.load("same", [own]).hash == hardened.hash
    assert policies.load("other", [own]).hash != hardened.hash
    assert len({policies.load(name).hash for name in policies.names()}) == len(policies.names())


def test_a_policy_is_frozen_and_forbids_unknown_fields():
    standard = policies.load("standard")
    with pytest.raises(ValidationError):
        standard.memory = 1
    with pytest.raises(ValidationError):
        policies.SecurityPolicy.model_validate({**standard.model_dump(), "privileged": True})


@pytest.mark.parametrize(
    ("text", "size"), [("512m", 512 * MB), ("1.5g", 3 * GB // 2), ("64K", 65536), (7, 7), ("2GiB", 2 * GB), ("8", 8)]
)
def test_sizes(text, size):
    assert policies.parse_size(text) == size


@pytest.mark.parametrize("size", [0, 1, 1023, 65536, 3 * GB // 2, 4 * GB, 5 * 1024**4])
def test_a_shown_size_reads_back(size):
    assert policies.parse_size(policies.show_size(size)) == size
