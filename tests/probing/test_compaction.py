"""Responses merged into shards and split again: always the same rows, whenever a kill comes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa  # noqa: TC002
import pytest

import probing
from probing import inflight, responses
from tests.probing.conftest import Repos
from workspace import Workspace
from workspace.files import TEMPORARY_PREFIX

MODELS = 5


def _rows(workspace: Workspace) -> pa.Table:
    return workspace.responses().sort_by([("repo_id", "ascending"), ("logit", "ascending")])


def _names(workspace: Workspace) -> list[str]:
    return sorted(p.name for p in workspace.responses_dir(workspace.probe_set).glob("*.parquet"))


@pytest.fixture
def probed(probe_once: Callable[[int], Workspace]) -> Workspace:
    return probe_once(MODELS)


def _probe(workspace: Workspace, repos: Repos, **options: Any) -> probing.ProbeSummary:
    return probing.probe(workspace, repos.fetch, progress=False, isolate=False, **options)


def test_shards_hold_what_the_files_held(probed: Workspace, repos: Repos) -> None:
    probe_set, before, names = probed.probe_set, _rows(probed), _names(probed)
    stray = probed.responses_dir(probe_set) / "0000000000000000.parquet"
    shutil.copy(probed.responses_dir(probe_set) / names[0], stray)  # of a model that was never committed
    assert responses.compact_responses(probed, probe_set, least=MODELS + 1) == 0
    assert responses.compact_responses(probed, probe_set, least=2) == MODELS
    stray.unlink()
    (shard,) = _names(probed)
    assert shard.startswith("compacted-")
    assert _rows(probed).equals(before)
    content = (probed.responses_dir(probe_set) / shard).read_bytes()
    assert responses.compact_responses(probed, probe_set, least=1) == 0, "a shard is not merged again"
    again = _probe(probed, repos, retry=["ok"], models=["model-2"])
    assert again.run == 1
    assert _names(probed) == names, "the shard was split, so that one of its models could be replaced"
    assert _rows(probed).equals(before)
    responses.compact_responses(probed, probe_set, least=1)
    assert _names(probed) == [shard], "named by what is in it"
    assert (probed.responses_dir(probe_set) / shard).read_bytes() == content, "so descriptors of it stay as they are"


def test_a_share_is_raised_from_a_shard(probed: Workspace, repos: Repos) -> None:
    _probe(probed, repos, fraction=0.5, retry=["ok"])
    responses.compact_responses(probed, probed.probe_set, least=1)
    _probe(probed, repos, fraction=0.8)
    lengths = {len(ids) for ids in _rows(probed)["probe_ids"].to_pylist() if ids is not None}
    assert (lengths, len(_names(probed))) == ({56}, MODELS)


@pytest.mark.parametrize("kill_at", [0, 4, 9, *range(12, 20)])
def test_a_kill_at_any_moment_leaves_all_rows_once(probed: Workspace, kill_at: int, tmp_path: Path) -> None:
    probe_set, before = probed.probe_set, _rows(probed)
    child = os.fork()
    if child == 0:  # dies at its n-th change of the file system
        _die_at(kill_at)
        responses.compact_responses(probed, probe_set, least=1)
        os._exit(0)
    os.waitpid(child, 0)
    folder = probed.responses_dir(probe_set)
    assert not folder.exists() or _rows(probed).equals(before), "nothing twice, nothing lost; or nothing to read at all"
    responses.recover(probed, probe_set)
    assert _rows(probed).equals(before)
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
    responses.compact_responses(probed, probe_set, least=1)
    assert _rows(probed).equals(before)


def _die_at(count: int) -> None:
    left = count

    def counted(function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal left
            if left == 0:
                os._exit(1)
            left -= 1
            return function(*args, **options)

        return call

    os.link = counted(os.link)
    for name in ("rename", "mkdir", "unlink", "rmdir", "replace"):
        if name != "replace":
            setattr(os, name, counted(getattr(os, name)))


def test_nothing_is_compacted_while_a_model_runs(probed: Workspace) -> None:
    path = inflight.put(probed, "0" * 16, "a/b", "c", 0)
    assert responses.compact_responses(probed, probed.probe_set, least=1) == 0
    path.unlink()
    assert responses.compact_responses(probed, probed.probe_set, least=1) == MODELS


def test_what_another_launch_writes_meanwhile_is_kept(probed: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = probed.responses_dir(probed.probe_set)
    write = responses.write

    def slow(path: Path, rows: Any) -> int:
        (folder / "late.parquet").write_bytes(next(folder.glob("*.parquet")).read_bytes())
        return write(path, rows)

    monkeypatch.setattr(responses, "write", slow)
    responses.compact_responses(probed, probed.probe_set, least=1)
    assert len(_names(probed)) == 2
    assert (folder / "late.parquet").exists()


def test_what_is_no_table_of_the_folder_stays_where_it_is(probed: Workspace) -> None:
    folder = probed.responses_dir(probed.probe_set)
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("kept")
    unfinished = folder / f"{TEMPORARY_PREFIX}x.parquet"  # another launch writes it
    unfinished.write_bytes(b"half")
    before = _rows(probed)
    assert responses.compact_responses(probed, probed.probe_set, least=1) == MODELS
    assert (folder / "notes" / "a.txt").read_text() == "kept"
    assert unfinished.read_bytes() == b"half"
    assert _rows(probed).equals(before)
