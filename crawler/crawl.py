"""``hubprobe crawl``: list the Hub's image classifiers, decide each, keep the catalog; or say what that would cost."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from crawler.catalog import listed_columns, listing_fingerprint
from crawler.decide.inspection import Inspector
from crawler.hub.client import HubClient
from crawler.listing.pages import Listing, Snapshot, Source
from crawler.listing.rows import PAGE, Listed, MalformedRowError, Query, parse
from crawler.pipeline import CrawlSummary, Pipeline, book_departures
from crawler.state import CrawlState, crawl_state, on_trial, page_size
from workspace import CrawlConfig, Status, Workspace
from workspace.architectures import lazy
from workspace.endpoint import token_for
from workspace.files import canonical_json, short_hash
from workspace.runs import new_run_id, versions
from workspace.safetensors_header import BITS, FIRST_READ

logger = logging.getLogger(__name__)

RULES_VERSION = "1"
"""Counted up when the rules change: repositories decided before are decided again when they are listed."""


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
    rules = policy(config.crawl)
    try:
        if dry_run:
            summary = CrawlSummary("dry run")
            with on_trial(workspace, rules) as state:
                estimated(client, rows, query, inspector, state, summary, limit=limit, progress=progress)
        else:
            key = short_hash(canonical_json([query.key, limit, rows.name]))
            with crawl_state(workspace, key, rules, rows.first, restart=restart) as state:
                summary = CrawlSummary(state.crawl, resumed=state.resumed)
                with Pipeline(rows, query, inspector, state, summary, limit=limit, progress=progress) as pipeline:
                    pipeline.run()
                    if limit is None and rows.is_live:
                        pipeline.top_up()
                        book_departures(client, query, state, pipeline)
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


REQUESTS = {"resolvers": 5, "api": 1}
"""Requests of one candidate, when it turns out to be eligible and its card is read: see `crawler.decide.inspection`."""
_CONFIG_BYTES = 4_096  # a typical config.json


@dataclass
class _Tally:
    candidates: int = 0
    weights: int = 0  # bytes of weights of the candidates whose size the listing gives
    sized: int = 0
    convertible: int = 0  # candidates whose pull requests are looked through


def estimated(
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
    """Read the listing and fill ``summary`` with what is decided by it and what the rest would take."""
    tally, rows = _Tally(), 0
    where: str | None = source.first
    with tqdm(total=limit, unit="repo", disable=not progress, desc="dry run") as bar:
        while where is not None:
            page = source.page(where)
            room = None if limit is None else limit - rows
            for raw in page.rows[:room]:
                _judge(raw, query, inspector, state, tally, summary)
            rows += len(page.rows[:room])
            bar.update(rows - bar.n)
            where = None if limit is not None and rows >= limit else page.next
    summary.undecided, summary.finished = tally.candidates, True
    summary.would_request = {name: per * tally.candidates for name, per in REQUESTS.items()}
    summary.would_request["api"] += 2 * tally.convertible
    mean = tally.weights / tally.sized if tally.sized else 0.0
    read = tally.candidates * (FIRST_READ + _CONFIG_BYTES)
    summary.would_fetch_bytes = int(read + tally.weights + mean * (tally.candidates - tally.sized))
    summary.would_take_hours = max(
        client.limits.buckets[name].seconds_for(sent) / 3600 for name, sent in summary.would_request.items()
    )


def _judge(
    raw: object,
    query: Query,
    inspector: Inspector,
    state: CrawlState,
    tally: _Tally,
    summary: CrawlSummary,
) -> None:
    try:
        listed = parse(raw)
    except MalformedRowError as error:
        if state.is_first(error.repo_id):
            summary.listed += 1
            summary.book(Status.MALFORMED_ROW.value)
        return
    if not query.matches(listed) or not state.is_first(listed.id):
        return
    summary.listed += 1
    before = state.known(listed.id)
    if before is not None and before.still_holds(listing_fingerprint(listed_columns(listed))):
        summary.unchanged += 1
        return
    summary.new += before is None
    summary.changed += before is not None
    decision = inspector.from_listing(listed)
    if decision is not None:
        summary.book(decision.status.value)
        return
    tally.candidates += 1
    tally.convertible += inspector.may_be_converted(listed)
    if (size := _weights_bytes(listed)) is not None:
        tally.weights += size
        tally.sized += 1


def _weights_bytes(listed: Listed) -> int | None:
    if listed.parameters:
        return sum(count * BITS.get(dtype, 32) // 8 for dtype, count in listed.parameters)
    return None if listed.total is None else listed.total * 4
