"""Bad input: one clear message, the right exit code, and nothing half-done.

Nothing half-done means: no workflow's folder, no container, no branch and no pin; the user's repository as it was.
"""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.docker]

GOOD = "# Good\n\n## Steps\n\n### only\n```bash\necho 1 > one.txt\n```\n"

PROMPTS: dict[str, tuple[bytes, list[str]]] = {
    "empty": (b"", ["is empty"]),
    "only white space": (b" \n\n\t\n", ["is empty"]),
    "binary": (bytes(range(256)) * 20, ["not UTF-8 text"]),
    "an image": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", ["not UTF-8 text"]),
    "front matter that is no YAML": (b"---\nname: [a\n---\n" + GOOD.encode(), ["this is no YAML", "bad.md:3"]),
    "a policy that does not exist": (
        GOOD.replace("### only\n", "### only\n- security-policy: hardend\n").encode(),
        ["hardend", "did you mean", "hardened"],
    ),
    "an unknown key": (
        GOOD.replace("### only\n", "### only\n- retrys: 2\n").encode(),
        ["retrys", "did you mean", "retr"],
    ),
    "a need that does not exist": (GOOD.replace("### only\n", "### only\n- needs: nothing\n").encode(), ["nothing"]),
    "a cycle": (
        b"# C\n\n## Steps\n\n### a\n- needs: b\n```sh\ntrue\n```\n\n### b\n- needs: a\n```sh\ntrue\n```\n",
        ["steps need each other: a -> b -> a"],
    ),
    "a required input": (
        b"---\ninputs:\n  who: {type: string, required: true}\n---\n" + GOOD.encode(),
        ["who", "--input"],
    ),
}


@pytest.fixture(autouse=True)
def nothing_half_done(bare: Any, repo: Any, orphans: Callable[[], list[str]]) -> Iterator[None]:
    before, known = repo.state(), set(orphans())
    yield
    assert repo.state() == before
    assert repo.refs() == {"refs/heads/main"}
    assert set(orphans()) <= known
    assert not list((bare.home / "workflows").glob("*"))
    assert list(bare.user_home.iterdir()) == []


@pytest.fixture
def good(prompt_file: Callable[..., Path]) -> Path:
    return prompt_file(GOOD, "good.md")


def refused(said: Any, code: int, *words: str) -> str:
    """Hold that a command was refused once, clearly, in both forms; return the message."""
    assert said.code == code, said.text
    assert "Traceback" not in said.text
    message: str = said.json["error"]
    assert said.json["exit_code"] == code
    assert [word for word in words if word not in said.text] == []
    return message


@pytest.mark.parametrize(("content", "words"), PROMPTS.values(), ids=PROMPTS)
def test_a_prompt_that_cannot_be_run(
    bare: Any, repo: Any, prompt_file: Callable[..., Path], content: bytes, words: list[str]
) -> None:
    prompt = prompt_file(content, "bad.md")
    refused(bare.run(prompt, repo.path), 2, "bad.md", *words)


def test_a_prompt_that_is_not_there(bare: Any, repo: Any) -> None:
    refused(bare.run(Path("no/such.md"), repo.path), 2, "no/such.md")


