"""Putting rows in order that do not fit into memory: scattered to buckets on disk, then one bucket at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from numpy.typing import NDArray


def in_buckets(
    tables: Iterable[pa.Table],
    schema: pa.Schema,
    buckets: int,
    bucket_of: Callable[[pa.Table], NDArray[Any]],
    scratch: Path,
) -> Iterator[pa.Table]:
    """Yield the rows of ``tables`` as one table a bucket, in order of bucket; within one they keep their order.

    Args:
        tables: any number of tables of ``schema``, each of a size that fits.
        schema: of all of them.
        buckets: how many; each must fit into memory twice.
        bucket_of: returns the bucket of every row, int ``[rows]``; a negative one leaves the row out.
        scratch: an existing folder with room for all rows, uncompressed; not touched when there is one bucket.
    """
    if buckets <= 1:
        parts = [table.filter(pa.array(bucket_of(table) >= 0)) for table in tables]
        yield pa.concat_tables([schema.empty_table(), *parts])
        return
    with TemporaryDirectory(prefix=".tmp-sort-", dir=scratch) as folder:
        paths = [Path(folder) / f"{number:05d}.arrow" for number in range(buckets)]
        with ExitStack() as stack:
            writers = [stack.enter_context(pa.OSFile(str(path), "wb")) for path in paths]
            streams = [stack.enter_context(pa.ipc.new_stream(file, schema)) for file in writers]
            for table in tables:
                found = bucket_of(table)
                for number in np.unique(found[found >= 0]).tolist():
                    streams[number].write_table(table.filter(pa.array(found == number)).combine_chunks())
        for path in paths:
            with pa.memory_map(str(path)) as file:
                yield pa.ipc.open_stream(file).read_all()
            path.unlink()


def without_repeats(table: pa.Table, key: list[str]) -> pa.Table:
    """Return ``table``, sorted by ``key``, without rows whose key is that of the row before."""
    if table.num_rows < 2:
        return table
    new = np.zeros(table.num_rows, bool)
    new[0] = True
    for name in key:
        codes = table[name].combine_chunks().dictionary_encode().indices.to_numpy()
        new[1:] |= codes[1:] != codes[:-1]
    return table if new.all() else table.filter(pa.array(new))
