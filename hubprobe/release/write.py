"""Writing a release: the same workspace and options give the same bytes, whenever and wherever."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from hubprobe.counts import status
from hubprobe.plots import funnel
from hubprobe.release import manifest, tables
from hubprobe.release.card import Facts, card
from hubprobe.release.plan import Plan, plan, scrub
from search.store import sources
from search.store.versions import open_current
from workspace import Workspace, WorkspaceError
from workspace.files import TEMPORARY_PREFIX, read_json, short_hash
from workspace.runs import versions

_MADE_BY = ("hubprobe", "numpy", "pyarrow", "timm", "torch", "transformers")
_SPARE = 256 * 1024**2  # bytes of disk that stay free


@dataclass(frozen=True)
class ReleaseSummary:
    """What a release holds, or would hold after a dry run.

    Attributes:
        folder: where it is.
        release_id: names the content of the tables; empty after a dry run.
        rows: of each table; those of ``logits`` count searchable outputs only after a dry run.
        left_out: repositories left out, by reason.
        probe_images: whether images and captions are in it.
        encoder: name and commit of the encoder it can be searched with, or None.
        files: size in bytes of every file; after a dry run about that of every table.
    """

    folder: Path
    release_id: str
    rows: dict[str, int]
    left_out: dict[str, int]
    probe_images: bool
    encoder: str | None
    files: dict[str, int]


def release(
    workspace: Workspace,
    target: str | Path,
    *,
    keep: tuple[str, ...] | None = None,
    license: str | None = None,  # noqa: A002 - as the Hub's tag
    probes_license: str | None = None,
    probe_images: bool = True,
    repo: str = "OWNER/NAME",
    dry_run: bool = False,
    progress: bool = True,
) -> ReleaseSummary:
    """Write ``workspace`` as a dataset into ``target``, which appears when it is whole and replaces an earlier release.

    Args:
        workspace: crawled, probed, completed and indexed.
        target: a new or empty folder, or one that holds a release.
        keep: classes or tags of licences of models to keep; the configuration's when None.
        license: of the measurements; the configuration's when None.
        probes_license: licence of the probe images whose source states none; the configuration's when None.
        probe_images: False leaves images and captions out whatever their licence.
        repo: ``owner/name`` that the card names.
        dry_run: decide and count; write nothing.
        progress: show progress bars on stderr.

    Raises `MissingStepError` when there is no index, `WorkspaceError` when ``target`` holds something else or the disk
    is too small, `ConfigError` for an unknown licence.
    """
    target = Path(target)
    _check_target(target)
    _, index, lock = open_current(workspace)
    if lock is not None:
        lock.close()
    if index["probe_set"] != workspace.probe_set:
        raise WorkspaceError("the index is of another probe set: run 'hubprobe index' first")
    chosen = plan(workspace, keep=keep, probes_license=probes_license, probe_images=probe_images)
    if dry_run:
        return _estimated(workspace, target, chosen, index)
    _check_disk(workspace, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    made = target.parent / f"{TEMPORARY_PREFIX}release-{short_hash(str(target.absolute()))}"
    shutil.rmtree(made, ignore_errors=True)  # of a release that was killed
    try:
        summary = _write(workspace, made, chosen, index, license or workspace.config.release.license, repo, progress)
        _replace(made, target)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return ReleaseSummary(target, *summary)


def _write(
    workspace: Workspace,
    made: Path,
    chosen: Plan,
    index: dict[str, Any],
    license: str,  # noqa: A002
    repo: str,
    progress: bool,
) -> tuple[str, dict[str, int], dict[str, int], bool, str | None, dict[str, int]]:
    made.mkdir()
    written = {
        "models": tables.write_whole(made, "models", tables.plain(chosen.models)),
        "logits": tables.write_whole(made, "logits", tables.logits(workspace, chosen.kept)),
        "attempts": tables.write_whole(made, "attempts", tables.plain(chosen.attempts)),
        "descriptors": tables.write_descriptors(workspace, made, chosen.kept, progress=progress),
    }
    probes = _probes(workspace, chosen.probe_images)
    written["probes"] = tables.write_whole(made, "probes", probes)
    encoders = {side: _encoder(workspace, made, index.get(side)) for side in ("encoder", "image_encoder")}
    rows = {name: sum(part.rows for part in parts) for name, parts in written.items()}
    release_id = manifest.release_id(manifest.file_hashes(made))
    (made / "figures").mkdir()
    report = status(workspace)
    funnel(report, made / "figures" / "funnel.png")
    by = {name: version for name, version in versions().items() if name in _MADE_BY}
    about, encoder = _source(workspace), encoders["encoder"]
    named = f"{encoder['name']}@{encoder['commit']}" if encoder else None
    facts = Facts(
        report=report,
        rows=rows,
        left_out=chosen.left_out,
        licences=chosen.models["license"].to_pylist(),
        kept_licences=chosen.licences,
        license=license,
        n_probes=probes.num_rows,
        probe_licenses=probes["license"].to_pylist(),
        probe_images=chosen.probe_images,
        probe_source=about,
        encoder=named,
        crawled=_days(chosen.models["crawled_at"]),
        versions=by,
        release_id=release_id,
        repo=repo,
    )
    (made / "README.md").write_text(card(facts), encoding="utf-8")
    content = {
        "release_id": release_id,
        "probe_set": workspace.probe_set,
        "n_probes": probes.num_rows,
        "probe_images": chosen.probe_images,
        "probe_source": about,
        "rows": rows,
        "tables": {name: [asdict(part) for part in parts] for name, parts in written.items()},
        "left_out": chosen.left_out,
        "licences": list(chosen.licences),
        "license": license,
        "config": _settings(workspace),
        "config_hash": workspace.config.hash,
        "versions": by,
        **encoders,
    }
    manifest.write(made, content)
    sizes = {
        path.relative_to(made).as_posix(): path.stat().st_size for path in sorted(made.rglob("*")) if path.is_file()
    }
    return release_id, rows, chosen.left_out, chosen.probe_images, named, sizes


def _probes(workspace: Workspace, images: bool) -> pa.Table:
    schema = tables.probes(images)
    table = workspace.probes(schema.names).select(schema.names).sort_by("probe_id")
    source = [scrub(text) for text in table["source"].to_pylist()]
    table = table.set_column(schema.get_field_index("source"), "source", pa.array(source, pa.string()))
    return table.cast(schema)


def _encoder(workspace: Workspace, made: Path, about: dict[str, Any] | None) -> dict[str, Any] | None:
    """Copy the probes' embeddings under an encoder of the index; one that is a folder here is nobody else's."""
    if about is None or _is_local(str(about["name"]).partition(":")[2]):
        return None
    (made / "encoders").mkdir(exist_ok=True)
    shutil.copyfile(workspace.index_dir / "encoders" / about["file"], made / "encoders" / about["file"])
    return {name: about[name] for name in ("name", "commit", "dim", "templates", "file")}


def _is_local(name: str) -> bool:
    return Path(name).is_absolute() or name.startswith((".", "~"))


def _source(workspace: Workspace) -> str:
    """Return where the probes came from, a folder of this machine by its last part only."""
    path = workspace.probes_dir(workspace.probe_set) / "manifest.json"
    source = str(read_json(path).get("source", "")) if path.exists() else ""
    source = source or workspace.config.probes.source
    return Path(source).name if _is_local(source) else source


def _settings(workspace: Workspace) -> dict[str, Any]:
    """Return the settings that measured, without addresses, names of people who opted out, and this machine's paths."""
    settings = asdict(workspace.config)
    del settings["endpoint"], settings["release"], settings["crawl"]["opt_out"]
    path = workspace.probes_dir(workspace.probe_set) / "manifest.json"
    built = read_json(path) if path.exists() else {}
    settings["probes"] |= {name: built[name] for name in ("split", "n", "seed") if name in built}
    settings["probes"]["source"] = _source(workspace)
    for name in ("encoder", "image_encoder"):
        if _is_local(settings["search"][name].partition(":")[2]):
            settings["search"][name] = ""
    return settings


