"""A workspace's remote, in a folder: hosts that share nothing else, what is forged, and what was compacted here."""

import json

import pytest

import probing
from hubprobe.sync import _checked, sync
from probing.responses import compact_attempts, compact_responses
from workspace import Workspace
from workspace.remote import Remote


@pytest.fixture
def address(tmp_path, monkeypatch):
    """The remote of every workspace of a test."""
    monkeypatch.setenv("HUBPROBE_REMOTE", f"file://{tmp_path}/remote")
    return tmp_path / "remote"


def joined(tmp_path, name):
    """Return a new host's workspace, and its remote, from which it has what a prober needs."""
    workspace = Workspace.create(tmp_path / name)
    remote = Remote(workspace, check=_checked)
    remote.pull("catalog", "probes", "commits")
    return workspace, remote


def measured(workspace):
    """Return the responses, in order, without what names files."""
    table = workspace.responses().sort_by([("repo_id", "ascending"), ("logit", "ascending")])
    return table.combine_chunks()


def test_hosts_share_nothing_but_the_remote(address, tmp_path, workspace, repos):
    for i in range(4):
        repos.vit(f"model-{i}", seed=i)
    repos.list("not/eligible", eligibility="pickle_only", reason="only pickles")
    repos.write_catalog(workspace)
    first = sync(workspace, progress=False)
    assert first.pushed == 1 + 3 + 1 + 1  # catalog, probe set and its pointer, settings
    for number, mine in enumerate((["model-0"], ["model-1", "model-2"], None)):
        host, remote = joined(tmp_path, f"host-{number}")
        before = len(repos.fetched)
        probing.probe(host, repos.fetch, models=mine, remote=remote, progress=False, isolate=False)
        remote.push("models")
        assert len(repos.fetched) - before == (len(mine) if mine else 1)  # the last one finds one left to do
    summary = probing.probe(host, repos.fetch, progress=False, isolate=False)
    assert (summary.attempted, summary.ok, summary.skipped) == (5, 4, 1)  # also of what lies elsewhere only
    assert not host.holes()
    assert len(host.holes(here=True)) == 3

    sync(workspace, progress=False)
    assert {a["repo_id"]: a["status"] for a in workspace.attempts().to_pylist()} == {
        **{f"model-{i}": "ok" for i in range(4)},
        "not/eligible": "pickle_only",
    }
    assert workspace.attempts(history=True).num_rows == 5
    alone = Workspace.create(tmp_path / "alone")
    Remote(alone).pull("catalog", "probes")
    probing.probe(alone, repos.fetch, progress=False, isolate=False)
    assert measured(workspace).equals(measured(alone))


def test_what_was_merged_here_does_not_come_back(address, tmp_path, probe_once):
    workspace = probe_once(3)
    sync(workspace, progress=False)
    objects = sorted(p for p in address.rglob("*") if p.is_file())
    assert compact_attempts(workspace, least=1)
    assert compact_responses(workspace, workspace.probe_set, least=1)
    again = sync(workspace, progress=False)
    assert (again.pulled, again.pushed) == (0, 0)
    assert sorted(p for p in address.rglob("*") if p.is_file()) == objects
    assert workspace.attempts(history=True).num_rows == 3
    other = tmp_path / "other"
    assert sync(other, remote=f"file://{address}", progress=False).pulled > 5
    assert measured(Workspace.open(other)).equals(measured(workspace))


def test_merged_files_are_pushed_as_models(address, tmp_path, probe_once):
    workspace = probe_once(3)
    compact_attempts(workspace, least=1)
    compact_responses(workspace, workspace.probe_set, least=1)
    sync(workspace, progress=False)
    other = Workspace.create(tmp_path / "other")
    sync(other, progress=False)
    assert measured(other).equals(measured(workspace))
    assert other.attempts().equals(workspace.attempts())


def test_a_dry_run_counts_and_writes_nothing(address, tmp_path, probe_once):
    workspace = probe_once(2)
    told = sync(workspace, dry_run=True, progress=False)
    assert told.pushed >= 4
    assert not any(p.is_file() for p in address.rglob("*"))


@pytest.mark.parametrize("how", ["other bytes", "other bytes of the row", "cut", "another model's"])
def test_forged_attempts_are_refused(address, tmp_path, probe_once, how):
    workspace = probe_once(2)
    sync(workspace, progress=False)
    one, two = sorted(p for p in (address / "attempts").rglob("*") if p.is_file())
    content = one.read_bytes()
    if how == "other bytes":  # of the responses
        one.write_bytes(content[:-9] + b"x" + content[-8:])
    elif how == "other bytes of the row":
        one.write_bytes(content[:50] + b"x" + content[51:])
    elif how == "cut":
        one.write_bytes(content[:100])
    else:
        said = one.name.split("-")
        (one.parent / "-".join([*said[:5], *two.name.split("-")[5:]])).write_bytes(two.read_bytes())
        one.unlink()
    other = Workspace.create(tmp_path / "other")
    told = sync(other, progress=False)
    assert told.refused >= 1
    assert other.attempts(history=True).num_rows == 1


@pytest.mark.parametrize(
    "name", ["../../../../out", "index/../../out", "catalog/x.parquet", "/etc/passwd", "index/.hidden", "hubprobe.toml"]
)
def test_names_that_leave_the_folder_are_refused(address, tmp_path, probe_once, name):
    workspace = probe_once(1)
    sync(workspace, progress=False)
    (address / "index").mkdir()
    (address / "index" / "current.json").write_text(json.dumps({"files": {name: ["a" * 64, 1]}}))
    with pytest.raises(Exception, match=r"lists what no index consist"):
        sync(Workspace.create(tmp_path / "other"), progress=False)


def test_a_row_that_no_host_may_read_is_left_to_each(address, tmp_path, probe_once, repos):
    here = probe_once(1)
    repos.list("odd", "malformed_row", "its row cannot be read", sha="")
    repos.write_catalog(here)
    probing.probe(here, repos.fetch, progress=False, isolate=False)
    assert here.attempts().num_rows == 2
    sync(here, progress=False)
    other, _ = joined(tmp_path, "other")
    assert [row["repo_id"] for row in other.attempts(["repo_id"]).to_pylist()] == ["model-0"]
