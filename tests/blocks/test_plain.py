"""Images without a shell: the same policy, the same ends, only not parked."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.blocks.plain import PlainContainer, container_for, environment_of
from workflowmaster.blocks.wrapper import environment_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from workflowmaster.blocks.engine import Engine

docker = pytest.mark.docker

NAME = "workflowmaster-test/no-shell:1"

# The one statically linked program that every glibc distribution has.
TOOL = shutil.which("ldconfig") or "/sbin/ldconfig"


@pytest.fixture(scope="module")
def bare_image(engine: Engine) -> Iterator[str]:
    """An image of one static program and the directories that a policy mounts."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.add(Path(TOOL).resolve(), arcname="tool")
        for name in ("workspace", "tmp", "wm", "out"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
    repository, tag = NAME.split(":")
    engine.client.import_image_from_data(data.getvalue(), repository=repository, tag=tag)
    found = engine.image_id(NAME)
    assert found
    yield found
    engine.client.remove_image(NAME, force=True)


@pytest.fixture
def plain(make_box: Callable[..., Any], bare_image: str, engine: Engine) -> Iterator[Callable[..., Any]]:
    """Make boxes around plain containers that are gone when the test is over."""
    made: list[Any] = []

    def make(*argv: str, **changed: Any) -> Any:
        one = make_box(*argv, image_id=bare_image, **changed)
        one.container = container_for(engine, one.container.request)
        made.append(one)
        return one

    yield make
    for one in made:
        one.container.remove()


@docker
def test_a_shell_is_looked_for_once_and_nothing_is_left_of_the_look(
    plain: Callable[..., Any], sh: Callable[..., Any], engine: Engine, exists: Callable[[str], bool]
) -> None:
    one = plain("/tool", "--version").container
    assert isinstance(one, PlainContainer)
    assert not [c for c in engine.containers() if "-look-" in str(c["Names"])]
    assert not isinstance(container_for(engine, sh("true").container.request), PlainContainer)


@docker
@pytest.mark.parametrize("policy", ["minimal", "standard", "hardened", "paranoid"])
def test_it_runs_under_its_policy(plain: Callable[..., Any], engine: Engine, policy: str) -> None:
    one = plain("/tool", "--version", policy=policy)
    one.container.park()
    assert one.container.id == ""  # nothing is there before go
    ending = one.go(WORD="two\nlines")
    assert (ending.exit_code, ending.timed_out, ending.oom_killed) == (0, False, False)
    assert one.output.startswith(b"ldconfig (")
    config = engine.inspect(one.container.id)["Config"]
    assert config["Cmd"] == ["/tool", "--version"]
    assert "WORD=two\nlines" in config["Env"]
    assert not {"memory", "capabilities", "seccomp"} - {*one.container.attested.enforced, *one.container.attested.told}


@docker
def test_its_own_failure_is_its_own(plain: Callable[..., Any]) -> None:
    one = plain("/tool", "--no-such-option")
    one.container.park()
    assert one.go().exit_code != 0
    assert b"--no-such-option" in one.output


@docker
def test_a_program_that_is_not_there_is_no_failure_of_the_step(plain: Callable[..., Any]) -> None:
    one = plain("/absent", policy="standard")
    one.container.park()
    ending = one.go()
    assert ending.exit_code in (126, 127)  # said by the engine's init
    assert b"/absent" in one.output


@docker
def test_secrets_are_not_handed_where_no_shell_hands_them(plain: Callable[..., Any]) -> None:
    one = plain("/tool", "--version", secrets=("TOKEN",))
    with pytest.raises(SandboxUnavailable, match="has no /bin/sh, and secrets are handed over by it") as caught:
        one.container.park()
    assert caught.value.reason == "image"


NAMES = st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True).filter(lambda name: name != "OPTIND")
VALUES = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=40)


@given(st.dictionaries(NAMES, VALUES))
def test_an_environment_comes_back_as_it_was_spelt(values: dict[str, str]) -> None:
    assert environment_of(environment_file(values).encode()) == values
