"""``hubprobe crawl``: list the Hub's image classifiers, decide each, and keep the catalog."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from crawler import estimate
from crawler.catalog import merge_files
from crawler.decide.inspection import Inspector
from crawler.departures import book_departures
from crawler.exclusive import exclusive
from crawler.hub.client import HubClient
from crawler.journal import Journal
from crawler.known import Known
from crawler.listing.pages import Listing, Source
from crawler.listing.query import PAGE, Query
from crawler.listing.snapshot import Snapshot
from crawler.pipeline import Pipeline
from crawler.summary import CrawlSummary
from workspace import CrawlConfig, Workspace
from workspace.architectures import lazy
from workspace.endpoint import token_for
from workspace.files import canonical_json, short_hash
from workspace.runs import new_run_id, now, versions

logger = logging.getLogger(__name__)

TOP_UP_SECONDS = 60.0  # a crawl longer than this lists the newest repositories once more at its end
RULES_VERSION = "1"
"""Counted up when the rules change, so that the next crawl decides every repository again."""


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
        WorkspaceError: the snapshot cannot be read, or another process crawls this workspace.
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
        before = Journal.load(journal_path(workspace))
        first = query.url(config.endpoint, min(PAGE, limit) if limit else PAGE)
        rows = Listing(client, first, before.page_size if before else PAGE)
    inspector = Inspector(client, config.crawl, lazy(workspace.cache_dir))
    if dry_run:
        summary = CrawlSummary("dry run")
        known = Known.load(workspace)
        estimate.dry_run(client, rows, query, inspector, known, summary, limit=limit, progress=progress)
        _close(client, summary, started)
        _say_if_empty(summary, query, rows)
        return summary
    with exclusive(workspace.catalog_dir):
        workspace.require_own(workspace.catalog_dir)
        workspace.require_own_files(workspace.catalog_dir)
        return _crawl(
            workspace, client, rows, query, inspector, started, limit=limit, restart=restart, progress=progress
        )


def _crawl(
    workspace: Workspace,
    client: HubClient,
    rows: Source,
    query: Query,
    inspector: Inspector,
    started: float,
    *,
    limit: int | None,
    restart: bool,
    progress: bool,
) -> CrawlSummary:
    journal, resumed = _journal(workspace, rows, query, limit, restart)
    summary = CrawlSummary(journal.crawl, resumed=resumed)
    try:
        with Pipeline(workspace, rows, query, inspector, journal, summary, limit=limit, progress=progress) as pipeline:
            pipeline.run()
            if limit is None and rows.is_live:
                if resumed or time.monotonic() - started > TOP_UP_SECONDS:
                    pipeline.top_up()
                book_departures(workspace, client, query, pipeline)
            if not pipeline.known.missing(pipeline.seen.array()):
                journal.decided_under = journal.policy
        journal.finished = summary.finished = True
        pipeline.seen.remove()
    finally:
        for name, sent in client.requests.items():
            journal.requests[name] = journal.requests.get(name, 0) + sent
        journal.save(journal_path(workspace))
        _close(client, summary, started)
    merge_files(workspace.catalog_dir, journal.crawl)
    run = {"query": query.as_dict(), "limit": limit, "summary": vars(summary), "versions": versions()}
    _say_if_empty(summary, query, rows)
    workspace.manifest(new_run_id("crawl"), {"verb": "crawl", "started": journal.started, **run})
    return summary


def _say_if_empty(summary: CrawlSummary, query: Query, source: Source) -> None:
    if summary.listed or summary.resumed:
        return
    where = "the listing" if source.is_live else f"the {source.name}"
    asked = ", ".join(f"{name} {value!r}" for name, value in query.as_dict().items() if value)
    logger.warning("%s holds no repository%s", where, f" with {asked}: look for a mistake there" if asked else "")


def _close(client: HubClient, summary: CrawlSummary, started: float) -> None:
    client.close()
    summary.requests, summary.retries = dict(client.requests), client.retries.count
    summary.seconds = time.monotonic() - started


def journal_path(workspace: Workspace) -> Path:
    """Return where the journal lies."""
    return workspace.catalog_dir / "journal.json"


def policy(config: CrawlConfig) -> str:
    """Return a hash of everything that decides eligibility; when it changes, every repository is decided again."""
    settings = {name: value for name, value in vars(config).items() if name != "pipeline_tag"}
    return short_hash(canonical_json([RULES_VERSION, settings]))


def _journal(
    workspace: Workspace, source: Source, query: Query, limit: int | None, restart: bool
) -> tuple[Journal, bool]:
    before = Journal.load(journal_path(workspace))
    key = short_hash(canonical_json([query.key, limit, source.name]))
    rules = policy(workspace.config.crawl)
    if before is not None and not before.finished and not restart and (before.query, before.policy) == (key, rules):
        return before, True
    started = now()
    if before is not None:
        merge_files(workspace.catalog_dir, before.crawl)  # it was given up, or killed while it did this itself
    name = f"{started:%Y%m%dT%H%M%S%f}"
    under = rules
    if before is not None:  # a crawl under other rules that did not reach every row leaves some of each
        under = before.decided_under if before.decided_under == before.policy else ""
    journal = Journal(name, key, rules, source.first, started.isoformat(), under)
    journal.save(journal_path(workspace))
    return journal, False
