"""The other ways to answer the same query: the k probes where it is largest, mean squared difference, ten nearest."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from search.scan.scoring import Comparison

Answer = Callable[[NDArray[np.float32], Comparison], NDArray[np.int64]]
TOP = 10


def numpy_rows(vectors: NDArray[np.float16]) -> Answer:
    """Row-major fp16, read column by column, exact."""

    def answer(_query: NDArray[np.float32], c: Comparison) -> NDArray[np.int64]:
        part = vectors[:, c.columns].astype(np.float32)
        distance = np.square(part - c.targets).mean(axis=1)
        near = np.argpartition(distance, TOP)[:TOP]
        return near[np.argsort(distance[near])]

    return answer


def torch_rows(vectors: NDArray[np.float16]) -> Answer:
    """The same in torch."""
    import torch

    rows = torch.from_numpy(np.asarray(vectors))

    def answer(_query: NDArray[np.float32], c: Comparison) -> NDArray[np.int64]:
        part = rows[:, torch.from_numpy(c.columns.astype(np.int64))].float()
        distance = (part - torch.from_numpy(c.targets)).square().mean(dim=1)
        return torch.topk(distance, TOP, largest=False).indices.numpy()

    return answer


def write_lance(folder: Path, vectors: NDArray[np.float16]) -> Any:
    """Write the whole descriptors as a LanceDB table and return it."""
    import lancedb

    n = vectors.shape[1]

    def batches() -> Any:
        for start in range(0, len(vectors), 8192):
            part = np.ascontiguousarray(vectors[start : start + 8192])
            column = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), n)
            position = pa.array(np.arange(start, start + len(part)))
            yield pa.RecordBatch.from_arrays([position, column], names=["position", "vector"])

    schema = pa.schema([("position", pa.int64()), ("vector", pa.list_(pa.float16(), n))])
    return lancedb.connect(folder).create_table(
        "whole", pa.RecordBatchReader.from_batches(schema, batches()), mode="overwrite"
    )


def build_rq(table: Any) -> None:
    """Build LanceDB's IVF_RQ over the whole descriptors: 64 partitions, all of which a query reads."""
    from lancedb.index import IvfRq

    table.create_index("vector", config=IvfRq(distance_type="dot", num_partitions=64))


def lance(table: Any, vectors: NDArray[np.float16], *, candidates: int | None) -> Answer:
    """LanceDB over whole descriptors: flat, or through its index with an exact re-rank of the candidates.

    By inner product, which for z-scored descriptors, all of one length, ranks as the cosine does.
    """

    def answer(query: NDArray[np.float32], c: Comparison) -> NDArray[np.int64]:
        search = table.search(query).distance_type("dot").select(["position", "_distance"])
        if candidates is None:
            return search.bypass_vector_index().limit(TOP).to_arrow().column("position").to_numpy()
        near = search.nprobes(64).limit(candidates).to_arrow().column("position").to_numpy()
        part = vectors[near][:, c.columns].astype(np.float32)
        distance = np.square(part - c.targets).mean(axis=1)
        return near[np.argsort(distance)[:TOP]]

    return answer


def faiss_flat(vectors: NDArray[np.float16]) -> Answer | None:
    """FAISS IndexFlatIP over whole float32 descriptors; None when faiss is not installed."""
    try:
        faiss = importlib.import_module("faiss")
    except ImportError:
        return None
    faiss.omp_set_num_threads(2)
    index = faiss.IndexFlatIP(vectors.shape[1])
    for start in range(0, len(vectors), 8192):
        index.add(np.ascontiguousarray(vectors[start : start + 8192], np.float32))
    return lambda query, _c: index.search(query[None], TOP)[1][0]


def duckdb_arrays(vectors: NDArray[np.float16], rows: int) -> Answer:
    """DuckDB's list functions over float32 arrays of the first ``rows`` descriptors, compared on the k probes."""
    import duckdb

    connection = duckdb.connect(config={"threads": "2"})
    n = vectors.shape[1]
    part = np.ascontiguousarray(vectors[:rows], np.float32)
    arrived = pa.table(
        {"position": np.arange(rows), "v": pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), n)}
    )
    connection.register("arrived", arrived)
    connection.execute(f"CREATE TABLE whole AS SELECT position, v::FLOAT[{n}] AS v FROM arrived")

    def answer(_query: NDArray[np.float32], c: Comparison) -> NDArray[np.int64]:
        # sum over S of (q - g)^2 = const - 2 <q_S, g> + <1_S, g^2>: the first product alone is what DuckDB can do fast
        sparse = np.zeros(n, np.float32)
        sparse[c.columns] = c.targets
        found = connection.execute(
            f"SELECT position FROM whole ORDER BY array_inner_product(v, ?::FLOAT[{n}]) DESC LIMIT {TOP}",
            [sparse.tolist()],
        ).fetchnumpy()
        return found["position"]

    return answer