def _days(times: pa.ChunkedArray) -> tuple[str, str]:
    if not len(times):
        return "unknown", "unknown"
    ends = pc.min_max(times).as_py()
    return f"{ends['min']:%Y-%m-%d}", f"{ends['max']:%Y-%m-%d}"


def _estimated(workspace: Workspace, target: Path, chosen: Plan, index: dict[str, Any]) -> ReleaseSummary:
    files = sources.descriptor_files(workspace)
    count = tables.logits(workspace, chosen.kept).filter(pc.field("excluded").is_null()).num_rows
    n = sources.n_probes(files[0])
    probes = _probes(workspace, chosen.probe_images)
    rows = {"models": chosen.models.num_rows, "logits": count, "attempts": chosen.attempts.num_rows}
    rows |= {"descriptors": count, "probes": probes.num_rows}
    share = count / max(1, int(index["logits"]))
    sizes = {
        "models": chosen.models.nbytes // 4,
        "logits": 20 * count,
        "attempts": chosen.attempts.nbytes // 4,
        "descriptors": min(int(share * sum(path.stat().st_size for path in files)), 2 * n * count) or 0,
        "probes": probes.nbytes if chosen.probe_images else probes.nbytes // 2,
    }
    encoder = index.get("encoder")
    if encoder:
        sizes["encoders"] = 4 * n * int(encoder["dim"])
    named = f"{encoder['name']}@{encoder['commit']}" if encoder else None
    return ReleaseSummary(target, "", rows, chosen.left_out, chosen.probe_images, named, sizes)


def _check_target(target: Path) -> None:
    if target.is_dir() and any(target.iterdir()):
        if not (target / manifest.FILE).is_file():
            raise WorkspaceError(f"{target} is not empty and holds no release: name a new folder")
        manifest_of = read_json(target / manifest.FILE)
        if not isinstance(manifest_of, dict) or "release_id" not in manifest_of:
            raise WorkspaceError(f"{target} is not empty and holds no release: name a new folder")
    elif target.exists() and not target.is_dir():
        raise WorkspaceError(f"{target} is a file: name a folder")


def _check_disk(workspace: Workspace, target: Path) -> None:
    """Raise `WorkspaceError` when the disk cannot hold the release and what sorting it takes."""
    paths: Iterable[Path] = sources.descriptor_files(workspace)
    needed = 3 * sum(path.stat().st_size for path in paths) + _SPARE
    existing = next(parent for parent in (target.absolute(), *target.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise WorkspaceError(
            f"{target} needs about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free: name another disk"
        )


def _replace(made: Path, target: Path) -> None:
    """Put the finished folder in the place of what was there; a kill in between leaves the old one beside it."""
    old = target.parent / f"{TEMPORARY_PREFIX}old-{made.name}"
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    made.rename(target)
    shutil.rmtree(old, ignore_errors=True)
