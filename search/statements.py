"""Read-only SQL over every table of a workspace, with searches inside it, in a process of its own that has limits.

``FROM search('dog', n := 500)`` is a search: the statement is parsed by DuckDB, every such call in the parse is run and
replaced by its result, and what is executed is that parse. Only SELECT statements have a parse of this kind, so there
is nothing to write with; files, extensions and settings are switched off besides. DuckDB holds neither its memory limit
nor a timeout inside one function call, so the statement runs in a child process: see `search.statement_child`.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from search.views import VIEWS, everyday, read_view
from workspace import QueryError, Workspace
from workspace.text import printable, without_paths

if TYPE_CHECKING:
    from search.query import Query

MAX_STATEMENT = 100_000
"""Characters of a statement."""

MAX_SEARCHES = 32
"""Different searches in one statement; the same search written twice is run once."""

MAX_SEARCH_ROWS = 1_000_000
"""Hits that all searches of one statement may ask for."""

MAX_ROWS, MAX_BYTES = 10_000_000, 1 << 30
"""Rows and bytes of an answer."""

MEMORY_BYTES = 4 << 30
"""What the process of one statement may allocate; it never spills to disk."""

TIMEOUT_S = 60.0
"""Seconds a statement may take, its searches included, unless the caller says otherwise."""

_REMOTE = ("hf://", "s3://", "http://", "https://", "gs://", "gcs://", "r2://")
_SECRET = re.compile("TOKEN|SECRET|PASSW|KEY|CREDENTIAL", re.IGNORECASE)
_TEXTS = list[str]
_SHARED: dict[str, type] = {"n": int, "k": int, "scoring": str, "by": str, "filter": str}
_SEARCH: dict[str, Any] = _SHARED | {"hybrid": bool, "all_of": _TEXTS, "any_of": _TEXTS, "none_of": _TEXTS}
_SIMILAR: dict[str, Any] = _SHARED | {"sha": str, "whole": bool}
_IN_WORDS = {int: "a whole number", str: "a text", bool: "true or false", _TEXTS: "a list of texts"}
_SYNONYMS = {"limit": "n", "where": "filter"}
"""What the command line and Python call them: DuckDB's own words, which are put between quotes to be parsed."""

_WORDS = {short: word for word, short in _SYNONYMS.items()}


