"""The index that the page answers from: one version with its names, its evidence and all that is remembered of it."""

from __future__ import annotations

import hashlib
import io
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
from cachetools import LRUCache

import search
from hubprobe import front
from hubprobe import usage as usages
from hubprobe.sync import fresh
from search.naming import Name, Namer
from search.store import versions
from search.text.embeddings import decode
from search.text.encoders import load_encoder
from workspace import HubError, HubprobeError, QueryError, Workspace, WorkspaceError
from workspace.files import open_table, read_file
from workspace.images import read_image
from workspace.text import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from search import Descriptor, Encoder, Index

PULL_S = 300.0
"""How often what is new in the workspace's remote is looked for."""

CHECK_S = 2.0
"""How often the page looks for a new version of the index, while it is asked."""

NAMES = 3
"""Names of a logit."""

PER_LOGIT = 8
"""Probes of a strip."""

EDGE = 224
"""Longer edge of a thumbnail in pixels: twice what the page shows, for screens of double density."""

_KEPT_IMAGES = 256
_KEPT_BYTES = 64 * 2**20  # of pages, and of answers: about 1,000 usual ones; all names of a large model are 5 MB
_KEPT_ALIKE = 512  # models
_KEPT_NAMES = 100_000  # logits
_KEPT_THUMBNAILS = 8_192  # about 6 KB each
_KEPT_STRIPS = 50_000
_NAMED_AT_START = 20_000  # logits that are named before anybody asks
_NAMED_AT_ONCE = 64
_CHUNK = 16  # texts the encoder is held for at a time
_LOG = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")


class Remembered(LRUCache[K, V]):
    """The entries asked for last, for several threads, which cachetools' own is not made for.

    Args:
        most: how many, or what their sizes may add up to.
        size: of a value; 1 when None.
    """

    def __init__(self, most: int, size: Callable[[V], int] | None = None) -> None:
        super().__init__(most, size)
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:  # type: ignore[override]
        """Return the entry of ``key``, or None."""
        with self._lock:
            return super().get(key)

    def put(self, key: K, value: V) -> V:
        """Remember ``value``, unless it is larger than all that is remembered, and return it."""
        with self._lock:
            if self.getsizeof(value) <= self.maxsize:
                self[key] = value
        return value


class SharedEncoder:
    """An encoder that one thread uses at a time, a few texts at a time, so that a search need not wait for the bank."""

    def __init__(self, encoder: Encoder) -> None:
        self.name, self.commit = encoder.name, encoder.commit
        self.of_captions = getattr(encoder, "of_captions", False)
        self._encoder, self._lock = encoder, threading.Lock()

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the embeddings of texts; see `search.Encoder`."""
        parts = []
        for start in range(0, max(len(texts), 1), _CHUNK):
            with self._lock:
                parts.append(self._encoder.encode_texts(texts[start : start + _CHUNK]))
            if start + _CHUNK < len(texts):
                time.sleep(0.002)  # a lock that is taken again at once lets nobody else in
        return np.concatenate(parts)

    def kept(self, text: str) -> str:
        """Return the part of a text that is read: all of it where the encoder does not say."""
        kept = getattr(self._encoder, "kept", None)
        if kept is None:
            return text
        with self._lock:
            return str(kept(text))

    def encode_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """Return the embeddings of images; see `search.Encoder`."""
        with self._lock:
            return self._encoder.encode_images(images)


class AbsentEncoder:
    """Stands for an encoder that cannot be had: the index answers what it knows, and of all else it is said why not."""

    def __init__(self, name: str, commit: str) -> None:
        self.name, self.commit = name, commit

    def encode_texts(self, texts: Sequence[Any]) -> NDArray[np.float32]:  # noqa: ARG002
        """Raise `QueryError`: a text that the index knows needs no encoder."""
        raise QueryError(
            f"this cannot be asked here: the index's encoder, {self.name}, could not be had when the page was started. "
            "Concepts of the list, other models' labels, outputs, models and SQL can be"
        )

    encode_images = encode_texts


class Names:
    """Names logits of one opened index; says nothing until the bank is read, which `prepare` does.

    Attributes:
        state: ``preparing``, ``ready``, or why there are none.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._known: Remembered[int, list[Name]] = Remembered(_KEPT_NAMES)
        self._namer: Namer | None = None
        self.state = "preparing"

    def prepare(self) -> None:
        """Read the bank: at once when a search or `hubprobe describe` kept it, else as long as 3,692 texts take."""
        try:
            namer = Namer(self._index.gallery, self._index.texts, progress=False)
            namer.names(np.zeros(1, np.int64))
            self._namer, self.state = namer, "ready"
            rows = range(min(len(self._index), _NAMED_AT_START))
            for start in rows[::_NAMED_AT_ONCE]:  # ten cost half as much as these: all labels are compared each time
                self.of(rows[start : start + _NAMED_AT_ONCE])
        except (HubprobeError, OSError) as error:  # a folder that cannot be written, an index without an encoder
            inside = "the concept bank cannot be read; the server's log says why"
            self.state = f"no names: {error if isinstance(error, QueryError) else inside}"
            _LOG.warning("outputs are shown without suggested names: %s", error)

    def of(self, rows: Sequence[int]) -> dict[int, list[Name]]:
        """Return the names of the logits at ``rows`` of the gallery; an empty dict before there are any."""
        namer = self._namer
        if namer is None:
            return {}
        remembered = {row: self._known.get(row) for row in rows}
        known = {row: names for row, names in remembered.items() if names is not None}
        new = [row for row in remembered if row not in known]
        if new:
            named = namer.with_own_labels(np.array(new, np.int64), NAMES)
            known |= {row: self._known.put(row, names) for row, names in zip(new, named, strict=True)}
        return known


