from datetime import datetime, timezone

import pyarrow as pa
import pytest

from hubprobe import plots
from hubprobe.front import status
from hubprobe.machine import as_arguments
from workspace import MissingStepError, Status, Workspace, records
from workspace.files import write_table

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


def fill(workspace: Workspace, ends: dict[str, tuple[str, str | None]]) -> None:
    """Write a catalog and attempts: repository -> (eligibility, status of its last attempt or None)."""
    catalog, attempts = [], []
    for name, (eligibility, end) in ends.items():
        about = {"id": name, "sha": "0" * 40, "crawled_at": NOW, "eligibility": eligibility, "reason": ""}
        catalog.append(about)
        if end is not None:
            row = {"repo_id": name, "sha": "0" * 40, "attempt": 1, "outcome": Status(end).outcome.value, "status": end}
            attempts.append({**row, "reason": "", "started_at": NOW})
    write_table(workspace.catalog_dir / "a.parquet", pa.Table.from_pylist(catalog, records.CATALOG))
    write_table(workspace.attempts_dir / "a.parquet", pa.Table.from_pylist(attempts, records.ATTEMPTS))


def test_every_listed_repository_is_counted_once(tmp_path):
    workspace = Workspace.create(tmp_path / "w")
    fill(
        workspace,
        {
            "a/ok": ("eligible", "ok"),
            "a/broken": ("eligible", "timeout"),
            "a/gated": ("gated", "gated"),
            "a/waits": ("eligible", None),
            "a/not-yet-booked": ("adapter", None),
        },
    )
    report = status(workspace)
    assert (report.listed, report.eligible, report.waiting) == (5, 3, 2)
    assert report.attempted == report.ok + report.skipped + report.failed == 3
    assert (report.ok, report.skipped, report.failed) == (1, 1, 1)
    assert [(r["outcome"], r["status"]) for r in report.by_status] == [
        ("ok", "ok"), ("failed", "timeout"), ("skipped", "gated"), ("waiting", "adapter"), ("waiting", "eligible"),
    ]  # fmt: skip
    plots.funnel(report, tmp_path / "funnel.svg")
    drawn = (tmp_path / "funnel.svg").read_text(encoding="utf-8")
    assert drawn.count("<g id=") > 10


def test_an_attempt_at_an_earlier_commit_does_not_count(tmp_path):
    workspace = Workspace.create(tmp_path / "w")
    fill(workspace, {"a/m": ("eligible", "ok")})
    newer = {"id": "a/m", "sha": "1" * 40, "crawled_at": NOW.replace(day=2), "eligibility": "eligible", "reason": ""}
    write_table(workspace.catalog_dir / "b.parquet", pa.Table.from_pylist([newer], records.CATALOG))
    report = status(workspace)
    assert (report.listed, report.attempted, report.waiting) == (1, 0, 1)


def test_nothing_crawled_names_the_verb(tmp_path):
    with pytest.raises(MissingStepError, match="hubprobe crawl"):
        status(Workspace.create(tmp_path / "w"))


def test_options_become_a_command_line():
    given = {"limit": 3, "max_disk": 0.5, "keep": True, "no_isolate": False, "retry": None, "quiet": True}
    assert as_arguments(given) == ["--limit", "3", "--max-disk", "0.5", "--keep", "--quiet"]
