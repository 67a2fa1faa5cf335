"""A workspace that somebody else made: its journal and the links in it lead no crawl and no fetch out of it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import crawler
from crawler.listing.pages import Snapshot
from crawler.listing.rows import Query
from crawler.state import FILE
from hubprobe.demo.repository import Repo
from hubprobe.demo.server import HubServer
from tests.hubs.faults import Fault, Faults, status
from workspace import HubError, Workspace, WorkspaceError, model_file_name
from workspace.files import write_json, write_table

Open = Callable[..., Workspace]


@pytest.fixture
def hub(home: Repo, make_repo: Callable[..., Repo]) -> Iterator[HubServer]:
    with HubServer([home, make_repo("acme/other")], page_size=1, intercept=Faults()) as server:
        yield server


@pytest.fixture
def left(hub: HubServer, open_workspace: Open) -> Workspace:
    """A workspace whose crawl was interrupted."""
    workspace = open_workspace(hub.url)
    assert isinstance(hub.intercept, Faults)
    hub.intercept.add(Fault(status(404), match="GET /api/models.*cursor", times=None))
    with pytest.raises(HubError):
        crawler.crawl(workspace, token=False, progress=False)
    hub.intercept.clear()
    return workspace


def change(workspace: Workspace, **fields: Any) -> None:
    with closing(sqlite3.connect(workspace.catalog_dir / FILE)) as state:
        for name, value in fields.items():
            state.execute(f"UPDATE crawl SET {name} = ?", (value,))
        state.commit()


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "../../outside/x"}, {"name": "/tmp/x"}, {"name": None}, {"name": ""}, {"parts": -1}, {"parts": "x"},
        {"listed": None}, {"listed": 1.5}, {"next": b"x"}, {"started": None}, {"policy": None},
    ],
)  # fmt: skip
def test_a_state_is_one_or_is_named(left: Workspace, tmp_path: Path, fields: dict[str, Any]) -> None:
    (tmp_path / "outside").mkdir()
    change(left, **fields)
    with pytest.raises(WorkspaceError, match=r"crawl\.sqlite"):
        crawler.crawl(left, token=False, progress=False)
    assert not list((tmp_path / "outside").iterdir())


@pytest.mark.parametrize("name", ["../../outside/x", "/tmp/x", "", 7])
def test_a_journal_of_an_earlier_version_names_a_crawl(left: Workspace, name: object) -> None:
    (left.catalog_dir / FILE).unlink()
    write_json(left.catalog_dir / "journal.json", {"crawl": name, "policy": "x", "finished": False})
    with pytest.raises(WorkspaceError, match=r"journal\.json"):
        crawler.crawl(left, token=False, progress=False)


def test_a_state_cannot_ask_another_host(left: Workspace, hub: HubServer) -> None:
    with HubServer([]) as elsewhere:
        for page in (f"{elsewhere.url}/api/models?limit=1000", "file:///etc/passwd", "x"):
            change(left, next=page)
            with pytest.raises(HubError, match="--restart"):
                crawler.crawl(left, token=False, progress=False)
        assert not len(elsewhere.requests)
    assert crawler.crawl(left, token=False, progress=False, restart=True).finished


@pytest.mark.parametrize("name", [FILE, f"{FILE}-wal", "journal.json", ".lock", "new.parquet"])
def test_a_crawl_writes_through_no_link(left: Workspace, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    place = left.catalog_dir / name
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
    crawler.crawl(left, token=False, progress=False)
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
