"""Rows of the catalog: what a decision, a row that cannot be used, and a repository that left become there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from crawler.decide.inspection import Decision
from crawler.decide.repository import Whereabouts
from crawler.listing.rows import MAX_FILES, Listed, MalformedRowError
from workspace import Status
from workspace.files import canonical_json
from workspace.records import CATALOG
from workspace.reported import of_prose

_INT32 = 2**31 - 1


def row_of(decision: Decision, crawled_at: datetime) -> dict[str, Any]:
    """Return the catalog row of a decision."""
    listed, config, header = decision.listed, decision.config, decision.header
    offer, said = decision.offer, decision.reported or listed.reported or of_prose(decision.card)
    weights = offer.weights if offer else ()
    listed_files = [decision.known.get(file.path, file) for file in listed.files or ()]
    files = [asdict(file) for file in (*listed_files[: MAX_FILES - len(weights)], *weights)]
    return listed_columns(listed) | {
        "model_type": config.model_type if config else None,
        "architectures": list(config.architectures) if config else None,
        "num_labels": min(config.num_labels, _INT32) if config else None,
        "id2label": list(config.labels) if config and config.labels is not None else None,
        "label_quality": config.label_quality.value if config else None,
        "problem_type": config.problem_type if config else None,
        "image_size": config.image_size if config else None,
        "files": files if listed.files is not None else None,
        "weights_ref": offer.ref if offer else None,
        "weights_sha": offer.sha if offer else None,
        "weights_bytes": header.size if header else None,
        "card_summary": decision.card,
        "reported_accuracy": said.accuracy if said else None,
        "reported_on": said.dataset if said else None,
        "reported_by": said.source if said else None,
        "crawled_at": crawled_at,
        "eligibility": decision.status.value,
        "reason": decision.reason,
        "renamed_to": decision.renamed_to,
    }


def malformed_row(error: MalformedRowError, crawled_at: datetime) -> dict[str, Any]:
    """Return the catalog row of a listed row that cannot be used."""
    row: dict[str, Any] = dict.fromkeys(CATALOG.names)
    return row | {
        "id": error.repo_id,
        "sha": "",
        "author": error.repo_id.split("/")[0] if "/" in error.repo_id else None,
        "crawled_at": crawled_at,
        "eligibility": Status.MALFORMED_ROW.value,
        "reason": f"{Status.MALFORMED_ROW.meaning}: {error.reason}",
    }


def departed_row(before: Mapping[str, Any], crawled_at: datetime, whereabouts: Whereabouts) -> dict[str, Any]:
    """Return the row of a repository that is no longer listed: what was known of it, under its new status."""
    end = {"eligibility": whereabouts.status.value, "reason": whereabouts.reason, "renamed_to": whereabouts.renamed_to}
    return {**before, "crawled_at": crawled_at, **end}


def listing_fingerprint(columns: Mapping[str, Any]) -> int:
    """Return a 63-bit hash of the listed columns whose change makes a repository worth another look.

    Counters (downloads, likes) change daily and are not among them. Works on catalog rows and on `listed_columns`.
    """
    seen = [
        columns["sha"], columns["gated"], bool(columns["disabled"]), bool(columns["private"]), columns["pipeline_tag"],
        columns["library_name"], sorted(columns["tags"] or ()),
    ]  # fmt: skip
    return hash63(canonical_json(seen))


def hash63(value: str) -> int:
    """Return the first 63 bits of the sha256 of ``value``: fits a signed 64-bit column."""
    digest = hashlib.sha256(value.encode("utf-8", "backslashreplace")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def listed_columns(listed: Listed) -> dict[str, Any]:
    """Return the columns of the catalog that come from the listing."""
    counted = listed.parameters is not None or listed.total is not None
    return {
        "id": listed.id,
        "sha": listed.sha,
        "author": listed.author,
        "createdAt": listed.created,
        "lastModified": listed.modified,
        "pipeline_tag": listed.pipeline_tag,
        "library_name": listed.library,
        "tags": list(listed.tags),
        "downloads": listed.downloads,
        "likes": listed.likes,
        "private": listed.private,
        "gated": listed.gated,
        "disabled": listed.disabled,
        "license": next(iter(listed.licenses), None),
        "licenses": list(listed.licenses),
        "base_models": list(listed.base_models),
        "safetensors": {"parameters": listed.parameters, "total": listed.total} if counted else None,
    }
