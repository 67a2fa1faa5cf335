"""The demo hub behind the real clients: huggingface_hub and transformers, unmodified."""

import hashlib
import json
import pickle
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx

from hubprobe.demo import tiny, unhealthy
from hubprobe.demo.listing import FolderCatalog, read_folder
from hubprobe.demo.repository import Repo
from hubprobe.demo.server import HubServer
from tests.hubs.limits import Quotas, RateLimiter
from workspace import Outcome, Status

HOME = "quiet-lab/tiny-vit"


def home() -> Repo:
    files = {"README.md": tiny.card(HOME, "A tiny model.", tags="tiny")} | tiny.files()
    return Repo.of(HOME, files, facts={"downloads": 1234})


@pytest.fixture(scope="module")
def hub():
    with HubServer([home(), *unhealthy.repos(home())], page_size=7, tree_page_size=2) as server:
        yield server


@pytest.fixture(scope="module")
def api(hub):
    return HfApi(endpoint=hub.url, token=False)


def trouble(status: Status) -> str:
    return unhealthy.repo_id(status)


# ── listing ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_list_models_follows_every_page_once(hub, api):
    hub.requests.clear()
    ids = [model.id for model in api.list_models(pipeline_tag="image-classification")]
    assert sorted(ids) == sorted([HOME, *unhealthy.EXPECTED])
    assert hub.requests.count("api") == -(-len(ids) // 7)


def test_rows_are_newest_first_whatever_the_page_size(api):
    created = [model.created_at for model in api.list_models()]
    assert created == sorted(created, reverse=True)


@pytest.mark.parametrize(
    ("sort", "field"),
    [("downloads", "downloads"), ("likes", "likes"), ("last_modified", "lastModified"),
     ("trending_score", "trendingScore")],
)  # fmt: skip
def test_other_sorts_list_everything_too(sort, field):
    repos = [home(), *(repo for repo in unhealthy.repos(home()) if repo.id != trouble(Status.MALFORMED_ROW))]
    with HubServer(repos, page_size=5) as server:
        found = list(HfApi(endpoint=server.url).list_models(sort=sort, expand=[field]))
    assert len({model.id for model in found}) == len(repos)
    values = [getattr(model, sort) for model in found]
    assert values == sorted(values, reverse=True)


def test_filters(api):
    def ids(**asked):
        return {model.id for model in api.list_models(**asked)}

    assert ids(author="quiet-lab") == {HOME}
    assert ids(search="TINY-v") == {HOME}
    assert ids(filter=["peft", "image-classification"]) == {trouble(Status.ADAPTER)}
    assert trouble(Status.GATED) in ids(gated=True)
    assert HOME not in ids(gated=True)
    assert ids(num_parameters="min:14K,max:15K", author="quiet-lab") == {HOME}
    assert ids(num_parameters="max:14K", author="quiet-lab") == set()
    assert len(list(api.list_models(limit=9))) == 9


def test_expand_gives_what_was_asked_and_refuses_what_the_hub_does_not_know(hub, api):
    [model] = api.list_models(author="quiet-lab", expand=["sha", "safetensors", "siblings", "createdAt"])
    assert model.sha == home().sha
    assert model.safetensors.total == sum(value.size for value in tiny.weights().values())
    assert {sibling.rfilename for sibling in model.siblings} == set(home().files)
    assert model.downloads is None
    with pytest.raises(HfHubHTTPError) as caught:
        list(api.list_models(expand=["everything"]))
    assert caught.value.response.status_code == 400


def test_rows_are_added_and_removed_while_listing():
    catalog = FolderCatalog(Repo.of(f"lab/model-{i}", {"config.json": b"{}"}) for i in range(10))
    with HubServer(catalog, page_size=4) as server:
        rows = HfApi(endpoint=server.url).list_models()
        first = [next(rows).id for _ in range(4)]
        later = {repo.id for repo in catalog} - set(first)
        victim = sorted(later)[0]
        catalog.remove(victim)
        newest = Repo.of("lab/new", {"config.json": b"{}"}, facts={"createdAt": "2026-11-01T00:00:00.000Z"})
        catalog.add(newest)
        rest = [row.id for row in rows]
    assert sorted(first + rest) == sorted(set(first) | later - {victim})


# ── one model ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_model_info(api):
    info = api.model_info(HOME, files_metadata=True, securityStatus=True)
    assert (info.id, info.sha, info.downloads, info.gated) == (HOME, home().sha, 1234, False)
    assert info.card_data["license"] == "apache-2.0"
    assert {"transformers", "safetensors", "vit", "tiny", "license:apache-2.0"} <= set(info.tags)
    assert info.transformers_info.auto_model == "AutoModelForImageClassification"
    weights = next(sibling for sibling in info.siblings if sibling.rfilename == "model.safetensors")
    assert weights.lfs.sha256 == hashlib.sha256(tiny.files()["model.safetensors"]).hexdigest()
    assert api.model_info(HOME, revision=info.sha).sha == info.sha
    assert api.model_info(HOME, revision="HEAD").sha == info.sha
    with pytest.raises(RevisionNotFoundError):
        api.model_info(HOME, revision="v9")


def test_tree_is_paged_and_recursive(hub, api):
    repo_id = trouble(Status.ONNX_ONLY)
    paths = [entry.path for entry in api.list_repo_tree(repo_id, recursive=True)]
    assert paths == ["README.md", "config.json", "onnx", "onnx/model.onnx", "preprocessor_config.json"]
    assert [entry.path for entry in api.list_repo_tree(repo_id)] == [p for p in paths if "/" not in p]
    assert [entry.path for entry in api.list_repo_tree(repo_id, "onnx")] == ["onnx/model.onnx"]
    [entry] = api.list_repo_tree(repo_id, "onnx", expand=True)
    assert entry.last_commit.oid == api.model_info(repo_id).sha
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree(repo_id, "nowhere"))


