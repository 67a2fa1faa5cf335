"""Fetching: pinned, verified, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import crawler
from hubprobe.demo import unhealthy
from hubprobe.demo.repository import Repo
from hubprobe.demo.server import HubServer
from workspace import ModelError, Status, Workspace

Open = Callable[..., Workspace]


def rows_of(workspace: Workspace) -> dict[str, dict[str, Any]]:
    crawler.crawl(workspace, token=False, progress=False)
    return {row["id"]: row for row in workspace.catalog().to_pylist()}


def test_brings_exactly_the_files_of_a_probe(hub: HubServer, home: Repo, open_workspace: Open) -> None:
    workspace = open_workspace(hub.url)
    row = rows_of(workspace)[home.id]
    with_token = crawler.Fetcher(workspace, token="hf_secret")
    fetched = with_token(row)
    names = sorted(path.name for path in fetched.folder.iterdir())
    assert names == ["config.json", "model.safetensors", "preprocessor_config.json"]
    for name in names:
        wanted = home.files[name]
        assert (fetched.folder / name).read_bytes() == wanted.content.read(0, wanted.size)
    assert fetched.bytes_fetched == sum(home.files[name].size for name in names)
    assert not any(asked.has_token for asked in hub.requests if asked.bucket == "cdn")
    fetched.release()
    fetched.release()
    hub.requests.clear()
    with_token(row).release()
    assert len(hub.requests) == 0


def test_a_row_without_hashes_is_completed_first(hub: HubServer, home: Repo, open_workspace: Open) -> None:
    workspace = open_workspace(hub.url)
    row = rows_of(workspace)[home.id]
    bare = [{"path": file["path"], "size": None, "oid": None, "sha256": None} for file in row["files"]]
    fetched = crawler.Fetcher(workspace, token=False)({**row, "files": bare})
    assert (fetched.folder / "model.safetensors").exists()


def test_other_content_of_the_same_length_is_never_handed_on(hub: HubServer, open_workspace: Open) -> None:
    workspace = open_workspace(hub.url)
    row = rows_of(workspace)[unhealthy.repo_id(Status.CORRUPT_FILE)]
    assert row["eligibility"] == "eligible"
    with pytest.raises(ModelError) as caught:
        crawler.Fetcher(workspace, token=False)(row)
    assert (caught.value.status, caught.value.repo_id) == (Status.CORRUPT_FILE, row["id"])
    assert not list(workspace.cache_dir.rglob("model.safetensors"))


@pytest.mark.parametrize("keep", [True, False])
def test_released_files_stay_or_go(hub: HubServer, home: Repo, open_workspace: Open, keep: bool) -> None:
    workspace = open_workspace(hub.url)
    fetched = crawler.Fetcher(workspace, token=False, keep=keep)(rows_of(workspace)[home.id])
    fetched.release()
    assert fetched.folder.exists() is keep
