"""A workspace's remote: the same files in an object store, which any number of hosts pull from and push to.

A file's name in the remote holds the hash of its content, so names are the commit: what is there is never written
again, and order, duplicates and retries do no harm. The local disk is a cache. A model is one object, its attempt and
its responses, whose name says all that a host has to know of it (`workspace.commits`); how files are merged here is
each host's own affair. All else is `workspace.shared_files`.

What a remote holds is a stranger's: names that are not of these forms are left alone, sizes are bounded before anything
is read, content has to have the hash that its name says, and links here lead nothing out of the workspace.
"""

from __future__ import annotations

import logging
import queue
import re
import shutil
import tempfile
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
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
from workspace.shared_files import ADDED, DIGITS, LIMITS, SETS, Check, Objects, SharedFiles
from workspace.stores import IMPATIENT, Store, open_store

_log = logging.getLogger(__name__)

LATE = timedelta(hours=2)
"""How much later than its time a commit may appear: clocks differ, and a network may be cut for a while."""

_SETTINGS = "hubprobe.toml"
_ROWS = re.compile(rf"attempts/([0-9a-f]{{16}})/rows-([0-9a-f]{{16}})\.([0-9a-f]{{{DIGITS}}})\.parquet")
_COMMIT = re.compile("[0-9a-f]{40}")


