"""The index that the page answers from: one version with all that is remembered of it, until a new one is built."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import search
from hubprobe.page.kept import Kept
from hubprobe.page.names import Names, SharedEncoder, examples, facets
from hubprobe.page.strips import Strips, small
from search.store import versions
from search.text.encoders import load_encoder
from workspace import HubprobeError, QueryError, Workspace
from workspace.images import read_image
from workspace.text import printable

if TYPE_CHECKING:
    from hubprobe.page.asked import Asked
    from search import Descriptor, Encoder, Index

CHECK_S = 2.0
"""How often the page looks for a new version of the index, while it is asked."""

_KEPT_IMAGES = 256
_KEPT_ANSWERS = 512  # about 40 KB each
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Example:
    """An uploaded image, as far as it is remembered: what the encoder saw in it, and a small picture of it."""

    descriptor: Descriptor = field(repr=False)
    probe_set: str
    name: str
    picture: bytes = field(repr=False)


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
        self.pages: Kept[Asked, str] = Kept(_KEPT_ANSWERS)
        self.records: Kept[tuple[Any, ...], Any] = Kept(_KEPT_ANSWERS)
        self._lookalikes: Kept[tuple[str, str], list[dict[str, Any]]] = Kept(_KEPT_ANSWERS)

    @cached_property
    def facets(self) -> dict[str, list[tuple[str, int]]]:
        """Values to filter by, with the models that have them: ``library``, ``license``, ``quality``."""
        columns = {"library": "library_name", "license": "license", "quality": "label_quality"}
        return {name: facets(self.index, column) for name, column in columns.items()}

    @cached_property
    def examples(self) -> list[tuple[str, int]]:
        """Words worth trying, each with the row of a logit that carries it."""
        return examples(self.index)

    def lookalikes(self, repo_id: str, sha: str) -> list[dict[str, Any]]:
        """Return the models that recognise what this one does, best first."""
        found = self._lookalikes.get((repo_id, sha))
        if found is None:
            table = self.index.similar_models(repo_id, sha=sha, limit=6)
            rows = table.select(["repo_id", "score", "shared", "num_logits", "family"]).to_pylist()
            found = self._lookalikes.put((repo_id, sha), rows)
        return found

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

    Args:
        workspace: whose index.
        encoder: the encoder the index was built with, when it is at hand; loaded by name and commit when None.
        token: for fetching the encoder when it is not in the workspace's cache.

    Raises `MissingStepError` when there is no index, `HubError` when its encoder cannot be had.
    """

    def __init__(self, workspace: Workspace, *, encoder: Encoder | None = None, token: str | None = None) -> None:
        self.workspace, self._token = workspace, token
        self._encoder = None if encoder is None else SharedEncoder(encoder)
        self._images: Kept[str, Example] = Kept(_KEPT_IMAGES)
        self._lock, self._decoding = threading.Lock(), threading.Lock()
        self._checked, self._renewing = time.monotonic(), False
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

    def told(self, error: QueryError) -> str:
        """Return what an error says, without the place of the workspace on this machine."""
        said, root = str(error), self.workspace.root
        for path in (root.resolve(), root.absolute()):
            said = said.replace(str(path), path.name)
        return said

    def image(self, key: str) -> Example:
        """Return a remembered image; raises `QueryError` when it was forgotten."""
        found = self._images.get(key)
        if found is None or found.probe_set != self._opened.strips.probe_set:
            raise QueryError("this example image is no longer remembered: choose it again")
        return found

    def _example(self, opened: Opened, data: bytes, name: str) -> Example:
        shown = printable(name.replace("\\", "/").rpartition("/")[2], 60) or "example.png"
        with self._decoding:  # one at a time: a large photograph takes 200 MB and more while it is decoded
            image = read_image(data, shown)
            descriptor = opened.index.descriptor(image)
            return Example(descriptor, opened.strips.probe_set, shown, small(image, 192))

    def _open(self) -> Opened:
        index = search.open(self.workspace, token=self._token)
        about = index.gallery.manifest["encoder"]
        if about is None:
            return Opened(index)
        if self._encoder is None or (self._encoder.name, self._encoder.commit) != (about["name"], about["commit"]):
            loaded = load_encoder(self.workspace, about["name"], commit=about["commit"], token=self._token)
            self._encoder = SharedEncoder(loaded)
        return Opened(search.open(self.workspace, encoder=self._encoder, token=self._token))

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
