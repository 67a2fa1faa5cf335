"""The gallery as it lies on disk: which models there are, and their responses, one model at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from completion.factors import Block
from workspace import WorkspaceError
from workspace.files import check_version
from workspace.records import RESPONSES

Model = tuple[str, str]
"""A model's key: ``(repo_id, sha)``."""

RANDOM_LEAST = 16
"""Random probes from which mean and deviation are taken alone where the others were chosen."""

_FORMAT = b"2"  # of what is made from responses: descriptors of an earlier one are written again
_ROWS = 1024  # rows read at a time: 8 MB of responses to 4,000 probes


@dataclass(frozen=True)
class ModelResponses:
    """One model's rows of a responses table.

    Attributes:
        key: the model.
        rows: its logits, in order of ``logit``.
        probe_ids: probes run, int32 ascending, shape ``(observed,)``.
        random_ids: those of them drawn at random, where the others were chosen by what they would answer; else None.
    """

    key: Model
    rows: pa.Table
    probe_ids: npt.NDArray[np.int32]
    random_ids: npt.NDArray[np.int32] | None = None

    def searchable(self) -> pa.Table:
        """Return the rows that were not excluded as constant or not finite."""
        return self.rows.filter(pc.is_null(self.rows["excluded"]))

    def matrix(self) -> npt.NDArray[np.float32]:
        """Return the searchable responses, float32 ``[logits, observed]``, z-scored over the probes run."""
        rows = self.searchable()
        flat = pc.list_flatten(rows["response"]).combine_chunks()
        if len(flat) != rows.num_rows * len(self.probe_ids):
            raise ValueError(f"{self.key[0]}: its responses do not have one value for each probe that was run")
        values: npt.NDArray[np.float32] = np.asarray(flat).astype(np.float32).reshape(rows.num_rows, -1)
        return values


@dataclass(frozen=True)
class Known:
    """What is known of a model before its responses are read.

    Attributes:
        key: the model.
        logits: its searchable logits.
        observed: probes run.
    """

    key: Model
    logits: int
    observed: int


def overview(source: Path, committed: set[Model]) -> tuple[list[Known], str]:
    """Return the committed models of a file, and a digest of its bytes and of which models those are."""
    check_version(source)
    columns = ["repo_id", "sha", "logit", "excluded", "probe_ids"]
    found: dict[Model, list[int]] = {}
    try:
        for batch in pq.ParquetFile(source).iter_batches(batch_size=65_536, columns=columns):
            keys = zip(batch["repo_id"].to_pylist(), batch["sha"].to_pylist(), strict=True)
            free = pc.is_null(batch["excluded"]).to_pylist()
            run = pc.fill_null(pc.list_value_length(batch["probe_ids"]), 0).to_pylist()
            for key, searchable, probes in zip(keys, free, run, strict=True):
                if key in committed:
                    counts = found.setdefault(key, [0, 0])
                    counts[0] += bool(searchable)
                    counts[1] = max(counts[1], probes)
    except (pa.ArrowInvalid, OSError) as error:
        raise damaged(source, error) from error
    digest = hashlib.sha256(_FORMAT)
    with source.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    digest.update(repr(sorted(found)).encode())
    return [Known(key, *counts) for key, counts in sorted(found.items())], digest.hexdigest()


def models_in(source: Path) -> Iterator[ModelResponses]:
    """Yield the models of a file, as it is written: each model's rows together, in order of ``logit``.

    A file whose rows lie otherwise is read whole and sorted. Raises `ValueError` when a model's first row does not say
    which probes were run.
    """
    keys = pq.read_table(source, columns=["repo_id", "sha", "logit"])
    order = list(zip(*(keys[name].to_pylist() for name in keys.column_names), strict=True))
    runs = [key for key, _ in groupby(order, key=lambda row: row[:2])]
    if len(runs) != len(set(runs)) or any(a[:2] == b[:2] and a[2] > b[2] for a, b in pairwise(order)):
        table = pq.read_table(source, schema=RESPONSES)
        table = table.sort_by([("repo_id", "ascending"), ("sha", "ascending"), ("logit", "ascending")])
        yield from _split([table])
        return
    batches = pq.ParquetFile(source).iter_batches(batch_size=_ROWS)
    yield from _split(_conformed(pa.Table.from_batches([batch])) for batch in batches)


