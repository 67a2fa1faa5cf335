"""One version of the index, open for reading: its tables in memory, its tiles memory-mapped."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from search.scan.nearest import Finder, Found, Mask, Rows
from search.scan.peers import SHARE, Peers
from search.scan.scan import CpuScanner
from search.scan.scoring import CALIBRATED, Comparison, Descriptor, compile_query, score_of
from search.scan.whitening import FOLDER, Whitened
from search.scan.whitening import SHARE as WHITENED
from search.store import tables, versions
from search.store.tiles import Partial, Source, Tile
from search.text.calibration import FIRST, Calibration, Certainty, Coverage, hit_signs, shown
from search.text.contrast import strengths
from search.text.labels import Bridge
from workspace import QueryError, WorkspaceError
from workspace.text import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search.filters import Condition, Evaluator
    from workspace.locks import Lock

_REMEMBERED_MASKS = 32  # a byte per logit each
_SAMPLE, _RUN = 2_048, 16  # logits that stand for all, and how many of them lie side by side on the disk


class Gallery(Finder):
    """All logits of a version, what is known of them, and how to find them.

    Args:
        folder: of the version.
        manifest: its manifest.
        lock: kept open as long as the gallery is, so that no build deletes the version.
        device: ``cpu``, or a torch device such as ``cuda`` that the codes are copied to.
        source: brings parts of the tiles that are not here; None when all are.

    Attributes:
        models: table `search.store.tables.MODELS`.
        logits: table `search.store.tables.LOGITS`; its row number is a logit's position.
        model_of: int32 ``[logits]``, row of ``models`` of every logit.
    """

    def __init__(
        self,
        folder: Path,
        manifest: dict[str, Any],
        lock: Lock | None = None,
        *,
        device: str = "cpu",
        source: Source | None = None,
    ) -> None:
        self.folder, self.manifest, self._lock = folder, manifest, lock
        self.n_probes = int(manifest["n_probes"])
        infos = versions.tiles_of(folder, manifest)
        self.tiles = [Tile(folder / "tiles", info, self.n_probes) for info in infos]
        self.starts = np.concatenate([[0], np.cumsum([info.rows for info in infos], dtype=np.int64)]).astype(np.int64)
        self.models = tables.read_models(folder)
        self.logits = tables.read_logits(folder)
        self.model_of: NDArray[np.int32] = self.logits.column("model").to_numpy()
        models = self.model_of if self.model_of.size else np.zeros(1, np.int32)
        if self.logits.num_rows != len(self) or models.min() < 0 or models.max() > max(self.models.num_rows - 1, 0):
            raise WorkspaceError(f"the index at {folder} does not fit together: run 'hubprobe index --rebuild'")
        self.partial = Partial(folder / "tiles", infos, self.n_probes, source) if source else None
        if device == "cpu":
            self.scanner: CpuScanner = CpuScanner(self.tiles, self.starts)
        else:
            from search.scan.device import TorchScanner

            self.scanner = TorchScanner(self.tiles, self.starts, device)
        self._masks: dict[str, Mask] = {}
        self._mask_lock = threading.Lock()

    @cached_property
    def _filter(self) -> Evaluator:
        from search.filters import Evaluator  # DuckDB is imported when there is a filter

        return Evaluator(self.models, self.logits)

    @cached_property
    def database(self) -> Any:
        """LanceDB: words and whole-descriptor neighbours."""
        if self.partial is not None:
            self.partial.source.whole("lance")
        return tables.connect(self.folder)

    @cached_property
    def listed(self) -> dict[int, str]:
        """Names that whole lists give to outputs, by position; see `search.text.lists`."""
        table = tables.read_listed(self.folder)
        return dict(zip(table.column("row").to_pylist(), table.column("name").to_pylist(), strict=True))

    def labels(self, rows: Rows) -> list[str | None]:
        """Return what each of ``rows`` is called: by a whole list, else by its own model."""
        own: list[str | None] = self.logits.column("label").take(pa.array(rows)).to_pylist()
        return [self.listed.get(row, label) for row, label in zip(rows.tolist(), own, strict=True)]

    @cached_property
    def sample(self) -> Rows:
        """Logits that stand for all, ascending: 2,048, in runs of neighbours, which cost one read each; or all."""
        if len(self) <= _SAMPLE:
            return np.arange(len(self), dtype=np.int64)
        starts = np.linspace(0, len(self) - _RUN, _SAMPLE // _RUN).astype(np.int64)
        return np.unique(starts[:, None] + np.arange(_RUN))

    @cached_property
    def family_of(self) -> NDArray[np.int32]:
        """Family of every logit's model, int32 ``[logits]``."""
        families: NDArray[np.int32] = (
            self.models.column("family").combine_chunks().dictionary_encode().indices.to_numpy()
        )
        return families[self.model_of]

    @cached_property
    def family_members(self) -> dict[str, list[str]]:
        """Repositories of every family, in the order they were indexed."""
        members: dict[str, list[str]] = {}
        repos, families = self.models.column("repo_id").to_pylist(), self.models.column("family").to_pylist()
        for repo, family in zip(repos, families, strict=True):
            members.setdefault(family, []).append(repo)
        return members

    @cached_property
    def _strong(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        peak = np.maximum(self.logits.column("peak").to_numpy(), np.float32(1e-6))
        return -1.0 / peak, np.ones(len(self), np.float32)

    @cached_property
    def calibration(self) -> Calibration | None:
        """The bank's columns; None for an index without text queries."""
        found = Calibration.load(self.folder)
        if found is not None and found.hubness.shape != (len(self),):  # the kernels read it by position
            raise WorkspaceError(f"the index at {self.folder} does not fit together: run 'hubprobe index --rebuild'")
        return found

    @cached_property
    def bridge(self) -> Bridge | None:
        """The honest labels; None for an index without any, or without text queries."""
        return Bridge.load(self.folder)

    @cached_property
    def _of_texts(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scale and shift for a text or an image."""
        scale, shift = self._strong
        return scale, shift if self.calibration is None else 1.0 + self.calibration.hubness

    @cached_property
    def _of_logits(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scale and shift for a logit or a vector; in an index that was built before it had any, those of `strong`."""
        peers = Peers.load(self.folder)
        if peers is None:
            return self._strong
        share = 0.0 if self.whitened is None else WHITENED
        scale = np.asarray((share - 1.0) / np.maximum(peers.length, 1e-6), np.float32)
        return scale, np.asarray(1.0 + (1.0 - share) * SHARE * peers.hubness, np.float32)

    @cached_property
    def whitened(self) -> Whitened | None:  # type: ignore[override]
        """Every logit in whitened directions; None in an index that was built before it had any."""
        if self.partial is not None:
            self.partial.source.whole(FOLDER)
        return Whitened.load(self.folder, self.n_probes, len(self))

    def compile(self, query: Descriptor, scoring: str, k: int | None = None) -> Comparison:
        """Return the comparison of ``query`` under a scoring; raises `QueryError` for an unknown one or k < 1."""
        comparison = compile_query(query, scoring, k)
        if not comparison.positive:
            return comparison
        scale, shift = self._strong
        code = None
        if scoring in CALIBRATED:
            scale, shift = self._of_texts if query.sides else self._of_logits
            if not query.sides and self.whitened is not None:
                code = self.whitened.of(query.vector[None])[0]
        return replace(comparison, scale=scale, shift=shift, whitened=code)

    def parts(self, query: Descriptor, rows: Rows) -> dict[str, NDArray[np.float64]]:
        """Return what each side of ``query`` adds to the score of ``rows``, float64 ``[rows]``, before calibration."""
        strong = strengths(self.vectors(rows)).astype(np.float64)
        total = np.linalg.norm(np.sum(list(query.sides.values()), axis=0)) if query.sides else 1.0
        return {name: strong @ side.astype(np.float64) / total for name, side in query.sides.items()}

    def coverage(self, query: Descriptor, allowed: Mask | None = None) -> Coverage:
        """Return the coverage of a text's descriptor when only the ``allowed`` logits, bool ``[logits]``, may be found.

        Raises `QueryError` for another kind of query, or an index without an encoder.
        """
        contrast, trust = _signs(query)
        rows, distances = self.nearest(self.compile(query, "bridged"), FIRST, allowed)
        signs = self._hit_signs(query, rows, distances, allowed)
        share = float(self.certainty.of(signs, trust, np.ones(len(signs), bool)))
        standing = float(signs[0, 1]) if len(signs) else 0.0
        seen = shown(query.about, self.manifest.get("cover"))
        covered = len(signs) > 0 and bool(self.certainty.covers(share, trust))
        return Coverage(share, covered, contrast, trust, standing, seen)

    def certain(
        self, query: Descriptor, rows: Rows, distances: NDArray[np.float64], allowed: Mask | None
    ) -> NDArray[np.float64]:
        """Return the probability that each hit of a text is right, float64 ``[hits]``; see `coverage`.

        ``rows`` are the hits of `bridged`, the nearest first.
        """
        return self.certainty.of_hits(self._hit_signs(query, rows, distances, allowed), _signs(query)[1])

    @property
    def certainty(self) -> Certainty:
        """How probable it is that a hit is right."""
        return self.bridge.certainty if self.bridge is not None else Certainty()

    def _hit_signs(
        self, query: Descriptor, rows: Rows, distances: NDArray[np.float64], allowed: Mask | None
    ) -> NDArray[np.float64]:
        contrast, _ = _signs(query)
        comparison = self.compile(query, "bridged")
        sample = 1.0 - self.distances(comparison, self.sample)
        best = max(float(sample.max()), *(1.0 - distances[:1]), -np.inf)
        if allowed is not None and self.sample.size < len(self):
            best = 1.0 - float(self.nearest(comparison, 1, None)[1][0])
        about = float(sample.mean()), max(float(sample.std()), 1e-9), best
        return hit_signs(1.0 - distances, about, contrast, self.model_of[rows])

    def mask(self, conditions: Sequence[str | Condition]) -> Mask | None:
        """Return which logits meet every condition, bool ``[logits]``, or None when there is no condition."""
        if not conditions:
            return None
        masks = [self._one_mask(condition) for condition in conditions]
        return masks[0] if len(masks) == 1 else np.logical_and.reduce(masks)

    def _one_mask(self, condition: str | Condition) -> Mask:
        from search.filters import parse

        checked = parse(condition) if isinstance(condition, str) else condition
        with self._mask_lock:
            mask = self._masks.get(checked.text)
            evaluator = self._filter
        if mask is None:
            mask = evaluator.mask(checked, self.model_of)
            with self._mask_lock:
                if len(self._masks) >= _REMEMBERED_MASKS:
                    self._masks.pop(next(iter(self._masks)))
                self._masks[checked.text] = mask
        return mask

    def keys(self, rows: Rows) -> list[tuple[str, str, int]]:
        """Return ``(repo_id, sha, logit)`` of ``rows``."""
        models = pa.array(self.model_of[rows])
        repos, shas = (self.models.column(name).take(models).to_pylist() for name in ("repo_id", "sha"))
        logits = self.logits.column("logit").take(pa.array(rows)).to_pylist()
        return list(zip(repos, shas, logits, strict=True))

    def raw_moments(self, rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return standard deviation and mean of the raw responses of ``rows``, float32."""
        return self.logits.column("std").to_numpy()[rows], self.logits.column("mean").to_numpy()[rows]

    def peaks(self) -> NDArray[np.float32]:
        """Return the norm of every logit's squared positive values over all probes, float32 ``[logits]``."""
        return np.asarray(self.logits.column("peak").to_numpy())

    def row(self, repo_id: str, logit: int, sha: str | None = None) -> int:
        """Return the position of a logit; raises `QueryError`. Without ``sha`` the last indexed commit is meant."""
        for model in reversed(self._ordinals(repo_id, sha)):
            rows = np.flatnonzero(self.model_of == model)
            hit = rows[self.logits.column("logit").take(pa.array(rows)).to_numpy() == logit]
            if hit.size:
                return int(hit[0])
        known = self.models.column("num_logits")[self._ordinals(repo_id, sha)[-1]].as_py()
        raise QueryError(
            f"{repo_id} has no searchable logit {logit}: of its outputs, counted from 0, {known} are searchable, and "
            "those that were constant or not finite are not"
        )

    def is_model(self, repo_id: str, sha: str) -> Mask:
        """Return which logits are of that model, bool ``[logits]``."""
        return np.isin(self.model_of, self._ordinals(repo_id, sha))

    def commit(self, repo_id: str, sha: str | None) -> str:
        """Return the commit of a model: the one given, or the last indexed; raises `QueryError` when there is none."""
        return str(self.models.column("sha")[self._ordinals(repo_id, sha)[-1]].as_py())

    @cached_property
    def _where(self) -> dict[str, list[tuple[str, int]]]:
        where: dict[str, list[tuple[str, int]]] = {}
        repos, shas = self.models.column("repo_id").to_pylist(), self.models.column("sha").to_pylist()
        for i, (repo, sha) in enumerate(zip(repos, shas, strict=True)):
            where.setdefault(repo, []).append((sha, i))
        return where

    def _ordinals(self, repo_id: str, sha: str | None) -> list[int]:
        found = [i for commit, i in self._where.get(repo_id, ()) if sha in (None, commit)]
        if not found:
            if repo_id in self._where:
                commits = ", ".join(commit for commit, _ in self._where[repo_id])
                raise QueryError(f"{repo_id} is in the index at {commits}, not at {printable(sha)}")
            near = _near(repo_id, list(self._where))
            advice = (
                f"did you mean {', '.join(near)}?"
                if near
                else "'hubprobe sql \"SELECT repo_id FROM models\"' lists all"
            )
            raise QueryError(f"{printable(repo_id)} is not in the index: {advice}")
        return found

    def vector(self, row: int) -> NDArray[np.float32]:
        """Return the descriptor of the logit at ``row``, float32 ``[n_probes]``."""
        return np.asarray(self.vectors(np.array([row]))[0])

    def hits(self, rows: Rows, distances: NDArray[np.float64], score: NDArray[np.float64] | None = None) -> pa.Table:
        """Return the table of hits: rank from 1, score, distance, key, label, and all that is known of the model."""
        logits = self.logits.take(pa.array(rows))
        models = self.models.take(pa.array(self.model_of[rows]))
        columns: dict[str, Any] = {
            "rank": pa.array(np.arange(1, rows.size + 1), pa.int32()),
            "score": score_of(distances) if score is None else score,
            "distance": distances,
            "repo_id": models.column("repo_id"),
            "sha": models.column("sha"),
            **{name: logits.column(name) for name in ("logit", "label", "observed", "variance")},
        }
        columns |= {name: models.column(name) for name in models.column_names if name not in (*columns, "model")}
        return pa.table(columns)

    def hits_many(self, found: Sequence[Found]) -> list[pa.Table]:
        """Return a table of hits for each query, as `hits` would; the metadata of all is read at once."""
        rows = np.concatenate([np.empty(0, np.int64), *(rows for rows, _ in found)])
        table = self.hits(rows, np.concatenate([np.empty(0), *(distances for _, distances in found)]))
        ends = np.cumsum([rows.size for rows, _ in found]).tolist()
        tables = []
        for end, (rows, _) in zip(ends, found, strict=True):
            rank = pa.array(np.arange(1, rows.size + 1), pa.int32())
            tables.append(table.slice(end - rows.size, rows.size).set_column(0, "rank", rank))
        return tables


def _signs(query: Descriptor) -> tuple[float, float]:
    if query.signs is None:
        raise QueryError("coverage is known of texts only, and of an index that was built with an encoder")
    return query.signs


def _near(asked: str, known: list[str]) -> list[str]:
    """Return repositories that may have been meant: of the same name by another owner, then those written alike."""
    name = asked.rpartition("/")[2].lower()
    same = [repo for repo in known if repo.rpartition("/")[2].lower() == name]
    return list(dict.fromkeys([*same[:3], *get_close_matches(asked, known, n=3)]))[:3]
