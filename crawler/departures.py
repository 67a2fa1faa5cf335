"""Repositories that a complete listing no longer names: asked for one by one, because they may be gone or renamed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from crawler.catalog import departed_row
from crawler.decide.repository import Whereabouts, ask_row
from crawler.hub.client import HubClient
from crawler.hub.transport import Deadline
from crawler.known import newest_rows
from crawler.listing.query import Query
from crawler.listing.rows import Listed, MalformedRowError, parse
from crawler.pipeline import Pipeline
from workspace import Outcome, Status, Workspace
from workspace.runs import now

logger = logging.getLogger(__name__)

SECONDS = 180.0  # for one repository


def book_departures(workspace: Workspace, client: HubClient, query: Query, pipeline: Pipeline) -> None:
    """Book what became of every repository that ``query`` should have listed and did not.

    One that is there and still answers the query was made or moved while pages were read: it is decided as if listed.
    """
    missed: list[Listed] = []
    moment = now()
    keys = pipeline.known.missing(pipeline.seen.array())
    for before in newest_rows(workspace, keys) if keys else ():
        named = before["id"], before["author"], before["pipeline_tag"], before["library_name"], before["tags"] or ()
        if before["eligibility"] == Status.MALFORMED_ROW.value or not query.covers(*named):
            continue
        found = ask_row(client, before["id"], Deadline(SECONDS))
        if isinstance(found, Whereabouts):
            if found.status.outcome is Outcome.FAILED:
                logger.warning("%s is no longer listed, and why is not known: %s", before["id"], found.reason)
                continue  # the next crawl asks again
            _book(pipeline, before, moment, found)
            continue
        again = list(_still_listed(found, query))
        missed += again
        if not again:
            elsewhere = Whereabouts(Status.NOT_A_CLASSIFIER, "its author no longer lists it under this task")
            _book(pipeline, before, moment, elsewhere)
    pipeline.decide_missed(missed, moment)
    pipeline.close_books()


def _book(pipeline: Pipeline, before: Mapping[str, Any], moment: datetime, found: Whereabouts) -> None:
    """Add a row, unless the last one says the same: a repository under another task stays there for many crawls."""
    if (before["eligibility"], before["reason"]) != (found.status.value, found.reason):
        pipeline.depart(departed_row(before, moment, found))


def _still_listed(row: object, query: Query) -> Iterator[Listed]:
    try:
        listed = parse(row)
    except MalformedRowError:
        return
    if query.matches(listed):
        yield listed
