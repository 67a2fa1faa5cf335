"""What a crawl did, and the funnel from listed to eligible."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from workspace import Outcome, Status, Workspace
from workspace.status import MEANING

_FAILURES = frozenset(status.value for status, meaning in MEANING.items() if meaning.outcome is Outcome.FAILED)


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
    rows = []
    for entry in counts:
        status, repos = Status(entry["values"]), entry["counts"]
        eligible = status is Status.ELIGIBLE
        stage = "" if eligible else MEANING[status].stage
        meaning = "can be probed" if eligible else status.meaning
        rows.append((not eligible, -repos, status.value, stage, repos, repos / total, meaning))
    rows.sort()
    names = ["status", "stage", "repos", "share", "meaning"]
    types = [pa.string(), pa.string(), pa.int64(), pa.float64(), pa.string()]
    return pa.table([pa.array([row[i + 2] for row in rows], kind) for i, kind in enumerate(types)], names=names)
