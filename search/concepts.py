"""What an index covers: every concept of the bank, how many models answer it, and which output answers it best.

Made when the index is built, from what a search for each concept's name would score, and kept as ``concepts.parquet``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from search.scan.scoring import Descriptor, compile_query
from search.text import bank
from search.text.calibration import FIRST, hit_signs
from search.text.contrast import strengths
from workspace import MissingStepError
from workspace.files import conformed, open_table, write_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search.scan.gallery import Gallery
    from search.texts import Texts

FILE = "concepts.parquet"

STANDS_OUT = 5.0
"""Standard deviations above all outputs' scores from which an output counts as answering a concept. Of the pairs of
concept and model that count on the demo hub 76 in 100 are right, and 46 in 100 of the right ones count; of those from
4.0 on 41 and 55, from 6.0 on 91 and 36."""

CONCEPTS = pa.schema(
    [
        pa.field("concept", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # the bank's coarse group: animal, food, vehicle ...
        pa.field("models", pa.int32(), nullable=False),  # with an output that stands out for it
        pa.field("covered", pa.bool_(), nullable=False),  # whether a search for it is probably answered
        pa.field("probability", pa.float32(), nullable=False),  # that one of its ten nearest outputs is right
        pa.field("model", pa.int32(), nullable=False),  # of the nearest output; position in ``models``
        pa.field("logit", pa.int32(), nullable=False),
        pa.field("label", pa.string()),  # its own, untrusted
        pa.field("score", pa.float32(), nullable=False),  # as a search gives it
    ]
)
"""One row per concept of the bank, in its order."""

_ROWS = 2_048  # outputs scored at once
_TEXTS = 512  # texts looked up at once; `Texts` remembers more


def concepts_table(gallery: Gallery, texts: Texts, *, progress: bool = True) -> pa.Table:
    """Return the table `CONCEPTS` of a gallery.

    Every output is scored for every concept, exactly: ``outputs x concepts x probes`` multiplications.

    Args:
        gallery: of an index with an encoder.
        texts: make the queries of the concepts' names.
        progress: draw a bar on stderr.
    """
    known = [
        (c, query) for c, query in _asked(texts) if query.signs is not None and any(map(np.any, query.sides.values()))
    ]
    queries = [query for _, query in known]
    wanted = np.zeros((len(queries), gallery.n_probes), np.float32)
    for row, query in zip(wanted, queries, strict=True):
        comparison = compile_query(query, "bridged", None)
        row[comparison.columns] = comparison.weights
    hubness = gallery.calibration.hubness if gallery.calibration is not None else np.zeros(len(gallery), np.float32)

    def scores(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = wanted @ strengths(gallery.vectors(rows)).T - hubness[rows]
        return found

    sample = scores(gallery.sample).astype(np.float64)
    least = _not_below(sample.mean(axis=1) + STANDS_OUT * np.maximum(sample.std(axis=1), 1e-9))
    first, nearest = np.full((len(queries), FIRST), -np.inf), np.zeros(len(queries), np.int64)  # scores, descending
    owners = np.zeros(first.shape, np.int32)  # the models these are of
    models, counted = np.zeros(len(queries), np.int32), np.full(len(queries), -1, np.int32)  # and the last one that was
    order = np.argsort(gallery.model_of, kind="stable")  # a model's outputs together: it is counted once
    starts = range(0, len(gallery), _ROWS)
    for start in tqdm(starts, desc="concepts", unit="batch", disable=not progress or len(starts) < 2, leave=False):
        rows = order[start : start + _ROWS]
        found = scores(rows)
        top = found.argmax(axis=1)
        most = found[np.arange(len(queries)), top]
        better = most > first[:, 0]
        nearest[better] = rows[top[better]]
        new = np.flatnonzero(most > first[:, -1])
        some = np.argpartition(-found[new], min(FIRST, rows.size) - 1, axis=1)[:, :FIRST]
        both = np.concatenate([first[new], np.take_along_axis(found[new], some, axis=1)], axis=1)
        of = np.concatenate([owners[new], gallery.model_of[rows][some]], axis=1)
        kept = np.argsort(-both, axis=1, kind="stable")[:, :FIRST]
        first[new], owners[new] = np.take_along_axis(both, kept, axis=1), np.take_along_axis(of, kept, axis=1)
        concept, output = np.nonzero(found >= least[:, None])
        model = gallery.model_of[rows[output]]
        same = concept[1:] == concept[:-1]
        before = counted[concept]
        before[1:][same] = model[:-1][same]
        models += np.bincount(concept[model != before], minlength=len(queries)).astype(np.int32)
        counted[concept] = model  # of several the last
    contrast, trust = np.array([query.signs for query in queries]).T
    best, certainty = first[:, 0], gallery.certainty
    about = sample.mean(axis=1), np.maximum(sample.std(axis=1), 1e-9), best
    there = np.isfinite(first)
    shares = certainty.of(hit_signs(np.where(there, first, 0.0), about, contrast, owners), trust, there)
    logits = gallery.logits.take(pa.array(nearest))
    return pa.table(
        {
            "concept": [concept.name for concept, _ in known],
            "kind": [concept.group for concept, _ in known],
            "models": models,
            "covered": certainty.covers(shares, trust),
            "probability": shares.astype(np.float32),
            "model": gallery.model_of[nearest],
            "logit": logits.column("logit"),
            "label": logits.column("label"),
            "score": (1.0 / (2.0 - best)).astype(np.float32),  # of a distance of 1 - best
        }
    ).cast(CONCEPTS)


def _not_below(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the least float32 that is not below each: what is compared with it compares as with the value itself."""
    near = values.astype(np.float32)
    return np.where(near < values, np.nextafter(near, np.float32(np.inf)), near)


def _asked(texts: Texts) -> Iterator[tuple[bank.Concept, Descriptor]]:
    every = bank.bank()
    for start in range(0, len(every), _TEXTS):
        some = every[start : start + _TEXTS]
        texts.prepare([concept.name for concept in some])
        yield from ((concept, texts.of_text(concept.name)) for concept in some)


def write_concepts(folder: Path, table: pa.Table) -> None:
    """Write the table into a version's folder."""
    write_table(folder / FILE, table)


def read_concepts(folder: Path, models: pa.Table) -> pa.Table:
    """Return the table of a version's folder, with ``repo_id`` and ``sha`` in place of ``model``.

    Raises `MissingStepError` when the index has none: built without an encoder, or by an earlier version.
    """
    path = folder / FILE
    if not path.exists():
        raise MissingStepError("list of concepts", "index --encoder auto")
    with open_table(path, version=False) as file:
        table = conformed(path, file.read(), CONCEPTS)
    best = models.select(["repo_id", "sha"]).take(table.column("model"))
    columns = {name: table.column(name) for name in table.column_names if name != "model"}
    columns = {n: columns[n] for n in ("concept", "kind", "models", "covered", "probability")} | {
        "repo_id": best.column("repo_id"), "sha": best.column("sha"),
        **{n: columns[n] for n in ("logit", "label", "score")},
    }  # fmt: skip
    return pa.table(columns)
