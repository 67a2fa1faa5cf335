"""A workspace that somebody else made: its journal and the links in it lead no crawl and no fetch out of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import crawler
from crawler.listing.query import Query
from crawler.listing.snapshot import Snapshot
from hubprobe.demo.repository import Repo
from hubprobe.demo.server import HubServer
from workspace import HubError, Workspace, WorkspaceError, model_file_name
from workspace.files import write_table

Open = Callable[..., Workspace]


@pytest.fixture
def hub(home: Repo) -> Iterator[HubServer]:
    with HubServer([home]) as server:
        yield server


@pytest.fixture
def left(hub: HubServer, open_workspace: Open) -> Workspace:
    """A workspace whose crawl was interrupted, by its journal."""
    workspace = open_workspace(hub.url)
    crawler.crawl(workspace, token=False, progress=False)
    change(workspace, finished=False)
    return workspace


def change(workspace: Workspace, **fields: Any) -> None:
    path = workspace.catalog_dir / "journal.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"crawl": "../../outside/x"}, {"crawl": "/tmp/x"}, {"crawl": 7}, {"crawl": ""}, {"seen": -1}, {"seen": 10**30},
        {"seen": "x"}, {"listed": None}, {"pages": 1.5}, {"requests": []}, {"requests": {"api": "x"}}, {"next": 5},
        {"query": []}, {"finished": "no"}, {"started": {}}, {"decided_under": 1},
    ],
)  # fmt: skip
def test_a_journal_is_one_or_is_named(left: Workspace, tmp_path: Path, fields: dict[str, Any]) -> None:
    (tmp_path / "outside").mkdir()
    change(left, **fields)
    with pytest.raises(WorkspaceError, match="no journal of a crawl"):
        crawler.crawl(left, token=False, progress=False)
    assert not list((tmp_path / "outside").iterdir())


def test_a_journal_cannot_ask_another_host(left: Workspace, hub: HubServer) -> None:
    with HubServer([]) as elsewhere:
        for page in (f"{elsewhere.url}/api/models?limit=1000", "file:///etc/passwd", "x"):
            change(left, next=page)
            with pytest.raises(HubError, match="--restart"):
                crawler.crawl(left, token=False, progress=False)
        assert not len(elsewhere.requests)
    assert crawler.crawl(left, token=False, progress=False, restart=True).finished


def test_more_seen_ids_than_there_are_make_no_file_of_them(left: Workspace) -> None:
    change(left, seen=2**40)
    assert crawler.crawl(left, token=False, progress=False).finished
    assert sum(path.stat().st_size for path in left.catalog_dir.iterdir()) < 10**6


@pytest.mark.parametrize("name", [".seen-{}", ".tmp-pending-{}", "journal.json", ".lock", "new.parquet"])
def test_a_crawl_writes_through_no_link(left: Workspace, tmp_path: Path, name: str) -> None:
    journal = json.loads((left.catalog_dir / "journal.json").read_text())
    outside = tmp_path / "outside"
    outside.write_text("mine")
    place = left.catalog_dir / name.format(journal["crawl"])
    place.unlink(missing_ok=True)
    place.symlink_to(outside)
    with pytest.raises(WorkspaceError):
        crawler.crawl(left, token=False, progress=False)
    assert outside.read_text() == "mine"


def test_a_crawl_merges_no_files_of_others(left: Workspace, tmp_path: Path) -> None:
    moved = tmp_path / "outside"
    left.catalog_dir.rename(moved)
    left.catalog_dir.symlink_to(moved)
    before = {path.name: path.read_bytes() for path in moved.iterdir() if path.suffix == ".parquet"}
    with pytest.raises(WorkspaceError, match="leads out of the workspace"):
        crawler.crawl(left, token=False, progress=False)
    assert {path.name: path.read_bytes() for path in moved.iterdir() if path.suffix == ".parquet"} == before


@pytest.mark.parametrize("kind", ["link to a file", "hard link", "pipe", "link to a folder", "folder"])
def test_a_fetch_writes_to_files_of_its_own(left: Workspace, home: Repo, tmp_path: Path, kind: str) -> None:
    (row,) = [row for row in left.catalog().to_pylist() if row["id"] == home.id]
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("mine")
    folder = left.cache_dir / "models" / model_file_name(row["id"], row["sha"])
    part = folder / "config.json.part"
    folder.parent.mkdir(parents=True)
    if kind == "link to a folder":
        folder.symlink_to(outside)
    else:
        folder.mkdir()
    if kind == "link to a file":
        part.symlink_to(outside / "mine")
    elif kind == "hard link":
        os.link(outside / "mine", part)
    elif kind == "pipe":
        os.mkfifo(part)
    elif kind == "folder":
        (part / "x").mkdir(parents=True)
    fetched = crawler.Fetcher(left, token=False)(row)
    wanted = home.files["config.json"]
    assert (fetched.folder / "config.json").read_bytes() == wanted.content.read(0, wanted.size)
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"mine": "mine"}


@pytest.mark.parametrize("page", ["row:x", "row:-1", "5", "row:" + "9" * 5_000, ""])
def test_a_snapshot_is_read_from_a_row(tmp_path: Path, page: str) -> None:
    write_table(tmp_path / "x.parquet", pa.table({"id": ["a/b"]}))
    with pytest.raises(HubError, match="--restart"):
        Snapshot(str(tmp_path / "x.parquet"), Query(), "https://hub.example", None).page(page)
