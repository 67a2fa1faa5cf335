"""Which images of a pool become probes: those that together show every concept of a bank, as an encoder sees them.

Facility location (Nemhauser, Wolsey and Fisher, 1978): a set is worth the sum over the concepts of how well its best
image shows each; the image that adds most is taken, again and again, lazily (Minoux, 1978). When nothing can be added,
every concept is shown once more by what is left.

A pool is read once, whatever its size: of all images only the `DEPTH` that show some concept best stay, on the disk.
Memory holds numbers and scores, no pictures: about 30 MB for the bank's 3,692 concepts. After a kill reading goes on
where the last batch ended.
"""

from __future__ import annotations

import heapq
import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workspace.files import canonical_json
from workspace.seams import Sight

DEPTH = 16
"""Images kept of those that show a concept best."""

BATCH = 64
"""Images embedded at a time."""

ALIKE_BITS, ALIKE_COSINE = 10, 0.9
"""Two images are one picture when their prints differ in so few of 128 bits and their embeddings are so near.

A photograph at half its size, as JPEG of quality 60, differs from itself in 2 bits (99 of 100 in at most 11), from the
nearest of 5,000 others in 16 or more (measured on ImageNet's); drawings with little in them can be nearer.
"""

LEAST = 0.01
"""Contrast, summed over the concepts, that is something added."""

SHOWN = 9.0
"""Contrast from which an image shows a concept: three standard deviations above what it has with others."""

_TABLES = """
CREATE TABLE IF NOT EXISTS images (position INTEGER PRIMARY KEY, row TEXT, encoded BLOB, print BLOB, embedding BLOB);
CREATE TABLE IF NOT EXISTS state (settings TEXT PRIMARY KEY, seen INTEGER, refused TEXT);
"""
_PART = 2_048  # images scored at a time where all that are kept are


