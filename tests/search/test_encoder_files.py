"""Encoders that cannot be had: without weights, gone, or cut short; and one that is there needs no Hub again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hubprobe.demo import tiny
from hubprobe.demo.repository import Repo
from hubprobe.demo.server import HubServer
from search.text.encoder_files import fetch, folder_hash
from search.text.encoders import load_encoder
from workspace import Config, HubError, Workspace

FILES = tiny.files()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    bare = {name: data for name, data in FILES.items() if not name.endswith(".safetensors")}
    pickled = bare | {"pytorch_model.bin": b"cbuiltins\nlen\n."}
    with HubServer([Repo.of("a/whole", FILES), Repo.of("a/bare", bare), Repo.of("a/pickled", pickled)]) as server:
        yield server


@pytest.fixture
def workspace(hub: HubServer, tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "w", Config(endpoint=hub.url))


@pytest.mark.parametrize("repo", ["a/bare", "a/pickled"])
def test_without_safetensors_weights_it_is_refused_and_no_file_is_fetched(
    repo: str, hub: HubServer, workspace: Workspace
) -> None:
    with pytest.raises(HubError, match="has no safetensors weights"):
        fetch(workspace, "images", repo, None, None)
    assert hub.requests.count("resolvers") == 0


def test_one_that_is_not_there_is_a_sentence(workspace: Workspace) -> None:
    with pytest.raises(HubError, match="a/none"):
        fetch(workspace, "images", "a/none", None, None)


def test_what_was_fetched_is_found_without_a_hub(hub: HubServer, workspace: Workspace) -> None:
    folder, commit = fetch(workspace, "images", "a/whole", None, None)
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        assert (folder / name).read_bytes() == FILES[name]
    hub.stop()
    assert fetch(workspace, "images", "a/whole", commit, None) == (folder, commit)
    with pytest.raises(HubError, match="a/whole"):
        fetch(workspace, "images", "a/whole", None, None)
    hub.start()


@pytest.mark.parametrize("kind", ["clip", "captions", "images"])
def test_a_folder_without_weights_is_no_encoder(kind: str, workspace: Workspace, tmp_path: Path) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes(FILES[name])
    with pytest.raises(HubError, match="cannot be loaded"):
        load_encoder(workspace, f"{kind}:{tmp_path}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"cbuiltins\nlen\n.")
    with pytest.raises(HubError, match="cannot be loaded"):  # weights of that kind are never opened
        load_encoder(workspace, f"{kind}:{tmp_path}")


def test_the_version_of_a_folder_is_its_content(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(FILES["config.json"])
    before = folder_hash(tmp_path)
    (tmp_path / "README.md").write_text("not a part of it")
    assert folder_hash(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert folder_hash(tmp_path) != before
