"""The index's tables: what is known of every probed model and of every logit, in Parquet.

LanceDB holds what it searches itself: the words of names, cards and labels, and vectors for neighbours. Importing it
takes longer than answering, so it is opened when one of these is asked for, and a table is never read from it.

Models whose outputs answer the probes almost alike are near-copies: they are grouped into families as the table of
models is made.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workspace import Workspace
from workspace.errors import DiskError
from workspace.files import conformed, damaged, open_table, table_files, using, write_table
from workspace.records import ATTEMPTS, CATALOG

_FROM_CATALOG = (
    "author", "createdAt", "lastModified", "pipeline_tag", "library_name", "tags", "downloads", "likes", "gated",
    "license", "base_models", "model_type", "architectures", "num_labels", "label_quality", "problem_type",
    "image_size", "weights_bytes", "card_summary", "reported_accuracy", "reported_on", "reported_by",
    "crawled_at",
)  # fmt: skip
_FROM_ATTEMPTS = ("architecture", "processor", "dtype", "device", "probes_run", "num_excluded", "bytes_fetched")

MODELS = pa.schema(
    [
        pa.field("model", pa.int32(), nullable=False),  # position in this index, what logits.model points to
        pa.field("repo_id", pa.string(), nullable=False),
        pa.field("sha", pa.string(), nullable=False),
        *(pa.field(name, CATALOG.field(name).type) for name in _FROM_CATALOG),
        pa.field("parameters", pa.int64()),
        pa.field("num_logits", pa.int32(), nullable=False),  # searchable ones: those with a descriptor
        *(pa.field(name, ATTEMPTS.field(name).type) for name in _FROM_ATTEMPTS),
        pa.field("seconds", pa.float32()),  # all phases of its last attempt
        pa.field("family", pa.string(), nullable=False),  # first indexed of its near-copies; itself without any
        pa.field("labels_from", pa.string()),  # whole list that names its outputs: a data set's, or of another model
        pa.field("labels_fit", pa.float32()),  # how far that list, or its own, agrees with them: standard deviations
        pa.field("estimated_accuracy", pa.float32()),  # share of the probes it answers as others would, 0 to 1
    ]
)
"""One row per model with a descriptor, in order of ``model``. Names are the catalog's and the attempts' own."""

LOGITS = pa.schema(
    [
        pa.field("model", pa.int32(), nullable=False),
        pa.field("logit", pa.int32(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("mean", pa.float32()),  # of the raw responses
        pa.field("std", pa.float32()),  # of the raw responses, ddof = 0
        pa.field("observed", pa.float32(), nullable=False),  # share of the probes that were run, 0 to 1
        pa.field("peak", pa.float32(), nullable=False),  # norm of its squared positive responses, over all probes
        pa.field("variance", pa.float32(), nullable=False),  # mean posterior variance of the others
    ]
)
"""One row per logit, in the order of the tiles. Its model's key is ``models`` at ``model``."""

_PHASES = ("seconds_fetch", "seconds_load", "seconds_preprocess", "seconds_forward", "seconds_write")


def snake_case(name: str) -> str:
    """Return a column's everyday name: ``created_at`` of ``createdAt``, ``repo_id`` of ``id``."""
    return "repo_id" if name == "id" else re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def models_table(workspace: Workspace, keys: Sequence[tuple[str, str]], counts: Sequence[int]) -> pa.Table:
    """Return the table `MODELS` for the models ``keys``, ``counts`` logits each.

    Facts that change without a commit (downloads, likes, tags) come from the newest catalog row of the repository;
    a model without one (a catalog started over) keeps its key and nulls. ``family`` is the model itself.
    """
    catalog: dict[str, dict[str, Any]] = {}
    if table_files(workspace.catalog_dir):
        wanted = {repo_id for repo_id, _ in keys}
        columns = ["id", *_FROM_CATALOG, "safetensors"]
        catalog = {r["id"]: r for r in workspace.catalog(columns).to_pylist() if r["id"] in wanted}
    columns = ["repo_id", "sha", "parameters", *_FROM_ATTEMPTS, *_PHASES]
    attempts = {(r["repo_id"], r["sha"]): r for r in workspace.attempts(columns).to_pylist()}
    rows = []
    for position, (key, count) in enumerate(zip(keys, counts, strict=True)):
        listed, tried = catalog.get(key[0], {}), attempts.get(key, {})
        row: dict[str, Any] = {"model": position, "repo_id": key[0], "sha": key[1], "num_logits": count}
        row |= {name: listed.get(name) for name in _FROM_CATALOG}
        row |= {name: tried.get(name) for name in _FROM_ATTEMPTS}
        row["parameters"] = tried.get("parameters") or (listed.get("safetensors") or {}).get("total")
        phases = [tried.get(name) for name in _PHASES]
        row["seconds"] = None if all(p is None for p in phases) else float(sum(p or 0.0 for p in phases))
        row["family"] = key[0]
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=MODELS)


