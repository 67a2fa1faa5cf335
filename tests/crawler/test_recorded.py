"""A crawl of the hubs that were recorded: the same catalog as of the demo hub, wherever the facts are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import crawler
from crawler.hub import pacing
from hubprobe.demo import tiny, unhealthy
from hubprobe.demo.repository import Repo
from hubprobe.demo.server import HubServer, Intercept
from tests.hubs.recorded import (
    MIRRORS,
    PREFIX,
    bare_renames,
    foreign_links,
    heavy_pages,
    html_429,
    no_rate_limits,
    odd_dtypes,
    other_buckets,
    own_etags,
    recorded,
    refused_expand,
    sparse_rows,
    under,
    xet,
)  # fmt: skip
from workspace import HubError, Status, Workspace

Open = Callable[..., Workspace]
LOST = {"author", "createdAt", "safetensors", "crawled_at"}
"""Columns that a mirror's rows may lack or say otherwise; all else is the same fact."""

SHAPES: dict[str, Callable[[], Intercept]] = {
    "rows without sha": lambda: sparse_rows("sha"),
    "rows without files": lambda: sparse_rows("siblings", every=2),
    "rows without almost everything": lambda: sparse_rows("sha", "siblings", "author", "createdAt", "gated", "tags"),
    "odd dtypes": odd_dtypes,
    "refused fields": lambda: refused_expand("safetensors"),
    "heavy pages": lambda: heavy_pages(most=250),
    "links to the upstream": foreign_links,
    "Xet": xet,
    "other buckets": lambda: other_buckets(resolvers="downloads"),
    "no rate limits": no_rate_limits,
    "429s in HTML": lambda: html_429(every=5, times=4),
    "bare renames": bare_renames,
    "own ETags": lambda: recorded(under("/hf"), own_etags()),
}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "BACKOFF", (0.01, 0.1))
    monkeypatch.setattr(pacing, "LIMITED_BACKOFF", (0.01, 0.1))


@pytest.fixture(scope="module")
def repos() -> list[Repo]:
    home, second = (
        Repo.of(name, {"README.md": tiny.card(name, "Tells apples from drums.")} | tiny.files())
        for name in ("acme/home", "acme/second")
    )
    return [home, second, *unhealthy.repos(home)]


@pytest.fixture
def plain(repos: list[Repo], open_workspace: Open) -> Iterator[dict[str, dict[str, Any]]]:
    with HubServer(repos, page_size=20) as server:
        yield crawled(open_workspace(server.url, "plain"))


def crawled(workspace: Workspace, **options: Any) -> dict[str, dict[str, Any]]:
    summary = crawler.crawl(workspace, token=False, progress=False, **options)
    assert summary.finished
    return {row["id"]: row for row in workspace.catalog().to_pylist()}


def same(found: dict[str, dict[str, Any]], expected: dict[str, dict[str, Any]]) -> None:
    """Rows are the same where both are eligible; else at least the status is."""
    assert {i: row["eligibility"] for i, row in found.items()} == {i: r["eligibility"] for i, r in expected.items()}
    for name, row in found.items():
        if row["eligibility"] == Status.ELIGIBLE.value:
            assert {c: v for c, v in row.items() if c not in LOST} == {
                c: v for c, v in expected[name].items() if c not in LOST
            }
        assert row["renamed_to"] == expected[name]["renamed_to"]


@pytest.mark.parametrize("name", SHAPES)
def test_each_shape_leads_to_the_same_catalog(
    name: str, repos: list[Repo], plain: dict[str, dict[str, Any]], open_workspace: Open
) -> None:
    with HubServer(repos, page_size=20, intercept=SHAPES[name]()) as server:
        endpoint = f"{server.url}/hf" if name == "own ETags" else server.url
        same(crawled(open_workspace(endpoint)), plain)


@pytest.mark.parametrize("name", [name for name in MIRRORS if name != "olah"])
def test_each_hub_leads_to_the_same_catalog_and_its_models_can_be_fetched(
    name: str, repos: list[Repo], plain: dict[str, dict[str, Any]], open_workspace: Open
) -> None:
    with HubServer(repos, page_size=20, intercept=MIRRORS[name]()) as server:
        workspace = open_workspace(server.url + (PREFIX if name == "artifactory" else ""))
        found = crawled(workspace)
        same(found, plain)
        fetched = crawler.Fetcher(workspace, token=False)(found["acme/second"])
        weights = next(repo for repo in repos if repo.id == "acme/second").files["model.safetensors"]
        assert (fetched.folder / "model.safetensors").read_bytes() == weights.content.read(0, weights.size)
        fetched.release()


def test_olah_has_no_listing_and_takes_a_snapshot(
    repos: list[Repo], plain: dict[str, dict[str, Any]], open_workspace: Open, tmp_path: Path
) -> None:
    names = [name for name in plain if plain[name]["eligibility"] != Status.MALFORMED_ROW.value]
    rows = [{"id": name, "pipeline_tag": "image-classification"} for name in names]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "models.parquet")
    with HubServer(repos, intercept=MIRRORS["olah"]()) as server:
        with pytest.raises(HubError, match=r"no listing.*--from"):
            crawled(open_workspace(server.url, "listed"))
        found = crawled(open_workspace(server.url), source=str(tmp_path / "models.parquet"))
    same(found, {name: plain[name] for name in names})


def test_a_shape_is_what_it_says(repos: list[Repo]) -> None:
    """The recorded facts reach the wire: else all of the above would test the demo hub."""
    from huggingface_hub.utils import httpx

    every = recorded(
        under(), html_429(every=4, times=1), xet(), foreign_links(), sparse_rows("sha"), heavy_pages(most=2)
    )
    with HubServer(repos, intercept=every) as server, httpx.Client() as client:
        listing = f"{server.url}{PREFIX}/api/models"
        page = client.get(f"{listing}?limit=2&full=true")
        assert page.headers["link"].startswith("<https://huggingface.co/")
        assert ["sha" in row for row in page.json()] == [False, True]
        assert page.json()[1]["sha"] is None
        assert {name for name in page.headers if name.startswith("x-")} == {"x-request-id"}  # the server's own
        assert client.get(f"{listing}?limit=3").status_code == 504
        weights = client.get(f"{server.url}{PREFIX}/acme/home/resolve/main/model.safetensors")
        assert (weights.status_code, "xet-reconstruction-info" in weights.headers["link"]) == (302, True)
        limited = client.get(f"{server.url}{PREFIX}/api/models/acme/home")
        assert (limited.status_code, limited.headers["content-type"]) == (429, "text/html")
        assert client.get(f"{server.url}/api/models").status_code == 404
