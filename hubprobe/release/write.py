"""Writing a release: the same workspace and options give the same bytes, whenever and wherever."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from hubprobe.front import status
from hubprobe.plots import funnel
from hubprobe.release import tables
from hubprobe.release.card import CITATION, CROISSANT, card, citation, croissant, days, named
from hubprobe.release.diff import Difference, difference
from hubprobe.release.plan import Plan, plan, scrub
from hubprobe.release.read import import_release
from hubprobe.release.source import FILE, ReleaseSource, file_hashes, open_source, write_manifest
from hubprobe.release.source import release_id as id_of
from search.store import sources
from search.store.versions import open_current
from workspace import Config, Workspace, WorkspaceError, records
from workspace.files import TEMPORARY_PREFIX, read_json, require_file, short_hash, using, write_json
from workspace.remote import Remote
from workspace.runs import versions

if TYPE_CHECKING:
    from search import Encoder

_MADE_BY = ("hubprobe", "numpy", "pyarrow", "timm", "torch", "transformers")


@dataclass(frozen=True)
class ReleaseSummary:
    """What a release holds, or would hold after a dry run."""

    folder: Path  # where it is
    release_id: str  # names the content of the tables; empty after a dry run
    rows: dict[str, int]  # of each table; those of ``logits`` count searchable outputs only after a dry run
    left_out: dict[str, int]  # repositories left out, by reason
    probe_images: bool  # whether images and captions are in it
    encoder: str | None  # name and commit of the encoder it can be searched with, or None
    files: dict[str, int]  # size in bytes of every file; after a dry run about that of every table
    since: Difference | None = None  # what has changed since the release before it; None without one


def release(
    workspace: Workspace,
    target: str | Path,
    *,
    keep: tuple[str, ...] | None = None,
    license: str | None = None,  # noqa: A002 - as the Hub's tag
    probes_license: str | None = None,
    probe_images: bool = True,
    repo: str = "OWNER/NAME",
    author: str | None = None,
    earlier: str | None = None,
    token: str | None = None,
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
        author: whom the card says to cite; the configuration's when None, and the owner in ``repo`` when that is empty.
        earlier: the release before it, a folder or ``hf://datasets/OWNER/NAME[@revision]``, whose changes the card
            counts; the one that ``target`` holds when None.
        token: for the Hub that ``earlier`` lies on.
        dry_run: decide and count; write nothing.
        progress: show progress bars on stderr.

    Raises `MissingStepError` when there is no index, `WorkspaceError` when ``target`` holds something else or the disk
    is too small, `ConfigError` for an unknown licence.
    """
    target = Path(target)
    _check_target(target)
    version, index, lock = open_current(workspace)
    with lock or nullcontext():
        if index["probe_set"] != workspace.probe_set:
            raise WorkspaceError("the index is of another probe set: run 'hubprobe index' first")
        chosen = plan(workspace, keep=keep, probes_license=probes_license, probe_images=probe_images)
        before, since = _since(workspace, target, earlier, chosen, token)
        if dry_run:
            return replace(_estimated(workspace, target, chosen, index), since=since)
        files = sources.descriptor_files(workspace)
        needed = 3 * sum(path.stat().st_size for path in files)  # sorting takes room too
        tables.check_room(target, needed)
        target.parent.mkdir(parents=True, exist_ok=True)
        made = target.parent / f"{TEMPORARY_PREFIX}release-{short_hash(str(target.absolute()))}"
        shutil.rmtree(made, ignore_errors=True)  # of a release that was killed
        made.mkdir()
        try:
            rows, parts, probes = _write_tables(workspace, made, chosen, files, version, progress)
            encoders = {side: _encoder(workspace, made, index.get(side)) for side in ("encoder", "image_encoder")}
            path = workspace.probes_dir(workspace.probe_set) / "manifest.json"
            built = read_json(path) if path.exists() else {}  # what the probe set was built from
            content = {
                "release_id": id_of(file_hashes(made)),
                "probe_set": workspace.probe_set,
                "n_probes": probes.num_rows,
                "probe_images": chosen.probe_images,
                "probe_source": _source(built),
                "rows": rows,
                "tables": parts,
                "left_out": chosen.left_out,
                "licences": list(chosen.licences),
                "license": license or workspace.config.release.license,
                "author": workspace.config.release.author if author is None else author,
                "config": _settings(workspace.config, built),
                "config_hash": workspace.config.hash,
                "versions": {name: version for name, version in versions().items() if name in _MADE_BY},
                **encoders,
            }
            content["predecessor"] = since.facts() if since else None
            if before is not None and before.manifest.release_id == content["release_id"]:  # the same again
                kept, since = before.manifest.predecessor, None
                content["predecessor"] = kept.model_dump() if kept else None
            report = status(workspace)
            (made / "figures").mkdir()
            funnel(report, made / "figures" / "funnel.png")
            about = chosen.models.select(["license", "crawled_at"])
            text = card(content, report, models=about, probes=probes["license"], repo=repo)
            (made / "README.md").write_text(text, encoding="utf-8")
            crawled = days(chosen.models["crawled_at"])
            (made / CITATION).write_text(citation(content, crawled, repo), encoding="utf-8")
            write_json(made / CROISSANT, croissant(content, crawled, repo))
            write_manifest(made, content)
            sizes = {p.relative_to(made).as_posix(): p.stat().st_size for p in sorted(made.rglob("*")) if p.is_file()}
            _replace(made, target)
        finally:
            shutil.rmtree(made, ignore_errors=True)
        encoder = named(encoders["encoder"])
        return ReleaseSummary(
            target, content["release_id"], rows, chosen.left_out, chosen.probe_images, encoder, sizes, since
        )


