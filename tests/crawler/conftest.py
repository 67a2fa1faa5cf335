from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hubprobe.demo import tiny, unhealthy
from hubprobe.demo.repository import Repo
from hubprobe.demo.server import HubServer
from workspace import Config, CrawlConfig, Workspace


def healthy(name: str, **changes: Any) -> Repo:
    files = {"README.md": tiny.card(name, "Made for a test.")} | tiny.files(**changes)
    return Repo.of(name, files)


@pytest.fixture
def make_repo() -> Callable[..., Repo]:
    return healthy


@pytest.fixture
def home() -> Repo:
    return healthy("acme/home")


@pytest.fixture
def hub(home: Repo) -> Iterator[HubServer]:
    """A hub of one healthy repository and every unhealthy one."""
    with HubServer([home, *unhealthy.repos(home)]) as server:
        yield server


@pytest.fixture
def open_workspace(tmp_path: Path, names: Path) -> Callable[..., Workspace]:
    """Makes workspaces that crawl a given endpoint."""

    def make(endpoint: str, folder: str = "w", **crawl: Any) -> Workspace:
        workspace = Workspace.create(tmp_path / folder, Config(endpoint=endpoint, crawl=CrawlConfig(**crawl)))
        shutil.copytree(names, workspace.cache_dir, dirs_exist_ok=True)
        return workspace

    return make
