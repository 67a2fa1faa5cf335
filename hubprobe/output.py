"""Results on stdout as a table, JSON or CSV. Names and labels are strangers' text: each format disarms them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

from workspace.text import printable

FORMATS = ("table", "json", "csv")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def render(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], kind: str = "table", *, width: int = 60) -> str:
    """Return ``rows`` as text, ending in a newline.

    Args:
        rows: records; missing columns are empty.
        columns: which, and in what order.
        kind: ``table`` for people, ``json`` (a list of objects, escapes by the JSON standard), or ``csv``, where a cell
            that a spreadsheet would run as a formula is preceded by an apostrophe.
        width: characters a table's cell is cut to.

    """
    if kind == "json":
        return json.dumps([{c: row.get(c) for c in columns} for row in rows], indent=2, default=_json_value) + "\n"
    if kind == "csv":
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_csv_cell(row.get(c)) for c in columns] for row in rows)
        return buffer.getvalue()
    return _table([[_cell(row.get(c), width) for c in columns] for row in rows], list(columns), rows)


def _table(cells: list[list[str]], columns: list[str], rows: Sequence[Mapping[str, Any]]) -> str:
    widths = [max([len(name), *(len(line[i]) for line in cells)]) for i, name in enumerate(columns)]
    right = [bool(rows) and all(isinstance(r.get(c), (int, float, type(None))) for r in rows) for c in columns]

    def line(values: list[str]) -> str:
        parts = (v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True))
        return "  ".join(parts).rstrip()

    return "\n".join([line(columns), line(["─" * w for w in widths]), *map(line, cells)]) + "\n"


def _cell(value: Any, width: int) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, (list, tuple)):
        return printable(", ".join(map(str, value[:20])), width)
    return printable(value, width)


def _csv_cell(value: Any) -> Any:
    if isinstance(value, (list, tuple, dict)):
        value = json.dumps(value, default=_json_value)
    if isinstance(value, str) and value.startswith(_FORMULA):
        return "'" + value
    return "" if value is None else value


def _json_value(value: Any) -> Any:
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if hasattr(value, "item"):
        return value.item()
    return str(value)
