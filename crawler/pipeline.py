"""The crawl itself: pages come in, repositories are decided in parallel, each is noted as it is decided."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from queue import SimpleQueue
from typing import Any

from tqdm import tqdm

from crawler.catalog import departed_row, listed_columns, listing_fingerprint, malformed_row, row_of
from crawler.decide.inspection import Decision, Inspector
from crawler.decide.repository import Whereabouts, ask_row
from crawler.hub.client import HubClient
from crawler.hub.transport import Deadline
from crawler.listing.pages import Source
from crawler.listing.query import Query
from crawler.listing.rows import Listed, MalformedRowError, parse
from crawler.state import CrawlState, Row
from crawler.summary import CrawlSummary
from workspace import Outcome, Status
from workspace.runs import now

logger = logging.getLogger(__name__)

WORKERS = 8  # repositories decided at a time: enough to fill the largest tier's quota at 100 ms a request
AHEAD = 4 * WORKERS  # repositories handed to the workers at a time
TOP_UP_SECONDS = 60.0  # a crawl longer than this lists the newest repositories once more at its end


class Pipeline:
    """One run over the pages of a source.

    Args:
        source: where pages come from.
        query: which of their rows are meant.
        inspector: decides.
        state: remembers, and keeps the rows.
        summary: counts.
        limit: rows of the listing to read at most, earlier runs of the same crawl included.
        progress: show a bar on stderr.
    """

    def __init__(
        self,
        source: Source,
        query: Query,
        inspector: Inspector,
        state: CrawlState,
        summary: CrawlSummary,
        *,
        limit: int | None,
        progress: bool,
    ) -> None:
        self._source, self._query, self._inspector = source, query, inspector
        self._state, self._summary, self._limit = state, summary, limit
        self._began = time.monotonic()
        self._bar = tqdm(total=limit, unit="repo", disable=not progress, initial=state.listed, desc="crawl")

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
        state = self._state
        ahead = self._lister.submit(self._source.page, state.next) if state.next else None
        while ahead is not None:
            page = ahead.result()
            room = None if self._limit is None else max(self._limit - state.listed, 0)
            rows = page.rows[:room]
            following = page.next if room is None or len(page.rows) < room else None
            ahead = self._lister.submit(self._source.page, following) if following else None
            self._decide(self._to_decide(rows, page.read_at), page.read_at)
            state.listed, state.next = state.listed + len(rows), following
            state.commit()
            state.keep_page_size(self._source.bearable)
            self._bar.update(state.listed - self._bar.n)  # with those that needed no decision

    def top_up(self) -> None:
        """List again from the first page until one brings nothing new: repositories made while a long crawl ran."""
        long = self._state.resumed or time.monotonic() - self._began > TOP_UP_SECONDS
        where = self._source.first if long else None
        while where is not None:
            page, before = self._source.page(where), self._summary.listed
            self._decide(self._to_decide(page.rows, page.read_at), page.read_at)
            where = page.next if self._summary.listed > before else None

    def decide_missed(self, missed: Iterable[Listed], read_at: datetime) -> None:
        """Decide repositories that the listing passed over and that are there all the same, as if it had not."""
        self._decide((listed for listed in missed if self._is_work(listed)), read_at)

    def depart(self, before: Row, moment: datetime, whereabouts: Whereabouts) -> None:
        """Book what became of a repository that is no longer listed."""
        self._summary.departed += 1
        self._book(departed_row(before, moment, whereabouts))

    def _to_decide(self, rows: list[Any], read_at: datetime) -> Iterator[Listed]:
        """Yield the rows that need a decision, each repository once; book the unreadable ones."""
        for raw in rows:
            try:
                listed = parse(raw)
            except MalformedRowError as error:
                if self._state.is_first(error.repo_id):
                    self._summary.listed += 1
                    self._conclude(malformed_row(error, read_at), Status.MALFORMED_ROW)
                continue
            if self._query.matches(listed) and self._state.is_first(listed.id) and self._is_work(listed):
                yield listed

    def _is_work(self, listed: Listed) -> bool:
        """Count a repository, and return whether it has to be decided: its row in the catalog does not hold."""
        self._summary.listed += 1
        known = self._state.known(listed.id)
        if known is None or not known.still_holds(listing_fingerprint(listed_columns(listed))):
            return True
        self._summary.unchanged += 1
        self._state.conclude(listed.id, None)
        return False

    def _decide(self, rows: Iterable[Listed], read_at: datetime) -> None:
        """Decide rows in parallel, and note each when it is decided."""
        done: SimpleQueue[Future[Decision]] = SimpleQueue()
        waiting: set[Future[Decision]] = set()

        def take() -> None:
            future = done.get()
            waiting.discard(future)
            decision = future.result()
            self._conclude(row_of(decision, read_at), decision.status)

        try:
            for listed in rows:
                decision = self._inspector.from_listing(listed)
                if decision is not None:
                    self._conclude(row_of(decision, read_at), decision.status)
                    continue
                future = self._workers.submit(self._inspector.decide, listed)
                waiting.add(future)
                future.add_done_callback(done.put)
                while len(waiting) >= AHEAD or not done.empty():
                    take()
            while waiting:
                take()
        except BaseException:
            for future in waiting:
                future.cancel()
            raise

    def _conclude(self, row: Row, status: Status) -> None:
        """Count a decision as new, changed or unchanged, and keep its row unless the catalog holds the same."""
        self._bar.update()
        known = self._state.known(row["id"])
        if known is not None and known.current and known[:2] == (listing_fingerprint(row), status):
            self._summary.unchanged += 1
            self._state.conclude(row["id"], None)
        else:
            self._summary.new += known is None
            self._summary.changed += known is not None
            self._book(row)

    def _book(self, row: Row) -> None:
        self._state.conclude(row["id"], row)
        self._state.commit(when_due=True)
        self._summary.book(row["eligibility"])
        self._bar.set_postfix(eligible=self._summary.eligible, failed=self._summary.failed, refresh=False)


# ── what a complete listing no longer names: asked one by one, because it may be gone or renamed ──────────────────────
SECONDS = 180.0  # for one repository
ELSEWHERE = Whereabouts(Status.NOT_A_CLASSIFIER, "its author no longer lists it under this task")


def book_departures(client: HubClient, query: Query, state: CrawlState, pipeline: Pipeline) -> None:
    """Book what became of every repository that ``query`` should have listed and did not.

    One that is there and still answers the query was made or moved while pages were read: it is decided as if listed.
    """
    missed: list[Listed] = []
    moment = now()
    for before in state.left_behind():
        named = before["id"], before["author"], before["pipeline_tag"], before["library_name"], before["tags"] or ()
        malformed = before["eligibility"] == Status.MALFORMED_ROW.value
        if malformed or not query.covers(*named) or not state.is_first(before["id"]):
            continue
        answer = ask_row(client, before["id"], Deadline(SECONDS))
        if not isinstance(answer, Whereabouts):
            try:
                listed = replace(parse(answer), id=before["id"])
            except MalformedRowError:
                answer = ELSEWHERE
            else:
                if query.matches(listed):
                    missed.append(listed)
                    continue
                answer = ELSEWHERE
        if answer.status.outcome is Outcome.FAILED:
            logger.warning("%s is no longer listed, and why is not known: %s", before["id"], answer.reason)
            continue  # the next crawl asks again
        if (before["eligibility"], before["reason"]) != (answer.status.value, answer.reason):
            pipeline.depart(before, moment, answer)  # else an earlier crawl booked just that
    pipeline.decide_missed(missed, moment)
