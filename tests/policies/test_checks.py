"""The order of policies: proved for the six, and for the lattice of every field."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster import policies
from workflowmaster.policies import PolicyError, SecurityPolicy, Tmp, checks
from workflowmaster.policies.checks import looser
from workflowmaster.policies.values import CAPABILITIES, covers

WISHES = {
    "memory": [None, 1024, 10 * 1024**2, 20 * 1024**2],
    "cpus": [None, 0.25, 0.5, 1.5],
    "pids": [None, 4, 8, 12],
    "disk": [None, 50, 150],
    "output_cap": [None, 1024, 20 * 1024**2],
    "wall_seconds": [None, 1, 100, 250],
}
NAMES = st.sampled_from(["A", "AB", "A*", "AB*", "B", "C_*", "C_D"])


@st.composite
def policy(draw) -> SecurityPolicy:
    """Any consistent policy; values from small sets, so that two of them often are comparable."""
    ranked = {field: draw(st.sampled_from(order)) for field, order in checks.RANKS.items()}
    small = st.sampled_from([10 * 1024**2, 20 * 1024**2, 40 * 1024**2])
    tmp = draw(st.builds(Tmp, size=small, exec=st.booleans(), inodes=st.sampled_from([None, 100, 200])))
    seconds = sorted(draw(st.tuples(st.sampled_from([60, 120]), st.sampled_from([60, 120, 300]))))
    return SecurityPolicy(
        name="any",
        **ranked,
        capabilities=draw(st.sets(st.sampled_from(sorted(CAPABILITIES)[:3]))),
        tmp=tmp if ranked["root_filesystem"] == "ro" else draw(st.sampled_from([None, tmp])),
        disk=draw(st.sampled_from([None, 100, 200])),
        result_cap=draw(st.sampled_from([None, 100, 200])),
        memory=draw(small),
        cpus=draw(st.sampled_from([0.5, 1, 2])),
        pids=draw(st.sampled_from([8, 16])),
        nofile=draw(st.sampled_from([64, 128])),
        core=draw(st.sampled_from([0, 1])),
        memlock=draw(st.sampled_from([0, 1])),
        shm=None if ranked["ipc"] == "none" else draw(small),
        wall_seconds_default=seconds[0],
        wall_seconds_max=seconds[1],
        output_cap=draw(small),
        images=None if ranked["image"] == "any" else draw(st.one_of(st.none(), st.sets(NAMES, max_size=2))),
        environment=draw(st.one_of(st.none(), st.sets(NAMES, max_size=2))),
    )


@st.composite
def ordered(draw) -> tuple[SecurityPolicy, SecurityPolicy]:
    """Two policies of which the second takes some controls of a third where that is the stricter one."""
    base, other = draw(policy()), draw(policy())
    tightened = base
    for field in draw(st.sets(st.sampled_from(sorted(base.controls)))):
        try:
            candidate = SecurityPolicy.model_validate({**tightened.model_dump(), field: getattr(other, field)})
        except ValueError:
            continue
        tightened = tightened if looser(candidate, tightened) else candidate
    return base, tightened


@pytest.mark.parametrize(("loose", "strict"), list(combinations(policies.ORDER, 2)))
def test_all_pairs_of_built_ins_are_ordered(loose, strict):
    assert looser(policies.load(strict), policies.load(loose)) == ()
    assert looser(policies.load(loose), policies.load(strict)) != ()


@given(policy())
def test_reflexive(any_policy):
    assert looser(any_policy, any_policy) == ()


@given(ordered(), policy())
def test_transitive(pair, other):
    loose, middle = pair
    strict = middle
    for field in middle.controls:
        try:
            candidate = SecurityPolicy.model_validate({**strict.model_dump(), field: getattr(other, field)})
        except ValueError:
            continue
        strict = strict if looser(candidate, strict) else candidate
    assert looser(middle, loose) == ()
    assert looser(strict, middle) == ()
    assert looser(strict, loose) == ()


@given(policy(), policy())
def test_antisymmetric(a, b):
    if not looser(a, b) and not looser(b, a):
        assert a.controls == b.controls


@given(policy(), st.data())
def test_antisymmetric_field_by_field(a, data):
    """Two policies that differ in one control are never each as strict as the other."""
    other = data.draw(policy())
    field = data.draw(st.sampled_from(sorted(a.controls)))
    try:
        b = SecurityPolicy.model_validate({**a.model_dump(), field: getattr(other, field)})
    except ValueError:
        return
    assert (a.controls == b.controls) == (not looser(a, b) and not looser(b, a))


@given(policy(), policy())
def test_findings_name_each_control_once_and_only_where_they_differ(a, b):
    controls = [finding.control for finding in looser(a, b)]
    assert len(controls) == len(set(controls))
    assert set(controls) <= {name for name, _, _ in policies.differing(a, b)}


@given(policy(), st.data())
def test_lowering_never_loosens_and_keeps_what_it_was_not_asked_for(any_policy, data):
    wanted = {name: data.draw(st.sampled_from(values)) for name, values in WISHES.items() if data.draw(st.booleans())}
    try:
        lowered = policies.lower(any_policy, **wanted)
    except PolicyError:
        return
    # A step's own time replaces the default, within the maximum: that alone is no order of the two.
    assert {finding.control for finding in looser(lowered, any_policy)} <= {"wall_seconds_default"}
    assert lowered.wall_seconds_default <= any_policy.wall_seconds_max
    times = {"wall_seconds_default", "wall_seconds_max"} if "wall_seconds" in wanted else set()
    assert {name for name, _, _ in policies.differing(lowered, any_policy)} <= set(wanted) | times
    assert (
        policies.lower(lowered, **{name: value for name, value in wanted.items() if name != "wall_seconds"}) == lowered
    )


@given(policy(), policy())
def test_a_common_bound_is_at_least_as_strict_as_both(a, b):
    """Field by field the lattice has a meet: taking the stricter value of each is stricter than either."""
    met = a
    for field in a.controls:
        try:
            candidate = SecurityPolicy.model_validate({**met.model_dump(), field: getattr(b, field)})
        except ValueError:
            continue
        met = candidate if not looser(candidate, met) else met
    assert looser(met, a) == ()
    remaining = {finding.control for finding in looser(met, b)}
    # What is left is where the two cannot be compared (lists, /tmp) or where fields depend on each other.
    assert remaining <= {"capabilities", "images", "environment", "tmp", "shm", "ipc", "image", "root_filesystem"} | {
        "wall_seconds_default",
        "wall_seconds_max",
    }


@given(st.lists(policy(), min_size=3, max_size=3))
def test_the_order_is_transitive_over_any_three(three):
    a, b, c = three
    if not looser(b, a) and not looser(c, b):
        assert looser(c, a) == ()


def test_every_enforced_field_has_its_control():
    checked = {check.__name__.removeprefix("check_") for check in checks.CHECKS}
    assert checked == set(policies.load("standard").controls)


@pytest.mark.parametrize(
    ("field", "loose", "strict", "detail"),
    [
        ("user", "workspace", "unique", "workspace instead of unique"),
        ("capabilities", ["KILL", "CHOWN"], ["KILL"], "CHOWN"),
        ("no_new_privileges", False, True, "off instead of on"),
        ("seccomp", "S1", "S3", "S1 instead of S3"),
        ("memory", "2g", "1g", "2g > 1g"),
        ("cpus", 1.5, 1, "1.5 > 1"),
        ("disk", None, "1g", "unbounded > 1g"),
        ("result_cap", "2g", "1g", "2g > 1g"),
        ("tmp", {"size": "2m", "exec": True}, {"size": "1m", "exec": False, "inodes": 99}, "size 2m > 1m, exec, inodes unlimited > 99"),
        ("network", "bridge", "none", "bridge instead of none"),
        ("images", ["python", "node*"], ["node*"], "python"),
        ("images", None, ["python"], "instead of python"),
        ("environment", ["CI_*"], ["CI_A"], "CI_*"),
        ("environment", ["A"], [], "A"),
        ("environment", None, [], "instead of no name"),
    ],
)  # fmt: skip
def test_what_a_finding_says(field, loose, strict, detail):
    base = policies.load("standard").model_dump()
    wide, narrow = (SecurityPolicy.model_validate({**base, field: value}) for value in (loose, strict))
    (finding,) = looser(wide, narrow)
    assert (finding.control, finding.detail) == (field, detail)
    assert finding.reason
    assert looser(narrow, wide) == ()


def test_ipc_none_takes_shm_with_it():
    standard = policies.load("standard")
    none = SecurityPolicy.model_validate({**standard.model_dump(), "ipc": "none", "shm": None})
    assert [finding.control for finding in looser(standard, none)] == ["ipc", "shm"]
    assert looser(none, standard) == ()


@given(NAMES, NAMES, NAMES)
def test_covering_is_transitive_and_a_covered_name_is_dropped(a, b, c):
    if covers(a, b) and covers(b, c):
        assert covers(a, c)
    kept = SecurityPolicy.model_validate(
        {**policies.load("standard").model_dump(), "environment": [a, b, c]}
    ).environment
    assert not any(covers(x, y) for x in kept for y in kept if x != y)
    assert all(any(covers(x, y) for x in kept) for y in (a, b, c))
