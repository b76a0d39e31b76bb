"""What many tests share: homes of their own, real repositories, one real Prefect server, and the command line itself.

Everything is real. A run pays Prefect's start once a session, because all runs share one server; every run has a state
directory, a HOME and a repository of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Each property is tried often enough to be a test, and twenty times as often by `make full`.
settings.register_profile("short", max_examples=25, deadline=None)
settings.register_profile("full", max_examples=500, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))

ROOT = Path(__file__).resolve().parents[1]
WM = Path(sys.executable).with_name("workflowmaster")
COMMIT_DATE = "2024-05-06T07:08:09+02:00"
SET_BY_US = (
    "API_URL",
    "API_SSL_CERT_FILE",
    "HOME",
    "LOCAL_STORAGE_PATH",
    "LOGGING_HANDLERS_CONSOLE_LEVEL",
    "INTERNAL_LOGGING_LEVEL",
)
"""Prefect's variables (without PREFECT_) that a command sets in its own process."""
READY = "ready.db"
"""Copy of the session server's database, made before anybody used it."""
LONGEST = 240.0
"""Seconds any command of a test may take."""


def _clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without anything that configures the product, Prefect or git."""
    foreign = ("WORKFLOWMASTER_", "PREFECT_", "GIT_", "XDG_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, "GIT_CONFIG_NOSYSTEM": "1", **more}


@dataclass(frozen=True)
class Answer:
    """What a command answered."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def json(self) -> Any:
        """stdout as JSON: it must be that and nothing else."""
        return json.loads(self.out)

    @property
    def text(self) -> str:
        return self.out + self.err


@dataclass
class Running:
    """A command under way."""

    process: subprocess.Popen[str]
    began: float

    def interrupt(self, number: int = signal.SIGINT) -> None:
        self.process.send_signal(number)

    def ended(self, seconds: float = LONGEST) -> Answer:
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            raise AssertionError(f"it did not end within {seconds:g} s:\n{out}\n{err}") from None
        return Answer(self.process.returncode, out, err, time.monotonic() - self.began)


