"""From names to values: where they come from, what is refused, and that no text of ours ever shows one."""

from __future__ import annotations

import os
import traceback

import pytest

from workflowmaster.flows import compiler, prompts
from workflowmaster.flows.diagnostics import PromptError
from workflowmaster.flows.secretkeeping import Secrets, block_of, resolve, variable_of

VALUE = "hunter2-\u017elu\u0165"
SET = "WORKFLOWMASTER_SECRET_"


def plan(*secrets: str):
    steps = "".join(f"### s{n}\n- secrets: {one}\n```bash\ntrue\n```\n\n" for n, one in enumerate(secrets))
    done = compiler.compile_prompt(prompts.parse(f"# T\n\n## Steps\n\n{steps}".encode(), "dir/p.md"))
    assert done.plan, done.diagnostics
    return done.plan


@pytest.mark.parametrize(
    ("name", "variable", "block"),
    [
        ("TOKEN", "TOKEN", "token"),
        ("pypi-token", "PYPI_TOKEN", "pypi-token"),
        ("My_Key2", "MY_KEY2", "my-key2"),
    ],
)
def test_where_a_name_is_looked_up(name, variable, block):
    assert (variable_of(name), block_of(name)) == (SET + variable, block)


def test_values_come_from_the_environment_with_every_byte(home, monkeypatch):
    monkeypatch.setitem(os.environb, b"WORKFLOWMASTER_SECRET_RAW", b"\xff\xfe raw bytes\n")
    monkeypatch.setenv(f"{SET}MY_TOKEN", VALUE)
    found = resolve(plan("[RAW]", "[{name: my-token, env: T}, RAW]"))
    assert found.values == {"RAW": b"\xff\xfe raw bytes\n", "my-token": VALUE.encode()}
    first, second = found.handout(plan("[RAW]").tasks[0]), found.handout(plan("A", "{name: my-token, env: T}").tasks[1])
    assert (dict(first.files), dict(first.variables)) == ({"RAW": found.values["RAW"]}, {})
    assert (list(second.files), dict(second.variables)) == (["my-token"], {"T": VALUE.encode()})


def test_a_plan_without_secrets_costs_nothing(home):
    found = resolve(plan("[]"))
    assert (found.masker, found.stream(), found.screen(plan("[]").tasks[0])) == (None, None, None)
    assert found.text("anything") == "anything"
    assert not found.handout(plan("[]").tasks[0]).lines()


def test_every_missing_secret_is_named_once_at_its_first_step(home, monkeypatch):
    monkeypatch.setenv(f"{SET}THERE", VALUE)
    with pytest.raises(PromptError) as refused:
        resolve(plan("[THERE]", "[B, THERE]", "[A, B]"))
    found = [(one.code, one.file, one.line) for one in refused.value.diagnostics]
    assert found == [("WM326", "dir/p.md", 17), ("WM326", "dir/p.md", 11)]
    text = str(refused.value)
    assert "dir/p.md:17" in text
    assert "set WORKFLOWMASTER_SECRET_A, or save a Prefect Secret block 'a'" in text
    assert "THERE" not in text


@pytest.mark.parametrize(
    ("value", "entry", "word"),
    [
        (b"", "S", "too short"),
        (b"12345", "S", "too short"),
        (b"ab\ncd\nef\ngh\n", "S", "too short"),
        (b"x" * 49_153, "S", "49,153 bytes"),
    ],
)
def test_what_cannot_be_handed_out_or_masked_is_refused_without_being_shown(home, monkeypatch, value, entry, word):
    monkeypatch.setitem(os.environb, b"WORKFLOWMASTER_SECRET_S", value)
    with pytest.raises(PromptError) as refused:
        resolve(plan(entry))
    (found,) = refused.value.diagnostics
    assert (found.code, found.line) == ("WM327", 5)
    assert word in found.message
    assert not value or value.decode() not in str(refused.value)


def test_no_text_of_ours_shows_a_value(home, monkeypatch):
    monkeypatch.setenv(f"{SET}S", VALUE)
    found = resolve(plan("{name: S, env: T}"))
    step = plan("{name: S, env: T}").tasks[0]
    shown = [
        repr(found),
        str(found),
        f"{found!r}",
        repr(found.handout(step)),
        repr(found.masker),
        repr(found.screen(step)),
    ]
    assert not [text for text in shown if "hunter" in text]
    error = ValueError(found, found.handout(step), found.masker)
    assert "hunter" not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("example.org", "example.org"),
        ("ghp_x7qm.example.org", "***"),
        ("GHP_X7QM", "***"),
        ("ghp_x7", "***"),
        ("GET", "GET"),
        ("", ""),
    ],
)
def test_a_word_that_was_cut_or_made_small_is_masked_too(said, shown):
    assert Secrets({"S": b"ghp_X7qm"}).label(said) == shown
    assert Secrets().label(said) == said


def test_an_equal_plan_has_an_equal_hash_whatever_the_value(home, monkeypatch):
    hashes = set()
    for value in ("first-value", "second-value"):
        monkeypatch.setenv(f"{SET}S", value)
        one = plan("S")
        resolve(one)
        hashes.add(one.workflow_hash)
    assert len(hashes) == 1
    assert Secrets({"S": b"first-value"}).text("it said first-value") == "it said ***"


@pytest.mark.prefect
def test_a_block_is_asked_for_what_the_environment_has_not(home, monkeypatch, prefect_server):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setenv("PREFECT_API_URL", prefect_server.url)
    kind = prefect_server.get("/block_types/slug/secret")
    wanted = {"block_schemas": {"block_type_id": {"any_": [kind["id"]]}}}
    schema = prefect_server.post("/block_schemas/filter", wanted)[0]
    for name, value in (
        ("from-block", VALUE),
        ("from-json", {"user": "me", "password": "hunter2"}),
        ("from-both", "block"),
    ):
        body = {"name": name, "data": {"value": value}, "block_schema_id": schema["id"], "block_type_id": kind["id"]}
        prefect_server.post("/block_documents/", body)
    monkeypatch.setenv(f"{SET}FROM_BOTH", "variable")
    # Prefect reads its settings once, and another test of this process may have imported it before.
    with temporary_settings({PREFECT_API_URL: prefect_server.url}):
        found = resolve(plan("[FROM_BLOCK, from-json, FROM_BOTH]"))
        with pytest.raises(PromptError, match="secret 'ABSENT' of step s0 is nowhere"):
            resolve(plan("[ABSENT, FROM_BLOCK]"))
    assert found.values == {
        "FROM_BLOCK": VALUE.encode(),
        "from-json": b'{"user": "me", "password": "hunter2"}',
        "FROM_BOTH": b"variable",
    }