def contrast(images: NDArray[np.float32], texts: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how much better than a bank's other concepts each image shows each, float32 ``[images, concepts]``.

    The cosine less the image's mean over the bank, in the image's standard deviations, squared, so that one image of a
    concept is worth more than several of something near; 0 where it is not better.
    """
    score = images @ texts.T
    score -= score.mean(axis=1, keepdims=True)
    score /= np.maximum(score.std(axis=1, keepdims=True), 1e-6)
    return np.asarray(np.maximum(score, 0.0) ** 2, np.float32)


@dataclass(frozen=True, eq=False)
class Offered:
    """An image of the pool: its row of `records.PROBES`, ``probe_id`` its place in the pool; and its `image_print`."""

    row: dict[str, Any]
    print: NDArray[np.uint64]


class Pool:
    """What is kept of a pool while it is read.

    Args:
        path: the file it is kept in; one that was begun with the same settings goes on.
        sight: how images are seen.
        settings: of the reading; another pool, order or encoder begins anew.
        first: so many first images stay whatever they show: in seeded order they are a random sample, which fills up
            a probe set when nothing else is left.

    Attributes:
        seen: images of the pool that were read, used or not.
        refused: of these, how many were not used, by reason.
    """

    def __init__(self, path: Path, sight: Sight, settings: dict[str, Any], first: int) -> None:
        self._path, self._sight, self._first, self._settings = path, sight, first, canonical_json(settings)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = sqlite3.connect(path, isolation_level=None)
        self._file.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; {_TABLES}")
        self._best = np.full((len(sight.concepts), DEPTH), -np.inf, np.float32)
        self._who = np.full(self._best.shape, -1, np.int64)
        self._positions = np.empty(0, np.int64)
        self._prints = np.empty((0, 2), np.uint64)
        self._rows = np.empty((0, sight.texts.shape[1]), np.float16)
        known = self._file.execute("SELECT seen, refused FROM state WHERE settings = ?", [self._settings]).fetchone()
        self.seen: int = known[0] if known else 0
        self.refused: dict[str, int] = json.loads(known[1]) if known else {}
        if known is None:
            self._file.executescript("DELETE FROM images; DELETE FROM state;")
        kept = self._file.execute("SELECT position, print, embedding FROM images ORDER BY position")
        while some := kept.fetchmany(_PART):
            prints = np.stack([np.frombuffer(printed, np.uint64) for _, printed, _ in some])
            self._take(
                np.array([p for p, _, _ in some]), prints, np.stack([np.frombuffer(e, np.float16) for *_, e in some])
            )

    def add(self, some: Sequence[Offered], seen: int, refused: dict[str, int]) -> None:
        """Take a batch; ``seen`` and ``refused`` are the counts with it. Copies of what is kept count as refused."""
        if not some:
            return
        embedded = self._sight.embed([one.row["image"]["bytes"] for one in some], [one.row["caption"] for one in some])
        prints, rows = np.stack([one.print for one in some]), embedded.astype(np.float16)
        fresh = np.array([self._is_new(prints[: i + 1], rows[: i + 1]) for i in range(len(some))])
        refused["duplicates"] += int((~fresh).sum())
        before, offered = set(self._positions.tolist()), {int(one.row["probe_id"]): one for one in some}
        self._take(np.array(list(offered), np.int64)[fresh], prints[fresh], rows[fresh])
        kept = np.isin(self._positions, self._who) | (self._positions < self._first)
        self._positions, self._prints, self._rows = self._positions[kept], self._prints[kept], self._rows[kept]
        self.seen, self.refused = seen, refused
        new = []
        for p, printed, row in zip(self._positions.tolist(), self._prints, self._rows, strict=True):
            if p in offered:
                about = {**offered[p].row}
                encoded = about.pop("image")["bytes"]
                new.append((p, json.dumps(about), encoded, printed.tobytes(), row.tobytes()))
        self._file.execute("BEGIN")
        self._file.executemany(
            "DELETE FROM images WHERE position = ?", [(p,) for p in before.difference(self._positions.tolist())]
        )
        self._file.executemany("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?)", new)
        self._file.execute("INSERT OR REPLACE INTO state VALUES (?, ?, ?)", [self._settings, seen, json.dumps(refused)])
        self._file.execute("COMMIT")

    def _is_new(self, prints: NDArray[np.uint64], rows: NDArray[np.float16]) -> bool:
        """Return whether the last of these is no copy of one before it, or of one that is kept."""
        own = rows[-1].astype(np.float32)
        for known, embedded in ((self._prints, self._rows), (prints[:-1], rows[:-1])):
            near = np.flatnonzero(np.bitwise_count(known ^ prints[-1]).sum(axis=1) <= ALIKE_BITS)
            if near.size and float((embedded[near].astype(np.float32) @ own).max()) >= ALIKE_COSINE:
                return False
        return True

    def _take(self, positions: NDArray[np.int64], prints: NDArray[np.uint64], rows: NDArray[np.float16]) -> None:
        """Put images among the best of the concepts that they show better than others do."""
        scores = contrast(rows.astype(np.float32), self._sight.texts).T
        scores = np.concatenate([self._best, np.where(scores > 0, scores, -np.inf)], axis=1)
        who = np.concatenate([self._who, np.broadcast_to(positions, (len(scores), positions.size))], axis=1)
        top = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
        self._best, self._who = np.take_along_axis(scores, top, axis=1), np.take_along_axis(who, top, axis=1)
        self._who[np.isneginf(self._best)] = -1
        self._positions = np.concatenate([self._positions, positions])
        self._prints, self._rows = np.concatenate([self._prints, prints]), np.concatenate([self._rows, rows])

    def choose(self, n: int) -> Choice:
        """Return the ``n`` images that together show the bank best, the most telling first; all if there are fewer."""
        concepts, places = np.nonzero(self._who >= 0)
        who = self._who[concepts, places]
        order = np.argsort(who, kind="stable")
        positions, starts = np.unique(who[order], return_index=True)
        shown = dict(zip(positions.tolist(), np.split(concepts[order], starts[1:]), strict=True))
        scores = dict(zip(positions.tolist(), np.split(self._best[concepts, places][order], starts[1:]), strict=True))
        chosen: list[int] = []
        while len(chosen) < n and shown:
            layer = list(greedy(shown, scores, len(self._best), n - len(chosen)))
            chosen += layer
            for position in layer:
                del shown[position], scores[position]
        rest = self._positions[~np.isin(self._positions, chosen)]
        chosen += rest[: n - len(chosen)].tolist()
        best = np.zeros(len(self._best), np.float32)
        for start in range(0, len(chosen), _PART):
            at = np.searchsorted(self._positions, np.sort(chosen[start : start + _PART]))
            rows = self._rows[at].astype(np.float32)
            best = np.maximum(best, contrast(rows, self._sight.texts).max(axis=0))
        return Choice(chosen, best)

    def rows(self, positions: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Yield the row of each."""
        for position in positions:
            row, encoded = self._file.execute(
                "SELECT row, encoded FROM images WHERE position = ?", [position]
            ).fetchone()
            yield {**json.loads(row), "image": {"bytes": encoded, "path": None}}

    def close(self, *, remove: bool = False) -> None:
        """Close the file, and ``remove`` it when it is of no more use."""
        self._file.close()
        for end in ("", "-wal", "-shm") if remove else ():
            self._path.with_name(self._path.name + end).unlink(missing_ok=True)


@dataclass(frozen=True, eq=False)
class Choice:
    """Positions in the pool, in the order chosen; and the best contrast of each concept among them."""

    positions: list[int]
    best: NDArray[np.float32]


def greedy(
    shown: dict[int, NDArray[np.int64]], scores: dict[int, NDArray[np.float32]], concepts: int, n: int
) -> Iterator[int]:
    """Yield up to ``n`` images, each the one that adds most to the concepts' best scores, while one adds anything.

    ``shown`` are the concepts of each image, ``scores`` how well it shows them, in the same order.
    """
    best = np.zeros(concepts, np.float32)
    queue = [(-float(scores[image].sum()), image) for image in shown]
    heapq.heapify(queue)
    while queue and n:
        image = heapq.heappop(queue)[1]
        gain = float(np.maximum(scores[image] - best[shown[image]], 0.0).sum())
        if queue and -queue[0][0] > gain:
            if gain >= LEAST:
                heapq.heappush(queue, (-gain, image))
            continue
        if gain < LEAST:
            return
        best[shown[image]] = np.maximum(best[shown[image]], scores[image])
        n -= 1
        yield image
