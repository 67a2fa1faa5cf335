"""Build the probe set: images that cover a bank of concepts, or a seeded sample; no copies, broken files and bombs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from probing.cover import BATCH, SHOWN, Offered, Pool
from probing.images.pictures import Probe, read
from probing.sources import Item, Place, Source, open_source
from workspace import ConfigError, Workspace, WorkspaceError, records, runs
from workspace.files import canonical_json, short_hash, write_json, write_table
from workspace.images import Refusal, RefusedImageError
from workspace.seams import Sight
from workspace.text import printable

_log = logging.getLogger(__name__)

POOL = 10
"""Images looked at for each that is wanted."""

REFUSED = ("duplicates", "broken", "too_large", "other_licences")
"""Why an image is not used."""

ROW_GROUP = 256
"""Images in a row group: about 25 MB at 100 KB an image, so that a reader can take a part."""


NAMED = 5
"""Refused images that the summary names: the first ones; all are counted."""


@dataclass(frozen=True)
class ProbesSummary:
    """What `build` did.

    Attributes:
        probe_set: hash of the ordered image hashes, 16 hex digits.
        n: images kept; requested: images asked for; seen: candidates looked at.
        duplicates, broken, too_large, other_licences: candidates refused, by reason.
        shown, concepts: concepts of the bank that the images kept show, of how many; None for a sample.
        captions: images kept that have one.
        bytes: size of the encoded images kept.
        notes: what a user should know, such as that the source held fewer than asked for.
        path: the file written; None for a dry run.
    """

    probe_set: str
    n: int
    requested: int
    seen: int
    duplicates: int
    broken: int
    too_large: int
    other_licences: int
    shown: int | None
    concepts: int | None
    captions: int
    bytes: int
    notes: tuple[str, ...]
    path: Path | None


@dataclass
class _Kept:
    licences: Sequence[str] = ()
    rows: list[dict[str, Any]] = field(default_factory=list)
    hashes: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REFUSED, 0))
    named: tuple[str, ...] = ()
    seen: int = 0

    def read(self, item: Item) -> Probe | None:
        """Return ``item`` as a probe, or None when it is not a good image, or not one that may be used."""
        self.seen += 1
        if self.licences and not any(fnmatchcase((item.license or "").lower(), one) for one in self.licences):
            self.refused["other_licences"] += 1
            return None
        try:
            if item.image is None:
                raise RefusedImageError(Refusal.BROKEN, f"{printable(item.source)} has no image")
            return read(item.image, item.source)
        except RefusedImageError as error:
            _log.info("not used: %s", error)
            self.refused[error.refusal.value] += 1
            self.named = (*self.named, str(error))[:NAMED]
            return None

    def offer(self, item: Item) -> bool:
        """Take ``item`` if it is a good image not met before; return whether it was taken."""
        probe = self.read(item)
        if probe is None:
            return False
        if probe.image_hash in self.hashes:
            self.refused["duplicates"] += 1
            return False
        self.keep(_row(len(self.rows), probe, item))
        return True

    def keep(self, row: dict[str, Any]) -> None:
        """Take a row as the next probe."""
        self.hashes[row["image_hash"]] = len(self.rows)
        self.rows.append({**row, "probe_id": len(self.rows)})


def build(
    workspace: Workspace,
    source: str | Path,
    *,
    n: int = 4000,
    seed: int = 0,
    split: str = "train",
    image_column: str | None = None,
    caption_column: str | None = None,
    token: str | bool | None = None,
    sight: Sight | None = None,
    pool: int | None = None,
    licences: Sequence[str] = (),
    dry_run: bool = False,
    progress: bool = True,
) -> ProbesSummary:
    """Choose ``n`` images of ``source`` for ``probes/<probe_set>/`` and make them the probe set in use.

    Args:
        workspace: where to write.
        source: a folder of images, a Parquet file (or a folder of them), or a data set of the Hub.
        n: images wanted; all there are when the source holds fewer, and the summary says so.
        seed: the same source, n and seed give the same probe set.
        split: split of the data set.
        image_column: column of the images; found by its type or name when not given.
        caption_column: column that says what an image shows; found by its name when not given.
        token: for a data set of the Hub that the workspace names; the machine's own when None.
        sight: choose the images that together show its concepts (`probing.cover`); a random sample when None.
        pool: images looked at to choose from; `POOL` times ``n`` when None. A sample looks no further than it needs.
        licences: only images whose source states one of these, as patterns: ``cc0*``; whatever they say when empty.
        dry_run: read and count, write nothing.
        progress: show a bar on stderr.

    Raises:
        ConfigError: ``n`` is not positive.
        WorkspaceError: the source cannot be read or holds no usable image.
    """
    if n <= 0:
        raise ConfigError(f"n must be positive, not {n}")
    place = place_of(
        workspace, source, split=split, image_column=image_column, caption_column=caption_column, token=token
    )
    opened = open_source(place, seed=seed)
    kept, cover = _Kept([licence.lower() for licence in licences]), None
    if sight is None or dry_run or (opened.total is not None and opened.total <= n):
        _collect(opened, kept, n, progress)
    else:
        settings = {"source": opened.name, "split": split, "seed": seed, "total": opened.total, "n": n}
        cover = _cover(workspace, opened, kept, n, sight, pool or POOL * n, settings, progress)
    if not kept.rows:
        named = "; ".join(kept.named)
        raise WorkspaceError(f"{source}: none of {kept.seen} images can be used: {kept.refused}. {named}".strip())
    table = pa.Table.from_pylist(kept.rows, schema=records.PROBES)
    probe_set = short_hash("".join(kept.hashes))
    notes: list[str] = []
    if len(kept.rows) < n:
        notes.append(f"asked for {n} probes; the source holds {len(kept.rows)} usable images, all are used")
        _log.warning("%s", notes[0])
    if kept.named:
        more = kept.refused["broken"] + kept.refused["too_large"] - len(kept.named)
        notes.append("not used: " + "; ".join(kept.named) + (f"; and {more} more" if more else ""))
    summary = ProbesSummary(
        probe_set=probe_set,
        n=len(kept.rows),
        requested=n,
        seen=kept.seen,
        shown=len(sight.concepts) - len(cover["not_shown"]) if sight and cover else None,
        concepts=len(sight.concepts) if sight and cover else None,
        captions=sum(row["caption"] is not None for row in kept.rows),
        bytes=sum(len(row["image"]["bytes"]) for row in kept.rows),
        notes=tuple(notes),
        path=None if dry_run else workspace.probes_dir(probe_set) / "probes.parquet",
        **kept.refused,
    )
    if summary.path is not None:
        write_table(summary.path, table, row_group_rows=ROW_GROUP)
        _write_manifest(opened, summary, seed, split, licences, cover)
        workspace.use_probe_set(probe_set)
    return summary


def has_choice(workspace: Workspace, source: str | Path, *, n: int = 4000, split: str = "train", **_: Any) -> bool:
    """Return whether ``source`` holds more images than are wanted; a data set of the Hub is taken to."""
    place = place_of(workspace, source, split=split)
    if not place.is_local:
        return True
    return (open_source(place, seed=0).total or 0) > n


def place_of(
    workspace: Workspace,
    source: str | Path,
    *,
    split: str,
    image_column: str | None = None,
    caption_column: str | None = None,
    token: str | bool | None = None,
) -> Place:
    """Return where `build` would read: a data set of the Hub comes from the workspace's own endpoint."""
    cache = workspace.cache_dir / "datasets"
    return Place(source, split, image_column, caption_column, cache, workspace.config.endpoint, token)


