"""SQL conditions over models and logits: parsed by DuckDB's own parser, checked node by node, never pasted."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from search.store.tables import LOGITS, MODELS, snake_case
from workspace import QueryError
from workspace.text import printable

MAX_CONDITION = 10_000
"""Characters of a condition."""

REMEMBERED = 1_000
"""Characters of a condition whose parse is remembered."""

MAX_DEPTH = 40
"""Nodes from the root of a condition's parse to a leaf."""

MAX_BRACKETS = 100
"""Brackets inside one another, before DuckDB parses a condition or a statement."""

MAX_WORK = 100_000
"""Characters that a condition's functions and casts may read or write for one row, as `_Checker` estimates them."""

TIMEOUT_S = 4.0
"""Seconds after which a condition's evaluation is interrupted."""

MEMORY = "1GB"
"""What the tables and all conditions being evaluated may use inside DuckDB; nothing spills to disk."""

MODEL_COLUMNS = frozenset(name for name in MODELS.names if name != "model")
LOGIT_COLUMNS = frozenset(name for name in LOGITS.names if name not in ("model", "peak"))

_CLASSES = {"BETWEEN", "CASE", "CAST", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "FUNCTION", "OPERATOR"}
_OPERATORS = {
    "ARRAY_EXTRACT", "ARRAY_SLICE", "COMPARE_IN", "COMPARE_NOT_IN", "OPERATOR_COALESCE", "OPERATOR_IS_NOT_NULL",
    "OPERATOR_IS_NULL", "OPERATOR_NOT",
}  # fmt: skip
_LIKE = {"!~~", "!~~*", "~~", "~~*", "ilike_escape", "like_escape", "not_ilike_escape", "not_like_escape"}
_REGEX = {"regexp_full_match", "regexp_matches"}
_FUNCTIONS = _LIKE | _REGEX | {
    "%", "*", "**", "+", "-", "/", "//", "||", "^", "abs", "array_contains", "array_length", "ceil", "contains",
    "date_diff", "date_part", "date_trunc", "day", "ends_with", "floor", "greatest", "least", "len", "length",
    "list_contains", "list_has", "list_has_all", "list_has_any", "list_value", "ln", "log10", "lower", "month",
    "prefix", "round", "sqrt", "starts_with", "strip_accents", "suffix", "trim", "upper", "year",
}  # fmt: skip
_TYPES = {
    "BIGINT", "BOOL", "BOOLEAN", "DATE", "DECIMAL", "DOUBLE", "FLOAT", "HUGEINT", "INT", "INTEGER", "NUMERIC", "REAL",
    "SMALLINT", "STRING", "TEXT", "TIME", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ", "TINYINT", "UBIGINT",
    "UINTEGER", "USMALLINT", "UTINYINT", "VARCHAR",
}  # fmt: skip
_EVERYDAY = {snake_case(name): name for name in MODEL_COLUMNS if snake_case(name) != name}
"""The Hub's names in snake case, as SQL has them."""

_WIDTHS = {"card_summary": 500, "tags": 500}
_WIDTH = 100
"""Characters of a column's value, for `MAX_WORK`; labels and names are shorter."""


@dataclass(frozen=True)
class Condition:
    """A checked condition."""

    text: str  # as it was written
    on_logits: bool = field(compare=False)  # whether it reads a column of the logits
    tree: dict[str, Any] = field(compare=False, repr=False)  # DuckDB's parse of it


def parse(text: str) -> Condition:
    """Parse and check one SQL condition; raises `QueryError` for anything that is not one over the known columns.

    Short ones are remembered: the parse of a long one takes megabytes.
    """
    return (_remembered if len(text) <= REMEMBERED else _parsed)(text)


def _parsed(text: str) -> Condition:
    if len(text) > MAX_CONDITION:
        raise QueryError(f"a filter has at most {MAX_CONDITION} characters, this one {len(text)}")
    if not text.strip():
        raise QueryError("the filter is empty: write a condition, for example downloads > 1000")
    # the serialiser parses and never runs; what is more than one condition shows up as a node outside where_clause
    node = _select(f"SELECT 1 FROM hits WHERE {text}\n", text)
    tree = node["where_clause"]
    if not isinstance(tree, dict) or node != _without(node, tree):
        raise QueryError(f"not a single condition: {printable(text)}")
    checker = _Checker()
    checker.width(tree)
    return Condition(text, not checker.columns <= MODEL_COLUMNS, tree)


_remembered = lru_cache(maxsize=256)(_parsed)


