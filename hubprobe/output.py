"""Results as a table, JSON, CSV and more, on stdout or in a file, and terminals that strangers' text cannot drive.

Names, labels and messages come from strangers' repositories. A table is disarmed as it is rendered; every other format
keeps data as data in a file or a pipe, and `guard_terminals` disarms whatever is written to a terminal, by any verb.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import date, datetime, timezone
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from workspace import HubprobeError
from workspace.text import printable

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = ("table", "json", "csv")
"""What every verb can print."""

SUFFIXES = {
    ".arrow": "arrow", ".csv": "csv", ".json": "json", ".jsonl": "jsonl", ".md": "md", ".parquet": "parquet",
    ".txt": "table", ".xlsx": "xlsx",
}  # fmt: skip
"""Formats of `write_batches`, by the suffix of the file."""

BINARY = ("arrow", "parquet", "xlsx")
"""Formats that are no text."""

MAX_SHOWN = 10_000
"""Rows of a table for people; the other formats take any number."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


# ── terminals ────────────────────────────────────────────────────────────────────────────────────────────────────
_PLAIN = {"─": "-", "—": "-", "–": "-", "…": "...", "×": "x", "“": '"', "”": '"', "’": "'", "‘": "'", "→": "->"}
_HARMLESS = re.compile(r"[\n\t\x20-\x7e]*")
_CURSOR_UP = re.compile(r"(?:\x1b\[A)+")


def guard_terminals() -> None:
    """Make ``sys.stdout`` and ``sys.stderr`` safe for strangers' text, whatever is written to them from now on.

    What the stream's encoding lacks is written in ASCII. On a terminal, control, format and bidirectional characters
    are written as escapes; the carriage returns that progress bars draw with stay.
    """
    codecs.register_error("hubprobe", _in_ascii)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="hubprobe")
        if stream is not None and stream.isatty() and not isinstance(stream, Guarded):
            setattr(sys, name, Guarded(stream, bars=name == "stderr"))


def without_pandas() -> None:
    """Have pyarrow do without pandas in this process: it imports it (0.4 s) at the first array, to know its types.

    For verbs that make no frames. Once pyarrow has looked, pandas can be imported as ever.
    """
    import pyarrow as pa

    hidden = _NoPandas()
    sys.meta_path.insert(0, hidden)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(hidden)


class _NoPandas:
    def find_spec(self, name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("hubprobe's verbs make no frames", name=name)


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking), error.end


