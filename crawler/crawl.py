"""``hubprobe crawl``: list the Hub's image classifiers, decide each, keep the catalog; or say what that would cost.

Pages come in, repositories are decided in parallel, each is noted and counted as it is decided.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
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
from crawler.listing.pages import Listing, Snapshot, Source
from crawler.listing.rows import PAGE, Listed, MalformedRowError, Query, parse
from crawler.state import CrawlState, Row, crawl_state, on_trial, page_size
from workspace import CrawlConfig, Outcome, Status, Workspace
from workspace.architectures import lazy
from workspace.endpoint import token_for
from workspace.files import canonical_json, short_hash
from workspace.runs import new_run_id, now, versions
from workspace.safetensors_header import BITS, FIRST_READ

logger = logging.getLogger(__name__)

RULES_VERSION = "1"
"""Counted up when the rules change: repositories decided before are decided again when they are listed."""

WORKERS = 8  # repositories decided at a time: enough to fill the largest tier's quota at 100 ms a request
AHEAD = 4 * WORKERS  # repositories handed to the workers at a time
TOP_UP_SECONDS = 60.0  # a crawl longer than this lists the newest repositories once more at its end
DEPARTED_SECONDS = 180.0  # for asking about one repository that is no longer listed
ELSEWHERE = Whereabouts(Status.NOT_A_CLASSIFIER, "its author no longer lists it under this task")
REQUESTS = {"resolvers": 5, "api": 1}
"""Requests of one candidate, when it turns out to be eligible and its card is read: see `crawler.decide.inspection`."""
_CONFIG_BYTES = 4_096  # a typical config.json
_FAILURES = frozenset(s.value for s in Status if s is not Status.ELIGIBLE and s.outcome is Outcome.FAILED)


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
    text, rows = pa.string(), []
    kinds = {"status": text, "stage": text, "repos": pa.int64(), "share": pa.float64(), "meaning": text}
    for entry in sorted(counts, key=lambda entry: (entry["values"] != "eligible", -entry["counts"], entry["values"])):
        status, repos = Status(entry["values"]), entry["counts"]
        meaning = "can be probed" if status is Status.ELIGIBLE else status.meaning
        rows.append(dict(zip(kinds, (status.value, status.stage, repos, repos / total, meaning), strict=True)))
    return pa.Table.from_pylist(rows, schema=pa.schema(kinds))


def crawl(
    workspace: Workspace,
    *,
    limit: int | None = None,
    token: str | bool | None = None,
    pipeline_tag: str | None = None,
    author: str | None = None,
    library: str | None = None,
    search: str | None = None,
    tags: Sequence[str] = (),
    source: str | None = None,
    restart: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> CrawlSummary:
    """List repositories, decide which can be probed and why not, and write the catalog.

    Killed at any moment and called again with the same arguments it goes on where it was; a finished crawl called again
    books what is new, changed or gone.

    Args:
        workspace: where the catalog lies; its configuration has the endpoint, the caps and the opt-out list.
        limit: stop after this many listed repositories.
        token: for the Hub; None takes the one of ``hf auth login`` or HF_TOKEN, False sends none.
        pipeline_tag: task to list; the configuration's when None, any when empty.
        author: only this owner's.
        library: only those tagged with this library.
        search: only those whose id contains this.
        tags: only those with all of these tags.
        source: a Parquet snapshot of the Hub with the API's column names, local or ``hf://``, in place of its listing.
        restart: begin anew although an interrupted crawl could go on.
        dry_run: read and judge the listing only, write nothing, and say what a crawl would take.
        progress: show progress on stderr.

    Raises:
        HubError: the listing cannot be had; what was decided is kept.
        WorkspaceError: the snapshot cannot be read, another process crawls this workspace, or its files are damaged.
        DiskError: the disk is full, or refuses otherwise; the same crawl goes on later.
    """
    started = time.monotonic()
    config = workspace.config
    task = config.crawl.pipeline_tag if pipeline_tag is None else pipeline_tag
    query = Query(task or None, author, library, search, tuple(tags))
    secret = token_for(config.endpoint, token)
    client = HubClient(config.endpoint, secret)
    client.check_online()
    rows: Source
    if source is not None:
        rows = Snapshot(source, query, config.endpoint, secret)
    else:
        first = query.url(config.endpoint, min(PAGE, limit) if limit else PAGE)
        rows = Listing(client, first, page_size(workspace))
    inspector = Inspector(client, config.crawl, lazy(workspace.cache_dir))
    rules, key = policy(config.crawl), short_hash(canonical_json([query.key, limit, rows.name]))
    kept = crawl_state(workspace, key, rules, rows.first, restart=restart)
    try:
        with on_trial(workspace, rules, rows.first) if dry_run else kept as state:
            summary = CrawlSummary("dry run" if dry_run else state.crawl, resumed=state.resumed)
            kind = DryRun if dry_run else Pipeline
            with kind(client, rows, query, inspector, state, summary, limit=limit, progress=progress) as pipeline:
                pipeline.run()
                if limit is None and rows.is_live:
                    pipeline.end()
        summary.finished = True
    finally:
        client.close()
    summary.requests, summary.retries = dict(client.requests), client.retries.count
    summary.seconds = time.monotonic() - started
    if not (summary.listed or summary.resumed):
        logger.warning("%s", _found_nothing(query, rows))
    if not dry_run:
        run = {"query": query.as_dict(), "limit": limit, "summary": vars(summary), "versions": versions()}
        workspace.manifest(new_run_id("crawl"), {"verb": "crawl", "started": state.started, **run})
    return summary


def policy(config: CrawlConfig) -> str:
    """Return a hash of everything that decides eligibility; what was decided under another is decided again."""
    settings = {name: value for name, value in vars(config).items() if name != "pipeline_tag"}
    return short_hash(canonical_json([RULES_VERSION, settings]))


def _found_nothing(query: Query, source: Source) -> str:
    where = "the listing" if source.is_live else f"the {source.name}"
    asked = ", ".join(f"{name} {value!r}" for name, value in query.as_dict().items() if value)
    advice = "look for a mistake there, or take a condition away (--task '' lists every task)" if asked else ""
    return f"{where} holds no repository{f' with {asked}: {advice}' if asked else ''}"


class Pipeline:
    """One run over the pages of a source; rows of earlier runs of the same crawl count in ``limit``, too."""

    def __init__(
        self,
        client: HubClient,
        source: Source,
        query: Query,
        inspector: Inspector,
        state: CrawlState,
        summary: CrawlSummary,
        *,
        limit: int | None,
        progress: bool,
    ) -> None:
        self._client, self._source, self._query, self._inspector = client, source, query, inspector
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

    def end(self) -> None:
        """Book what came and went while pages were read, and before.

        First pages are listed again until one brings nothing new: repositories made while a long crawl ran. Then every
        repository that should have been listed and was not is asked about, because it may be gone or renamed. One that
        is there and still answers the query was made or moved meanwhile: it is decided as if listed.
        """
        long = self._state.resumed or time.monotonic() - self._began > TOP_UP_SECONDS
        where = self._source.first if long else None
        while where is not None:
            page, before = self._source.page(where), self._summary.listed
            self._decide(self._to_decide(page.rows, page.read_at), page.read_at)
            where = page.next if self._summary.listed > before else None
        moment = now()
        missed = [listed for row in self._state.left_behind() if (listed := self._departed(row, moment)) is not None]
        self._decide(filter(self._is_work, missed), moment)

    def _departed(self, row: Row, moment: datetime) -> Listed | None:
        """Book what became of a repository that is no longer listed; return it when it was only passed over."""
        named = row["id"], row["author"], row["pipeline_tag"], row["library_name"], row["tags"] or ()
        malformed = row["eligibility"] == Status.MALFORMED_ROW.value
        if malformed or not self._query.covers(*named) or not self._state.is_first(row["id"]):
            return None
        found = ask_row(self._client, row["id"], Deadline(DEPARTED_SECONDS))
        if not isinstance(found, Whereabouts):
            with suppress(MalformedRowError):
                listed = replace(parse(found), id=row["id"])
                if self._query.matches(listed):
                    return listed
            found = ELSEWHERE
        if found.status.outcome is Outcome.FAILED:  # the next crawl asks again
            logger.warning("%s is no longer listed, and why is not known: %s", row["id"], found.reason)
        elif (row["eligibility"], row["reason"]) != (found.status.value, found.reason):  # else booked by a crawl before
            self._summary.departed += 1
            self._book(departed_row(row, moment, found))
        return None

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


class DryRun(Pipeline):
    """A run that asks for the listing alone and writes nothing: it counts what would have to be asked and fetched."""

    _candidates = _convertible = _weights = _sized = 0  # weights in bytes, of the candidates whose size is listed

    def run(self) -> None:
        """Read the listing and fill the summary with what is decided by it and what the rest would take."""
        super().run()
        summary, candidates = self._summary, self._candidates
        summary.undecided = candidates
        summary.would_request = {name: per * candidates for name, per in REQUESTS.items()}
        summary.would_request["api"] += 2 * self._convertible
        mean = self._weights / max(self._sized, 1)
        read = candidates * (FIRST_READ + _CONFIG_BYTES)
        summary.would_fetch_bytes = int(read + self._weights + mean * (candidates - self._sized))
        buckets = self._client.limits.buckets
        seconds = [buckets[name].seconds_for(sent) for name, sent in summary.would_request.items()]
        summary.would_take_hours = max(seconds) / 3600

    def end(self) -> None:
        """Ask nothing more."""

    def _decide(self, rows: Iterable[Listed], read_at: datetime) -> None:
        for listed in rows:
            if (decision := self._inspector.from_listing(listed)) is not None:
                self._conclude(row_of(decision, read_at), decision.status)
                continue
            known = self._state.known(listed.id) is not None
            self._summary.new, self._summary.changed = self._summary.new + (not known), self._summary.changed + known
            self._candidates += 1
            self._convertible += self._inspector.may_be_converted(listed)
            if listed.parameters or listed.total is not None:
                counted = listed.parameters or (("F32", listed.total or 0),)
                self._weights += sum(count * BITS.get(dtype, 32) // 8 for dtype, count in counted)
                self._sized += 1

    def _book(self, row: Row) -> None:
        self._summary.book(row["eligibility"])