def with_columns(models: pa.Table, **values: Sequence[Any]) -> pa.Table:
    """Return ``models`` with other values in some of its columns."""
    for name, column in values.items():
        field = MODELS.field(name)
        models = models.set_column(models.column_names.index(name), field, pa.array(column, field.type))
    return models


LISTED = pa.schema([pa.field("row", pa.int64(), nullable=False), pa.field("name", pa.string(), nullable=False)])
"""Names of outputs by a list that is not their model's own, or that it does not state for certain; by position."""


def write_listed(folder: Path, listed: pa.Table) -> None:
    """Write the names that lists give."""
    write_table(folder / "listed.parquet", listed, row_group_rows=_ROW_GROUP)


def read_listed(folder: Path) -> pa.Table:
    """Return the table `LISTED` of a version's folder, empty where nothing was compared."""
    path = folder / "listed.parquet"
    return _read_file(path, LISTED) if path.exists() else LISTED.empty_table()


_DAMAGE = (ValueError, TypeError, RuntimeError, OSError, KeyError)

ANN_ROWS = 20_000
"""Logits from which whole-descriptor search gets an approximate index; below, LanceDB reads all reduced vectors."""


_ROW_GROUP = 65_536
"""Rows of a row group: the tables are read whole."""


def connect(folder: Path) -> Any:
    """Return the LanceDB database of a version's folder."""
    os.environ.setdefault("LANCE_LOG", "error")  # it warns on stderr of every table that is new
    import lancedb

    return lancedb.connect(folder / "lance")


def write_models(folder: Path, models: pa.Table, database: Any = None) -> None:
    """Write the table of models, and full-text indexes over names and cards; small, hence always whole."""
    write_table(folder / "models.parquet", models, row_group_rows=_ROW_GROUP)
    if database is None:  # which holds the words of these models
        return
    words = ("repo_id", "card_summary")
    table = database.create_table("models", models.select(["model", *words]))
    for column in words:
        _full_text(table, column)


def write_logits(folder: Path, database: Any, logits: pa.Table, start: int) -> None:
    """Append rows to the table of logits, whose positions begin at ``start``.

    A file is written for each append, together with the last ones where those are no larger: many small appends leave
    few files, and no row is written more than log2(logits) times.
    """
    position = pa.array(np.arange(start, start + logits.num_rows, dtype=np.int64))
    words = logits.select(["label"]).append_column(pa.field("position", pa.int64(), nullable=False), position)
    _append(database, "logits", words)
    files = table_files(folder / "logits")
    while files and (older := _read_file(files[-1], LOGITS)).num_rows <= logits.num_rows:
        logits, start = pa.concat_tables([older, logits]), start - older.num_rows
        files.pop().unlink()
    write_table(folder / "logits" / f"{start:012d}.parquet", logits, row_group_rows=_ROW_GROUP)


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


def read_models(folder: Path) -> pa.Table:
    """Return the table `MODELS` of a version's folder, in order of ``model``."""
    return _read_file(folder / "models.parquet", MODELS)


def read_logits(folder: Path) -> pa.Table:
    """Return the table `LOGITS` of a version's folder, in order of position."""
    files = [_read_file(path, LOGITS) for path in table_files(folder / "logits")]
    return pa.concat_tables([LOGITS.empty_table(), *files]).combine_chunks()


