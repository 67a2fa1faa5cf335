"""Repositories that a complete listing no longer names: asked for one by one, because they may be gone or renamed."""

from __future__ import annotations

import logging
from dataclasses import replace

from crawler.decide.repository import Whereabouts, ask_row
from crawler.hub.client import HubClient
from crawler.hub.transport import Deadline
from crawler.listing.query import Query
from crawler.listing.rows import Listed, MalformedRowError, parse
from crawler.pipeline import Pipeline
from crawler.state import CrawlState
from workspace import Outcome, Status
from workspace.runs import now

logger = logging.getLogger(__name__)

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
