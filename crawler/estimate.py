"""A dry run: the listing is read and judged, nothing else is asked and nothing written; what a crawl would cost."""

from __future__ import annotations

from dataclasses import dataclass

from tqdm import tqdm

from crawler.catalog import listed_columns, listing_fingerprint
from crawler.decide.inspection import Inspector
from crawler.hub.client import HubClient
from crawler.listing.pages import Source
from crawler.listing.query import Query
from crawler.listing.rows import Listed, MalformedRowError, parse
from crawler.state import CrawlState
from crawler.summary import CrawlSummary
from workspace import Status
from workspace.safetensors_header import BITS, FIRST_READ

REQUESTS = {"resolvers": 5, "api": 1}
"""Requests of one candidate, when it turns out to be eligible and its card is read: see `crawler.decide.inspection`."""
_CONFIG_BYTES = 4_096  # a typical config.json


@dataclass
class _Tally:
    candidates: int = 0
    weights: int = 0  # bytes of weights of the candidates whose size the listing gives
    sized: int = 0
    convertible: int = 0  # candidates whose pull requests are looked through


def dry_run(
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
