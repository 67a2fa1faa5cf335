"""Objects of a remote on their way, bounded and compared with their names; and its files other than models.

These are only added to, or change as a whole.

::

    catalog/ runs/                  <folder>/<name>.<sha256>.<ending>
    probes/ descriptors/ index/     <set>/<sha256>.<ending>, and <set>/current.json, which lists them and is exchanged
                                    if it is still the one that was read
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from workspace import commits
from workspace.errors import DamagedFileError, MissingStepError, RemoteError, WorkspaceError
from workspace.files import canonical_json, read_json, replacing, sha256_of, table_files, using, write_json
from workspace.layout import Workspace
from workspace.stores import Store
from workspace.text import printable

_log = logging.getLogger(__name__)

LIMITS = {"catalog": 4 << 30, "runs": 64 << 20, "attempts": 64 << 20, "responses": 8 << 30}
"""Bytes of one object that is read, by folder."""

DIGITS = 32
"""Of a sha256 in a name."""

_THREADS = 16

Check = Callable[[str, Path], None]
"""Raises `WorkspaceError` when a table of this kind, a stranger's, may not be read."""

ADDED = ("catalog", "runs")
SETS = ("probes", "descriptors", "index")

MOST = 64 << 30
"""Bytes of a file of a set."""

_FILE = re.compile(rf"(catalog|runs)/([0-9A-Za-z_-]{{1,120}})\.([0-9a-f]{{{DIGITS}}})\.(parquet|json|md)")
_LOCAL = re.compile(r"(probes|descriptors|factors|index)(/[0-9A-Za-z_-][0-9A-Za-z_.-]{0,150}){1,8}")
_PART_OF_CRAWL = re.compile(r".*-[0-9]{6}\.parquet")
_LEFT_OUT = (".lock", ".sqlite", ".sqlite-wal", ".sqlite-shm", ".damaged")  # not shared: locks, texts that were asked


class Objects:
    """What goes between a workspace and the store of its remote.

    Attributes:
        folder: what is kept here of this remote; it may be deleted.
        counts: objects pulled, pushed and refused so far, and bytes each way.
    """

    def __init__(self, workspace: Workspace, store: Store, check: Check | None, progress: bool) -> None:
        self.workspace, self.store = workspace, store
        self.folder = commits.folder(workspace.cache_dir, workspace.remote)
        self.counts: Counter[str] = Counter()
        self._check, self._progress = check, progress

    def write(self, files: Mapping[str, Path | bytes]) -> None:
        """Write objects, in this order."""
        self.store.write(files)
        self.counts["pushed"] += len(files)
        self.counts["bytes_pushed"] += sum(len(c) if isinstance(c, bytes) else c.stat().st_size for c in files.values())

    def fetch(self, name: str, path: Path, digest: str, most: int, kind: str) -> None:
        """Bring an object to ``path``; raises `DamagedFileError` when it is not what its name says."""
        self.require_own(path)
        with replacing(path) as temporary:
            with using(path, "write"):
                self.store.fetch(name, temporary, most)
            self.accept(kind, temporary, name, digest)
        self.counts["pulled"] += 1

    def accept(self, kind: str, path: Path, name: str, digest: str) -> None:
        """Count the bytes of what came; raises `DamagedFileError` when they are not those that ``name`` says."""
        if not sha256_of(path).startswith(digest):
            raise DamagedFileError(Path(name), "its content is not what its name says", "nothing was kept of it")
        if self._check is not None:
            self._check(kind, path)
        self.counts["bytes_pulled"] += path.stat().st_size

    def refuse(self, name: str, why: object) -> None:
        """Count and tell an object that is left where it is."""
        self.counts["refused"] += 1
        _log.warning("refused from the remote: %s: %s", printable(name, 200), printable(why, 300))

    def require_own(self, path: Path) -> None:
        """Raise `WorkspaceError` when ``path`` leads out of the workspace."""
        self.workspace.require_own(path.parent)
        if path.is_symlink():
            raise WorkspaceError(f"{path} is a link: nothing is written there; delete it")

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield a folder that is deleted afterwards, in the workspace: that has the room."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            yield Path(folder)

    def parallel(self, do: Callable[[Any], Any], items: Collection[Any], what: str) -> Iterator[Any]:
        """Yield what ``do`` returns of each item, in their order, under a bar."""
        with ThreadPoolExecutor(_THREADS) as pool:
            yield from self.bar(pool.map(do, items), what, len(items))

    def bar(self, items: Any, what: str, total: int | None = None) -> Any:
        """Return ``items`` under a bar."""
        from tqdm import tqdm

        return tqdm(items, desc=what, unit="file", total=total, disable=None if self._progress else True)


