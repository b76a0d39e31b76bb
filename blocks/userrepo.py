"""The user's repository: found, vetted, read, and given two refs; otherwise left as it is.

Refused are the kinds that libgit2 cannot read (SHA-256, reftable) and those whose base would have holes (no commit
yet, a partial clone that lacks files), each with what to do. Nothing of the user's configuration can run: libgit2
starts no hook, filter or fsmonitor, and we never start git. What of it is read: which files he keeps out of git
(`core.excludesFile`) and whose repositories he trusts (`safe.directory`), because both are his decisions and not
ours.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pygit2
from pygit2.enums import FileStatus, FilterMode

from workflowmaster.blocks import handles, indexfile
from workflowmaster.blocks.caps import DEFAULT_CAPS
from workflowmaster.blocks.ignore import Rules, rules_from
from workflowmaster.blocks.looseobjects import read_all
from workflowmaster.blocks.refusal import WorkspaceError
from workflowmaster.blocks.scanning import Scan
from workflowmaster.blocks.stamps import Known
from workflowmaster.blocks.trees import DIRECTORY, EXECUTABLE, FILE, GITLINK, SYMLINK, Entry, show

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workflowmaster.blocks.objectstore import ObjectStore

_TRACKED = (
    FileStatus.WT_MODIFIED
    | FileStatus.WT_DELETED
    | FileStatus.WT_TYPECHANGE
    | FileStatus.WT_RENAMED
    | FileStatus.INDEX_NEW
    | FileStatus.INDEX_MODIFIED
    | FileStatus.INDEX_DELETED
    | FileStatus.INDEX_RENAMED
    | FileStatus.INDEX_TYPECHANGE
    | FileStatus.CONFLICTED
)


@dataclass(frozen=True)
class UserRepo:
    """A vetted repository with a working tree."""

    repo: pygit2.Repository
    root: Path
    """Top of the working tree."""
    common: Path
    """The folder that holds objects and branches; a linked worktree's own git folder does not."""

    @property
    def objects(self) -> Path:
        """His object folder."""
        return self.common / "objects"

    def head(self) -> bytes:
        """Return the id of the checked-out commit. WorkspaceError `unborn` if there is none."""
        if self.repo.head_is_unborn:
            message = f'{self.root} has no commit yet. Make one first, e.g. `git commit --allow-empty -m "Start"`.'
            raise WorkspaceError("unborn", message)
        return raw(self.repo.head.target)

    def rules(self) -> Rules:
        """Return the ignore rules that lie outside the tree: `core.excludesFile`, then `info/exclude`."""
        return rules_from(c for p in (self._excludes_file(), self.common / "info/exclude") if (c := _content(p)))

    def uncommitted(self) -> list[bytes]:
        """Return the paths that differ from the checked-out commit, untracked ones that are not ignored included."""
        found = []
        rules: dict[bytes, Rules] = {}
        absent = self._left_out()
        for name, status in self._status().items():
            path = os.fsencode(name)
            # libgit2 calls what a sparse checkout left out deleted.
            if status == FileStatus.WT_DELETED and path in absent:
                continue
            if status == FileStatus.INDEX_MODIFIED and self._only_spelling(name):
                continue
            # libgit2 has applied the rules inside the repository; the user's own file it was told not to read.
            if status & _TRACKED or (status & FileStatus.WT_NEW and not self._ignored(path, rules)):
                found.append(path.rstrip(b"/"))
        return sorted(found)

    def tree_with_changes(self, store: ObjectStore, tree: bytes, paths: list[bytes]) -> bytes:
        """Return the commit's tree with these paths as they are in the working tree now, cleaned as `git add` would."""
        changes: dict[bytes, Entry | None] = {}
        for path in paths:
            old = store.entry(tree, path)
            # A submodule that stands elsewhere: its content is not ours to carry, so the commit keeps what it names.
            if old is not None and old.mode == GITLINK:
                continue
            full = self.root / os.fsdecode(path)
            nested = full.is_dir() and not full.is_symlink()
            changes[path] = self._folder(store, path) if nested else self._entry(store, path)
        return store.edit(tree, changes)

    def own_ref(self, name: str) -> None:
        """Give a ref that was just made, with the folders made for it, to the owner of the repository."""
        found: list[Path] = []
        for top in (self.common, self.common / "logs"):
            path = top / name
            # A branch `a/b` may have made the folder `a`, in the refs and in the reflogs.
            while path not in (top / "refs", top / "refs/heads"):
                found.append(path)
                path = path.parent
        self.own([p for p in found if p.exists()])

    def own(self, paths: list[Path]) -> None:
        """Give what root wrote into another user's repository to that user."""
        # A file of root's in there would later stop his own git, at a time when nobody thinks of us.
        st = self.common.stat()
        if os.geteuid() == 0 and st.st_uid != 0:
            for path in paths:
                os.chown(path, st.st_uid, st.st_gid, follow_symlinks=False)

    def _folder(self, store: ObjectStore, path: bytes) -> Entry:
        """Take what libgit2 reports as one untracked name: a repository inside the repository, without its `.git`."""
        scan = Scan(store, {}, DEFAULT_CAPS.total_bytes, rules=self._rules_at(path.split(b"/"), {}), lend=False)
        with handles.root(self.root / os.fsdecode(path), lend=False) as fd:
            return Entry(DIRECTORY, scan.run(fd, Known(), path + b"/"))

    def _only_spelling(self, name: str) -> bool:
        """Return whether index and commit differ only in how old gits wrote a file's mode (100664)."""
        # git reads such a mode as 100644 and sees no change; libgit2 compares the bytes.
        staged, committed = self.repo.index[name], self.repo.head.peel(pygit2.Tree)[name]
        modes = (staged.mode, committed.filemode)
        return (
            staged.id == committed.id
            and all(m & 0o170000 == 0o100000 for m in modes)
            and not (modes[0] ^ modes[1]) & 0o100
        )

    def _status(self) -> dict[str, int]:
        try:
            return self.repo.status()
        except pygit2.GitError as error:
            message = (
                f"The index of {self.root} cannot be read: {error}. For a sparse index, `git sparse-checkout reapply "
                "--no-sparse-index` helps; for a split one, `git update-index --no-split-index`."
            )
            raise WorkspaceError("index", message) from error

    def _left_out(self) -> frozenset[bytes]:
        """Return the paths that a sparse checkout does not have in the working tree."""
        path = Path(self.repo.path) / "index"
        return indexfile.left_out(path.read_bytes()) if path.exists() else frozenset()

    def _entry(self, store: ObjectStore, path: bytes) -> Entry | None:
        full = os.fsencode(self.root) + b"/" + path
        try:
            st = os.lstat(full)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISLNK(st.st_mode):
            return Entry(SYMLINK, store.write("blob", os.readlink(full)))  # noqa: PTH115 -- pathlib cannot read bytes
        if not stat.S_ISREG(st.st_mode):
            return None
        fd = os.open(full, handles.READ_FLAGS)
        try:
            mode = EXECUTABLE if st.st_mode & stat.S_IXUSR else FILE
            return Entry(mode, self._clean(store, fd, path, st.st_size))
        finally:
            os.close(fd)

    def _clean(self, store: ObjectStore, fd: int, path: bytes, size: int) -> bytes:
        """Store a file as `git add` would, line endings by the repository's rules; a filter program is refused."""
        name = os.fsdecode(path)
        driver = self.repo.get_attr(path, "filter")
        if isinstance(driver, str):
            message = (
                f"{show(path)} has changes and goes through the filter `{driver}`, a program that is not run here. "
                "Commit or stash it first."
            )
            raise WorkspaceError("filter", message, files=(show(path),))
        # libgit2's own filters only: line endings and `ident`, as the repository's attributes and settings ask.
        filters = self.repo.load_filter_list(name, mode=FilterMode.TO_ODB) if name.isprintable() else None
        if filters is None or not len(filters):
            return store.write_file(fd, size)
        return store.write("blob", filters.apply_to_buffer(read_all(fd, size)))

    def _ignored(self, path: bytes, known: dict[bytes, Rules]) -> bool:
        """Return whether an untracked path, or a folder it lies in, is left out by any rule."""
        parts = path.rstrip(b"/").split(b"/")
        for n in range(1, len(parts) + 1):
            directory = n < len(parts) or path.endswith(b"/")
            if self._rules_at(parts[: n - 1], known).ignores(b"/".join(parts[:n]), directory=directory):
                return True
        return False

    def _rules_at(self, folder: list[bytes], known: dict[bytes, Rules]) -> Rules:
        """Return the ignore rules inside a directory of the working tree, given as its path's parts."""
        path = b"/".join(folder)
        if path not in known:
            above = self._rules_at(folder[:-1], known) if folder else self.rules()
            # git reads no `.gitignore` that is a symlink, so a link to a secret is not read here either.
            own = _content(self.root / os.fsdecode(path) / ".gitignore", os.O_NOFOLLOW)
            known[path] = above.below(path, own)
        return known[path]

    def _excludes_file(self) -> Path | None:
        # The repository's setting wins over the user's, and the last of his files over the first.
        named = [str(self.repo.config["core.excludesfile"])] if "core.excludesfile" in self.repo.config else []
        named = named or list(user_settings("core.excludesfile"))
        if named:
            return Path(named[-1]).expanduser()
        home = _config_home()
        return home / "git/ignore" if home else None


