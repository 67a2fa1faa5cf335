"""What has changed since an earlier release, and the code that a card prints for those without hubprobe."""

import json
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hubprobe.release import import_release, release
from hubprobe.release.source import read_manifest
from tests.release.conftest import change_catalog
from tests.release.forging import put
from workspace import Workspace, WorkspaceError, records
from workspace.files import table_files, write_table


def end(workspace, repo_id, **values):
    """Change the last attempt at a repository."""
    for path in table_files(workspace.attempts_dir):
        rows = pq.read_table(path, schema=records.ATTEMPTS).to_pylist()
        changed = [{**row, **values} if row["repo_id"] == repo_id else row for row in rows]
        write_table(path, pa.Table.from_pylist(changed, schema=records.ATTEMPTS))


def test_it_counts_what_has_changed_and_names_it_to_the_operator(made, shared, tmp_path):
    _, old = shared
    made.add(range(12, 14))
    made.index()
    change_catalog(made.workspace, "owner1/model-006", gated="auto")
    end(made.workspace, "owner3/model-003", outcome="failed", status="timeout", reason="too slow")
    summary = release(made.workspace, tmp_path / "new", earlier=str(old), progress=False)
    assert summary.since.names == {
        "added": ["owner2/model-012", "owner3/model-013"],
        "removed": ["owner1/model-006"],
        "newly_probed": ["owner2/model-012", "owner3/model-013"],
        "no_longer_probed": ["owner1/model-006", "owner3/model-003"],
    }
    manifest = read_manifest(tmp_path / "new")
    assert manifest.predecessor.release_id == read_manifest(old).release_id
    assert manifest.predecessor.changes == {"added": 2, "removed": 1, "newly_probed": 2, "no_longer_probed": 2}
    assert "owner1/model-006" not in (tmp_path / "new" / "manifest.json").read_text()
    assert "## Since the last release" in (tmp_path / "new" / "README.md").read_text()


def test_the_release_that_is_replaced_is_the_one_before(made, tmp_path):
    first = release(made.workspace, tmp_path / "out", progress=False)
    assert first.since is None
    change_catalog(made.workspace, "owner1/model-006", gated="auto")
    second = release(made.workspace, tmp_path / "out", progress=False)
    assert second.since.release_id == first.release_id
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    assert release(made.workspace, tmp_path / "out", progress=False).since is None
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before
    assert read_manifest(tmp_path / "out").predecessor.release_id == first.release_id


def test_an_earlier_one_that_is_damaged_is_refused_when_it_is_named(made, shared, tmp_path):
    release(made.workspace, tmp_path / "out", progress=False)
    put(tmp_path / "out", "attempts", "status", "x")
    with pytest.raises(WorkspaceError, match="'status' is no status"):
        release(made.workspace, tmp_path / "new", earlier=str(tmp_path / "out"), dry_run=True)
    assert release(made.workspace, tmp_path / "out", progress=False).since is None  # it is replaced


def test_the_source_of_the_probes_is_that_of_the_probes_used(made, tmp_path):
    folder = made.workspace.probes_dir(made.workspace.probe_set)
    release(made.workspace, tmp_path / "unknown", progress=False)
    assert read_manifest(tmp_path / "unknown").probe_source == ""
    assert "whose source was not noted" in (tmp_path / "unknown" / "README.md").read_text()
    (folder / "manifest.json").write_text(json.dumps({"source": "/home/ada/drawings", "n": 200}))
    release(made.workspace, tmp_path / "known", progress=False)
    import_release(str(tmp_path / "known"), tmp_path / "copy", encoder="none", progress=False)
    release(Workspace.open(tmp_path / "copy"), tmp_path / "again", progress=False)
    assert [read_manifest(tmp_path / name).probe_source for name in ("known", "again")] == ["drawings"] * 2


PRINT = """
print(json.dumps([rows[0]["repo_id"], softmax.shape, np.abs(softmax.sum(0) - 1).max().item()]))
"""


def test_the_code_for_those_without_hubprobe_runs(made, tmp_path):
    """As printed, with the folder in place of the dataset's name; softmax sums to one over a model's outputs."""
    files = table_files(made.workspace.descriptors_dir(made.workspace.probe_set))
    path = next(p for p in files if "owner0/model-000" in pq.read_table(p)["repo_id"].to_pylist())
    rows = pq.read_table(path).to_pylist()
    model = [row for row in rows if row["repo_id"] == "owner0/model-000"]
    raw = np.array([row["vector"] for row in model], np.float32) * 3 + 2
    for row in model:
        row |= {"mean": 2.0, "std": 3.0}
    model[0]["logsumexp"] = np.log(np.exp(raw.astype(float)).sum(0)).tolist()
    write_table(path, pa.Table.from_pylist(rows, schema=records.descriptors(200)))
    made.index()
    out = tmp_path / "out"
    release(made.workspace, out, progress=False)
    first, second = re.findall(r"```python\n(.+?)```", (out / "README.md").read_text(), re.DOTALL)
    options = {"cwd": out, "capture_output": True, "text": True, "timeout": 300, "check": False}
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "PATH": ""}
    near = subprocess.run([sys.executable, "-c", first.replace("OWNER/NAME", str(out))], env=env, **options)
    assert near.returncode == 0, near.stderr[-2000:]
    assert near.stdout.startswith("1.00 owner0/model-000 0 ")
    code = f"import json\n{second}{PRINT}"
    done = subprocess.run([sys.executable, "-c", code], env=env, **options)
    assert done.returncode == 0, done.stderr[-2000:]
    repo, shape, off = json.loads(done.stdout)
    assert (repo, shape) == ("owner0/model-000", [len(model), 200])
    assert off < 0.01
