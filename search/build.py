"""Building the index from ``descriptors/``, beside the one in use, which is swapped only when the new one is whole."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from search import layout, sources
from search.bridge_fit import build as build_bridge
from search.calibration import Calibration, calibrate
from search.embeddings import cache, cached_texts, embed_probes, read_embeddings
from search.encoders import Encoder, load_encoder
from search.gallery import Gallery
from search.info import checksums
from search.layout import folder_bytes
from search.neighbours import measured_recall
from search.writer import Writer
from workspace import Workspace, WorkspaceError
from workspace.disk import using
from workspace.files import write_json
from workspace.runs import new_run_id

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class IndexSummary:
    """What a build did.

    Attributes:
        version: name of the version now in use.
        mode: ``built`` from nothing or ``appended`` to the version before.
        models: probed models in the index.
        logits: searchable logits in the index.
        added: logits that this build read.
        repeated: descriptor rows left out because an earlier file held the same logit.
        nonfinite: descriptor rows left out because they hold NaN or infinity.
        probes: probes in the probe set.
        encoder: the encoder and its commit, or None.
        bytes: size of the version on disk.
        seconds: wall time.
    """

    version: str
    mode: str
    models: int
    logits: int
    added: int
    repeated: int
    nonfinite: int
    probes: int
    encoder: str | None
    bytes: int
    seconds: float


def index(
    workspace: Workspace,
    *,
    encoder: str | Encoder | None = None,
    image_encoder: Encoder | None = None,
    token: str | None = None,
    rebuild: bool = False,
    progress: bool = True,
) -> IndexSummary:
    """Build the index of the probe set in use from its descriptors, the catalog and the attempts.

    When the descriptor files that the version in use was built from are unchanged, only new ones are read and the cost
    is that of the new logits; metadata of all models is refreshed.

    Args:
        workspace: where everything is read and ``index/`` is written.
        encoder: ``clip:<repo>``, ``captions:<repo>``, a folder in place of the repo, an `Encoder`, or ``none`` for an
            index without text and image queries; the configuration's when None.
        image_encoder: sees example images; the configuration's, if it names one, when None.
        token: for fetching the encoder from the Hub.
        rebuild: read every descriptor again.
        progress: draw progress bars on stderr.

    Raises `MissingStepError` when there are no descriptors, `WorkspaceError` when they are damaged or another process
    is building, `HubError` when the encoder cannot be fetched. Until the last rename readers see the old index.
    """
    started = time.monotonic()
    files = sources.descriptor_files(workspace)
    with using(workspace.index_dir / "versions", "write"), layout.writing(workspace):
        layout.remove_unused(workspace)
        chosen = _encoder(workspace, encoder, token)
        embedded = embed_probes(workspace, chosen, progress=progress) if chosen else None
        seeing = (image_encoder or _image_encoder(workspace, token)) if chosen else None
        pictures = embed_probes(workspace, seeing, progress=progress) if seeing else None
        entries = [sources.Source.of(path) for path in files]
        n = sources.n_probes(files[0])
        previous = None if rebuild else _appendable(workspace, n, entries)
        old = {s["name"] for s in previous[1]["sources"]} if previous else set()
        version = new_run_id("index")
        folder = layout.versions_dir(workspace) / version
        writer = Writer(workspace, folder, n, previous)
        for path in tqdm([p for p in files if p.name not in old], desc="index", unit="file", disable=not progress):
            writer.add(path)
        content = writer.finish()
        content |= {"version": version, "sources": [asdict(s) for s in entries], "encoder": embedded}
        content |= {"image_encoder": pictures}
        content["recall"] = previous[1]["recall"] if previous else measured_recall(folder, content)
        if chosen and embedded and content["logits"]:
            _texts(workspace, folder, content, chosen, previous, progress)
        content["files"] = checksums(folder, (previous[0], previous[1]["files"]) if previous else None)
        write_json(folder / "manifest.json", content)
        layout.publish(workspace, version)
    name = f"{embedded['name']}@{embedded['commit']}" if embedded else None
    return IndexSummary(
        version, "appended" if previous else "built", content["models"], content["logits"], writer.added,
        writer.reader.repeated, writer.reader.nonfinite, n, name, folder_bytes(folder), time.monotonic() - started,
    )  # fmt: skip


def _appendable(workspace: Workspace, n: int, entries: list[sources.Source]) -> tuple[Path, dict[str, Any]] | None:
    """Return the version in use when every file it was built from is unchanged, so that only new ones are read."""
    if not (workspace.index_dir / "current.json").exists():
        return None
    try:
        folder, content, _ = layout.open_current(workspace)
        Gallery(folder, content)
        unchanged = {sources.Source(**s) for s in content["sources"]} <= set(entries)
    except (WorkspaceError, TypeError) as error:  # of another format, or damaged: written anew
        _LOG.warning("the index is built from nothing: %s", error)
        return None
    same = content["probe_set"] == workspace.probe_set and content["n_probes"] == n
    return (folder, content) if same and unchanged else None


def _encoder(workspace: Workspace, encoder: str | Encoder | None, token: str | None) -> Encoder | None:
    if encoder == "none":
        return None
    if isinstance(encoder, Encoder):
        return encoder
    with using(workspace.cache_dir / "encoders", "write"):  # a full disk is not the encoder's fault
        return load_encoder(workspace, encoder or workspace.config.search.encoder, token=token)


def _image_encoder(workspace: Workspace, token: str | None) -> Encoder | None:
    name = workspace.config.search.image_encoder
    with using(workspace.cache_dir / "encoders", "write"):
        return load_encoder(workspace, name, token=token) if name else None


def _texts(
    workspace: Workspace,
    folder: Path,
    content: dict[str, Any],
    encoder: Encoder,
    previous: tuple[Path, dict[str, Any]] | None,
    progress: bool,
) -> None:
    """Write what text queries need into a version's folder: the calibration and the label bridge."""
    gallery = Gallery(folder, content)
    kept = cache(workspace)
    probes = read_embeddings(kept / content["encoder"]["file"])
    older = Calibration.load(previous[0]) if previous else None
    found = calibrate(gallery, encoder, probes, kept, previous=older, progress=progress)
    found.save(folder)
    embed = partial(cached_texts, encoder, folder=kept, what="labels", progress=progress)
    same = older is not None and np.array_equal(older.centre, found.centre) and np.array_equal(older.texts, found.texts)
    built = build_bridge(gallery, embed, probes, found, previous[0] if previous and same else None)
    for part in built or ():
        part.save(folder)
    content["labels"] = int(built[0].trust.size) if built else 0
