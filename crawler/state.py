"""The state of a crawl while it runs: one SQLite file beside the catalog, deleted when the crawl comes to its end.

What belongs together is committed together: the repositories met, their rows, the page that comes next. Rows go on into
Parquet files of a few thousand, which are what everybody else reads. They leave the database after their file is
complete, and a file written again has the same name: whenever the process ends, each repository ends in one row.
"""

from __future__ import annotations

import logging
import re
import sqlite3
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import pyarrow as pa

from crawler.catalog import hash63, listing_fingerprint
from crawler.listing.rows import PAGE
from workspace import Outcome, Status, Workspace, WorkspaceError
from workspace.files import (
    TEMPORARY_PREFIX,
    batches,
    conformed,
    damaged,
    disk_error,
    notes_of,
    read_json,
    require_file,
    table_files,
    table_writer,
    using,
    write_json,
    write_table,
)  # fmt: skip
from workspace.locks import alone
from workspace.records import CATALOG
from workspace.runs import now

logger = logging.getLogger(__name__)

FILE = "crawl.sqlite"
COMMIT_SECONDS = 0.5  # what is decided is on disk after this: what a kill may cost
COMMIT_ROWS = 1_000
EXPORT_ROWS = 5_000  # rows of a Parquet file
EXPORT_SECONDS = 30.0  # how long rows may wait for others to fill a file
ROW_GROUP = 1_024
CACHE = 64 * 1024  # KiB of the database kept in memory: all of it, up to a million repositories
CHECKPOINT = 16_384  # pages of the log before they are moved into the database
POLICY = "hubprobe.policy"
"""Footer of a catalog file: hash of what decided the eligibility of its rows."""

_JOURNAL = "journal.json"
_NAME = re.compile("[0-9A-Za-z]{1,40}")  # of a crawl: files are named by it
_VERSION = 1
_TABLES = (
    "CREATE TABLE crawl (name TEXT, query TEXT, policy TEXT, next TEXT, started TEXT, listed INTEGER, parts INTEGER,"
    " ended INTEGER)",
    # the newest row in the catalog of each repository, by the hash of its id
    "CREATE TABLE repos (key INTEGER PRIMARY KEY, fingerprint INTEGER, status TEXT, crawled_at INTEGER,"
    " current INTEGER)",
    # what was decided, a commit a row: keys of repositories, and those of their rows that are in no Parquet file yet
    "CREATE TABLE decided (batch INTEGER PRIMARY KEY, keys BLOB, rows BLOB, crc INTEGER)",
    "CREATE TABLE files (name TEXT PRIMARY KEY)",  # of the catalog, as far as this crawl knows
    f"PRAGMA user_version = {_VERSION}",
)
_KNOWN = """
    INSERT INTO repos VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET fingerprint = excluded.fingerprint,
    status = excluded.status, crawled_at = excluded.crawled_at, current = excluded.current
    WHERE excluded.crawled_at >= repos.crawled_at"""
_COLUMNS = [
    "id", "sha", "gated", "disabled", "private", "pipeline_tag", "library_name", "tags", "eligibility", "crawled_at",
]  # fmt: skip
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

Row = dict[str, Any]


class Known(NamedTuple):
    """The newest row of a repository, as far as the next crawl needs it; ``current``: decided under its own rules."""

    fingerprint: int
    status: Status
    current: bool

    def still_holds(self, fingerprint: int) -> bool:
        """Return whether a listing with this fingerprint leads to the same decision.

        Not so after a failure that may pass, under other rules, or if the repository had left.
        """
        final = self.status is Status.ELIGIBLE or self.status.outcome is not Outcome.FAILED
        left = self.status in (Status.GONE, Status.RENAMED)
        return self.current and final and not left and self.fingerprint == fingerprint