@dataclass(frozen=True)
class Strong:
    """One probe that a logit answers strongly."""

    probe: int  # its ``probe_id``
    caption: str  # what it shows; a stranger's text, empty when the source does not say
    strength: float  # the logit's answer in standard deviations


class Strips:
    """Reads the probes of one opened index, from any number of threads; images are decoded when first asked for."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self.probe_set = str(index.gallery.manifest["probe_set"])
        self._path = index.workspace.probes_dir(self.probe_set) / "probes.parquet"
        self._strips: Remembered[int, tuple[Strong, ...]] = Remembered(_KEPT_STRIPS)
        self._thumbnails: Remembered[int, bytes | None] = Remembered(_KEPT_THUMBNAILS)

    @cached_property
    def captions(self) -> list[str]:
        """Caption of every probe, in order of ``probe_id``."""
        try:
            column = read_file(self._path, columns=["caption"]).column("caption")
        except WorkspaceError:
            _LOG.warning("%s cannot be read: the page shows no evidence", self._path)
            return [""] * self._index.gallery.n_probes
        return [caption or "" for caption in column.to_pylist()]

    def strongest(self, row: int) -> tuple[Strong, ...]:
        """Return the probes that the logit at ``row`` of the gallery answers most strongly, strongest first."""
        known = self._strips.get(row)
        if known is not None:
            return known
        vector = self._index.gallery.vector(row)
        order = np.argsort(-vector, kind="stable")[:PER_LOGIT].tolist()
        return self._strips.put(row, tuple(Strong(p, self.captions[p], float(vector[p])) for p in order))

    def kept(self, probe: int) -> bytes | None:
        """Return a thumbnail that is at hand, else None."""
        return self._thumbnails.get(probe)

    def thumbnail(self, probe: int) -> bytes | None:
        """Return a probe as WebP, or None when there is no such probe, or no image of it in this workspace."""
        if probe in self._thumbnails:
            return self._thumbnails.get(probe)
        return self._keep(probe, next((data for _, data in self._images(range(probe, probe + 1))), None))

    def _keep(self, probe: int, data: bytes | None) -> bytes | None:
        try:
            made = None if data is None else small(decode(data))
        except (OSError, ValueError) as error:
            _LOG.warning("probe %d cannot be drawn: %s", probe, error)
            made = None
        return self._thumbnails.put(probe, made)

    def warm(self) -> None:
        """Draw every thumbnail that is kept, a row group at a time: one by one, each would read its whole group."""
        for probe, data in self._images(range(_KEPT_THUMBNAILS)):
            self._keep(probe, data)

    def _images(self, wanted: range) -> Iterator[tuple[int, bytes | None]]:
        try:
            with open_table(self._path) as file:  # a file of its own: readers are not made for several threads
                start = 0
                for group in range(file.metadata.num_row_groups):
                    here = range(start, start := start + file.metadata.row_group(group).num_rows)
                    if some := [probe for probe in here if probe in wanted]:
                        column = file.read_row_group(group, columns=["image"]).column("image")
                        yield from ((p, dict(column[p - here.start].as_py() or {}).get("bytes")) for p in some)
        except WorkspaceError as error:
            _LOG.warning("%s cannot be read: %s", self._path, error)


def small(image: Image, edge: int = EDGE) -> bytes:
    """Return an image as WebP, shrunk to at most ``edge`` pixels in place; images that are smaller keep their size."""
    image.thumbnail((edge, edge))
    out = io.BytesIO()
    image.save(out, "WEBP", quality=82, method=3)
    return out.getvalue()


def facets(index: Index, column: str, most: int = 100) -> list[tuple[str, int]]:
    """Return the values of a column of the models with their counts, most frequent first."""
    counts = Counter(filter(None, index.gallery.models.column(column).to_pylist()))
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:most]


def examples(index: Index, most: int = 12) -> list[tuple[str, int]]:
    """Return words worth trying, each with a logit that carries it: labels of different models that can be trusted."""
    from search.text import bank

    bridge, gallery = index.gallery.bridge, index.gallery
    if bridge is None or not bridge.rows.size:
        return []
    order = np.argsort(-bridge.weights, kind="stable").tolist()
    labels: list[Any] = gallery.logits.column("label").to_pylist() if len(gallery) <= 200_000 else []
    words: dict[str, int] = {}
    models: dict[int, int] = {}
    for i in order if labels else []:
        row = int(bridge.rows[i])
        model, label = int(gallery.model_of[row]), " ".join(str(labels[row] or "").lower().split())
        taken = {word for other in words for word in other.split()}
        if (
            taken & set(label.split())
            or models.get(model, 0) >= 2
            or not bank.related(label)
            or len(label) > 20
            or not label.replace(" ", "").isalpha()
        ):
            continue
        words[label], models[model] = row, models.get(model, 0) + 1
        if len(words) == most:
            break
    return list(words.items())


@dataclass(frozen=True)
class Example:
    """An uploaded image, as far as it is remembered: what the encoder saw in it, and a small picture of it."""

    descriptor: Descriptor = field(repr=False)
    probe_set: str
    name: str
    picture: bytes = field(repr=False)


def _bytes(answer: str | bytes) -> int:
    return len(answer) + 2_000  # and the question that it is remembered by


class Opened:
    """One version of the index.

    Attributes:
        index: for searching.
        names: suggested names of its logits.
        strips: evidence.
        pages: whole pages of the questions asked last: popular questions are asked again and again.
        records: the API's answers to the calls made last.
    """

    def __init__(self, index: Index) -> None:
        self.index, self.names, self.strips = index, Names(index), Strips(index)
        self.pages: Remembered[Hashable, str] = Remembered(_KEPT_BYTES, _bytes)
        self.records: Remembered[tuple[Any, ...], Any] = Remembered(_KEPT_BYTES, _bytes)
        self._lookalikes: Remembered[tuple[str, str], list[dict[str, Any]]] = Remembered(_KEPT_ALIKE)

    @cached_property
    def facets(self) -> dict[str, list[tuple[str, int]]]:
        """Values to filter by, with the models that have them: ``library``, ``license``, ``quality``."""
        columns = {"library": "library_name", "license": "license", "quality": "label_quality"}
        return {name: facets(self.index, column) for name, column in columns.items()}

    @cached_property
    def examples(self) -> list[tuple[str, int]]:
        """Words worth trying, each with the row of a logit that carries it."""
        return examples(self.index)

    @cached_property
    def listed(self) -> pa.Table:
        """The models, the most downloaded first, with what a list shows of them."""
        gallery = self.index.gallery
        counts = np.bincount(gallery.model_of, minlength=gallery.models.num_rows)
        columns = ["repo_id", "sha", "library_name", "license", "downloads", "parameters", "label_quality"]
        table = gallery.models.select(columns).append_column("outputs", pa.array(counts))
        return table.sort_by([("downloads", "descending"), ("repo_id", "ascending")])

    @cached_property
    def concepts(self) -> pa.Table:
        """Every concept of the bank and the models that answer it; raises `MissingStepError` when there is no list."""
        return front.concepts(self.index.workspace)

    @cached_property
    def _known(self) -> tuple[pa.Table, pa.Table]:
        return usages.tables(self.index.workspace)

    def usage(
        self, repo_id: str, sha: str, logit: int | None = None, label: str | None = None, names: Sequence[Name] = ()
    ) -> usages.Usage | None:
        """Return how a model, or one of its outputs, is called; None when the workspace's tables cannot be read."""
        try:
            facts = usages.facts(self._known, repo_id, sha, logit, label)
        except HubprobeError as error:
            _LOG.warning("the page shows no code for using models: %s", error)
            return None
        return usages.usage(facts, tuple((name.name, round(name.confidence, 3)) for name in names))

    def lookalikes(self, repo_id: str, sha: str) -> list[dict[str, Any]]:
        """Return the models that recognise what this one does, best first."""
        known = self._lookalikes.get((repo_id, sha))
        if known is not None:
            return known
        table = self.index.similar_models(repo_id, sha=sha, limit=6)
        rows = table.select(["repo_id", "score", "shared", "num_logits", "family"]).to_pylist()
        return self._lookalikes.put((repo_id, sha), rows)

    def prepare(self) -> None:
        """Read what makes later answers quick: the encoder, the bank of names, the thumbnails."""
        try:
            self.index.search("dog").limit(1).to_arrow()
        except HubprobeError as error:
            _LOG.warning("the page answers no texts: %s", error)
        self.names.prepare()
        self.strips.warm()


