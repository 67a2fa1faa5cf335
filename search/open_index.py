"""The opened index: where a question becomes a query."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from search.by_model import Concepts
from search.concepts import read_concepts
from search.info import describe
from search.query import Query, Unit
from search.scan.gallery import Gallery
from search.scan.neighbours import Neighbours
from search.scan.scoring import Descriptor
from search.statements import TIMEOUT_S, answered
from search.store import versions
from search.store.tiles import Source
from search.text.calibration import Coverage
from search.text.encoders import Encoder, checked_text
from search.texts import Texts
from workspace import QueryError, Workspace
from workspace.text import printable, require_type

if TYPE_CHECKING:
    from PIL.Image import Image

_LOG = logging.getLogger(__name__)

Asked: TypeAlias = Union[str, "Image", Path, Descriptor, NDArray[Any]]
"""What can be searched for: words, an image or a path to one, a descriptor, or one number per probe."""

_REPOSITORY = "a model is named as 'owner/name', a text"
_PICTURE = re.compile(r"\.(?:png|jpe?g|webp|gif|bmp|tiff?|avif|heic)$", re.IGNORECASE)


class Index:
    """Answers questions about one version of the index, from any number of threads.

    It stays on the version it opened, even while a new one is built: open again to see what was added.

    Args:
        workspace: whose index in use is opened.
        encoder: the encoder the index was built with, when it is at hand; loaded by name and commit when None.
        token: for fetching the encoder when it is not in the workspace's cache.
        device: where codes are scanned: ``cpu``, or a torch device (``cuda``) whose memory holds all of them.
        keep_texts: keep the embeddings of texts that are asked in the index, where it can be written to, so that
            asking them again needs no encoder; False where strangers ask.
        source: brings parts of an index that lies elsewhere; None when all of it is in the workspace.

    Raises `MissingStepError` when there is no index, `WorkspaceError` when it is damaged or of another format.
    """

    def __init__(
        self,
        workspace: Workspace,
        *,
        encoder: Encoder | None = None,
        token: str | None = None,
        device: str = "cpu",
        keep_texts: bool = True,
        source: Source | None = None,
    ) -> None:
        folder, manifest, lock = versions.open_current(workspace)
        self.workspace = workspace
        self.gallery = Gallery(folder, manifest, lock, device=device, source=source)
        _LOG.info(
            "index %s: %s logits of %s models", self.version, f"{len(self):,}", f"{self.gallery.models.num_rows:,}"
        )
        self.texts = Texts(workspace, self.gallery, encoder=encoder, token=token, keep=keep_texts)

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
        query: Asked | None = None,
        *,
        all_of: Sequence[Asked] = (),
        any_of: Sequence[Asked] = (),
        none_of: Sequence[Asked] = (),
        k: int | None = None,
        scoring: str | None = None,
        hybrid: bool = False,
        group: Unit | None = None,
    ) -> Query:
        """Search for logits that answer the probes as ``query`` does, or for models by several concepts.

        Args:
            query: a concept in words, an example image (a PIL image, or a `pathlib.Path` to one), a `Descriptor`, or
                one number per probe. None when concepts are given below.
            all_of: every one of these; a model scores by the worst matched.
            any_of: at least one of these; a model scores by the best matched.
            none_of: leave out the tenth of the models that is nearest to any of these.
            k: probes compared, the query's strongest; the configuration's, else the scoring's own, when None. More than
                there are means all.
            scoring: a name in `search.SCORINGS`; the configuration's when None.
            hybrid: fuse with full-text search of the words over labels and repository names (text queries only).
            group: ``logit``, ``model``, or ``family`` for one hit among near-copies; the same as ``.by(group)``.

        Returns a lazy `Query`. Raises `QueryError` for a query that cannot be answered.
        """
        settings = self.workspace.config.search
        require_type(k, (int, np.integer, type(None)), "k is a whole number of probes")
        for some in (all_of, any_of, none_of):
            require_type(some, (list, tuple), "all_of, any_of and none_of are lists of concepts")
        if isinstance(query, str) and _PICTURE.search(query):
            raise QueryError(
                f"{printable(query, 60)!r} reads like the name of a picture: to search by one give "
                "pathlib.Path(...), on the command line --image FILE"
            )
        k = (settings.k or None) if k is None else k
        scoring = settings.scoring if scoring is None else scoring
        if all_of or any_of or none_of:
            if query is not None or hybrid:
                raise QueryError("give one query, or concepts in all_of, any_of and none_of; and no hybrid with these")
            concepts = Concepts(*(tuple(map(self.descriptor, some)) for some in (all_of, any_of, none_of)))
            first = concepts.wanted[0]
            return Query(self.gallery, first, k, scoring, unit="model", concepts=concepts, workspace=self.workspace)
        if query is None:
            raise QueryError("there is nothing to search for: give a text, an image, a descriptor or concepts")
        if hybrid and not isinstance(query, str):
            raise QueryError("hybrid=True needs a query in words")
        words = checked_text(str(query)) if hybrid else None
        made = Query(self.gallery, self.descriptor(query), k, scoring, words=words, workspace=self.workspace)
        return made if group is None else made.by(group)

    def similar(
        self,
        repo_id: str,
        logit: int,
        *,
        sha: str | None = None,
        other_models_only: bool = True,
        whole: bool = False,
        k: int | None = None,
        scoring: str | None = None,
    ) -> Query:
        """Search for logits that answer the probes as a given logit does; raises `QueryError` when it is unknown.

        Args:
            repo_id: the logit's repository.
            logit: its index.
            sha: commit; the last indexed when None.
            other_models_only: leave out the logit's own model.
            whole: compare whole descriptors, symmetric: candidates from LanceDB's index, ranked by exact correlation.
                Approximate above 20,000 logits (`info` says how much is found); ``.exact()`` makes it exact.
            k: see `search`.
            scoring: see `search`.
        """
        says = "similar() takes a repository and a logit's number, similar('owner/name', 3)"
        require_type(repo_id, str, says)
        require_type(logit, (int, np.integer), says)
        query = self.search(self.logit(repo_id, logit, sha=sha), k=k, scoring="full" if whole else scoring)
        own = query.descriptor.model if other_models_only else None
        return replace(query, without_model=own, neighbours=self.neighbours if whole else None)

    def similar_models(self, repo_id: str, *, sha: str | None = None, limit: int = 10) -> pa.Table:
        """Rank models by how well their outputs match those of a whole model; see `search.by_model`."""
        from search.by_model import similar_models

        require_type(repo_id, str, _REPOSITORY)
        return similar_models(self.gallery, repo_id, sha=sha, limit=limit)

    def search_many(
        self,
        queries: Sequence[Asked],
        *,
        limit: int = 10,
        where: str | None = None,
        k: int | None = None,
        scoring: str | None = None,
    ) -> list[pa.Table]:
        """Search for many queries at once, each as ``search(query).where(where).limit(limit)``; they share reads."""
        require_type(queries, (list, tuple), "search_many() takes a list of queries")
        asked = [self.search(query, k=k, scoring=scoring).limit(limit) for query in queries]
        mask = self.gallery.mask([where] if where else [])
        comparisons = [self.gallery.compile(q.descriptor, q.scoring, q.k) for q in asked]
        found = self.gallery.nearest_many(comparisons, limit, [mask] * len(asked))
        return self.gallery.hits_many(found)

    @cached_property
    def neighbours(self) -> Neighbours:
        """Whole-descriptor neighbours through LanceDB's vector index."""
        return Neighbours(self.gallery)

    def sql(self, statement: str, *, allow: Sequence[str] = (), timeout_s: float | None = TIMEOUT_S) -> pa.Table:
        """Answer one SELECT over the workspace's tables, with ``search(...)`` in it; see `search.sql`."""
        require_type(statement, str, "SQL is a text")
        with answered(self.workspace, statement, lambda: self, allow=allow, timeout_s=timeout_s) as answer:
            return pa.Table.from_batches(list(answer.batches), answer.schema)

    def concepts(self) -> pa.Table:
        """Return every concept of the bank, how many models answer it, and which output does best.

        A table ``concept, kind, models, covered, probability, repo_id, sha, logit, label, score``; see
        `search.concepts`. Raises `MissingStepError` when the index has none.
        """
        return read_concepts(self.gallery.folder, self.gallery.models)

    def info(self) -> dict[str, Any]:
        """Return version, sizes, encoder, memory and the measured recall of what is approximate; see `search.info`."""
        return describe(self.gallery)

    def descriptor(self, query: Asked) -> Descriptor:
        """Return the descriptor of a query; texts are remembered."""
        if isinstance(query, Descriptor):
            return self._fitting(query)
        if isinstance(query, str):
            return self.texts.of_text(query)
        if isinstance(query, np.ndarray):
            return self._fitting(Descriptor.from_raw(query))
        from PIL.Image import Image as Picture

        if not isinstance(query, (Path, Picture)):
            raise TypeError(
                "a search asks for words, an image or a path to one, a descriptor, or one number per probe (numpy), "
                f"not {type(query).__name__}"
            )
        return self.texts.of_image(query)

    def logit(self, repo_id: str, logit: int, *, sha: str | None = None) -> Descriptor:
        """Return the descriptor of a logit in the index; raises `QueryError` when it is not there."""
        row = self.gallery.row(repo_id, logit, sha)
        key = self.gallery.keys(np.array([row]))[0]
        mean, std = (float(self.gallery.logits.column(name)[row].as_py()) for name in ("mean", "std"))
        about = f"logit {logit} of {repo_id}"
        return Descriptor(self.gallery.vector(row), mean, std, about, "logit", key[:2], logit)

    def describe(self, repo_id: str, *, sha: str | None = None, count: int = 3, progress: bool = True) -> pa.Table:
        """Name every logit of a model; see `search.naming.describe_model`."""
        from search.naming import describe_model

        require_type(repo_id, str, _REPOSITORY)
        return describe_model(self.gallery, self.texts, repo_id, sha=sha, count=count, progress=progress)

    def audit(self, *, repo_id: str | None = None, limit: int = 50, progress: bool = True) -> pa.Table:
        """List logits whose label disagrees with their behaviour; see `search.naming.audit`."""
        from search.naming import audit

        return audit(self.gallery, self.texts, repo_id=repo_id, limit=limit, progress=progress)

    def contact_sheet(
        self,
        hits: Query | pa.Table | Sequence[Mapping[str, Any]],
        path: str | Path,
        *,
        probes_per_hit: int = 8,
        title: str | None = None,
    ) -> Path:
        """Write a PNG with one row per hit: rank, model, logit and label, and the probes it answers most strongly.

        Args:
            hits: a query, its Arrow result, or dicts with ``rank, repo_id, sha, logit, label, score``; 50 are drawn.
            path: where the PNG goes; its folder is made.
            probes_per_hit: thumbnails in a row, 1 to 20, strongest first.
            title: heading; the query's own words when None and ``hits`` is a query.

        Returns ``path``. Raises `QueryError` when there is no hit to draw.
        """
        from search.evidence import contact_sheet

        if isinstance(hits, Query):
            title, hits = hits.descriptor.about if title is None else title, hits.to_arrow()
        rows = hits.slice(0, 50).to_pylist() if isinstance(hits, pa.Table) else hits[:50]
        target = Path(path)
        contact_sheet(self.gallery, self.workspace, rows, target, count=probes_per_hit, title=title or "")
        return target

    @property
    def encoder(self) -> Encoder:
        """The encoder the index was built with, at its commit; raises `QueryError` when it was built with none."""
        return self.texts.encoder

    @property
    def probe_embeddings(self) -> NDArray[np.float32]:
        """The probes under the encoder, float32 ``[n_probes, dim]``, rows of unit length."""
        return self.texts.probes

    def prepare(self, texts: Sequence[str]) -> None:
        """Embed many texts at once, so that asking them one by one afterwards is quick (the last 1,024 are kept)."""
        self.texts.prepare(texts)

    def without_labels_of(self, text: str, allowed: NDArray[np.bool_]) -> Descriptor:
        """Return a text's descriptor when only the ``allowed`` logits, bool ``[logits]``, may lend their labels."""
        return self.texts.of_text(text, allowed)

    def coverage(self, text: str, *, where: str | None = None) -> Coverage:
        """Say how probable it is that ``text`` can be answered, by the logits that ``where`` allows.

        Raises `QueryError` without an encoder, and for a filter that is none.
        """
        require_type(text, str, "coverage() takes a concept in words")
        return self.gallery.coverage(self.texts.of_text(text), self.gallery.mask([where] if where else []))

    def _fitting(self, descriptor: Descriptor) -> Descriptor:
        if descriptor.vector.shape != (self.gallery.n_probes,):
            raise QueryError(
                f"the query has {descriptor.vector.size} values, the index {self.gallery.n_probes} probes: "
                "one value per probe is needed"
            )
        return descriptor


open, contact_sheet = Index, Index.contact_sheet  # noqa: A001 - reads as search.open(workspace)
