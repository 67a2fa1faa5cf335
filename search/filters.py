"""SQL conditions over models and logits: parsed by DuckDB's own parser, checked node by node, never pasted."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa

from search.metadata import LOGITS, MODELS
from workspace import QueryError
from workspace.text import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_CONDITION = 10_000
"""Characters of a condition."""

MODEL_COLUMNS = frozenset(name for name in MODELS.names if name != "model")
LOGIT_COLUMNS = frozenset(name for name in LOGITS.names if name not in ("model", "peak"))

_CLASSES = {
    "BETWEEN", "CASE", "CAST", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "FUNCTION", "OPERATOR", "TYPE",
}  # fmt: skip
_FUNCTIONS = {
    "!~~", "!~~*", "%", "*", "**", "+", "-", "/", "//", "||", "^", "~~", "~~*", "abs", "array_contains", "array_length",
    "ceil", "contains", "date_diff", "date_part", "date_trunc", "day", "ends_with", "floor", "greatest", "ilike_escape",
    "least", "len", "length", "like_escape", "list_contains", "list_has", "list_has_all", "list_has_any", "list_value",
    "ln", "log10", "lower", "month", "not_ilike_escape", "not_like_escape", "prefix", "regexp_full_match",
    "regexp_matches", "round", "sqrt", "starts_with", "strip_accents", "suffix", "trim", "upper", "year",
}  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """A checked condition.

    Attributes:
        text: as it was written.
        on_logits: whether it reads a column of the logits.
        tree: DuckDB's parse of it.
    """

    text: str
    on_logits: bool = field(compare=False)
    tree: dict[str, Any] = field(compare=False, repr=False)


@lru_cache(maxsize=256)
def parse(text: str) -> Condition:
    """Parse and check one SQL condition; raises `QueryError` for anything that is not one over the known columns."""
    if len(text) > MAX_CONDITION:
        raise QueryError(f"a filter has at most {MAX_CONDITION} characters, this one {len(text)}")
    if not text.strip():
        raise QueryError("the filter is empty: write a condition, for example downloads > 1000")
    # the serialiser parses and never runs; what is more than one condition shows up as a node outside where_clause
    node = _select(f"SELECT 1 FROM hits WHERE {text}\n", text)
    tree = node["where_clause"]
    if not isinstance(tree, dict) or node != _without(node, tree):
        raise QueryError(f"not a single condition: {printable(text)}")
    columns = _check(tree)
    return Condition(text, not columns <= MODEL_COLUMNS, tree)


class Evaluator:
    """Runs conditions over one version's tables, which DuckDB holds in its own memory: the logits once they are asked.

    DuckDB's copy, unlike a registered Arrow table, is seen by the cursors of all threads.
    """

    def __init__(self, models: pa.Table, logits: pa.Table) -> None:
        self._logits: pa.Table | None = logits
        self._lock = threading.Lock()
        self._connection = duckdb.connect(config={"enable_external_access": "false", "threads": "2"})
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
        cursor = self._connection.cursor()
        try:
            found = cursor.execute(deserialised(json.dumps(node))).fetchnumpy()[column]
        except duckdb.Error as error:
            raise QueryError(f"the filter cannot be computed: {printable(error, 300)}") from error
        finally:
            cursor.close()
        size = model_of.size if condition.on_logits else int(model_of.max(initial=-1)) + 1
        mask = np.zeros(size, bool)
        mask[np.asarray(found, np.int64)] = True
        return mask if condition.on_logits else mask[model_of]


def _check(tree: dict[str, Any]) -> set[str]:
    """Return the columns read, or raise `QueryError` at the first node that a filter may not hold."""
    columns: set[str] = set()
    known = {name.lower(): name for name in MODEL_COLUMNS | LOGIT_COLUMNS}
    todo: list[Any] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, list):
            todo += node
            continue
        if not isinstance(node, dict):
            continue
        kind = node.get("class")
        if kind is not None and kind not in _CLASSES:
            raise QueryError(f"a filter holds no {str(kind).lower().replace('_', ' ')}: conditions over columns only")
        if kind == "COLUMN_REF":
            names = node["column_names"]
            if len(names) != 1 or names[0].lower() not in known:
                raise QueryError(
                    f"unknown column '{printable('.'.join(names))}'; a filter reads {', '.join(sorted(known.values()))}"
                )
            columns.add(known[names[0].lower()])
        if kind == "FUNCTION" and (node["function_name"].lower() not in _FUNCTIONS or node["schema"]):
            raise QueryError(f"a filter does not call '{printable(node['function_name'])}'")
        todo += [value for key, value in node.items() if key != "literal"]
    return columns


def _select(sql: str, text: str) -> dict[str, Any]:
    try:
        parsed = json.loads(serialised(sql))
    except RecursionError as error:
        raise QueryError(f"the filter is nested too deeply: {printable(text)}") from error
    except duckdb.Error as error:
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
    """Return DuckDB's parse of SELECT statements, or of an error, as JSON text; nothing is run."""
    cursor = _parser().cursor()
    try:
        found = cursor.execute("SELECT json_serialize_sql(?)", [sql]).fetchone()
    finally:
        cursor.close()
    return str(found[0]) if found else "{}"


def deserialised(tree: str) -> str:
    """Return the SQL text of a parse made by `serialised`."""
    cursor = _parser().cursor()
    try:
        found = cursor.execute("SELECT json_deserialize_sql(?::JSON)", [tree]).fetchone()
    finally:
        cursor.close()
    return str(found[0]) if found else ""


@lru_cache(maxsize=1)
def _parser() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"enable_external_access": "false", "threads": "1"})
