"""What lies on a disk may be anything: each kind of damage is a sentence that names the file, and no kind hangs."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workspace import Config, ConfigError, Workspace, WorkspaceError, records
from workspace.errors import DamagedFileError, DiskError
from workspace.files import (
    batches,
    disk_error,
    read_array,
    read_file,
    read_json,
    read_table,
    read_tensors,
    remedy,
    set_aside,
    sha256_of,
    table_files,
    verify_table,
    write_array,
    write_json,
    write_table,
    write_tensors,
)

SET = "0123456789abcdef"


def rows(count: int = 300, seed: int = 0) -> pa.Table:
    """Return responses whose every value matters."""
    values = np.random.default_rng(seed).standard_normal((count, 60)).astype(np.float16)
    made = [
        {"repo_id": f"o/m{i // 30}", "sha": "0" * 40, "logit": i % 30, "label": f"l{i}", "mean": 0.5, "std": 2.0,
         "response": v, "probe_ids": list(range(60)) if i % 30 == 0 else None}
        for i, v in enumerate(values)
    ]  # fmt: skip
    return pa.Table.from_pylist(made, records.RESPONSES)


def flip(path: Path, place: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def test_a_flipped_bit_anywhere_in_a_table_is_noticed_or_changes_nothing(tmp_path):
    path, table = tmp_path / "responses" / "a.parquet", rows()
    write_table(path, table, row_group_rows=64)
    whole = path.read_bytes()
    rng, footer = random.Random(1), pq.read_metadata(path).serialized_size
    places = [rng.randrange(len(whole)) for _ in range(60)]
    places += [len(whole) - 8 - rng.randrange(footer) for _ in range(60)]  # names and counts lie there
    noticed = 0
    for place in places:
        flip(path, place, rng.randrange(8))
        try:
            assert read_file(path, records.RESPONSES).equals(table)
        except WorkspaceError as error:
            noticed += str(path) in str(error)
        path.write_bytes(whole)
    assert noticed > 60


def test_a_file_without_checksums_opens_as_before(tmp_path):
    table = rows(30)
    pq.write_table(table.drop_columns(["random_ids"]), tmp_path / "a.parquet")  # as an earlier version wrote it
    assert read_table(tmp_path, records.RESPONSES).equals(table)


@pytest.mark.parametrize("rename", ["response", "std", "repo_id"])
def test_a_renamed_column_is_no_missing_one(tmp_path, rename):
    table = rows(30)
    write_table(tmp_path / "a.parquet", table)
    content = (tmp_path / "a.parquet").read_bytes()
    schema = pq.read_metadata(tmp_path / "a.parquet")
    assert schema.num_rows == 30
    foot = content.rindex(b"PAR1") - 4 - schema.serialized_size
    name = rename.encode()
    changed = content[:foot] + content[foot:].replace(name, name[:-1] + b"~")
    (tmp_path / "a.parquet").write_bytes(changed)
    with pytest.raises(WorkspaceError, match=r"a\.parquet"):
        read_file(tmp_path / "a.parquet", records.RESPONSES)


def test_every_file_of_a_folder_has_its_version_checked(tmp_path):
    write_table(tmp_path / "a.parquet", rows(30))
    foreign = records.RESPONSES.with_metadata({"hubprobe.schema_version": "999"})
    write_table(tmp_path / "b.parquet", rows(30).cast(foreign))
    with pytest.raises(WorkspaceError, match=r"b\.parquet has schema version 999"):
        read_table(tmp_path, records.RESPONSES)


@pytest.mark.parametrize("kind", ["pipe", "folder", "dead link", "device"])
def test_only_regular_files_are_read(tmp_path, kind):
    path = tmp_path / "x.parquet"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else tmp_path / "nowhere")
    readers = [
        lambda: table_files(tmp_path), lambda: read_file(path), lambda: list(batches(path, 10)),
        lambda: read_json(path), lambda: read_tensors(path), lambda: read_array(path), lambda: sha256_of(path),
        lambda: Config.load(path),
    ]  # fmt: skip
    for read in readers[:-1] if kind == "dead link" else readers:
        with pytest.raises(WorkspaceError, match=r"x\.parquet"):
            read()


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"3", b'"x"', b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"{}", b'{"name": 3}',
     b'{"name": null}', b'{"name": ["x"]}', b'{"n": ' + b"1" * 6_000 + b"}", b"\x00" * 50],
)  # fmt: skip
def test_json_of_another_shape_is_a_sentence(tmp_path, content):
    path = tmp_path / "index" / "x.json"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="index --rebuild") as raised:
        read_json(path, {"name": str})
    assert len(str(raised.value)) < 600


def test_json_has_a_size_and_true_is_no_number(tmp_path):
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.truncate(300 * 1024**2)
    with pytest.raises(WorkspaceError, match="bytes"):
        read_json(path)
    write_json(path, {"n": True})
    with pytest.raises(WorkspaceError, match="'n' should be int"):
        read_json(path, {"n": int})


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"probe_set": 3}', '{"probe_set": "../../../etc"}', '{"probe_set": "ABCDEF0123456789"}',
                '{"probe_set": ""}', '{"probe_set": "0123456789abcdef/"}', '{"probe_set": "0123456789abcdef\\n"}'],
)  # fmt: skip
def test_a_probe_set_is_sixteen_hex_digits(tmp_path, content):
    workspace = Workspace.create(tmp_path / "w")
    workspace.use_probe_set(SET)
    assert workspace.probe_set == SET
    (workspace.root / "probes" / "current.json").write_text(content, encoding="utf-8")
    with pytest.raises(WorkspaceError, match=r"current\.json.*probes build"):
        _ = workspace.probe_set
    with pytest.raises(WorkspaceError, match="16 hex"):
        workspace.use_probe_set("../x")


@pytest.mark.parametrize(
    "text",
    ["[probe]\nseconds_per_model = nan", "[probe]\nseconds_per_model = inf", "[probe]\nseconds_per_model = -inf",
     "[probe]\nseconds_per_model = -1.0", "[probe]\nseconds_per_model = 1e300", "[probe]\nseconds_per_model = 0",
     "[probe]\nbatch_size = 1" + "0" * 400, "[probe]\nbatch_size = 9223372036854775808", "[probes]\nseed = -1",
     "[crawl]\nmax_labels = nan", "a = " + "[" * 100_000, "[a" + ".a" * 5_000 + "]", "\ufeff\x00", "x" * 2_000_000],
)  # fmt: skip
def test_settings_out_of_range_are_refused(tmp_path, text):
    path = tmp_path / "hubprobe.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"hubprobe\.toml") as raised:
        Config.load(path)
    assert len(str(raised.value)) < 800


def test_tensors_and_arrays_notice_damage(tmp_path):
    path = tmp_path / "index" / "a.safetensors"
    tensors = {"a": np.arange(12, dtype=np.float16).reshape(3, 4), "b": np.arange(3, dtype=np.int64)}
    write_tensors(path, tensors, {"name": "x"})
    read, notes = read_tensors(path)
    assert notes == {"name": "x"}
    assert all(np.array_equal(read[name], tensors[name]) for name in tensors)
    whole = path.read_bytes()
    said = set()
    for place in range(8, len(whole), 3):
        flip(path, place, place % 8)
        try:
            read, notes = read_tensors(path)
            assert notes.get("name", "x") == "x"
            assert all(np.array_equal(read[name], tensors[name]) for name in tensors)
        except DamagedFileError as error:
            said.add(error.path)
        path.write_bytes(whole)
    assert said == {path}
    flip(path, len(whole) - 2, 0)
    with pytest.raises(DamagedFileError, match="checksum"):
        read_tensors(path)
    write_array(tmp_path / "a.npy", tensors["a"])
    assert np.array_equal(read_array(tmp_path / "a.npy"), tensors["a"])
    for content in (b"", b"\x93NUMPY", b"x" * 100):
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(DamagedFileError, match=r"a\.npy"):
            read_array(tmp_path / "a.npy")


def test_what_is_set_aside_is_kept(tmp_path):
    for content in ("one", "two"):
        (tmp_path / "a.parquet").write_text(content, encoding="utf-8")
        set_aside(tmp_path / "a.parquet")
    assert sorted(p.read_text(encoding="utf-8") for p in tmp_path.iterdir()) == ["one", "two"]
    assert table_files(tmp_path) == []


def test_the_remedy_is_the_verb_of_the_innermost_folder():
    assert "hubprobe complete" in remedy(Path("/data/index/w/descriptors/0123/a.parquet"))
    assert "index --rebuild" in remedy(Path("w/index/versions/v/tiles/a.u8"))
    assert "probes build" in remedy(Path("w/probes/0123/probes.parquet"))


WRITE = """
    import resource, sys
    from pathlib import Path
    import numpy as np, pyarrow as pa
    from workspace.errors import DiskError
    from workspace.files import *
    root = Path(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    array = np.random.default_rng(0).integers(0, 255, 10**6, dtype=np.uint8)
    writes = {
        "a.parquet": lambda p: write_table(p, pa.table({"x": array})),
        "a.npy": lambda p: write_array(p, array),
        "a.safetensors": lambda p: write_tensors(p, {"x": array}),
        "a.json": lambda p: write_json(p, {"x": "y" * 10**6}),
    }
    for name, write in writes.items():
        try:
            write(root / name)
        except DiskError as error:
            print(error)
    print(sorted(p.name for p in root.iterdir()))
"""


def test_what_the_disk_refuses_is_said_of_the_disk(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WRITE), str(tmp_path)], capture_output=True, text=True, check=False
    )
    said = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert len(said) == 5
    assert all(f"cannot write {tmp_path}/a." in line and "ulimit -f" in line for line in said[:4])
    assert said[4] == "[]"


def test_errors_of_libraries_are_told_from_damage(tmp_path):
    path = tmp_path / "a"
    for text in ("I/O error: No space left on device (os error 28)", "LanceError(IO): Disk quota exceeded"):
        caused = WorkspaceError("the encoder cannot be fetched")
        caused.__cause__ = RuntimeError(text)
        refused = disk_error(path, caused, "write")
        assert isinstance(refused, DiskError)
        assert "free space" in str(refused)
    assert disk_error(path, ValueError("bad magic"), "read") is None
    other = disk_error(path, PermissionError(13, "Permission denied", "/root/secret"), "write")
    assert str(other).startswith("cannot use /root/secret: permission denied")


def test_verify_reads_every_page(tmp_path):
    path = tmp_path / "a.parquet"
    write_table(path, rows(), row_group_rows=64)
    verify_table(path)
    group = pq.read_metadata(path).row_group(2)
    (responses,) = (i for i in range(group.num_columns) if group.column(i).path_in_schema.startswith("response."))
    column = group.column(responses)
    flip(path, column.data_page_offset + column.total_compressed_size // 2, 3)
    with pytest.raises(DamagedFileError, match="CRC"):
        verify_table(path)


def test_a_folder_that_leads_elsewhere_is_not_ours(tmp_path):
    workspace = Workspace.create(tmp_path / "w")
    (tmp_path / "theirs").mkdir()
    workspace.catalog_dir.mkdir()
    workspace.attempts_dir.symlink_to(tmp_path / "theirs")
    assert workspace.owns(workspace.catalog_dir)
    assert not workspace.owns(workspace.attempts_dir)
    with pytest.raises(WorkspaceError, match="leads out of the workspace"):
        workspace.require_own(workspace.attempts_dir)
