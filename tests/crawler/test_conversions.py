"""Weights that wait in the conversion bot's pull request: used when they are those of the main branch, else not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, hf_hub_download

import crawler
import hubprobe
from hubprobe.demo import tiny
from hubprobe.demo.repository import PullRequest, Repo, RepoFile
from hubprobe.demo.server import HubServer
from tests.hubs.faults import Fault, Faults, status
from tests.hubs.recorded import MIRRORS, PREFIX, pickled
from workspace import Workspace
from workspace.conversions import find

Open = Callable[..., Workspace]
WEIGHTS = "model.safetensors"


@pytest.fixture
def whole(make_repo: Callable[..., Repo]) -> Repo:
    return make_repo("acme/old")


def crawled(
    server: HubServer, open_workspace: Open, prefix: str = "", **settings: Any
) -> tuple[Workspace, dict[str, Any]]:
    workspace = open_workspace(server.url + prefix, **settings)
    crawler.crawl(workspace, token=False, progress=False)
    return workspace, {row["id"]: row for row in workspace.catalog().to_pylist()}


def test_weights_in_the_bots_pull_request_are_found_booked_and_fetched(whole: Repo, open_workspace: Open) -> None:
    old = pickled(whole)
    with HubServer([old, pickled(replace(whole, id="acme/never"), pulls=False)]) as server:
        workspace, rows = crawled(server, open_workspace)
        asked = server.requests.count("api")
        row = rows[old.id]
        assert (row["eligibility"], row["weights_ref"]) == ("eligible", "refs/pr/2")
        assert row["weights_sha"] == old.heads["refs/pr/2"].sha != row["sha"] == old.sha
        assert rows["acme/never"]["eligibility"] == "pickle_only"
        assert rows["acme/never"]["weights_ref"] is None
        assert asked == 1 + (2 + 1) + 1  # the listing; two more for what is won, one for what is not
        server.requests.clear()
        fetched = crawler.Fetcher(workspace, token=False)(row)
        for path in ("config.json", "preprocessor_config.json", WEIGHTS):
            file = whole.files[path]
            assert (fetched.folder / path).read_bytes() == file.content.read(0, file.size)
        assert server.requests.count("api") == 0
        assert not any("pytorch_model.bin" in asked.target for asked in server.requests)
        assert server.requests.matching(f"/resolve/{row['weights_sha']}/{WEIGHTS}")
        assert hubprobe.status(workspace).converted == 1


def test_weights_in_shards_too(whole: Repo, open_workspace: Open) -> None:
    tensors = tiny.weights()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    index = {"metadata": {}, "weight_map": {name: part for part, held in parts.items() for name in held}}
    files = {path: file for path, file in whole.files.items() if path != WEIGHTS}
    for part, held in parts.items():
        files[part] = RepoFile.of(part, tiny.safetensors({name: tensors[name] for name in held}))
    files[f"{WEIGHTS}.index.json"] = RepoFile.of(f"{WEIGHTS}.index.json", tiny.json_file(index))
    with HubServer([pickled(replace(whole, files=files))]) as server:
        workspace, rows = crawled(server, open_workspace)
        assert rows[whole.id]["eligibility"] == "eligible"
        fetched = crawler.Fetcher(workspace, token=False)(rows[whole.id])
        assert {path.name for path in fetched.folder.iterdir()} >= {*parts, "config.json", f"{WEIGHTS}.index.json"}


def _by(author: str, pull: PullRequest) -> PullRequest:
    return replace(pull, author=author)


def _with(pull: PullRequest, path: str, content: bytes | None) -> PullRequest:
    files = {name: file for name, file in pull.files.items() if name != path}
    return replace(pull, files=files if content is None else files | {path: RepoFile.of(path, content)})


REFUSED: dict[str, tuple[Callable[[PullRequest], PullRequest], str, str]] = {
    "of somebody": (lambda pull: _by("SFconvertbot2", pull), "pickle_only", "no conversion"),
    "closed": (lambda pull: replace(pull, status="closed"), "pickle_only", "no conversion"),
    "another pickle": (lambda pull: _with(pull, "pytorch_model.bin", b"newer"), "pickle_only", "pytorch_model.bin"),
    "without the pickle": (lambda pull: _with(pull, "pytorch_model.bin", None), "pickle_only", "pytorch_model.bin"),
    "another config": (lambda pull: _with(pull, "config.json", b"{}"), "pickle_only", "config.json"),
    "more than weights": (lambda pull: _with(pull, "modeling_own.py", b"x"), "pickle_only", "modeling_own.py"),
    "no weights": (lambda pull: _with(pull, WEIGHTS, None), "pickle_only", "no weights"),
    "no head": (lambda pull: _with(pull, WEIGHTS, tiny.safetensors(tiny.weights(rows=3))), "head_mismatch", "3 rows"),
    "no safetensors": (lambda pull: _with(pull, WEIGHTS, b"not safetensors " * 99), "invalid_header", ""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_weights_are_not_used(name: str, whole: Repo, open_workspace: Open) -> None:
    change, expected, why = REFUSED[name]
    old = pickled(whole)
    other, offer = old.pulls
    with HubServer([replace(old, pulls=(other, change(offer)))]) as server:
        _, rows = crawled(server, open_workspace)
    assert rows[old.id]["eligibility"] == expected
    assert why in rows[old.id]["reason"]


def test_it_can_be_left_off_and_other_accounts_can_be_named(whole: Repo, open_workspace: Open) -> None:
    old = pickled(whole)
    mine = replace(old, id="acme/mine", pulls=tuple(_by("our-bot", pull) for pull in old.pulls))
    with HubServer([old, mine]) as server:
        _, rows = crawled(server, open_workspace, folder="off", converted=False)
        assert {row["eligibility"] for row in rows.values()} == {"pickle_only"}
        assert server.requests.matching("discussions") == []
        _, rows = crawled(server, open_workspace, folder="ours", converters=("SFconvertbot", "our-bot"))
        assert {row["eligibility"] for row in rows.values()} == {"eligible"}


def test_what_else_speaks_against_it_is_asked_first(whole: Repo, open_workspace: Open) -> None:
    gated = replace(pickled(whole), facts={"gated": "auto"})
    bare = replace(pickled(whole), id="acme/bare")
    bare = replace(bare, files={path: file for path, file in bare.files.items() if path != "config.json"})
    with HubServer([gated, bare]) as server:
        crawled(server, open_workspace)
        assert server.requests.matching("discussions") == []


@pytest.mark.parametrize("code", [400, 401, 403, 404, 501])
def test_a_hub_without_pull_requests_costs_nobody_anything(code: int, whole: Repo, open_workspace: Open) -> None:
    harm = Faults(Fault(status(code), match="/discussions", times=None))
    with HubServer([pickled(whole)], intercept=harm) as server:
        _, rows = crawled(server, open_workspace)
    assert rows[whole.id]["eligibility"] == "pickle_only"
    assert "pull requests" in rows[whole.id]["reason"]


@pytest.mark.parametrize("mirror", ["huggingface.co", "hf-mirror", "artifactory"])
def test_on_mirrors_too(mirror: str, whole: Repo, open_workspace: Open) -> None:
    with HubServer([pickled(whole)], intercept=MIRRORS[mirror]()) as server:
        _, rows = crawled(server, open_workspace, PREFIX if mirror == "artifactory" else "")
    assert (rows[whole.id]["eligibility"], rows[whole.id]["weights_ref"]) == ("eligible", "refs/pr/2")


def test_explain_says_so(whole: Repo, open_workspace: Open) -> None:
    with HubServer([pickled(whole)]) as server:
        found = crawler.explain(open_workspace(server.url), whole.id, token=False)
    assert found.status.value == "eligible"


def test_huggingface_hub_finds_the_same(whole: Repo, tmp_path: Any) -> None:
    """The real client, which is what brings encoders."""
    old = pickled(whole)
    with HubServer([old, replace(whole, id="acme/new")]) as server:
        api = HfApi(endpoint=server.url, token=False)
        refs = api.list_repo_refs(old.id, include_pull_requests=True)
        assert [ref.ref for ref in refs.pull_requests or ()] == ["refs/pr/1", "refs/pr/2"]
        offer = find(api, api.model_info(old.id, files_metadata=True))
        assert offer is not None
        assert offer.sha == old.heads["refs/pr/2"].sha == (refs.pull_requests or [])[1].target_commit
        local = hf_hub_download(
            old.id, WEIGHTS, revision=offer.sha, endpoint=server.url, token=False, cache_dir=tmp_path
        )
        assert Path(local).read_bytes() == whole.files[WEIGHTS].content.read(0, 10**9)
        assert find(api, api.model_info("acme/new", files_metadata=True)) is None