class Guarded:
    """A terminal that shows control characters instead of obeying them.

    With ``bars`` a write may begin and end with a carriage return, or move up: progress bars do.
    """

    def __init__(self, stream: Any, *, bars: bool) -> None:
        self._stream, self._bars = stream, bars

    def write(self, text: str) -> int:
        """Write ``text`` disarmed; return its length."""
        self._stream.write(self._disarmed(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of ``lines``."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # whoever wants bytes must not get round this
            raise AttributeError(name)
        return getattr(self._stream, name)

    def _disarmed(self, text: str) -> str:
        if _HARMLESS.fullmatch(text) or (self._bars and _CURSOR_UP.fullmatch(text)):
            return text
        returns = "\r" if self._bars else ""
        body = text.strip(returns) if returns else text
        if not body:
            return text
        begin, end = text[: len(text) - len(text.lstrip(returns))], text[len(text.rstrip(returns)) :]
        if not returns:
            begin = end = ""
        return begin + "".join(map(_shown, body)) + end


def _shown(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"):
        return character
    return character.encode("unicode_escape", "surrogatepass").decode()


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────
@contextmanager
def output_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of ``path`` when the block ends well, and is gone when it does not.

    Raises `HubprobeError`, one sentence, when the file cannot be written: no such folder, no permission, a full disk.
    """
    plain = path.is_file() or not path.exists()  # a device or a pipe is written to, never replaced
    target = path.resolve() if plain else path
    partial = target.with_name(f".{target.name}.{os.getpid()}.part") if plain else target
    try:
        with partial.open("wb") as file:
            yield file
        if plain:
            partial.replace(target)
    except OSError as error:
        folder = f": there is no folder {path.parent}" if not path.parent.is_dir() else ""
        reason = folder or f": {error.strerror or printable(error, 200)}"
        raise HubprobeError(f"cannot write {path}{reason}; give another place") from error
    finally:
        if plain:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def write_batches(batches: Iterable[pa.RecordBatch], schema: pa.Schema, kind: str, sink: IO[bytes]) -> tuple[int, int]:
    """Write rows to ``sink``, a binary file, as they arrive; return how many were written, and how many more there
    were.

    Of ``kind``, ``table`` and ``md``, for people, have at most `MAX_SHOWN` rows; ``csv``, ``json``, ``jsonl``,
    ``parquet`` and ``arrow`` have all, ``xlsx`` at most Excel's 1,048,575.
    """
    if kind == "xlsx":
        return _write_sheet(batches, schema, sink), 0
    if kind in BINARY:
        return _write_binary(batches, schema, kind, sink), 0
    columns, rows = list(schema.names), 0
    if kind in ("table", "md"):
        shown: list[dict[str, Any]] = []
        for batch in batches:
            rows += batch.num_rows
            shown += batch.slice(0, MAX_SHOWN - len(shown)).to_pylist()
        sink.write(render(shown, columns, kind).encode("utf-8", "backslashreplace"))
        return len(shown), rows - len(shown)
    if kind == "csv":
        sink.write(_csv_lines([columns]))
    for batch in batches:
        if kind == "csv":
            values = zip(*(column.to_pylist() for column in batch.columns), strict=True)
            sink.write(_csv_lines([_csv_cell(value) for value in row] for row in values))
        else:
            lines = [json.dumps(row, default=_json_value) for row in batch.to_pylist()]
            before, between, after = ("", "\n", "\n") if kind == "jsonl" else (",\n" if rows else "[\n", ",\n", "")
            sink.write((before + between.join(lines) + after if lines else "").encode())
        rows += batch.num_rows
    if kind == "json":
        sink.write(b"\n]\n" if rows else b"[]\n")
    return rows, 0


def _write_binary(batches: Iterable[pa.RecordBatch], schema: pa.Schema, kind: str, sink: IO[bytes]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 0
    with pq.ParquetWriter(sink, schema) if kind == "parquet" else pa.ipc.new_file(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


SHEET_ROWS, SHEET_TEXT = 1_048_575, 32_767
"""What a sheet of Excel holds: rows beside the heading, and characters in a cell."""


def _write_sheet(batches: Iterable[pa.RecordBatch], schema: pa.Schema, sink: IO[bytes]) -> int:
    """Write a workbook of one sheet: texts as texts, never as formulas, and times in UTC, for Excel knows no zones."""
    if find_spec("openpyxl") is None:
        raise HubprobeError("xlsx needs openpyxl: pip install openpyxl, or write .csv, which Excel opens too")
    book = import_module("openpyxl").Workbook(write_only=True)
    sheet = book.create_sheet("rows")
    cell = import_module("openpyxl.cell").WriteOnlyCell

    def texts_as_texts(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        made = cell(sheet, value=_NOT_IN_XML.sub("\ufffd", value)[:SHEET_TEXT])
        made.data_type = "s"  # or '=1+1' is a formula
        return made

    sheet.append([texts_as_texts(name) for name in schema.names])
    rows = 0
    for batch in batches:
        rows += batch.num_rows
        if rows > SHEET_ROWS:
            raise HubprobeError(f"a sheet of Excel has at most {SHEET_ROWS:,} rows: add a LIMIT, or write .parquet")
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            sheet.append([texts_as_texts(_sheet_value(value)) for value in row])
    book.save(sink)
    return rows


_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def _sheet_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).replace(tzinfo=None) if value.tzinfo else value
    if value is None or isinstance(value, (str, bool, int, date)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return json.dumps(value, default=_json_value)


# ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def render(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], kind: str = "table", *, width: int = 60) -> str:
    """Return ``rows`` as text, ending in a newline.

    Args:
        rows: records; missing columns are empty.
        columns: which, and in what order.
        kind: ``table`` for people, ``md`` the same as Markdown, ``json`` (a list of objects, escapes by the JSON
            standard), or ``csv``, where a cell that a spreadsheet would run as a formula is preceded by an apostrophe.
        width: characters a table's cell is cut to.

    """
    if kind == "json":
        return json.dumps([{c: row.get(c) for c in columns} for row in rows], indent=2, default=_json_value) + "\n"
    if kind == "csv":
        cells = ([_csv_cell(row.get(c)) for c in columns] for row in rows)
        return _csv_lines([columns, *cells]).decode("utf-8", "surrogatepass")
    if kind == "md":
        return _markdown(
            [columns, ["---"] * len(columns), *([_cell(row.get(c), width) for c in columns] for row in rows)]
        )
    return _table([[_cell(row.get(c), width) for c in columns] for row in rows], list(columns), rows)


def chance(probability: float) -> str:
    """Return a probability for people: 21 %, and never 0 or 100, for what is learned of some cases is no certainty."""
    return f"{100 * min(max(probability, 0.01), 0.99):.0f} %"


def _table(cells: list[list[str]], columns: list[str], rows: Sequence[Mapping[str, Any]]) -> str:
    widths = [max([len(name), *(_places(line[i]) for line in cells)]) for i, name in enumerate(columns)]
    right = [bool(rows) and all(isinstance(r.get(c), (int, float, type(None))) for r in rows) for c in columns]

    def line(values: list[str]) -> str:
        gaps = [" " * (width - _places(value)) for value, width in zip(values, widths, strict=True)]
        parts = (gap + value if r else value + gap for value, gap, r in zip(values, gaps, right, strict=True))
        return "  ".join(parts).rstrip()

    return "\n".join([line(columns), line(["─" * w for w in widths]), *map(line, cells)]) + "\n"


def _places(text: str) -> int:
    """Return how many places a text takes in a terminal: ideographs take two."""
    return len(text) if text.isascii() else sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _markdown(lines: Iterable[Sequence[str]]) -> str:
    escaped = ([re.sub(r"([\\`*_|<\[])", r"\\\1", cell) if cell != "---" else cell for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


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


def _csv_lines(rows: Iterable[Sequence[Any]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode("utf-8", "surrogatepass")


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


def size(count: float) -> str:
    """Return bytes as people read them: ``71.3 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def duration(seconds: float) -> str:
    """Return a time as people read it, in its largest unit: ``2.5 hours``, ``1 minute``, ``0.3 seconds``."""
    units = ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
    length, name = next((unit for unit in units if seconds >= unit[0]), units[-1])
    count = f"{seconds / length:,.3g}"
    return f"{count} {name}" if count == "1" else f"{count} {name}s"
