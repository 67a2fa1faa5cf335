"""Names for outputs: what a logit most probably recognises, and where that disagrees with what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from search.scan.gallery import Gallery
from search.text import bank
from search.text.contrast import TEMPERATURE, blocks, soft_mean, strengths, unit, zero_shot
from search.text.labels import NAMED, plain
from search.texts import Texts
from workspace import QueryError

NEIGHBOURS = 8
"""Nearest named logits of other models that vote."""

ALIKE = 0.75
"""Similarity of two names, without what all names share, from which they count as the same thing."""

LISTED = 0.95
"""Confidence in a whole list's name for an output."""

_ROWS = 1_024  # logits that are named at once


@dataclass(frozen=True)
class Name:
    """A name for a logit."""

    name: str  # a concept of the bank or a label of another model
    confidence: float  # 0 to 1; the names of one logit add up to at most 1
    # ``labels`` when other models' labels say so, ``zero-shot`` when the encoder does, ``own label`` when its own label
    # is believed (`Namer.with_own_labels`)
    source: str


class Namer:
    """Names the logits of a gallery, whose texts embed the bank.

    Two judges vote. Other models' honestly labelled logits that answer alike (their labels are known words), trusted
    as far as the nearest is alike and its label is trusted; and, for the rest, the concepts of the bank under a
    softmax over concepts, each less what it scores with any logit (the dual of `search.text.contrast.hubness`).
    """

    def __init__(self, gallery: Gallery, texts: Texts, *, progress: bool = True) -> None:
        if gallery.calibration is None:
            raise QueryError("this index was built without an encoder, which naming needs: run 'hubprobe index'")
        self._gallery, self._texts, self._progress = gallery, texts, progress

    @cached_property
    def _bank(self) -> tuple[list[str], NDArray[np.float32], NDArray[np.float32]]:
        """Names, their expectations ``[names, n]``, and what each scores with any logit ``[names]``."""
        calibration = self._gallery.calibration
        assert calibration is not None
        names = bank.names(everyday_only=False)
        texts = self._texts.embedded(names, "bank", progress=self._progress)
        expected = zero_shot(texts @ self._texts.probes.T, calibration.centre)
        scores = expected @ strengths(self._gallery.vectors(self._gallery.sample)).T
        return names, expected, soft_mean(scores, axis=1)

    @cached_property
    def _named(self) -> tuple[NDArray[np.int64], list[str], NDArray[np.float32]]:
        """Rows that lend their labels, the labels, and the trust in each."""
        bridge = self._gallery.bridge
        if bridge is None:
            return np.empty(0, np.int64), [], np.empty(0, np.float32)
        labels = self._gallery.labels(bridge.rows)
        words = {label: plain(label) or "" for label in set(labels)}  # many models know the same thousand
        return bridge.rows, [words[label] for label in labels], bridge.weights

    def names(self, rows: NDArray[np.int64], count: int = 3) -> list[list[Name]]:
        """Return up to ``count`` names for each of the logits at ``rows``, most confident first.

        A logit's own model never votes.
        """
        found: list[list[Name]] = []
        quiet = not self._progress or rows.size <= _ROWS
        with tqdm(total=rows.size, desc="name", unit="output", disable=quiet, leave=False) as bar:
            for part, strong in blocks(self._gallery.vectors, rows, _ROWS):
                votes = zip(self._by_labels(rows[part], strong), self._by_bank(strong), strict=True)
                found += [_merged(told, seen, count) for told, seen in votes]
                bar.update(len(strong))
        return found

    def with_own_labels(self, rows: NDArray[np.int64], count: int = 3) -> list[list[Name]]:
        """Return names as `names` does, among them the logit's own label, as sure as that label is trusted.

        What answers suggest contradicts no label that is trusted more: on the demo's 423 labelled outputs the first of
        these names is right for 62 %, the label alone for 55 %, the first of `names` for 29 %.
        """
        own_rows, words, trust = self._named
        own = {int(row): Name(word, float(t), "own label") for row, word, t in zip(own_rows, words, trust, strict=True)}
        found = []
        for row, suggested in zip(rows.tolist(), self.names(rows, count), strict=True):
            label = own.get(row)
            if label is not None:
                same = bank.fold(label.name)
                others = [one for one in suggested if bank.fold(one.name) != same]
                suggested = sorted([label, *others], key=lambda one: -one.confidence)[:count]
            found.append(suggested)
        return found

    def _by_labels(self, rows: NDArray[np.int64], strong: NDArray[np.float32]) -> list[dict[str, float]]:
        named, words, trust = self._named
        if not named.size:
            return [{} for _ in rows]
        places = [np.empty(0, np.int64)] * rows.size
        values = [np.empty(0, np.float32)] * rows.size
        own = self._gallery.model_of[rows][:, None]
        # the largest so far are kept: all scores of a big gallery are not
        for part, known in blocks(self._gallery.vectors, named):
            scores = strong @ known.T
            scores[own == self._gallery.model_of[named[part]][None]] = 0.0
            scores *= trust[part]
            for i, row in enumerate(scores):
                near = _largest(row)
                both = np.concatenate([values[i], row[near]])
                kept = _largest(both)
                values[i], places[i] = both[kept], np.concatenate([places[i], near + part.start])[kept]
        votes: list[dict[str, float]] = []
        for near, row in zip(places, values, strict=True):
            best = float(row[0])
            weights = np.exp((row - best) / TEMPERATURE)
            vote: dict[str, float] = {}
            for i, score, weight in zip(near.tolist(), row.tolist(), (weights / weights.sum()).tolist(), strict=True):
                if score > 0:
                    vote[words[i]] = vote.get(words[i], 0.0) + best * weight
            votes.append(vote)
        return votes

    def _by_bank(self, strong: NDArray[np.float32]) -> list[dict[str, float]]:
        names, expected, common = self._bank
        scores = (strong @ expected.T - common) / np.float32(TEMPERATURE)
        scores -= scores.max(axis=1, keepdims=True)
        shares = np.exp(scores)
        shares /= shares.sum(axis=1, keepdims=True)
        return [{names[i]: float(row[i]) for i in _largest(row).tolist()} for row in shares]