class SharedFiles:
    """Brings such files both ways; see `workspace.remote.Remote`."""

    def __init__(self, objects: Objects) -> None:
        self._objects, self._store = objects, objects.store
        self._workspace, self._folder = objects.workspace, objects.folder

    def pull(self, part: str, dry_run: bool) -> int:
        """Bring what is in the remote and not here, of ``part``; return how many files came, or would."""
        return self._pull_added(part, dry_run) if part in ADDED else self._pull_set(part, dry_run)

    def push(self, part: str, dry_run: bool) -> int:
        """Bring what is here and not in the remote; return how many objects were written, or would be."""
        return self._push_added(part, dry_run) if part in ADDED else self._push_set(part, dry_run)

    # ── files that are only added ────────────────────────────────────────────────────────────────────────────────
    def _pull_added(self, part: str, dry_run: bool) -> int:
        todo = {}
        for found in self._store.list(part):
            named = _FILE.fullmatch(found.name)
            if named is None or named[1] != part or found.size > LIMITS[part]:
                self._objects.refuse(found.name, f"no file of a {part} folder is named so, or {found.size} bytes long")
                continue
            path = self._workspace.root / part / f"{named[2]}.{named[4]}"
            if not path.exists():
                todo[path] = (found, named[3])
        if not dry_run:

            def bring(path: Path) -> None:
                found, digest = todo[path]
                try:
                    self._objects.fetch(found.name, path, digest, found.size, part)
                except (DamagedFileError, FileNotFoundError) as error:
                    self._objects.refuse(found.name, error)

            list(self._objects.parallel(bring, list(todo), part))
        return len(todo)

    def _push_added(self, part: str, dry_run: bool) -> int:
        there = {f"{n[2]}.{n[4]}" for found in self._store.list(part) if (n := _FILE.fullmatch(found.name))}
        folder = self._workspace.root / part
        endings = (".parquet",) if part == "catalog" else (".json",)
        files = sorted(p for p in folder.glob("*") if p.suffix in endings and not p.name.startswith("."))
        todo = [p for p in files if p.name not in there and p.is_file() and not _PART_OF_CRAWL.fullmatch(p.name)]
        for path in () if dry_run else self._objects.bar(todo, part):
            self._objects.write({f"{part}/{path.stem}.{sha256_of(path)[:DIGITS]}{path.suffix}": path})
        return len(todo)

    # ── files that change as a whole ─────────────────────────────────────────────────────────────────────────────
    def _pull_set(self, part: str, dry_run: bool) -> int:
        """Make a set here what it is in the remote, unless it was changed here since it was last pulled or pushed."""
        pointer = self._store.tagged(f"{part}/current.json")
        if pointer is None:
            return 0
        files = listed(part, pointer[0])
        state = self.states().get(part)
        local = self._local_set(part)
        if files == local:
            self.remember(part, files)
            return 0
        if local and local != state:
            _log.info("%s was changed here: it is kept, and pushed next", part)
            return 0
        todo = {name: entry for name, entry in files.items() if local.get(name) != entry}
        if dry_run:
            return len(todo)

        def bring(name: str) -> None:
            digest, size = files[name]
            blob = f"{part}/{digest[:DIGITS]}{Path(name).suffix}"
            self._objects.fetch(blob, self._workspace.root / name, digest, size, part)

        names = sorted(todo, key=lambda name: name.endswith("/current.json"))
        pointers = [name for name in names if name.endswith("/current.json")]
        list(self._objects.parallel(bring, [name for name in names if name not in pointers], part))
        for name in pointers:  # last: who reads meanwhile sees the old set, or the new one
            bring(name)
        for name in local.keys() - files.keys() if part == "descriptors" else ():
            self._objects.require_own(self._workspace.root / name)
            (self._workspace.root / name).unlink(missing_ok=True)
        self.remember(part, files)
        return len(todo)

    def _push_set(self, part: str, dry_run: bool) -> int:
        """Make a set in the remote what it is here, if it was changed here since it was last pulled or pushed."""
        local = self._local_set(part)
        if not local or local == self.states().get(part):
            return 0
        pointer = self._store.tagged(f"{part}/current.json")
        if pointer is not None:
            there = listed(part, pointer[0])
            if there == local:
                self.remember(part, local)
                return 0
            if part == "probes" and there != self.states().get(part):
                raise RemoteError(
                    "the remote has another probe set than this workspace: use its own (a new folder, and 'hubprobe "
                    "sync'), or another remote; 'hubprobe probes build' makes one only where there is none"
                )
        blobs = {found.name for found in self._store.list(part)}
        todo = {}
        for name, (digest, _) in local.items():
            blob = f"{part}/{digest[:DIGITS]}{Path(name).suffix}"
            if blob not in blobs:
                todo[blob] = self._workspace.root / name
        if dry_run:
            return len(todo) + 1
        for blob, path in self._objects.bar(list(todo.items()), part):
            self._objects.write({blob: path})
        content = {"files": {name: list(entry) for name, entry in sorted(local.items())}}
        for _ in range(20):
            if self._store.swap(f"{part}/current.json", canonical_json(content).encode(), pointer and pointer[1]):
                self._objects.counts["pushed"] += 1
                self.remember(part, local)
                return len(todo) + 1
            pointer = self._store.tagged(f"{part}/current.json")  # another was quicker: all of these can be made again
        raise RemoteError(f"{part}/current.json is being exchanged again and again: try later")

    def _local_set(self, part: str) -> dict[str, tuple[str, int]]:
        """Return the files of a set as they are here, with sha256 and size; empty when there is none."""
        root = self._workspace.root
        try:
            probe_set = self._workspace.probe_set
        except MissingStepError:
            return {}
        if part == "probes":
            paths = [root / "probes" / "current.json", *self._workspace.probes_dir(probe_set).glob("*")]
        elif part == "descriptors":
            paths = table_files(self._workspace.descriptors_dir(probe_set))
            paths += [path] if paths and (path := self._workspace.factors_path(probe_set)).exists() else []
        else:
            current = self._workspace.index_dir / "current.json"
            if not current.exists():
                return {}
            version = str(read_json(current, {"version": str})["version"])
            inside = self._workspace.index_dir / "versions" / Path(version).name
            paths = [current, *inside.rglob("*"), *(self._workspace.index_dir / "encoders").glob("*")]
        kept = [p for p in paths if p.is_file() and not p.name.startswith(".") and not p.name.endswith(_LEFT_OUT)]
        return {str(p.relative_to(root)): self._hashed(p) for p in kept}

    def _hashed(self, path: Path) -> tuple[str, int]:
        """Return sha256 and size of a file, read once for as long as it is not changed."""
        stat = path.stat()
        seen = self._hashes.get(str(path))
        if seen is None or seen[0] != [stat.st_size, stat.st_mtime_ns]:
            seen = self._hashes[str(path)] = [[stat.st_size, stat.st_mtime_ns], sha256_of(path)]
        return seen[1], stat.st_size

    @cached_property
    def _hashes(self) -> dict[str, Any]:
        path = self._folder / "hashes.json"
        return read_json(path) if path.exists() else {}

    def states(self) -> dict[str, dict[str, tuple[str, int]]]:
        """Return every set as it was when it was last the same here and in the remote."""
        path = self._folder / "sets.json"
        kept = read_json(path) if path.exists() else {}
        return {part: {name: (entry[0], entry[1]) for name, entry in files.items()} for part, files in kept.items()}

    def remember(self, part: str, files: Mapping[str, tuple[str, int]]) -> None:
        """Note that a set is the same here and in the remote."""
        write_json(self._folder / "sets.json", self.states() | {part: dict(files)})
        write_json(self._folder / "hashes.json", self._hashes)


def listed(part: str, content: bytes) -> dict[str, tuple[str, int]]:
    """Return the files that a pointer lists: path in the workspace, and sha256 and size of each."""
    try:
        entries = json.loads(content)["files"]
        files = {str(name): (str(digest), int(size)) for name, (digest, size) in entries.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RemoteError(f"{part}/current.json in the remote cannot be read: {error}") from error
    for name, (digest, size) in files.items():
        own = _LOCAL.fullmatch(name) and name.split("/")[0] in (part, "factors" if part == "descriptors" else part)
        if not own or ".." in name or not re.fullmatch("[0-9a-f]{64}", digest) or not 0 <= size <= MOST:
            raise RemoteError(f"{part}/current.json in the remote lists what no {part} consist of: {name[:100]!r}")
        if name.endswith(_LEFT_OUT):
            raise RemoteError(f"{part}/current.json in the remote lists what is not shared: {name[:100]!r}")
    return files
