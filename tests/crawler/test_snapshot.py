"""A crawl from a Parquet snapshot: the same decisions, no listing requests."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import crawler
from crawler.listing.pages import Snapshot
from crawler.listing.rows import Query, parse
from hubprobe.demo.server import HubServer
from workspace import Workspace, WorkspaceError

Open = Callable[..., Workspace]
API = ("id", "sha", "createdAt", "pipeline_tag", "library_name", "tags", "gated", "disabled", "siblings")


def snapshot(hub: HubServer, path: Path, columns: tuple[str, ...], extra: int = 0) -> Path:
    rows: list[dict[str, Any]] = []
    for repo in hub.catalog:  # type: ignore[attr-defined]
        record = hub.catalog.record(repo)
        if isinstance(record["sha"], str):
            rows.append({name: record.get(name) for name in columns})
    for row in rows:
        if "gated" in row:
            row["gated"] = str(row["gated"]).lower()  # as hub-stats keeps it
    other = {"id": "text/model-{}", "pipeline_tag": "text-generation"}
    rows += [{**dict.fromkeys(columns), **other, "id": f"text/model-{i}"} for i in range(extra)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def ends(workspace: Workspace) -> dict[str, str]:
    return {row["id"]: row["eligibility"] for row in workspace.catalog(["id", "eligibility"]).to_pylist()}


@pytest.mark.parametrize("columns", [API, ("id", "pipeline_tag", "tags")], ids=["full", "no commits, no files"])
def test_a_snapshot_decides_as_the_listing_does(
    hub: HubServer, open_workspace: Open, tmp_path: Path, columns: tuple[str, ...]
) -> None:
    listed, read = open_workspace(hub.url, "listed"), open_workspace(hub.url, "read")
    crawler.crawl(listed, token=False, progress=False)
    hub.requests.clear()
    path = snapshot(hub, tmp_path / "models.parquet", columns, extra=2_500)
    summary = crawler.crawl(read, token=False, progress=False, source=str(path))
    assert not [asked for asked in hub.requests if asked.target.split("?")[0] == "/api/models"]
    assert summary.finished
    expected = {name: status for name, status in ends(listed).items() if status != "malformed_row"}
    assert ends(read) == expected


def test_pages_of_a_snapshot_can_be_asked_for_again(tmp_path: Path) -> None:
    rows = [{"id": f"a/m{i}", "pipeline_tag": "image-classification", "sha": None} for i in range(2_300)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet", row_group_size=700)
    source = Snapshot(str(tmp_path / "m.parquet"), Query(pipeline_tag="image-classification"), "http://x", None)
    pages, where = [], source.first
    while where is not None:
        page = source.page(where)
        pages.append((where, [row["id"] for row in page.rows]))
        where = page.next  # type: ignore[assignment]
    assert [len(names) for _, names in pages] == [1000, 1000, 300]
    assert [name for _, names in pages for name in names] == [row["id"] for row in rows]
    again = Snapshot(str(tmp_path / "m.parquet"), Query(), "http://x", None)
    assert [row["id"] for row in again.page(pages[1][0]).rows] == pages[1][1]


NUMBERS = {
    "float64 beside NaN": pa.array([12.0, float("nan")]),
    "float32": pa.array([12.0, None], pa.float32()),
    "decimal": pa.array([Decimal("12.00"), None]),
    "uint64": pa.array([12, 2**64 - 1], pa.uint64()),
    "int16": pa.array([12, None], pa.int16()),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_any_type_are_read(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = pa.table({"id": ["a/x", "a/y"], "downloads": NUMBERS[name], "likes": NUMBERS[name]})
    pq.write_table(table, tmp_path / "m.parquet")
    rows = Snapshot(str(tmp_path / "m.parquet"), Query(), "http://x", None).page("row:0").rows
    assert [(parse(row).downloads, parse(row).likes) for row in rows] == [(12, 12), (None, None)]
    assert caplog.text == ""


def test_times_flags_and_counts_of_other_types(tmp_path: Path) -> None:
    day = date(2024, 5, 6)
    table = pa.table(
        {
            "id": ["a/x"],
            "createdAt": pa.array([day]),
            "lastModified": pa.array([datetime(2024, 5, 6)], pa.timestamp("ns")),
            "private": pa.array([0.0]),
            "disabled": pa.array([True]),
            "safetensors": [{"parameters": {"F32": 3.0, "I64": None}, "total": 3.0}],
        }
    )
    pq.write_table(table, tmp_path / "m.parquet")
    (row,) = Snapshot(str(tmp_path / "m.parquet"), Query(), "http://x", None).page("row:0").rows
    found = parse(row)
    assert found.created == found.modified == datetime(2024, 5, 6, tzinfo=timezone.utc)
    assert (found.private, found.disabled, found.parameters, found.total) == (False, True, (("F32", 3),), 3)


def test_a_column_that_cannot_be_used_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    odd = {"id": ["a/x"], "downloads": ["many"], "tags": ["one, two"], "siblings": [3], "sha": pa.nulls(1)}
    pq.write_table(pa.table(odd), tmp_path / "m.parquet")
    source = Snapshot(str(tmp_path / "m.parquet"), Query(pipeline_tag="image-classification"), "http://x", None)
    assert source.page("row:0").rows == [{"id": "a/x"}]
    for name in ("downloads", "tags", "siblings"):
        assert f"{name} (" in caplog.text
    assert "sha" not in caplog.text
    pq.write_table(pa.table({"id": [5]}), tmp_path / "n.parquet")
    with pytest.raises(WorkspaceError, match="id"):
        Snapshot(str(tmp_path / "n.parquet"), Query(), "http://x", None)


def test_what_is_no_snapshot_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("not parquet")
    pq.write_table(pa.table({"name": ["x"]}), tmp_path / "other.parquet")
    for name in ("text.parquet", "other.parquet", "absent.parquet"):
        with pytest.raises(WorkspaceError, match=name):
            Snapshot(str(tmp_path / name), Query(), "http://x", None)
