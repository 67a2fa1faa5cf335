"""The crawl itself: pages come in, rows are decided in parallel, the catalog grows by small complete files.

Order of writing, so that a kill at any moment loses nothing and repeats almost nothing: a page's copy, then files of
decided rows as they come, then the ids met, then the journal's step to the next page.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import datetime
from typing import Any

from tqdm import tqdm

from crawler.catalog import crawl_files, hash63, listed_columns, listing_fingerprint, malformed_row, row_of, write_rows
from crawler.inspection import Decision, Inspector
from crawler.journal import Journal
from crawler.known import AGAIN, MALFORMED, Known
from crawler.query import Query
from crawler.rows import Listed, MalformedRowError, parse
from crawler.seen import Seen
from crawler.source import Page, Source
from crawler.summary import CrawlSummary
from workspace import Workspace

logger = logging.getLogger(__name__)

WORKERS = 8  # repositories decided at a time: enough to fill the largest tier's quota at 100 ms a request
FLUSH_ROWS = 1_000
FLUSH_SECONDS = 3.0  # decided rows are on disk after this: what a kill may cost

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
        self._workspace, self._source, self._query, self._inspector = workspace, source, query, inspector
        self._journal, self._summary, self._limit = journal, summary, limit
        self._folder = workspace.catalog_dir
        self.seen = Seen(self._folder / f".seen-{journal.crawl}", journal.seen)
        self.known = Known.load(workspace, before=journal.crawl)
        written = crawl_files(self._folder, journal.crawl)
        for path in written:
            table = read_table_ids(path)
            self.seen.restore(hash63(name) for name in table)
        self._files = max((int(p.stem.rsplit("-", 1)[1]) for p in written), default=0)
        self._pending: list[Row] = []
        self._flushed = time.monotonic()
        self._bar = tqdm(total=limit, unit="repo", disable=not progress, initial=journal.listed, desc="crawl")

    def run(self) -> None:
        """Read pages until the last one, or until ``limit`` rows were listed."""
        with ThreadPoolExecutor(WORKERS, "decide") as workers, ThreadPoolExecutor(1, "list") as lister, self._bar:
            try:
                ahead = lister.submit(self._source.page, self._journal.next) if self._journal.next else None
                while ahead is not None:
                    page = ahead.result()
                    last = self._reached(len(page.rows))
                    following = None if last else page.next
                    ahead = lister.submit(self._source.page, following) if following else None
                    self._decide(page, workers)
                    self._commit(len(page.rows), following)
            finally:
                workers.shutdown(cancel_futures=True)
                lister.shutdown(cancel_futures=True)

    def _reached(self, rows: int) -> bool:
        return self._limit is not None and self._journal.listed + rows >= self._limit

    def _decide(self, page: Page, workers: ThreadPoolExecutor) -> None:
        room = None if self._limit is None else max(self._limit - self._journal.listed, 0)
        waiting: set[Future[Decision]] = set()
        for listed in self._fresh(page.rows[:room], page.read_at):
            decision = self._inspector.from_listing(listed)
            if decision is not None:
                self._book(row_of(decision, page.read_at))
            else:
                waiting.add(workers.submit(self._inspector.decide, listed))
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=FLUSH_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    self._book(row_of(future.result(), page.read_at))
                if time.monotonic() - self._flushed > FLUSH_SECONDS:
                    self._flush()
        except BaseException:
            for future in waiting:
                future.cancel()
            self._flush()  # what is decided is decided, also when the rest cannot be
            raise

    def _fresh(self, rows: list[Any], read_at: datetime) -> Iterator[Listed]:
        """Yield the rows that need a decision, each repository once; book the unreadable ones."""
        for raw in rows:
            self._summary.listed += 1
            try:
                listed = parse(raw)
            except MalformedRowError as error:
                if self._first(error.repo_id, MALFORMED):
                    self._book(malformed_row(error, read_at))
                continue
            if self._query.matches(listed) and self._first(listed.id, listing_fingerprint(listed_columns(listed))):
                yield listed

    def _first(self, repo_id: str, fingerprint: int) -> bool:
        """Return whether a repository is met for the first time in this crawl and is not as the catalog knows it."""
        key = hash63(repo_id)
        if key in self.seen:
            return False
        self.seen.add(key)
        before = self.known.fingerprint(key)
        if before is None:
            self._summary.new += 1
        elif before == fingerprint and before != AGAIN:
            self._summary.unchanged += 1
            return False
        else:
            self._summary.changed += 1
        return True

    def _book(self, row: Row) -> None:
        self._pending.append(row)
        self._summary.book(row["eligibility"])
        self._bar.set_postfix(eligible=self._summary.eligible, refresh=False)
        if len(self._pending) >= FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        self._flushed = time.monotonic()
        if not self._pending:
            return
        self._files += 1
        write_rows(self._folder / f"{self._journal.crawl}-{self._files:06d}.parquet", self._pending)
        self._pending.clear()

    def _commit(self, rows: int, following: str | None) -> None:
        self._flush()
        self._journal.seen = self.seen.commit()
        self._journal.listed += rows if self._limit is None else min(rows, self._limit - self._journal.listed)
        self._journal.pages += 1
        self._journal.next = following
        self._journal.save(self._folder / "journal.json")
        self._bar.update(self._journal.listed - self._bar.n)


def read_table_ids(path: Any) -> list[str]:
    """Return the ids in one catalog file."""
    import pyarrow.parquet as pq

    return [str(name) for name in pq.read_table(path, columns=["id"]).column("id").to_pylist()]
