"""An ``ok`` attempt whose responses are gone, cut, exchanged or damaged is no longer done: it is run again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import completion
import probing
from hubprobe.doctor.folder import _holes as examined
from hubprobe.front import status
from probing import responses
from tests.probing.conftest import SHA, Repos
from workspace import Workspace, WorkspaceError, model_file_name
from workspace.files import read_file, table_files, write_table

MODELS = 4


def _probe(workspace: Workspace, repos: Repos, **options: Any) -> probing.ProbeSummary:
    return probing.probe(workspace, repos.fetch, progress=False, isolate=False, **options)


def _path(workspace: Workspace, i: int) -> Path:
    return workspace.responses_dir(workspace.probe_set) / f"{model_file_name(f'model-{i}', SHA)}.parquet"


@pytest.fixture
def probed(probe_once: Callable[[int], Workspace]) -> Workspace:
    return probe_once(MODELS)


def _gone(workspace: Workspace) -> None:
    _path(workspace, 1).unlink()


def _cut(workspace: Workspace) -> None:
    path = _path(workspace, 1)
    write_table(path, read_file(path).slice(0, 1))


def _fewer_probes(workspace: Workspace) -> None:
    path = _path(workspace, 1)
    table = read_file(path)
    fewer = [None if ids is None else ids[:-1] for ids in table["probe_ids"].to_pylist()]
    place = table.column_names.index("probe_ids")
    write_table(path, table.set_column(place, table.schema.field(place), pa.array(fewer, pa.list_(pa.int32()))))


def _of_another(workspace: Workspace) -> None:
    _path(workspace, 1).write_bytes(_path(workspace, 0).read_bytes())


def _truncated(workspace: Workspace) -> None:
    path = _path(workspace, 1)
    path.write_bytes(path.read_bytes()[:-40])


def _empty(workspace: Workspace) -> None:
    _path(workspace, 1).write_bytes(b"")


def _attempt_says_more(workspace: Workspace) -> None:
    for path in table_files(workspace.attempts_dir):
        table = read_file(path)
        if table["repo_id"][0].as_py() == "model-1":
            place = table.column_names.index("num_logits")
            write_table(path, table.set_column(place, table.schema.field(place), pa.array([6], pa.int32())))


DAMAGE = [_gone, _cut, _fewer_probes, _of_another, _truncated, _empty]


@pytest.mark.parametrize("damage", [*DAMAGE, _attempt_says_more])
def test_a_hole_is_counted_named_and_probed_again(probed: Workspace, repos: Repos, damage: Any, caplog: Any) -> None:
    before = probed.responses()
    assert probed.holes() == {}
    damage(probed)
    assert set(probed.holes()) == {("model-1", SHA)}
    report = status(probed)
    assert (report.attempted, report.ok, report.waiting, report.holes) == (3, 3, 1, 1)
    assert report.attempted + report.waiting == report.listed
    (row,) = examined(probed)
    assert (row.state, "model-1" in row.found, "hubprobe probe" in row.advice) == ("warn", True, True)
    repos.fetched.clear()
    with caplog.at_level(logging.WARNING):
        summary = _probe(probed, repos)
    assert (summary.run, repos.fetched) == (1, ["model-1"])
    assert "model-1 is run again" in caplog.text
    if damage is _attempt_says_more:
        return  # the model itself never had so many
    assert probed.holes() == {}
    assert status(probed).ok == MODELS
    order = [("repo_id", "ascending"), ("logit", "ascending")]
    assert probed.responses().sort_by(order).equals(before.sort_by(order))
    left = {p.suffix for p in probed.responses_dir(probed.probe_set).iterdir()}
    assert (".damaged" in left) == (damage is not _gone), "what was there is kept"
    assert _probe(probed, repos).run == 0


@pytest.mark.parametrize("damage", [_cut, _fewer_probes, _of_another, _gone])
def test_completing_leaves_holes_out_and_says_so(probed: Workspace, damage: Any, caplog: Any) -> None:
    damage(probed)
    summary = completion.complete(probed, progress=False)
    assert (summary.models, summary.holes) == (MODELS - 1, 1)
    assert "model-1 has no descriptors" in caplog.text


def _within(path: Path, column: str) -> int:
    """Return a place in the middle of a column's values."""
    group = pq.read_metadata(path).row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    (found,) = (one for one in columns if one.path_in_schema.partition(".")[0] == column)
    return int(found.data_page_offset + found.total_compressed_size // 2)


def test_a_flipped_bit_is_set_aside_and_heals(probed: Workspace, repos: Repos) -> None:
    completion.complete(probed, progress=False)
    before = probed.responses()
    path = _path(probed, 2)
    whole = path.read_bytes()
    content = bytearray(whole)
    content[_within(path, "response")] ^= 16
    path.write_bytes(content)
    with pytest.raises(WorkspaceError, match=rf"{path.name} is damaged.*\.damaged.*hubprobe probe"):
        completion.complete(probed, progress=False)
    assert not path.exists()
    assert path.with_name(f"{path.name}.damaged").read_bytes() == bytes(content)
    assert set(probed.holes()) == {("model-2", SHA)}
    assert _probe(probed, repos).run == 1
    order = [("repo_id", "ascending"), ("logit", "ascending")]
    assert probed.responses().sort_by(order).equals(before.sort_by(order))
    assert completion.complete(probed, progress=False).models == MODELS


def test_a_hole_in_a_shard_and_a_damaged_shard(probed: Workspace, repos: Repos) -> None:
    _cut(probed)
    before = probed.responses()
    responses.compact_responses(probed, probed.probe_set, least=1)
    assert set(probed.holes()) == {("model-1", SHA)}
    assert _probe(probed, repos).run == 1
    assert probed.holes() == {}
    assert probed.responses().num_rows == before.num_rows + 4
    responses.compact_responses(probed, probed.probe_set, least=1)
    (shard,) = table_files(probed.responses_dir(probed.probe_set))
    shard.write_bytes(shard.read_bytes()[:-9])
    assert len(probed.holes()) == MODELS
    assert all(shard.name in why for why in probed.holes().values())
    assert _probe(probed, repos).run == MODELS
    assert probed.holes() == {}


def test_a_damaged_attempt_is_set_aside_and_its_model_run_again(probed: Workspace, repos: Repos) -> None:
    path = probed.attempts_dir / f"{model_file_name('model-3', SHA)}-001.parquet"
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)
    with pytest.raises(WorkspaceError, match=rf"{path.name} is damaged.*hubprobe probe"):
        status(probed)
    assert _probe(probed, repos).run == 1
    assert status(probed).ok == MODELS


def test_without_attempts_completing_says_what_to_do(probed: Workspace) -> None:
    for path in table_files(probed.attempts_dir):
        path.unlink()
    with pytest.raises(WorkspaceError, match="hubprobe probe"):
        completion.complete(probed, progress=False)


def test_linked_descriptors_of_somebody_else_are_not_deleted(probed: Workspace, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs" / probed.probe_set
    theirs.mkdir(parents=True)
    (theirs / "thesis.parquet").write_bytes(_path(probed, 0).read_bytes())
    (probed.root / "descriptors").symlink_to(tmp_path / "theirs")
    with pytest.raises(WorkspaceError, match="leads out of the workspace"):
        completion.complete(probed, progress=False)
    assert (theirs / "thesis.parquet").exists()


def test_linked_responses_of_somebody_else_are_not_renamed(probed: Workspace, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    (probed.root / "responses").rename(theirs)
    (probed.root / "responses").symlink_to(theirs)
    (theirs / probed.probe_set / "thesis.parquet").write_bytes(b"no table")
    with pytest.raises(WorkspaceError, match="leads out of the workspace"):
        completion.complete(probed, progress=False)
    assert (theirs / probed.probe_set / "thesis.parquet").read_bytes() == b"no table"
