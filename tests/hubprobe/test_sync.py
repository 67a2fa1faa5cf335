"""What verbs do with a remote by themselves: those that read pull, and the last of independent jobs ends the crawl."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import crawler
import hubprobe
import search
from benchmarks.search.data import World, write_workspace
from hubprobe import front
from hubprobe.cli import cli
from hubprobe.demo.server import HubServer, demo_repos
from hubprobe.page import opened
from hubprobe.sync import checked_index, fresh, sync, synced
from probing import probes
from probing.plan import Shard
from tests.built import ROOT
from workspace import Config, Workspace
from workspace.config import SearchConfig
from workspace.errors import DamagedFileError, RemoteError
from workspace.remote import Remote


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A remote with a catalog, probes, attempts and an index."""
    folder = tmp_path_factory.mktemp("shared")
    workspace = write_workspace(folder / "work", World.make(60), 0, 300)
    search.index(workspace, encoder="none", progress=False)
    there = (folder / "remote").as_uri()
    sync(workspace.root, remote=there, progress=False)
    return there


MODEL = "SELECT repo_id FROM logits ORDER BY 1 LIMIT 1"


@pytest.mark.parametrize(
    "verb",
    [
        ["status"],
        ["sql", MODEL],
        ["index", "info"],
        ["similar", "{model}", "0"],
        ["use", "{model}", "--format", "json"],
        ["compare", "{model}", "{other}"],
        ["plot", "funnel", "--out", "{folder}/funnel.svg"],
    ],
    ids=lambda verb: verb[0],
)
def test_a_verb_that_reads_pulls_what_is_new(
    address: str, verb: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUBPROBE_REMOTE", address)
    Workspace.create(tmp_path / "empty")
    one, other = (f"{MODEL} OFFSET {i}".replace("SELECT", "SELECT DISTINCT") for i in (0, 1))
    if any("{model}" in word for word in verb):
        known = hubprobe.open(address)
        names = {"model": known.sql(one).to_pylist()[0]["repo_id"], "other": known.sql(other).to_pylist()[0]["repo_id"]}
    else:
        names = {}
    words = [word.format(folder=tmp_path, **names) for word in verb]
    told = CliRunner().invoke(cli, [*words, "--workspace", str(tmp_path / "empty")], catch_exceptions=False)
    assert told.exit_code == 0, told.output


def test_no_verb_opens_a_workspace_past_the_rule() -> None:
    """Who reads goes through `hubprobe.sync.fresh`; those that write, or have none to read, are these."""
    known = {"sync.py", "front.py", "cli/options.py", "doctor/folder.py", "demo/run.py", "page/pick_child.py"}
    room = ROOT / "hubprobe"
    opening = {
        path.relative_to(room).as_posix()
        for path in room.rglob("*.py")
        if re.search(r"\bWorkspace\.open\(", path.read_text(encoding="utf-8"))
    }
    assert opening == known


def test_a_table_of_an_index_may_have_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "listed.parquet"
    pq.write_table(pa.table({"row": pa.array([], pa.int64()), "name": pa.array([], pa.string())}), path)
    checked_index(path)


def test_a_page_pulls_again_and_answers_from_what_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = (tmp_path / "bucket").as_uri()
    first = write_workspace(tmp_path / "first", World.make(40), 0, 100)
    search.index(first, encoder="none", progress=False)
    sync(first.root, remote=there, progress=False)
    monkeypatch.setenv("HUBPROBE_REMOTE", there)
    Workspace.create(tmp_path / "second")
    page = opened.Current(fresh(tmp_path / "second", "open"))
    version, before = page.get().index.version, set(threading.enumerate())
    search.index(first, encoder="none", progress=False, rebuild=True)
    sync(first.root, progress=False)

    def again() -> None:
        page.get()
        for thread in set(threading.enumerate()) - before:
            if thread.name in ("pull", "renew"):
                thread.join()

    monkeypatch.setattr(opened, "CHECK_S", -1.0)
    again()  # not yet time to pull
    assert page.get().index.version == version
    monkeypatch.setattr(opened, "PULL_S", -1.0)
    again()
    again()
    assert page.get().index.version != version


@pytest.mark.parametrize("error", [RemoteError("it is away"), DamagedFileError(Path("x"), "no table", "take another")])
def test_a_verb_that_reads_goes_on_with_what_is_here(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def pull(*_: object) -> None:
        raise error

    monkeypatch.setattr(Remote, "pull", pull)
    monkeypatch.setenv("HUBPROBE_REMOTE", (tmp_path / "bucket").as_uri())
    workspace = Workspace.create(tmp_path / "empty")
    assert fresh(workspace.root, "status").root == workspace.root
    assert f"{error}; answered from what is here" in caplog.text
    with pytest.raises(type(error)), synced(workspace, "crawl"):  # one that writes does not
        pass


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer(demo_repos(with_lite0=False)[:4]) as made:
        yield made


def test_the_last_of_independent_jobs_completes_and_indexes_what_all_have_run(
    server: HubServer, names: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUBPROBE_REMOTE", (tmp_path / "bucket").as_uri())
    config = Config(endpoint=server.url, search=SearchConfig(encoder="none"))
    first = Workspace.create(tmp_path / "first", config)
    probes.build(first, str(ROOT / "hubprobe" / "demo" / "probes.parquet"), n=24, seed=0, progress=False)
    shutil.copytree(names, first.cache_dir, dirs_exist_ok=True)
    crawler.crawl(first, token="", progress=False)
    sync(first, progress=False)
    keys = sorted((row["id"], row["sha"]) for row in first.catalog(["id", "sha"]).to_pylist())
    share = [name for name, sha in keys if Shard(0, 2).owns(name, sha)]
    assert 0 < len(share) < len(keys)

    run = partial(front.run, token="", progress=False, check=False)
    with monkeypatch.context() as patched:  # it ends with its share while the other job has the rest
        patched.setattr(front, "probe", partial(front.probe, models=share))
        early = run(first, shard="0/2")
    assert (early.probe.run, early.complete, early.index) == (len(share), None, None)
    assert not (tmp_path / "bucket" / "index").exists()

    second = Workspace.create(tmp_path / "second", config)
    shutil.copytree(names, second.cache_dir, dirs_exist_ok=True)
    last = run(second, shard="1/2")
    assert last.probe.run == len(keys) - len(share)
    assert last.index is not None
    index = hubprobe.open(first.root)  # what the other host made, pulled
    assert len(index) == last.index.logits > 0
    models = index.sql("SELECT DISTINCT repo_id FROM logits ORDER BY 1")["repo_id"].to_pylist()
    assert models == [name for name, _ in keys]