def test_oids_are_gits_own(api):
    [entry] = api.get_paths_info(HOME, ["config.json", "no such file"])
    data = tiny.files()["config.json"]
    assert entry.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def test_refs_and_commits(api):
    refs = api.list_repo_refs(HOME)
    assert [branch.target_commit for branch in refs.branches] == [home().sha]
    assert [commit.commit_id for commit in api.list_repo_commits(HOME)] == [home().sha]


def test_the_sha_follows_the_files_alone():
    assert home().sha == home().sha
    other = Repo.of("another/name", {path: file.content for path, file in home().files.items()})
    assert other.sha == home().sha
    changed = Repo.of(HOME, {"config.json": b"{}"})
    assert changed.sha != home().sha


# ── downloads ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_downloads_are_the_files(hub, api, tmp_path):
    for name, data in tiny.files().items():
        path = hf_hub_download(HOME, name, endpoint=hub.url, cache_dir=tmp_path, token=False)
        assert Path(path).read_bytes() == data
    hub.requests.clear()
    pinned = snapshot_download(HOME, revision=home().sha, endpoint=hub.url, cache_dir=tmp_path / "b", token=False)
    assert {p.name for p in (tmp_path / "b").rglob("*") if p.suffix in (".json", ".md")} >= {"config.json", "README.md"}
    assert hub.requests.count("cdn") == 1
    assert api.verify_repo_checksums(HOME, local_dir=pinned).mismatches == []


def test_a_pinned_download_makes_no_api_request(hub, tmp_path):
    hub.requests.clear()
    hf_hub_download(HOME, "model.safetensors", revision=home().sha, endpoint=hub.url, cache_dir=tmp_path, token=False)
    assert (hub.requests.count("api"), hub.requests.count("resolvers"), hub.requests.count("cdn")) == (0, 1, 1)