def _read_file(path: Path, schema: pa.Schema) -> pa.Table:
    with open_table(path, version=False) as file:
        table = file.read()
    return conformed(path, table, schema).combine_chunks()


@contextmanager
def reading(database: Any, name: str) -> Iterator[Any]:
    """Yield a table that is only read; damage, at opening or later, is a `WorkspaceError` that names it."""
    path = Path(str(database.uri)) / f"{name}.lance"
    try:
        with using(path, "read"):
            yield database.open_table(name)
    except DiskError:
        raise
    except BaseException as error:
        # Rust panics at some damage, and what that raises has types of its own, some of which are no Exception
        if not isinstance(error, _DAMAGE) and "Panic" not in type(error).__name__:
            raise
        raise damaged(path, f"{type(error).__name__}: {str(error)[:200]}") from error


def _append(database: Any, name: str, rows: pa.Table) -> None:
    if (Path(str(database.uri)) / f"{name}.lance").is_dir():
        database.open_table(name).add(rows)
    else:
        database.create_table(name, rows)


def _full_text(table: Any, column: str) -> None:
    from lancedb.index import FTS

    # without stop words and stemming a label is found by exactly the words it has, in any language
    table.create_index(column, config=FTS(stem=False, remove_stop_words=False), replace=True)


PRINT_LOGITS, PRINT_PROBES = 4, 128
"""A model's print: its first four logits on 128 probes spread over the probe set."""

ALIKE = 0.98
"""Correlation of two prints from which models count as near-copies; 512 values know it to within about 0.002."""

ALIKE_IF_NAMED = 0.90
"""The same for a model that names the other as its base: a fine-tune on the same classes."""

_ROWS = 2_048  # prints compared at a time


def prints(vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.float16]:
    """Return one row per model, float16 ``[models, PRINT_LOGITS * PRINT_PROBES]`` of unit length.

    Each element of ``vectors`` is float32 ``[up to PRINT_LOGITS, n_probes]``; missing logits are zeros.
    """
    rows = np.zeros((len(vectors), PRINT_LOGITS, PRINT_PROBES), np.float32)
    for row, some in zip(rows, vectors, strict=True):
        spread = np.linspace(0, some.shape[1] - 1, PRINT_PROBES).round().astype(np.int64)
        row[: len(some[:PRINT_LOGITS])] = some[:PRINT_LOGITS, spread]
    flat = rows.reshape(len(vectors), PRINT_LOGITS * PRINT_PROBES)
    unit: NDArray[np.float16] = (flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)).astype(
        np.float16
    )
    return unit


def families(
    rows: NDArray[np.float16], counts: Sequence[int], names: Sequence[str], bases: Sequence[Sequence[str] | None]
) -> list[int]:
    """Return for every model the first model of its family; a model without near-copies is its own.

    Args:
        rows: `prints` of the models.
        counts: logits of each model; only models with equally many can be copies.
        names: repositories.
        bases: repositories each says it was made from.
    """
    parent = list(range(len(names)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def join(i: int, j: int) -> None:
        first, second = sorted((root(i), root(j)))
        parent[second] = first

    groups: dict[int, list[int]] = defaultdict(list)
    for i, count in enumerate(counts):
        groups[count].append(i)
    for members in groups.values():
        own = rows[members].astype(np.float32)
        for start in range(0, len(members), _ROWS):
            alike = own[start : start + _ROWS] @ own.T
            for a, b in zip(*np.nonzero(np.triu(alike, start + 1) >= ALIKE), strict=True):
                join(members[start + int(a)], members[int(b)])
    where = defaultdict(list)
    for i, name in enumerate(names):
        where[name].append(i)
    for i, named in enumerate(bases):
        for j in (j for base in named or () for j in where.get(base, ())):
            same = counts[i] == counts[j] and i != j
            if same and float(rows[i].astype(np.float32) @ rows[j].astype(np.float32)) >= ALIKE_IF_NAMED:
                join(i, j)
    return [root(i) for i in range(len(names))]