@dataclass
class CommandLine:
    """The command line of one imaginary user: a state directory, a HOME and a directory of their own."""

    home: Path
    """WORKFLOWMASTER_HOME."""
    user_home: Path
    """HOME; nothing may ever be written here."""
    cwd: Path
    env: dict[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    """What the command is started by: nothing, or what gives it another host's name."""

    def start(self, *words: str | Path, cwd: Path | None = None, **env: str) -> Running:
        given = {"WORKFLOWMASTER_HOME": str(self.home), "HOME": str(self.user_home), **self.env, **env}
        wanted = {name: value for name, value in _clean_environment(**given).items() if value != "-"}
        process = subprocess.Popen(
            [*self.prefix, str(WM), *map(str, words)],
            cwd=cwd or self.cwd,
            env=wanted,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        return Running(process, time.monotonic())

    def __call__(self, *words: str | Path, cwd: Path | None = None, **env: str) -> Answer:
        return self.start(*words, cwd=cwd, **env).ended()

    def run(self, prompt: Path, repo: Path, *words: str | Path, **env: str) -> Answer:
        """Run a prompt on a workspace, with the answer as JSON."""
        return self("run", prompt, "--workspace", repo, "--json", "-q", *words, **env)

    def folder(self, workflow_id: str = "") -> Path:
        """A workflow's folder; the only one's, if no id is given."""
        if workflow_id:
            return self.home / "workflows" / workflow_id
        (only,) = (self.home / "workflows").iterdir()
        return only


@dataclass(frozen=True)
class Repository:
    """A user's repository and how they work in it."""

    path: Path

    def git(self, *args: str | Path, check: bool = True, cwd: Path | None = None) -> str:
        env = _clean_environment(HOME=str(self.path.parent / "git-home"))
        env |= {"GIT_AUTHOR_DATE": COMMIT_DATE, "GIT_COMMITTER_DATE": COMMIT_DATE}
        who = ["-c", "user.name=A User", "-c", "user.email=user@example.org", "-c", "init.defaultBranch=main"]
        command = ["git", *who, *map(str, args)]
        done = subprocess.run(command, cwd=cwd or self.path, env=env, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise AssertionError(f"git {args}: {done.stderr}")
        return done.stdout.strip()

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def commit(self, files: dict[str, str], message: str = "Change") -> str:
        self.write(files)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def refs(self) -> set[str]:
        return set(self.git("for-each-ref", "--format=%(refname)").split())

    def files(self, commit: str) -> dict[str, str]:
        """Path → content of a commit's files."""
        names = self.git("ls-tree", "-r", "--name-only", commit).splitlines()
        return {name: self.git("show", f"{commit}:{name}") for name in names}

    def state(self) -> dict[str, object]:
        """Everything of the user's that no run may change."""
        index = self.path / ".git/index"
        return {
            "status": self.git("--no-optional-locks", "status", "--porcelain=v2", "--branch", "--ignored"),
            "HEAD": (self.path / ".git/HEAD").read_bytes(),
            "index": (index.read_bytes(), index.stat().st_mtime_ns),
            "config": (self.path / ".git/config").read_bytes(),
            "stash": self.git("stash", "list"),
            "files": snapshot(self.path, skip=".git"),
        }


def snapshot(folder: Path, *, skip: str = "") -> dict[str, tuple[object, ...]]:
    """Every name below a folder: mode, time of change, content or target."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if skip and name.split("/", maxsplit=1)[0] == skip:
            continue
        info = path.lstat()
        body = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[name] = (info.st_mode, info.st_mtime_ns if path.is_file() else 0, body)
    return found


@dataclass(frozen=True)
class PrefectServer:
    """A real server, as a run without one starts it."""

    url: str
    home: Path

    def get(self, path: str) -> Any:
        return self._ask(Request(f"{self.url}{path}"))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        data = json.dumps(body).encode()
        return self._ask(Request(f"{self.url}{path}", data, {"Content-Type": "application/json"}))

    def delete(self, path: str) -> None:
        self._ask(Request(f"{self.url}{path}", method="DELETE"))

    def _ask(self, request: Request) -> Any:
        """Ask, again while SQLite is busy: the server answers 503 then, and its own client asks again too."""

        def answered() -> list[Any] | None:
            try:
                with urlopen(request, timeout=30) as answer:
                    return [json.loads(answer.read() or b"null")]
            except HTTPError as error:
                if error.code != 503:
                    raise
                return None

        return eventually(answered, 60.0)[0]

    def tasks(self, flow_run: str, *, count: int) -> list[dict[str, Any]]:
        """The flow run's task runs, once all have arrived in a final state: they travel as events, and lag."""

        def arrived() -> list[dict[str, Any]] | None:
            runs = self.post("/task_runs/filter", {"flow_runs": {"id": {"any_": [flow_run]}}})
            over = all(run["state_type"] in ("COMPLETED", "FAILED", "CANCELLED", "CRASHED") for run in runs)
            return runs if len(runs) >= count and over else None

        found: list[dict[str, Any]] = eventually(arrived)
        return found

    def logs(self, flow_run: str, *, containing: str) -> list[dict[str, Any]]:
        """The flow run's log, once a line with this text is in it: logs travel in batches."""

        def arrived() -> list[dict[str, Any]] | None:
            lines = self.post("/logs/filter", {"logs": {"flow_run_id": {"any_": [flow_run]}}, "sort": "TIMESTAMP_ASC"})
            return lines if any(containing in line["message"] for line in lines) else None

        found: list[dict[str, Any]] = eventually(arrived)
        return found


def eventually(look: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Return the first true answer of `look`; AssertionError if there is none in time."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {look}"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., Any]:
    return eventually


@pytest.fixture(scope="session")
def snapshot_of() -> Callable[..., dict[str, tuple[object, ...]]]:
    return snapshot


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory of this test's own, with HOME elsewhere and no other setting."""
    for name in {*set(os.environ) - set(_clean_environment()), *(f"PREFECT_{name}" for name in SET_BY_US)}:
        monkeypatch.setenv(name, "")  # so that it is taken away again, whoever sets it
        monkeypatch.delenv(name)
    place = tmp_path / "state"
    monkeypatch.setenv("WORKFLOWMASTER_HOME", str(place))
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    return place


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Repository]:
    """Make a git repository with one commit of these files."""

    def make(files: dict[str, str] | None = None) -> Repository:
        made = Repository(tmp_path_factory.mktemp("repo") / "work")
        made.path.mkdir()
        (made.path.parent / "git-home").mkdir()
        made.git("init", "-q")
        made.commit(files if files is not None else {"a.txt": "one\ntwo\nthree\n", ".gitignore": ".venv/\n*.pyc\n"})
        return made

    return make


@pytest.fixture(scope="session")
def prompt_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a prompt file, outside any repository."""

    def write(text: str | bytes, name: str = "prompt.md") -> Path:
        path = tmp_path_factory.mktemp("prompt") / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long forms too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long forms out unless they are asked for, whatever else `-m` selects."""
    if config.getoption("--long"):
        return
    config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("long")])
    items[:] = [item for item in items if not item.get_closest_marker("long")]


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """One server for the whole session, started as a run without one would start it."""
    from workflowmaster.flows.embedded import EmbeddedServer

    place = tmp_path_factory.mktemp("server")
    server = EmbeddedServer(place).start()
    try:
        url = server.wait_ready()
        with (
            closing(sqlite3.connect(place / "prefect/prefect.db")) as live,
            closing(sqlite3.connect(place / READY)) as copy,
        ):
            live.backup(copy)  # before any test has left something in it
        yield PrefectServer(url, place)
    finally:
        server.stop()