def test_a_prompt_that_is_a_folder(bare: Any, repo: Any) -> None:
    refused(bare.run(repo.path, repo.path), 2, str(repo.path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_prompt_that_may_not_be_read(bare: Any, repo: Any, good: Path) -> None:
    good.chmod(0)
    refused(bare.run(good, repo.path), 2, "good.md")


def test_a_policy_that_does_not_exist(bare: Any, repo: Any, good: Path) -> None:
    said = bare.run(good, repo.path, "--policy", "hardend")
    assert said.code in (2, 5), said.text
    refused(said, said.code, "hardend", "hardened")


def test_an_image_that_is_not_there_is_never_pulled(bare: Any, repo: Any, prompt_file: Callable[..., Path]) -> None:
    prompt = prompt_file(GOOD.replace("### only\n", "### only\n- image: example.org/nobody/nothing:1\n"))
    message = refused(bare.run(prompt, repo.path, "--policy", "minimal"), 4)
    wanted = "the engine has no image example.org/nobody/nothing:1, and a run never pulls: docker pull example.org/nobody/nothing:1 first"
    assert message == wanted


def test_our_own_image_is_built_and_not_pulled(bare: Any, repo: Any, good: Path) -> None:
    said = bare.run(good, repo.path, WORKFLOWMASTER_IMAGE="workflowmaster/step:none")
    assert refused(said, 4).endswith("a run never pulls: workflowmaster image build first")


def test_an_engine_that_does_not_answer(bare: Any, repo: Any, good: Path, tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "dead.sock"))  # nobody listens
    for url in (f"unix://{tmp_path}/none.sock", f"unix://{tmp_path}/dead.sock", "tcp://127.0.0.1:9"):
        message = refused(bare.run(good, repo.path, DOCKER_HOST=url), 4)
        assert "the Docker Engine does not answer" in message
        assert "`workflowmaster doctor` says what is missing" in message
    listener.close()


def test_a_prefect_server_that_does_not_answer(bare: Any, repo: Any, good: Path) -> None:
    said = bare.run(good, repo.path, PREFECT_API_URL="http://127.0.0.1:9/api")
    message = refused(said, 4)
    assert "http://127.0.0.1:9/api" in message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--input", "novalue"], "--input novalue: expected NAME=VALUE"),
        (["--input", "=x"], "--input =x: expected NAME=VALUE"),
        (["--workspace", "/no/such/directory"], "--workspace /no/such/directory: no such directory"),
        (["--workspace", "/etc/hostname"], "--workspace /etc/hostname: no such directory"),
        (["--max-parallel", "0"], "--max-parallel 0"),
        (["--max-parallel", "-3"], "--max-parallel -3"),
    ],
)
def test_an_option_that_cannot_be_meant(bare: Any, repo: Any, good: Path, words: list[str], said: str) -> None:
    assert refused(bare.run(good, repo.path, *words), 2).startswith(said)


def test_an_input_nobody_declared(bare: Any, repo: Any, good: Path) -> None:
    refused(bare.run(good, repo.path, "--input", "colour=red"), 2, "colour")


def test_a_setting_that_does_not_exist(bare: Any, repo: Any, good: Path) -> None:
    said = bare.run(good, repo.path, WORKFLOWMASTER_MAX_PARALEL="3")
    assert refused(said, 2).startswith("WORKFLOWMASTER_MAX_PARALEL: no such setting. Known: ")


def test_a_home_that_cannot_be_written(bare: Any, repo: Any, good: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "home", Path("/proc/workflowmaster")):
        message = refused(bare.run(good, repo.path, WORKFLOWMASTER_HOME=str(place)), 2)
        assert str(place).split("/home")[0] in message


def test_a_dirty_workspace_is_refused_with_the_files_and_the_way_out(bare: Any, repository: Any, good: Path) -> None:
    repo = repository()
    repo.write({"a.txt": "changed\n", "new.txt": "new\n"})
    before = repo.state()
    message = refused(bare.run(good, repo.path), 2)
    assert "has uncommitted changes: a.txt, new.txt" in message
    assert "--include-dirty" in message
    assert repo.state() == before
    assert repo.refs() == {"refs/heads/main"}


def test_a_repository_without_a_commit(bare: Any, good: Path, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path / "unborn")], check=True)
    assert "has no commit yet" in refused(bare.run(good, tmp_path / "unborn"), 2)


@pytest.mark.parametrize("command", ["logs", "resume", "approve", "report", "stats", "audit show", "audit verify"])
def test_a_run_that_does_not_exist(bare: Any, command: str) -> None:
    said = bare(*command.split(), "task-nope")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: task-nope: no such workflow in ")
