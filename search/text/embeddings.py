"""What an encoder made, kept in the index: of the probes, once per commit and probe set, and of texts.

The texts are those of the bank, labels, and what was asked before; none needs the encoder again. They are a cache, so
nothing depends on it: a row that is damaged is unknown, and what cannot be written is not kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from search.text import bank
from search.text.encoders import TEMPLATES, Encoder, TextReader, read_of, text_embeddings
from search.text.tokens import READING
from workspace import Workspace, WorkspaceError
from workspace.errors import DamagedFileError
from workspace.files import damaged, read_tensors, sha256_of, short_hash, write_tensors
from workspace.seams import Sight

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image
_BATCH = 64
_LOG = logging.getLogger(__name__)


def embed_probes(
    workspace: Workspace, encoder: Encoder, *, templates: Sequence[str] = TEMPLATES, progress: bool = True
) -> dict[str, Any]:
    """Embed every probe with ``encoder`` unless that was done before; return the manifest's entry.

    The entry holds ``name``, ``commit``, ``dim``, ``templates`` and ``file`` in ``index/encoders/``.
    """
    key = short_hash(f"{encoder.name}\n{encoder.commit}\n{workspace.probe_set}")
    path = cache(workspace) / f"{key}.safetensors"
    captions = getattr(encoder, "of_captions", False)
    if captions:
        templates = ("{}",)  # a caption has no prompt around it either
    try:
        rows = read_embeddings(path) if path.exists() else None
    except DamagedFileError as error:
        _LOG.warning("%s is made again: it is damaged (%s)", path, error.why)
        rows = None
    if rows is None:
        rows = _caption_rows(workspace, encoder) if captions else _image_rows(workspace, encoder, progress)
        write_tensors(path, {"probes": rows}, {"encoder": encoder.name})
    about = {"name": encoder.name, "commit": encoder.commit, "dim": int(rows.shape[1])}
    return {**about, "templates": list(templates), "file": path.name, "sha256": sha256_of(path)}


def sight(workspace: Workspace, encoder: Encoder, *, progress: bool = True) -> Sight:
    """Return how ``encoder`` sees images beside the concept bank, whose embeddings are kept in the index."""
    captions = getattr(encoder, "of_captions", False)
    about = {"name": encoder.name, "commit": encoder.commit, "templates": ["{}"] if captions else list(TEMPLATES)}
    cache(workspace).mkdir(parents=True, exist_ok=True)
    concepts = tuple(bank.names(everyday_only=False))
    texts = KnownTexts(cache(workspace), about).embedded(concepts, lambda: encoder, "bank", progress=progress)

    def embed(pictures: Sequence[bytes], told: Sequence[str | None]) -> NDArray[np.float32]:
        if not captions:
            return encoder.encode_images([decode(picture) for picture in pictures])
        return _of_captions(encoder, told, texts.shape[1])

    return Sight(encoder.name, encoder.commit, concepts, texts, embed)


def read_embeddings(path: Path) -> NDArray[np.float32]:
    """Return the probes' embeddings, float32 ``[n_probes, dim]``, rows of unit length."""
    rows = read_tensors(path)[0].get("probes")
    if rows is None or rows.ndim != 2 or rows.dtype != np.float32:
        raise damaged(path, "it holds no embeddings of probes")
    return rows


def decode(data: bytes) -> Image:
    """Return a probe's encoded bytes as an RGB image."""
    from workspace.images import read_image

    return read_image(data, "a probe", max_aspect=math.inf)


def cache(workspace: Workspace) -> Path:
    """Return the folder of kept embeddings."""
    return workspace.index_dir / "encoders"


def _caption_rows(workspace: Workspace, encoder: Encoder) -> NDArray[np.float32]:
    rows = _of_captions(encoder, workspace.probes(["caption"]).column("caption").to_pylist(), 0)
    if not rows.size:
        raise WorkspaceError(
            f"the probes have no captions, which {encoder.name} needs: choose a clip: encoder, "
            "or build the probes with --caption-column"
        )
    return rows


def _of_captions(encoder: Encoder, captions: Sequence[str | None], width: int) -> NDArray[np.float32]:
    """Return a row per caption, ``width`` wide if there is none; a missing one is zero: it is like no text."""
    told = {i: caption for i, caption in enumerate(captions) if caption and caption.strip()}
    found = encoder.encode_texts(list(told.values())) if told else np.empty((0, width), np.float32)
    rows = np.zeros((len(captions), found.shape[1]), np.float32)
    rows[list(told)] = found
    return rows


def _image_rows(workspace: Workspace, encoder: Encoder, progress: bool) -> NDArray[np.float32]:
    from tqdm import tqdm

    rows, column = [], workspace.probes(["image"]).column("image")
    with tqdm(total=len(column), desc="embed probes", unit="probe", disable=not progress) as bar:
        for start in range(0, len(column), _BATCH):
            images = [decode(row["bytes"]) for row in column.slice(start, _BATCH).to_pylist()]
            rows.append(encoder.encode_images(images))
            bar.update(len(images))
    return np.concatenate(rows)


# ── texts ────────────────────────────────────────────────────────────────────────────────────────────────────────
FILE = "texts.sqlite"

MOST_ASKED = 4_096
"""Texts kept of those that were asked; the oldest go first."""

_TABLE = """
CREATE TABLE IF NOT EXISTS texts
(encoder TEXT, text TEXT, kind TEXT, row BLOB, read TEXT, sum BLOB, PRIMARY KEY (encoder, text))
"""
_AT_ONCE = 500  # SQLite takes 999 parameters at least


