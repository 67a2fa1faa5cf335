"""``hubprobe crawl``: list the Hub's image classifiers, decide each, and keep the catalog."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from huggingface_hub import get_token

from crawler import estimate
from crawler.architectures import Architectures
from crawler.client import HubClient
from crawler.inspection import Inspector
from crawler.journal import Journal
from crawler.known import Known
from crawler.listing import Listing
from crawler.pipeline import Pipeline
from crawler.query import PAGE, Query
from crawler.source import Source
from crawler.summary import CrawlSummary
from workspace import CrawlConfig, Workspace
from workspace.files import canonical_json, short_hash
from workspace.runs import new_run_id, now, versions

logger = logging.getLogger(__name__)

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
        restart: begin anew although an interrupted crawl could go on.
        dry_run: read and judge the listing only, write nothing, and say what a crawl would take.
        progress: show progress on stderr.

    Raises:
        HubError: the listing cannot be had; what was decided is kept.
    """
    started = time.monotonic()
    config = workspace.config
    task = config.crawl.pipeline_tag if pipeline_tag is None else pipeline_tag
    query = Query(task or None, author, library, search, tuple(tags))
    client = HubClient(config.endpoint, resolve_token(token))
    first = query.url(config.endpoint, min(PAGE, limit) if limit else PAGE)
    source: Source = Listing(client, first)
    inspector = Inspector(client, config.crawl, lazy_architectures(workspace))
    if dry_run:
        summary = CrawlSummary("dry run")
        known = Known.load(workspace)
        estimate.dry_run(client, source, query, inspector, known, summary, limit=limit, progress=progress)
        _close(client, summary, started)
        return summary
    journal, resumed = _journal(workspace, source, query, limit, restart)
    summary = CrawlSummary(journal.crawl, resumed=resumed)
    pipeline = Pipeline(workspace, source, query, inspector, journal, summary, limit=limit, progress=progress)
    try:
        pipeline.run()
        journal.finished = summary.finished = True
        pipeline.seen.remove()
    finally:
        for name, sent in client.requests.items():
            journal.requests[name] = journal.requests.get(name, 0) + sent
        journal.save(journal_path(workspace))
        _close(client, summary, started)
    run = {"query": query.as_dict(), "limit": limit, "summary": vars(summary), "versions": versions()}
    workspace.manifest(new_run_id("crawl"), {"verb": "crawl", "started": journal.started, **run})
    return summary


def lazy_architectures(workspace: Workspace) -> Callable[[], Architectures]:
    """Return a function that asks transformers and timm once, however many threads call it first."""
    lock = threading.Lock()
    known = cache(lambda: Architectures.load(workspace.cache_dir))

    def ask() -> Architectures:
        with lock:
            return known()

    return ask


def _close(client: HubClient, summary: CrawlSummary, started: float) -> None:
    client.close()
    summary.requests, summary.retries = dict(client.requests), client.retries.count
    summary.seconds = time.monotonic() - started


def resolve_token(token: str | bool | None) -> str | None:
    """Return the token to send: the one given, the machine's own for None or True, none for False."""
    if token is False:
        return None
    return token if isinstance(token, str) else get_token()


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
    journal = Journal(f"{started:%Y%m%dT%H%M%S%f}", key, rules, source.first, started.isoformat())
    journal.save(journal_path(workspace))
    return journal, False
