"""Structured synthetic descriptors, and a workspace that holds them as completion would have written it.

8,000 concepts in 200 groups; a logit is a concept plus its model's quirk, seen through 128 factors; responses are
rectified, noisy and z-scored. Skewed like real ones, with about half of the variance unexplained.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workspace import QueryError, Workspace, records
from workspace.files import write_table
from workspace.runs import now

FACTORS, GROUPS, CONCEPTS = 128, 200, 8_000
LOGITS_PER_MODEL = 50
MODELS_PER_FILE = 80
PROBE_SET = "be9c43a4d0000000"  # 16 hex digits, as a real one


@dataclass(frozen=True, eq=False)
class World:
    """The factors of one seed: probes float32 ``[n, FACTORS]``, concepts float32 ``[CONCEPTS, FACTORS]``."""

    probes: NDArray[np.float32]
    concepts: NDArray[np.float32]
    seed: int

    @classmethod
    def make(cls, n: int, seed: int = 0) -> World:
        rng = np.random.default_rng(seed)
        groups = rng.standard_normal((GROUPS, FACTORS), np.float32)
        own = rng.standard_normal((CONCEPTS, FACTORS), np.float32)
        concepts = 0.7 * groups[rng.integers(0, GROUPS, CONCEPTS)] + 0.7 * own
        return cls(rng.standard_normal((n, FACTORS), np.float32) / np.sqrt(FACTORS), concepts, seed)

    def respond(self, factors: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """Return z-scored responses, float32 ``[rows, n]``."""
        raw = factors @ self.probes.T
        raw = np.maximum(raw - 0.5, 0, out=raw)
        raw += 0.5 * rng.standard_normal(raw.shape, np.float32)
        raw -= raw.mean(axis=1, keepdims=True)
        raw /= raw.std(axis=1, keepdims=True)
        return raw

    def chosen(self, first: int, count: int) -> NDArray[np.int64]:
        """Return the concepts of some models' logits, int64 ``[count * LOGITS_PER_MODEL]``."""
        return np.random.default_rng([self.seed, 1, first]).integers(0, CONCEPTS, count * LOGITS_PER_MODEL)

    def models(self, first: int, count: int) -> NDArray[np.float16]:
        """Return the descriptors of some models, float16 ``[count * LOGITS_PER_MODEL, n]``; the same at every call."""
        chosen, rng = self.chosen(first, count), np.random.default_rng([self.seed, 4, first])
        quirk = np.repeat(rng.standard_normal((count, FACTORS), np.float32), LOGITS_PER_MODEL, axis=0)
        factors = self.concepts[chosen] + 0.3 * quirk
        return self.respond(factors, rng).astype(np.float16)

    def queries(self, count: int) -> NDArray[np.float32]:
        """Return text-like queries, float32 ``[count, n]``: a concept seen without quirk, through weaker noise."""
        rng = np.random.default_rng([self.seed, 2])
        return self.respond(self.concepts[rng.integers(0, CONCEPTS, count)], rng)


class WorldEncoder:
    """Knows what a caption ``probe 7`` and a text ``concept 7`` are; other words point anywhere."""

    of_captions = True

    def __init__(self, world: World) -> None:
        self.name, self.commit, self._world = "captions:benchmark", f"{world.seed:040x}", world

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = np.stack([self._row(text) for text in texts])
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)

    def encode_images(self, images: Sequence[Any]) -> NDArray[np.float32]:  # noqa: ARG002 - the protocol names it
        raise QueryError("this encoder knows words only")

    def _row(self, text: str) -> NDArray[np.float32]:
        kind, _, number = text.rpartition(" ")
        if kind == "probe":
            return self._world.probes[int(number)]
        if kind == "concept":
            return self._world.concepts[int(number)]
        return np.random.default_rng(list(text.encode())).standard_normal(FACTORS, np.float32)


def file_starts(rows: int) -> Iterator[tuple[int, int]]:
    """Yield ``(first model, models)`` of every descriptor file."""
    models = -(-rows // LOGITS_PER_MODEL)
    for first in range(0, models, MODELS_PER_FILE):
        yield first, min(MODELS_PER_FILE, models - first)


def write_workspace(root: Path, world: World, first_model: int, rows: int) -> Workspace:
    """Write descriptors, catalog and attempts of ``rows`` more logits into the workspace at ``root``."""
    workspace = Workspace.create(root)
    n = len(world.probes)
    if first_model == 0:
        workspace.use_probe_set(PROBE_SET)
        probes = [
            {"probe_id": i, "image": {"bytes": b"", "path": None}, "image_hash": "", "width": 1, "height": 1,
             "caption": f"probe {i}"}
            for i in range(n)
        ]  # fmt: skip
        table = pa.Table.from_pylist(probes, schema=records.PROBES)
        write_table(workspace.probes_dir(PROBE_SET) / "probes.parquet", table)
    catalog, attempts = [], []
    schema = records.descriptors(n)
    for start, count in file_starts(rows):
        first = first_model + start
        rng = np.random.default_rng([world.seed, 3, first])
        names = [(f"owner{m % 997}/model-{m:07d}", f"{m:040x}") for m in range(first, first + count)]
        size = count * LOGITS_PER_MODEL
        labels = [f"concept {i}" for i in rng.integers(0, CONCEPTS, size)]
        stds = rng.random(size, np.float32)
        path = workspace.descriptors_dir(PROBE_SET) / f"{first:09d}.parquet"
        if not path.exists():  # a run that was stopped goes on here
            vectors = world.models(first, count)
            columns = {
                "repo_id": [repo for repo, _ in names for _ in range(LOGITS_PER_MODEL)],
                "sha": [sha for _, sha in names for _ in range(LOGITS_PER_MODEL)],
                "logit": pa.array(np.tile(np.arange(LOGITS_PER_MODEL, dtype=np.int32), count)),
                "label": labels,
                "mean": np.zeros(size, np.float32),
                "std": stds,
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), n),
                "variance": np.zeros(size, np.float32),
                "logsumexp": pa.nulls(size, pa.list_(pa.float32())),
            }
            columns |= {f.name: pa.nulls(size, f.type) for f in schema if f.name not in columns}
            write_table(path, pa.table(columns, schema=schema))
        downloads = rng.integers(0, 10_000, count)
        for (repo, sha), popular in zip(names, downloads.tolist(), strict=True):
            catalog.append(
                {
                    "id": repo, "sha": sha, "author": repo.split("/")[0], "downloads": popular, "crawled_at": now(),
                    "eligibility": "eligible", "reason": "", "license": "apache-2.0" if popular % 2 else "mit",
                    "label_quality": "named",
                }
            )  # fmt: skip
            attempts.append(
                {
                    "repo_id": repo, "sha": sha, "attempt": 1, "outcome": "ok", "status": "ok", "reason": "",
                    "started_at": now(), "parameters": 86_000_000, "num_logits": LOGITS_PER_MODEL, "probes_run": n,
                }
            )  # fmt: skip
    for folder, part, kind in (
        (workspace.catalog_dir, catalog, records.CATALOG),
        (workspace.attempts_dir, attempts, records.ATTEMPTS),
    ):
        write_table(folder / f"part-{first_model:09d}.parquet", pa.Table.from_pylist(part, schema=kind))
    return workspace