def test_the_token_stays_with_the_endpoint(hub, tmp_path):
    hub.requests.clear()
    hf_hub_download(HOME, "model.safetensors", endpoint=hub.url, cache_dir=tmp_path, token="hf_secret")
    assert all(asked.has_token for asked in hub.requests if asked.bucket == "resolvers")
    assert [asked.has_token for asked in hub.requests if asked.bucket == "cdn"] == [False]


def test_safetensors_metadata(api):
    metadata = api.get_safetensors_metadata(HOME)
    assert metadata.parameter_count == {"F32": sum(value.size for value in tiny.weights().values())}


def test_redirects_as_on_the_hub(hub):
    client = httpx.Client(follow_redirects=False)
    small = client.head(f"{hub.url}/{HOME}/resolve/main/config.json")
    assert small.status_code == 307
    assert small.headers["location"] == f"/api/resolve-cache/models/{HOME}/{home().sha}/config.json"
    assert small.headers["x-repo-commit"] == home().sha
    large = client.head(f"{hub.url}/{HOME}/resolve/main/model.safetensors")
    assert large.status_code == 302
    assert large.headers["location"].startswith(hub.cdn_url)
    assert large.headers["x-linked-etag"] == f'"{home().files["model.safetensors"].sha256}"'
    assert int(large.headers["x-linked-size"]) == home().files["model.safetensors"].size
    pointer = client.get(f"{hub.url}/{HOME}/raw/main/model.safetensors").text
    assert pointer.startswith("version https://git-lfs.github.com/spec/v1\noid sha256:")
    assert client.get(f"{hub.url}/api/agent-harnesses").status_code == 404


def test_ranges(hub):
    url = hf_hub_url(HOME, "model.safetensors", endpoint=hub.url)
    data = tiny.files()["model.safetensors"]
    client = httpx.Client(follow_redirects=True)

    def get(span):
        return client.get(url, headers={"Range": span})

    answer = get("bytes=8-17")
    assert (answer.status_code, answer.content) == (206, data[8:18])
    assert answer.headers["content-range"] == f"bytes 8-17/{len(data)}"
    assert get("bytes=-5").content == data[-5:]
    assert get("bytes=100-").content == data[100:]
    assert get(f"bytes=0-{10**9}").content == data
    beyond = get(f"bytes={len(data)}-")
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(data)}")
    assert get("bytes=0-1,4-5").status_code == 200


def test_transformers_loads_from_the_hub(hub, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = snapshot_download(HOME, endpoint=hub.url, cache_dir=tmp_path, token=False)
    config = transformers.AutoConfig.from_pretrained(folder)
    assert config.id2label[0] == "apple"
    model, info = transformers.AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert type(model).__name__ == "ViTForImageClassification"
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


# ── errors and limits ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("status", "error", "download_cause"),
    [
        (Status.GONE, RepositoryNotFoundError, RepositoryNotFoundError),
        (Status.DISABLED, DisabledRepoError, DisabledRepoError),
    ],
)
def test_repositories_that_refuse(hub, api, tmp_path, status, error, download_cause):
    with pytest.raises(error):
        api.model_info(trouble(status))
    with pytest.raises((error, LocalEntryNotFoundError)) as caught:
        hf_hub_download(trouble(status), "config.json", endpoint=hub.url, cache_dir=tmp_path, token=False)
    assert isinstance(caught.value, download_cause) or isinstance(caught.value.__cause__, download_cause)


def test_gated(hub, api, tmp_path):
    assert api.model_info(trouble(Status.GATED)).gated == "manual"
    for token in (False, "hf_of_a_stranger"):
        with pytest.raises(GatedRepoError):
            hf_hub_download(trouble(Status.GATED), "config.json", endpoint=hub.url, cache_dir=tmp_path, token=token)


def test_renamed(hub, api, tmp_path):
    assert api.model_info(trouble(Status.RENAMED)).id == HOME
    assert [entry.path for entry in api.list_repo_tree(trouble(Status.RENAMED))] == sorted(home().files)
    answer = httpx.get(f"{hub.url}/api/models/{trouble(Status.RENAMED)}/tree/main?recursive=true")
    assert (answer.status_code, answer.headers["location"]) == (307, f"/api/models/{HOME}/tree/main?recursive=true")
    assert hf_hub_download(trouble(Status.RENAMED), "config.json", endpoint=hub.url, cache_dir=tmp_path, token=False)


