"""Datasets on the demo hub, through the unmodified client: made, filled, read back, and what is refused."""

import hashlib
import urllib.error
import urllib.request

import pytest
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from hubprobe.demo import uploads
from hubprobe.demo.listing import FolderCatalog
from hubprobe.demo.server import HubServer

REPO = "some-lab/rows"


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with HubServer(FolderCatalog()) as server:
        yield server


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.url, token="hf_a")


def test_a_folder_goes_up_and_comes_back(hub, api, tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "PART", 4_000)
    files = {
        "README.md": b"---\nlicense: mit\n---\n# Rows\n",
        "a/b.parquet": bytes(range(256)) * 50,
        "s.parquet": b"PAR1",
    }
    for name, data in files.items():
        (tmp_path / "up" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "up" / name).write_bytes(data)
    assert api.create_repo(REPO, repo_type="dataset", private=True).repo_id == REPO
    done = api.upload_folder(repo_id=REPO, folder_path=tmp_path / "up", repo_type="dataset")
    info = api.dataset_info(REPO, files_metadata=True)
    assert (info.sha, info.private) == (done.oid, True)
    sizes = {s.rfilename: s.size for s in info.siblings if s.rfilename != ".gitattributes"}
    assert sizes == {name: len(data) for name, data in files.items()}
    for name, data in files.items():
        path = hf_hub_download(
            REPO, name, repo_type="dataset", endpoint=hub.url, token="hf_a", cache_dir=tmp_path / "cache"
        )
        with open(path, "rb") as file:  # noqa: PTH123
            assert file.read() == data
    assert sum("/parts/" in r.target for r in hub.requests) == 4  # 12,800 bytes in parts of 4,000


def test_a_dataset_is_made_once(api):
    api.create_repo(REPO, repo_type="dataset")
    api.create_repo(REPO, repo_type="dataset", exist_ok=True)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(REPO, repo_type="dataset")


def test_without_a_token_nothing_is_made_and_nothing_private_is_read(hub, api):
    stranger = HfApi(endpoint=hub.url, token=False)
    with pytest.raises(HfHubHTTPError):
        stranger.create_repo(REPO, repo_type="dataset")
    api.create_repo(REPO, repo_type="dataset", private=True)
    with pytest.raises(RepositoryNotFoundError):
        stranger.dataset_info(REPO)
    api.create_repo("some-lab/open", repo_type="dataset")
    assert stranger.dataset_info("some-lab/open").id == "some-lab/open"


def test_a_card_that_is_no_yaml_is_refused_before_anything_is_sent(api):
    api.create_repo(REPO, repo_type="dataset")
    before = api.dataset_info(REPO).sha
    with pytest.raises((HfHubHTTPError, ValueError), match="YAML"):
        api.upload_file(
            path_or_fileobj=b"---\nlicense: [mit\n---\n", path_in_repo="README.md", repo_id=REPO, repo_type="dataset"
        )
    assert api.dataset_info(REPO).sha == before


def test_content_that_is_not_what_was_announced_is_refused(hub):
    name = hashlib.sha256(b"announced").hexdigest()
    request = urllib.request.Request(f"{hub.cdn_url}/datasets/whole/{name}", data=b"something else", method="PUT")
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request)


def test_models_are_as_before(hub, api):
    assert list(api.list_models()) == []
    with pytest.raises(HfHubHTTPError, match="datasets only"):
        api.create_repo("some-lab/model")