class Remote:
    """The remote of a workspace. All its methods but `committed` and `has` are for one thread.

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
        self._objects = Objects(workspace, self.store, check, progress)
        self._files = SharedFiles(self._objects)
        self.counts = self._objects.counts
        self._rows: set[str] = set()  # keys of the objects of several attempts that are there
        self._queue: queue.Queue[Place | bool | None] = queue.Queue()  # False: list, None: end
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._failed: dict[Place, Exception] = {}
        self._duplicates: set[Place] = set()
        self._next_look, self._looking = monotonic() + 10.0, False

    @property
    def requests(self) -> int:
        """Requests made of the store so far, without what its library tried again."""
        return self.store.requests

    # ── both ways ────────────────────────────────────────────────────────────────────────────────────────────────
    def pull(self, *parts: str, dry_run: bool = False) -> int:
        """Bring what is in the remote and not here, of ``parts``; return how many files came, or would.

        Parts are folders, but for ``commits`` (names of attempts, and rows without responses), ``attempts`` (all
        rows) and ``models`` (rows and responses).
        """
        return sum(self._each(parts, "pull", dry_run))

    def push(self, *parts: str, dry_run: bool = False) -> int:
        """Bring what is here and not in the remote; return how many objects were written, or would be."""
        return sum(self._each(parts, "push", dry_run))

    def _each(self, parts: Collection[str], way: str, dry_run: bool) -> Iterator[int]:
        for part in parts:
            if part in ADDED or part in SETS:
                yield getattr(self._files, way)(part, dry_run)
            else:
                yield getattr(self, f"_{way}_{part}")(dry_run)

    def keep_settings(self) -> int:
        """Keep this workspace's settings in the remote when it has none; return how many objects were written."""
        if _SETTINGS in self._files.states():
            return 0
        config = replace(self.workspace.config, workspace=WorkspaceConfig())
        kept = self.store.swap(_SETTINGS, config.to_toml().encode(), None)
        self._files.remember(_SETTINGS, {})
        self.counts["pushed"] += kept
        return int(kept)

    # ── what the others do ───────────────────────────────────────────────────────────────────────────────────────
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
        self._next_look = monotonic() + 10.0 * (1 + seen // 1000)
        fresh = self.commits.keys() - before
        if fresh:
            commits.save(self._objects.folder, self.commits)
        return set(fresh)

    def has(self, place: Place) -> bool:
        """Return whether an attempt was committed, as far as it was listed: again after 10 s, later if that is much.

        Any thread may ask, and none waits: it is listed by the thread that pushes. A model run twice does no harm.
        """
        if place not in self.commits and monotonic() > self._next_look and not self._looking:
            self._looking = True
            self._hand_over(False)
        return place in self.commits

    # ── models that are committed here ───────────────────────────────────────────────────────────────────────────
    def committed(self, place: Place) -> None:
        """Push an attempt that was committed here, by its file stem and number, with its responses.

        It is done by a thread, so that a network that is cut holds up no model; `close` waits for it.
        """
        self._hand_over(place)

    def close(self) -> int:
        """Wait until all that was committed is pushed; return how many could not be: the next push tries again."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        if self._failed:
            _log.warning(
                "%d models are committed here and not in the remote: 'hubprobe sync' pushes", len(self._failed)
            )
        return len(self._failed)

    def _hand_over(self, what: Place | bool) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()
        self._queue.put(what)

    def _work(self) -> None:
        ended = False
        while not ended:
            asked = [self._queue.get()]
            while not self._queue.empty():
                asked.append(self._queue.get())
            ended = None in asked
            todo = dict.fromkeys([*self._failed, *(p for p in asked if isinstance(p, tuple))])
            self._failed = {}
            for place in todo:
                if len(todo) > 1 and monotonic() > self._next_look:  # after a cut others may have been first
                    self._look()
                try:
                    self._push_loose(place)
                except (WorkspaceError, OSError) as error:
                    _log.warning("%s-%d is not in the remote yet: %s", *place, error)
                    self._failed[place] = error
            if False in asked and not ended:
                self._look()
                self._looking = False

    def _look(self) -> None:
        try:
            self.news(timedelta(minutes=5))
        except (RemoteError, OSError) as error:
            self._next_look = monotonic() + 10.0
            _log.info("the remote was not listed: %s", error)

    def _push_loose(self, place: Place) -> None:
        if place in self.commits:
            return
        path = self.workspace.attempts_dir / f"{place[0]}-{place[1]:03d}.parquet"
        row = read_file(path, records.ATTEMPTS).to_pylist()[0]
        responses = self.workspace.responses_dir(row["probe_set"]) / f"{place[0]}.parquet"
        self._push_commit(row, path, responses)

    def _push_commit(self, row: Mapping[str, Any], attempt: Path, responses: Path) -> None:
        digest = ""
        with self._objects.scratch() as folder:
            whole = attempt
            if row["status"] == "ok":
                digest = sha256_of(responses)[:DIGITS]
                whole = folder / "whole"
                with using(whole, "write"), whole.open("wb") as to:
                    for part in (attempt, responses):
                        with part.open("rb") as file:
                            shutil.copyfileobj(file, to, 1 << 20)
            commit = Commit(
                row["probe_set"],
                f"{now():{commits.TIME}}",
                model_file_name(row["repo_id"], row["sha"]),
                row["attempt"],
                row["status"],
                probes=(row["probes_run"] or 0) + len(row["probes_refused"] or ()),
                responses=digest,
                row_bytes=attempt.stat().st_size,
                digest=sha256_of(attempt)[:DIGITS],
            )
            self._objects.write({commit.name: whole})
        commits.add(self.commits, commit)

    def _push_models(self, dry_run: bool) -> int:
        """Push the attempts that the remote lacks, and the responses of those that are the last at their model."""
        table = read_table(self.workspace.attempts_dir, records.ATTEMPTS)
        keys = table.select(["repo_id", "sha", "attempt", "status", "probe_set"]).to_pylist()
        places = [_place(key) for key in keys]
        # A row of the Hub without a commit cannot be read: every host skips it by itself.
        own = [i for i, key in enumerate(keys) if key["probe_set"] and _COMMIT.fullmatch(key["sha"])]
        held = {(str(stem), int(number)) for rows in self._held().values() for stem, number in rows}
        if not any(places[i] not in self.commits and places[i] not in held for i in own):
            return 0
        self.news()
        lacking = {p: i for i in reversed(own) if (p := places[i]) not in self.commits and p not in held}
        last = {(k["repo_id"], k["sha"]): i for i, k in sorted(enumerate(keys), key=lambda pair: pair[1]["attempt"])}
        several: dict[str, list[int]] = {}
        pushed = 0
        shards: dict[Key, Path] | None = None
        for i in self._objects.bar(sorted(lacking.values()), "push"):
            key = (keys[i]["repo_id"], keys[i]["sha"])
            if keys[i]["status"] != "ok" or last[key] != i:
                several.setdefault(keys[i]["probe_set"], []).append(i)
                continue
            path = self.workspace.responses_dir(keys[i]["probe_set"]) / f"{places[i][0]}.parquet"
            if not path.exists():
                if shards is None:
                    files = table_files(self.workspace.responses_dir(self.workspace.probe_set))
                    shards = {found: file for file in files for found in contents(file)}
                if key not in shards:
                    continue  # a hole
            pushed += 1
            if not dry_run:
                with self._objects.scratch() as folder:
                    if not path.exists() and shards is not None:
                        path = _slice(shards[key], key, folder / path.name)
                    write_table(folder / "attempt.parquet", table.slice(i, 1))
                    self._push_commit(table.slice(i, 1).to_pylist()[0], folder / "attempt.parquet", path)
        for probe_set, numbers in several.items():
            pushed += 1
            if not dry_run:
                self._push_rows(probe_set, table.take(numbers))
        return pushed

    def _push_rows(self, probe_set: str, rows: pa.Table) -> None:
        """Push attempts without responses together: nobody has to know of one of them alone."""
        places = [_place(row) for row in rows.select(["repo_id", "sha", "attempt"]).to_pylist()]
        with self._objects.scratch() as folder:
            path = folder / "rows.parquet"
            write_table(path, rows)
            name = f"attempts/{probe_set}/rows-{short_hash(canonical_json(sorted(places)))}"
            if not any(known.startswith(f"{name}.") for known in self._rows):
                name = f"{name}.{sha256_of(path)[:DIGITS]}.parquet"
                self._objects.write({name: path})
                self._rows.add(name)
                self._hold(name, places)

    # ── models that are committed elsewhere ──────────────────────────────────────────────────────────────────────
    def _pull_commits(self, dry_run: bool) -> int:
        """List what others committed, and bring the rows of what was skipped, which no list holds."""
        fresh = self.news()
        held, wanted = self._held(), dict[str, str]()
        for name in sorted(self._rows):
            wanted.setdefault(name.rpartition("/rows-")[2][:16], name)
        todo = [name for key, name in wanted.items() if not any(f"/rows-{key}." in other for other in held)]
        for name in () if dry_run else todo:
            with self._objects.scratch() as folder:
                path = folder / "rows.parquet"
                try:
                    digest = name.rpartition(".parquet")[0][-DIGITS:]
                    self._objects.fetch(name, path, digest, LIMITS["attempts"], "attempts")
                    table = read_file(path, records.ATTEMPTS)
                except (DamagedFileError, FileNotFoundError) as error:
                    self._objects.refuse(name, error)
                    continue
            self._keep_attempts([table])
            self._hold(name, [_place(r) for r in table.select(["repo_id", "sha", "attempt"]).to_pylist()])
        return len(todo) + len(fresh)

    def _pull_attempts(self, dry_run: bool, *, whole: bool = False) -> int:
        """Bring the rows of all attempts that are not here, with ``whole`` the responses of models that are new."""
        came = self._pull_commits(dry_run)
        columns = ["repo_id", "sha", "attempt"]
        here = {
            _place(r) for r in read_table(self.workspace.attempts_dir, records.ATTEMPTS, columns=columns).to_pylist()
        }
        stems = {stem for stem, _ in here}
        todo = [commit for place, commit in sorted(self.commits.items()) if place not in here]
        last = {commit.stem: commit for commit in todo}
        if dry_run:
            return len(todo)

        def row_of(commit: Commit) -> pa.Table | None:
            new = whole and commit.stem not in stems and last[commit.stem] is commit
            return self._bring(commit, whole=new and bool(commit.responses))

        for start in range(0, len(todo), 1000):
            self._keep_attempts(list(self._objects.parallel(row_of, todo[start : start + 1000], "attempts")))
        return came + len(todo)

    def _pull_models(self, dry_run: bool) -> int:
        came = self._pull_attempts(dry_run, whole=True)
        if not self.commits:
            return came
        probe_set = self.workspace.probe_set
        columns = ["repo_id", "sha", "attempt"]
        numbers = {(a["repo_id"], a["sha"]): a["attempt"] for a in self.workspace.attempts(columns).to_pylist()}
        missing = self.workspace.holes(probe_set, here=True)
        todo = [c for key in missing if (c := self.commits.get((model_file_name(*key), numbers[key]))) is not None]
        if not dry_run:
            list(self._objects.parallel(lambda commit: self._bring(commit, whole=True), todo, "responses"))
        return came + len(todo)

    def _bring(self, commit: Commit, *, whole: bool) -> pa.Table | None:
        """Return the row of an attempt, None when it is refused; with ``whole`` bring its responses to their place."""
        path = self.workspace.responses_dir(commit.probe_set) / f"{commit.stem}.parquet"
        with self._objects.scratch() as folder:
            came, one = folder / "came", folder / "attempt.parquet"
            try:
                if whole:
                    self.store.fetch(commit.name, came, LIMITS["attempts"] + LIMITS["responses"])
                else:
                    came.write_bytes(self.store.read(commit.name, 0, commit.row_bytes))
                with came.open("rb") as file:
                    one.write_bytes(file.read(commit.row_bytes))
                    self._objects.accept("attempts", one, commit.name, commit.digest)
                    table = read_file(one, records.ATTEMPTS)
                    if not _is_of(table, commit):
                        raise DamagedFileError(Path(commit.name), "its row is not its name's", "nothing was kept of it")
                    if whole:
                        self._objects.require_own(path)
                        with replacing(path) as temporary:
                            with using(path, "write"), temporary.open("wb") as rest:
                                shutil.copyfileobj(file, rest, 1 << 20)
                            self._objects.accept("responses", temporary, commit.name, commit.responses)
            except (DamagedFileError, FileNotFoundError) as error:
                self._objects.refuse(commit.name, error)
                return None
        self.counts["pulled"] += 1
        return table

    def _keep_attempts(self, tables: Iterable[pa.Table | None]) -> None:
        rows = pa.concat_tables([records.ATTEMPTS.empty_table(), *(t for t in tables if t is not None)])
        if rows.num_rows:
            places = sorted(_place(r) for r in rows.select(["repo_id", "sha", "attempt"]).to_pylist())
            path = self.workspace.attempts_dir / f"pulled-{short_hash(canonical_json(places))}.parquet"
            self._objects.require_own(path)
            write_table(path, rows)

    def _held(self) -> dict[str, list[Any]]:
        """Return the objects of several attempts whose rows are here, and the places of those."""
        path = self._objects.folder / "rows.json"
        return read_json(path) if path.exists() else {}

    def _hold(self, name: str, places: list[Place]) -> None:
        write_json(self._objects.folder / "rows.json", self._held() | {name: places})


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


def _is_of(table: pa.Table, commit: Commit) -> bool:
    """Return whether ``table`` is the one row that the name of ``commit`` says."""
    rows = table.select(["repo_id", "sha", "attempt", "status", "probe_set"]).to_pylist()
    said = (*commit.place, commit.status, commit.probe_set)
    return len(rows) == 1 and (*_place(rows[0]), rows[0]["status"], rows[0]["probe_set"]) == said


def _slice(shard: Path, key: Key, path: Path) -> Path:
    """Write the rows of one model of a shard to a file of their own."""
    rows = read_file(shard, records.RESPONSES)
    rows = rows.filter(pc.and_(pc.equal(rows["repo_id"], key[0]), pc.equal(rows["sha"], key[1])))
    write_table(path, rows, notes=contents_note(rows))
    return path