def _conformed(table: pa.Table) -> pa.Table:
    """Return ``table`` with the columns of today's schema: one that an older file lacks is null."""
    columns = [table[f.name] if f.name in table.column_names else pa.nulls(len(table), f.type) for f in RESPONSES]
    return pa.table(columns, schema=RESPONSES)


def _split(tables: Iterator[pa.Table] | list[pa.Table]) -> Iterator[ModelResponses]:
    held: list[pa.Table] = []
    current: Model | None = None
    for table in tables:
        keys = list(zip(table["repo_id"].to_pylist(), table["sha"].to_pylist(), strict=True))
        start = 0
        for key, group in groupby(keys):
            if key != current and held:
                yield _model(current, pa.concat_tables(held))
                held = []
            size = len(list(group))
            held.append(table.slice(start, size))
            current, start = key, start + size
    if held:
        yield _model(current, pa.concat_tables(held))


def _model(key: Model | None, rows: pa.Table) -> ModelResponses:
    assert key is not None
    first = {name: rows[name][0].values for name in ("probe_ids", "random_ids")}
    if first["probe_ids"] is None:
        raise ValueError(f"{key[0]}: its first row does not list the probes that were run")
    drawn = None if first["random_ids"] is None else np.asarray(first["random_ids"], np.int32)
    return ModelResponses(key, rows, np.asarray(first["probe_ids"], np.int32), drawn)


def moments(model: ModelResponses) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Estimate mean and deviation over all probes, in units of those over the probes run; float32 ``[logits, 1]``.

    They are 0 and 1 where the probes run were all drawn at random. Where the others were chosen for being answered
    strongly they are those over the random ones: over all of them the mean would be too large.
    """
    size = model.searchable().num_rows
    if model.random_ids is None or len(model.random_ids) < RANDOM_LEAST:
        return np.zeros((size, 1), np.float32), np.ones((size, 1), np.float32)
    drawn = model.matrix()[:, np.isin(model.probe_ids, model.random_ids)]
    deviation = drawn.std(1, keepdims=True)
    return drawn.mean(1, keepdims=True), np.maximum(deviation, 1e-3)


def block(model: ModelResponses) -> Block:
    """Return the model's searchable responses, in estimated deviations over all probes."""
    mean, deviation = moments(model)
    values = (model.matrix() - mean) / deviation
    return Block(model.key, torch.from_numpy(model.probe_ids.astype(np.int64)), torch.from_numpy(values))


class Gallery:
    """Blocks of the models that a fit uses, read anew on every pass, or kept where they are small.

    Args:
        sources: files of responses.
        wanted: the models to use.
        cached: bytes of responses, in float16, up to which they are kept in memory after the first pass.
    """

    def __init__(self, sources: list[Path], wanted: list[Known], *, cached: int = 256 << 20) -> None:
        self.sources, self.wanted = sources, {known.key for known in wanted}
        self._keep = sum(known.logits * known.observed * 2 for known in wanted) <= cached
        self._kept: list[Block] | None = None

    def __call__(self) -> Iterator[Block]:
        """Yield the blocks, in the order of the files."""
        if self._kept is not None:
            yield from (Block(b.key, b.observed, b.values.float()) for b in self._kept)
            return
        kept = []
        for source in self.sources:
            try:
                for model in models_in(source):
                    if model.key in self.wanted:
                        found = block(model)
                        if self._keep:
                            kept.append(Block(found.key, found.observed, found.values.half()))
                        yield Block(found.key, found.observed, found.values.half().float())
            except (pa.ArrowInvalid, OSError, ValueError) as error:
                raise damaged(source, error) from error
        if self._keep:
            self._kept = kept


def damaged(source: Path, error: Exception) -> WorkspaceError:
    """Return the error to raise for a file of responses that cannot be read."""
    return WorkspaceError(f"{source} is damaged ({error}): delete it and run 'hubprobe probe' again")
