"""``encoder = "auto"``: the first of the list that can be loaded is taken, told, written down, and kept."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import search
from hubprobe.demo.repository import Repo
from hubprobe.demo.server import HubServer
from search.text import encoder_choice, encoders
from search.text.encoder_choice import PREFERRED
from tests.hubs.recorded import pickled
from workspace import Config, HubError, QueryError, SearchConfig, Workspace

SIGLIP2, SIGLIP, CLIP = (name.partition(":")[2] for name in PREFERRED)


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def at(hub: HubServer, root, encoder: str = "auto") -> Workspace:
    return Workspace.create(root, Config(endpoint=hub.url, search=SearchConfig(encoder=encoder)))


@pytest.fixture
def repos(clip, siglip, siglip2):
    """Of the three, the first is not there, the second has a conversion only, the third is whole."""
    second = pickled(Repo.of(SIGLIP, files(siglip)))
    return [second, Repo.of(CLIP, files(clip))]


def test_the_first_that_can_be_loaded_is_taken_and_kept(repos, siglip, siglip2, fresh):
    root = fresh.workspace.root
    with HubServer(repos) as hub:
        workspace = Workspace(root, Config(endpoint=hub.url))
        found = encoder_choice.choose(workspace, "auto")
        assert (found.name, found.files.converted) == (f"clip:{SIGLIP}", repos[0].heads["refs/pr/2"].sha)
        assert found.commit == found.files.converted
        assert found.passed_over == ((PREFERRED[0], f"{SIGLIP2} is not on {hub.url}, or not for everybody"),)
        assert found.files.bytes == sum(path.stat().st_size for path in siglip.iterdir())
        assert not (workspace.cache_dir / "encoders").exists()  # nothing was fetched
        assert encoder_choice.pinned(workspace) is None
        summary = search.index(workspace, names=False, progress=False)
        assert summary.encoder == f"clip:{SIGLIP}@{found.commit}"
        noted = json.loads((workspace.index_dir / "encoder.json").read_text())
        assert (noted["name"], noted["commit"]) == (f"clip:{SIGLIP}", found.commit)
        assert list(noted["passed_over"]) == [PREFERRED[0]]
    better = Repo.of(SIGLIP2, files(siglip2))
    with HubServer([better, *repos]) as hub:
        workspace = Workspace(root, Config(endpoint=hub.url))
        assert encoder_choice.choose(workspace, "auto").is_here
        assert search.index(workspace, names=False, progress=False).encoder == summary.encoder
        assert not hub.requests  # a better one is there by now; nobody asks
        assert search.index(workspace, encoder=f"clip:{CLIP}", names=False, progress=False).encoder.startswith(
            f"clip:{CLIP}@"
        )
        (workspace.index_dir / "encoder.json").unlink()
        assert encoder_choice.pinned(workspace)[0] == f"clip:{CLIP}"  # what the index was built with
        shutil.rmtree(workspace.index_dir)
        assert search.index(workspace, names=False, progress=False).encoder == f"clip:{SIGLIP2}@{better.sha}"
    index = search.open(Workspace(root, Config(endpoint="http://127.0.0.1:9")))
    assert index.search("dog").limit(3).to_arrow().num_rows == 3  # the Hub is gone, and nothing is asked of it


def pickle_only(folder) -> dict[str, bytes]:
    never_opened = {"pytorch_model.bin": b"a pickle", "flax_model.msgpack": b"and another"}
    return without(folder, "model.safetensors") | never_opened


def without(folder, *names: str) -> dict[str, bytes]:
    return {name: data for name, data in files(folder).items() if name not in names}


def with_config(folder, **changes) -> dict[str, bytes]:
    config = json.loads((folder / "config.json").read_text()) | changes
    return files(folder) | {"config.json": json.dumps(config).encode()}


def broken_weights(folder) -> dict[str, bytes]:
    return files(folder) | {"model.safetensors": b"version https://git-lfs.github.com/spec/v1\n" + bytes(100)}


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (pickle_only, "no safetensors weights, neither on main nor in a pull request"),
        (lambda folder: without(folder, "config.json"), "no config.json"),
        (lambda folder: without(folder, "vocab.json"), "no tokenizer.json"),
        (lambda folder: without(folder, "preprocessor_config.json"), "no preprocessor_config.json"),
        (lambda folder: with_config(folder, model_type="vit"), "is a vit, not an image-text model"),
        (lambda folder: with_config(folder, model_type="nonsense"), "this transformers does not know"),
        (lambda folder: files(folder) | {"config.json": b"[" * 10_000}, "names no model_type"),
        (lambda folder: without(folder, "tokenizer.json", "vocab.json") | {"spiece.model": b"x"}, "sentencepiece"),
        (broken_weights, "Git LFS pointer"),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded_is_passed_over_with_its_reason(clip, siglip, tmp_path, made, why):
    with HubServer([Repo.of(SIGLIP2, made(clip)), Repo.of(CLIP, files(clip))]) as hub:
        workspace = at(hub, tmp_path / "workspace")
        found = encoder_choice.choose(workspace, "auto")
        assert found.name == f"clip:{CLIP}"
        assert why in dict(found.passed_over)[PREFERRED[0]]
        with pytest.raises(HubError, match=why):
            encoder_choice.choose(workspace, f"clip:{SIGLIP2}")
        assert not [asked for asked in hub.requests if asked.target.endswith((".bin", ".msgpack"))]


def test_weights_that_are_not_all_there_are_passed_over_once_they_are_loaded(clip, siglip2, tmp_path):
    from safetensors.numpy import load, save

    tensors = load((siglip2 / "model.safetensors").read_bytes())
    del tensors["text_model.head.weight"]
    lacking = files(siglip2) | {"model.safetensors": save(tensors, {"format": "pt"})}
    with HubServer([Repo.of(SIGLIP2, lacking), Repo.of(CLIP, files(clip))]) as hub:
        workspace = at(hub, tmp_path / "workspace")
        search.settle(workspace)
        assert encoder_choice.pinned(workspace)[0] == f"clip:{CLIP}"


def test_a_hub_without_any_of_them_says_what_to_do(tmp_path):
    with HubServer([]) as hub:
        workspace = at(hub, tmp_path / "workspace")
        for ask in (lambda: encoder_choice.choose(workspace, "auto"), lambda: search.settle(workspace)):
            with pytest.raises(HubError, match=r"none of the encoders .* name another in \[search\] encoder"):
                ask()
        assert not (workspace.index_dir / "encoder.json").exists()


def test_a_hub_that_does_not_answer_is_no_reason_to_pass_over(tmp_path):
    with HubServer([]) as hub:
        workspace = at(hub, tmp_path / "workspace")
    with pytest.raises(HubError, match="cannot be fetched from"):  # and not: none of them
        encoder_choice.choose(workspace, "auto")


def test_only_the_bot_is_believed_and_only_what_it_adds(siglip, tmp_path):
    whole = pickled(Repo.of(SIGLIP, files(siglip)))
    theirs = [pull for pull in whole.pulls if pull.author == "SFconvertbot"]
    strangers = Repo(SIGLIP, whole.files, pulls=tuple(type(p)(p.num, "somebody", p.files) for p in theirs))
    with HubServer([strangers]) as hub, pytest.raises(HubError, match="no safetensors weights"):
        encoder_choice.choose(at(hub, tmp_path / "a"), f"clip:{SIGLIP}")
    with HubServer([whole]) as hub:
        workspace = at(hub, tmp_path / "b")
        assert encoder_choice.choose(workspace, f"clip:{SIGLIP}").commit == whole.heads[theirs[0].ref].sha
        off = Config(endpoint=hub.url, crawl=type(workspace.config.crawl)(converted=False))
        with pytest.raises(HubError, match="no safetensors weights"):
            encoder_choice.choose(Workspace(workspace.root, off), f"clip:{SIGLIP}")


def test_what_is_looked_at_is_little(clip, tmp_path):
    """Weights are not fetched to look at them: their head is, from a server without ranges, too."""
    big = files(clip)
    weights = big["model.safetensors"]
    length = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8 : 8 + length])
    at_end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    header["more"] = {"dtype": "F32", "shape": [10_000_000], "data_offsets": [at_end, at_end + 40_000_000]}
    head = json.dumps(header).encode()
    big["model.safetensors"] = len(head).to_bytes(8, "little") + head + weights[8 + length :] + bytes(40_000_000)
    sent = []

    def counted(bucket, request, answer):
        response = answer(request)
        if bucket == "cdn":
            sent.append(response)
        return response

    with HubServer([Repo.of(CLIP, big)], intercept=counted) as hub:
        found = encoder_choice.choose(at(hub, tmp_path / "workspace"), f"clip:{CLIP}")
        assert found.files.bytes > 40_000_000
        assert [asked.headers["range"] for asked in hub.requests if asked.bucket == "cdn"] == ["bytes=0-65535"]
    assert len(sent) == 1


def test_names(tmp_path, clip):
    with HubServer([]) as hub:
        workspace = at(hub, tmp_path / "workspace")
        assert encoder_choice.choose(workspace, "none").name == "none"
        assert encoder_choice.load(workspace, "none") is None
        assert encoder_choice.choose(workspace, f"clip:{clip}").is_here
        with pytest.raises(QueryError, match="unknown encoder"):
            encoder_choice.choose(workspace, "dog")
        with pytest.raises(HubError, match="no model folder"):
            encoder_choice.choose(workspace, f"clip:{tmp_path}")


def test_an_old_index_keeps_its_encoder(fresh):
    """One whose workspace never named an encoder, built when another was the default."""
    fresh.index()
    assert encoder_choice.pinned(fresh.workspace) == (fresh.encoder.name, fresh.encoder.commit)
    assert encoder_choice.built_with(fresh.workspace, "auto") is None  # its files are not on disk
    rows = search.open(fresh.workspace, encoder=fresh.encoder).search("dog").limit(3).to_arrow()
    assert np.all(np.diff(rows.column("distance").to_numpy()) >= 0)


def test_where_nobody_may_write_the_encoder_lies_in_the_users_cache(tmp_path, clip, monkeypatch):
    """A read-only index answers a new text although its encoder's cache is empty; the second time no hub is asked."""
    workspace_cache, home = tmp_path / "workspace" / "cache", tmp_path / "home"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    real = os.access
    closed = tmp_path / "workspace"
    monkeypatch.setattr("os.access", lambda path, mode, **more: closed != Path(path) and real(path, mode, **more))
    with HubServer([Repo.of(CLIP, files(clip))]) as hub:
        workspace = at(hub, tmp_path / "workspace")
        workspace.root.mkdir(exist_ok=True)
        found = encoder_choice.load(workspace, f"clip:{CLIP}")
        assert found.encode_texts(["dog"]).shape[0] == 1
        assert not workspace_cache.exists()
        assert (home / "hubprobe" / "encoders").is_dir()
        hub.requests.clear()
        assert encoders.load_encoder(workspace, f"clip:{CLIP}", commit=found.commit).commit == found.commit
        assert not hub.requests
