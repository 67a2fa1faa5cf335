"""A workspace's remote: the same files in an object store, which any number of hosts pull from and push to.

A file's name in the remote holds the hash of its content, so names are the commit: what is there is never written
again, and order, duplicates and retries do no harm. The local disk is a cache. Three kinds of files::

    catalog/ runs/          are only ever added to:   <folder>/<name>.<sha256>.<ending>
    attempts/ responses/    one object a model, the responses before the attempt, whose name says all that a host has to
                            know of it (`workspace.commits`); how files are merged here is each host's own affair
    probes/ descriptors/    change as a whole:        <set>/<sha256>.<ending>, and <set>/current.json, which lists them
    index/                  and is exchanged if it is still the one that was read

What a remote holds is a stranger's: names that are not of these forms are left alone, sizes are bounded before anything
is read, content has to have the hash that its name says, and links here lead nothing out of the workspace.
"""

from __future__ import annotations

import hashlib
import json
import logging
import queue
import re
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from workspace import commits, records
from workspace.commits import Commit, Place
from workspace.config import Config, WorkspaceConfig
from workspace.errors import DamagedFileError, MissingStepError, RemoteError, WorkspaceError
from workspace.files import (
    canonical_json,
    read_file,
    read_json,
    read_table,
    replacing,
    sha256_of,
    short_hash,
    table_files,
    using,
    write_json,
    write_table,
)
from workspace.holes import Key, contents, contents_note
from workspace.layout import Workspace, model_file_name
from workspace.runs import now
from workspace.stores import IMPATIENT, Object, Store, open_store
from workspace.text import printable

_log = logging.getLogger(__name__)

ADDED = ("catalog", "runs")
SETS = ("probes", "descriptors", "index")
LIMITS = {"catalog": 4 << 30, "runs": 64 << 20, "attempts": 64 << 20, "responses": 8 << 30}
"""Bytes of one object that is read, by folder."""

MOST = 64 << 30
"""Bytes of a file of a set."""

LATE = timedelta(hours=2)
"""How much later than its time a commit may appear: clocks differ, and a network may be cut for a while."""

_SETTINGS = "hubprobe.toml"
_DIGITS = 32
_THREADS = 16
_FILE = re.compile(rf"(catalog|runs)/([0-9A-Za-z_-]{{1,120}})\.([0-9a-f]{{{_DIGITS}}})\.(parquet|json|md)")
_ROWS = re.compile(rf"attempts/([0-9a-f]{{16}})/rows-([0-9a-f]{{16}})\.([0-9a-f]{{{_DIGITS}}})\.parquet")
_COMMIT = re.compile("[0-9a-f]{40}")
_LOCAL = re.compile(r"(probes|descriptors|factors|index)(/[0-9A-Za-z_-][0-9A-Za-z_.-]{0,150}){1,8}")
_PART_OF_CRAWL = re.compile(r".*-[0-9]{6}\.parquet")
_LOOSE = re.compile(r"[0-9a-f]{16}-[0-9]{3,6}\.parquet")
_LEFT_OUT = (".lock", ".sqlite", ".sqlite-wal", ".sqlite-shm", ".damaged")  # not shared: locks, texts that were asked

Check = Callable[[str, Path], None]
"""Raises `WorkspaceError` when a table of this kind, a stranger's, may not be read."""


def digest_of(content: bytes) -> str:
    """Return the hash that stands in an object's name."""
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


