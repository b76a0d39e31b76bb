"""Real repositories, made with the real git in an environment of their own; real containers on the real engine."""

from __future__ import annotations

import itertools
import os
import secrets
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster import policies
from workflowmaster.blocks.container import Container
from workflowmaster.blocks.engine import Engine
from workflowmaster.blocks.exchange import Exchange
from workflowmaster.blocks.request import SCRATCH, ContainerRequest
from workflowmaster.blocks.workspace import Store, remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from workflowmaster.blocks.reader import Ending
    from workflowmaster.policies import SecurityPolicy

DATES = {"GIT_AUTHOR_DATE": "2024-05-06T07:08:09+02:00", "GIT_COMMITTER_DATE": "2024-05-06T07:08:09+02:00"}


@dataclass(frozen=True)
class Repo:
    """A user's repository and how he works in it."""

    path: Path

    def git(self, *args: str | bytes, stdin: bytes = b"", check: bool = True, cwd: Path | None = None) -> str:
        done = subprocess.run(["git", *args], cwd=cwd or self.path, input=stdin, capture_output=True, check=False)
        if check and done.returncode:
            raise AssertionError(f"git {args}: {done.stderr.decode()}")
        return done.stdout.decode("utf-8", "surrogateescape")

    def write(self, files: dict[str, str | bytes]) -> None:
        for name, content in files.items():
            write_file(self.path, name, content)

    def commit(self, files: dict[str, str | bytes] | None = None, message: str = "Change") -> str:
        self.write(files or {})
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.head()

    def head(self) -> str:
        return self.git("rev-parse", "HEAD").strip()

    def state(self) -> tuple[object, ...]:
        """Everything of the user's that no workflow may touch."""
        index = self.path / ".git/index"
        return (
            self.git("--no-optional-locks", "status", "--porcelain=v2", "--branch"),
            self.git("symbolic-ref", "-q", "HEAD", check=False),
            index.read_bytes(),
            index.stat().st_mtime_ns,
            read_folder(self.path),
            (self.path / ".git/config").read_bytes(),
        )


def write_file(directory: Path, name: str, content: str | bytes) -> Path:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read_folder(directory: Path) -> dict[bytes, tuple[object, ...]]:
    """Every name below a directory, `.git` left out: kind, executable, content or target."""
    found: dict[bytes, tuple[object, ...]] = {}
    # Not rglob: Python 3.11.2's looks where links lead, and one of ours leads to a name that is too long.
    names = (Path(folder, name) for folder, folders, files in os.walk(directory) for name in (*folders, *files))
    for path in names:
        inside = path.relative_to(directory)
        if ".git" in inside.parts:
            continue
        if path.is_symlink():
            what: tuple[object, ...] = ("link", path.readlink())
        elif path.is_dir():
            what = ("dir",)
        elif path.is_file():
            what = ("file", bool(path.stat().st_mode & 0o100), path.read_bytes())
        else:
            what = ("other",)
        found[os.fsencode(inside)] = what
    return found