def _write_tables(
    workspace: Workspace, made: Path, chosen: Plan, files: list[Path], version: Path, progress: bool
) -> tuple[dict[str, int], dict[str, list[dict[str, Any]]], pa.Table]:
    """Write every table; return their rows, their files, and the table of probes."""
    probes, kept = _probes(workspace, chosen.probe_images), chosen.kept
    n, responses = probes.num_rows, workspace.responses_dir(workspace.probe_set)
    schema = tables.plain_schema(tables.models())
    models = chosen.models.cast(tables.plain_schema(records.CATALOG)).rename_columns(schema.names).cast(schema)
    written = {
        "models": tables.write_whole(made, "models", models),
        "logits": tables.write_whole(made, "logits", tables.logits(files, n, responses, kept)),
        "attempts": tables.write_whole(made, "attempts", chosen.attempts.cast(tables.plain_schema(records.ATTEMPTS))),
        "descriptors": tables.write_descriptors(files, n, version, made, kept, progress=progress),
        "probes": tables.write_whole(made, "probes", probes),
    }
    rows = {name: sum(part.rows for part in parts) for name, parts in written.items()}
    return rows, {name: [asdict(part) for part in parts] for name, parts in written.items()}, probes


def _since(
    workspace: Workspace, target: Path, earlier: str | None, chosen: Plan, token: str | None
) -> tuple[ReleaseSource | None, Difference | None]:
    where = earlier or (str(target) if (target / FILE).is_file() else None)
    if where is None:
        return None, None
    fetched = workspace.cache_dir / "earlier"
    try:
        before = open_source(where, fetched, endpoint=workspace.config.endpoint, token=token, progress=False)
        attempts = chosen.attempts.select(["repo_id", "sha", "status"]).to_pylist()
        return before, difference(before, chosen.kept, attempts, workspace.probe_set)
    except WorkspaceError:
        if earlier is None:  # what lies there is about to be replaced, be it damaged or of another format
            return None, None
        raise


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
    source = workspace.index_dir / "encoders" / about["file"]
    require_file(source)
    with using(source, "read"):
        shutil.copyfile(source, made / "encoders" / about["file"])
    return {name: about[name] for name in ("name", "commit", "dim", "templates", "file")}


def _is_local(name: str) -> bool:
    return Path(name).is_absolute() or name.startswith((".", "~"))


def _source(built: dict[str, Any]) -> str:
    """Return where the probes came from, a folder of this machine by its last part only; empty when nobody noted it."""
    source = str(built.get("source", ""))
    return Path(source).name if _is_local(source) else source


def _settings(config: Config, built: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that measured, without addresses, names of people who opted out, and this machine's paths."""
    settings = asdict(config)
    del settings["endpoint"], settings["release"], settings["crawl"]["opt_out"]
    settings["probes"] |= {name: built[name] for name in ("split", "n", "seed") if name in built}
    settings["probes"]["source"] = _source(built)
    for name in ("encoder", "image_encoder"):
        if _is_local(settings["search"][name].partition(":")[2]):
            settings["search"][name] = ""
    return settings


def _estimated(workspace: Workspace, target: Path, chosen: Plan, index: dict[str, Any]) -> ReleaseSummary:
    files, n = sources.descriptor_files(workspace), int(index["n_probes"])
    responses = workspace.responses_dir(workspace.probe_set)
    count = tables.logits(files, n, responses, chosen.kept).filter(pc.field("excluded").is_null()).num_rows
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
    return ReleaseSummary(target, "", rows, chosen.left_out, chosen.probe_images, named(encoder), sizes)


def _check_target(target: Path) -> None:
    if target.is_dir() and any(target.iterdir()):
        earlier = read_json(target / FILE) if (target / FILE).is_file() else None
        if not isinstance(earlier, dict) or "release_id" not in earlier:
            raise WorkspaceError(f"{target} is not empty and holds no release: name a new folder")
    elif target.exists() and not target.is_dir():
        raise WorkspaceError(f"{target} is a file: name a folder")


def _replace(made: Path, target: Path) -> None:
    """Put the finished folder in the place of what was there; a kill in between leaves the old one beside it."""
    old = target.parent / f"{TEMPORARY_PREFIX}old-{made.name}"
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    made.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def carry_index(
    release: Path, *, encoder: Encoder | None = None, token: str | None = None, progress: bool = True
) -> int:
    """Put an index into the folder of a release, so that it can be searched where it lies; return its bytes.

    The index is made of the release and not the one of the workspace, which holds what a release leaves out.
    """
    shutil.rmtree(release / "index", ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=release.parent, prefix=TEMPORARY_PREFIX) as scratch:
        import_release(str(release), Path(scratch) / "copy", encoder=encoder, token=token, progress=progress)
        there = Remote(Workspace(Path(scratch) / "copy", remote=release.absolute().as_uri()), progress=progress)
        there.push("index")
        there.keep_settings()
        return there.counts["bytes_pushed"]
