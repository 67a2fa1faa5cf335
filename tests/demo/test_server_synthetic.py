"""The synthetic hub: any size, nothing stored, and changed while it is read."""

import time
from collections import Counter
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from huggingface_hub.utils import httpx

from hubprobe.demo.listing import ModelsQuery, list_fields
from hubprobe.demo.server import HubServer
from tests.hubs.synthetic import SyntheticCatalog
from tests.hubs.synthetic_kinds import KINDS
from workspace.status import Status


def ids_listed(catalog: SyntheticCatalog, **options) -> list[str]:
    with HubServer(catalog, **options) as server:
        return [model.id for model in HfApi(endpoint=server.url).list_models(pipeline_tag="image-classification")]


def one_of(catalog: SyntheticCatalog, status: Status) -> int:
    return next(i for i in catalog.indices() if catalog.expected(i) is status)


def test_every_repository_once_in_order():
    catalog = SyntheticCatalog(2_500)
    ids = ids_listed(catalog)
    assert ids == [catalog.repo_id(i) for i in range(2_500)]
    assert len(set(ids)) == 2_500
    assert catalog.pages == 3


def test_the_same_seed_gives_the_same_hub():
    first, same, other = SyntheticCatalog(50), SyntheticCatalog(50), SyntheticCatalog(50, seed=1)
    query = ModelsQuery(fields=list_fields(True, True, True, []))
    assert first.page(query, 50, None) == same.page(query, 50, None)
    assert first.page(query, 50, None) != other.page(query, 50, None)


def test_shares_are_as_stated():
    assert sum(kind.share for kind in KINDS) == 1000
    catalog = SyntheticCatalog(20_000)
    counts = Counter(catalog.kind(i).name for i in range(20_000))
    for kind in KINDS:
        assert counts[kind.name] == pytest.approx(20 * kind.share, rel=0.1, abs=40)


def test_rows_agree_with_what_the_repository_says_of_itself():
    catalog = SyntheticCatalog(300)
    with HubServer(catalog) as server:
        api = HfApi(endpoint=server.url)
        rows = list(api.list_models(full=True))
        for kind in KINDS:
            index = next((i for i in range(300) if catalog.kind(i) is kind), None)
            if index is None or kind.status in (Status.GONE, Status.DISABLED):
                continue
            row, info = rows[index], api.model_info(catalog.repo_id(index))
            assert (row.id, row.sha, row.tags, row.gated) == (info.id, info.sha, info.tags, info.gated)
            names = [sibling.rfilename for sibling in info.siblings]
            assert names == [
                entry.path for entry in api.list_repo_tree(row.id, recursive=True) if hasattr(entry, "size")
            ]
            assert names == [sibling.rfilename for sibling in row.siblings]


def test_files_are_real(tmp_path):
    catalog = SyntheticCatalog(300)
    with HubServer(catalog) as server:
        repo_id = catalog.repo_id(one_of(catalog, Status.ELIGIBLE))
        metadata = HfApi(endpoint=server.url).get_safetensors_metadata(repo_id)
        assert metadata.parameter_count["F32"] > 1000
        path = hf_hub_download(repo_id, "model.safetensors", endpoint=server.url, cache_dir=tmp_path, token=False)
        [listed] = HfApi(endpoint=server.url).get_paths_info(repo_id, "model.safetensors")
        assert listed.size == Path(path).stat().st_size
        gated = catalog.repo_id(one_of(catalog, Status.GATED))
        with pytest.raises(GatedRepoError):
            hf_hub_download(gated, "config.json", endpoint=server.url, cache_dir=tmp_path, token=False)
        for nobody in ("owner-0000/vit-named-zz", "owner-0000/vit-named-10000000000", "a/b"):
            with pytest.raises(RepositoryNotFoundError):
                HfApi(endpoint=server.url).model_info(nobody)


def test_changes_in_the_middle_of_a_listing():
    def change(catalog: SyntheticCatalog, pages: int) -> None:
        if pages == 2:
            catalog.add(150)  # at the front, which has been read: none of them may be seen, nothing may shift
            catalog.delete(50)  # read already
            catalog.delete(450)  # not read yet
            catalog.rename(460, "new-owner/new-name")
            catalog.rename(60, "new-owner/other-name")

    catalog = SyntheticCatalog(1_000, after_page=change)
    before = [catalog.repo_id(i) for i in range(1_000)]
    wanted = [i for i in before if i not in (before[450], before[460])]
    with HubServer(catalog, page_size=100) as server:
        api = HfApi(endpoint=server.url)
        ids = [model.id for model in api.list_models()]
        assert sorted(ids) == sorted([*wanted, "new-owner/new-name"])
        assert api.model_info(before[60]).id == "new-owner/other-name"
        with pytest.raises(RepositoryNotFoundError):
            api.model_info(before[50])
        again = [model.id for model in api.list_models()]
    assert len(again) == len(set(again)) == len(catalog) == 1_000 + 150 - 2
    assert again == [catalog.repo_id(i) for i in catalog.indices()]


def test_a_new_commit_changes_sha_and_date():
    catalog = SyntheticCatalog(10)
    with HubServer(catalog) as server:
        api = HfApi(endpoint=server.url)
        before = list(api.list_models(full=True))
        catalog.update(3)
        after = list(api.list_models(full=True))
    assert [i for i in range(10) if before[i].sha != after[i].sha] == [3]
    assert after[3].last_modified > before[3].last_modified
    assert after[3].created_at == before[3].created_at


def test_a_cursor_outlives_the_server():
    with HubServer(SyntheticCatalog(300), page_size=100) as server:
        link = httpx.get(server.url + "/api/models").links["next"]["url"]
    with HubServer(SyntheticCatalog(300), page_size=100) as server:
        rows = httpx.get(server.url + link[link.index("/api/") :]).json()
    assert [row["id"] for row in rows] == [SyntheticCatalog(300).repo_id(i) for i in range(100, 200)]


def test_a_page_deep_in_a_million_is_as_quick_as_the_first():
    catalog = SyntheticCatalog(1_000_000)
    query = ModelsQuery(fields=list_fields(True, False, False, []))
    _, first_end = catalog.page(query, 1000, None)
    assert first_end is not None
    deep = type(first_end)("createdAt", "", f"00000000{(1 << 40) + 900_000:016x}")
    began = time.process_time()
    rows, _ = catalog.page(query, 1000, deep)
    assert rows[0]["id"] == catalog.repo_id(900_001)
    assert 1000 / (time.process_time() - began) > 10_000  # rows per second of processor; 80,000 measured