class Remote:
    """The remote of a workspace. All its methods but `committed` are for one thread.

    Args:
        workspace: the local side.
        store: where the files lie; that of the workspace's address when None.
        check: looks through a table before anything else reads it.
        progress: show bars on stderr.

    Attributes:
        commits: attempts that lie in the remote, by file stem and number, as far as they were listed.
        counts: objects pulled, pushed and refused so far, commits that were there twice, and bytes each way.
    """

    def __init__(
        self, workspace: Workspace, store: Store | None = None, *, check: Check | None = None, progress: bool = False
    ) -> None:
        self.workspace, self.store = workspace, store or open_store(workspace.remote)
        self.commits: dict[Place, Commit] = workspace.committed_elsewhere()
        self.counts: Counter[str] = Counter()
        self._check, self._progress = check, progress
        self._folder = commits.folder(workspace.cache_dir, workspace.remote)
        self._rows: set[str] = set()  # keys of the objects of several attempts that are there
        self._queue: queue.Queue[Place | None] = queue.Queue()
        self._uploader: threading.Thread | None = None
        self._failed: dict[Place, Exception] = {}
        self._duplicates: set[Place] = set()
        self._listing = threading.Lock()
        self._asked, self._wait = monotonic(), 10.0

    @classmethod
    def of(cls, workspace: Workspace, **options: Any) -> Remote | None:
        """Return the workspace's remote, or None when it has none."""
        return cls(workspace, **options) if workspace.remote else None

    @property
    def requests(self) -> int:
        """Requests made of the store so far, without what its library tried again."""
        return self.store.requests

    # ── both ways ────────────────────────────────────────────────────────────────────────────────────────────────
    def pull(self, *parts: str, dry_run: bool = False) -> int:
        """Bring what is in the remote and not here, of ``parts``; return how many files came, or would."""
        return sum(self._each(parts, "pull", dry_run))

    def push(self, *parts: str, dry_run: bool = False) -> int:
        """Bring what is here and not in the remote; return how many objects were written, or would be."""
        return sum(self._each(parts, "push", dry_run))

    def _each(self, parts: Collection[str], way: str, dry_run: bool) -> Iterator[int]:
        for part in parts:
            if part in ADDED or part in SETS:
                kind = "added" if part in ADDED else "set"
                yield getattr(self, f"_{way}_{kind}")(part, dry_run)
            else:
                yield getattr(self, f"_{way}_{part}")(dry_run)

    # ── attempts and their responses ─────────────────────────────────────────────────────────────────────────────
    def news(self, late: timedelta | None = LATE) -> set[Place]:
        """List what was committed since it was last listed; return the attempts that were not known.

        ``late`` is how long ago it may have been dated; None lists all. It costs a request for every thousand.
        """
        try:
            probe_set = self.workspace.probe_set
        except MissingStepError:  # nothing was probed
            return set()
        known = [c.time for c in self.commits.values() if c.probe_set == probe_set] if late is not None else []
        since = f"{max(known) - late:{commits.TIME}}" if known and late is not None else ""
        before, seen = set(self.commits), 0
        for found in self.store.list(f"attempts/{probe_set}", f"attempts/{probe_set}/{since}" if since else ""):
            seen += 1
            if (commit := commits.parse(found.name)) is not None:
                self._duplicates |= {commit.place} if commits.add(self.commits, commit) else set()
            elif _ROWS.fullmatch(found.name) and found.size <= LIMITS["attempts"]:
                self._rows.add(found.name)
        self.counts["duplicates"] = len(self._duplicates)
        self._asked, self._wait = monotonic(), 10.0 * (1 + seen // 1000)
        fresh = self.commits.keys() - before
        if fresh:
            commits.save(self._folder, self.commits)
        return set(fresh)

    def has(self, place: Place) -> bool:
        """Return whether an attempt was committed, as far as it was listed: again after 10 s, longer if that is much.

        Any thread may ask. When the remote cannot be reached, what is known counts: a model run twice does no harm.
        """
        with self._listing:
            if place not in self.commits and monotonic() - self._asked > self._wait:
                try:
                    self.news(timedelta(minutes=5))
                except (RemoteError, OSError) as error:
                    self._asked = monotonic()
                    _log.info("the remote was not listed: %s", error)
        return place in self.commits

    def committed(self, place: Place) -> None:
        """Push an attempt that was committed here, by its file stem and number, and its responses before it.

        It is done by a thread, so that a network that is cut holds up no model; `close` waits for it.
        """
        if self._uploader is None:
            self._uploader = threading.Thread(target=self._upload, daemon=True)
            self._uploader.start()
        self._queue.put(place)

    def close(self) -> int:
        """Wait until all that was committed is pushed; return how many could not be: the next push tries again."""
        if self._uploader is not None:
            self._queue.put(None)
            self._uploader.join()
            self._uploader = None
        if self._failed:
            _log.warning(
                "%d models are committed here and not in the remote: 'hubprobe sync' pushes", len(self._failed)
            )
        return len(self._failed)

    def _upload(self) -> None:
        ended = False
        while not ended:
            places = [self._queue.get()]
            while not self._queue.empty():
                places.append(self._queue.get())
            ended = None in places
            todo = [p for p in dict.fromkeys([*self._failed, *places]) if p is not None]
            self._failed = {}
            for place in todo:
                try:
                    self._push_loose(place)
                except (WorkspaceError, OSError) as error:
                    _log.warning("%s-%d is not in the remote yet: %s", *place, error)
                    self._failed[place] = error

    def _push_loose(self, place: Place) -> None:
        """Push one attempt from the file it was committed to."""
        if place in self.commits:
            return
        path = self.workspace.attempts_dir / f"{place[0]}-{place[1]:03d}.parquet"
        row = read_file(path, records.ATTEMPTS).to_pylist()[0]
        responses = self.workspace.responses_dir(row["probe_set"]) / f"{place[0]}.parquet"
        self._push_commit(row, path.read_bytes(), responses)

    def _push_commit(self, row: Mapping[str, Any], attempt: bytes, responses: Path | None) -> None:
        stem = model_file_name(row["repo_id"], row["sha"])
        files: dict[str, Path | bytes] = {}
        digest = ""
        if row["status"] == "ok":
            if responses is None:
                raise WorkspaceError(f"the responses of {row['repo_id']} are gone: 'hubprobe probe' runs it again")
            digest = sha256_of(responses)[:_DIGITS]
            files[f"responses/{row['probe_set']}/{stem}.{digest}.parquet"] = responses
        probes = (row["probes_run"] or 0) + len(row["probes_refused"] or ())
        at = f"{now():{commits.TIME}}"
        commit = Commit(row["probe_set"], at, stem, row["attempt"], row["status"], probes, digest, digest_of(attempt))
        self._write(files | {commit.name: attempt})
        commits.add(self.commits, commit)

    def _push_attempts(self, dry_run: bool) -> int:
        """Push the attempts that the remote lacks, and the responses of those that are the last at their model."""
        self.news()
        columns = ["repo_id", "sha", "attempt", "status", "probe_set"]
        table = read_table(self.workspace.attempts_dir, records.ATTEMPTS)
        keys = table.select(columns).to_pylist()
        last = {(k["repo_id"], k["sha"]): i for i, k in sorted(enumerate(keys), key=lambda pair: pair[1]["attempt"])}
        held = self._rows_held()
        several: dict[str, list[int]] = {}
        pushed = 0
        shards: dict[Key, Path] | None = None
        done: set[Place] = set()
        for i in self._bar(range(len(keys)), "push"):
            key, place = (keys[i]["repo_id"], keys[i]["sha"]), _place(keys[i])
            if place in self.commits or place in held or place in done or not keys[i]["probe_set"]:
                continue
            if _COMMIT.fullmatch(keys[i]["sha"]) is None:  # a row of the Hub that cannot be read: every host skips it
                continue
            done.add(place)
            if keys[i]["status"] != "ok" or last[key] != i:
                several.setdefault(keys[i]["probe_set"], []).append(i)
                continue
            path = self.workspace.responses_dir(keys[i]["probe_set"]) / f"{place[0]}.parquet"
            if not path.exists():
                shards = self._shards() if shards is None else shards
                if key not in shards:
                    continue  # a hole
            pushed += 2
            if not dry_run:
                with self._scratch() as folder:
                    if not path.exists() and shards is not None:
                        path = _slice(shards[key], key, folder / path.name)
                    one = folder / "attempt.parquet"
                    write_table(one, table.slice(i, 1))
                    self._push_commit(table.slice(i, 1).to_pylist()[0], one.read_bytes(), path)
        for probe_set, numbers in several.items():
            pushed += 1
            if not dry_run:
                self._push_rows(probe_set, table.take(numbers))
        return pushed

    def _push_rows(self, probe_set: str, rows: pa.Table) -> None:
        """Push attempts without responses together: nobody has to know of one of them alone."""
        places = [_place(row) for row in rows.select(["repo_id", "sha", "attempt"]).to_pylist()]
        with self._scratch() as folder:
            path = folder / "rows.parquet"
            write_table(path, rows)
            name = f"attempts/{probe_set}/rows-{short_hash(canonical_json(sorted(places)))}"
            if not any(known.startswith(f"{name}.") for known in self._rows):
                name = f"{name}.{sha256_of(path)[:_DIGITS]}.parquet"
                self._write({name: path.read_bytes()})
                self._rows.add(name)
                self._hold(name, places)

    def _pull_commits(self, dry_run: bool) -> int:
        """List what others committed, and bring the rows of what was skipped, which no list holds."""
        fresh = self.news()
        held, wanted = self._held(), dict[str, str]()
        for name in sorted(self._rows):
            wanted.setdefault(name.rpartition("/rows-")[2][:16], name)
        todo = [name for key, name in wanted.items() if not any(f"/rows-{key}." in other for other in held)]
        if not dry_run:
            for name in todo:
                table = self._attempts_in(name, Object(name, LIMITS["attempts"]))
                if table is not None:
                    self._keep_attempts([table])
                    self._hold(name, [_place(r) for r in table.select(["repo_id", "sha", "attempt"]).to_pylist()])
        return len(todo) + len(fresh)

    def _pull_attempts(self, dry_run: bool) -> int:
        """Bring the rows of all attempts that are not here."""
        came = self._pull_commits(dry_run)
        local = read_table(
            self.workspace.attempts_dir, records.ATTEMPTS, columns=["repo_id", "sha", "attempt"]
        ).to_pylist()
        here = {_place(row) for row in local}
        todo = [commit for place, commit in self.commits.items() if place not in here]
        if dry_run:
            return len(todo)

        def row_of(commit: Commit) -> pa.Table | None:
            table = self._attempts_in(commit.name, Object(commit.name, LIMITS["attempts"]))
            if table is None:
                return None
            row = table.select(["repo_id", "sha", "attempt", "status", "probe_set"]).to_pylist()
            if len(row) != 1 or (*_place(row[0]), row[0]["status"], row[0]["probe_set"]) != (
                *commit.place, commit.status, commit.probe_set,
            ):  # fmt: skip
                self._refuse(commit.name, "its row is not the one that its name says")
                return None
            return table

        for start in range(0, len(todo), 1000):
            self._keep_attempts(list(self._parallel(row_of, todo[start : start + 1000], "attempts")))
        return came + len(todo)

    def _attempts_in(self, name: str, listed: Object) -> pa.Table | None:
        """Return the rows of an object of attempts, None when it is refused."""
        with self._scratch() as folder:
            path = folder / "attempts.parquet"
            try:
                self._fetch(name, path, name.rpartition(".parquet")[0][-_DIGITS:], listed.size, "attempts")
                return read_file(path, records.ATTEMPTS)
            except (DamagedFileError, FileNotFoundError) as error:
                self._refuse(name, error)
                return None

    def _keep_attempts(self, tables: Iterable[pa.Table | None]) -> None:
        """Write rows that came to one file."""
        rows = pa.concat_tables([records.ATTEMPTS.empty_table(), *(t for t in tables if t is not None)])
        if rows.num_rows:
            places = sorted(_place(r) for r in rows.select(["repo_id", "sha", "attempt"]).to_pylist())
            path = self.workspace.attempts_dir / f"pulled-{short_hash(canonical_json(places))}.parquet"
            self._require_own(path)
            write_table(path, rows)

    def _pull_responses(self, dry_run: bool) -> int:
        """Bring the responses that are committed and not here. Shards that hold a model of them are split before."""
        if not self.commits:
            return 0
        probe_set = self.workspace.probe_set
        folder = self.workspace.responses_dir(probe_set)
        columns = ["repo_id", "sha", "attempt"]
        numbers = {(a["repo_id"], a["sha"]): a["attempt"] for a in self.workspace.attempts(columns).to_pylist()}
        missing = self.workspace.holes(probe_set, here=True)
        todo = [c for key in missing if (c := self.commits.get((model_file_name(*key), numbers[key]))) is not None]
        if not dry_run:

            def bring(commit: Commit) -> None:
                name = f"responses/{probe_set}/{commit.stem}.{commit.responses}.parquet"
                path = folder / f"{commit.stem}.parquet"
                try:
                    self._fetch(name, path, commit.responses, LIMITS["responses"], "responses")
                except (DamagedFileError, FileNotFoundError) as error:
                    self._refuse(name, error)

            list(self._parallel(bring, todo, "responses"))
        return len(todo)

    def _shards(self) -> dict[Key, Path]:
        folder = self.workspace.responses_dir(self.workspace.probe_set)
        return {key: path for path in table_files(folder) for key in contents(path)}

    def _rows_held(self) -> set[Place]:
        return {(str(stem), int(number)) for places in self._held().values() for stem, number in places}

    def _held(self) -> dict[str, list[Any]]:
        """Return the objects of several attempts whose rows are here, and the places of those."""
        path = self._folder / "rows.json"
        return read_json(path) if path.exists() else {}

    def _hold(self, name: str, places: list[Place]) -> None:
        write_json(self._folder / "rows.json", self._held() | {name: places})

    # ── files that are only added ────────────────────────────────────────────────────────────────────────────────
    def _pull_added(self, part: str, dry_run: bool) -> int:
        todo = {}
        for found in self.store.list(part):
            named = _FILE.fullmatch(found.name)
            if named is None or named[1] != part or found.size > LIMITS[part]:
                self._refuse(found.name, f"no file of a {part} folder is named so, or {found.size} bytes long")
                continue
            path = self.workspace.root / part / f"{named[2]}.{named[4]}"
            if not path.exists():
                todo[path] = (found, named[3])
        if not dry_run:

            def bring(path: Path) -> None:
                found, digest = todo[path]
                try:
                    self._fetch(found.name, path, digest, found.size, part)
                except (DamagedFileError, FileNotFoundError) as error:
                    self._refuse(found.name, error)

            list(self._parallel(bring, list(todo), part))
        return len(todo)

    def _push_added(self, part: str, dry_run: bool) -> int:
        there = {f"{n[2]}.{n[4]}" for found in self.store.list(part) if (n := _FILE.fullmatch(found.name))}
        folder = self.workspace.root / part
        endings = (".parquet",) if part == "catalog" else (".json",)
        files = sorted(p for p in folder.glob("*") if p.suffix in endings and not p.name.startswith("."))
        todo = [p for p in files if p.name not in there and p.is_file() and not _PART_OF_CRAWL.fullmatch(p.name)]
        for path in () if dry_run else self._bar(todo, part):
            self._write({f"{part}/{path.stem}.{sha256_of(path)[:_DIGITS]}{path.suffix}": path})
        return len(todo)

    # ── files that change as a whole ─────────────────────────────────────────────────────────────────────────────
    def _pull_set(self, part: str, dry_run: bool) -> int:
        """Make a set here what it is in the remote, unless it was changed here since it was last pulled or pushed."""
        pointer = self.store.tagged(f"{part}/current.json")
        if pointer is None:
            return 0
        files = listed(part, pointer[0])
        state = self._states().get(part)
        local = self._local_set(part)
        if files == local:
            self._remember(part, files)
            return 0
        if local and local != state:
            _log.info("%s was changed here: it is kept, and pushed next", part)
            return 0
        todo = {name: entry for name, entry in files.items() if local.get(name) != entry}
        if dry_run:
            return len(todo)

        def bring(name: str) -> None:
            digest, size = files[name]
            blob = f"{part}/{digest[:_DIGITS]}{Path(name).suffix}"
            self._fetch(blob, self.workspace.root / name, digest, size, part)

        names = sorted(todo, key=lambda name: name.endswith("/current.json"))
        pointers = [name for name in names if name.endswith("/current.json")]
        list(self._parallel(bring, [name for name in names if name not in pointers], part))
        for name in pointers:  # last: who reads meanwhile sees the old set, or the new one
            bring(name)
        for name in local.keys() - files.keys() if part == "descriptors" else ():
            self._require_own(self.workspace.root / name)
            (self.workspace.root / name).unlink(missing_ok=True)
        self._remember(part, files)
        return len(todo)

    def _push_set(self, part: str, dry_run: bool) -> int:
        """Make a set in the remote what it is here, if it was changed here since it was last pulled or pushed."""
        local = self._local_set(part)
        if not local or local == self._states().get(part):
            return 0
        pointer = self.store.tagged(f"{part}/current.json")
        if pointer is not None:
            there = listed(part, pointer[0])
            if there == local:
                self._remember(part, local)
                return 0
            if part == "probes" and there != self._states().get(part):
                raise RemoteError(
                    "the remote has another probe set than this workspace: use its own (a new folder, and 'hubprobe "
                    "sync'), or another remote; 'hubprobe probes build' makes one only where there is none"
                )
        blobs = {found.name for found in self.store.list(part)}
        todo = {}
        for name, (digest, _) in local.items():
            blob = f"{part}/{digest[:_DIGITS]}{Path(name).suffix}"
            if blob not in blobs:
                todo[blob] = self.workspace.root / name
        if dry_run:
            return len(todo) + 1
        for blob, path in self._bar(list(todo.items()), part):
            self._write({blob: path})
        content = {"files": {name: list(entry) for name, entry in sorted(local.items())}}
        for _ in range(20):
            if self.store.swap(f"{part}/current.json", canonical_json(content).encode(), pointer and pointer[1]):
                self.counts["pushed"] += 1
                self._remember(part, local)
                return len(todo) + 1
            pointer = self.store.tagged(f"{part}/current.json")  # another was quicker: all of these can be made again
        raise RemoteError(f"{part}/current.json is being exchanged again and again: try later")

    def _local_set(self, part: str) -> dict[str, tuple[str, int]]:
        """Return the files of a set as they are here, with sha256 and size; empty when there is none."""
        root = self.workspace.root
        try:
            probe_set = self.workspace.probe_set
        except MissingStepError:
            return {}
        if part == "probes":
            paths = [root / "probes" / "current.json", *self.workspace.probes_dir(probe_set).glob("*")]
        elif part == "descriptors":
            paths = table_files(self.workspace.descriptors_dir(probe_set))
            paths += [path] if paths and (path := self.workspace.factors_path(probe_set)).exists() else []
        else:
            current = self.workspace.index_dir / "current.json"
            if not current.exists():
                return {}
            version = str(read_json(current, {"version": str})["version"])
            inside = self.workspace.index_dir / "versions" / Path(version).name
            paths = [current, *inside.rglob("*"), *(self.workspace.index_dir / "encoders").glob("*")]
        kept = [p for p in paths if p.is_file() and not p.name.startswith(".") and not p.name.endswith(_LEFT_OUT)]
        return {str(p.relative_to(root)): self._hashed(p) for p in kept}

    def _hashed(self, path: Path) -> tuple[str, int]:
        """Return sha256 and size of a file, read once for as long as it is not changed."""
        stat = path.stat()
        seen = self._hashes.get(str(path))
        if seen is None or seen[0] != [stat.st_size, stat.st_mtime_ns]:
            seen = self._hashes[str(path)] = [[stat.st_size, stat.st_mtime_ns], sha256_of(path)]
        return seen[1], stat.st_size

    @property
    def _hashes(self) -> dict[str, Any]:
        if not hasattr(self, "_hashes_read"):
            path = self._folder / "hashes.json"
            self._hashes_read: dict[str, Any] = read_json(path) if path.exists() else {}
        return self._hashes_read

    def _states(self) -> dict[str, dict[str, tuple[str, int]]]:
        """Return every set as it was when it was last the same here and in the remote."""
        path = self._folder / "sets.json"
        kept = read_json(path) if path.exists() else {}
        return {part: {name: (entry[0], entry[1]) for name, entry in files.items()} for part, files in kept.items()}

    def _remember(self, part: str, files: Mapping[str, tuple[str, int]]) -> None:
        write_json(self._folder / "sets.json", self._states() | {part: dict(files)})
        write_json(self._folder / "hashes.json", self._hashes)

    # ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────
    def keep_settings(self) -> int:
        """Keep this workspace's settings in the remote when it has none; return how many objects were written."""
        if _SETTINGS in self._states():
            return 0
        config = replace(self.workspace.config, workspace=WorkspaceConfig())
        kept = self.store.swap(_SETTINGS, config.to_toml().encode(), None)
        self._remember(_SETTINGS, {})
        self.counts["pushed"] += kept
        return int(kept)

    # ── objects ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _write(self, files: Mapping[str, Path | bytes]) -> None:
        self.store.write(files)
        self.counts["pushed"] += len(files)
        self.counts["bytes_pushed"] += sum(len(c) if isinstance(c, bytes) else c.stat().st_size for c in files.values())

    def _fetch(self, name: str, path: Path, digest: str, most: int, kind: str) -> None:
        """Bring an object to ``path``; raises `DamagedFileError` when it is not what its name says."""
        self._require_own(path)
        with replacing(path) as temporary:
            with using(path, "write"):
                self.store.fetch(name, temporary, most)
            if not sha256_of(temporary).startswith(digest):
                raise DamagedFileError(Path(name), "its content is not what its name says", "nothing was kept of it")
            if self._check is not None:
                self._check(kind, temporary)
            size = temporary.stat().st_size
        self.counts["pulled"] += 1
        self.counts["bytes_pulled"] += size

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """Yield a folder that is deleted afterwards, in the workspace: that has the room."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            yield Path(folder)

    def _require_own(self, path: Path) -> None:
        self.workspace.require_own(path.parent)
        if path.is_symlink():
            raise WorkspaceError(f"{path} is a link: nothing is written there; delete it")

    def _refuse(self, name: str, why: object) -> None:
        self.counts["refused"] += 1
        _log.warning("refused from the remote: %s: %s", printable(name, 200), printable(why, 300))

    def _parallel(self, do: Callable[[Any], Any], items: Collection[Any], what: str) -> Iterator[Any]:
        with ThreadPoolExecutor(_THREADS) as pool:
            yield from self._bar(pool.map(do, items), what, len(items))

    def _bar(self, items: Any, what: str, total: int | None = None) -> Any:
        from tqdm import tqdm

        return tqdm(items, desc=what, unit="file", total=total, disable=None if self._progress else True)


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


def settings_at(url: str) -> Config | None:
    """Return the settings that a remote keeps for workspaces that are made from it; None when it keeps none."""
    found = open_store(url, IMPATIENT).tagged(_SETTINGS)
    if found is None:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / _SETTINGS
        path.write_bytes(found[0])
        return Config.load(path)


def _place(row: Mapping[str, Any]) -> Place:
    return model_file_name(row["repo_id"], row["sha"]), row["attempt"]


def _slice(shard: Path, key: Key, path: Path) -> Path:
    """Write the rows of one model of a shard to a file of their own."""
    rows = read_file(shard, records.RESPONSES)
    rows = rows.filter(pc.and_(pc.equal(rows["repo_id"], key[0]), pc.equal(rows["sha"], key[1])))
    write_table(path, rows, notes=contents_note(rows))
    return path
