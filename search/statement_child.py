"""The process that runs one SQL statement: DuckDB over tables it was sent, under limits it cannot lift.

It reads a request from stdin (a JSON line, then one Arrow stream per table), writes the answer to stdout as an Arrow
stream, and ends with 0. An error is one JSON line on stderr and exit code 3. The parent keeps stdin open: when the
parent is gone, so is this process. It imports nothing of ours, so that it starts quickly.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any, BinaryIO

BATCH_ROWS = 8_192
"""Rows of a batch of the answer."""

FAILED = 3
"""Exit code when the statement failed; what went wrong is on stderr."""


def limit_resources(memory_bytes: int, cpu_s: int | None) -> None:
    """Bound what this process may allocate beyond what it has, and its processor time; no limits on Windows."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    if cpu_s is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))


def connect(request: dict[str, Any]) -> Any:
    """Return a DuckDB that can touch nothing but the places that the request allows."""
    import duckdb

    connection = duckdb.connect(config={"memory_limit": request["memory"], "threads": "2"})
    connection.execute("SET python_enable_replacements = false")  # a name is a table here, never a variable
    connection.execute("SET temp_directory = ''")
    if request["remote"]:
        connection.execute("INSTALL httpfs")
        connection.execute("LOAD httpfs")
    if request["allow"]:
        connection.execute("SET allowed_directories = $1", [request["allow"]])
    connection.execute("SET enable_external_access = false")
    return connection


def answer(request: dict[str, Any], source: BinaryIO, sink: BinaryIO) -> None:
    """Run the statement and write its rows; raises whatever DuckDB does, `ValueError` above a cap."""
    import pyarrow as pa

    limit_resources(request["memory_bytes"], request["cpu_s"])
    connection = connect(request)
    for name in request["tables"]:
        connection.register(name, pa.ipc.open_stream(source).read_all())
    connection.execute("SET lock_configuration = true")
    threading.Thread(target=_end_with_the_parent, args=(source,), daemon=True).start()
    relation = connection.sql(request["statement"])
    if relation is None:
        raise ValueError("only SELECT statements are answered: this SQL is read-only")
    rows = size = 0
    # the latter: DuckDB 1
    batches = "to_arrow_reader" if hasattr(relation, "to_arrow_reader") else "fetch_record_batch"
    reader = getattr(relation, batches)(BATCH_ROWS)
    with pa.ipc.new_stream(sink, reader.schema) as writer:
        for batch in reader:
            rows, size = rows + batch.num_rows, size + batch.nbytes
            if rows > request["max_rows"] or size > request["max_bytes"]:
                raise ValueError(
                    f"the result is larger than {request['max_rows']:,} rows or {request['max_bytes'] >> 20} MiB: "
                    "add a LIMIT, or select fewer columns"
                )
            writer.write_batch(batch)
    sink.flush()


def _end_with_the_parent(source: BinaryIO) -> None:
    if not source.read(1):
        os._exit(FAILED)


def main() -> None:
    """Answer the one request on stdin."""
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not end up among the rows
    source = sys.stdin.buffer
    try:
        request = json.loads(source.readline())
        os.chdir(request["folder"])  # relative places are the caller's
        answer(request, source, sink)
    except (Exception, MemoryError) as error:  # noqa: BLE001 - the parent raises it again
        message = {"kind": type(error).__name__, "message": str(error)[:4_000]}
        os.write(2, json.dumps(message).encode())
        os._exit(FAILED)
    os._exit(0)


if __name__ == "__main__":
    main()
