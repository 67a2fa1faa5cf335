"""Fuzzes `hubprobe import`: a small genuine release is changed at random, sealed again, and imported.

::

    python -m benchmarks.security.releases --count 3000 --seed 0

Changed are bytes of any file (the manifest's hashes are made true again, so that they reach the readers), values, rows,
columns and encodings of the tables, embeddings, and the manifest. An input passes when it is refused by one sentence or
imported; it fails with any other exception, a death of the process, more than five seconds, or a folder left behind.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS = 5.0  # of processor time, which other work on the machine does not lengthen
_PATIENCE = 120.0  # seconds of the wall clock until an import is killed


@dataclass
class Report:
    """What became of the inputs.

    Attributes:
        inputs: how many there were.
        ends: how many ended in which way.
        failures: seed of an input, and what went wrong.
        slowest: seconds of processor time of the slowest import.
        growth: bytes that the process grew by after its first import.
    """

    inputs: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0
    growth: int = 0


def run(count: int, seed: int) -> Report:
    """Import ``count`` changed releases in child processes, numbered from ``seed * 1,000,000``; return the report."""
    report = Report()
    number, end = seed * 1_000_000, seed * 1_000_000 + count
    while number < end:
        command = [sys.executable, "-m", "benchmarks.security.releases", "--child", str(number), str(end)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
            assert child.stdout is not None
            while number < end:
                ready, _, _ = select.select([child.stdout], [], [], _PATIENCE)
                line = child.stdout.readline() if ready else ""
                if not line:
                    child.kill()
                    report.ends["died" if ready else "hung"] += 1
                    report.failures.append(f"{number}: {'the process died' if ready else 'hung'}")
                else:
                    said = json.loads(line)
                    report.ends[said["end"]] += 1
                    report.slowest = max(report.slowest, said["seconds"])
                    report.growth = max(report.growth, said["growth"])
                    if said["failure"]:
                        report.failures.append(f"{number}: {said['failure']}")
                number += 1
                report.inputs += 1
                if not line:
                    break
            child.kill()
    return report


# ── one input ────────────────────────────────────────────────────────────────────────────────────────────────────────


def child(start: int, end: int) -> None:
    """Import the inputs of these numbers, one JSON line each."""
    from hubprobe.release import release
    from tests.search.conftest import make

    with tempfile.TemporaryDirectory() as scratch:
        made = make(Path(scratch) / "workspace", models=3, n=32)
        made.index()
        genuine = Path(scratch) / "release"
        release(made.workspace, genuine, progress=False)
        _imported(genuine, Path(scratch) / "first", made.encoder)  # whatever is loaded once counts for no input
        before = _peak()
        for number in range(start, end):
            folder, target = Path(scratch) / "changed", Path(scratch) / "copy"
            shutil.copytree(genuine, folder)
            change(folder, random.Random(number))
            begun = time.process_time()
            end_of_it, failure = _imported(folder, target, made.encoder)
            seconds = time.process_time() - begun
            if seconds > SECONDS:
                failure = failure or f"took {seconds:.1f} s"
            line = {"end": end_of_it, "failure": failure, "seconds": seconds, "growth": _peak() - before}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
            shutil.rmtree(folder)


def _imported(folder: Path, target: Path, encoder: Any) -> tuple[str, str]:
    from hubprobe.release import import_release
    from workspace import HubprobeError, Workspace

    try:
        import_release(str(folder), target, encoder=encoder, progress=False)
        Workspace.open(target)
        return "imported", ""
    except HubprobeError as error:
        if target.exists():
            return "refused", f"a refused release left {sorted(p.name for p in target.iterdir())}"
        long = "\n" in str(error) or len(str(error)) > 800
        return "refused", f"no sentence: {str(error)[:300]}" if long else ""
    except Exception as error:  # noqa: BLE001 - any other is a finding
        return "raised", f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def change(folder: Path, chance: random.Random) -> None:
    """Change a release in one to three ways."""
    from tests.release.forging import seal

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


_TEXTS = [
    "",
    "x",
    "x" * 5_000,
    "x" * 300_000,
    "../../etc/passwd",
    "\x1b[31m",
    "\u202e",
    "\n",
    "/",
    "a/b",
    "NaN",
    "\x00",
]
_NUMBERS = [0, -1, 1, 3, 255, 2**15, 2**31 - 1, -(2**31), 2**40, 2**63 - 1, float("nan"), float("inf"), -1.5, 1e38]


def _hostile(kind: Any, chance: random.Random, depth: int = 0) -> Any:
    import pyarrow as pa

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
    import pyarrow as pa

    from tests.release.forging import change_table

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
    import pyarrow as pa

    from tests.release.forging import change_table

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
    from tests.release.forging import change_manifest

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
    import numpy as np
    from safetensors.numpy import load_file, save_file

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


def main() -> None:
    """Run from the command line; exit code 1 when an input failed."""
    parser = argparse.ArgumentParser(description="Fuzz hubprobe import.")
    parser.add_argument("--count", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    report = run(options.count, options.seed)
    ends = ", ".join(f"{count} {name}" for name, count in report.ends.most_common())
    sys.stdout.write(f"{report.inputs} inputs: {ends}\n")
    sys.stdout.write(f"slowest {report.slowest:.2f} s of processor time, growth {report.growth / 1e6:.0f} MB\n")
    sys.stdout.writelines(f"{line}\n" for line in report.failures[:50])
    sys.exit(bool(report.failures))


if __name__ == "__main__":
    main()
