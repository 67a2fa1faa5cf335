"""No verb sends this machine's token where only a workspace points."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hubprobe.cli import cli
from hubprobe.demo import tiny
from hubprobe.demo.repository import Repo
from hubprobe.demo.server import HubServer
from search.text.encoder_files import fetch
from workspace import Config, HubError, Workspace

SECRET = "hf_of_this_machine"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    # decided by its listing alone: nothing has to ask transformers what it knows
    pickled = Repo.of("acme/pickled", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    with HubServer([Repo.of("other/encoder", tiny.files()), pickled]) as server:
        yield server


@pytest.fixture
def workspace(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Somebody else's workspace, whose configuration names a hub."""
    for name in ("HF_ENDPOINT", "HF_HUB_DISABLE_IMPLICIT_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    return Workspace.create(tmp_path / "w", Config(endpoint=hub.url))


def run(workspace: Workspace, verb: tuple[str, ...]) -> Result:
    return CliRunner().invoke(cli, [verb[0], "--workspace", str(workspace.root), *verb[1:]])


VERBS: dict[str, tuple[str, ...]] = {
    "crawl": ("crawl", "--author", "acme", "--quiet"),
    "crawl --dry-run": ("crawl", "--dry-run", "--quiet"),
    "crawl --explain": ("crawl", "--explain", "acme/pickled"),
    "run --dry-run": ("run", "--dry-run", "--quiet"),
    "doctor": ("doctor",),
}


@pytest.mark.parametrize("name", VERBS)
def test_a_workspaces_own_hub_is_sent_no_token(name: str, hub: HubServer, workspace: Workspace) -> None:
    done = run(workspace, VERBS[name])
    assert len(hub.requests) > 0
    assert not any(asked.has_token for asked in hub.requests)
    assert "not sent" in done.output or name == "doctor"
    assert SECRET not in done.output


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.parametrize("how", ["option", "environment", "token"])
def test_a_hub_that_the_user_names_is(
    how: str, name: str, hub: HubServer, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    verb = VERBS[name]
    if how == "environment":
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
    else:
        verb += ("--endpoint", hub.url) if how == "option" else ("--token", "hf_given")
    done = run(workspace, verb)
    assert any(asked.has_token for asked in hub.requests)
    assert "not sent" not in done.output


def test_an_encoder_is_fetched_without_it(hub: HubServer, workspace: Workspace) -> None:
    folder, _ = fetch(workspace, "images", "other/encoder", None, None)
    assert (folder / "model.safetensors").exists()
    assert len(hub.requests) > 0
    assert not any(asked.has_token for asked in hub.requests)


@pytest.mark.parametrize("token", [None, "hf_given"])
def test_an_encoders_files_elsewhere_are_fetched_without_a_token(
    token: str | None, hub: HubServer, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    fetch(workspace, "images", "other/encoder", None, token)
    assert any(asked.has_token for asked in hub.requests if asked.bucket != "cdn")
    assert not any(asked.has_token for asked in hub.requests if asked.bucket == "cdn")


def test_a_release_is_neither_pushed_nor_read_with_it(
    hub: HubServer, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfFileSystem

    from crawler.listing.pages import Snapshot
    from crawler.listing.rows import Query
    from hubprobe.release.source import open_source

    with pytest.raises(HubError):
        open_source("hf://datasets/acme/none", workspace.root / "cache", endpoint=hub.url)
    HfFileSystem.clear_instance_cache()
    with pytest.raises(Exception, match=r"none|404"):
        Snapshot("hf://datasets/acme/none/models.parquet", Query(), hub.url, None)
    assert len(hub.requests) > 0
    assert not any(asked.has_token for asked in hub.requests)


def test_an_endpoint_without_a_scheme_is_one_sentence(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "hf-mirror.example")
    done = run(workspace, VERBS["crawl"])
    assert "https://hf-mirror.example" in str(done.exception)