@pytest.fixture
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Git's own configuration for one test."""
    home = tmp_path_factory.mktemp("home")
    (home / ".gitconfig").write_text(
        '[user]\n\tname = A User\n\temail = user@example.org\n[init]\n\tdefaultBranch = main\n[safe]\n\tdirectory = "*"\n'
        '[protocol "file"]\n\tallow = always\n'
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    for name, value in DATES.items():
        monkeypatch.setenv(name, value)


@dataclass(frozen=True)
class Nobody:
    """An unprivileged user with a folder of his own."""

    folder: Path
    uid: int = 65534

    def run(self, work: Callable[[], None]) -> str:
        """Run a function as him, in a child process; return what it raised, or an empty string."""
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setgroups([])
                os.setgid(self.uid)
                os.setuid(self.uid)
                os.environ["HOME"] = str(self.folder)
                work()
            except BaseException as error:  # noqa: BLE001 -- everything is handed to the parent
                os.write(write, f"{getattr(error, 'code', '')} {type(error).__name__}: {error}".encode())
            finally:
                os._exit(0)
        os.close(write)
        os.waitpid(child, 0)
        with os.fdopen(read) as said:
            return said.read()


@pytest.fixture
def nobody(tmp_path: Path) -> Nobody:
    for parent in (tmp_path, *tmp_path.parents[:-2]):
        parent.chmod(parent.stat().st_mode | 0o055)
    folder = tmp_path / "nobody"
    folder.mkdir()
    os.chown(folder, Nobody.uid, Nobody.uid)
    return Nobody(folder)


@pytest.fixture
def put() -> Callable[..., Path]:
    """Write a file, making the folders above it."""
    return write_file


@pytest.fixture
def contents() -> Callable[[Path], dict[bytes, tuple[object, ...]]]:
    """Read a folder: name → kind, executable, content or target."""
    return read_folder


@pytest.fixture
def repo(own_home: None, tmp_path: Path) -> Repo:
    """A repository with one commit."""
    path = tmp_path / "user"
    path.mkdir()
    made = Repo(path)
    made.git("init", "-q")
    made.commit(
        {"a.txt": "one\ntwo\nthree\nfour\nfive\n", "src/main.py": "print(1)\n", ".gitignore": "*.pyc\n.venv/\n"}
    )
    return made


@pytest.fixture
def open_store(own_home: None, tmp_path: Path) -> Iterator[Callable[..., Store]]:
    """Open stores under `tmp_path/state`, and close them at the end."""
    opened: list[Store] = []

    def open_one(workspace: Path, name: str = "wf-1", **options: object) -> Store:
        store = Store.open(tmp_path / "state" / name, workspace, **options)  # type: ignore[arg-type]
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(repo: Repo, open_store: Callable[..., Store]) -> Store:
    return open_store(repo.path)


@pytest.fixture
def worktree(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Make worktrees, by default holding the base; they are removed the product's own way."""
    top = tmp_path / "trees"
    top.mkdir()

    def make(store: Store | None = None, commit: str = "", name: str = "") -> Path:
        path = top / (name or f"w{len(list(top.iterdir()))}")
        path.mkdir()
        if store is not None:
            store.lay(commit or store.base, path)
        return path

    yield make
    remove_tree(top)


@pytest.fixture
def step(worktree: Callable[..., Path]) -> Callable[..., str]:
    """Do one step in a worktree of its own: write these files (None removes one) and return the commit."""

    def run(store: Store, start: str, name: str, files: dict[str, str | bytes | None]) -> str:
        where = worktree(store, start)
        for file, content in files.items():
            if content is None:
                (where / file).unlink()
            else:
                write_file(where, file, content)
        return store.snapshot(where, parents=[start], step=name, message=f"Do {name}").commit

    return run


IMAGE = "workflowmaster/step:1"
USER = (1000, 1000)


@dataclass
class Box:
    """One container with its exchange, and what it printed."""

    container: Container
    exchange: Exchange
    output: bytearray = field(default_factory=bytearray)

    def park(self, way: str = "pidfd") -> Box:
        """Park it; `engine` takes the pidfd away, so that the engine's word is all there is."""
        self.container.park()
        if way == "engine" and self.container.pidfd >= 0:
            os.close(self.container.pidfd)
            self.container.pidfd, self.container.cgroup = -1, None
        return self

    def go(self, seconds: float = 30, sink: Callable[[bytes], bool] | None = None, **environment: str) -> Ending:
        self.exchange.write(environment, {})
        return self.container.run(seconds, sink or self.take)

    def take(self, data: bytes) -> bool:
        self.output += data
        return True


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Connect to the engine; without one the tests fail, because nothing else would show what they show."""
    made = Engine()
    yield made
    made.close()


@pytest.fixture(scope="session")
def image_id(engine: Engine) -> str:
    found = engine.image_id(IMAGE)
    assert found, f"{IMAGE} is not built: workflowmaster image build"
    return found


@pytest.fixture(scope="session")
def make_box(engine: Engine, image_id: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Box]]:
    """Make containers that are gone when the tests are over, whatever happened to them."""
    made: list[Box] = []
    name = f"test-{secrets.token_hex(4)}"
    numbers = itertools.count()  # threads may ask at the same time

    def make(*argv: str, policy: str | SecurityPolicy = "standard", ids: tuple[int, int] = USER, **changed: Any) -> Box:
        exchange = Exchange(tmp_path_factory.mktemp("exchange") / "x").make(ids)
        given = {
            "name": f"{name}-{next(numbers)}",
            "image_id": image_id,
            "policy": policies.load(policy) if isinstance(policy, str) else policy,
            "argv": argv,
            "mounts": exchange.mounts,
            "labels": {"workflow": name},
            "user": f"{ids[0]}:{ids[1]}",
            "workdir": SCRATCH,
        }
        box = Box(Container(engine, ContainerRequest(**{**given, **changed})), exchange)
        made.append(box)
        return box

    yield make
    for box in made:
        box.container.remove()
    assert engine.containers(workflow=name) == []


@pytest.fixture
def box(make_box: Callable[..., Box]) -> Iterator[Callable[..., Box]]:
    """Make containers that are gone when the test is over."""
    made: list[Box] = []

    def make(*argv: str, **changed: Any) -> Box:
        made.append(make_box(*argv, **changed))
        return made[-1]

    yield make
    for one in made:
        one.container.remove()


@pytest.fixture
def sh(box: Callable[..., Box]) -> Callable[..., Box]:
    """Make containers that run a shell script."""
    return lambda script, **changed: box("sh", "-c", script, **changed)


@pytest.fixture
def exists(engine: Engine) -> Callable[[str], bool]:
    """Ask the engine whether it has a container of that name or id."""

    def ask(name: str) -> bool:
        return bool(engine.client.containers(all=True, filters={"name": f"^/{name}$"}))

    return ask