class CrawlState:
    """Progress of a crawl, and what the catalog held before it. For one thread; made by `crawl_state` and `on_trial`.

    Attributes:
        crawl: its name; its catalog files start with it.
        resumed: whether it goes on where an interrupted one was.
        started: when it began.
        next: address of the next page to read; None when every page was read.
        listed: rows of the pages that were read.
        is_trial: whether it is in memory alone.
    """

    is_trial = False

    def __init__(self, workspace: Workspace, connection: sqlite3.Connection, *, resumed: bool) -> None:
        self._folder, self._db, self.resumed = workspace.catalog_dir, connection, resumed
        row = connection.execute("SELECT name, policy, next, started, listed, parts FROM crawl").fetchone()
        texts, counts = (row[0], row[1], row[2] or "", row[3]) if row else (None,), row[4:] if row else ()
        if not (all(isinstance(x, str) for x in texts) and all(isinstance(x, int) and x >= 0 for x in counts)):
            raise damaged(self._folder / FILE, "it holds no crawl")
        self.crawl, self._policy, self.next, self.started, self.listed, self._parts = row
        if not _NAME.fullmatch(self.crawl):
            raise damaged(self._folder / FILE, "its crawl has a name that is none")
        latest = connection.execute("SELECT max(crawled_at) FROM repos").fetchone()[0]
        self._latest = _EPOCH + timedelta(microseconds=latest or 0)
        self._page_size = page_size(workspace)
        self._is_empty = latest is None
        self._met: set[int] = set()
        self._waiting = 0  # rows in the database
        for keys, rows, crc in connection.execute("SELECT keys, rows, crc FROM decided"):
            if crc != crc32(keys + (rows or b"")):
                raise damaged(self._folder / FILE, "a checksum is another")
            self._met.update(array("q", keys))
            self._waiting += _rows_of(rows).num_rows if rows else 0
        self._decided: list[tuple[int, Row | None]] = []  # since the last commit
        self._rows = 0  # among those
        self._is_broken = False
        self._committed = self._exported = time.monotonic()

    def known(self, repo_id: str) -> Known | None:
        """Return what earlier crawls booked for a repository; None when it is new."""
        if self._is_empty:
            return None
        select = "SELECT fingerprint, status, current FROM repos WHERE key = ?"
        found = self._db.execute(select, (hash63(repo_id),)).fetchone()
        return Known(found[0], Status(found[1]), bool(found[2])) if found else None

    def is_first(self, repo_id: str) -> bool:
        """Return whether a repository is met for the first time in this crawl, and remember it."""
        key = hash63(repo_id)
        if key in self._met:
            return False
        self._met.add(key)
        return True

    def conclude(self, repo_id: str, row: Row | None) -> None:
        """Note that a repository is decided, with its row, None when the one in the catalog holds.

        The row is newer than those of earlier crawls, also when the clock was put back.
        """
        if row is not None and row["crawled_at"] <= self._latest:
            row["crawled_at"] = self._latest + timedelta(microseconds=1)
        self._decided.append((hash63(repo_id), row))
        self._rows += row is not None

    def commit(self, *, when_due: bool = False) -> None:
        """Put on disk what was decided, and into a Parquet file when there is enough of it."""
        if when_due and time.monotonic() < self._committed + COMMIT_SECONDS and self._rows < COMMIT_ROWS:
            return
        if self._is_broken:  # an error or Ctrl-C within a commit: what it held is decided again, never twice booked
            return
        self._is_broken = True
        decided, self._decided, self._rows = self._decided, [], 0
        rows = [row for _, row in decided if row is not None]
        with self._db:
            self._db.execute("UPDATE crawl SET next = ?, listed = ?", (self.next, self.listed))
            if decided:
                keys, stream = array("q", [key for key, _ in decided]).tobytes(), _stream_of(rows) if rows else b""
                batch = keys, stream or None, crc32(keys + stream)
                self._db.execute("INSERT INTO decided (keys, rows, crc) VALUES (?, ?, ?)", batch)
        self._is_broken = False
        self._waiting += len(rows)
        self._committed = time.monotonic()
        if self._waiting >= EXPORT_ROWS or self._committed > self._exported + EXPORT_SECONDS:
            self._export()

    def keep_page_size(self, size: int) -> None:
        """Let the next crawl begin with pages of ``size`` rows: what this one found the server to have time for."""
        size = min(size, self._page_size) if self.resumed else size
        if size != self._page_size and not self.is_trial:
            write_json(self._folder / _JOURNAL, {**_journal(self._folder), "page_size": size})
            self._page_size = size

    def left_behind(self) -> Iterator[Row]:
        """Yield the newest catalog row of each repository that was there and that this crawl has not met."""
        there = self._db.execute("SELECT key, crawled_at FROM repos WHERE status NOT IN ('gone', 'renamed')")
        left = {key: at for key, at in there if key not in self._met}
        for path in table_files(self._folder) if left else ():
            for batch in batches(path, 512):
                times = batch.column("crawled_at").cast(pa.int64()).to_pylist()
                pairs = enumerate(zip(batch.column("id").to_pylist(), times, strict=True))
                rows = [i for i, (name, at) in pairs if left.get(hash63(name)) == at]
                yield from batch.take(pa.array(rows, pa.int64())).to_pylist()

    def keep(self) -> None:
        """Put all that was decided where others read it."""
        self.commit()
        self._export()

    def finish(self) -> None:
        """Leave the catalog's Parquet files alone: every row in them, those of this crawl in one, nothing besides."""
        self.keep()
        with self._db:
            self._db.execute("UPDATE crawl SET ended = 1")
        _merge(self._folder, self.crawl, self._policy)
        self.close()
        _delete(self._folder / FILE)
        for pattern in (f"{TEMPORARY_PREFIX}*", ".seen-*"):
            for path in self._folder.glob(pattern):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; what was decided and not committed is lost, and decided again."""
        self._db.close()

    def _export(self) -> None:
        """Move the rows of the database into a Parquet file; killed before the last step, the same file comes again."""
        self._exported = time.monotonic()
        found = self._db.execute("SELECT batch, keys, rows FROM decided WHERE rows IS NOT NULL").fetchall()
        if not found:
            return
        path = _part(self._folder, self.crawl, self._parts + 1)
        write_table(
            path,
            pa.concat_tables(_rows_of(rows) for *_, rows in found),
            row_group_rows=ROW_GROUP,
            notes={POLICY: self._policy},
        )
        with self._db:
            emptied = [(crc32(keys), batch) for batch, keys, _ in found]
            self._db.executemany("UPDATE decided SET rows = NULL, crc = ? WHERE batch = ?", emptied)
            self._db.execute("INSERT INTO files VALUES (?)", (path.name,))
            self._db.execute("UPDATE crawl SET parts = parts + 1")
        self._parts, self._waiting = self._parts + 1, 0


@contextmanager
def crawl_state(
    workspace: Workspace, query: str, policy: str, first: str, *, restart: bool = False
) -> Iterator[CrawlState]:
    """Hold the catalog for one crawl, and yield its state: an interrupted crawl's, if that asked the same.

    ``query`` is the key of what is listed, with limit and source: another one, another ``policy`` of eligibility, or
    ``restart`` begins a new crawl.

    Raises `WorkspaceError` when another process crawls or the state is damaged, `DiskError` when the disk refuses.
    """
    folder = workspace.catalog_dir
    busy = f"another crawl of {workspace.root} is running: wait for it, or stop it"
    with alone(folder / ".lock", busy), _in_sentences(folder / FILE):
        workspace.require_own(folder)
        workspace.require_own_files(folder)
        state = _resumed(workspace, query, policy, restart=restart) if (folder / FILE).exists() else None
        if state is None:
            _end_older_crawl(folder)
            state = _begun(workspace, _connect(folder / FILE), query, policy, first)
        try:
            yield state
        except BaseException:
            state.keep()  # what is decided is decided, also when the rest cannot be
            raise
        else:
            state.finish()
        finally:
            state.close()


@contextmanager
def on_trial(workspace: Workspace, policy: str, first: str) -> Iterator[CrawlState]:
    """Yield the state of a crawl that writes nothing, as long as nothing is concluded with a row: in memory."""
    state = _begun(workspace, _connect(":memory:"), "", policy, first)
    state.is_trial = True
    try:
        yield state
    finally:
        state.close()


# ── beginning and going on ───────────────────────────────────────────────────────────────────────────────────────────
def _begun(workspace: Workspace, db: sqlite3.Connection, query: str, policy: str, first: str) -> CrawlState:
    """Make the tables and read the catalog into them, in one transaction: half of it is as good as nothing."""
    started = now()
    try:
        older = _older_policy(workspace.catalog_dir, policy)
        db.execute("BEGIN")
        for statement in _TABLES:
            db.execute(statement)
        for path in table_files(workspace.catalog_dir):
            current = notes_of(path).get(POLICY, older) == policy
            for batch in batches(path, 2048, _COLUMNS):
                db.executemany(_KNOWN, _facts(batch, current=current))
            db.execute("INSERT INTO files VALUES (?)", (path.name,))
        row = (f"{started:%Y%m%dT%H%M%S%f}", query, policy, first, started.isoformat(), 0, 0, 0)
        db.execute("INSERT INTO crawl VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        db.commit()
        return CrawlState(workspace, db, resumed=False)
    except BaseException:
        db.close()
        raise


def _resumed(workspace: Workspace, query: str, policy: str, *, restart: bool) -> CrawlState | None:
    """Return the state of the crawl that was interrupted; None when a new one has to begin.

    What the old one decided is then in the catalog, and its file is gone.
    """
    folder = workspace.catalog_dir
    require_file(folder / FILE)
    db = _connect(folder / FILE)
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version != _VERSION:
            if version:
                logger.warning("the interrupted crawl is one of another hubprobe and cannot go on: it begins anew")
            db.close()
            _delete(folder / FILE)
            return None
        if (verdict := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise damaged(folder / FILE, verdict)
        state = CrawlState(workspace, db, resumed=True)
        asked, ended, parts = db.execute("SELECT query || ' ' || policy, ended, parts FROM crawl").fetchone()
        if not (restart or ended or asked != f"{query} {policy}"):
            names = {path.name for path in table_files(folder)} - {_part(folder, state.crawl, parts + 1).name}
            if names == {name for (name,) in db.execute("SELECT name FROM files")}:
                return state
            logger.warning("files of the catalog came or went since the crawl was interrupted: it begins anew")
        state.finish()
    except BaseException:
        db.close()
        raise
    return None


def _facts(batch: pa.RecordBatch, *, current: bool) -> Iterator[tuple[int, int, str, int, bool]]:
    times = batch.column("crawled_at").cast(pa.int64()).to_pylist()
    for row, at in zip(batch.to_pylist(), times, strict=True):
        yield hash63(row["id"]), listing_fingerprint(row), row["eligibility"], at, current


# ── what outlasts a crawl: a journal of one line, and what earlier versions wrote in theirs ──────────────────────────
def page_size(workspace: Workspace) -> int:
    """Return the rows of a page that earlier crawls found the server to have the time for."""
    size = _journal(workspace.catalog_dir).get("page_size")
    return size if isinstance(size, int) and 0 < size < PAGE else PAGE


def _journal(folder: Path) -> dict[str, Any]:
    path = folder / _JOURNAL
    return read_json(path) if path.exists() else {}


def _older_policy(folder: Path, policy: str) -> str:
    """Return the policy of catalog files that do not name theirs."""
    journal = _journal(folder)
    if "policy" not in journal:
        return policy
    return policy if journal["policy"] == journal.get("decided_under") == policy else ""


def _end_older_crawl(folder: Path) -> None:
    """Keep what an interrupted crawl of an earlier hubprobe decided; its pages are listed again."""
    journal = _journal(folder)
    if journal.get("finished", True):
        return
    logger.warning(
        "an earlier hubprobe began the crawl that was interrupted: it begins anew, and keeps what was decided"
    )
    read_json(folder / _JOURNAL, {"crawl": str, "policy": str})
    if not _NAME.fullmatch(journal["crawl"]):
        raise damaged(folder / _JOURNAL, "its crawl has a name that is none")
    _merge(folder, journal["crawl"], journal["policy"])
    write_json(folder / _JOURNAL, {**journal, "finished": True})


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def _connect(path: Path | str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=0)
    try:
        # alone, so that no file has to be mapped to memory, which network file systems cannot
        for setting in (
            "trusted_schema = OFF",  # the workspace may be a stranger's
            "locking_mode = EXCLUSIVE",
            "journal_mode = WAL",
            f"cache_size = -{CACHE}",
        ):
            connection.execute(f"PRAGMA {setting}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT}")
    except BaseException:
        connection.close()
        raise
    return connection


def _delete(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _part(folder: Path, crawl: str, number: int) -> Path:
    return folder / f"{crawl}-{number:06d}.parquet"


def _merge(folder: Path, crawl: str, policy: str) -> None:
    """Merge the files of a crawl into one, row group by row group.

    A kill in between leaves either only the parts, or the merged file with some parts that the next call deletes.
    """
    parts, merged = [p for p in table_files(folder) if p.name.startswith(f"{crawl}-")], folder / f"{crawl}.parquet"
    if len(parts) == 1 and not merged.exists():
        parts.pop().replace(merged)
    elif parts and not merged.exists():
        with table_writer(merged, CATALOG) as writer:
            writer.add_key_value_metadata({POLICY: policy})
            for part in parts:
                for batch in batches(part, ROW_GROUP):
                    writer.write_batch(batch, row_group_size=ROW_GROUP)
    for part in parts:
        part.unlink()


def _stream_of(rows: list[Row]) -> bytes:
    table, sink = pa.Table.from_pylist(rows, schema=CATALOG), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, CATALOG) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _rows_of(stream: bytes) -> pa.Table:
    return conformed(Path("catalog") / FILE, pa.ipc.open_stream(stream).read_all(), CATALOG)


@contextmanager
def _in_sentences(path: Path) -> Iterator[None]:
    """Say what SQLite reports of ``path``: what the disk refuses, or damage."""
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.IntegrityError, sqlite3.InterfaceError):
        raise  # a fault of ours
    except pa.ArrowInvalid as error:
        raise damaged(path, error) from error
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            raise WorkspaceError(f"another program has {path} open: close it there and crawl again") from error
        _try_to_write(path)
        raise disk_error(path, error, "write") or damaged(path, error) from error


def _try_to_write(path: Path) -> None:
    """Raise the `DiskError` that a write here meets: of a quota or a limit SQLite says no more than "I/O error"."""
    sizes = [file.stat().st_size for file in path.parent.glob(f"{path.name}*")]
    trial = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    with using(path, "write"):
        try:
            with trial.open("wb") as file:
                file.seek(max(sizes, default=0))
                file.write(bytes(1 << 16))
        finally:
            trial.unlink(missing_ok=True)
