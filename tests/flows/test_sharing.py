"""Fingerprints that travel: nothing private goes out, nothing damaged comes in, and all of it can be taken back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.flows import failurehistory, sharing
from workflowmaster.flows.asking import BadOption
from workflowmaster.flows.failurehistory import Case

AT = 1_700_000_000.0
SOURCE = "0123456789abcdef"
ONE = {
    "fingerprint": "ab" * 8,
    "class": "network",
    "seen": 9,
    "tried": 4,
    "succeeded": 3,
    "last": "2024-01-31",
    "lines": ["x"],
}


def case(**fields: Any) -> Case:
    about = {"workflow": "task-a", "step": "build", "fingerprint": "ab" * 8, "cls": "network", "at": AT}
    return Case.model_validate({**about, "lines": ("curl: (<n>) Could not resolve host: pypi.org",), **fields})


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def made(*shared: dict[str, Any], **head: Any) -> bytes:
    first = {"kind": "workflowmaster failures", "schema_version": 1, "source": SOURCE, **head}
    return b"".join(json.dumps(row).encode() + b"\n" for row in (first, *shared))


def test_an_export_counts_what_was_seen_and_what_helped(tmp_path):
    alike = [case(outcome="succeeded"), case(outcome="failed"), case(), case(outcome="succeeded", grown=True)]
    head, one = rows(sharing.export([*alike, case(fingerprint="cd" * 8)], home=tmp_path))
    assert head == {"kind": "workflowmaster failures", "schema_version": 1, "source": sharing.identity(tmp_path)}
    assert one == {
        "fingerprint": "ab" * 8,
        "class": "network",
        "seen": 4,
        "tried": 2,
        "succeeded": 1,
        "last": "2023-11-14",
        "lines": ["curl: (<n>) Could not resolve host: pypi.org"],
    }


@pytest.mark.parametrize(("least", "count"), [(1, 2), (2, 1), (3, 0)])
def test_what_was_seen_too_seldom_stays_here(tmp_path, least, count):
    text = sharing.export([case(), case(), case(fingerprint="cd" * 8)], least=least, home=tmp_path)
    assert len(rows(text)) == 1 + count


def test_lines_can_stay_here(tmp_path):
    assert rows(sharing.export([case(), case()], lines=False, home=tmp_path))[1]["lines"] == []


def test_nothing_private_goes_out(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKFLOWMASTER_SECRET_DEPLOY", "tr0ub4dor&3-plus")
    workspace = tmp_path / "acme-billing"
    (workspace / ".git").mkdir(parents=True)
    (workspace / ".git" / "config").write_text('[remote "origin"]\n\turl = git@forge.example:umbrella/ledger.git\n')
    folder = failurehistory.folder_of("task-a", tmp_path)
    folder.path.mkdir(parents=True)
    folder.record.write_text(json.dumps({"options": {"workspace": str(workspace)}}))
    lines = (
        "deploy with tr0ub4dor&3-plus failed",
        "could not compile `acme-billing` of umbrella",
        "ledger: /srv/build/acme-billing/src/main.rs is missing in task-a",
    )
    text = sharing.export([case(lines=lines), case(lines=lines)], home=tmp_path)
    private = ["tr0ub4dor", "acme-billing", "umbrella", "ledger", "/srv", "main.rs", "task-a", str(tmp_path), "build"]
    assert [word for word in private if word in text] == []
    assert "could not compile `<name>`" in text


def test_what_was_exported_is_taken_in_elsewhere(tmp_path):
    data = sharing.export([case(outcome="succeeded"), case()], home=tmp_path / "a").encode()
    source, changed = sharing.take_in(data, "x.jsonl", name="colleague", home=tmp_path / "b")
    assert changed
    assert (source.name, [one.tried for one in source.shared]) == ("colleague", [1])
    assert sharing.sources(tmp_path / "b") == [source]


def test_taking_in_twice_counts_once(tmp_path):
    first = sharing.take_in(made(ONE), "x", name="c", home=tmp_path)
    again = sharing.take_in(made(ONE), "x", name="c", home=tmp_path)
    assert (first[1], again[1]) == (True, False)
    newer, changed = sharing.take_in(made({**ONE, "tried": 5}), "x", name="c", home=tmp_path)
    assert changed
    assert sharing.sources(tmp_path) == [newer]


def test_one_s_own_is_refused(tmp_path):
    with pytest.raises(BadOption, match="own failures"):
        sharing.take_in(made(ONE, source=sharing.identity(tmp_path)), "x", name="c", home=tmp_path)


def test_two_sources_do_not_share_a_name(tmp_path):
    sharing.take_in(made(ONE), "x", name="c", home=tmp_path)
    with pytest.raises(BadOption, match="--as"):
        sharing.take_in(made(ONE, source="f" * 16), "x", name="c", home=tmp_path)


def test_sources_are_bounded(tmp_path):
    for n in range(sharing.MOST_SOURCES):
        sharing.take_in(made(ONE, source=f"{n:016x}"), "x", name=f"c{n}", home=tmp_path)
    with pytest.raises(BadOption, match="32 sources"):
        sharing.take_in(made(ONE, source="f" * 16), "x", name="more", home=tmp_path)
    # What is known already may still be brought up to date.
    assert sharing.take_in(made(source="0" * 16), "x", name="c0", home=tmp_path)[1]


@pytest.mark.parametrize("word", ["colleague", SOURCE])
def test_forgetting_takes_everything_back(tmp_path, word):
    sharing.take_in(made(ONE), "x", name="colleague", home=tmp_path)
    assert sharing.trials(tmp_path)
    sharing.forget(word, tmp_path)
    assert sharing.sources(tmp_path) == sharing.trials(tmp_path) == []


def test_forgetting_a_stranger_names_those_there_are(tmp_path):
    sharing.take_in(made(ONE), "x", name="colleague", home=tmp_path)
    with pytest.raises(BadOption, match="Taken in: colleague"):
        sharing.forget("../../cases", tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", r"x:1?.*lines", id="empty"),
        pytest.param(b"\x00\xff\n", r"x:1: it is no JSON", id="binary"),
        pytest.param(made(schema_version=2), r"x:1: it was written by a newer version", id="newer"),
        pytest.param(made(schema_version="1x"), r"x:1: it has the schema version", id="no version"),
        pytest.param(made(kind="cake"), r"x:1: kind:", id="another kind"),
        pytest.param(made(source="../../etc"), r"x:1: source:", id="a path for a source"),
        pytest.param(made(ONE) + b'{"fingerprint"', r"x:3: it is no JSON", id="cut short"),
        pytest.param(made(ONE, {**ONE, "fingerprint": "cd"}), r"x:3: fingerprint:", id="bad fingerprint"),
        pytest.param(made({**ONE, "class": "moon"}), r"x:2: class:", id="bad class"),
        pytest.param(made({**ONE, "seen": -1}), r"x:2: seen:", id="negative"),
        pytest.param(made({**ONE, "succeeded": 5}), r"x:2: 5 of 4 of 9 cannot be", id="more than all"),
        pytest.param(made({**ONE, "extra": 1}), r"x:2: extra:", id="unknown field"),
        pytest.param(made({**ONE, "lines": ["y" * 301]}), r"x:2: lines.0:", id="long line"),
        pytest.param(made(ONE, ONE), r"x:3: abababababababab is there twice", id="twice"),
        pytest.param(made(ONE) + b"\n" * 10_002, r"x: 1000\d lines", id="too many lines"),
        pytest.param(b" " * (sharing.MOST_BYTES + 1), r"x: 8388609 bytes", id="too large"),
    ],
)
def test_what_cannot_be_taken_in_is_refused_with_its_line(tmp_path, data, message):
    with pytest.raises(BadOption, match=f"^{message}"):
        sharing.take_in(data, "x", name="c", home=tmp_path)
    assert sharing.sources(tmp_path) == []


@given(st.binary(max_size=300))
def test_no_bytes_break_reading(data):
    with pytest.raises(BadOption, match=r"^x:"):
        sharing.parsed(data, "x")


def test_a_kept_source_that_was_damaged_is_named_and_can_be_forgotten(tmp_path):
    sharing.take_in(made(ONE), "x", name="c", home=tmp_path)
    path = tmp_path / "learning" / "imports" / f"{SOURCE}.json"
    path.write_text(path.read_text().replace('"tried": 4', '"tried": 9'))
    with pytest.raises(BadOption, match=f"{SOURCE}.json: it is damaged"):
        sharing.trials(tmp_path)
    sharing.forget(SOURCE, tmp_path)
    assert sharing.trials(tmp_path) == []


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=5))
def test_what_all_others_have_seen_counts_for_two_cases_at_most(tmp_path_factory, counts):
    home: Path = tmp_path_factory.mktemp("h")
    for n, (hits, misses) in enumerate(counts):
        one = {**ONE, "seen": hits + misses + 1, "tried": hits + misses, "succeeded": hits}
        sharing.take_in(made(one, source=f"{n:016x}"), "x", name=str(n), home=home)
    trials = sharing.trials(home)
    tried = sum(hits + misses for hits, misses in counts)
    assert sum(trial.weight for trial in trials) == pytest.approx(min(tried, sharing.FOREIGN))
    assert not any(trial.own for trial in trials)
    if tried:
        share = sum(trial.weight for trial in trials if trial.succeeded) / min(tried, sharing.FOREIGN)
        assert share == pytest.approx(sum(hits for hits, _ in counts) / tried)