def _largest(row: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the places of the `NEIGHBOURS` largest, largest first, equal ones as they stand: a stable sort's first."""
    if row.size > NEIGHBOURS:
        some = np.flatnonzero(row >= np.partition(row, -NEIGHBOURS)[-NEIGHBOURS])
    else:
        some = np.arange(row.size)
    return some[np.argsort(-row[some], kind="stable")[:NEIGHBOURS]]


def _merged(told: dict[str, float], seen: dict[str, float], count: int) -> list[Name]:
    rest = max(0.0, 1.0 - sum(told.values()))
    votes = {name: (share, share, 0.0) for name, share in told.items()}
    for name, share in seen.items():
        total, by_labels, _ = votes.get(name, (0.0, 0.0, 0.0))
        votes[name] = (total + rest * share, by_labels, rest * share)
    order = sorted(votes, key=lambda name: (-votes[name][0], name))[:count]
    return [Name(name, votes[name][0], "labels" if votes[name][1] >= votes[name][2] else "zero-shot") for name in order]


def _by_list(name: str, others: list[Name], count: int) -> list[Name]:
    """Return a whole list's name for an output, and what else was found with what confidence is left."""
    rest = [
        Name(n.name, (1.0 - LISTED) * n.confidence, n.source) for n in others if bank.fold(n.name) != bank.fold(name)
    ]
    return [Name(name, LISTED, "list"), *rest][:count]


def describe_model(
    gallery: Gallery, texts: Texts, repo_id: str, *, sha: str | None = None, count: int = 3, progress: bool = True
) -> pa.Table:
    """Name every searchable logit of a model.

    Returns a table ``logit, label`` (its own, untrusted), ``name``, ``confidence``, ``source``, ``others`` (the next
    names), in order of ``logit``. Raises `QueryError` when the model is not in the index, or has no encoder.
    """
    rows = np.flatnonzero(gallery.is_model(repo_id, gallery.commit(repo_id, sha)))
    logits = gallery.logits.take(pa.array(rows))
    named = Namer(gallery, texts, progress=progress).names(rows, count)
    named = [
        _by_list(gallery.listed[row], names, count) if row in gallery.listed else names
        for row, names in zip(rows.tolist(), named, strict=True)
    ]
    table = pa.table(
        {
            "logit": logits.column("logit"),
            "label": logits.column("label"),
            "name": pa.array([names[0].name if names else None for names in named], pa.string()),
            "confidence": pa.array([round(names[0].confidence, 3) if names else None for names in named], pa.float64()),
            "source": pa.array([names[0].source if names else None for names in named], pa.string()),
            "others": pa.array([[n.name for n in names[1:]] for names in named], pa.list_(pa.string())),
        }
    )
    return table.sort_by("logit")


def audit(
    gallery: Gallery, texts: Texts, *, repo_id: str | None = None, limit: int = 50, progress: bool = True
) -> pa.Table:
    """List honestly labelled logits whose behaviour says something else, most doubtful first.

    Every label that the bank knows (a word of another language says nothing to it) is compared with the names that
    the logit's answers suggest, its own model's labels not voting. ``doubt`` is the confidence of the names that are
    not like the label, less that of those which are.

    Returns a table ``doubt, repo_id, sha, logit, label, name, confidence, source``. Raises `QueryError`.
    """
    quality = np.array([q == NAMED for q in gallery.models.column("label_quality").to_pylist()], bool)
    asked = quality[gallery.model_of]
    if repo_id is not None:
        asked &= gallery.is_model(repo_id, gallery.commit(repo_id, None))
    labels = [plain(label) for label in gallery.logits.column("label").to_pylist()]
    known = {label for label in set(labels) if label and bank.related(label)}
    rows = np.array([row for row in np.flatnonzero(asked).tolist() if labels[row] in known], np.int64)
    if not rows.size:
        raise QueryError(
            "there is no logit with a label that the concept bank knows: 'hubprobe describe' names the others"
        )
    named = Namer(gallery, texts, progress=progress).names(rows, NEIGHBOURS)
    words = sorted({labels[row] or "" for row in rows.tolist()} | {n.name for names in named for n in names})
    position = {word: i for i, word in enumerate(words)}
    calibration = gallery.calibration
    assert calibration is not None
    vectors = unit(texts.embedded(words, "labels", progress=progress) - calibration.texts)
    found = []
    for row, names in zip(rows.tolist(), named, strict=True):
        label, own = labels[row] or "", vectors[position[labels[row] or ""]]
        same = [_same(label, n.name, own @ vectors[position[n.name]]) for n in names]
        doubt = sum(-n.confidence if like else n.confidence for n, like in zip(names, same, strict=True))
        if doubt > 0:
            found.append((doubt, row, names[same.index(False)]))
    top = sorted(found, key=lambda entry: (-entry[0], entry[1]))[:limit]
    keys = gallery.keys(np.array([row for _, row, _ in top], np.int64))
    return pa.Table.from_pylist(
        [
            {
                "doubt": round(doubt, 3), "repo_id": key[0], "sha": key[1], "logit": key[2],
                "label": gallery.logits.column("label")[row].as_py(), "name": name.name,
                "confidence": round(name.confidence, 3), "source": name.source,
            }
            for (doubt, row, name), key in zip(top, keys, strict=True)
        ],
        schema=_AUDIT,
    )  # fmt: skip


_AUDIT = pa.schema(
    [
        pa.field("doubt", pa.float64()),
        pa.field("repo_id", pa.string()),
        pa.field("sha", pa.string()),
        pa.field("logit", pa.int32()),
        pa.field("label", pa.string()),
        pa.field("name", pa.string()),
        pa.field("confidence", pa.float64()),
        pa.field("source", pa.string()),
    ]
)


def _same(label: str, name: str, similarity: float) -> bool:
    if bank.fold(label) == bank.fold(name) or similarity >= ALIKE:
        return True
    return name in bank.related(label)