@dataclass(frozen=True)
class Answer:
    """The rows of a statement as they arrive; reading on may raise `QueryError`."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


@contextmanager
def answered(
    workspace: Workspace,
    statement: str,
    index: Callable[[], Any],
    *,
    allow: Sequence[str] = (),
    timeout_s: float | None = TIMEOUT_S,
) -> Iterator[Answer]:
    """Answer one statement batch by batch; what is not read when the block ends is given up.

    ``index`` returns the open index, a `search.Index`, and is called when the statement searches. See `search.sql` for
    what a statement is, and for the errors.
    """
    deadline = _Deadline(timeout_s)
    if len(statement) > MAX_STATEMENT:
        raise QueryError(f"a statement has at most {MAX_STATEMENT} characters, this one {len(statement)}")
    if statement.strip().rstrip("; ").lower() == "show tables":
        table = pa.table({"name": sorted(VIEWS)})
        yield Answer(table.schema, iter(table.to_batches()))
        return
    statement = _quoted(statement)
    explain = re.match(r"\s*explain(\s+analyze)?\s+", statement, re.IGNORECASE)
    before, statement = explain[0] if explain else "", statement[explain.end() if explain else 0 :]
    parsed = _parse(statement)
    text = statement
    if parsed is None:  # a PIVOT: DuckDB makes several statements of it, and serialises none
        read, tables = _pivoted(statement), dict[str, pa.Table]()
    else:
        read = sorted(VIEWS & set(_tables(parsed)))
        tables = _with_searches(parsed, index, deadline)
        if tables:
            from search.filters import deserialised

            with _sound():
                text = deserialised(json.dumps(parsed))
    for name in read:
        deadline.check()
        tables[name] = read_view(workspace, name)
    hints = _Hints(statement, {name: tables[name].column_names for name in read}, tuple(allow))
    with _child(before + text, tables, allow, deadline, hints) as answer:
        yield answer


@dataclass
class _Deadline:
    seconds: float | None

    def __post_init__(self) -> None:
        self._end = math.inf if self.seconds is None else time.monotonic() + self.seconds

    def left(self) -> float:
        return self._end - time.monotonic()

    def check(self) -> None:
        if self.left() <= 0:
            raise self.missed()

    def missed(self) -> QueryError:
        return QueryError(f"the statement took longer than {self.seconds:g} s: simplify it, or allow it more time")


# ── the process that runs it ─────────────────────────────────────────────────────────────────────────────────────
@contextmanager
def _child(
    text: str, tables: Mapping[str, pa.Table], allow: Sequence[str], deadline: _Deadline, hints: _Hints
) -> Iterator[Answer]:
    left = deadline.left()
    deadline.check()
    request = {
        "statement": text,
        "tables": list(tables),
        "allow": [place if place.endswith("/") else f"{place}/" for place in allow],
        "remote": any(place.startswith(_REMOTE) for place in allow),
        "memory": f"{MEMORY_BYTES * 3 // 4 >> 20}MiB",
        "memory_bytes": MEMORY_BYTES,
        "cpu_s": None if left == math.inf else math.ceil(2 * left) + 2,  # two threads
        "max_rows": MAX_ROWS,
        "max_bytes": MAX_BYTES,
        "folder": _current_folder(),
    }
    environment = {name: value for name, value in os.environ.items() if not _SECRET.search(name)}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-m", "search.statement_child"], stdin=pipe, stdout=pipe, stderr=pipe, env=environment,
        cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    alarm = threading.Timer(min(left, threading.TIMEOUT_MAX), process.kill)
    alarm.daemon = True
    alarm.start()
    said = bytearray()
    helpers = [
        threading.Thread(target=_send, args=(process.stdin, request, tables), daemon=True),
        threading.Thread(target=_collect, args=(process.stderr, said), daemon=True),
    ]
    for helper in helpers:
        helper.start()

    def end() -> None:
        """Raise what ended the process, unless it ended well."""
        code = process.wait()
        helpers[1].join()
        if code and (deadline.left() <= 0 or code == -getattr(signal, "SIGXCPU", 0)):
            raise deadline.missed()
        if code:
            raise hints.explained(bytes(said), code)

    def rows(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        try:
            yield from reader
        except (pa.ArrowInvalid, OSError) as error:
            end()
            raise QueryError("the statement's process stopped in the middle of its answer") from error
        end()

    try:
        try:
            reader = pa.ipc.open_stream(process.stdout)
        except (pa.ArrowInvalid, OSError) as error:
            end()
            raise QueryError("the statement's process gave no answer") from error
        yield Answer(reader.schema, rows(reader))
    finally:
        alarm.cancel()
        process.kill()
        process.wait()
        for helper in helpers:
            helper.join()
        for stream in (process.stdin, process.stdout, process.stderr):
            with suppress(OSError):
                stream.close()


def _current_folder() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError:  # it was deleted: nothing relative can be read
        return os.sep


def _send(stream: Any, request: dict[str, Any], tables: Mapping[str, pa.Table]) -> None:
    """Write the request; the stream stays open, as the child's sign that we are alive."""
    with suppress(OSError, ValueError, pa.ArrowException):  # a child that ended early has said why
        stream.write(json.dumps(request).encode() + b"\n")
        for table in tables.values():
            with pa.ipc.new_stream(stream, table.schema) as writer:
                writer.write_table(table)
        stream.flush()


def _collect(stream: Any, into: bytearray, most: int = 65_536) -> None:
    while piece := stream.read1(most):
        into += piece[: most - len(into)]


