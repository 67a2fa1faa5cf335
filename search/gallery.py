"""One version of the index, open for reading: its tables in memory, its tiles memory-mapped."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from search import database, filters
from search.kernels import HALF, exact_distances
from search.scan import Candidates, CpuScanner, Scanner
from search.scoring import Comparison, score_of
from search.tiles import Tile, TileInfo
from workspace import QueryError, WorkspaceError

Rows = NDArray[np.int64]
"""Positions of logits in this version, never stored outside it."""

Mask = NDArray[np.bool_]
"""Which logits are allowed, bool ``[logits]``."""

_FEW = 2_048
"""Allowed logits up to which all are read exactly: about a millisecond, less than a scan of the rest would save."""

_CANDIDATES = 256
"""Lowest bounds that the first scan keeps. Too few cost a second scan, never a wrong answer."""


class Gallery:
    """All logits that can be found.

    Args:
        folder: of the version.
        manifest: its manifest.
        lock: kept open as long as the gallery is, so that no build deletes the version.

    Attributes:
        models: table `metadata.MODELS`.
        logits: table `metadata.LOGITS`; its row number is a logit's position.
        model_of: int32 ``[logits]``, row of ``models`` of every logit.
        starts: int64 ``[tiles + 1]``, position of every tile's first logit.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], lock: IO[bytes] | None = None) -> None:
        self.folder, self.manifest, self._lock = folder, manifest, lock
        self.n_probes = int(manifest["n_probes"])
        infos = [TileInfo.from_json(entry) for entry in manifest["tiles"]]
        self.tiles = [Tile(folder / "tiles", info, self.n_probes) for info in infos]
        self.starts = np.concatenate([[0], np.cumsum([info.rows for info in infos], dtype=np.int64)]).astype(np.int64)
        self.database = database.connect(folder)
        self.models = database.read_models(self.database)
        self.logits = database.read_logits(self.database)
        if self.logits.num_rows != int(self.starts[-1]):
            raise WorkspaceError(f"the index at {folder} does not fit together: run 'hubprobe index --rebuild'")
        self.model_of: NDArray[np.int32] = self.logits.column("model").to_numpy()
        self.scanner: Scanner = CpuScanner(self.tiles, self.starts)
        self._filter = filters.Evaluator(self.models, self.logits)
        self._masks: dict[str, NDArray[np.bool_]] = {}
        self._mask_lock = threading.Lock()

    def __len__(self) -> int:
        return int(self.starts[-1])

    # ── finding ──────────────────────────────────────────────────────────────────────────────────────────────────
    def mask(self, conditions: Sequence[filters.Condition]) -> NDArray[np.bool_] | None:
        """Return which logits meet every condition, bool ``[logits]``, or None when there is no condition."""
        if not conditions:
            return None
        masks = [self._one_mask(condition) for condition in conditions]
        return masks[0] if len(masks) == 1 else np.logical_and.reduce(masks)

    def _one_mask(self, condition: filters.Condition) -> NDArray[np.bool_]:
        with self._mask_lock:
            mask = self._masks.get(condition.text)
        if mask is None:
            mask = self._filter.mask(condition, self.model_of)
            with self._mask_lock:
                if len(self._masks) >= 32:  # a byte per logit each
                    self._masks.pop(next(iter(self._masks)))
                self._masks[condition.text] = mask
        return mask

    def distances(self, comparison: Comparison, rows: Rows | None = None) -> NDArray[np.float64]:
        """Return the exact distance of ``rows`` (all when None), float64, from the fp16 values."""
        if rows is None:
            rows = np.arange(len(self), dtype=np.int64)
        out = np.empty(rows.size, np.float64)
        tile_of = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(tile_of):
            here = np.flatnonzero(tile_of == number)
            chosen = rows[here]
            scale = shift = np.empty(0, np.float32)
            if comparison.raw:
                scale = self.logits.column("std").to_numpy()[chosen]
                shift = self.logits.column("mean").to_numpy()[chosen]
            part = np.empty(here.size, np.float64)
            exact_distances(
                self.tiles[number].exact, chosen - self.starts[number], comparison.columns, comparison.targets,
                comparison.weights, scale, shift, HALF, part,
            )  # fmt: skip
            out[here] = part
        if comparison.scale.size:
            return out * comparison.scale[rows].astype(np.float64) + comparison.shift[rows].astype(np.float64)
        return out

    def nearest(
        self, comparison: Comparison, limit: int, mask: Mask | None, *, exact: bool = False
    ) -> tuple[Rows, NDArray[np.float64]]:
        """Return the ``limit`` nearest logits that ``mask`` allows, and their distances, nearest first.

        Of equally near logits the one with the lower ``(repo_id, sha, logit)`` comes first. The answer is the same with
        ``exact``, which reads every allowed logit's fp16 values and no code.
        """
        return self.nearest_many([comparison], limit, [mask], exact=exact)[0]

    def nearest_many(
        self, comparisons: Sequence[Comparison], limit: int, masks: Sequence[Mask | None], *, exact: bool = False
    ) -> list[tuple[Rows, NDArray[np.float64]]]:
        """Answer several comparisons at once, as `nearest` would one by one; they share what the scan reads."""
        found: list[tuple[Rows, NDArray[np.float64]] | None] = [None] * len(comparisons)
        scanned = []
        for i, (comparison, mask) in enumerate(zip(comparisons, masks, strict=True)):
            allowed = len(self) if mask is None else int(np.count_nonzero(mask))
            if exact or comparison.raw or allowed <= max(_FEW, 4 * limit):
                found[i] = self._brute(comparison, limit, mask)
            else:
                scanned.append(i)
        if scanned:
            chosen = [comparisons[i] for i in scanned]
            allowed_by = [masks[i] for i in scanned]
            keep = max(_CANDIDATES, 4 * limit)
            candidates = self.scanner.scan(chosen, allowed_by, keep, [np.inf] * len(scanned))
            for i, candidate in zip(scanned, candidates, strict=True):
                found[i] = self._certified(comparisons[i], limit, masks[i], candidate)
        return [f for f in found if f is not None]

    def _certified(
        self, comparison: Comparison, limit: int, mask: Mask | None, candidates: Candidates
    ) -> tuple[Rows, NDArray[np.float64]]:
        """Read candidates exactly, lowest bound first, until no other logit can be among the ``limit`` nearest."""
        rows, distances, worst = self._read(comparison, limit, candidates)
        if candidates.floor <= worst and candidates.floor < np.inf:
            # too many logits lie close together for the first scan's candidates: take every one that could matter
            (wider,) = self.scanner.scan([comparison], [mask], 0, [worst])
            rows, distances, worst = self._read(comparison, limit, wider)
        return self.ranked(rows, distances, limit)

    def _read(
        self, comparison: Comparison, limit: int, candidates: Candidates
    ) -> tuple[Rows, NDArray[np.float64], float]:
        """Return exact distances of the candidates that can matter, and the distance of the ``limit``-th nearest."""
        first = min(candidates.rows.size, 2 * limit)
        distances = self.distances(comparison, candidates.rows[:first])
        if first < limit:
            return candidates.rows[:first], distances, np.inf
        worst = float(np.partition(distances, limit - 1)[limit - 1])
        last = int(np.searchsorted(candidates.bounds, worst, side="right"))
        if last > first:
            distances = np.concatenate([distances, self.distances(comparison, candidates.rows[first:last])])
            worst = float(np.partition(distances, limit - 1)[limit - 1])
        rows = candidates.rows[: distances.size]
        keep = distances <= worst
        return rows[keep], distances[keep], worst

    def _brute(self, comparison: Comparison, limit: int, mask: Mask | None) -> tuple[Rows, NDArray[np.float64]]:
        rows = np.flatnonzero(mask).astype(np.int64) if mask is not None else np.arange(len(self), dtype=np.int64)
        found = self.distances(comparison, rows)
        if rows.size > limit:
            keep = found <= np.partition(found, limit - 1)[limit - 1]
            rows, found = rows[keep], found[keep]
        return self.ranked(rows, found, limit)

    def ranked(self, rows: Rows, distances: NDArray[np.float64], limit: int) -> tuple[Rows, NDArray[np.float64]]:
        """Sort by distance, then by key, and cut to ``limit``."""
        keys = self.keys(rows)
        order = sorted(range(rows.size), key=lambda i: (distances[i], keys[i]))[:limit]
        return rows[order], distances[order]

    # ── naming ───────────────────────────────────────────────────────────────────────────────────────────────────
    def keys(self, rows: Rows) -> list[tuple[str, str, int]]:
        """Return ``(repo_id, sha, logit)`` of ``rows``."""
        models = self.models.select(["repo_id", "sha"]).take(pa.array(self.model_of[rows]))
        logits = self.logits.column("logit").take(pa.array(rows))
        return list(
            zip(models.column("repo_id").to_pylist(), models.column("sha").to_pylist(), logits.to_pylist(), strict=True)
        )

    def row(self, repo_id: str, logit: int, sha: str | None = None) -> int:
        """Return the position of a logit; raises `QueryError`. Without ``sha`` the last indexed commit is meant."""
        for model in reversed(self._ordinals(repo_id, sha)):
            rows = np.flatnonzero(self.model_of == model)
            hit = rows[self.logits.column("logit").take(pa.array(rows)).to_numpy() == logit]
            if hit.size:
                return int(hit[0])
        raise QueryError(f"{repo_id} has no searchable logit {logit}: it was constant, not finite, or never there")

    def _ordinals(self, repo_id: str, sha: str | None) -> list[int]:
        found = [
            i
            for i, (name, commit) in enumerate(
                zip(self.models.column("repo_id").to_pylist(), self.models.column("sha").to_pylist(), strict=True)
            )
            if name == repo_id and sha in (None, commit)
        ]
        if not found:
            raise QueryError(f"{repo_id}{f' at {sha}' if sha else ''} is not in the index: see 'hubprobe status'")
        return found

    def is_model(self, repo_id: str, sha: str) -> NDArray[np.bool_]:
        """Return which logits are of that model, bool ``[logits]``."""
        return np.isin(self.model_of, self._ordinals(repo_id, sha))

    def vector(self, row: int) -> NDArray[np.float32]:
        """Return the descriptor of the logit at ``row``, float32 ``[n_probes]``."""
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        bits = np.array(self.tiles[number].exact[row - int(self.starts[number])], "<u2")
        return np.asarray(HALF[bits])

    def hits(self, rows: Rows, distances: NDArray[np.float64]) -> pa.Table:
        """Return the table of hits: rank from 1, score, distance, key, label, and all that is known of the model."""
        logits = self.logits.take(pa.array(rows))
        models = self.models.drop_columns(["model"]).take(pa.array(self.model_of[rows]))
        columns: dict[str, Any] = {
            "rank": pa.array(np.arange(1, rows.size + 1), pa.int32()),
            "score": score_of(distances),
            "distance": distances,
            "repo_id": models.column("repo_id"),
            "sha": models.column("sha"),
            **{name: logits.column(name) for name in ("logit", "label", "observed", "variance")},
        }
        columns |= {name: models.column(name) for name in models.column_names if name not in columns}
        return pa.table(columns)
