"""The opened index: where a question becomes a query."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from search import layout
from search.descriptor import Descriptor
from search.embeddings import read_embeddings
from search.encoders import Encoder, checked_text, load_encoder, text_embedding
from search.gallery import Gallery
from search.images import read_image
from search.query import Query
from workspace import QueryError, Workspace

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

_REMEMBERED_TEXTS = 1_024


def open(workspace: Workspace, *, encoder: Encoder | None = None, token: str | None = None) -> Index:  # noqa: A001
    """Open the index in use.

    Args:
        workspace: whose index.
        encoder: the encoder the index was built with, when it is at hand; loaded by name and commit when None.
        token: for fetching the encoder when it is not in the workspace's cache.

    Raises `MissingStepError` when there is no index, `WorkspaceError` when it is damaged or of another format.
    """
    return Index(workspace, encoder=encoder, token=token)


class Index:
    """Answers questions about one version of the index, from any number of threads.

    It stays on the version it opened, even while a new one is built: open again to see what was added.
    """

    def __init__(self, workspace: Workspace, *, encoder: Encoder | None = None, token: str | None = None) -> None:
        folder, manifest, lock = layout.open_current(workspace)
        self.workspace = workspace
        self.gallery = Gallery(folder, manifest, lock)
        self._about: dict[str, Any] | None = manifest["encoder"]
        self._encoder, self._token = encoder, token
        self._probes: NDArray[np.float32] | None = None
        self._texts: dict[str, Descriptor] = {}
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"Index({str(self.workspace.root)!r}, {self.gallery.models.num_rows} models, {len(self.gallery)} logits)"

    def __len__(self) -> int:
        """Searchable logits."""
        return len(self.gallery)

    @property
    def version(self) -> str:
        """Name of the version that is open."""
        return str(self.gallery.manifest["version"])

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────
    def search(
        self,
        query: str | Image | Path | Descriptor | NDArray[Any],
        *,
        k: int | None = None,
        scoring: str | None = None,
    ) -> Query:
        """Search for logits that answer the probes as ``query`` does.

        Args:
            query: a concept in words, an example image (a PIL image, or a `pathlib.Path` to one), a `Descriptor`, or
                one number per probe.
            k: probes compared, the query's strongest; the configuration's when None. More than there are means all.
            scoring: a name in `search.SCORINGS`; the configuration's when None.

        Returns a lazy `Query`. Raises `QueryError` for a query that cannot be answered.
        """
        settings = self.workspace.config.search
        return Query(
            self.gallery,
            self.descriptor(query),
            settings.k if k is None else k,
            settings.scoring if scoring is None else scoring,
        )

    def similar(
        self,
        repo_id: str,
        logit: int,
        *,
        sha: str | None = None,
        other_models_only: bool = True,
        k: int | None = None,
        scoring: str | None = None,
    ) -> Query:
        """Search for logits that answer the probes as a given logit does; raises `QueryError` when it is unknown.

        ``other_models_only`` leaves out the logit's own model. Without ``sha`` the last indexed commit is meant.
        """
        query = self.search(self.logit(repo_id, logit, sha=sha), k=k, scoring=scoring)
        if not other_models_only:
            return query
        return replace(query, without_model=query.descriptor.model)

    def descriptor(self, query: str | Image | Path | Descriptor | NDArray[Any]) -> Descriptor:
        """Return the descriptor of a query; texts are remembered."""
        if isinstance(query, Descriptor):
            return self._fitting(query)
        if isinstance(query, str):
            return self._text(query)
        if isinstance(query, np.ndarray):
            return self._fitting(Descriptor.from_raw(query))
        image = read_image(query)
        with self._lock:
            embedding = self.encoder.encode_images([image])[0]
        about = query.name if isinstance(query, Path) else "an image"
        return Descriptor.from_raw(self.probe_embeddings @ embedding, about=about, kind="image")

    def logit(self, repo_id: str, logit: int, *, sha: str | None = None) -> Descriptor:
        """Return the descriptor of a logit in the index; raises `QueryError` when it is not there."""
        row = self.gallery.row(repo_id, logit, sha)
        key = self.gallery.keys(np.array([row]))[0]
        mean, std = (float(self.gallery.logits.column(name)[row].as_py()) for name in ("mean", "std"))
        about = f"logit {logit} of {repo_id}"
        return Descriptor(self.gallery.vector(row), mean, std, about, "logit", key[:2], logit)

    def contact_sheet(self, hits: Any, path: str | Path, **options: Any) -> Path:
        """Draw hits and the probes they answer most strongly; see `search.contact_sheet`."""
        from search.evidence import contact_sheet

        return contact_sheet(self, hits, path, **options)

    # ── what text and image queries need ─────────────────────────────────────────────────────────────────────────
    @property
    def encoder(self) -> Encoder:
        """The encoder the index was built with, at its commit; raises `QueryError` when it was built with none."""
        with self._lock:
            if self._about is None:
                raise QueryError("this index was built without an encoder: it answers logit queries only")
            if self._encoder is None:
                name, commit = self._about["name"], self._about["commit"]
                self._encoder = load_encoder(self.workspace, name, commit=commit, token=self._token)
            if self._encoder.commit != self._about["commit"]:
                raise QueryError(
                    f"the index was built with {self._about['name']} at {self._about['commit']}, not at "
                    f"{self._encoder.commit}: run 'hubprobe index' again"
                )
            return self._encoder

    @property
    def probe_embeddings(self) -> NDArray[np.float32]:
        """The probes under the encoder, float32 ``[n_probes, dim]``, rows of unit length."""
        with self._lock:
            if self._probes is None:
                if self._about is None:
                    raise QueryError("this index was built without an encoder: it answers logit queries only")
                self._probes = read_embeddings(self.workspace.index_dir / "encoders" / self._about["file"])
            return self._probes

    def _text(self, text: str) -> Descriptor:
        clean = checked_text(text)
        with self._lock:
            found = self._texts.get(clean)
            if found is None:
                templates = self._about["templates"] if self._about else ()
                embedding = text_embedding(self.encoder, clean, templates)
                found = Descriptor.from_raw(self.probe_embeddings @ embedding, about=clean, kind="text")
                if len(self._texts) >= _REMEMBERED_TEXTS:
                    self._texts.pop(next(iter(self._texts)))
                self._texts[clean] = found
        return found

    def _fitting(self, descriptor: Descriptor) -> Descriptor:
        if descriptor.vector.shape != (self.gallery.n_probes,):
            raise QueryError(
                f"the query has {descriptor.vector.size} values, the index {self.gallery.n_probes} probes: "
                "one value per probe is needed"
            )
        return descriptor