@pytest.fixture(scope="session")
def ready_database(prefect_server: PrefectServer) -> Callable[[Path], None]:
    """Give a state directory a database as an earlier start would have left it.

    Prefect takes 5 to 15 s to make one; only the tests of the very first start need to see that.
    """

    def give(home: Path) -> None:
        (home / "prefect").mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copy(prefect_server.home / READY, home / "prefect/prefect.db")

    return give


@pytest.fixture(scope="session")
def signed_images(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], None]:
    """Give a state directory the step image's signed manifest, as `image build` would have left it there."""
    from workflowmaster.blocks import imagebuild
    from workflowmaster.blocks.signing import Manifest, Trust

    place = tmp_path_factory.mktemp("signed") / "images"
    form = ["docker", "image", "inspect", "-f", "{{.Id}}", imagebuild.DEFAULT_IMAGE]
    found = subprocess.run(form, capture_output=True, text=True, check=False) if shutil.which("docker") else None
    if found and not found.returncode:
        known = {"id": found.stdout.strip(), "reference": imagebuild.DEFAULT_IMAGE, "packages": "0" * 64}
        Trust(place).sign(Manifest(**known, recipe=imagebuild.recipe_hash(), signed_at=1.0))

    def give(home: Path) -> None:
        if place.exists():
            shutil.copytree(place, home / "images")

    return give


@pytest.fixture(scope="session")
def command_line(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Callable[..., CommandLine]:
    """Make the command line of another user, by default without any Prefect server and with a used state directory."""

    def make(**env: str) -> CommandLine:
        place = tmp_path_factory.mktemp("user")
        for name in ("state", "home", "cwd"):
            (place / name).mkdir()
        if "PREFECT_API_URL" not in env:
            request.getfixturevalue("ready_database")(place / "state")
        request.getfixturevalue("signed_images")(place / "state")
        return CommandLine(place / "state", place / "home", place / "cwd", env)

    return make


@pytest.fixture(scope="module")
def wm(command_line: Callable[..., CommandLine], prefect_server: PrefectServer) -> CommandLine:
    """The command line of one user for a file's tests, with the session's server configured."""
    return command_line(PREFECT_API_URL=prefect_server.url)


@pytest.fixture(scope="module")
def bare(command_line: Callable[..., CommandLine]) -> CommandLine:
    """The command line of one user for a file's tests who has no Prefect server configured."""
    return command_line()


def ours(*labels: str) -> list[str]:
    """Names of containers that carry our labels, running or not."""
    if shutil.which("docker") is None:
        return []
    filters = [word for label in labels or ("workflowmaster.workflow",) for word in ("--filter", f"label={label}")]
    done = subprocess.run(
        ["docker", "ps", "-a", "--format", "{{.Names}}", *filters], capture_output=True, text=True, check=False
    )
    return sorted(done.stdout.split())


@pytest.fixture(scope="session")
def containers() -> Callable[..., list[str]]:
    """List our containers, or those of one workflow."""

    def of(workflow_id: str = "") -> list[str]:
        return ours(f"workflowmaster.workflow={workflow_id}") if workflow_id else ours()

    return of


def pump(source: socket.socket, target: socket.socket) -> None:
    """Pass on what one end sends until it stops; a broken end breaks the other."""
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def accept(server: socket.socket, held: list[socket.socket]) -> None:
    """Connect each caller with the engine of this machine."""
    with suppress(OSError):  # closed at the end of the session
        while True:
            outer, inner = server.accept()[0], socket.socket(socket.AF_UNIX)
            inner.connect("/var/run/docker.sock")
            held += [outer, inner]
            for ends in ((outer, inner), (inner, outer)):
                threading.Thread(target=pump, args=ends, daemon=True).start()


@pytest.fixture(scope="session")
def far_engine() -> Iterator[str]:
    """The engine of this machine as one on another: the address it has behind a TCP port, where no path is shared."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, args=(server, held), daemon=True).start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
    for one in held:
        one.close()


@pytest.fixture(scope="session")
def orphans() -> Callable[[], list[str]]:
    """List our containers that nobody living owns: what a command has left behind."""
    return lambda: [name for name in ours() if not _someone_elses(name)]


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hold that no run of this session has left a container; other sessions may use the same engine."""
    yield
    runs = {path.name for path in tmp_path_factory.getbasetemp().glob("*/*/workflows/*")}
    left = [name for name in ours() if any(name.startswith(run) for run in runs)]
    assert not left, f"containers left behind: {left}"


def _someone_elses(name: str) -> bool:
    """Whether a container is gone by now, or belongs to nobody or to a living process that is not this one.

    Others may work on the same engine.
    """
    form = '{{index .Config.Labels "workflowmaster.owner-pid"}}'
    done = subprocess.run(["docker", "inspect", "-f", form, name], capture_output=True, text=True, check=False)
    pid = done.stdout.strip()
    if done.returncode or not pid.isdigit():
        return True
    return int(pid) != os.getpid() and Path(f"/proc/{pid}").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB; skipped where none can be mounted."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be mounted only by root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)