@dataclass(frozen=True)
class _Hints:
    """Turns what DuckDB says into what helps here."""

    statement: str
    columns: Mapping[str, Sequence[str]]
    allow: tuple[str, ...]

    def explained(self, said: bytes, code: int) -> QueryError:
        """Return the error to raise for what a child wrote and how it ended."""
        try:
            error = json.loads(said.splitlines()[-1])
            kind, message = str(error["kind"]), str(error["message"])
        except (ValueError, IndexError, KeyError, TypeError):
            kind, message = "OutOfMemoryException" if code != 3 else "", "it ended without a word"
        if kind in ("OutOfMemoryException", "MemoryError") or "bad_alloc" in message or "bad allocation" in message:
            return QueryError(f"the statement needs more than {MEMORY_BYTES >> 30} GB of memory: make its rows fewer")
        return QueryError(printable(without_paths(self._helpful(message), self.statement), 500))

    def _helpful(self, message: str) -> str:
        no_file = "file system operations are disabled" in message or "Permission Error" in message
        if no_file:
            places = ", ".join(self.allow) or "nothing"
            return f"{message}; files are read only under what --allow (in Python allow=[...]) names, which is {places}"
        unknown = re.search(r"Table (Function )?with name \"?([^\s\"]+)\"? does not exist", message)
        if unknown:
            known = ["search", "similar"] if unknown[1] else sorted(VIEWS)
            near = get_close_matches(unknown[2].lower(), known, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            kind = "table function" if unknown[1] else "table"
            return f"there is no {kind} '{unknown[2]}'{meant} There are {', '.join(known)}"
        column = re.search(r"[Cc]olumn (?:named )?\"([^\"]+)\"", message)
        if column and message.startswith("Binder Error") and self.columns:
            return self._column(column[1])
        return message

    def _column(self, name: str) -> str:
        wanted = name.lower().replace("_", "")
        same = {"id": "repo_id", "repoid": "id"}.get(wanted)
        parts = []
        for table, names in self.columns.items():
            # everyday names come before the Hub's own, and count
            plain = {column.lower().replace("_", ""): column for column in reversed(names)}
            near = [same] if same and same in names else [plain[n] for n in get_close_matches(wanted, plain, n=3)]
            parts.append(f"{table} has {', '.join(near or names)}")
        return f"no table read here has a column '{name}'; {'; '.join(parts)}"


def _tokens(statement: str) -> list[tuple[int, str, str]]:
    """Return offset in UTF-8, kind and text of every token, as DuckDB sees them; texts and comments are tokens too."""
    import duckdb

    with _sound():
        raw = statement.encode("utf-8")
        found = duckdb.tokenize(statement)
    ends = [offset for offset, _ in found[1:]] + [len(raw)]
    return [
        (offset, str(kind).rpartition(".")[2], raw[offset:end].decode("utf-8", "replace").strip())
        for (offset, kind), end in zip(found, ends, strict=False)  # no token: one end too many
    ]


def _quoted(statement: str) -> str:
    """Return a statement in which ``limit := 3`` and ``where := '...'`` parse: these words are DuckDB's own."""
    tokens, raw = _tokens(statement), statement.encode("utf-8")
    for (offset, kind, text), (_, _, after) in reversed(list(pairwise(tokens))):
        if kind == "keyword" and text.lower() in _SYNONYMS and after.startswith((":=", "=>", "=")):
            raw = raw[:offset] + b'"' + text.encode() + b'"' + raw[offset + len(text) :]
    return raw.decode("utf-8")


def _pivoted(statement: str) -> list[str]:
    """Return the tables that a PIVOT reads: the names of ours that it holds."""
    words = [text.strip('"').lower() for _, _, text in _tokens(statement)]
    if any(word in ("search", "similar") and after.startswith("(") for word, after in pairwise(words)):
        raise QueryError("PIVOT and a search do not go together: write the search's hits to a file, and pivot that")
    return sorted(VIEWS & set(words))


def statements_of(text: str) -> list[str]:
    """Return the statements of a script, one by one; raises `QueryError` when it is no SQL."""
    import duckdb

    from search.filters import check_brackets

    if len(text) > MAX_STATEMENT:
        raise QueryError(f"a script has at most {MAX_STATEMENT} characters, this one {len(text)}")
    quoted = _quoted(text)
    check_brackets(quoted)
    with _sound():
        return [one.query.strip().rstrip(";") for one in duckdb.extract_statements(quoted)]


@contextmanager
def _sound() -> Iterator[None]:
    """Say what DuckDB's parser raises."""
    import duckdb

    try:
        yield
    except (RecursionError, duckdb.Error, UnicodeEncodeError, RuntimeError) as error:
        raise QueryError(f"the statement cannot be parsed: {printable(error, 300)}") from error


def _parse(statement: str) -> dict[str, Any] | None:
    """Return DuckDB's parse, or None of a PIVOT, which has none; raises `QueryError` for what is not one SELECT."""
    import duckdb

    from search.filters import serialised

    with _sound():
        parsed: dict[str, Any] = json.loads(serialised(statement))
        if parsed.get("error_type") == "not implemented":
            kinds = [one.type for one in duckdb.extract_statements(statement)]
            first = statement.split(None, 1)[0].lower().lstrip("(") if statement.split() else ""
            if kinds == [getattr(duckdb.StatementType, "MULTI", None)] and first in ("pivot", "with", "select", "from"):
                return None
            raise QueryError("only SELECT statements are answered: this SQL is read-only")
    if parsed.get("error"):
        raise QueryError(printable(parsed.get("error_message", ""), 300))
    if len(parsed["statements"]) != 1:
        raise QueryError(f"one statement at a time, not {len(parsed['statements'])}")
    return parsed


# ── searches inside a statement ──────────────────────────────────────────────────────────────────────────────────
def _with_searches(parsed: dict[str, Any], index: Callable[[], Any], deadline: _Deadline) -> dict[str, pa.Table]:
    """Run every search of the parse, put a reference to its result in its place, and return the results by name."""
    calls: dict[str, list[dict[str, Any]]] = {}
    for node in _nodes(parsed):
        if node.get("type") == "TABLE_FUNCTION":
            name = node["function"]["function_name"].lower()
            if name in ("search", "similar"):
                written = json.dumps([name, *_arguments(node["function"])])
                calls.setdefault(written, []).append(node)
    if len(calls) > MAX_SEARCHES:
        raise QueryError(f"a statement has at most {MAX_SEARCHES} searches, this one {len(calls)}")
    tables: dict[str, pa.Table] = {}
    rows = 0
    for number, (written, nodes) in enumerate(calls.items()):
        deadline.check()
        name, positional, named = json.loads(written)
        query = (_search if name == "search" else _similar)(index(), positional, named)
        rows += query.top
        if rows > MAX_SEARCH_ROWS:
            raise QueryError(f"the searches of a statement have at most {MAX_SEARCH_ROWS:,} hits together: lower n")
        table = f"_found_{number}"
        tables[table] = everyday(query.to_arrow())
        for node in nodes:
            _refer(node, table, node["alias"] or name)
    return tables


def _refer(node: dict[str, Any], table: str, alias: str) -> None:
    reference = {
        "type": "BASE_TABLE", "alias": alias, "sample": node.get("sample"), "schema_name": "",
        "table_name": table, "column_name_alias": node.get("column_name_alias", []), "catalog_name": "",
        "at_clause": None, "qualified_name": {"path": [table]}, "query_location": 0, "query_location_length": 0,
    }  # fmt: skip
    node.clear()
    node.update(reference)


def _search(index: Any, positional: list[Any], named: dict[str, Any]) -> Query:
    _check("search", positional, named, 1, _SEARCH)
    options: dict[str, Any] = {name: tuple(named.get(name) or ()) for name in ("all_of", "any_of", "none_of")}
    options |= {name: named.get(name) for name in ("k", "scoring")}
    text = next(iter(positional), None)
    if not isinstance(text, (str, type(None))):
        raise QueryError("search() takes a text: search('dog')")
    return _shaped(index.search(text, hybrid=bool(named.get("hybrid")), **options), named)


def _similar(index: Any, positional: list[Any], named: dict[str, Any]) -> Query:
    _check("similar", positional, named, 2, _SIMILAR)
    if len(positional) != 2 or not isinstance(positional[0], str) or type(positional[1]) is not int:
        raise QueryError("similar() takes a repository and a logit: similar('owner/name', 3)")
    options: dict[str, Any] = {name: named.get(name) for name in ("sha", "k", "scoring")}
    return _shaped(index.similar(*positional, whole=bool(named.get("whole")), **options), named)


def _shaped(query: Query, named: dict[str, Any]) -> Query:
    if named.get("filter"):
        query = query.where(str(named["filter"]))
    if named.get("by"):
        query = query.by(named["by"])
    n = named.get("n")
    return query.limit(100 if n is None else n)


def _check(name: str, positional: list[Any], named: dict[str, Any], most: int, known: dict[str, Any]) -> None:
    unknown = sorted(set(named) - set(known))
    if unknown or len(positional) > most:
        what = f"has no argument '{printable(unknown[0])}'" if unknown else f"takes at most {most} unnamed arguments"
        named_ones = ", ".join(sorted(_WORDS.get(option, option) for option in known))
        raise QueryError(f"{name}() {what}; named ones: {named_ones}")
    for option, value in named.items():
        texts = known[option] is _TEXTS
        fits = isinstance(value, list) and all(type(v) is str for v in value) if texts else type(value) is known[option]
        if value is not None and not fits:
            raise QueryError(f"{_WORDS.get(option, option)} must be {_IN_WORDS[known[option]]}, not {printable(value)}")


def _arguments(function: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for name, expression in _written(function):
        left = expression.get("left", {}) if expression["class"] == "COMPARISON" else {}
        if left.get("class") == "COLUMN_REF":
            option = printable(left["column_names"][-1])
            raise QueryError(f"a named argument is written {option} := ..., not {option} = ...")
        value = _constant(expression)
        if name:
            named[_SYNONYMS.get(name.lower(), name.lower())] = value
        else:
            positional.append(value)
    return positional, named


def _written(function: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return name and expression of each argument; DuckDB 1, the last for Python 3.10, has them as named children."""
    if "arguments" in function:
        return [(argument["name"], argument["expression"]) for argument in function["arguments"]]
    return [(child["alias"], child) for child in function["children"]]


_READ: dict[str, Callable[[str], Any]] = {
    "STRING": str, "INTEGER": int, "NUMERIC": float, "BOOLEAN": lambda text: text == "true",
    "NULL_LITERAL": lambda _text: None,
}  # fmt: skip


def _constant(node: dict[str, Any]) -> Any:
    if node["class"] == "CONSTANT" and node.get("literal", {}).get("kind") in _READ:
        return _READ[node["literal"]["kind"]](node["literal"]["text"])
    if node["class"] == "CONSTANT" and "value" in node:  # DuckDB 1
        value, kind = node["value"], node["value"]["type"]
        if value["is_null"]:
            return None
        return value["value"] / 10 ** kind["type_info"]["scale"] if kind["id"] == "DECIMAL" else value["value"]
    # DuckDB 1 writes true as 't'::BOOLEAN
    if node["class"] == "CAST" and node.get("cast_type", {}).get("id") == "BOOLEAN":
        return _constant(node["child"]) in ("t", "true")
    if node["class"] == "FUNCTION" and node["function_name"] == "list_value":
        return [_constant(expression) for _, expression in _written(node)]
    raise QueryError("arguments of search() and similar() are constants: texts, numbers, true, false, lists of them")


def _tables(parsed: dict[str, Any]) -> Iterator[str]:
    """Yield the names, in lower case, of all tables a statement reads, also in DESCRIBE and SUMMARIZE."""
    for node in _nodes(parsed):
        name = node.get("table_name")
        if isinstance(name, str):
            yield name.strip('"').lower()


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            yield node
            todo += node.values()
        elif isinstance(node, list):
            todo += node
