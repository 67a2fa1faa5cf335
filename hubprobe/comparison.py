"""Models side by side: what is known of them, which of their outputs recognise the same, and where they disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workspace import QueryError, Workspace
from workspace.files import open_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search import Index

MOST_MODELS = 8
"""Models compared at once."""

MOST_OUTPUTS = 4_000
"""Outputs of a model that are matched: the similarity of all pairs is held in memory."""

SURE = 2.0
"""Standard deviations above its mean from which an output counts as answering a probe."""

_FACTS = (
    "repo_id", "sha", "library_name", "model_type", "architecture", "license", "gated", "downloads", "likes",
    "base_models", "last_modified", "parameters", "weights_bytes", "image_size", "num_logits", "label_quality",
    "problem_type", "family", "estimated_accuracy", "reported_accuracy", "reported_on", "reported_by",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Comparison:
    """What was found.

    Attributes:
        models: a dict a model, as asked: what the index and the catalog say of it (``repo_id, sha, license, parameters,
            ...``), as measured here when it was probed ``images_per_second``, ``peak_memory_bytes`` (of the process,
            which other models may have run in before), ``device``; ``estimated_accuracy``, 0 to 1, without labels;
            ``reported_accuracy``, 0 to 1, ``reported_on`` and ``reported_by``, unverified; ``picked``,
            a list of what `hubprobe pick` measured or estimated: ``pick, accuracy, low, high, basis, concepts``.
        pairs: a dict a pair of models, by their places ``a`` and ``b``: ``same``, outputs that recognise the same in
            both; ``similarity``, their mean, 0 to 1; ``probes``, those that such an output of either answers;
            ``agreement``, the share of these on which both answer with the same, or None without such outputs.
        outputs: a dict an output of the first model: ``logit, label`` and ``matches``, for each other model None or a
            dict ``logit, label, similarity``.
        differences: a dict a probe on which two models are sure and disagree, the surest first: ``probe_id``, ``a``,
            ``b``, and of each side ``logit``, ``label`` and ``z``, how far its answer stands out.
    """

    models: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    differences: list[dict[str, Any]]


def compare(index: Index | Workspace, models: Sequence[str], *, limit: int = 50) -> Comparison:
    """Compare models of an index.

    Outputs are matched one to one, the most alike first, by the cosine of squared positive responses to the probes
    (`search.by_model`); pairs under its `ALIKE` do not count as recognising the same.

    Args:
        index: an open index, or a workspace that has one.
        models: two to `MOST_MODELS` repositories, each as ``owner/name`` or ``owner/name@commit``.
        limit: differences returned.

    Raises `QueryError` for a model that is not in the index, or too many or too large ones.
    """
    if isinstance(index, Workspace):
        import search

        index = search.open(index)
    gallery = index.gallery
    asked = list(dict.fromkeys(models))
    if not 2 <= len(asked) <= MOST_MODELS:
        raise QueryError(f"name two to {MOST_MODELS} different models to compare, not {len(asked)}")
    keys = [(repo_id, gallery.commit(repo_id, sha or None)) for repo_id, _, sha in (m.partition("@") for m in asked)]
    sides = [_Side(index, *key) for key in keys]
    pairs, differences = [], []
    matched: dict[int, dict[int, tuple[int, float]]] = {}
    for a, b in combinations(range(len(sides)), 2):
        same = _same(sides[a], sides[b])
        pair, unlike = _agreement(sides[a], sides[b], same)
        pairs.append({"a": a, "b": b, **pair})
        differences += [{"a": a, "b": b, **row} for row in unlike]
        if a == 0:
            matched[b] = {i: (j, score) for i, j, score in same}
    differences.sort(key=lambda row: -min(row["a_z"], row["b_z"]))
    outputs = []
    for i, (logit, label) in enumerate(zip(sides[0].logits, sides[0].labels, strict=True)):
        found = [(side, matched[b].get(i)) for b, side in enumerate(sides) if b]
        matches = [
            m and {"logit": s.logits[m[0]], "label": s.labels[m[0]], "similarity": round(m[1], 3)} for s, m in found
        ]
        outputs.append({"logit": logit, "label": label, "matches": matches})
    return Comparison(_facts(index, keys), pairs, outputs, differences[:limit])


class _Side:
    """One model's outputs: indices, labels, and its descriptors as float32 ``[outputs, n]``."""

    def __init__(self, index: Index, repo_id: str, sha: str) -> None:
        gallery = index.gallery
        rows = np.flatnonzero(gallery.is_model(repo_id, sha))
        if rows.size > MOST_OUTPUTS:
            raise QueryError(f"{repo_id} has {rows.size} outputs; models of at most {MOST_OUTPUTS} are compared")
        table = gallery.logits.take(rows)
        rows = rows[np.argsort(table.column("logit").to_numpy())]
        table = gallery.logits.take(rows)
        self.logits: list[int] = table.column("logit").to_pylist()
        self.labels: list[str | None] = table.column("label").to_pylist()
        self.z = gallery.vectors(rows)
        std, mean = gallery.raw_moments(rows)
        self.raw = self.z * std[:, None] + mean[:, None]


