"""Odd safetensors files: headers of every kind, as the crawler reads them from bytes and the prober from a file."""

from __future__ import annotations

import json
import struct
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.security import odd
from benchmarks.security.watch import Report, attempt, watching
from workspace import ModelError
from workspace.safetensors_header import header_length, parse_header, read_header

DTYPES = ("F32", "F16", "BF16", "F64", "I64", "I8", "U8", "BOOL", "F8_E4M3", "C64", "F4", "Q4", "", "f32", None, 3, [])


def run(count: int, seed: int) -> Report:
    """Try ``count`` files; return the report."""
    with tempfile.TemporaryDirectory() as scratch, watching("headers", seed) as report:
        path = Path(scratch) / "model.safetensors"
        for number in range(seed, seed + count):
            raw = _file(Random(number))

            def both(raw: bytes = raw) -> None:
                path.write_bytes(raw)
                try:
                    of_file: object = read_header(path)
                except ModelError as error:
                    of_file = error.status
                try:
                    length = header_length(raw[:4096], len(raw))
                    of_bytes: object = parse_header(raw[8 : 8 + length], len(raw))
                except ModelError as error:
                    if of_file != error.status:
                        raise AssertionError(f"the file says {of_file}, its bytes {error}") from error
                    raise
                if of_bytes != of_file:
                    raise AssertionError(f"the file says {of_file}, its bytes {of_bytes}")

            attempt(report, both, f"seed {number}: {raw[:300]!r}", ModelError)
    return report


def _file(chance: Random) -> bytes:
    at, header = 0, {}
    for i in range(chance.choice((0, 1, 3, 30))):
        shape = [chance.choice((1, 2, 5, 0)) for _ in range(chance.choice((0, 1, 2, 4)))]
        size = 4
        for edge in shape:
            size *= edge
        entry: Any = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
        if chance.random() < 0.1:
            entry[chance.choice(("dtype", "shape", "data_offsets", "x"))] = chance.choice(
                (odd.value(chance), chance.choice(DTYPES), [at, at - 8], [2**62, 2**63], [-4, 4])
            )
        if chance.random() < 0.03:
            entry = odd.value(chance)
        header[f"layer.{i}.weight" if chance.random() < 0.95 else chance.choice(odd.TEXTS)] = entry
    if chance.random() < 0.2:
        header["__metadata__"] = odd.value(chance)
    text = odd.encoded(header, chance) if chance.random() < 0.4 else json.dumps(header).encode()
    length = chance.choice((len(text), len(text), len(text), len(text), len(text) + 1, 0, 1, 2**32, 2**63, 2**64 - 1))
    raw = struct.pack("<Q", length) + text + bytes(min(at, 1 << 20))
    kind = chance.randrange(10)
    if kind == 0:
        return odd.damaged(raw, chance)
    if kind == 1:
        return raw[: chance.randrange(len(raw) + 1)]
    return raw
