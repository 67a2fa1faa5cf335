"""What a crawl keeps while it runs: killed before every step, on full disks, damaged, as earlier versions left it."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import crawler
from crawler import state
from crawler.crawl import policy
from crawler.state import FILE, POLICY
from hubprobe.demo.server import HubServer
from tests.hubs.faults import Fault, Faults, status
from tests.hubs.synthetic import SyntheticCatalog
from workspace import DamagedFileError, HubError, Workspace, WorkspaceError
from workspace.files import notes_of, read_file, table_files, write_json, write_table

Open = Callable[..., Workspace]
REPOS = 12
NEXT_PAGE = "GET /api/models.*cursor"


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer(SyntheticCatalog(REPOS), page_size=5, intercept=Faults()) as server:
        yield server


@pytest.fixture
def workspace(server: HubServer, open_workspace: Open) -> Workspace:
    """One whose crawls are decided by the listing alone."""
    return open_workspace(server.url, excluded_licenses=("apache-2.0",))


def crawl(workspace: Workspace, **options: Any) -> crawler.CrawlSummary:
    return crawler.crawl(workspace, token=False, progress=False, **options)


def interrupt(workspace: Workspace, server: HubServer) -> None:
    """Crawl the first page, then have the hub refuse."""
    assert isinstance(server.intercept, Faults)
    server.intercept.add(Fault(status(404), match=NEXT_PAGE, times=None))
    with pytest.raises(HubError):
        crawl(workspace)
    server.intercept.clear()


def names(workspace: Workspace) -> list[str]:
    return sorted(workspace.catalog(["id"], history=True)["id"].to_pylist())


def all_names(repos: int = REPOS) -> list[str]:
    hub = SyntheticCatalog(repos)
    return sorted(hub.repo_id(i) for i in range(repos))


def left(workspace: Workspace) -> set[str]:
    """Return what lies in the catalog's folder and is no finished file of rows."""
    return {p.name for p in workspace.catalog_dir.iterdir() if p.suffix != ".parquet" or "-" in p.stem}


# ── kill -9 ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def crawl_and_die(root: str, point: int) -> None:
    """Crawl, and die before the ``point``-th of the steps that change what is on disk: commits, renames, deletions."""
    steps = 0

    def step(what: str) -> None:
        nonlocal steps
        steps += what.split(" ")[0] in ("BEGIN", "COMMIT", "os.rename", "os.remove")
        if steps == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        made = plain_connect(*arguments, **options)
        made.set_trace_callback(step)
        return made

    plain_connect, sqlite3.connect = sqlite3.connect, connect
    sys.addaudithook(lambda event, args: step(event) if str(args[:1]).find("/catalog/") > 0 else None)
    state.COMMIT_ROWS, state.EXPORT_ROWS = 2, 4
    crawl(Workspace.open(root))


def test_killed_before_any_step_and_once_more_nothing_is_lost_or_twice_there(
    workspace: Workspace, tmp_path: Path
) -> None:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])  # the libraries are imported once
    found: set[str] = set()  # what the killed ones left besides finished files
    point = 0
    while True:
        point += 1
        copy = Path(shutil.copytree(workspace.root, tmp_path / "copies" / str(point)))
        for at in (point, 1 + 7 * point % 11)[: 1 + (point % 4 == 0)]:  # and some die again
            running = processes.Process(target=crawl_and_die, args=(str(copy), at))
            running.start()
            running.join()
            assert running.exitcode in (0, -signal.SIGKILL)
            if at == point:
                alive = running.exitcode == 0
                found |= {name.replace(str(running.pid), "PID") for name in left(Workspace(copy))}
        crawl(Workspace.open(copy))
        assert names(Workspace.open(copy)) == all_names()
        assert left(Workspace.open(copy)) == {".lock"}
        shutil.rmtree(copy)
        if alive:
            break
    assert point > 30
    assert {FILE, f"{FILE}-wal"} < found
    assert any(name.startswith(".tmp-") for name in found), "none died while a file was written"
    assert any("-00000" in name and name.endswith(".parquet") for name in found), "none died with rows in parts"


