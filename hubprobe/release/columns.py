"""Maps, which `datasets` and the Hub's viewer do not know, as lists of key and value; and back."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return ``kind`` with every map in it as a list of ``{key, value}``."""
    if pa.types.is_map(kind):
        return pa.list_(pa.struct([("key", kind.key_type), ("value", plain_type(kind.item_type))]))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(part.name, plain_type(part.type), part.nullable) for part in kind])
    return kind


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Return ``schema`` without maps; field and schema metadata stay."""
    return pa.schema([field.with_type(plain_type(field.type)) for field in schema], schema.metadata)


def plain(table: pa.Table) -> pa.Table:
    """Return ``table`` without maps; field and table metadata stay."""
    return table.cast(plain_schema(table.schema))


def restored(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table of ``plain_schema(schema)`` as one of ``schema``."""
    columns = []
    for field in schema:
        column = table[field.name]
        if column.type != field.type:
            column = pa.chunked_array([_with_maps(chunk, field.type) for chunk in column.chunks], field.type)
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema)


def _with_maps(values: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_map(kind):
        lengths = pc.list_value_length(values).fill_null(0).to_numpy()
        ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        null = np.append(values.is_null().to_numpy(zero_copy_only=False), False)
        entries = values.flatten()
        keys, items = (entries.field(name) for name in ("key", "value"))
        return pa.MapArray.from_arrays(pa.array(ends, mask=null), keys, _with_maps(items, kind.item_type))
    if pa.types.is_struct(kind):
        parts = [_with_maps(pc.struct_field(values, [i]), part.type) for i, part in enumerate(kind)]
        return pa.StructArray.from_arrays(parts, fields=list(kind), mask=values.is_null())
    return values
