"""The LanceDB side of a version: metadata with its full-text indexes, and vectors for whole-descriptor neighbours."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from search.metadata import LOGITS, MODELS
from workspace.disk import using
from workspace.errors import DiskError
from workspace.files import damaged

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DAMAGE = (ValueError, RuntimeError, OSError, KeyError)

ANN_ROWS = 20_000
"""Logits from which whole-descriptor search gets an approximate index; below, LanceDB reads all reduced vectors."""


def connect(folder: Path) -> Any:
    """Return the LanceDB database of a version's folder."""
    os.environ.setdefault("LANCE_LOG", "error")  # it warns on stderr of every table that is new
    import lancedb

    return lancedb.connect(folder / "lance")


def write_models(database: Any, models: pa.Table) -> None:
    """Write the table of models with full-text indexes over names and cards; small, hence always whole."""
    table = database.create_table("models", models)
    for column in ("repo_id", "card_summary"):
        _full_text(table, column)


def write_logits(database: Any, logits: pa.Table, start: int) -> None:
    """Append rows to the table of logits, whose positions begin at ``start``, and index their labels."""
    position = pa.array(np.arange(start, start + logits.num_rows, dtype=np.int64))
    _append(database, "logits", logits.append_column(pa.field("position", pa.int64(), nullable=False), position))


def index_labels(database: Any, *, fresh: bool) -> None:
    """Build the full-text index over labels, or bring it up to date after an append."""
    table = database.open_table("logits")
    if fresh:
        _full_text(table, "label")
    else:
        table.optimize()


def write_vectors(database: Any, reduced: NDArray[np.float16], start: int) -> None:
    """Append reduced vectors, float16 ``[rows, dim]``, whose positions begin at ``start``."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(reduced.reshape(-1)), reduced.shape[1])
    position = pa.array(np.arange(start, start + len(reduced), dtype=np.int64))
    _append(database, "vectors", pa.table({"position": position, "vector": vectors}))


def index_vectors(database: Any) -> str:
    """Build or extend the vector index; return its kind: ``flat`` or ``IVF_RQ``."""
    from lancedb.index import IvfRq

    table = database.open_table("vectors")
    rows = table.count_rows()
    if table.list_indices():
        table.optimize()
        return "IVF_RQ"
    if rows < ANN_ROWS or table.schema.field("vector").type.list_size % 8:
        return "flat"
    partitions = max(1, round(rows**0.5 / 8))
    table.create_index("vector", config=IvfRq(distance_type="cosine", num_partitions=partitions))
    return "IVF_RQ"


def read_models(database: Any) -> pa.Table:
    """Return the table `metadata.MODELS`, in order of ``model``."""
    return _read(database, "models", "model").select(MODELS.names)


def read_logits(database: Any) -> pa.Table:
    """Return the table `metadata.LOGITS`, in order of position."""
    return _read(database, "logits", "position").select(LOGITS.names)


def _read(database: Any, name: str, order: str) -> pa.Table:
    path = Path(str(database.uri)) / f"{name}.lance"
    try:
        with using(path, "read"):
            table: pa.Table = database.open_table(name).to_arrow().combine_chunks()
            table.validate(full=True)
    except DiskError:
        raise
    except BaseException as error:
        # Rust panics at some damage, and what that raises is no Exception
        if isinstance(error, (Exception, KeyboardInterrupt)) and not isinstance(error, _DAMAGE):
            raise
        raise damaged(path, f"{type(error).__name__}: {str(error)[:200]}") from error
    positions = table.column(order).to_numpy()
    if (positions != np.arange(positions.size)).any():
        table = table.take(pa.array(np.argsort(positions, kind="stable")))
        if (table.column(order).to_numpy() != np.arange(positions.size)).any():
            raise damaged(path, "it lacks rows")
    return table


def _append(database: Any, name: str, rows: pa.Table) -> None:
    if (Path(str(database.uri)) / f"{name}.lance").is_dir():
        database.open_table(name).add(rows)
    else:
        database.create_table(name, rows)


def _full_text(table: Any, column: str) -> None:
    from lancedb.index import FTS

    # without stop words and stemming a label is found by exactly the words it has, in any language
    table.create_index(column, config=FTS(stem=False, remove_stop_words=False), replace=True)
