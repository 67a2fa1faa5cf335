"""What a page shows, as a file: its address with ``format=csv``, ``json`` or ``parquet`` at the end."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from starlette.responses import Response

from hubprobe.output import write_batches
from workspace import QueryError
from workspace.text import printable

KINDS = {"csv": "text/csv; charset=utf-8", "json": "application/json", "parquet": "application/vnd.apache.parquet"}
"""The formats, and what a browser is told of each."""


def wanted(values: Mapping[str, str]) -> str:
    """Return the format that an address asks for, empty for a page; raises `QueryError` for one that is not there."""
    kind = values.get("format", "")
    if kind and kind not in KINDS:
        raise QueryError(f"there is no format '{printable(kind, 40)}': {', '.join(KINDS)}")
    return kind


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pa.Table:
    """Return rows as a table that has its columns also when there are no rows."""
    made = {name: [row.get(name) for row in rows] for name in columns}
    return pa.table({name: pa.array(values, None if rows else pa.string()) for name, values in made.items()})


def text(rows: pa.Table, kind: str) -> bytes:
    """Return a table in one of the `KINDS`; what a spreadsheet would run as a formula is made a text."""
    sink = io.BytesIO()
    write_batches(rows.to_batches(), rows.schema, kind, sink)
    return sink.getvalue()


def file(rows: pa.Table, kind: str, name: str) -> Response:
    """Return a table as a file for keeping, called ``name`` with the format's ending."""
    headers = {
        "content-disposition": f'attachment; filename="hubprobe-{name}.{kind}"',
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
    }
    return Response(text(rows, kind), headers=headers, media_type=KINDS[kind])
