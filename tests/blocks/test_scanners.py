"""Scanners that may be installed: how their answers are read, and that one that fails is no answer.

Neither can be had without its service, so these are their documented forms, shortened, behind programs of that name.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from workflowmaster.blocks.scanners import SCANNERS, Advice, Answer, ask

TRIVY = {
    "SchemaVersion": 2,
    "ArtifactName": "debian:12",
    "Results": [
        {
            "Target": "debian:12 (debian 12.5)",
            "Class": "os-pkgs",
            "Vulnerabilities": [
                {
                    "VulnerabilityID": "CVE-2024-5535",
                    "PkgName": "openssl",
                    "InstalledVersion": "3.0.11-1~deb12u1",
                    "FixedVersion": "3.0.14-1~deb12u1",
                    "Severity": "CRITICAL",
                },
                {
                    "VulnerabilityID": "CVE-2011-3374",
                    "PkgName": "apt",
                    "InstalledVersion": "2.6.1",
                    "Severity": "LOW",
                },
            ],
        },
        {"Target": "Python", "Class": "lang-pkgs"},
    ],
}
TRIVY_VERSION = {"Version": "0.50.1", "VulnerabilityDB": {"Version": 2, "UpdatedAt": "2026-11-20T12:11:37.123456789Z"}}
GRYPE = {
    "matches": [
        {
            "vulnerability": {
                "id": "CVE-2024-5535",
                "severity": "High",
                "fix": {"versions": ["3.0.14-1"], "state": "fixed"},
            },
            "artifact": {"name": "openssl", "version": "3.0.11-1"},
        },
        {
            "vulnerability": {
                "id": "CVE-2011-3374",
                "severity": "Negligible",
                "fix": {"versions": [], "state": "wont-fix"},
            },
            "artifact": {"name": "apt", "version": "2.6.1"},
        },
    ],
    "descriptor": {"name": "grype", "db": {"status": {"built": "2026-11-20T12:11:37Z"}}},
}
BUILT = 1795176697.0


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put a program of a scanner's name on the path."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def install(name: str, script: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    return install


def test_trivy_is_read(program) -> None:
    answers = f"case $1 in version) cat <<'E'\n{json.dumps(TRIVY_VERSION)}\nE\n;; *) cat <<'E'\n{json.dumps(TRIVY)}\nE\n;; esac"
    program("trivy", answers)
    assert ask("sha256:1") == (
        Answer(
            "trivy",
            BUILT,
            (
                Advice("openssl", "3.0.11-1~deb12u1", "3.0.14-1~deb12u1", "high", "CVE-2024-5535"),
                Advice("apt", "2.6.1", "", "low", "CVE-2011-3374"),
            ),
        ),
        "",
    )


@pytest.mark.parametrize("database", [{"built": "2026-11-20T12:11:37Z"}, {"status": {"built": "2026-11-20T12:11:37Z"}}])
def test_grype_is_read_in_both_of_its_forms(program, database: dict) -> None:
    program("grype", f"cat <<'E'\n{json.dumps({**GRYPE, 'descriptor': {'db': database}})}\nE")
    answer, trouble = ask("sha256:1")
    assert answer
    assert (answer.data_from, trouble) == (BUILT, "")
    assert answer.findings == (
        Advice("openssl", "3.0.11-1", "3.0.14-1", "high", "CVE-2024-5535"),
        Advice("apt", "2.6.1", "", "low", "CVE-2011-3374"),
    )


@pytest.mark.parametrize("name", SCANNERS)
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'no database' >&2; exit 1", "failed: no database"),
        ("exit 3", "failed: Command"),
        ("echo not json", "gave no answer that can be read"),
        ('echo \'{"Results": [{"Vulnerabilities": [{}]}]}\'', "gave no answer that can be read"),
    ],
)
def test_a_scanner_that_fails_is_no_answer(program, name: str, script: str, said: str) -> None:
    program(name, script)
    answer, trouble = ask("sha256:1")
    assert answer is None
    assert trouble.startswith(f"{name} {said}")


def test_without_a_scanner_nothing_is_said(program) -> None:
    assert ask("sha256:1") == (None, "")


def test_the_image_is_named_by_its_id_and_is_the_last_word(program, tmp_path: Path) -> None:
    program("grype", f'echo "$@" > {tmp_path}/said; exit 1')
    ask("sha256:1")
    assert (tmp_path / "said").read_text() == "--quiet --output json sha256:1\n"
