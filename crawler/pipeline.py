"""The crawl itself: pages come in, repositories are decided in parallel, each is noted and counted as it is decided."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from queue import SimpleQueue
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from crawler.catalog import departed_row, listed_columns, listing_fingerprint, malformed_row, row_of
from crawler.decide.inspection import Decision, Inspector
from crawler.decide.repository import Whereabouts, ask_row
from crawler.hub.client import HubClient
from crawler.hub.transport import Deadline
from crawler.listing.pages import Source
from crawler.listing.rows import Listed, MalformedRowError, Query, parse
from crawler.state import CrawlState, Row
from workspace import Outcome, Status, Workspace
from workspace.runs import now
from workspace.status import MEANING

logger = logging.getLogger(__name__)

_FAILURES = frozenset(status.value for status, meaning in MEANING.items() if meaning.outcome is Outcome.FAILED)


@dataclass
class CrawlSummary:
    """What one run of `crawl` did.

    Attributes:
        crawl: name of the crawl; its catalog files start with it.
        listed: repositories that the listing named in this run, each counted once.
        new: repositories the catalog did not hold.
        changed: repositories with a new commit or other listed facts, or decided again.
        unchanged: repositories left as they are.
        departed: repositories that are no longer listed.
        statuses: repositories decided in this run, by status.
        requests: requests sent, by bucket; ``elsewhere`` is the CDN.
        retries: requests sent again.
        seconds: wall time.
        resumed: whether an interrupted crawl was continued.
        finished: whether the listing was read to its end (or to ``limit``).
        undecided: of a dry run: repositories that the listing alone does not decide.
        would_request: of a dry run: requests that deciding them takes at most, by bucket.
        would_fetch_bytes: of a dry run: what deciding and then probing them downloads at most.
        would_take_hours: of a dry run: what the Hub's rate limits make of those requests; bandwidth comes on top.
    """

    crawl: str
    listed: int = 0
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    departed: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)
    retries: int = 0
    seconds: float = 0.0
    resumed: bool = False
    finished: bool = False
    undecided: int = 0
    would_request: dict[str, int] = field(default_factory=dict)
    would_fetch_bytes: int = 0
    would_take_hours: float = 0.0

    @property
    def eligible(self) -> int:
        """Repositories decided in this run that can be probed."""
        return self.statuses.get(Status.ELIGIBLE.value, 0)

    @property
    def failed(self) -> int:
        """Repositories that could not be decided in this run for a reason that may pass."""
        return sum(n for status, n in self.statuses.items() if status in _FAILURES)

    def book(self, status: str) -> None:
        """Count one decision."""
        self.statuses[status] = self.statuses.get(status, 0) + 1


def funnel(workspace: Workspace) -> pa.Table:
    """Return the catalog's state by status: columns ``status, stage, repos, share, meaning``, the largest first.

    ``eligible`` comes first, ``share`` is of all repositories in the catalog. Raises `MissingStepError` without one.
    """
    catalog = workspace.catalog(columns=["eligibility"])
    counts = pc.value_counts(catalog.column("eligibility").combine_chunks()).to_pylist()
    total = max(catalog.num_rows, 1)
    rows = []
    for entry in counts:
        status, repos = Status(entry["values"]), entry["counts"]
        eligible = status is Status.ELIGIBLE
        stage = "" if eligible else MEANING[status].stage
        meaning = "can be probed" if eligible else status.meaning
        rows.append((not eligible, -repos, status.value, stage, repos, repos / total, meaning))
    rows.sort()
    names = ["status", "stage", "repos", "share", "meaning"]
    types = [pa.string(), pa.string(), pa.int64(), pa.float64(), pa.string()]
    return pa.table([pa.array([row[i + 2] for row in rows], kind) for i, kind in enumerate(types)], names=names)


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