class Current:
    """The version in use, and the images that were uploaded.

    ``encoder`` is the one the index was built with, when it is at hand; else it is loaded, or fetched with ``token``.
    Raises `MissingStepError` when there is no index. Where its encoder cannot be had, texts that it knows are answered.
    """

    def __init__(self, workspace: Workspace, *, encoder: Encoder | None = None, token: str | None = None) -> None:
        self.workspace, self.token = workspace, token
        self._encoder = None if encoder is None else SharedEncoder(encoder)
        self._images: Remembered[str, Example] = Remembered(_KEPT_IMAGES)
        self._lock, self._decoding = threading.Lock(), threading.Lock()
        self._checked = self._pulled = time.monotonic()
        self._renewing = False
        self._opened = self._open()

    def prepare(self) -> threading.Thread:
        """Start reading, beside the first visitors, what makes later answers quick."""
        thread = threading.Thread(target=self._opened.prepare, name="prepare", daemon=True)
        thread.start()
        return thread

    def get(self) -> Opened:
        """Return the version to answer from; looks for a newer one now and then, which is opened in the background."""
        now = time.monotonic()
        if now - self._checked > CHECK_S:
            with self._lock:
                self._checked = now
                if self.workspace.remote and now - self._pulled > PULL_S:
                    self._pulled = now
                    threading.Thread(target=fresh, args=(self.workspace, "open"), name="pull", daemon=True).start()
                folder = versions.current(self.workspace)
                if folder is not None and folder.name != self._opened.index.version and not self._renewing:
                    self._renewing = True
                    threading.Thread(target=self._renew, name="renew", daemon=True).start()
        return self._opened

    def remember(self, data: bytes, name: str) -> str:
        """Return the key of an uploaded image: what it answers on the probes is kept for the last 256.

        Raises `QueryError` for what is no image, or one too large.
        """
        key = hashlib.sha256(data).hexdigest()[:32]
        opened = self._opened
        known = self._images.get(key)
        if known is None or known.probe_set != opened.strips.probe_set:
            self._images.put(key, self._example(opened, data, name))
        return key

    def public(self, error: HubprobeError) -> str:
        """Return what an error says, without the place of the workspace on this machine."""
        sentence, root = str(error), self.workspace.root
        for path in (root.resolve(), root.absolute()):
            sentence = sentence.replace(str(path), path.name)
        return sentence

    def image(self, key: str) -> Example:
        """Return a remembered image; raises `QueryError` when it was forgotten."""
        example = self._images.get(key)
        if example is None or example.probe_set != self._opened.strips.probe_set:
            raise QueryError("this example image is no longer remembered: choose it again")
        return example

    def _example(self, opened: Opened, data: bytes, name: str) -> Example:
        shown = printable(name.replace("\\", "/").rpartition("/")[2], 60) or "example.png"
        with self._decoding:  # one at a time: a large photograph takes 200 MB and more while it is decoded
            image = read_image(data, shown)
            descriptor = opened.index.descriptor(image)
            return Example(descriptor, opened.strips.probe_set, shown, small(image, 192))

    def _open(self) -> Opened:
        index = search.open(self.workspace, token=self.token, keep_texts=False)
        about = index.gallery.manifest["encoder"]
        if about is None:
            return Opened(index)
        if self._encoder is None or (self._encoder.name, self._encoder.commit) != (about["name"], about["commit"]):
            try:
                loaded = load_encoder(self.workspace, about["name"], commit=about["commit"], token=self.token)
            except HubError as error:
                _LOG.warning("new texts and images cannot be asked, what the index knows can: %s", error)
                absent = AbsentEncoder(about["name"], about["commit"])  # not kept: a new version tries again
                return Opened(search.open(self.workspace, encoder=absent, token=self.token, keep_texts=False))
            self._encoder = SharedEncoder(loaded)
        return Opened(search.open(self.workspace, encoder=self._encoder, token=self.token, keep_texts=False))

    def _renew(self) -> None:
        try:
            opened = self._open()
            opened.prepare()
            self._opened = opened
            _LOG.info("answering from index version %s", opened.index.version)
        except (HubprobeError, OSError) as error:  # the old version stays good; the next look tries again
            _LOG.warning("the new index cannot be opened yet: %s", error)
        finally:
            self._renewing = False
