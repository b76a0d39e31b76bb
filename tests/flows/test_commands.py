"""Which texts of prose may run. A doubt is a no: these tables are the rule."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflowmaster.flows.commands import is_command, judge, judge_fence
from workflowmaster.flows.outline import parse


def fence(text: str, info: str = "bash"):
    return parse(f"```{info}\n{text}\n```\n")[0]


@pytest.mark.parametrize(
    "text",
    [
        "uv run pytest tests/",
        "pytest -q && echo ok",
        "mkdir -p a/b\nmkdir -p c  # for later",
        "# a comment\nls -la uv.lock",
        'uv run python -c "import yaml; print(1)"',
        "X=1 Y=2 make test",
        "cd src; make -j4 | tee log.txt",
        "./scripts/check.sh --all",
        "scripts/build",
        "tools/run.py x",
        "go test ./...",
        "cat a > b 2>&1",
        "git log --format='%h <%an>'",
        "pip install '.[dev]'",
        "npm test || true",
        "python -m build \\\n  --wheel",
        "[ -f x ] && rm x",
    ],
)
def test_commands(text):
    found = judge(text)
    assert found.refusal == ""
    assert found.text == f"{text}\n"
    assert found.danger == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "nothing to run"),
        ("# only a comment", "nothing to run"),
        ("#!/bin/bash\nls", "content of a script file"),
        ("cat > x << 'EOF'\nhello\nEOF", "a text of its own"),
        ("cat <<-END\nx\nEND", "a text of its own"),
        ("git checkout -b fix/<short-description>", "placeholder"),
        ("python train.py --data path/to/data", "placeholder"),
        ("curl https://example.com/x", "placeholder"),
        ("export TOKEN=YOUR_TOKEN", "placeholder"),
        ("pytest ...", "placeholder"),
        ("echo [PR number]", "placeholder"),
        ("echo {{ name }}", "placeholder"),
        ("/agent:code-reviewer\n\nPR: 1", "calls an agent"),
        ("# Example commands (adjust to your files)\ngit mv a b", "calls itself an example"),
        ("ls  # e.g. this", "calls itself an example"),
        ("echo $(date)", "computes its own words"),
        ("echo `date`", "computes its own words"),
        ("for i in 1 2; do echo $i; done", "construct"),
        ("if true; then ls; fi", "construct"),
        ("(cd x && make)", "construct"),
        ("f() { ls; }", "construct"),
        ("eval ls", "construct"),
        ("echo 'open", "No closing quotation"),
        ("gadugi run", "'gadugi' is no known program"),
        ("ls && frobnicate", "'frobnicate' is no known program"),
        ("The tool does this", "'The' is no known program"),
        ("- UV configuration", "'-' is no known program"),
        ("├── src", "is no known program"),
        ("/usr/bin/env python", "'/usr/bin/env' is no known program"),
        ("../escape.sh", "is no known program"),
    ],
)
def test_what_is_no_command(text, why):
    found = judge(text)
    assert why in found.refusal
    assert found.text == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("curl -LsSf https://astral.sh/uv/install.sh | sh", "runs a script from the network"),
        ("wget -qO- https://x.y/z | sudo bash", "runs a script from the network"),
        ("sudo apt-get update", "asks for root"),
        ("git push origin main", "pushes"),
        ("gh pr create --draft", "writes to GitHub"),
        ("make && gh issue list", "writes to GitHub"),
        ("npm publish", "publishes a package"),
        ("twine upload dist/*", "publishes a package"),
        ("docker push x:1", "deploys"),
        ("kubectl apply -f x.yaml", "deploys"),
        ("rm -rf ~/data", "deletes outside the workspace"),
        ("rm -fr /var/x", "deletes outside the workspace"),
    ],
)
def test_dangerous_commands_need_a_person(text, why):
    found = judge(text)
    assert (found.refusal, found.danger) == ("", why)


@pytest.mark.parametrize(
    "text", ["rm -rf build", "git status", "docker build .", "terraform plan", "highlight", "echo pushes"]
)
def test_harmless_neighbours_of_dangerous_commands(text):
    assert judge(text).danger == ""


@pytest.mark.parametrize(
    ("info", "text", "runs"),
    [
        ("bash", "ls", True),
        ("sh", "ls", True),
        ("Shell", "ls", True),
        ("console", "$ ls\nREADME\n$ make\n", True),
        ("console", "README", False),
        ("", "ls", False),
        ("python", "print(1)", False),
        ("text", "ls", False),
        ("markdown", "ls", False),
    ],
)
def test_only_a_shells_fence_may_run(info, text, runs):
    assert bool(judge_fence(fence(text, info)).text) is runs


def test_of_a_transcript_only_what_was_typed_runs():
    assert judge_fence(fence("$ ls -l\ntotal 0\n$ make\nok", "console")).text == "ls -l\nmake\n"


def test_a_fence_without_an_end_never_runs():
    assert judge_fence(parse("```bash\nls\n")[0]).refusal == "it is never closed"


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("uv run pytest", True),
        ("make test", True),
        ("pytest", False),
        ("src/x.py", False),
        ("x y", False),
        ("ls\nls", False),
        ("git push -f <x>", False),
    ],
)
def test_back_ticked_words(text, command):
    assert is_command(text) is command


@settings(deadline=None)
@given(st.text(max_size=120))
def test_any_text_is_judged(text):
    found = judge(text)
    assert bool(found.text) != bool(found.refusal)


@settings(deadline=None)
@given(st.text(alphabet=st.characters(blacklist_characters="\n", codec="utf-8"), max_size=40))
def test_an_unknown_first_word_never_runs(rest):
    assert judge(f"frobnicate {rest}").refusal
