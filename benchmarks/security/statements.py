"""Odd SQL: statements that write, read files, never end, fill memory or search for ever, under a short timeout."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random

from benchmarks.security import odd
from benchmarks.security.filters import COLUMNS, FUNCTIONS, _expression
from benchmarks.security.watch import Report, attempt, watching
from tests.search.conftest import make
from workspace import HubprobeError

TEMPLATES = (
    "SELECT {e} FROM models",
    "SELECT {e} FROM logits WHERE {e}",
    "SELECT * FROM search({e})",
    "SELECT * FROM search('dog', n := {e})",
    "SELECT * FROM similar({e}, {e})",
    "SELECT {f}({e}) FROM models",
    "SELECT repeat('x', {n}) FROM range({n})",
    "SELECT * FROM range({n})",
    "SELECT count(*) FROM range({n}) a, range({n}) b",
    "WITH RECURSIVE t AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM t) SELECT * FROM t",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM read_csv('/proc/self/environ')",
    "SELECT * FROM glob('/*')",
    "SELECT getenv('HOME')",
    "COPY models TO '/tmp/x.csv'",
    "ATTACH '/tmp/x.db'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET memory_limit = '90GB'",
    "PRAGMA database_list",
    "CREATE TABLE t AS SELECT 1",
    "DROP VIEW models",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_secrets()",
    "EXPORT DATABASE '/tmp/x'",
    "CALL pragma_version()",
    "SELECT list(x) FROM range({n}) t(x)",
    "SELECT string_agg(x::VARCHAR, '') FROM range({n}) t(x)",
    "SELECT {e}; SELECT {e}",
    "DESCRIBE models",
    "SUMMARIZE models",
    "EXPLAIN SELECT 1",
    "PIVOT models ON license",
    "SHOW TABLES",
    "FROM modles",
    "SELECT {c}, count(*) FROM models GROUP BY ALL ORDER BY {c} LIMIT {n}",
    "VALUES ({e})",
    "TABLE models",
    "{e}",
    "",
)


def run(count: int, seed: int) -> Report:
    """Try ``count`` statements on a small index; return the report."""
    with tempfile.TemporaryDirectory() as scratch:
        made = make(Path(scratch) / "workspace", models=4, n=64)
        made.index()
        opened = made.open()
        opened.sql("SELECT count(*) FROM search('dog')")
        with watching("statements", seed) as report:
            for number in range(seed, seed + count):
                text = _statement(Random(number))
                attempt(
                    report, lambda text=text: opened.sql(text, timeout_s=2.0), f"seed {number}: {text}", HubprobeError
                )  # type: ignore[misc]
    return report


def _statement(chance: Random) -> str:
    text = chance.choice(TEMPLATES).format(
        e=_expression(chance, 2),
        f=chance.choice(FUNCTIONS),
        c=chance.choice(COLUMNS),
        n=chance.choice((3, 10**4, 10**9, 10**15)),
    )
    if chance.random() < 0.1:
        text = odd.damaged(text.encode("utf-8", "surrogatepass"), chance).decode("utf-8", "replace")
    return text
