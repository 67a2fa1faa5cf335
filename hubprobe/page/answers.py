"""From a question to records: what the page draws, and what the API hands out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubprobe.page.asked import Asked
from workspace import QueryError
from workspace.text import printable

if TYPE_CHECKING:
    from hubprobe.page.opened import Current, Opened
    from search import Query
    from search.text.calibration import Coverage

_COLUMNS = (
    "rank", "score", "found_by", "repo_id", "sha", "logit", "label", "library_name", "license", "downloads",
    "parameters", "label_quality", "family", "copies",
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What was found.

    Attributes:
        hits: records, best first: the columns above, ``row`` (its position), ``names`` and ``evidence``.
        coverage: how sure one can be; None where that is not known: images, logits, other scorings.
        seconds: from the question to the records.
    """

    hits: list[dict[str, Any]]
    coverage: Coverage | None
    seconds: float


def answer(current: Current, opened: Opened, asked: Asked) -> Answer:
    """Answer a question; raises `QueryError` for one that cannot be answered."""
    started = time.perf_counter()
    query = prepared(current, opened, asked)
    hits = records(opened, query.by(asked.by).limit(asked.n))
    sure = None
    if asked.kind == "text" and query.scoring == "bridged" and query.descriptor.signs is not None:
        sure = query.coverage()
    return Answer(hits, sure, time.perf_counter() - started)


def prepared(current: Current, opened: Opened, asked: Asked) -> Query:
    """Return the query of a question with its filters, before `by` and `limit`."""
    if asked.kind == "text":
        query = opened.index.search(asked.q)
    elif asked.kind == "like":
        query = opened.index.similar(asked.like, int(asked.logit or 0))
    elif asked.kind == "image":
        query = opened.index.search(current.image(asked.image).descriptor)
    else:
        raise QueryError("there is nothing to search for: write what to find, or choose an example image")
    condition = asked.condition()
    return query.where(condition) if condition else query


def records(opened: Opened, query: Query) -> list[dict[str, Any]]:
    """Run a query and return its hits with suggested names and evidence."""
    table = query.to_arrow()
    found: list[dict[str, Any]] = table.select([name for name in _COLUMNS if name in table.column_names]).to_pylist()
    gallery = opened.index.gallery
    for hit in found:
        hit["row"] = gallery.row(hit["repo_id"], hit["logit"], hit["sha"])
    names = opened.names.of([hit["row"] for hit in found])
    for hit in found:
        hit["names"] = names.get(hit["row"], [])
        hit["evidence"] = opened.strips.strongest(hit["row"])
    return found


def plain(opened: Opened, hit: dict[str, Any]) -> dict[str, Any]:
    """Return a hit as JSON can carry it, for the API: labels and captions on one line, without control characters."""
    best = hit["names"][0] if hit["names"] else None
    kept = {key: value for key, value in hit.items() if key not in ("row", "names", "evidence")}
    return kept | {
        "label": printable(hit["label"], 200) if hit["label"] is not None else None,
        "name": printable(best.name, 200) if best else None,
        "name_confidence": round(best.confidence, 3) if best else None,
        "name_source": best.source if best else None,
        "evidence": [
            {
                "probe_id": one.probe,
                "caption": printable(one.caption, 200),
                "strength": round(one.strength, 2),
                "image": f"probe/{opened.strips.probe_set}/{one.probe}.webp",
            }
            for one in hit["evidence"]
        ],
    }