def find(workspace: Path) -> UserRepo | None:
    """Return the repository a directory belongs to, or None if it belongs to none. WorkspaceError if it is unusable."""
    found = pygit2.discover_repository(str(workspace))
    if found is None:
        return None
    git_dir = Path(found)
    # Owner and format come before libgit2 opens it: its own words for these cases tell nobody what to do.
    common = _common_dir(git_dir)
    _vet_owner(git_dir)
    _vet_format(common)
    try:
        repo = pygit2.Repository(str(git_dir))
    except (pygit2.GitError, ValueError, KeyError, OSError) as error:
        message = f"{workspace} is in a git repository that cannot be opened: {error}. Try `git -C {workspace} fsck`."
        raise WorkspaceError("broken", message) from error
    if repo.is_bare or repo.workdir is None:
        raise WorkspaceError(
            "bare", f"{workspace} is a bare repository. Give a working tree of it: `git worktree add`."
        )
    return UserRepo(repo, Path(repo.workdir).resolve(), common)


def raw(target: pygit2.Oid | str) -> bytes:
    """Return the raw id a direct ref points at."""
    if isinstance(target, str):
        raise WorkspaceError("broken", f"A ref that should name a commit points at {target}. Mend it by hand.")
    return target.raw


def missing_objects(user: UserRepo, store: ObjectStore, tree: bytes) -> list[bytes]:
    """Return paths of the tree whose content a partial clone has not fetched; empty for any other repository."""
    # Looking up every file costs; only a clone that says it is partial can have holes.
    if not _is_partial(user.repo):
        return []
    gone: list[bytes] = []
    todo = [(b"", tree)]
    while todo:
        prefix, oid = todo.pop()
        if not store.holds(oid):
            gone.append(prefix)
            continue
        for name, entry in store.tree(oid).items():
            if entry.mode == 0o040000:
                todo.append((prefix + name + b"/", entry.oid))
            elif entry.mode != GITLINK and not store.holds(entry.oid):
                gone.append(prefix + name)
    return sorted(gone)


