"""Releases changed at random, sealed again, and imported.

Changed are bytes of any file (the manifest's hashes are made true again, so that they reach the readers), values, rows,
columns and encodings of the tables, embeddings, and the manifest. An input passes when it is imported into a workspace
that opens, or refused by one sentence with nothing left behind.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import load_file, save_file

from benchmarks.security.watch import Report, attempt, watching
from hubprobe.release import import_release, release
from tests.release.forging import change_manifest, change_table, seal
from tests.search.conftest import make
from workspace import HubprobeError, Workspace


def run(count: int, seed: int) -> Report:
    """Import ``count`` changed copies of a small genuine release, numbered from ``seed``; return the report."""
    with tempfile.TemporaryDirectory() as scratch:
        made = make(Path(scratch) / "workspace", models=3, n=32)
        made.index()
        genuine, changed, target = (Path(scratch) / name for name in ("release", "changed", "copy"))
        release(made.workspace, genuine, progress=False)
        _import(genuine, target, made.encoder)  # what is loaded once belongs to no input
        with watching("releases", seed) as report:
            for number in range(seed, seed + count):
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(genuine, changed)
                change(changed, random.Random(number))
                attempt(report, lambda: _import(changed, target, made.encoder), f"seed {number}", HubprobeError)
                shutil.rmtree(changed)
    return report


def _import(folder: Path, target: Path, encoder: Any) -> None:
    try:
        import_release(str(folder), target, encoder=encoder, progress=False)
        Workspace.open(target)
    except HubprobeError as error:
        if target.exists():
            raise AssertionError(f"a refused release left {sorted(p.name for p in target.iterdir())}") from error
        if "\n" in str(error) or len(str(error)) > 800:
            raise AssertionError(f"no sentence: {str(error)[:300]}") from error
        raise


def change(folder: Path, chance: random.Random) -> None:
    """Change a release in one to three ways."""
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        kind = chance.choice([_bytes, _values, _values, _rows, _manifest, _manifest_text, _embeddings])
        try:
            kind(folder, chance)
            if kind not in (_manifest, _manifest_text) and chance.random() < 0.97:
                seal(folder)
        except Exception:  # noqa: BLE001 - pyarrow refuses to write some of it, and nothing reads what was broken before
            continue


def _bytes(folder: Path, chance: random.Random) -> None:
    path = chance.choice(sorted(p for p in folder.rglob("*") if p.suffix in (".parquet", ".safetensors")))
    data = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 1, 2, 8, 64])):
        near_the_end = chance.random() < 0.5  # where a Parquet file says how it is to be read
        at = chance.randrange(max(0, len(data) - 4_000) if near_the_end else 0, len(data))
        what = chance.randrange(5)
        if what == 0:
            data[at] ^= 1 << chance.randrange(8)
        elif what == 1:
            data[at] = chance.choice([0, 1, 0x15, 0x7F, 0x80, 0xFF])
        elif what == 2:
            del data[at : at + chance.choice([1, 8, 1_000])]
        elif what == 3:
            data[at:at] = chance.randbytes(chance.choice([1, 8, 100]))
        else:
            length = chance.choice([4, 8])
            data[at : at + length] = chance.choice([b"\xff" * length, bytes(length), b"\xff\xff\xff\x7f", b"\x80" * 4])
        if not data:
            break
    path.write_bytes(data)


_TEXTS = ["", "x", "x" * 5_000, "x" * 300_000, "../../etc/passwd", "\x1b[31m", "\u202e", "\n", "/", "a/b", "\x00"]
_NUMBERS = [0, -1, 1, 3, 255, 2**15, 2**31 - 1, -(2**31), 2**40, 2**63 - 1, float("nan"), float("inf"), -1.5, 1e38]


def _hostile(kind: Any, chance: random.Random, depth: int = 0) -> Any:
    if chance.random() < 0.1 or depth > 4:
        return None
    if pa.types.is_string(kind):
        return chance.choice(_TEXTS)
    if pa.types.is_binary(kind):
        return chance.choice([b"", b"\xff", chance.randbytes(40), b"%!PS-Adobe", b"x" * 100_000])
    if pa.types.is_boolean(kind):
        return chance.random() < 0.5
    if pa.types.is_timestamp(kind):
        return pa.scalar(chance.choice([0, -(2**60), 2**60, 2**62]), pa.int64()).cast(kind)
    if pa.types.is_fixed_size_list(kind):
        return [_hostile(kind.value_type, chance, depth + 1) for _ in range(kind.list_size)]
    if pa.types.is_list(kind):
        return [_hostile(kind.value_type, chance, depth + 1)] * chance.choice([0, 1, 3, 32, 5_000])
    if pa.types.is_struct(kind):
        return {part.name: _hostile(part.type, chance, depth + 1) for part in kind}
    value = chance.choice(_NUMBERS)
    if pa.types.is_floating(kind):
        return float(value)
    return None if value != value or abs(value) == float("inf") else int(value)


def _table(folder: Path, chance: random.Random) -> str:
    return chance.choice([p.name for p in folder.iterdir() if p.is_dir() and p.name not in ("encoders", "figures")])


def _values(folder: Path, chance: random.Random) -> None:
    def edit(rows: pa.Table) -> pa.Table:
        name = chance.choice(rows.column_names)
        field = rows.schema.field(name)
        values = rows[name].combine_chunks().to_pylist()
        for _ in range(chance.choice([1, 1, 3])):
            values[chance.randrange(len(values))] = _hostile(field.type, chance)
        scalars = [pa.scalar(v, field.type) if not isinstance(v, pa.Scalar) else v for v in values]
        column = pa.concat_arrays([pa.array([s.as_py()], field.type) for s in scalars])
        return rows.set_column(rows.column_names.index(name), field.with_nullable(True), column)

    change_table(folder, _table(folder, chance), edit, **_writing(chance))


def _writing(chance: random.Random) -> dict[str, Any]:
    options: list[dict[str, Any]] = [
        {}, {}, {"use_dictionary": True}, {"compression": "snappy"}, {"compression": "none"}, {"row_group_size": 3},
        {"data_page_version": "2.0"}, {"use_byte_stream_split": True}, {"data_page_size": 64, "write_batch_size": 1},
        {"version": "1.0"}, {"store_schema": False}, {"write_page_checksum": True}, {"compression": "gzip"},
    ]  # fmt: skip
    return chance.choice(options)


def _rows(folder: Path, chance: random.Random) -> None:
    def edit(rows: pa.Table) -> pa.Table:
        what = chance.randrange(7)
        count, name = rows.num_rows, chance.choice(rows.column_names)
        if what == 0:
            return rows.take(pa.array([chance.randrange(count) for _ in range(chance.choice([0, 1, count, 20_000]))]))
        if what == 1:
            return rows.slice(chance.randrange(count))
        if what == 2:
            return rows.drop_columns([name])
        if what == 3:
            return rows.append_column(name, rows[name])
        if what == 4:
            kind = chance.choice([pa.string(), pa.int64(), pa.float16(), pa.binary(), pa.list_(pa.int8()), pa.bool_()])
            return rows.set_column(rows.column_names.index(name), pa.field(name, kind), pa.nulls(count, kind))
        if what == 5:
            return rows.rename_columns(chance.sample(rows.column_names, len(rows.column_names)))
        versions = [{}, {"hubprobe.schema_version": "0"}, {"hubprobe.schema_version": "1", "ARROW:schema": "x" * 50}]
        return rows.replace_schema_metadata(chance.choice(versions))

    change_table(folder, _table(folder, chance), edit, **_writing(chance))


def _manifest(folder: Path, chance: random.Random) -> None:

    def edit(content: dict[str, Any]) -> None:
        at: Any = content
        for _ in range(chance.randrange(4)):
            inner = list(at.values() if isinstance(at, dict) else at)
            inner = [value for value in inner if isinstance(value, (dict, list)) and value]
            if not inner:
                break
            at = chance.choice(inner)
        key = chance.choice(list(at)) if isinstance(at, dict) else chance.randrange(len(at))
        values = [*_TEXTS, *_NUMBERS[:-4], None, True, [], {}, [[]] * 1_000, {"a": {"b": {}}}, "0" * 16, "f" * 40, "1"]
        if chance.random() < 0.15:
            del at[key]
        elif chance.random() < 0.1 and isinstance(at, dict):
            at[chance.choice(_TEXTS)] = at[key]
        else:
            at[key] = chance.choice(values)

    change_manifest(folder, edit)


def _manifest_text(folder: Path, chance: random.Random) -> None:
    path = folder / "manifest.json"
    data = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 1, 5])):
        at = chance.randrange(len(data))
        data[at : at + chance.choice([0, 1, 10])] = chance.choice(
            [b"", b'"', b"{", b"[" * 5_000, b"NaN", b"\xff", b"9" * 9]
        )
    path.write_bytes(data)


def _embeddings(folder: Path, chance: random.Random) -> None:

    path = next((folder / "encoders").iterdir())
    rows = load_file(path)["probes"]
    what = chance.randrange(4)
    if what == 0:
        rows = rows.astype(chance.choice([np.float16, np.float64, np.int8]))
    elif what == 1:
        rows[chance.randrange(len(rows))] *= chance.choice([0.0, 1e3, float("nan"), 1.0])
    elif what == 2:
        rows = rows[: chance.randrange(len(rows))]
    else:
        rows = rows.reshape(-1) if chance.random() < 0.5 else rows.T.copy()
    save_file({chance.choice(["probes", "probes", "other"]): rows}, path)
