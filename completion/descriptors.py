"""Files of descriptors: what was run as it was run, what was not by its posterior mean; a model at a time."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from completion.factors import Completer
from completion.responses import Model, ModelResponses, block, models_in, moments
from workspace import Workspace, WorkspaceError
from workspace.errors import DamagedFileError
from workspace.files import IMPORTED_PREFIX, canonical_json, notes_of, table_files, table_writer, verify_table
from workspace.records import descriptors

_CARRIED = ("repo_id", "sha", "logit", "label", "mean", "std")
_SOURCE = "hubprobe.responses_sha256"
_COUNTS = "hubprobe.counts"
_ROW_GROUP = 1024
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Describer:
    """Turns files of responses into files of descriptors.

    Attributes:
        n_probes: probes in all.
        completer: completes partial models; None where all are full or refused, or nothing is written.
        refused: models that get no descriptors.
        device: where to compute.
    """

    n_probes: int
    completer: Completer | None
    refused: Collection[Model]
    device: str

    def describe(self, source: Path, models: Collection[Model], target: Path | None, digest: str) -> dict[str, int]:
        """Write the descriptors of ``models`` in ``source`` to ``target``, and return what they count.

        Args:
            source: file of responses.
            models: those of its models that are committed.
            target: file of descriptors; None writes nothing.
            digest: what the result depends on, kept in the file.
        """
        counts = Counter({"models": 0, "logits": 0, "excluded": 0, "partial": 0, "completed": 0, "refused": 0})
        tables = self._tables(source, models, counts)
        if target is None:
            for _ in tables:
                pass
            return dict(counts)
        with table_writer(target, descriptors(self.n_probes)) as writer:
            held: list[pa.Table] = []
            for table in tables:  # never more than a row group and a model in memory
                held.append(table)
                if sum(len(part) for part in held) >= _ROW_GROUP:
                    writer.write_table(pa.concat_tables(held), row_group_size=_ROW_GROUP)
                    held = []
            if held:
                writer.write_table(pa.concat_tables(held), row_group_size=_ROW_GROUP)
            writer.add_key_value_metadata({_SOURCE: digest, _COUNTS: canonical_json(dict(counts))})
        return dict(counts)

    def _tables(self, source: Path, models: Collection[Model], counts: Counter[str]) -> Iterator[pa.Table]:
        for model in models_in(source, models):
            whole = len(model.probe_ids) == self.n_probes
            counts["partial"] += not whole
            if model.key in self.refused:
                counts["refused"] += 1
                continue
            size = model.searchable().num_rows
            counts["models"] += 1
            counts["completed"] += not whole
            counts["logits"] += size
            counts["excluded"] += model.rows.num_rows - size
            if whole:
                yield full(model)
            elif self.completer is not None:
                yield completed(model, self.completer, self.n_probes, self.device)


def full(model: ModelResponses) -> pa.Table:
    """Return the descriptors of a fully probed model, bit-equal; excluded logits have none."""
    rows, n = model.searchable(), len(model.probe_ids)
    flat = pc.list_flatten(rows["response"]).combine_chunks()
    columns = {name: rows[name] for name in _CARRIED}
    columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, n)
    columns["observed"] = pa.nulls(rows.num_rows, pa.binary())
    columns["variance"] = pa.array(np.zeros(rows.num_rows, np.float32))
    columns["deviation"] = pa.nulls(rows.num_rows, pa.list_(pa.float16()))
    columns["logsumexp"] = _logsumexp(model, rows.num_rows)
    return pa.table(columns, schema=descriptors(n))


def completed(model: ModelResponses, completer: Completer, n_probes: int, device: str) -> pa.Table:
    """Return the descriptors of a partially probed model.

    Responses to a random share of the probes are kept as they are. Where probes were chosen by predicted response,
    all are put in deviations from the mean over the random ones, and ``mean`` and ``std`` are those.
    """
    rows = model.searchable()
    mean, deviation = moments(model)
    values, variance = completer.complete(block(model).to(device))
    vectors = values.cpu().numpy().astype(np.float16)
    spread = variance.cpu().numpy()
    run = np.zeros(n_probes, np.bool_)
    run[model.probe_ids] = True
    count = rows.num_rows
    columns = {name: rows[name] for name in _CARRIED}
    old_mean, old_std = (rows[name].to_numpy().astype(np.float32) for name in ("mean", "std"))
    columns["mean"] = pa.array(old_mean + old_std * mean[:, 0])
    columns["std"] = pa.array(old_std * deviation[:, 0])
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), n_probes)
    columns["observed"] = pa.array([np.packbits(run).tobytes()] * count, pa.binary())
    columns["variance"] = pa.array(np.full(count, spread[~run].mean(), np.float32))
    shared = [np.sqrt(spread).astype(np.float16)] + [None] * (count - 1)
    columns["deviation"] = pa.array(shared[:count], pa.list_(pa.float16()))
    columns["logsumexp"] = _logsumexp(model, count)
    return pa.table(columns, schema=descriptors(n_probes))


def _logsumexp(model: ModelResponses, count: int) -> pa.Array:
    """Return the column for ``count`` rows: the model's own on the first, whether or not output 0 is searchable."""
    own = model.rows["logsumexp"].slice(0, min(count, 1)).combine_chunks()
    return pa.concat_arrays([own, pa.nulls(count - len(own), own.type)])


def was_described(target: Path, digest: str) -> bool:
    """Return whether ``target`` was made from responses of this digest: then they were read to their end before."""
    try:
        return target.exists() and notes_of(target).get(_SOURCE, "").startswith(digest)
    except WorkspaceError:
        return False


def found_unchanged(target: Path, digest: str) -> dict[str, int] | None:
    """Return the counts kept in ``target`` when it is whole and of the same responses and factors, else None."""
    if not target.exists():
        return None
    try:
        notes = notes_of(target)
        if notes.get(_SOURCE) != digest:
            return None
        verify_table(target)
        return {str(name): int(count) for name, count in json.loads(notes[_COUNTS]).items()}
    except (DamagedFileError, ValueError, TypeError, KeyError, AttributeError) as error:
        _LOG.warning("%s is written again: it is damaged (%s)", target, getattr(error, "why", error))
        return None


def drop_orphans(workspace: Workspace, folder: Path, alive: Collection[str]) -> None:
    """Delete descriptors whose responses were compacted into another file or withdrawn; a release's never had any."""
    orphans = [p for p in table_files(folder) if p.name not in alive and not p.name.startswith(IMPORTED_PREFIX)]
    if orphans:
        workspace.require_own(folder)
    for path in orphans:
        path.unlink()
