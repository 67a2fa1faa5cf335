"""How far a workspace has come: every listed repository in exactly one row, by how it ended."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from workspace import MissingStepError, Outcome, Status, Workspace
from workspace.files import num_rows, table_files

HOLE = "probed, but its responses are gone or damaged: the next 'hubprobe probe' runs it again"
"""What is said of models that are holes; see `workspace.holes`."""


@dataclass(frozen=True)
class StatusReport:
    """Counts over the newest catalog row and the last attempt of every repository.

    Attributes:
        listed: repositories in the catalog.
        eligible: those the crawler found fit to be probed.
        attempted: models with an attempt row; always ``ok + skipped + failed``.
        ok: probed.
        skipped: not run, for a reason known beforehand.
        failed: tried, without responses.
        waiting: listed, not attempted yet, or probed with responses that are gone or damaged since.
        holes: the latter of those waiting; the next ``probe`` runs them again.
        by_status: one dict per status present: ``outcome``, ``status``, ``repositories``, ``meaning``.
        logits: searchable logits in the descriptors.
        converted: of the eligible, those whose weights are taken from a conversion bot's pull request.
    """

    listed: int
    eligible: int
    attempted: int
    ok: int
    skipped: int
    failed: int
    waiting: int
    logits: int
    by_status: list[dict[str, Any]]
    holes: int = 0
    converted: int = 0


def status(workspace: Workspace) -> StatusReport:
    """Count a workspace's repositories by status. Raises `MissingStepError` when nothing was crawled."""
    catalog = workspace.catalog(["id", "sha", "eligibility", "weights_ref"]).to_pylist()
    last = {(a["repo_id"], a["sha"]): a["status"] for a in workspace.attempts(["repo_id", "sha", "status"]).to_pylist()}
    holes = _holes(workspace)
    again = sum((row["id"], row["sha"]) in holes for row in catalog)
    for key in holes:
        del last[key]
    # Attempts at earlier commits stay in the table; a repository counts once, by the commit its catalog row names.
    ends = Counter(last[key] for row in catalog if (key := (row["id"], row["sha"])) in last)
    left = [row for row in catalog if (row["id"], row["sha"]) not in last]
    waiting = Counter(row["eligibility"] for row in left if (row["id"], row["sha"]) not in holes)
    outcomes = Counter[Outcome]()
    for value, count in ends.items():
        outcomes[Status(value).outcome] += count
    rows = [_row(Status(value), count) for value, count in ends.items()]
    rows += [_row(Status(value), count, waiting=True) for value, count in waiting.items()]
    if again:
        rows.append({"outcome": "waiting", "status": "hole", "repositories": again, "meaning": HOLE})
    order = {"ok": 0, "failed": 1, "skipped": 2, "waiting": 3}
    rows.sort(key=lambda row: (order[row["outcome"]], -row["repositories"], row["status"]))
    return StatusReport(
        listed=len(catalog),
        eligible=sum(row["eligibility"] == "eligible" for row in catalog),
        attempted=sum(ends.values()),
        ok=outcomes[Outcome.OK],
        skipped=outcomes[Outcome.SKIPPED],
        failed=outcomes[Outcome.FAILED],
        waiting=len(left),
        holes=again,
        converted=sum(row["eligibility"] == "eligible" and row["weights_ref"] is not None for row in catalog),
        logits=_logits(workspace),
        by_status=rows,
    )


def _row(value: Status, count: int, *, waiting: bool = False) -> dict[str, Any]:
    if waiting:
        meaning = "not attempted yet" if value is Status.ELIGIBLE else value.meaning
        return {"outcome": "waiting", "status": value.value, "repositories": count, "meaning": meaning}
    return {"outcome": value.outcome.value, "status": value.value, "repositories": count, "meaning": value.meaning}


def _holes(workspace: Workspace) -> dict[tuple[str, str], str]:
    try:
        return workspace.holes()
    except MissingStepError:  # no probe set: nothing was probed
        return {}


def _logits(workspace: Workspace) -> int:
    try:
        folder = workspace.descriptors_dir(workspace.probe_set)
    except MissingStepError:
        return 0
    return sum(num_rows(path) for path in table_files(folder))
