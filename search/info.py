"""What an index is: versions, sizes, memory, and how good its approximate part was measured to be. And its check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from search.scan.gallery import Gallery
from search.store import tiles, versions
from search.store.tiles import ERROR, HIGH, LOW, STEP
from search.text.embeddings import cache
from workspace import Workspace
from workspace.files import damaged, read_tensors, sha256_of


def describe(gallery: Gallery) -> dict[str, Any]:
    """Return what ``hubprobe index info`` prints, as plain values.

    ``memory`` is the formula in words and its value: what the process holds, and what the page cache should hold for
    warm queries. ``recall`` is measured when the index is built; parts that are not listed there are exact.
    """
    manifest, rows, n = gallery.manifest, len(gallery), gallery.n_probes
    files = [file for entry in manifest["tiles"] for file in entry["files"]]
    parts = {end: sum(f["bytes"] for f in files if f["name"].endswith(end)) for end in (".u8", ".f16", ".over")}
    tables = gallery.folder / "lance"
    lance = {name: versions.folder_bytes(tables / f"{name}.lance") for name in ("models", "logits", "vectors")}
    known = (gallery.folder / "models.parquet").stat().st_size + versions.folder_bytes(gallery.folder / "logits")
    total = versions.folder_bytes(gallery.folder)
    resident = gallery.models.nbytes + gallery.logits.nbytes
    return {
        "version": manifest["version"],
        "format": manifest["format"],
        "probe_set": manifest["probe_set"],
        "probes": n,
        "models": gallery.models.num_rows,
        "logits": rows,
        "tiles": len(gallery.tiles),
        "encoder": manifest["encoder"] and {k: manifest["encoder"][k] for k in ("name", "commit", "dim", "templates")},
        "bytes": {
            "total": total,
            "per_logit": round(total / max(rows, 1)),
            "codes": parts[".u8"],
            "exact": parts[".f16"],
            "overflow": parts[".over"],
            "tables": known,
            **{f"lance_{name}": size for name, size in lance.items()},
        },
        "memory": {
            "formula": "tables + a byte per logit and remembered filter; page cache: logits x probes for the codes",
            "tables": resident,
            "codes": rows * n,
            "read_per_query": "logits x k bytes of codes, then 2 x k bytes of each candidate",
        },
        "codes": {"low": LOW, "high": HIGH, "step": STEP, "error": ERROR},
        "vector_index": manifest["vector_index"],
        "recall": manifest["recall"],
        "exact": "logit, model, family and concept search: proven per query by the codes' error bound",
        "versions": manifest["versions"],
    }


def verify(workspace: Workspace) -> dict[str, int]:
    """Read every byte of the index in use and compare it with its checksums; return what was read.

    Raises `MissingStepError` when there is no index and `WorkspaceError` at the first file that is damaged.
    """
    folder, manifest, lock = versions.open_current(workspace)
    read = 0
    for info in versions.tiles_of(folder, manifest):
        tiles.verify(folder / "tiles", info)
        read += sum(file.bytes for file in info.files)
    recorded = {name: (size, sha) for name, size, sha in manifest["files"]}
    for name, (size, sha) in recorded.items():
        path = folder / name
        if sha256_of(path) != sha:
            raise damaged(path, "its checksum is another")
        read += size
    kept = sorted(cache(workspace).glob("*.safetensors"))
    for path in kept:
        read_tensors(path)
        read += path.stat().st_size
    for name in ("encoder", "image_encoder"):
        entry = manifest[name] or {}
        path = cache(workspace) / Path(str(entry.get("file"))).name
        if "sha256" in entry and sha256_of(path) != entry["sha256"]:
            raise damaged(path, "its checksum is another")
    gallery = Gallery(folder, manifest, lock)
    files = len(recorded) + 3 * len(manifest["tiles"]) + len(kept)
    return {"files": files, "bytes": read, "logits": len(gallery)}


def checksums(folder: Path, previous: tuple[Path, list[list[Any]]] | None = None) -> list[list[Any]]:
    """Return ``[name, bytes, sha256]`` of every file of a version but its tiles, which carry their own.

    ``previous`` are the folder and the entries of the version before: what is the same file there has the same sum.
    """
    found = []
    before = previous[0] if previous else folder
    known = {entry[0]: entry for entry in previous[1]} if previous else {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if not name.startswith("tiles/") and name not in ("manifest.json", "reader.lock"):
            # taken over by hard link: a file of that name and size may have been written anew
            old = known.get(name) if (before / name).exists() and path.samefile(before / name) else None
            found.append(old if old is not None else [name, path.stat().st_size, sha256_of(path)])
    return found