def wanted(workspace: Workspace, source: str | Path | None = None, *, token: str | bool | None = None) -> Place:
    """Return where a workspace's probe images come from when it has none: ``source``, or the configuration's."""
    settings = workspace.config.probes
    split = settings.split if source is None else "train"
    return place_of(workspace, settings.source if source is None else source, split=split, token=token)


def _collect(opened: Source, kept: _Kept, n: int, progress: bool) -> None:
    from tqdm import tqdm

    total = n if opened.total is None else min(n, opened.total)
    with tqdm(total=total, desc="probes", unit="image", disable=None if progress else True) as bar:
        for item in opened.items:
            if kept.offer(item):
                bar.update()
                if len(kept.rows) == n:
                    break
            bar.set_postfix({k: v for k, v in kept.refused.items() if v}, refresh=False)


def _cover(
    workspace: Workspace,
    opened: Source,
    kept: _Kept,
    n: int,
    sight: Sight,
    most: int,
    settings: dict[str, Any],
    progress: bool,
) -> dict[str, Any]:
    """Keep the ``n`` images of the first ``most`` that show most; return what the manifest says of it."""
    from tqdm import tqdm

    most = most if opened.total is None else min(most, opened.total)
    settings |= {"encoder": sight.encoder, "commit": sight.commit, "licences": list(kept.licences)}
    settings |= {"columns": [opened.image_column, opened.caption_column]}
    path = workspace.cache_dir / "probes" / f"pool-{short_hash(canonical_json(settings))}.sqlite"
    images = Pool(path, sight, settings, first=n)
    kept.seen, kept.refused = images.seen, {**kept.refused, **images.refused}
    batch: list[Offered] = []
    with tqdm(total=most, initial=kept.seen, desc="pool", unit="image", disable=None if progress else True) as bar:
        for item in islice(opened.items, kept.seen, most):
            probe = kept.read(item)
            if probe is not None:
                batch.append(Offered(_row(kept.seen - 1, probe, item), probe.print))
            if len(batch) == BATCH:
                images.add(batch, kept.seen, kept.refused)
                batch = []
            bar.update()
        images.add(batch, kept.seen, kept.refused)
    choice = images.choose(n)
    for row in images.rows(choice.positions):
        kept.keep(row)
    images.close(remove=True)
    missing = [name for name, best in zip(sight.concepts, choice.best.tolist(), strict=True) if best < SHOWN]
    about = {"encoder": sight.encoder, "commit": sight.commit, "pool": kept.seen, "contrast": SHOWN}
    return {**about, "concepts": len(sight.concepts), "not_shown": missing}


def _row(probe_id: int, probe: Probe, item: Item) -> dict[str, Any]:
    return {
        "probe_id": probe_id,
        "image": {"bytes": probe.encoded, "path": None},
        "image_hash": probe.image_hash,
        "width": probe.width,
        "height": probe.height,
        "caption": item.caption,
        "source": item.source,
        "license": item.license,
    }


def _write_manifest(
    opened: Source, summary: ProbesSummary, seed: int, split: str, licences: Sequence[str], cover: dict[str, Any] | None
) -> None:
    assert summary.path is not None
    counts = {k: v for k, v in asdict(summary).items() if k not in ("path", "probe_set")}
    write_json(
        summary.path.with_name("manifest.json"),
        {
            "probe_set": summary.probe_set,
            "source": opened.name,
            "split": split,
            "seed": seed,
            "licences": list(licences),
            "cover": cover,
            "image_column": opened.image_column,
            "caption_column": opened.caption_column,
            "created_at": runs.now().isoformat(),
            "versions": runs.versions(),
            **counts,
            "notes": list(summary.notes),
        },
    )
