"""Read-only SQL over every table of a workspace, with searches inside it, through a DuckDB that can touch nothing else.

``FROM search('dog', n := 500)`` is a search: the statement is parsed by DuckDB, every such call in the parse is run and
replaced by its result, and what is executed is that parse. Only SELECT statements have a parse of this kind, so there
is nothing to write with; files, extensions and settings are switched off besides.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from search.views import VIEWS, Views
from workspace import QueryError, Workspace
from workspace.text import printable

if TYPE_CHECKING:
    from search.query import Query
    from search.reader import Index

MAX_STATEMENT = 100_000
"""Characters of a statement."""

MEMORY = "4GB"
"""What one statement may use; it never spills to disk."""

_REMOTE = ("hf://", "s3://", "http://", "https://", "gs://", "gcs://", "r2://")
_SEARCH = {"all_of", "any_of", "none_of", "n", "k", "scoring", "by", "hybrid", "filter"}
_SIMILAR = {"sha", "whole", "n", "k", "scoring", "by", "filter"}


def sql(
    workspace: Workspace,
    statement: str,
    *,
    index: Index | None = None,
    allow: Sequence[str] = (),
    timeout_s: float | None = None,
) -> pa.Table:
    """Answer one SELECT statement; return an Arrow table.

    Tables: ``models``, ``logits``, ``attempts``, ``catalog``, ``runs``, ``probes``; table functions:
    ``search(concept, n := 100, k, scoring, by, hybrid, filter, all_of, any_of, none_of)`` and
    ``similar(repo_id, logit, n := 100, sha, whole, k, scoring, by, filter)``, whose arguments are constants.

    Args:
        workspace: whose tables.
        statement: one SELECT (or FROM, VALUES, WITH, DESCRIBE, SUMMARIZE, SHOW TABLES).
        index: an open index; opened when the statement needs it and None is given.
        allow: folders and ``hf://``, ``s3://`` or ``https://`` prefixes that the statement may read Parquet from; for
            remote ones DuckDB fetches its httpfs extension. Nothing is allowed by default.
        timeout_s: seconds after which the statement is interrupted; never when None.

    Raises `QueryError` for anything that is not one SELECT or fails, `MissingStepError` when a table is not there yet.
    """
    if len(statement) > MAX_STATEMENT:
        raise QueryError(f"a statement has at most {MAX_STATEMENT} characters, this one {len(statement)}")
    views = Views(workspace, index)
    if statement.strip().rstrip(";").split() and statement.strip().rstrip("; ").lower() == "show tables":
        return pa.table({"name": sorted(VIEWS)})
    parsed = _parse(statement)
    connection = _connect(allow)
    try:
        rewritten = _with_searches(parsed, views, connection)
        for name in sorted(VIEWS & set(_tables(parsed))):
            connection.register(name, views.table(name))
        connection.execute("SET lock_configuration = true")
        text = _deserialised(parsed) if rewritten else statement
        return _run(connection, text, timeout_s)
    finally:
        connection.close()


def _parse(statement: str) -> dict[str, Any]:
    from search.filters import serialised

    try:
        parsed: dict[str, Any] = json.loads(serialised(statement))
    except (RecursionError, duckdb.Error, UnicodeEncodeError, RuntimeError) as error:
        raise QueryError(f"the statement cannot be parsed: {printable(error, 300)}") from error
    if parsed.get("error"):
        message = str(parsed.get("error_message", ""))
        if parsed.get("error_type") == "not implemented":
            message = "only SELECT statements are answered: this SQL is read-only"
        raise QueryError(printable(message, 300))
    if len(parsed["statements"]) != 1:
        raise QueryError(f"one statement at a time, not {len(parsed['statements'])}")
    return parsed


def _connect(allow: Sequence[str]) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(config={"memory_limit": MEMORY, "threads": "2"})
    try:
        connection.execute(
            "SET python_enable_replacements = false"
        )  # a name is a table here, never a caller's variable
        connection.execute("SET temp_directory = ''")
        if any(place.startswith(_REMOTE) for place in allow):
            connection.execute("INSTALL httpfs")
            connection.execute("LOAD httpfs")
        if allow:
            folders = [place if place.endswith("/") else f"{place}/" for place in allow]
            connection.execute("SET allowed_directories = $1", [folders])
        connection.execute("SET enable_external_access = false")
    except duckdb.Error as error:
        connection.close()
        raise QueryError(f"DuckDB cannot be set up for {', '.join(allow)}: {printable(error, 300)}") from error
    return connection


def _run(connection: duckdb.DuckDBPyConnection, text: str, timeout_s: float | None) -> pa.Table:
    alarm = threading.Timer(timeout_s, connection.interrupt) if timeout_s is not None else None
    if alarm is not None:
        alarm.start()
    try:
        relation = connection.sql(text)
        if relation is None:
            raise QueryError("only SELECT statements are answered: this SQL is read-only")
        return relation.to_arrow_table()
    except duckdb.InterruptException as error:
        raise QueryError(f"the statement took longer than {timeout_s} s") from error
    except duckdb.Error as error:
        raise QueryError(printable(error, 500)) from error
    finally:
        if alarm is not None:
            alarm.cancel()


# ── searches inside a statement ──────────────────────────────────────────────────────────────────────────────────
def _with_searches(parsed: dict[str, Any], views: Views, connection: duckdb.DuckDBPyConnection) -> bool:
    """Run every search of the parse, and put a reference to its result in its place; return whether there was one."""
    number = 0
    for node in _nodes(parsed):
        if node.get("type") != "TABLE_FUNCTION":
            continue
        name = node["function"]["function_name"].lower()
        if name not in ("search", "similar"):
            continue
        positional, named = _arguments(node["function"])
        run = _search if name == "search" else _similar
        table = f"_found_{number}"
        connection.register(table, run(views.index, positional, named).to_arrow())
        number += 1
        reference = {
            "type": "BASE_TABLE", "alias": node["alias"] or name, "sample": node.get("sample"), "schema_name": "",
            "table_name": table, "column_name_alias": node.get("column_name_alias", []), "catalog_name": "",
            "at_clause": None, "qualified_name": {"path": [table]}, "query_location": 0, "query_location_length": 0,
        }  # fmt: skip
        node.clear()
        node.update(reference)
    return number > 0


def _search(index: Index, positional: list[Any], named: dict[str, Any]) -> Query:
    _check("search", positional, named, 1, _SEARCH)
    options: dict[str, Any] = {name: tuple(named.get(name) or ()) for name in ("all_of", "any_of", "none_of")}
    options |= {name: named.get(name) for name in ("k", "scoring")}
    query = index.search(positional[0] if positional else None, hybrid=bool(named.get("hybrid")), **options)
    return _shaped(query, named)


def _similar(index: Index, positional: list[Any], named: dict[str, Any]) -> Query:
    _check("similar", positional, named, 2, _SIMILAR)
    if len(positional) != 2 or not isinstance(positional[0], str) or not isinstance(positional[1], int):
        raise QueryError("similar() takes a repository and a logit: similar('owner/name', 3)")
    options: dict[str, Any] = {name: named.get(name) for name in ("sha", "k", "scoring")}
    return _shaped(index.similar(*positional, whole=bool(named.get("whole")), **options), named)


def _shaped(query: Query, named: dict[str, Any]) -> Query:
    if named.get("filter"):
        query = query.where(str(named["filter"]))
    if named.get("by"):
        query = query.by(named["by"])
    n = named.get("n", 100)
    if not isinstance(n, int):
        raise QueryError(f"n must be a whole number, not {printable(n)}")
    return query.limit(n)


def _check(name: str, positional: list[Any], named: dict[str, Any], most: int, known: set[str]) -> None:
    unknown = sorted(set(named) - known)
    if unknown or len(positional) > most:
        what = f"has no argument '{printable(unknown[0])}'" if unknown else f"takes at most {most} unnamed arguments"
        raise QueryError(f"{name}() {what}; named ones: {', '.join(sorted(known))}")


def _arguments(function: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for name, expression in _written(function):
        value = _constant(expression)
        if name:
            named[name.lower()] = value
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
    if node["class"] == "CAST" and node["cast_type"]["id"] == "BOOLEAN":  # DuckDB 1 writes true as 't'::BOOLEAN
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


def _deserialised(parsed: dict[str, Any]) -> str:
    from search.filters import deserialised

    try:
        return deserialised(json.dumps(parsed))
    except duckdb.Error as error:
        raise QueryError(f"the statement cannot be written back: {printable(error, 300)}") from error
