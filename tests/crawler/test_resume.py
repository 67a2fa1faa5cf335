"""Crawls that are killed, hubs that change meanwhile, and crawls that come after crawls."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import crawler
from crawler.state import FILE, crawl_state
from hubprobe.demo.repository import Repo, RepoFile
from hubprobe.demo.server import HubServer
from hubprobe.demo.wire import CutError
from tests.hubs.faults import Fault, Faults, redirect_to, status
from tests.hubs.limits import Quotas, RateLimiter
from tests.hubs.synthetic import SyntheticCatalog
from workspace import Config, CrawlConfig, HubError, Status, Workspace, WorkspaceError
from workspace.files import read_file, table_files, write_table

Open = Callable[..., Workspace]
CHILD = (
    "import sys, crawler, workspace; crawler.crawl(workspace.Workspace.open(sys.argv[1]), token=False, progress=False)"
)


def crawl(workspace: Workspace, **options: Any) -> crawler.CrawlSummary:
    return crawler.crawl(workspace, token=False, progress=False, **options)


def ends(workspace: Workspace) -> dict[str, str]:
    rows = workspace.catalog(["id", "eligibility"], history=True).to_pylist()
    found = {row["id"]: row["eligibility"] for row in rows}
    assert len(found) == len(rows), "a repository has several rows"
    return found


def asked_pages(server: HubServer) -> list[str]:
    return [asked.target for asked in server.requests.matching("/api/models?")]


def test_killed_twice_every_repository_is_there_once(open_workspace: Open) -> None:
    catalog = SyntheticCatalog(400)
    told: set[str] = set()

    def no_further(_bucket: str, request: Any, answer: Any) -> Any:
        if request.target.startswith("/api/models?"):
            if len(told | {request.target}) > pages:
                killed.wait(120)  # the last pages are not given away: it cannot end before it is killed
                raise CutError
            told.add(request.target)
        return answer(request)

    with HubServer(catalog, page_size=100) as server:
        workspace = open_workspace(server.url)
        server.intercept = no_further
        for pages in (2, 3):  # that were told: the last of them was asked for ahead
            killed = threading.Event()
            running = subprocess.Popen([sys.executable, "-c", CHILD, str(workspace.root)])
            while len(told) < pages and running.poll() is None:
                time.sleep(0.02)
            time.sleep(pages / 10)
            assert running.poll() is None
            running.send_signal(signal.SIGKILL)
            running.wait()
            killed.set()
            assert (workspace.catalog_dir / f"{FILE}-wal").exists()
        server.intercept = None
        summary = crawl(workspace)
        assert summary.resumed
        assert ends(workspace) == {catalog.repo_id(i): catalog.expected(i).value for i in range(400)}
        lists = asked_pages(server)
    assert len(set(lists)) == 4  # each page, the first once more at the end
    assert len(lists) <= 4 + 1 + 2 * 2  # and at most the two under way when it was killed
    left = {path.name for path in workspace.catalog_dir.iterdir()}
    assert left == {f"{summary.crawl}.parquet", ".lock"}


def test_an_interrupted_crawl_goes_on_only_with_the_same_question(
    home: Repo, make_repo: Callable[..., Repo], open_workspace: Open
) -> None:
    broken = Faults(Fault(status(404), match="GET /api/models.*cursor", times=None))
    repos = [home, *(make_repo(f"other/m{i}") for i in range(9))]
    with HubServer(repos, page_size=4, intercept=broken) as server:
        workspace = open_workspace(server.url)

        def interrupted() -> set[str]:
            with pytest.raises(HubError):
                crawl(workspace)
            return {path.name for path in workspace.catalog_dir.iterdir() if path.suffix != ".parquet"}

        assert interrupted() == {"crawl.sqlite", ".lock"}  # closed in order: no -wal, no -shm
        assert workspace.catalog(["id"]).num_rows == 4  # which others can read already
        assert not crawl(workspace, author="acme").resumed
        assert workspace.catalog(["id"]).num_rows == 5  # its own, and what the other one had decided
        interrupted()
        broken.clear()
        assert not crawl(workspace, restart=True).resumed
        assert not crawl(workspace).resumed
        broken.add(Fault(status(404), match="GET /api/models.*cursor", times=None))
        interrupted()
        broken.clear()
        again = crawl(workspace)
    assert again.resumed
    assert (again.listed, again.unchanged) == (6, 6)  # the others were met before
    assert ends(workspace) == {repo.id: "eligible" for repo in repos}


def test_a_hub_that_changes_while_it_is_listed(open_workspace: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["crawler.crawl"], "TOP_UP_SECONDS", 0.0)

    def change(catalog: SyntheticCatalog, pages: int) -> None:
        if pages == 2:
            catalog.add(5)
            catalog.delete(10)  # listed already
            catalog.delete(190)  # not yet listed
            catalog.rename(20, "owner/renamed-late")
            catalog.rename(195, "owner/renamed-early")

    catalog = SyntheticCatalog(200, after_page=change)
    with HubServer(catalog, page_size=50) as server:
        before = {i: catalog.repo_id(i) for i in range(200)}
        workspace = open_workspace(server.url)
        crawl(workspace)
        found = ends(workspace)
        for index in catalog.indices():
            if index not in (20, 195):
                assert found[catalog.repo_id(index)] == catalog.expected(index).value
        assert found["owner/renamed-early"] == catalog.expected(195).value
        assert before[190] not in found
        assert before[195] not in found
        crawl(workspace)
        now = {row["id"]: row["eligibility"] for row in workspace.catalog(["id", "eligibility"]).to_pylist()}
    assert now[before[10]] == "gone"
    assert now[before[20]] == "renamed"
    assert now["owner/renamed-late"] == catalog.expected(20).value


def test_a_later_crawl_books_what_is_new_changed_gone_or_renamed(
    hub: HubServer, make_repo: Callable[..., Repo], open_workspace: Open
) -> None:
    catalog: Any = hub.catalog
    for name in ("stays", "changes", "goes", "moves"):
        catalog.add(make_repo(f"acme/{name}"))
    workspace = open_workspace(hub.url)
    crawl(workspace)
    rows = workspace.catalog(history=True).num_rows

    changed = make_repo("acme/changes", id2label={str(i): f"new {i}" for i in range(5)})
    catalog.add(changed)
    catalog.remove("acme/goes")
    catalog.remove("acme/moves")
    catalog.add(make_repo("acme/new"))
    catalog.add(make_repo("acme/moved"))
    moved = Repo("acme/moves", {}, renamed_to="acme/moved")
    moved.files = {"README.md": RepoFile.of("README.md", b"moved")}
    catalog.add(moved)
    hidden = catalog._records["acme/moves"] = catalog.record(moved) | {"pipeline_tag": "none"}
    assert hidden["pipeline_tag"] == "none"

    summary = crawl(workspace)
    assert (summary.new, summary.changed, summary.departed) == (2, 1, 2)
    newest = {row["id"]: row for row in workspace.catalog().to_pylist()}
    assert newest["acme/goes"]["eligibility"] == "gone"
    assert (newest["acme/moves"]["eligibility"], newest["acme/moves"]["renamed_to"]) == ("renamed", "acme/moved")
    assert newest["acme/changes"]["sha"] == changed.sha
    assert newest["acme/changes"]["id2label"][0] == "new 0"
    history = workspace.catalog(history=True)
    assert history.num_rows == rows + 5
    both = history.filter(pc.field("id") == "acme/changes").to_pylist()
    assert len({row["sha"] for row in both}) == 2
    assert len({row["crawled_at"] for row in both}) == 2

    third = crawl(workspace)
    assert (third.new, third.changed, third.departed) == (0, 0, 0)
    assert workspace.catalog(history=True).num_rows == rows + 5


def test_what_is_listed_no_longer_is_asked_after(
    hub: HubServer, make_repo: Callable[..., Repo], open_workspace: Open
) -> None:
    """It may be there under another task, or nobody may know: then it stays as it was, and is asked after again."""
    catalog: Any = hub.catalog
    for name in ("retagged", "unknown"):
        catalog.add(make_repo(f"acme/{name}"))
    workspace = open_workspace(hub.url)
    crawl(workspace)
    for name in ("retagged", "unknown"):
        record = catalog._records[f"acme/{name}"]
        catalog._records[f"acme/{name}"] = record | {"pipeline_tag": "text-generation"}
    harm = Faults(Fault(redirect_to("http://127.0.0.1:9"), match="GET /api/models/acme/unknown", times=None))
    hub.intercept = harm
    summary = crawl(workspace)
    found = ends_of(workspace)
    assert (summary.departed, found["acme/retagged"]) == (1, "not_a_classifier")
    assert found["acme/unknown"] == "eligible"
    harm.clear()
    assert crawl(workspace).departed == 1, "what is booked is not booked again"
    assert ends_of(workspace)["acme/unknown"] == "not_a_classifier"
    rows = workspace.catalog(history=True).num_rows
    assert crawl(workspace).departed == 0
    assert workspace.catalog(history=True).num_rows == rows


def ends_of(workspace: Workspace) -> dict[str, str]:
    return {row["id"]: row["eligibility"] for row in workspace.catalog(["id", "eligibility"]).to_pylist()}


def test_a_clock_that_was_put_back_keeps_no_stale_row(
    hub: HubServer, make_repo: Callable[..., Repo], open_workspace: Open
) -> None:
    catalog: Any = hub.catalog
    catalog.add(make_repo("acme/changes"))
    workspace = open_workspace(hub.url)
    crawl(workspace)
    for path in table_files(workspace.catalog_dir):  # as a clock a year ahead would have written it
        table = read_file(path)
        place = table.column_names.index("crawled_at")
        later = pc.add(table["crawled_at"], pa.scalar(timedelta(days=365), pa.duration("us")))
        write_table(path, table.set_column(place, table.schema.field(place), later))
    for labels in ("new", "newer"):
        changed = make_repo("acme/changes", id2label={str(i): f"{labels} {i}" for i in range(5)})
        catalog.add(changed)
        assert crawl(workspace).changed == 1
        newest = {row["id"]: row for row in workspace.catalog().to_pylist()}
        assert newest["acme/changes"]["sha"] == changed.sha
        assert crawl(workspace).changed == 0


def test_other_limits_decide_everything_again(hub: HubServer, open_workspace: Open) -> None:
    workspace = open_workspace(hub.url)
    crawl(workspace)
    strict = CrawlConfig(opt_out=("acme",), max_parameters=100)
    again = Workspace(workspace.root, Config(endpoint=hub.url, crawl=strict))
    summary = crawl(again)
    assert summary.unchanged == 0
    newest = {row["id"]: row["eligibility"] for row in again.catalog(["id", "eligibility"]).to_pylist()}
    assert newest["acme/home"] == Status.OPTED_OUT.value
    assert crawl(again).unchanged > 25
    assert crawl(workspace, limit=2).changed == 2
    last = crawl(again)  # only those two have to be decided again
    assert (last.changed, last.unchanged) == (2, last.listed - 2)


def test_interrupting_a_crawl_that_waits_for_its_turn_takes_no_time(
    make_repo: Callable[..., Repo], open_workspace: Open
) -> None:
    limits = Quotas(api=2, resolvers=6, pages=1, window=300)
    repos = [make_repo(f"acme/m{i}") for i in range(20)]
    with HubServer(repos, limiter=RateLimiter(limits)) as server:
        workspace = open_workspace(server.url)
        running = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(workspace.root)],
            stderr=subprocess.DEVNULL,
            # a shell ignores SIGINT in what it starts in the background, and children inherit that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        while server.requests.count("resolvers") < 1:
            time.sleep(0.05)
        time.sleep(0.3)
        running.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert running.wait(timeout=200) != 0
        assert time.monotonic() - began < 150


def test_a_filtered_crawl_says_nothing_of_the_rest(
    hub: HubServer, make_repo: Callable[..., Repo], open_workspace: Open
) -> None:
    workspace = open_workspace(hub.url)
    crawl(workspace)
    hub.catalog.add(make_repo("acme/second"))  # type: ignore[attr-defined]
    summary = crawl(workspace, author="acme")
    assert (summary.listed, summary.new, summary.unchanged, summary.departed) == (2, 1, 1, 0)
    assert crawl(workspace, search="second").listed == 1
    assert crawl(workspace, library="timm").listed == 0
    assert crawl(workspace, tags=["safetensors"], author="acme").listed == 2


def test_two_crawls_of_one_workspace_do_not_mix(hub: HubServer, open_workspace: Open) -> None:
    workspace = open_workspace(hub.url)
    with crawl_state(workspace, "", "", ""), pytest.raises(WorkspaceError, match="another crawl"):
        crawl(workspace)
    assert crawl(workspace, dry_run=True).listed == crawl(workspace).listed
