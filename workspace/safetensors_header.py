"""The safetensors header: names, dtypes and shapes of the weights, read and checked without the weights.

Format: 8 bytes little-endian length n, n bytes of JSON ``{name: {dtype, shape, data_offsets}}``, then the data; offsets
count from the end of the header, cover it without gaps, and end at the end of the file
(https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from math import prod
from operator import add
from pathlib import Path
from typing import Any, TypeGuard

from workspace import bounded_json
from workspace.errors import ModelError
from workspace.status import Status

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_SHARDS = 64
MAX_INDEX = 32 * 1024**2  # bytes
_SHARD = re.compile(r"[\w.-]{1,200}\.safetensors", re.ASCII)
FIRST_READ = 65_536  # bytes: holds the whole header of most classifiers, so that one request is enough
MAX_HEADER = 25_000_000  # bytes, the Hub's own cap
MAX_TENSORS = 100_000
MAX_NAMES = 5_000_000  # characters of all their names together: they are searched for the head's
LEAST_BYTES = 10  # a length, and the JSON of no tensors

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
FLOATS = frozenset({"F16", "BF16", "F32", "F64"})
"""The dtypes in which weights are what they say; others need a runtime that unpacks them."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a header: its dtype as safetensors names it, and its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def is_float(self) -> bool:
        """Whether its numbers are real, in 16 bits or more."""
        return self.dtype in FLOATS

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class Header:
    """The tensors of one or several files that make one model. ``size`` is the bytes of those files."""

    tensors: tuple[Tensor, ...]
    size: int

    @property
    def parameters(self) -> int:
        """Number of elements of all floating-point tensors; integer buffers (positions, counters) do not count."""
        return sum(t.elements for t in self.tensors if t.is_float)

    @property
    def packed(self) -> str | None:
        """Why its weights are not real numbers as they are stored, in a sentence; None when they are.

        Vectors may be anything, since counters and scales are; so may 64-bit integers and booleans, which are indices.
        """
        for tensor in self.tensors:
            if tensor.dtype.startswith("C"):
                return f"{tensor.name[:80]} is stored as complex numbers"
            if len(tensor.shape) > 1 and not tensor.is_float and tensor.dtype not in ("I64", "BOOL"):
                bits = BITS[tensor.dtype]
                return f"weights stored in {bits} bits ({tensor.dtype}), without what scales them: {tensor.name[:80]}"
        return None

    def __add__(self, other: Header) -> Header:
        return Header(self.tensors + other.tensors, self.size + other.size)


def header_length(first: bytes, size: int) -> int:
    """Return n, the length of the header, from a file's first 8 bytes or more; ``size`` is the whole file's.

    Raises `ModelError`: ``invalid_header`` or ``truncated_weights``.
    """
    if first[:8] == b"version ":
        raise _invalid("the file is a Git LFS pointer: its weights were never uploaded")
    if len(first) < 8 or size < 8:
        raise ModelError(Status.TRUNCATED_WEIGHTS, f"the weights file has {size} bytes, too few for a header")
    length = int.from_bytes(first[:8], "little")
    if not 2 <= length <= MAX_HEADER:
        raise _invalid(f"the header says it is {length:,} bytes long; at most {MAX_HEADER:,} are read")
    if 8 + length > size:
        raise ModelError(
            Status.TRUNCATED_WEIGHTS, f"the header alone needs {8 + length:,} bytes, the file has {size:,}"
        )
    return length


def parse_header(raw: bytes, size: int) -> Header:
    """Read the JSON of a header and check it against the file's ``size`` in bytes. Raises `ModelError`."""
    try:
        content = bounded_json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _invalid(f"the header is not JSON ({type(error).__name__})") from error
    if not isinstance(content, dict) or len(content) > MAX_TENSORS:
        raise _invalid("the header is not an object of a sane number of tensors")
    content.pop("__metadata__", None)
    if sum(map(len, content)) > MAX_NAMES:
        raise _invalid(f"the names of its tensors have more than {MAX_NAMES:,} characters")
    tensors, spans = [], []
    for name, entry in content.items():
        tensor, span = _tensor(name, entry)
        tensors.append(tensor)
        spans.append(span)
    needed = 8 + len(raw) + max((end for _, end in spans), default=0)
    if needed > size:
        raise ModelError(Status.TRUNCATED_WEIGHTS, f"the header describes {needed:,} bytes, the file has {size:,}")
    at = 0
    for start, end in sorted(spans):
        if start != at:
            raise _invalid("its tensors overlap or leave gaps")
        at = end
    if needed < size:
        raise _invalid(f"{size - needed:,} bytes follow the last tensor")
    return Header(tuple(tensors), size)


def header_of(first: bytes, size: int, read: Callable[[int, int], bytes]) -> Header:
    """Return the header of a file of ``size`` bytes from its ``first`` ones; ``read`` brings others. `ModelError`."""
    length = header_length(first, size)
    raw = first[8 : 8 + length]
    return parse_header(raw if len(raw) == length else read(8, 8 + length), size)


def shards(raw: bytes) -> list[str]:
    """Return the files an index names, in order. Raises `ModelError` for an index that cannot be followed safely."""
    try:
        names = sorted(set(bounded_json.loads(raw.decode("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _invalid(f"{INDEX} names no shards ({type(error).__name__})") from error
    if not names or len(names) > MAX_SHARDS or not all(isinstance(name, str) and is_shard(name) for name in names):
        raise _invalid(f"{INDEX} names {len(names)} shards, or names no file could have")
    return names


def is_shard(path: str) -> bool:
    """Return whether a file of this name may be weights, whole or a part."""
    return _SHARD.fullmatch(path) is not None


def weights_of(folder: Path) -> tuple[list[Path], Header]:
    """Return the weights in ``folder`` that transformers and timm would read, and their headers as one.

    Raises `ModelError`: ``no_weights``, ``invalid_header``, ``truncated_weights``.
    """
    files, index = [folder / WEIGHTS], folder / INDEX
    if not files[0].is_file() and index.is_file():
        with index.open("rb") as file:
            files = [folder / name for name in shards(file.read(MAX_INDEX))]
    if not all(path.is_file() for path in files):
        raise ModelError(Status.NO_WEIGHTS, "it has no safetensors, or not all that its index names")
    return files, reduce(add, map(read_header, files))


def read_header(path: Path) -> Header:
    """Read the header of a file. Raises `ModelError`."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = header_length(file.read(8), size)
        return parse_header(file.read(length), size)


def _tensor(name: str, entry: Any) -> tuple[Tensor, tuple[int, int]]:
    if not isinstance(entry, dict):
        raise _invalid(f"the entry of tensor {name[:80]!r} is not an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _invalid(f"tensor {name[:80]!r} has an unknown dtype")
    if not (_naturals(shape) and _naturals(offsets)) or len(offsets) != 2 or len(shape) > 16:
        raise _invalid(f"tensor {name[:80]!r} has no usable shape or offsets")
    tensor = Tensor(name[:1000], dtype, tuple(shape))
    if (tensor.elements * BITS[dtype] + 7) // 8 != offsets[1] - offsets[0]:
        raise _invalid(f"tensor {name[:80]!r} does not fill its offsets")
    return tensor, (offsets[0], offsets[1])


def _naturals(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 2**63 for v in value)


def _invalid(reason: str) -> ModelError:
    return ModelError(Status.INVALID_HEADER, reason)