def test_missing_files_and_revisions(hub, tmp_path):
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download(HOME, "nothing.json", endpoint=hub.url, cache_dir=tmp_path, token=False)
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(HOME, "config.json", revision="v9", endpoint=hub.url, cache_dir=tmp_path, token=False)
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download(
            trouble(Status.FILE_MISSING), "model.safetensors", endpoint=hub.url, cache_dir=tmp_path, token=False
        )


def test_every_answer_says_where_the_caller_stands(hub):
    for path in ("/api/models", f"/{HOME}/resolve/main/config.json", "/api/models/no/body", "/"):
        answer = httpx.get(hub.url + path)
        assert '";r=' in answer.headers["ratelimit"]
        assert answer.headers["ratelimit-policy"].startswith('"fixed window";')
        assert answer.headers["x-request-id"]


def test_limits_are_kept_by_bucket_and_caller_and_windows_end():
    now = [1000.0]
    limiter = RateLimiter(Quotas(api=2, resolvers=1, pages=9, window=300), {"hf_pro": Quotas(5, 5, 5)}, lambda: now[0])
    with HubServer([home()], limiter=limiter) as server:

        def ask(path="/api/models", token=""):
            return httpx.get(server.url + path, headers={"Authorization": f"Bearer {token}"} if token else {})

        assert ask().headers["ratelimit"] == '"api";r=1;t=300'
        assert ask().headers["ratelimit-policy"] == '"fixed window";"api";q=2;w=300'
        now[0] += 120.5
        refused = ask()
        assert (refused.status_code, refused.headers["ratelimit"]) == (429, '"api";r=0;t=180')
        assert ask(f"/{HOME}/resolve/main/config.json").status_code == 307
        assert ask(token="hf_pro").headers["ratelimit"] == '"api";r=4;t=300'
        now[0] += 179.5
        assert ask().status_code == 200
        assert server.requests.count("api", 429) == 1


def test_the_real_client_waits_as_long_as_it_is_told():
    limiter = RateLimiter(Quotas(api=2, resolvers=9, pages=9, window=1))
    repos = [Repo.of(f"lab/model-{i}", {"config.json": b"{}"}) for i in range(3)]
    with HubServer(repos, page_size=1, limiter=limiter) as server:
        assert len(list(HfApi(endpoint=server.url).list_models())) == 3
        assert server.requests.count("api", 429) >= 1


def test_a_server_that_is_down_refuses_and_comes_back():
    with HubServer([home()]) as server:
        url = server.url
        timer = server.down(3600.0)
        with pytest.raises(httpx.ConnectError):
            httpx.get(url + "/api/models")
        timer.cancel()
        server.down(0.1)
        for _ in range(1_000):
            try:
                assert httpx.get(url + "/api/models").status_code == 200
                break
            except httpx.ConnectError:
                time.sleep(0.05)
        else:
            pytest.fail("the server did not come back")


def test_a_server_stopped_while_down_stays_stopped():
    with HubServer([home()]) as server:
        back = server.down(0.2)
    back.join(60)
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url + "/api/models")


