"""SQL over a workspace, searches included: an index is opened when a statement searches, and only then."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING

import pyarrow as pa

from search.statements import TIMEOUT_S, Answer, answered
from workspace import Workspace

if TYPE_CHECKING:
    from search.open_index import Index


def sql(
    workspace: Workspace,
    statement: str,
    *,
    index: Index | None = None,
    allow: Sequence[str] = (),
    timeout_s: float | None = TIMEOUT_S,
) -> pa.Table:
    """Answer one SELECT statement; return an Arrow table.

    Tables: ``models``, ``logits``, ``attempts``, ``catalog``, ``runs``, ``probes``; table functions:
    ``search(concept, limit := 100, where, by, k, scoring, hybrid, all_of, any_of, none_of)`` and
    ``similar(repo_id, logit, limit := 100, where, by, sha, whole, k, scoring)``, whose arguments are constants.

    Args:
        workspace: whose tables.
        statement: one SELECT (or FROM, VALUES, WITH, DESCRIBE, SUMMARIZE, PIVOT, EXPLAIN, SHOW TABLES).
        index: an open index; opened when the statement needs it and None is given.
        allow: folders and ``hf://``, ``s3://`` or ``https://`` prefixes whose files (Parquet, CSV, JSON) the statement
            may read; for remote ones DuckDB fetches its httpfs extension. Nothing is allowed by default.
        timeout_s: seconds after which the statement is ended, searches included; never when None.

    Raises `QueryError` for anything that is not one SELECT or fails, or is larger than `statements.MAX_ROWS` and
    `statements.MAX_BYTES`, `MissingStepError` when a table is not there yet.
    """
    with sql_rows(workspace, statement, index=index, allow=allow, timeout_s=timeout_s) as answer:
        return pa.Table.from_batches(list(answer.batches), answer.schema)


def sql_rows(
    workspace: Workspace,
    statement: str,
    *,
    index: Index | None = None,
    allow: Sequence[str] = (),
    timeout_s: float | None = TIMEOUT_S,
) -> AbstractContextManager[Answer]:
    """Answer as `sql` does, batch by batch inside a ``with`` block."""

    def opened() -> Index:
        if index is not None:
            return index
        from search.open_index import Index

        return Index(workspace)

    return answered(workspace, statement, cache(opened), allow=allow, timeout_s=timeout_s)
