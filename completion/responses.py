"""The gallery as it lies on disk: which models there are, and their responses, one model at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from workspace.files import batches, conformed, damaged, read_file, using
from workspace.holes import Held, is_home
from workspace.records import RESPONSES

if TYPE_CHECKING:
    from completion.factors import Block

Model = tuple[str, str]
"""A model's key: ``(repo_id, sha)``."""

RANDOM_LEAST = 16
"""Random probes from which mean and deviation are taken alone where the others were chosen."""

_FORMAT = b"3"  # of what is made from responses: descriptors of an earlier one are written again
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
        values: npt.NDArray[np.float32] = np.asarray(flat).astype(np.float32).reshape(rows.num_rows, -1)
        return values


@dataclass(frozen=True)
class Known:
    """What is known of a model before its responses are read.

    Attributes:
        key: the model.
        logits: its searchable logits.
        observed: probes run.
        held: what the file holds of it, to be compared with what its attempt committed.
    """

    key: Model
    logits: int
    observed: int
    held: Held


def overview(source: Path, committed: Collection[Model]) -> tuple[list[Known], str]:
    """Return the committed models of a file, and a digest of its bytes and of which models those are.

    Models that do not belong into this file are left out. Raises `DamagedFileError`.
    """
    columns = ["repo_id", "sha", "excluded", "probe_ids"]
    found: dict[Model, list[int]] = {}
    for batch in batches(source, 65_536, columns):
        keys = zip(batch["repo_id"].to_pylist(), batch["sha"].to_pylist(), strict=True)
        free = pc.is_null(batch["excluded"]).to_pylist()
        run = pc.fill_null(pc.list_value_length(batch["probe_ids"]), 0).to_pylist()
        for key, searchable, probes in zip(keys, free, run, strict=True):
            if key in committed and is_home(source, key):
                counts = found.setdefault(key, [0, 0, 0])
                counts[0] += bool(searchable)
                counts[1] = max(counts[1], probes)
                counts[2] += 1
    known = [Known(key, logits, probes, Held(rows, probes)) for key, (logits, probes, rows) in sorted(found.items())]
    digest = hashlib.sha256(_FORMAT)
    with using(source, "read"), source.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    digest.update(repr(sorted(found)).encode())
    return known, digest.hexdigest()


def models_in(source: Path, wanted: Collection[Model] | None = None) -> Iterator[ModelResponses]:
    """Yield the models ``wanted`` (all when None) of a file, as it is written: each one's rows in order of ``logit``.

    A file whose rows lie otherwise is read whole and sorted. Raises `DamagedFileError` when it cannot be read, holds a
    logit twice, or when a model's first row does not say which probes were run.
    """
    keys = read_file(source, columns=["repo_id", "sha", "logit"])
    order = list(zip(*(keys[name].to_pylist() for name in keys.column_names), strict=True))
    if len(order) != len(set(order)):
        raise damaged(source, "it holds a logit twice")
    runs = [key for key, _ in groupby(order, key=lambda row: row[:2])]
    tables: Iterable[pa.Table]
    if len(runs) != len(set(runs)) or any(a[:2] == b[:2] and a[2] > b[2] for a, b in pairwise(order)):
        whole = read_file(source, RESPONSES)
        tables = [whole.sort_by([("repo_id", "ascending"), ("sha", "ascending"), ("logit", "ascending")])]
    else:
        parts = batches(source, _ROWS)
        tables = (conformed(source, pa.Table.from_batches([part]), RESPONSES) for part in parts)
    for key, rows in _split(tables):
        if wanted is not None and key not in wanted:
            continue
        try:
            yield _model(key, rows)
        except ValueError as error:
            raise damaged(source, error) from error


def verify(source: Path, wanted: Collection[Model], n_probes: int) -> None:
    """Read a file to its end; raises `DamagedFileError` for damage, or for a model that was run on unknown probes."""
    for model in models_in(source, wanted):
        if len(model.probe_ids) and model.probe_ids[-1] >= n_probes:
            raise damaged(source, f"{model.key[0]} was run on probe {model.probe_ids[-1]} of {n_probes}")


def _split(tables: Iterable[pa.Table]) -> Iterator[tuple[Model, pa.Table]]:
    held: list[pa.Table] = []
    current: Model | None = None
    for table in tables:
        keys = list(zip(table["repo_id"].to_pylist(), table["sha"].to_pylist(), strict=True))
        start = 0
        for key, group in groupby(keys):
            if current is not None and key != current:
                yield current, pa.concat_tables(held)
                held = []
            size = len(list(group))
            held.append(table.slice(start, size))
            current, start = key, start + size
    if current is not None:
        yield current, pa.concat_tables(held)


def _model(key: Model, rows: pa.Table) -> ModelResponses:
    first = {name: rows[name][0].values for name in ("probe_ids", "random_ids")}
    if first["probe_ids"] is None:
        raise ValueError(f"{key[0]}: its first row does not list the probes that were run")
    ids = np.asarray(first["probe_ids"], np.int32)
    if len(ids) and (ids[0] < 0 or (np.diff(ids) <= 0).any()):
        raise ValueError(f"{key[0]}: the probes it was run on are not in ascending order")
    drawn = None if first["random_ids"] is None else np.asarray(first["random_ids"], np.int32)
    model = ModelResponses(key, rows, ids, drawn)
    responses = model.searchable()["response"]
    if responses.null_count or pc.unique(pc.list_value_length(responses)).to_pylist() not in ([], [len(ids)]):
        raise ValueError(f"{key[0]}: its responses do not have one value for each probe that was run")
    if not np.isfinite(np.asarray(pc.list_flatten(responses).combine_chunks())).all():
        raise ValueError(f"{key[0]}: its responses are not all finite")
    return model


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
    import torch

    from completion.factors import Block

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
            yield from (replace(b, values=b.values.float()) for b in self._kept)
            return
        kept = []
        for source in self.sources:
            for model in models_in(source, {key for key in self.wanted if is_home(source, key)}):
                found = block(model)
                if self._keep:
                    kept.append(replace(found, values=found.values.half()))
                yield replace(found, values=found.values.half().float())
        if self._keep:
            self._kept = kept