def user_settings(name: str) -> Iterator[str]:
    """Yield the values of a setting in the configuration of the machine and of the user, weakest first."""
    home = os.environ.get("HOME")
    xdg = _config_home()
    files = [Path("/etc/gitconfig"), xdg / "git/config" if xdg else None, Path(home) / ".gitconfig" if home else None]
    for file in files:
        # A home that cannot be read has no settings for us.
        with suppress(OSError, pygit2.GitError, ValueError, KeyError):
            if file is not None and file.is_file():
                yield from (v for v in pygit2.Config(str(file)).get_multivar(name) if v is not None)


def _config_home() -> Path | None:
    xdg, home = os.environ.get("XDG_CONFIG_HOME"), os.environ.get("HOME")
    if xdg:
        return Path(xdg)
    return Path(home) / ".config" if home else None


def _common_dir(git_dir: Path) -> Path:
    # pygit2 does not tell it; without it a linked worktree would borrow from a folder that holds no objects.
    pointer = _content(git_dir / "commondir")
    return (git_dir / os.fsdecode(pointer.rstrip(b"\n"))).resolve() if pointer else git_dir


def _vet_owner(git_dir: Path) -> None:
    """Refuse a repository of another user, as git does, unless `safe.directory` names it."""
    uid = git_dir.stat().st_uid
    trusted = {os.geteuid()}
    # `sudo workflowmaster` in one's own repository is no foreign repository; git says the same.
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdigit():
        trusted.add(int(os.environ["SUDO_UID"]))
    if uid in trusted:
        return
    work = git_dir.parent if git_dir.name == ".git" else git_dir
    if {"*", str(work), str(work) + "/"} & set(user_settings("safe.directory")):
        return
    message = (
        f"{work} belongs to user {uid}, and you are {os.geteuid()}. Run as its owner, "
        f"or trust it: `git config --global --add safe.directory {work}`."
    )
    raise WorkspaceError("owner", message)


def _vet_format(common: Path) -> None:
    try:
        config = pygit2.Config(str(common / "config"))
        objects, refs = _setting(config, "extensions.objectformat"), _setting(config, "extensions.refstorage")
    except (pygit2.GitError, OSError, ValueError) as error:
        raise WorkspaceError("broken", f"{common / 'config'} cannot be read: {error}. Mend it by hand.") from error
    where = f"{common.parent if common.name == '.git' else common}"
    if objects not in ("", "sha1"):
        message = f"{where} stores its objects as {objects}, which is not supported. Work in a SHA-1 clone of it."
        raise WorkspaceError("sha256", message)
    if refs not in ("", "files"):
        message = (
            f"{where} stores its refs as {refs}, which is not supported. `git refs migrate --ref-format=files` helps."
        )
        raise WorkspaceError("reftable", message)


def _setting(config: pygit2.Config, name: str) -> str:
    return str(config[name]).lower() if name in config else ""


def _is_partial(repo: pygit2.Repository) -> bool:
    marks = (".promisor", ".partialclonefilter", "extensions.partialclone")
    return any(e.name.endswith(marks) for e in repo.config)


def _content(path: Path | None, flags: int = 0) -> bytes:
    """Return a file's bytes, or none if it is not there or not ours to read."""
    if path is None:
        return b""
    try:
        # Not to block on a FIFO that stands where a file should.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
    except OSError:
        return b""
    try:
        return os.read(fd, 1 << 22) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)
