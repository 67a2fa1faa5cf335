from datetime import datetime, timezone

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import completion
from workspace import MissingStepError, Workspace, WorkspaceError, model_file_name, records
from workspace.files import read_table, table_files, write_table

N = 12
SHA = "a" * 40


@pytest.fixture
def workspace(tmp_path):
    made = Workspace.create(tmp_path / "w")
    image = {"bytes": b"x", "path": None}
    probes = [{"probe_id": i, "image": image, "image_hash": f"{i:064x}", "width": 1, "height": 1} for i in range(N)]
    write_table(made.probes_dir("5e70000000000000") / "probes.parquet", pa.Table.from_pylist(probes, records.PROBES))
    made.use_probe_set("5e70000000000000")
    return made


def respond(workspace, repo_id, logits=3, probes=N, excluded=(), committed=True, status="ok", seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(logits):
        response = None if i in excluded else rng.normal(size=probes).astype(np.float16)
        first = {"probe_ids": list(range(probes)), "logsumexp": [0.0] * probes} if i == 0 else {}
        values = {"label": f"l{i}", "mean": 0.5, "std": 2.0, "excluded": "constant" if i in excluded else None}
        rows.append({"repo_id": repo_id, "sha": SHA, "logit": i, "response": response, **values, **first})
    stem = model_file_name(repo_id, SHA)
    path = workspace.responses_dir("5e70000000000000") / f"{stem}.parquet"
    write_table(path, pa.Table.from_pylist(rows, records.RESPONSES))
    if committed:
        attempt = {
            "repo_id": repo_id, "sha": SHA, "attempt": 1, "outcome": "ok", "status": status, "reason": "",
            "probe_set": "5e70000000000000", "started_at": datetime.now(timezone.utc),
        }  # fmt: skip
        write_table(workspace.attempts_dir / f"{stem}-001.parquet", pa.Table.from_pylist([attempt], records.ATTEMPTS))
    return rows


def descriptors(workspace):
    return read_table(workspace.descriptors_dir("5e70000000000000"), records.descriptors(N))


def test_full_responses_pass_through_bit_equal_and_excluded_logits_stay_out(workspace):
    rows = respond(workspace, "a/full", logits=4, excluded=(0, 2))
    summary = completion.complete(workspace, progress=False)
    assert (summary.models, summary.logits, summary.excluded, summary.partial) == (1, 2, 2, 0)
    table = descriptors(workspace)
    assert table["logit"].to_pylist() == [1, 3]
    for row, vector in zip((rows[1], rows[3]), table["vector"], strict=True):
        assert np.array_equal(np.asarray(vector.values), row["response"])
    assert table["observed"].null_count == 2
    assert table["variance"].to_pylist() == [0.0, 0.0]


def test_uncommitted_failed_and_refused_models_have_no_descriptors(workspace):
    respond(workspace, "a/ok")
    respond(workspace, "a/killed-before-its-row", committed=False)
    respond(workspace, "a/failed", status="timeout")
    respond(workspace, "a/partial", probes=5)
    summary = completion.complete(workspace, progress=False)
    assert (summary.models, summary.partial, summary.refused) == (1, 1, 1)
    assert set(descriptors(workspace)["repo_id"].to_pylist()) == {"a/ok"}


def test_a_second_run_writes_nothing_and_counts_the_same(workspace):
    for i in range(3):
        respond(workspace, f"a/m{i}", excluded=(1,), seed=i)
    first = completion.complete(workspace, progress=False)
    times = {p.name: p.stat().st_mtime_ns for p in table_files(workspace.descriptors_dir("5e70000000000000"))}
    second = completion.complete(workspace, progress=False)
    assert (second.models, second.logits, second.excluded) == (first.models, first.logits, first.excluded) == (3, 6, 3)
    assert second.unchanged == 3
    assert times == {p.name: p.stat().st_mtime_ns for p in table_files(workspace.descriptors_dir("5e70000000000000"))}


def test_new_responses_replace_and_withdrawn_ones_go(workspace):
    respond(workspace, "a/m", seed=1)
    respond(workspace, "a/gone", seed=2)
    completion.complete(workspace, progress=False)
    rows = respond(workspace, "a/m", seed=3)
    (workspace.responses_dir("5e70000000000000") / f"{model_file_name('a/gone', SHA)}.parquet").unlink()
    completion.complete(workspace, progress=False)
    table = descriptors(workspace)
    assert set(table["repo_id"].to_pylist()) == {"a/m"}
    assert np.array_equal(np.asarray(table["vector"][0].values), rows[0]["response"])


def test_a_dry_run_counts_and_writes_nothing(workspace):
    respond(workspace, "a/m")
    summary = completion.complete(workspace, dry_run=True, progress=False)
    assert (summary.models, summary.run_id) == (1, "")
    assert not workspace.descriptors_dir("5e70000000000000").exists()
    assert not workspace.runs_dir.exists()


def test_errors_name_the_file_or_the_verb(workspace):
    with pytest.raises(MissingStepError, match="hubprobe probe"):
        completion.complete(workspace, progress=False)
    respond(workspace, "a/m")
    path = table_files(workspace.responses_dir("5e70000000000000"))[0]
    table = pq.read_table(path)
    write_table(path, table.set_column(8, "probe_ids", pa.nulls(3, pa.list_(pa.int32()))).cast(records.RESPONSES))
    with pytest.raises(WorkspaceError, match=path.name):
        completion.complete(workspace, progress=False)