class Known(NamedTuple):
    """A text's embedding, float32 ``[dim]`` of unit length, and the part of it that the encoder read."""

    row: NDArray[np.float32]
    read: str


class KnownTexts:
    """The embeddings of texts under one encoder at its commit, with its prompts.

    Args:
        folder: where the file is, or will be: the index's ``encoders/``.
        about: the manifest's entry of the encoder, of which ``name``, ``commit`` and ``templates`` count.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self._path, self._templates = folder / FILE, tuple(about["templates"])
        self._encoder = json.dumps([about["name"], about["commit"], READING, *self._templates])

    def get(self, texts: Sequence[str]) -> dict[str, Known]:
        """Return what is known of those that are known."""
        found: dict[str, Known] = {}
        if not self._path.is_file():
            return found
        try:
            with self._connected("ro") as connection:
                for start in range(0, len(texts), _AT_ONCE):
                    some = texts[start : start + _AT_ONCE]
                    marks = ",".join("?" * len(some))
                    asked = f"SELECT text, row, read, sum FROM texts WHERE encoder = ? AND text IN ({marks})"
                    for text, row, read, expected in connection.execute(asked, [self._encoder, *some]):
                        if expected == self._sum(text, row, read):
                            found[text] = Known(np.frombuffer(row, np.float32), read)
        except (sqlite3.Error, TypeError, ValueError) as error:
            _LOG.warning("%s cannot be read, its texts are embedded again: %s", self._path, error)
        return found

    def made(self, count: int) -> dict[str, NDArray[np.float32]]:
        """Return up to ``count`` embeddings that the encoder made when the index was built, by text."""
        if not self._path.is_file():
            return {}
        try:
            with self._connected("ro") as connection:
                asked = "SELECT text FROM texts WHERE encoder = ? AND kind != 'asked' LIMIT ?"
                texts = [text for (text,) in connection.execute(asked, [self._encoder, count])]
        except sqlite3.Error:
            return {}
        return {text: known.row for text, known in self.get(texts).items()}

    def keep(self, found: Mapping[str, Known], kind: str) -> None:
        """Keep texts of ``kind``: of ``asked`` ones the last `MOST_ASKED`, of others all."""
        if not self._path.parent.is_dir():
            return
        values = [
            (self._encoder, text, kind, row.tobytes(), read, self._sum(text, row.tobytes(), read))
            for text, (row, read) in found.items()
        ]
        for again in (True, False):
            try:
                with self._connected("rwc") as connection, connection:
                    connection.execute(_TABLE)
                    connection.executemany("INSERT OR REPLACE INTO texts VALUES (?, ?, ?, ?, ?, ?)", values)
                    if kind == "asked":
                        connection.execute(
                            "DELETE FROM texts WHERE kind = 'asked' AND rowid NOT IN "
                            "(SELECT rowid FROM texts WHERE kind = 'asked' ORDER BY rowid DESC LIMIT ?)",
                            [MOST_ASKED],
                        )
                return
            except sqlite3.OperationalError as error:  # read-only, full, or another writes for long
                _LOG.info("%s cannot be written, so the text will be embedded again: %s", self._path, error)
                return
            except sqlite3.DatabaseError as error:
                _LOG.warning("%s is made again: it is damaged (%s)", self._path, error)
                if again:
                    self._path.unlink(missing_ok=True)

    def embedded(
        self, texts: Sequence[str], encoder: Callable[[], TextReader], kind: str | None, *, progress: bool = True
    ) -> NDArray[np.float32]:
        """Return the embedding of each text, float32 ``[texts, dim]``; see `look_up`."""
        found = self.look_up(texts, encoder, kind, progress=progress)
        return np.stack([found[text].row for text in texts])

    def look_up(
        self, texts: Sequence[str], encoder: Callable[[], TextReader], kind: str | None, *, progress: bool = True
    ) -> dict[str, Known]:
        """Return what is known of all texts; what was not is embedded, and kept as ``kind`` when that is not None.

        ``encoder`` returns the encoder, and is called only when a text is unknown.
        """
        known = self.get(list(dict.fromkeys(texts)))
        new = [text for text in dict.fromkeys(texts) if text not in known]
        _LOG.info("%d of %d texts are known", len(known), len(known) + len(new))
        if not new:
            return known
        from tqdm import tqdm

        fresh: dict[str, Known] = {}
        with tqdm(total=len(new), desc=f"embed {kind}", unit="text", disable=not progress, leave=False) as bar:
            for start in range(0, len(new), 256):
                some = new[start : start + 256]
                rows = text_embeddings(encoder(), some, self._templates)
                for text, row in zip(some, rows, strict=True):
                    fresh[text] = Known(row, read_of(encoder(), text, self._templates))
                bar.update(len(some))
        if kind is not None:
            self.keep(fresh, kind)
        return known | fresh

    def _sum(self, text: str, row: bytes, read: str) -> bytes:
        return hashlib.sha256(json.dumps([self._encoder, text, read]).encode() + row).digest()[:8]

    @contextmanager
    def _connected(self, mode: str) -> Iterator[sqlite3.Connection]:
        uri = f"{self._path.absolute().as_uri()}?mode={mode}"
        with closing(sqlite3.connect(uri, uri=True, timeout=2.0)) as connection:
            connection.execute("PRAGMA synchronous = NORMAL")
            yield connection
