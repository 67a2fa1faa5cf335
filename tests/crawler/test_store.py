"""The models on disk: bounded, never one in use, fetched ahead in the order they are needed."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

import crawler
from crawler import fetcher as fetching
from crawler.fetcher import Store
from hubprobe.demo.repository import Repo
from hubprobe.demo.server import HubServer
from workspace import ModelError, Status, Workspace

Open = Callable[..., Workspace]
MODEL = 62_408  # bytes of one model's files, about


@pytest.fixture
def server(make_repo: Callable[..., Repo]) -> Iterator[HubServer]:
    # Different labels, so that every model has files of its own.
    repos = [make_repo(f"acme/m{i}", id2label={str(k): f"{i} {k}" for k in range(5)}) for i in range(5)]
    with HubServer(repos) as server:
        yield server


@pytest.fixture
def workspace(server: HubServer, open_workspace: Open) -> Workspace:
    made = open_workspace(server.url)
    crawler.crawl(made, token=False, progress=False)
    return made


@pytest.fixture
def rows(workspace: Workspace) -> list[dict[str, Any]]:
    return workspace.catalog().to_pylist()


def on_disk(workspace: Workspace) -> int:
    folder = workspace.cache_dir / "models"
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_the_disk_is_bounded_and_the_least_recently_used_goes_first(
    workspace: Workspace, rows: list[dict[str, Any]]
) -> None:
    fetcher = crawler.Fetcher(workspace, token=False, max_disk_bytes=3 * MODEL)
    folders = []
    for at in (0, 1, 2):
        fetched = fetcher(rows[at])
        folders.append(fetched.folder)
        fetched.release()
        time.sleep(0.02)
    fetcher(rows[0]).release()
    fetcher(rows[3]).release()
    assert [folder.exists() for folder in folders] == [True, False, True]
    assert on_disk(workspace) <= 3 * MODEL


def test_a_model_in_use_is_never_deleted(
    workspace: Workspace, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "ROOM_SECONDS", 0.3)
    fetcher = crawler.Fetcher(workspace, token=False, max_disk_bytes=2 * MODEL + 100)
    held = [fetcher(rows[0]), fetcher(rows[1])]
    with pytest.raises(ModelError) as caught:
        fetcher(rows[2])
    assert caught.value.status is Status.DISK_FULL
    assert all((used.folder / "model.safetensors").exists() for used in held)
    held[0].release()
    fetcher(rows[2]).release()
    assert not held[0].folder.exists()
    assert (held[1].folder / "model.safetensors").exists()


def test_a_model_larger_than_the_bound_is_refused(workspace: Workspace, rows: list[dict[str, Any]]) -> None:
    with pytest.raises(ModelError, match="--max-disk") as caught:
        crawler.Fetcher(workspace, token=False, max_disk_bytes=1000)(rows[0])
    assert caught.value.status is Status.DISK_FULL


def test_two_demands_for_one_model_fetch_it_once(
    server: HubServer, workspace: Workspace, rows: list[dict[str, Any]]
) -> None:
    server.requests.clear()
    fetchers = [crawler.Fetcher(workspace, token=False) for _ in range(2)]
    got: list[Path] = []
    threads = [threading.Thread(target=lambda f=f: got.append(f(rows[0]).folder)) for f in fetchers for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(got)) == 1
    assert len(got) == 4
    assert server.requests.count("cdn") == 1


def test_a_demand_does_not_wait_for_those_who_use_the_model(
    server: HubServer, workspace: Workspace, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # between looking whether the model is there and locking it to fetch it, another demand fetches it, and keeps it
    fetcher, other = (crawler.Fetcher(workspace, token=False) for _ in range(2))
    kept = []
    whole = fetcher._store.is_complete

    def late(name: str) -> bool:
        found = whole(name)
        if not kept:
            assert not found
            monkeypatch.undo()
            thread = threading.Thread(target=lambda: kept.append(other(rows[0])))
            asking.append(thread)
            thread.start()
        return found

    asking: list[threading.Thread] = []
    monkeypatch.setattr(fetcher._store, "is_complete", late)
    real = fetcher._store.locked

    @contextmanager
    def after_the_other(name: str) -> Iterator[bool]:
        for thread in asking:
            thread.join(120)
        with real(name) as alone:
            yield alone

    fetcher._store.locked = after_the_other  # type: ignore[method-assign]
    mine: list[Any] = []
    thread = threading.Thread(target=lambda: mine.append(fetcher(rows[0])), daemon=True)
    thread.start()
    thread.join(120)
    assert mine, "waits for the other, who may use the model for as long as it likes"
    assert mine[0].folder == kept[0].folder
    mine[0].release()
    kept[0].release()


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    store = Store(tmp_path, None)
    child = os.fork()
    if child == 0:
        store.lock("m", shared=False)
        os._exit(0)
    os.waitpid(child, 0)
    handle = store.lock("m", shared=False, wait=False)
    assert handle is not None
    assert store.lock("m", shared=True, wait=False) is None
    handle.close()


def test_a_model_whose_folder_somebody_deleted_is_fetched_again(
    workspace: Workspace, rows: list[dict[str, Any]]
) -> None:
    with closing(crawler.Fetcher(workspace, keep=True)) as fetcher:
        fetched = fetcher(rows[0])
        before = {path.name: path.stat().st_size for path in fetched.folder.iterdir()}
        assert "model.safetensors" in before
        fetched.release()
        for folder in (workspace.cache_dir / "models").iterdir():
            if folder.is_dir():
                shutil.rmtree(folder)
        fetched = fetcher(rows[0])
        assert {path.name: path.stat().st_size for path in fetched.folder.iterdir()} == before
        fetched.release()
