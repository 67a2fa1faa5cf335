import signal
import subprocess
import sys
import textwrap
from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pytest

from workspace import MissingStepError, Workspace, WorkspaceError, records
from workspace.files import read_json, read_table, replacing, table_files, write_table
from workspace.layout import newest

T0 = datetime(2026, 1, 1, tzinfo=timezone.utc)


def catalog_row(name: str, day: int, **values: object) -> dict[str, object]:
    base = {
        "id": name,
        "sha": "0" * 40,
        "crawled_at": T0 + timedelta(days=day),
        "eligibility": "eligible",
        "reason": "",
    }
    return base | values


def test_create_then_open_and_refuse_foreign_folders(tmp_path):
    made = Workspace.create(tmp_path / "w")
    assert Workspace.open(made.root).config == made.config
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(WorkspaceError, match="not empty"):
        Workspace.create(tmp_path / "full")
    with pytest.raises(WorkspaceError, match="not a hubprobe workspace"):
        Workspace.open(tmp_path / "full")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_missing_steps_name_the_verb_to_run(tmp_path):
    workspace = Workspace.create(tmp_path / "w")
    with pytest.raises(MissingStepError, match="hubprobe crawl"):
        workspace.catalog()
    with pytest.raises(MissingStepError, match="probes build"):
        _ = workspace.probe_set


def test_catalog_keeps_history_and_shows_the_newest(tmp_path):
    workspace = Workspace.create(tmp_path / "w")
    days = ([catalog_row("b/b", 1), catalog_row("a/a", 1)], [catalog_row("a/a", 2, eligibility="gone", reason="x")])
    for day, rows in enumerate(days):
        write_table(workspace.catalog_dir / f"{day}.parquet", pa.Table.from_pylist(rows, records.CATALOG))
    assert workspace.catalog(["id", "eligibility"]).to_pylist() == [
        {"id": "a/a", "eligibility": "gone"},
        {"id": "b/b", "eligibility": "eligible"},
    ]
    assert workspace.catalog(history=True).num_rows == 3


def test_newest_takes_the_later_row_on_a_tie():
    table = pa.table({"k": ["x", "x", "y"], "at": [1, 1, 0], "v": ["old", "new", "only"]})
    assert newest(table, ["k"], "at")["v"].to_pylist() == ["new", "only"]


def test_replacing_leaves_the_old_file_on_an_error(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(UnicodeEncodeError), replacing(path) as temporary:
        temporary.write_text("half \ud800", encoding="utf-8")  # a lone surrogate cannot be written
    assert path.read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_killed_writer_leaves_nothing_that_a_reader_sees(tmp_path):
    code = """
        import os, signal, sys
        from pathlib import Path
        from workspace.files import replacing
        with replacing(Path(sys.argv[1]) / "shard.parquet") as temporary:
            temporary.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], check=False, timeout=300)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1  # the temporary file is still there ...
    assert table_files(tmp_path) == []  # ... and no reader takes it for a shard


def test_damaged_and_foreign_files_are_named(tmp_path):
    schema = records.RESPONSES
    assert read_table(tmp_path, schema).num_rows == 0
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(WorkspaceError, match=r"x\.parquet"):
        read_table(tmp_path, schema)
    other = schema.with_metadata({"hubprobe.schema_version": "999"})
    write_table(tmp_path / "x.parquet", other.empty_table())
    with pytest.raises(WorkspaceError, match="version 999"):
        read_table(tmp_path, schema)
    (tmp_path / "x.json").write_text("{", encoding="utf-8")
    with pytest.raises(WorkspaceError, match=r"x\.json"):
        read_json(tmp_path / "x.json")


def test_duckdb_reads_what_we_write(tmp_path):
    import duckdb
    import numpy as np

    schema = records.descriptors(5)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(10, dtype=np.float16)), 5)
    columns = {
        "repo_id": ["a/a", "a/a"], "sha": ["0" * 40] * 2, "logit": pa.array([0, 1], pa.int32()), "label": ["x", None],
        "mean": pa.array([0.0, 1.0], pa.float32()), "std": pa.array([1.0, 1.0], pa.float32()), "vector": vectors,
        "observed": pa.nulls(2, pa.binary()), "variance": pa.array([0.0, 0.0], pa.float32()),
        "deviation": pa.nulls(2, pa.list_(pa.float16())),
        "logsumexp": pa.nulls(2, pa.list_(pa.float32())),
    }  # fmt: skip
    write_table(tmp_path / "d.parquet", pa.table(columns, schema=schema))
    rows = duckdb.sql(f"SELECT logit, vector[2] FROM '{tmp_path}/d.parquet' ORDER BY logit").fetchall()
    assert rows == [(0, 1.0), (1, 6.0)]


def test_every_field_of_every_schema_is_documented():
    for schema in [*records.TABLES.values(), records.descriptors(3)]:
        for field in schema:
            assert field.metadata[b"doc"], field.name