class Evaluator:
    """Runs conditions over one version's tables, which DuckDB holds in its own memory: the logits once they are asked.

    DuckDB's copy, unlike a registered Arrow table, is seen by the cursors of all threads.
    """

    def __init__(self, models: pa.Table, logits: pa.Table, *, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._logits: pa.Table | None = logits
        self._lock = threading.Lock()
        self._connection = duckdb.connect(
            config={"enable_external_access": "false", "threads": "2", "memory_limit": MEMORY, "temp_directory": ""}
        )
        self._copy("models", models)

    def _copy(self, name: str, table: pa.Table) -> None:
        self._connection.register("arriving", table)
        self._connection.execute(f"CREATE TABLE {name} AS SELECT * FROM arriving")
        self._connection.unregister("arriving")

    def _prepare(self, condition: Condition) -> None:
        with self._lock:
            if condition.on_logits and self._logits is not None:
                position = pa.array(np.arange(self._logits.num_rows, dtype=np.int64))
                self._copy("logits", self._logits.append_column("position", position))
                self._connection.execute("CREATE VIEW hits AS SELECT * FROM logits JOIN models USING (model)")
                self._logits = None

    def mask(self, condition: Condition, model_of: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return which logits meet ``condition``, bool ``[logits]``; raises `QueryError` when it cannot be computed."""
        table, column = ("hits", "position") if condition.on_logits else ("models", "model")
        node = json.loads(serialised(f"SELECT {column} FROM {table} WHERE true"))
        node["statements"][0]["node"]["where_clause"] = condition.tree
        self._prepare(condition)
        try:
            with closing(self._connection.cursor()) as cursor, interrupted_after(cursor, self._timeout_s):
                found = cursor.execute(deserialised(json.dumps(node))).fetchnumpy()[column]
        except duckdb.InterruptException as error:
            raise QueryError(f"the filter took longer than {self._timeout_s:g} s: make it simpler") from error
        except duckdb.Error as error:
            raise QueryError(f"the filter cannot be computed: {printable(error, 300)}") from error
        size = model_of.size if condition.on_logits else int(model_of.max(initial=-1)) + 1
        mask = np.zeros(size, bool)
        mask[np.asarray(found, np.int64)] = True
        return mask if condition.on_logits else mask[model_of]


class _Checker:
    """Walks a condition's parse: every node is one that a filter may hold, and all together cost little for a row.

    The parse comes from DuckDB's own parser. What a row costs is estimated in characters: a function or cast reads the
    widths of its arguments, a regular expression reads its text once for every state it may be in, and LIKE once for
    every way to place its wildcards (DuckDB 1 tries them all). So a condition can be long, but not slow or large.
    """

    def __init__(self) -> None:
        self.columns: set[str] = set()
        self._known = {name.lower(): name for name in MODEL_COLUMNS | LOGIT_COLUMNS}
        self._work = 0

    def width(self, node: dict[str, Any], depth: int = 0) -> int:
        """Check ``node`` and all below it; return about how many characters its value has."""
        kind, below = node["class"], _children(node)
        if kind not in _CLASSES or (kind == "OPERATOR" and node["type"] not in _OPERATORS):
            name = str(node["type"] if kind == "OPERATOR" else kind).lower().replace("_", " ")
            raise QueryError(f"a filter holds no {name}: conditions over columns only")
        if depth > MAX_DEPTH:
            raise QueryError(f"the filter is nested too deeply: more than {MAX_DEPTH} levels")
        if kind == "COLUMN_REF":
            return self._column(node["column_names"])
        if kind == "CONSTANT":
            return len(str(_literal(node)))
        widths = [self.width(child, depth + 1) for child in below]
        if kind == "CAST":
            self._type(node)
            return self._spend(max(64, *widths))
        if kind == "FUNCTION":
            return self._call(node, below, widths)
        return max(widths, default=0)

    def _column(self, names: list[str]) -> int:
        if len(names) == 1 and names[0].lower() in _EVERYDAY:
            names[0] = _EVERYDAY[names[0].lower()]  # in the parse, which is what runs
        if len(names) != 1 or names[0].lower() not in self._known:
            known, asked = sorted([*self._known.values(), *_EVERYDAY]), ".".join(names)
            near = get_close_matches(asked.lower(), known, n=2)
            meant = f"; did you mean {' or '.join(near)}?" if near else ";"
            raise QueryError(f"unknown column '{printable(asked)}'{meant} a filter reads {', '.join(known)}")
        name = self._known[names[0].lower()]
        self.columns.add(name)
        return _WIDTHS.get(name, _WIDTH)

    def _type(self, node: dict[str, Any]) -> None:
        """DuckDB 2 has a cast's type as an expression, DuckDB 1 as an object with an id."""
        written = node.get("type_expr") or {}
        name = str(written.get("type_name") or node.get("cast_type", {}).get("id")).upper()
        plain = all(child["class"] == "CONSTANT" for child in written.get("children", []))
        if name not in _TYPES or not plain:
            raise QueryError(
                f"a filter casts to no '{printable(name.lower())}': to numbers, texts, dates and times only"
            )

    def _call(self, node: dict[str, Any], below: list[dict[str, Any]], widths: list[int]) -> int:
        name = node["function_name"].lower()
        odd = node["schema"] not in ("", "main") or node.get("catalog") or node.get("distinct") or node["filter"]
        if name not in _FUNCTIONS or odd:
            raise QueryError(f"a filter does not call '{printable(name)}'")
        if name in _LIKE or name in _REGEX:
            if any(child["class"] != "CONSTANT" for child in below[1:]):
                raise QueryError("a pattern in a filter is a text between quotes, not computed for every row")
            pattern = str(_literal(below[1])) if len(below) > 1 else ""
            width = max([_WIDTH, *widths[:1]])
            times = width ** (pattern[:-1].count("%") - 1) if name in _LIKE else _states(pattern)
            self._spend(width * max(1, min(times, MAX_WORK)))
            return 1
        self._spend(sum(widths))
        return sum(widths) if name in ("||", "list_value") else max(widths, default=0)

    def _spend(self, work: int) -> int:
        self._work += work
        if self._work > MAX_WORK:
            raise QueryError(
                "the filter is too much work for every row: use fewer functions, simpler patterns (LIKE with at "
                "most two % before its last letter, small counts in regular expressions) and shorter texts"
            )
        return work


def _children(node: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the expressions right below ``node``; a cast's type is none."""
    below: list[dict[str, Any]] = []
    todo = [value for key, value in node.items() if key not in ("type_expr", "cast_type", "literal", "value")]
    while todo:
        value = todo.pop(0)
        if isinstance(value, dict) and "class" in value:
            below.append(value)
        elif isinstance(value, dict):
            todo += value.values()
        elif isinstance(value, list):
            todo += value
    return below


def _literal(node: dict[str, Any]) -> object:
    """Return a constant's value, of DuckDB 2 (its text) or of DuckDB 1."""
    return node["literal"].get("text", "") if "literal" in node else node["value"].get("value", "")


def _states(pattern: str) -> int:
    """Return about how many states a regular expression has: its length, times all that it repeats by number."""
    states = len(pattern) + 20 * pattern.lower().count("\\p")
    for low, high in re.findall(r"\{(\d+)?(?:,(\d*))?\}", pattern):
        states *= min(1000, max(1, *(int(count[:4]) for count in (low, high) if count), 1))
    return states


@contextmanager
def interrupted_after(connection: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[None]:
    """Interrupt what ``connection`` runs when it takes longer than ``seconds``."""
    alarm = threading.Timer(seconds, connection.interrupt)
    alarm.daemon = True
    alarm.start()
    try:
        yield
    finally:
        alarm.cancel()


def _select(sql: str, text: str) -> dict[str, Any]:
    try:
        parsed = json.loads(serialised(sql))
    except RecursionError as error:
        raise QueryError(f"the filter is nested too deeply: {printable(text)}") from error
    except (duckdb.Error, UnicodeEncodeError) as error:
        raise QueryError(f"the filter cannot be parsed: {printable(error, 300)}") from error
    if parsed.get("error"):
        raise QueryError(f"the filter is no SQL condition: {printable(parsed.get('error_message', ''), 300)}")
    if len(parsed["statements"]) != 1 or parsed["statements"][0]["node"]["type"] != "SELECT_NODE":
        raise QueryError(f"not a single condition: {printable(text)}")
    node: dict[str, Any] = parsed["statements"][0]["node"]
    return node


def _without(node: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    """Return the statement as it must look when ``tree`` is all that the user's text added to it."""
    empty: dict[str, Any] = json.loads(serialised("SELECT 1 FROM hits WHERE true"))["statements"][0]["node"]
    return {**empty, "where_clause": tree} if empty.keys() == node.keys() else empty


def serialised(sql: str) -> str:
    """Return DuckDB's parse of SELECT statements, or of an error, as JSON text; nothing is run.

    Raises `QueryError` for brackets nested deeper than `MAX_BRACKETS`: around an error, DuckDB's parser takes seconds
    and gigabytes over some thousands of them, and cannot be stopped.
    """
    check_brackets(sql)
    return _parsed_by("SELECT json_serialize_sql(?)", sql)


def check_brackets(sql: str) -> None:
    """Count with DuckDB's own tokens, so that what is a text or a comment to the parser is one here, too."""
    raw, depth = sql.encode("utf-8"), 0
    for offset, kind in duckdb.tokenize(sql):
        if kind in (duckdb.token_type.operator, duckdb.token_type.keyword):
            word = raw[offset : offset + 4].lower()
            depth += word[:1] in (b"(", b"[", b"{") or word == b"case"
            depth -= word[:1] in (b")", b"]", b"}") or word[:3] == b"end"
            if depth > MAX_BRACKETS:
                raise QueryError(f"more than {MAX_BRACKETS} brackets inside one another: {printable(sql)}")


def deserialised(tree: str) -> str:
    """Return the SQL text of a parse made by `serialised`."""
    return _parsed_by("SELECT json_deserialize_sql(?::JSON)", tree)


def _parsed_by(function: str, text: str) -> str:
    with closing(_parser().cursor()) as cursor:
        (found,) = cursor.execute(function, [text]).fetchall()
    return str(found[0])


@lru_cache(maxsize=1)
def _parser() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"enable_external_access": "false", "threads": "1"})
