"""The crawl itself: pages come in, rows are decided in parallel, the catalog grows by small complete files.

Order of writing, so that a kill at any moment loses nothing and repeats almost nothing: a page's copy, then a log of
decided rows and files of a thousand of them, then the ids met, then the journal's step to the next page.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tqdm import tqdm

from crawler.catalog import crawl_files, hash63, listed_columns, listing_fingerprint, malformed_row, row_of, write_rows
from crawler.decide.inspection import Decision, Inspector
from crawler.journal import Journal
from crawler.known import Known, State
from crawler.listing.pages import Page, Source
from crawler.listing.query import Query
from crawler.listing.rows import Listed, MalformedRowError, parse
from crawler.pending import Pending
from crawler.seen import Seen
from crawler.summary import CrawlSummary
from workspace import Status, Workspace
from workspace.files import read_file

logger = logging.getLogger(__name__)

WORKERS = 8  # repositories decided at a time: enough to fill the largest tier's quota at 100 ms a request
AHEAD = 4 * WORKERS  # repositories handed to the workers at a time
FLUSH_ROWS = 1_000
LOG_SECONDS = 0.5  # decided rows are on disk after this: what a kill may cost

Row = dict[str, Any]


class Pipeline:
    """One run over the pages of a source; see the module's text for what is written when."""

    def __init__(
        self,
        workspace: Workspace,
        source: Source,
        query: Query,
        inspector: Inspector,
        journal: Journal,
        summary: CrawlSummary,
        *,
        limit: int | None,
        progress: bool,
    ) -> None:
        self._source, self._query, self._inspector = source, query, inspector
        self._journal, self._summary, self._limit = journal, summary, limit
        self._folder = workspace.catalog_dir
        self.seen = Seen(self._folder / f".seen-{journal.crawl}", journal.seen)
        self.known = Known.load(workspace, before=journal.crawl)
        self._redecide = journal.decided_under != journal.policy
        self._pending = Pending(self._folder, journal.crawl)
        self._files = self._restore(journal.crawl)
        self._logged = time.monotonic()
        self._bar = tqdm(total=limit, unit="repo", disable=not progress, initial=journal.listed, desc="crawl")

    def _restore(self, crawl: str) -> int:
        """Take back what an interrupted run of this crawl had decided; return how many files it wrote."""
        written = crawl_files(self._folder, crawl)
        names = {str(name) for path in written for name in _ids(path)}
        kept = self._pending.recover(names)
        for row in kept:
            self._pending.add(row)
            names.add(row["id"])
        self._pending.log()
        self.seen.restore(hash63(name) for name in names)
        return max((int(path.stem.rsplit("-", 1)[1]) for path in written), default=0)

    def __enter__(self) -> Pipeline:  # noqa: PYI034 - Self needs Python 3.11
        self._workers, self._lister = ThreadPoolExecutor(WORKERS, "decide"), ThreadPoolExecutor(1, "list")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._inspector.stop()
        self._workers.shutdown(cancel_futures=True)
        self._lister.shutdown(cancel_futures=True)
        self._bar.close()

    def run(self) -> None:
        """Read pages until the last one, or until ``limit`` rows were listed; one page is asked for ahead."""
        where = self._journal.next
        ahead = self._lister.submit(self._source.page, where) if where else None
        while ahead is not None and where is not None:
            page = ahead.result()
            room = None if self._limit is None else max(self._limit - self._journal.listed, 0)
            rows = page.rows[:room]
            following = page.next if room is None or len(page.rows) < room else None
            ahead = self._lister.submit(self._source.page, following) if following else None
            self.decide(self._fresh(rows, page.read_at), page.read_at)
            self._commit(len(rows), following)
            where = following

    def top_up(self) -> None:
        """List again from the first page until one brings nothing new: repositories made while the crawl ran."""
        where: str | None = self._source.first
        while where is not None:
            page: Page = self._source.page(where)
            before = len(self.seen)
            self.decide(self._fresh(page.rows, page.read_at), page.read_at)
            where = page.next if len(self.seen) > before else None
        self.close_books()

    def decide(self, rows: Iterable[Listed], read_at: datetime) -> None:
        """Decide rows in parallel and write each when it is decided."""
        done: SimpleQueue[Future[Decision]] = SimpleQueue()
        waiting: set[Future[Decision]] = set()
        try:
            for listed in rows:
                decision = self._inspector.from_listing(listed)
                if decision is not None:
                    self._conclude(decision, read_at)
                    continue
                future = self._workers.submit(self._inspector.decide, listed)
                waiting.add(future)
                future.add_done_callback(done.put)
                while len(waiting) >= AHEAD or not done.empty():
                    self._take(done, waiting, read_at)
            while waiting:
                self._take(done, waiting, read_at)
        except BaseException:
            for future in waiting:
                future.cancel()
            self._pending.log()  # what is decided is decided, also when the rest cannot be
            raise

    def _take(self, done: SimpleQueue[Future[Decision]], waiting: set[Future[Decision]], read_at: datetime) -> None:
        """Book the next repository that is decided, and put what was booked on disk when that is due."""
        future = done.get()
        waiting.discard(future)
        self._conclude(future.result(), read_at)
        if time.monotonic() - self._logged > LOG_SECONDS:
            self._pending.log()
            self._logged = time.monotonic()

    def decide_missed(self, listed: Iterable[Listed], read_at: datetime) -> None:
        """Decide repositories that the listing passed over and that are there all the same, as if it had not."""
        self.decide((row for row in listed if self._first(row.id) and self._is_work(row)), read_at)

    def book(self, row: Row) -> None:
        """Add a row to the catalog. It is newer than those of earlier crawls, also when the clock was put back."""
        if row["crawled_at"] <= self.known.latest:
            row["crawled_at"] = self.known.latest + timedelta(microseconds=1)
        self._pending.add(row)
        self._summary.book(row["eligibility"])
        self._bar.set_postfix(eligible=self._summary.eligible, failed=self._summary.failed, refresh=False)
        if len(self._pending.rows) >= FLUSH_ROWS:
            self._flush()

    def _fresh(self, rows: list[Any], read_at: datetime) -> Iterator[Listed]:
        """Yield the rows that need a decision, each repository once; book the unreadable ones."""
        for raw in rows:
            try:
                listed = parse(raw)
            except MalformedRowError as error:
                row = malformed_row(error, read_at)
                if self._first(error.repo_id):
                    self._summary.listed += 1
                    if self._news(row, Status.MALFORMED_ROW):
                        self.book(row)
                continue
            if self._query.matches(listed) and self._first(listed.id):
                self._summary.listed += 1
                if self._is_work(listed):
                    yield listed

    def _is_work(self, listed: Listed) -> bool:
        """Return whether a repository has to be decided: it is new, it changed, or its last decision was not final."""
        state = self.known.state(hash63(listed.id))
        fingerprint = listing_fingerprint(listed_columns(listed))
        if self._redecide or state is None or not state.is_final or state.fingerprint != fingerprint:
            return True
        self._summary.unchanged += 1
        return False

    def _first(self, repo_id: str) -> bool:
        """Return whether a repository is met for the first time in this crawl."""
        key = hash63(repo_id)
        if key in self.seen:
            return False
        self.seen.add(key)
        return True

    def _news(self, row: Row, status: Status) -> bool:
        """Count a decision as new, changed or unchanged, and return whether its row has to be written."""
        state = self.known.state(hash63(row["id"]))
        if state is None:
            self._summary.new += 1
            return True
        if not self._redecide and state == State(listing_fingerprint(row), status):
            self._summary.unchanged += 1
            return False
        self._summary.changed += 1
        return True

    def _conclude(self, decision: Decision, read_at: datetime) -> None:
        self._bar.update()
        row = row_of(decision, read_at)
        if self._news(row, decision.status):
            self.book(row)

    def depart(self, row: Row) -> None:
        """Add the row of a repository that is no longer listed."""
        self.seen.add(hash63(row["id"]))
        self._summary.departed += 1
        self.book(row)

    def close_books(self) -> None:
        """Write what is still pending, after the last page."""
        self._flush()
        self._journal.seen = self.seen.commit()
        self._journal.save(self._folder / "journal.json")

    def _flush(self) -> None:
        if self._pending.rows:
            self._files += 1
            write_rows(self._folder / f"{self._journal.crawl}-{self._files:06d}.parquet", self._pending.rows)
        self._pending.clear()

    def _commit(self, rows: int, following: str | None) -> None:
        self._flush()
        self._journal.seen = self.seen.commit()
        self._journal.listed += rows
        self._journal.pages += 1
        self._journal.next = following
        self._journal.page_size = min(self._journal.page_size, self._source.bearable)
        self._journal.save(self._folder / "journal.json")
        self._bar.update(self._journal.listed - self._bar.n)  # with those that needed no decision


def _ids(path: Path) -> list[str]:
    return [str(name) for name in read_file(path, columns=["id"]).column("id").to_pylist()]
