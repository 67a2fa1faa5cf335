"""Fetching: pinned, verified, whole or not at all."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import crawler
from crawler.fetcher import PART
from crawler.hub import client
from hubprobe.demo import tiny, unhealthy
from hubprobe.demo.repository import Repo
from hubprobe.demo.server import HubServer
from tests.hubs import faults
from tests.hubs.faults import Fault
from workspace import ModelError, Status, Workspace

Open = Callable[..., Workspace]


def rows_of(workspace: Workspace) -> dict[str, dict[str, Any]]:
    crawler.crawl(workspace, token=False, progress=False)
    return {row["id"]: row for row in workspace.catalog().to_pylist()}


PROBED = ("config.json", "model.safetensors", "preprocessor_config.json")


def read(repo: Repo, name: str) -> bytes:
    """What a repository holds under a name."""
    return repo.files[name].content.read(0, repo.files[name].size)


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_brings_exactly_the_files_of_a_probe(hub: HubServer, home: Repo, open_workspace: Open) -> None:
    workspace = open_workspace(hub.url)
    row = rows_of(workspace)[home.id]
    with_token = crawler.Fetcher(workspace, token="hf_secret")
    fetched = with_token(row)
    assert content_of(fetched.folder) == {name: read(home, name) for name in PROBED}
    assert fetched.bytes_fetched == sum(home.files[name].size for name in PROBED)
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
    assert content_of(fetched.folder) == {name: read(home, name) for name in PROBED}
    lying = rows_of(workspace)[unhealthy.repo_id(Status.CORRUPT_FILE)]
    bare = [{"path": file["path"], "size": None, "oid": None, "sha256": None} for file in lying["files"]]
    with pytest.raises(ModelError) as caught:  # the hashes that were asked for are held against what comes
        crawler.Fetcher(workspace, token=False)({**lying, "files": bare})
    assert caught.value.status is Status.CORRUPT_FILE


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


def left(workspace: Workspace) -> list[str]:
    """What the cache holds of models, locks aside."""
    folder = workspace.cache_dir / "models"
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")


def _longer(request: Any, answer: Any) -> Any:
    response = answer(request)
    return response.__class__(response.status, bytes(10**6), [h for h in response.headers if h[0] != "Content-Length"])


ENDS_FOR_GOOD = {
    "other content": (faults.corrupt(), "cdn", Status.CORRUPT_FILE),
    "longer than stated": (_longer, "cdn", Status.CORRUPT_FILE),
    "gated since": (faults.status(403, [("X-Error-Code", "GatedRepo")]), "m/resolve/.*safetensors", Status.GATED),
    "gone": (faults.status(404, [("X-Error-Code", "EntryNotFound")]), "m/resolve/.*safetensors", Status.FILE_MISSING),
}


@pytest.mark.parametrize("name", ENDS_FOR_GOOD)
def test_a_failed_fetch_leaves_no_file(name: str, make_repo: Callable[..., Repo], open_workspace: Open) -> None:
    action, where, status = ENDS_FOR_GOOD[name]
    harm = faults.Faults()
    with HubServer([make_repo("acme/m")], intercept=harm) as server:
        workspace = open_workspace(server.url)
        row = rows_of(workspace)["acme/m"]
        bucket = where if where == "cdn" else None
        harm.add(Fault(action, match="." if bucket else where, bucket=bucket, times=None))
        fetcher = crawler.Fetcher(workspace, token=False)
        with pytest.raises(ModelError) as caught:
            fetcher(row)
        assert caught.value.status is status
        assert left(workspace) == []
        harm.clear()
        assert (fetcher(row).folder / "model.safetensors").stat().st_size == row["weights_bytes"]


def test_a_fetch_that_may_go_on_keeps_parts_and_no_file_under_its_name(
    make_repo: Callable[..., Repo], open_workspace: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PATIENCE_SECONDS", -1.0)
    harm = faults.Faults()
    with HubServer([make_repo("acme/m")], intercept=harm) as server:
        workspace = open_workspace(server.url)
        row = rows_of(workspace)["acme/m"]
        harm.add(Fault(faults.cut(after=40_000), match="GET /repos/.*", bucket="cdn", times=None))
        with pytest.raises(ModelError) as caught:
            crawler.Fetcher(workspace, token=False)(row)
        assert caught.value.status is Status.NETWORK_ERROR
        assert left(workspace)
        assert all(name.endswith(".part") for name in left(workspace))


def sharded(name: str, index: Any, shards: dict[str, bytes]) -> Repo:
    files = {path: data for path, data in tiny.files().items() if path != "model.safetensors"}
    return Repo.of(name, files | {"model.safetensors.index.json": json.dumps(index).encode()} | shards)


WEIGHTS = tiny.files()["model.safetensors"]
TRUNCATED = {
    "no byte": {"model.safetensors": b""},
    "one byte": {"model.safetensors": b"\x08"},
    "a length alone": {"model.safetensors": WEIGHTS[:8]},
    "half a header": {"model.safetensors": WEIGHTS[:100]},
    "all but a byte": {"model.safetensors": WEIGHTS[:-1]},
}


@pytest.mark.parametrize("answers", [None, 416])
@pytest.mark.parametrize("name", TRUNCATED)
def test_weights_without_their_bytes_are_truncated(
    name: str, answers: int | None, make_repo: Callable[..., Repo], open_workspace: Open
) -> None:
    def no_range(bucket: str, request: Any, answer: Any) -> Any:
        empty = name == "no byte" and "range" in request.headers and request.target.startswith("/repos/")
        return faults.status(416)(request, answer) if answers and empty else answer(request)

    repo = Repo.of("acme/m", tiny.files() | TRUNCATED[name])
    with HubServer([repo], intercept=no_range) as server:
        workspace = open_workspace(server.url)
        row = rows_of(workspace)["acme/m"]
        assert (row["eligibility"], bool(row["reason"])) == ("truncated_weights", True)


def test_every_shard_is_brought_and_nothing_else(open_workspace: Open) -> None:
    tensors = tiny.weights()
    first = dict(list(tensors.items())[:5])
    parts = {"model-1-of-2.safetensors": first, "model-2-of-2.safetensors": {**tensors}}
    for name in first:
        del parts["model-2-of-2.safetensors"][name]
    shards = {path: tiny.safetensors(held) for path, held in parts.items()}
    index = {"weight_map": {name: path for path, held in parts.items() for name in held}}
    repo = sharded("acme/m", index, shards | {"unnamed.safetensors": WEIGHTS})
    with HubServer([repo]) as server:
        workspace = open_workspace(server.url)
        row = rows_of(workspace)["acme/m"]
        assert (row["eligibility"], row["weights_bytes"]) == ("eligible", sum(map(len, shards.values())))
        fetcher = crawler.Fetcher(workspace, token=False, keep=False)
        fetched = fetcher(row)
        wanted = {*shards, "model.safetensors.index.json", "config.json", "preprocessor_config.json"}
        assert content_of(fetched.folder) == {name: read(repo, name) for name in wanted}
        fetched.release()
        server.intercept = faults.Faults(Fault(faults.corrupt(), bucket="cdn", times=None))
        with pytest.raises(ModelError) as caught:
            fetcher(row)
        assert caught.value.status is Status.CORRUPT_FILE
        assert left(workspace) == []


def test_a_full_disk_is_not_held_against_the_model(
    hub: HubServer, home: Repo, open_workspace: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = open_workspace(hub.url)
    row = rows_of(workspace)[home.id]
    fetcher = crawler.Fetcher(workspace, token=False)
    opened = Path.open

    def full(path: Path, mode: str = "r", **options: Any) -> Any:
        if "w" in mode and path.name.endswith(PART):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return opened(path, mode, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(ModelError) as caught:
            fetcher(row)
    assert (caught.value.status, caught.value.repo_id) == (Status.DISK_FULL, home.id)
    assert "no space for" in caught.value.reason
    assert left(workspace) == []
    assert content_of(fetcher(row).folder) == {name: read(home, name) for name in PROBED}


def test_shards_without_a_byte_are_truncated_weights(open_workspace: Open) -> None:
    index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    repo = sharded("acme/m", index, {"model-1-of-2.safetensors": WEIGHTS, "model-2-of-2.safetensors": b""})
    with HubServer([repo]) as server:
        workspace = open_workspace(server.url)
        row = rows_of(workspace)["acme/m"]
        assert row["eligibility"] == "truncated_weights"
        with pytest.raises(ModelError) as caught:
            crawler.Fetcher(workspace, token=False)(row)
        assert caught.value.status is Status.TRUNCATED_WEIGHTS
        assert left(workspace) == []


@pytest.mark.parametrize(
    "shard",
    ["../../model.safetensors", "sub/model.safetensors", "/etc/passwd.safetensors", "https://hub.example/m.safetensors",
     "..\\m.safetensors", "m.bin", "m.safetensors\n", "", 5, None, "config.json", "a" * 300 + ".safetensors"],
)  # fmt: skip
def test_an_index_that_names_what_lies_elsewhere_is_refused_and_does_not_stay(shard: Any, open_workspace: Open) -> None:
    repo = sharded("acme/m", {"weight_map": {"a": shard}}, {"m.safetensors": WEIGHTS})
    with HubServer([repo]) as server:
        workspace = open_workspace(server.url)
        row = rows_of(workspace)["acme/m"]
        assert row["eligibility"] == "invalid_header"
        with pytest.raises(ModelError) as caught:
            crawler.Fetcher(workspace, token=False)(row)
        assert caught.value.status is Status.INVALID_HEADER
        assert left(workspace) == []


def test_a_settings_file_of_gigabytes_is_not_fetched(hub: HubServer, home: Repo, open_workspace: Open) -> None:
    workspace = open_workspace(hub.url)
    row = rows_of(workspace)[home.id]
    files = [{**file, "size": 10**10} if file["path"].startswith("prep") else file for file in row["files"]]
    hub.requests.clear()
    with pytest.raises(ModelError) as caught:
        crawler.Fetcher(workspace, token=False)({**row, "files": files})
    assert caught.value.status is Status.TOO_MANY_BYTES
    assert hub.requests.count("resolvers") == 0
