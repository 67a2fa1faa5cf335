"""Odd conditions for `where`: made of the grammar that is allowed, of what is not, and of damaged text; all are run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random

from benchmarks.security import odd
from benchmarks.security.watch import Report, attempt, watching
from tests.search.conftest import make
from workspace import QueryError

COLUMNS = (
    "downloads",
    "likes",
    "label",
    "repo_id",
    "license",
    "tags",
    "logit",
    "createdAt",
    "card_summary",
    "nope",
    "rowid",
)
FUNCTIONS = (
    "lower",
    "upper",
    "length",
    "contains",
    "list_contains",
    "starts_with",
    "coalesce",
    "abs",
    "repeat",
    "range",
    "lpad",
    "regexp_matches",
    "regexp_replace",
    "array_agg",
    "list_transform",
    "getenv",
    "read_text",
    "format",
    "printf",
    "pow",
    "factorial",
    "gamma",
    "unnest",
    "string_split",
    "replace",
    "concat",
    "nullif",
    "greatest",
    "date_trunc",
    "sleep",
)
TYPES = (
    "INTEGER",
    "BIGINT",
    "DOUBLE",
    "VARCHAR",
    "DATE",
    "TIMESTAMP",
    "BOOLEAN",
    "HUGEINT",
    "DECIMAL(38,10)",
    "BLOB",
    "BIT",
    "INTEGER[5][99999]",
    "INTEGER[100000]",
    "STRUCT(a INTEGER)",
    "MAP(INTEGER, INTEGER)",
    "VARCHAR[]",
    "UUID",
    "JSON",
    "ENUM('a','b')",
    "UNION(a INTEGER)",
    "INTERVAL",
)
OPERATORS = (
    "=",
    "<>",
    "<",
    ">=",
    "AND",
    "OR",
    "+",
    "-",
    "*",
    "/",
    "%",
    "||",
    "LIKE",
    "ILIKE",
    "IN",
    "IS",
    "^",
    "**",
    "->",
    "::",
)


def run(count: int, seed: int) -> Report:
    """Try ``count`` conditions on a small index; return the report."""
    with tempfile.TemporaryDirectory() as scratch:
        made = make(Path(scratch) / "workspace", models=6, n=64)
        made.index()
        opened = made.open()
        opened.search("dog").where("downloads > 1").to_arrow()
        with watching("filters", seed) as report:
            for number in range(seed, seed + count):
                text = _condition(Random(number))
                attempt(
                    report,
                    lambda text=text: opened.search("dog").where(text).to_arrow(),
                    f"seed {number}: {text}",
                    QueryError,
                )  # type: ignore[misc]
    return report


def _condition(chance: Random) -> str:
    text = _expression(chance, chance.choice((1, 2, 3, 4)))
    if chance.random() < 0.1:
        text = f" {chance.choice(('AND', 'OR'))} ".join([text] * chance.choice((2, 10, 300)))
    if chance.random() < 0.05:
        levels = chance.choice((10, 500, 4_000))
        text = "(" * levels + text + ")" * levels
    if chance.random() < 0.1:
        text = odd.damaged(text.encode("utf-8", "surrogatepass"), chance).decode("utf-8", "replace")
    if chance.random() < 0.05:
        text += chance.choice(
            ("; DROP TABLE models", " UNION SELECT 1", " -- x", " LIMIT 1", " /*", "\x00", " QUALIFY 1")
        )
    return text


def _expression(chance: Random, depth: int) -> str:
    kind = chance.randrange(9) if depth else chance.randrange(3)
    if kind == 0:
        return chance.choice(COLUMNS)
    if kind == 1:
        return str(chance.choice(odd.NUMBERS))
    if kind == 2:
        return "'" + chance.choice(odd.TEXTS).replace("'", "''") + "'"
    inner = [_expression(chance, depth - 1) for _ in range(3)]
    if kind < 6:
        return f"({inner[0]} {chance.choice(OPERATORS)} {inner[1]})"
    if kind == 6:
        return f"{chance.choice(FUNCTIONS)}({', '.join(inner[: chance.randrange(4)])})"
    if kind == 7:
        return f"{chance.choice(('CAST', 'TRY_CAST'))}({inner[0]} AS {chance.choice(TYPES)})"
    forms = (
        "({0} BETWEEN {1} AND {2})", "({0} IN ({1}, {2}))", "(CASE WHEN {0} THEN {1} ELSE {2} END)", "(NOT {0})",
        "({0} IS NULL)", "(SELECT {0})", "({0} IN (SELECT {1}))", "[{0}, {1}]", "{0}[{1}]", "count({0}) OVER ()",
        "({0} LIKE {1} ESCAPE {2})", "{{'a': {0}}}", "(x -> {0})", "$1", "?", "* ",
    )  # fmt: skip
    return chance.choice(forms).format(*inner)
