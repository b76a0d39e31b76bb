"""What is handed to strangers holds no secret, path, host or name, however it was written."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.flows.scrubbing import known_secrets, people, scrubbed

SECRET = "xK7-pQ2_mvB9zR4t"
KNOWN = known_secrets({"WORKFLOWMASTER_SECRET_DEPLOY": SECRET})
FORMS = [
    SECRET,
    base64.b64encode(SECRET.encode()).decode(),
    SECRET.encode().hex(),
    quote(SECRET, safe=""),
    json.dumps(SECRET)[1:-1],
    SECRET.upper().lower() if SECRET.islower() else SECRET,
]
PLACES = [
    "{}",
    "login failed for {} today",
    "curl -H 'Authorization: Bearer {}'",
    "https://u:{}@git.corp.example/a.git",
    "x={};y=1",
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", PLACES)
def test_a_known_secret_is_gone_in_every_form(form, place):
    assert form not in scrubbed(place.format(form), (), KNOWN)


UNKNOWN = [
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "glpat-Yz3x7qLmN8vWk2RtB5sD",
    "AKIAIOSFODNN7EXAMPLE",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
    "xoxb-123456789012-abcdefABCDEF",
    "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "kJ8fQm2Lx9TzRw4VbN7p",
]


@pytest.mark.parametrize("secret", UNKNOWN)
@pytest.mark.parametrize("place", PLACES)
def test_what_looks_like_a_secret_is_gone(secret, place):
    assert secret not in scrubbed(place.format(secret))


@pytest.mark.parametrize(
    "line",
    [
        "password=hunter2",
        "PASSWORD: hunter2",
        'db_password = "hunter2"',
        "the api_key is hunter2",
        "Authorization: Basic hunter2",
        "token 'hunter2' was refused",
        "postgres://admin:hunter2@db.corp.example:5432/prod",
        "-----BEGIN RSA PRIVATE KEY-----hunter2",
    ],
)
def test_what_stands_where_secrets_stand_is_gone(line):
    assert "hunter2" not in scrubbed(line)


@pytest.mark.parametrize(
    ("line", "gone"),
    [
        ("cannot open /home/ada/acme/src/lib.rs", ["ada", "acme", "lib.rs"]),
        ("cannot open src/payroll.py: no such file", ["payroll"]),
        ("error in payroll.py", ["payroll"]),
        (r"C:\Users\ada\x.txt is missing", ["ada", "x.txt"]),
        ("fatal: repository 'acme/billing' not found", ["acme", "billing"]),
        ("git@github.com:acme/billing.git: denied", ["acme", "billing"]),
        ("mail ada.l@corp.example about it", ["ada", "corp.example"]),
        ("could not resolve host db7.internal.corp", ["db7", "internal"]),
        ("connect 10.2.3.4:5432 refused", ["10.2.3.4"]),
        ("could not compile `acme-billing`", ["acme-billing"]),
        ("ACME-Billing v2 failed", ["acme-billing"]),
    ],
)
def test_places_and_names_are_gone(line, gone):
    found = scrubbed(line, ["acme-billing", "ada"]).lower()
    assert [word for word in gone if word.lower() in found] == []


@pytest.mark.parametrize(
    "line",
    [
        "curl: (<n>) Could not resolve host: pypi.org",
        "error[E0308]: mismatched types",
        "AssertionError: expected 'left' to equal 'right'",
        "npm error code ERESOLVE",
        "ERROR: No matching distribution found for requests",
        "signal: <n>, SIGKILL: kill",
    ],
)
def test_what_says_what_happened_stays(line):
    assert scrubbed(line, ["acme"]) == line


@given(st.text(max_size=120))
def test_scrubbing_again_changes_nothing_and_never_grows(line):
    once = scrubbed(line, ["acme"])
    assert scrubbed(once, ["acme"]) == once
    assert len(once) <= 300


@given(st.text("abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNP23456789", min_size=20, max_size=40), st.sampled_from(PLACES))
def test_any_known_secret_is_gone(secret, place):
    assert secret not in scrubbed(place.format(secret), (), known_secrets({"WORKFLOWMASTER_SECRET_X": secret}))


def test_what_is_no_secret_of_ours_is_no_secret():
    assert known_secrets({"PATH": "/usr/bin", "WORKFLOWMASTER_SECRET_SHORT": "abc"}) is None


def test_everybody_s_names_are_nobody_s():
    assert not people() & {"root", "localhost"}
