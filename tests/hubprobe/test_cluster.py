"""Ray: a cluster of pretended nodes, one taken away and one added, a driver that is killed; the rows of one run."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import crawler
from hubprobe import front
from hubprobe.cli import cli
from hubprobe.cluster import Spec, _Driver
from hubprobe.demo.server import HubServer, demo_repos
from hubprobe.sync import sync
from probing import inflight, probes
from tests.built import ROOT
from tests.hubs.faults import Fault, Faults, held
from workspace import Config, HubprobeError, Workspace
from workspace.config import WorkspaceConfig

NODE = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False, "node_ip_address": "127.0.0.1"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="ray has no wheel for this Python")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("nodes")))  # of what the nodes start
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patched.setenv("RAY_worker_niceness", "0")  # 15 by default: on a busy machine its workers would stand still
        made = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0}, shutdown_at_exit=True)
        yield made
        ray.shutdown()
        made.shutdown()


def _crawled(folder: Path, names: Path, server: HubServer) -> Workspace:
    workspace = Workspace.create(folder, Config(endpoint=server.url))
    probes.build(workspace, str(ROOT / "hubprobe" / "demo" / "probes.parquet"), n=24, seed=0, progress=False)
    shutil.copytree(names, workspace.cache_dir, dirs_exist_ok=True)
    crawler.crawl(workspace, token=False, progress=False)
    return workspace


@pytest.fixture
def harm() -> Faults:
    return Faults()


@pytest.fixture
def hub(tmp_path: Path, names: Path, harm: Faults) -> Iterator[Workspace]:
    """A crawled workspace of some of the demo hub's models and all that must not be probed."""
    repos = demo_repos(with_lite0=False)
    with HubServer(repos[:14] + repos[27:], intercept=harm) as server:
        yield _crawled(tmp_path / "index", names, server)


def _ok(workspace: Workspace) -> set[str]:
    return {r["repo_id"] for r in workspace.attempts(["repo_id", "outcome"]).to_pylist() if r["outcome"] == "ok"}


def _wait(condition: Callable[[], bool], seconds: float = 600.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the driver be on a machine of its own, whose disks no actor sees."""
    begin = _Driver.__init__

    def begin_elsewhere(self: _Driver, ray: Any, spec: Spec, *rest: Any) -> None:
        begin(self, ray, replace(spec, root="/nowhere/at/all"), *rest)

    monkeypatch.setattr(_Driver, "__init__", begin_elsewhere)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nodes_and_the_driver_die_and_nothing_is_lost_or_run_twice(
    cluster: Any, hub: Workspace, harm: Faults, tmp_path: Path
) -> None:
    shutil.copytree(hub.root, tmp_path / "alone")
    alone = front.probe(Workspace.open(tmp_path / "alone"), token="", progress=False)
    nodes = [cluster.add_node(**NODE) for _ in range(3)]

    killed, removed = threading.Event(), threading.Event()  # until then only some models are given away
    harm.add(Fault(held(killed), match="GET /repos/", times=None, skip=4))
    verb = ["probe", "--workspace", str(hub.root), "--engine", "ray", "--address", cluster.address, "--cpus", "1"]
    verb += ["--workers", "1"]
    first = subprocess.Popen([sys.executable, "-m", "hubprobe", *verb], stderr=subprocess.DEVNULL)
    _wait(lambda: len(_ok(hub)) >= 2 or first.poll() is not None)
    first.kill()
    assert first.wait() != 0, "it was killed in the middle"
    before = hub.attempts(["repo_id", "attempt", "started_at"]).to_pylist()
    assert len(_ok(hub)) < alone.ok - 4
    harm.clear()
    killed.set()
    harm.add(Fault(held(removed), match="GET /repos/", times=None, skip=7))

    with ThreadPoolExecutor(1) as aside:  # nodes are added by the main thread: Ray sets signals for them
        run = aside.submit(front.probe, hub, token="", progress=False, ray={"address": cluster.address, "cpus": 1})
        some = len(_ok(hub)) + 3
        _wait(lambda: len(_ok(hub)) >= some or run.done())
        assert not run.done()
        cluster.remove_node(nodes[0], allow_graceful=False)
        cluster.add_node(**NODE)
        harm.clear()
        removed.set()
        ended = run.result(timeout=600)

    assert ended.processes >= 2
    assert (ended.attempted, ended.ok, ended.skipped, ended.failed) == (
        alone.attempted, alone.ok, alone.skipped, alone.failed
    )  # fmt: skip
    assert ended.attempted == ended.ok + ended.skipped + ended.failed
    history = hub.attempts(["repo_id", "attempt", "status", "started_at"], history=True).to_pylist()
    assert {row["attempt"] for row in history} == {1}
    assert len(history) == alone.attempted, "every model is committed once"
    kept = {row["repo_id"]: row["started_at"] for row in history}
    assert all(kept[row["repo_id"]] == row["started_at"] for row in before), "what was committed was not run again"
    order = [("repo_id", "ascending"), ("logit", "ascending")]
    assert hub.responses().sort_by(order).equals(Workspace.open(tmp_path / "alone").responses().sort_by(order))
    assert not list(hub.attempts_dir.glob(f"{inflight.PREFIX}*"))
    lines = [line for path in hub.runs_dir.glob("*.jsonl") for line in path.read_text().splitlines()]
    assert len(lines) >= alone.ok, "a line a model, as for one machine"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nodes_that_do_not_see_the_workspace_say_so_and_need_a_remote(
    cluster: Any, elsewhere: None, names: Path, tmp_path: Path
) -> None:
    cluster.add_node(**NODE)
    options: dict[str, Any] = {"token": "", "progress": False, "ray": {"address": cluster.address, "cpus": 1}}
    repos = demo_repos(with_lite0=False)
    with HubServer([*repos[:4], *(repo for repo in repos if "malformed" in repo.id)]) as server:
        hub = _crawled(tmp_path / "index", names, server)
        with pytest.raises(HubprobeError, match=r"3 probers failed .* does not see the driver's /nowhere/at/all"):
            front.probe(hub, **options)
        assert not _ok(hub)
        there = (tmp_path / "bucket").as_uri()
        hub = Workspace(hub.root, replace(hub.config, workspace=WorkspaceConfig(remote=there)))
        sync(hub, progress=False)
        ended = front.probe(hub, **options)
    assert (ended.run, ended.ok, ended.duplicates) == (4, 4, 0)
    assert not hub.responses_dir(hub.probe_set).exists(), "they lie where they were made, and in the remote"
    sync(tmp_path / "pulled", remote=there, progress=False)
    pulled = Workspace.open(tmp_path / "pulled")
    assert len(set(pulled.responses()["repo_id"].to_pylist())) == 4
    assert not pulled.holes()


def test_without_a_cluster_it_says_how_to_have_one(hub: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="ray has no wheel for this Python")
    verb = ["probe", "--workspace", str(hub.root)]
    with pytest.raises(HubprobeError, match="start one with 'ray start --head'"):
        CliRunner().invoke(cli, [*verb, "--engine", "ray", "--address", "127.0.0.1:1"], catch_exceptions=False)
    wrong = CliRunner().invoke(cli, [*verb, "--cpus", "2"])
    assert "for --engine ray" in wrong.output
    monkeypatch.setattr("hubprobe.cluster.find_spec", lambda _: None)
    with pytest.raises(HubprobeError, match=r"pip install 'hubprobe\[ray\]'"):
        CliRunner().invoke(cli, [*verb, "--engine", "ray"], catch_exceptions=False)
