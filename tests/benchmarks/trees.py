"""What the workspace costs: `python tests/benchmarks/trees.py [FOLDER]`, in milliseconds, beside `cp -a` of the same files.

Disks differ and are shared; trust the ratio to `cp -a` in one run, and FOLDER=/dev/shm for the part that is ours.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from workflowmaster.blocks.workspace import Store, remove_tree

GIT = ("git", "-c", "user.name=Bench", "-c", "user.email=bench@localhost")
CHAIN = 50
FEW, MANY, NEW = 50, 5_000, 20_000


def timed(work: Callable[[], object], times: int = 1) -> float:
    found = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found) * 1000


def row(what: str, milliseconds: float) -> None:
    print(f"  {what:<40}{milliseconds:9.2f}", flush=True)


def make_repo(path: Path, count: int) -> Path:
    for n in range(count):
        file = path / f"d{n // 16}" / f"f{n}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"%d " % n * 40 + os.urandom(40) * 140)
    for args in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "Start"], ["repack", "-adq"]):
        subprocess.run([*GIT, *args], cwd=path, check=True)
    return path


def chain(store: Store, where: Path, start: str, change: Callable[[int], object]) -> str:
    commit = start
    for n in range(CHAIN):
        store.release(where)
        change(n)
        commit = store.snapshot(where, parents=[commit], step=f"s{n}", message="Step").commit
        store.switch(where, commit, commit)
    return commit


def measure(top: Path, count: int) -> None:
    print(f"{count} files, {count * 6 // 1000} MB")
    user, where, other = make_repo(top / "user", count), top / "tree", top / "other"
    where.mkdir()
    started = time.perf_counter()
    store = Store.open(top / "state", user)
    row("open, with a look for uncommitted changes", (time.perf_counter() - started) * 1000)
    row("cp -a", timed(lambda: subprocess.run(["cp", "-a", user, other], check=True)))
    row("lay", timed(lambda: store.lay(store.base, where)))
    store.release(where)
    time.sleep(0.06)  # files younger than 50 ms are read again, which is not what is measured here

    def shot() -> object:
        return store.snapshot(where, parents=[store.base], step="s", message="Step")

    def change(n: int) -> object:
        return (where / "d0/f0.txt").write_text(f"{n}")

    row("snapshot, nothing changed", timed(shot, 5))
    row("lay, all there", timed(lambda: store.lay(store.base, where), 3))
    row("a no-op step of a chain", timed(lambda: chain(store, where, store.base, lambda _: None)) / CHAIN)
    row("a one-file step of a chain", timed(lambda: chain(store, where, store.base, change)) / CHAIN)
    tip = chain(store, where, store.base, lambda n: (where / f"d0/new{n}").write_text("x"))
    row("switch by difference", timed(lambda: store.switch(where, tip, store.base)))
    row("export of 50 commits", timed(lambda: store.export(tip, branch="made")))
    row("throw-away repository", timed(lambda: store.throwaway_git(where)))
    row("remove_tree", timed(lambda: remove_tree(where)))
    store.close()


def measure_new(top: Path) -> None:
    print(f"{NEW} new small files, 200 MB in one file")
    store, where, other = Store.open(top / "state", make_repo(top / "user", FEW)), top / "tree", top / "other"
    where.mkdir()
    other.mkdir()
    store.lay(store.base, where)
    for n in range(NEW):
        file = where / f".venv/p{n // 100}/m{n}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"x = {n}\n" * 50)
    commits = [store.base]

    def snap() -> None:
        commits.append(store.snapshot(where, parents=commits[-1:], step="s", message="Step").commit)

    row("snapshot of the small ones", timed(snap))
    row("lay", timed(lambda: store.lay(commits[-1], other)))
    with (where / "big").open("wb") as file:
        for _ in range(200):
            file.write(os.urandom(1 << 20))
    row("snapshot of the large one", timed(snap))
    row("switch to it", timed(lambda: store.switch(other, commits[-2], commits[-1])))
    store.close()


def main() -> None:
    for work in (lambda t: measure(t, FEW), lambda t: measure(t, MANY), measure_new):
        top = Path(tempfile.mkdtemp(dir=sys.argv[1] if len(sys.argv) > 1 else None))
        try:
            work(top)
        finally:
            shutil.rmtree(top)


if __name__ == "__main__":
    main()