def one_to_one(similarity: NDArray[Any]) -> list[tuple[int, int]]:
    """Return pairs of row and column, each in one pair at most: the most similar first, then of what is left.

    >>> one_to_one(np.array([[0.9, 0.8], [0.95, 0.2]]))
    [(1, 0), (0, 1)]
    """
    rows, columns = similarity.shape
    free = np.ones(rows, bool), np.ones(columns, bool)
    pairs: list[tuple[int, int]] = []
    for flat in np.argsort(-similarity, axis=None, kind="stable").tolist():
        i, j = divmod(flat, columns)
        if free[0][i] and free[1][j]:
            free[0][i] = free[1][j] = False
            pairs.append((i, j))
            if len(pairs) == min(rows, columns):
                break
    return pairs


def _same(a: _Side, b: _Side) -> list[tuple[int, int, float]]:
    """Return the outputs of both that recognise the same, most alike first: their places and how alike they are."""
    from search.by_model import ALIKE
    from search.text.contrast import strengths

    similarity = strengths(a.z) @ strengths(b.z).T
    pairs = one_to_one(np.where(similarity >= ALIKE, similarity, -np.inf))
    return [(i, j, float(similarity[i, j])) for i, j in pairs if similarity[i, j] >= ALIKE]


def _agreement(a: _Side, b: _Side, same: list[tuple[int, int, float]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return how far two models agree on the probes with the outputs that they share, and where they do not."""
    nothing = {"same": len(same), "similarity": None, "probes": 0, "agreement": None}
    if not same:
        return nothing, []
    left, right = [i for i, _, _ in same], [j for _, j, _ in same]
    first, second = a.raw[left].argmax(axis=0), b.raw[right].argmax(axis=0)
    probes = np.arange(first.size)
    z = a.z[left][first, probes], b.z[right][second, probes]
    counts = np.flatnonzero(np.maximum(*z) >= SURE)
    unlike = np.flatnonzero((first != second) & (np.minimum(*z) >= SURE))
    rows = []
    for probe in unlike[np.argsort(-np.minimum(*z)[unlike], kind="stable")].tolist():
        i, j = left[first[probe]], right[second[probe]]
        rows.append(
            {
                "probe_id": probe,
                "a_logit": a.logits[i], "a_label": a.labels[i], "a_z": round(float(z[0][probe]), 2),
                "b_logit": b.logits[j], "b_label": b.labels[j], "b_z": round(float(z[1][probe]), 2),
            }
        )  # fmt: skip
    found = nothing | {"similarity": round(float(np.mean([s for *_, s in same])), 3), "probes": int(counts.size)}
    if counts.size and len(same) > 1:
        found["agreement"] = round(float((first[counts] == second[counts]).mean()), 3)
    return found, rows


def _facts(index: Index, keys: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    from search.views import everyday

    models = everyday(index.gallery.models)
    named = [name for name in _FACTS if name in models.column_names]
    known = {(r["repo_id"], r["sha"]): r for r in models.select(named).to_pylist()}
    columns = ["repo_id", "sha", "attempt", "status", "seconds_preprocess", "seconds_forward", "probes_run", "device",
               "peak_memory_bytes"]  # fmt: skip
    tried = index.workspace.attempts(columns)
    tried = tried.filter(pc.is_in(tried.column("repo_id"), pa.array([repo_id for repo_id, _ in keys])))
    attempts = {(r["repo_id"], r["sha"]): r for r in tried.to_pylist()}
    picked = _picked(index.workspace, {repo_id for repo_id, _ in keys})
    rows = []
    for key in keys:
        row, attempt = dict(known[key]), attempts.get(key, {})
        row |= {name: attempt.get(name) for name in ("peak_memory_bytes", "device")}
        rows.append(row | {"images_per_second": speed(attempt), "picked": picked.get(key[0], [])})
    return rows


def speed(attempt: Mapping[str, Any]) -> float | None:
    """Return the images a second of an attempt, preparing them included; None where it does not say."""
    seconds = sum(float(attempt.get(f"seconds_{phase}") or 0) for phase in ("preprocess", "forward"))
    return round(int(attempt.get("probes_run") or 0) / seconds, 1) if seconds else None


def _picked(workspace: Workspace, wanted: set[str]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((workspace.root / "picks").glob("*/models.parquet")):
        columns = ["repo_id", "accuracy", "low", "high", "basis", "per_concept"]
        with open_table(path, version=False) as file:
            rows = file.read(columns).to_pylist()
        for row in rows:
            if row["repo_id"] in wanted:
                row["concepts"] = [name for name, _ in row.pop("per_concept") or []]
                found.setdefault(row.pop("repo_id"), []).append({"pick": path.parent.name, **row})
    return found