@pytest.mark.parametrize("harm", ["gone", "cut", "flipped"])
def test_a_log_that_a_kill_left_and_somebody_harmed(workspace: Workspace, harm: str) -> None:
    processes = multiprocessing.get_context("forkserver")
    running = processes.Process(target=crawl_and_die, args=(str(workspace.root), 14))
    running.start()
    running.join()
    log = workspace.catalog_dir / f"{FILE}-wal"
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 0xFF
    log.write_bytes({"gone": b"", "cut": content[: len(content) // 2], "flipped": content}[harm])
    crawl(workspace)
    assert names(workspace) == all_names()
    assert [name for name in left(workspace) if not name.endswith(".parquet")] == [".lock"]


# ── what is seen from outside ────────────────────────────────────────────────────────────────────────────────────────
def test_the_catalog_is_read_while_it_grows(open_workspace: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "COMMIT_ROWS", 10)
    monkeypatch.setattr(state, "EXPORT_ROWS", 20)
    counts: list[int] = []

    def read(_hub: SyntheticCatalog, _pages: int) -> None:
        if table_files(workspace.catalog_dir):
            counts.append(len(set(names(workspace))))

    with HubServer(SyntheticCatalog(100, after_page=read), page_size=10) as server:
        workspace = open_workspace(server.url, excluded_licenses=("apache-2.0",))
        crawl(workspace)
    assert counts == sorted(counts)
    assert 0 < counts[0] < 100
    assert len(set(counts)) > 2
    (merged,) = table_files(workspace.catalog_dir)
    assert read_file(merged, columns=["id"])["id"].to_pylist() == [SyntheticCatalog(100).repo_id(i) for i in range(100)]


def test_a_summary_counts_a_repository_once(
    workspace: Workspace, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys.modules["crawler.crawl"], "TOP_UP_SECONDS", -1.0
    )  # the listing is read once more at the end
    first = crawl(workspace)
    assert len(server.requests.matching("/api/models?")) == 4
    assert (first.listed, first.new, sum(first.statuses.values())) == (REPOS, REPOS, REPOS)
    second = crawl(workspace)
    assert (second.listed, second.unchanged, second.new, second.changed) == (REPOS, REPOS, 0, 0)
    assert crawl(workspace, dry_run=True).listed == REPOS


def test_an_empty_listing_is_said_to_be_empty(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    for dry_run in (True, False):
        caplog.clear()
        summary = crawl(workspace, author="nobody", library="keras", dry_run=dry_run)
        assert (summary.listed, summary.finished) == (0, True)
        (said,) = caplog.messages
        assert "holds no repository" in said
        assert all(word in said for word in ("image-classification", "nobody", "keras", "--task ''"))
    caplog.clear()
    crawl(workspace)
    crawl(workspace)  # finds nothing new, but something
    assert not caplog.messages


# ── what is wrong with the file ──────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("harm", ["text", "cut", "flipped", "another database", "a flip in what was decided"])
def test_a_damaged_state_is_said_to_be_and_moved_away_nothing_is_lost(
    workspace: Workspace, server: HubServer, harm: str
) -> None:
    interrupt(workspace, server)
    path = workspace.catalog_dir / FILE
    content = path.read_bytes()
    flipped = content[:4096] + bytes(byte ^ 0x55 for byte in content[4096:])
    harmed = {"text": b"no database" * 1000, "cut": content[: len(content) // 3], "flipped": flipped}
    statements = {
        "another database": ("DROP TABLE crawl",),
        "a flip in what was decided": ("UPDATE decided SET keys = CAST(substr(keys, 2) || x'00' AS BLOB)",),
    }
    path.write_bytes(harmed.get(harm, content))
    with closing(sqlite3.connect(path)) as other:
        for statement in statements.get(harm, ()):
            other.execute(statement)
        other.commit()
    with pytest.raises(DamagedFileError, match="move it away and run 'hubprobe crawl'") as raised:
        crawl(workspace)
    assert str(path) in str(raised.value)
    path.rename(workspace.root / "moved")
    (workspace.catalog_dir / f"{FILE}-wal").write_bytes(b"of the file that was moved" * 1000)
    assert not crawl(workspace).resumed
    assert names(workspace) == all_names()
    assert [name for name in left(workspace) if not name.endswith(".parquet")] == [".lock"]


def test_a_state_of_another_version_begins_anew(
    workspace: Workspace, server: HubServer, caplog: pytest.LogCaptureFixture
) -> None:
    interrupt(workspace, server)
    with closing(sqlite3.connect(workspace.catalog_dir / FILE)) as other:
        other.execute("PRAGMA user_version = 99")
    assert not crawl(workspace).resumed
    assert "begins anew" in caplog.text
    assert names(workspace) == all_names()


def test_a_state_that_another_program_has_open_is_left_alone(workspace: Workspace, server: HubServer) -> None:
    interrupt(workspace, server)
    with closing(sqlite3.connect(workspace.catalog_dir / FILE)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(WorkspaceError, match=r"another program has .* open"):
            crawl(workspace)
    assert crawl(workspace).resumed
    assert names(workspace) == all_names()


def test_catalog_files_moved_away_while_a_crawl_is_interrupted_are_listed_again(
    workspace: Workspace, server: HubServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "EXPORT_ROWS", 1)
    interrupt(workspace, server)
    (part,) = table_files(workspace.catalog_dir)
    part.unlink()
    assert not crawl(workspace).resumed
    assert "begins anew" in caplog.text
    assert names(workspace) == all_names()


FULL = """
    import resource, signal, sys
    import crawler
    from workspace import DiskError, Workspace
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
    try:
        crawler.crawl(Workspace.open(sys.argv[1]), token=False, progress=False)
    except DiskError as error:
        print(error)
"""


@pytest.mark.parametrize("limit", [100, 10_000, 50_000])
def test_a_disk_that_takes_no_more_is_said_to(workspace: Workspace, limit: int) -> None:
    command = [sys.executable, "-c", textwrap.dedent(FULL), str(workspace.root), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"cannot write {workspace.catalog_dir}/"), done.stdout
    assert "files may not grow so large here" in done.stdout
    crawl(workspace)
    assert names(workspace) == all_names()
    assert left(workspace) == {".lock"}


def test_a_database_that_is_full_is_a_full_disk(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        made = plain_connect(*arguments, **options)
        made.execute("PRAGMA max_page_count = 6")
        return made

    plain_connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", connect)
    with pytest.raises(WorkspaceError, match=r"crawl\.sqlite: the disk is full; free space there"):
        crawl(workspace)
    monkeypatch.undo()
    crawl(workspace)
    assert names(workspace) == all_names()


# ── what earlier versions left ───────────────────────────────────────────────────────────────────────────────────────
def as_before_sqlite(workspace: Workspace, rows: int, **journal: Any) -> None:
    """Make of a finished crawl what hubprobe left before it kept its state in SQLite: the first rows, and a journal."""
    (path,) = table_files(workspace.catalog_dir)
    table = read_file(path)
    path.unlink()
    half = rows // 2
    write_table(workspace.catalog_dir / "20261101T000000000000-000001.parquet", table[:half])
    write_table(workspace.catalog_dir / "20261101T000000000000-000002.parquet", table[half:rows])
    rules = policy(workspace.config.crawl)
    known = {"crawl": "20261101T000000000000", "query": "0" * 16, "policy": rules, "decided_under": rules}
    counts = {"next": "http://x/api/models?cursor=y", "pages": 1, "listed": rows, "seen": rows, "requests": {"api": 1}}
    write_json(workspace.catalog_dir / "journal.json", {**known, **counts, "started": "2026-11-01", **journal})


def test_an_interrupted_crawl_of_an_earlier_version_begins_anew_and_keeps_what_it_decided(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    crawl(workspace)
    as_before_sqlite(workspace, 7, finished=False)
    (workspace.catalog_dir / ".seen-20261101T000000000000").write_bytes(bytes(80))
    (workspace.catalog_dir / ".tmp-pending-20261101T000000000000").write_bytes(b"an Arrow stream, cut")
    summary = crawl(workspace)
    assert "an earlier hubprobe began the crawl that was interrupted" in caplog.text
    assert (summary.resumed, summary.unchanged, summary.new) == (False, 7, REPOS - 7)
    assert names(workspace) == all_names()
    assert left(workspace) == {".lock", "journal.json"}
    assert {notes_of(path)[POLICY] for path in table_files(workspace.catalog_dir)} == {policy(workspace.config.crawl)}
    caplog.clear()
    assert crawl(workspace).unchanged == REPOS
    assert not caplog.messages


def test_rows_of_an_earlier_version_are_decided_again_only_under_other_rules(workspace: Workspace) -> None:
    crawl(workspace)
    as_before_sqlite(workspace, REPOS, finished=True)
    assert crawl(workspace).unchanged == REPOS
    write_json(
        workspace.catalog_dir / "journal.json",
        {"crawl": "x", "policy": policy(workspace.config.crawl), "finished": True, "decided_under": ""},
    )
    assert crawl(workspace).changed == REPOS
    assert crawl(workspace).unchanged == REPOS