@pytest.mark.parametrize(
    "lines",
    [b"GET * HTTP/1.1", b"GET /api/models HTTP/1.1\r\nContent-Length: -5", b"GET /", b"\x16\x03\x01",
     b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked", b"GET / HTTP/1.1\r\nContent-Length: 99999999999"],
)  # fmt: skip
def test_what_is_no_request_gets_a_refusal_or_nothing(hub, lines):
    with socket.create_connection(("127.0.0.1", int(hub.url.rsplit(":", 1)[1])), timeout=60) as connection:
        connection.sendall(lines + b"\r\n\r\n")
        assert connection.recv(1000)[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 413")


def test_strange_requests_do_not_bring_it_down(hub):
    for target in ("//", "/api/models/%2e%2e/%2e%2e/etc/passwd", f"/{HOME}/resolve/main/../../../../etc/passwd"):
        request = urllib.request.Request(hub.url + target)
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(request)
    bad = httpx.get(hub.url + "/api/models?cursor=nonsense")
    assert bad.status_code == 400
    assert httpx.get(hub.url + "/api/models?limit=-1").status_code == 400
    assert httpx.post(hub.url + f"/api/models/{HOME}/paths-info/main", content=b"[]", headers={
        "content-type": "application/json"}).status_code == 400  # fmt: skip
    assert httpx.get(hub.url + "/api/models").status_code == 200


# ── the repositories that must not be probed ─────────────────────────────────────────────────────────────────────


def test_every_status_is_expected_once_and_is_not_ok():
    assert len(unhealthy.EXPECTED) >= 17
    assert len(set(unhealthy.EXPECTED.values())) == len(unhealthy.EXPECTED)
    assert all(status.outcome is not Outcome.OK for status in unhealthy.EXPECTED.values())
    assert {repo.id for repo in unhealthy.repos(home())} == set(unhealthy.EXPECTED)


def test_they_are_made_the_same_every_time():
    first, second = unhealthy.repos(home()), unhealthy.repos(home())
    assert [(repo.id, repo.sha) for repo in first] == [(repo.id, repo.sha) for repo in second]


def test_the_corrupt_file_has_the_right_length_and_the_wrong_hash(hub, tmp_path):
    repo_id = trouble(Status.CORRUPT_FILE)
    path = hf_hub_download(repo_id, "model.safetensors", endpoint=hub.url, cache_dir=tmp_path, token=False)
    data, sound = Path(path).read_bytes(), tiny.files()["model.safetensors"]
    assert len(data) == len(sound)
    assert data != sound
    listed = next(repo for repo in unhealthy.repos(home()) if repo.id == repo_id).files["model.safetensors"]
    assert listed.sha256 == hashlib.sha256(sound).hexdigest()


def test_the_canaries_would_sing():
    for name in unhealthy.CANARIES:
        unhealthy.canary(name).unlink(missing_ok=True)
    made = {repo.id: repo for repo in unhealthy.repos(home())}
    try:
        pickle.loads(made[trouble(Status.PICKLE_ONLY)].files["pytorch_model.bin"].content.read(0, 10_000))
        exec(made[trouble(Status.CUSTOM_CODE)].text("modeling_trouble.py"), {})
        assert all(unhealthy.canary(name).exists() for name in unhealthy.CANARIES)
    finally:
        for name in unhealthy.CANARIES:
            unhealthy.canary(name).unlink(missing_ok=True)


def test_a_folder_of_repositories(tmp_path):
    folder = tmp_path / "models" / "some-lab" / "some-model"
    folder.mkdir(parents=True)
    for name, data in tiny.files().items():
        (folder / name).write_bytes(data)
    (folder / ".hidden").write_text("no")
    (folder / "link").symlink_to("/etc/hostname")
    (tmp_path / "hub.json").write_text(json.dumps({"some-lab/some-model": {"likes": 77}}))
    [repo] = read_folder(tmp_path)
    assert (repo.id, set(repo.files), repo.facts) == ("some-lab/some-model", set(tiny.files()), {"likes": 77})


def test_what_the_docs_say_of_the_unhealthy_is_the_truth():
    for repo_id, status in unhealthy.EXPECTED.items():
        assert repo_id == f"{unhealthy.OWNER}/{status.value.replace('_', '-')}-vision"
    text = (Path(__file__).parents[2] / "docs" / "demo-hub.md").read_text(encoding="utf-8")
    assert f"| `{unhealthy.OWNER}/*` | {len(unhealthy.EXPECTED)} repositories that must not be probed" in text
