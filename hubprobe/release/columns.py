"""Maps, which `datasets` and the Hub's viewer do not know, as lists of key and value; and back."""

from __future__ import annotations

from typing import Any

import pyarrow as pa


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return ``kind`` with every map in it as a list of ``{key, value}``."""
    if pa.types.is_map(kind):
        return pa.list_(pa.struct([("key", kind.key_type), ("value", plain_type(kind.item_type))]))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(part.name, plain_type(part.type), part.nullable) for part in kind])
    return kind


def plain(table: pa.Table) -> pa.Table:
    """Return ``table`` without maps; field and table metadata stay."""
    fields = [field.with_type(plain_type(field.type)) for field in table.schema]
    return table.cast(pa.schema(fields, table.schema.metadata))


def restored(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table that `plain` made as one of ``schema``; columns that it lacks are null, others are left out.

    Raises `pyarrow.ArrowInvalid` when its columns are of other types.
    """
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, field.type))
        elif plain_type(field.type) == field.type:
            columns.append(table[field.name].cast(field.type))
        else:
            values = [_value(value, field.type) for value in table[field.name].to_pylist()]
            columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _value(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_map(kind):
        return [(entry["key"], entry["value"]) for entry in value]
    if pa.types.is_struct(kind):
        return {part.name: _value(value.get(part.name), part.type) for part in kind}
    return value
