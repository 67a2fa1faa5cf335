"""The workspace: its format, what has been done and what comes next, what was cut off, whether its files open."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hubprobe.doctor.check import Check, Setting, size
from workspace.errors import HubprobeError

MOST_FILES = 2_000
"""Parquet files whose footers are read; of more only the newest: a check must stay quick."""


def workspace(setting: Setting) -> Iterator[Check]:
    """Everything about the folder; one row when it is no workspace."""
    from workspace import Workspace
    from workspace.layout import MARKER

    root = setting.root
    if not (root / MARKER).exists():
        advice = f"hubprobe demo, or: hubprobe run --workspace {root if setting.is_named else 'my-index'} --limit 50"
        yield Check("workspace", "warn" if setting.is_named else "ok", f"{root.absolute()} is none yet", advice)
        return
    try:
        opened = Workspace.open(root)
    except (HubprobeError, OSError) as error:
        yield Check("workspace", "fail", str(error), f"mend {root / MARKER}")
        return
    yield Check("workspace", "ok", f"{root.absolute()}, configuration {opened.config.hash}")
    for part in (_files, _steps, _cut_off, _index):
        yield from part(opened)


def _files(opened: Any) -> Iterator[Check]:
    """Whether every table is whole and of this version: footers only, not every byte."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from workspace.files import check_version

    names = ("catalog", "probes", "attempts", "responses", "descriptors")
    files = [p for name in names for p in (opened.root / name).rglob("*.parquet") if not p.name.startswith(".")]
    looked_at = sorted(files, key=lambda p: p.stat().st_mtime)[-MOST_FILES:]
    bad: list[tuple[Path, str]] = []
    for path in looked_at:
        try:
            pq.read_metadata(path)
            check_version(path)
        except (HubprobeError, OSError, pa.ArrowException) as error:
            bad.append((path, str(error)))
    if bad:
        path, why = bad[0]
        more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        verb = {"probes": "probes build", "catalog": "crawl", "descriptors": "complete"}
        part = path.relative_to(opened.root).parts[0]
        advice = f"delete it, then run: hubprobe {verb.get(part, 'probe')} --workspace {opened.root}"
        yield Check("tables", "fail", f"{path.relative_to(opened.root)} cannot be read{more}: {why}", advice)
        return
    total = size(sum(path.stat().st_size for path in looked_at))
    rest = f", of {len(files)}" if len(files) > len(looked_at) else ""
    yield Check("tables", "ok", f"{len(looked_at)} files{rest}, {total}, all whole by their footers")


def _steps(opened: Any) -> Iterator[Check]:
    """Say what has been done and the first thing that has not."""
    import pyarrow.parquet as pq

    from workspace.files import table_files

    w = f"--workspace {opened.root}"

    def rows(folder: Path) -> int:
        try:
            return sum(pq.read_metadata(path).num_rows for path in table_files(folder))
        except Exception:  # noqa: BLE001 - the row about tables says it
            return 0

    try:
        probe_set = opened.probe_set
    except (HubprobeError, OSError, KeyError, TypeError) as error:
        if (opened.root / "probes" / "current.json").exists():
            yield Check("steps", "fail", f"probes/current.json: {error}", f"hubprobe probes build {w}")
            return
        probe_set = ""
    if probe_set and not (opened.probes_dir(probe_set) / "probes.parquet").is_file():
        found = f"probe set {probe_set} is in use, and its images are not there"
        yield Check("steps", "fail", found, f"hubprobe probes build {w}")
        return
    done = {
        "probe set": (rows(opened.probes_dir(probe_set)) if probe_set else 0, "images", "probes build"),
        "catalog": (rows(opened.catalog_dir), "rows", "crawl"),
        "attempts": (rows(opened.attempts_dir), "rows", "probe"),
        "descriptors": (rows(opened.descriptors_dir(probe_set)) if probe_set else 0, "logits", "complete"),
        "index": (int((opened.index_dir / "current.json").is_file()), "", "index"),
    }
    found = ", ".join(f"{name} {count:,} {unit}" if unit else name for name, (count, unit, _) in done.items() if count)
    missing = [(name, verb) for name, (count, _, verb) in done.items() if not count]
    if missing:
        found = f"{found or 'nothing'}; no {missing[0][0]} yet"
        yield Check("steps", "warn", found, f"hubprobe {missing[0][1]} {w}, or all that is left: hubprobe run {w}")
    else:
        yield Check("steps", "ok", found)


def _cut_off(opened: Any) -> Iterator[Check]:
    """Runs that did not come to an end: another process works now, or one was killed."""
    from probing.inflight import PREFIX, any_running

    w = f"--workspace {opened.root}"
    marks = list(opened.attempts_dir.glob(f"{PREFIX}*.json"))
    if any_running(opened):
        yield Check("runs", "ok", f"a probe run is at work: {len(marks)} models in flight")
        return
    finished = {path.stem for path in opened.runs_dir.glob("*.json")}
    stopped = sorted(p.stem.rpartition("-")[0] for p in opened.runs_dir.glob("*-probe-*-*.jsonl"))
    stopped = [run for run in dict.fromkeys(stopped) if run not in finished]
    if marks:
        found = f"a probe run was cut off with {len(marks)} models in flight"
        yield Check("runs", "warn", found, f"hubprobe probe {w} goes on where it was; on another host it may still run")
    elif _crawl_unfinished(opened):
        yield Check("runs", "warn", "the last crawl was cut off, or is at work now", f"hubprobe crawl {w} goes on")
    elif stopped and stopped[-1] > max((run for run in finished if "-probe-" in run), default=""):
        yield Check("runs", "warn", f"{stopped[-1]} did not come to its end", f"hubprobe probe {w} goes on")
    else:
        yield Check("runs", "ok", f"{len(finished)} on record, none was cut off since")


def _crawl_unfinished(opened: Any) -> bool:
    path = opened.catalog_dir / "journal.json"
    try:
        journal = json.loads(path.read_text(encoding="utf-8"))
        return path.exists() and not journal["finished"]
    except (OSError, ValueError, KeyError, TypeError):  # none yet; a crawl says more of a damaged one
        return False


def _is_long(path: Path, length: int) -> bool:
    return path.is_file() and path.stat().st_size == length


def _index(opened: Any) -> Iterator[Check]:
    """The index in use: format, every file there and as long as it was, and whether descriptors came since."""
    from search import layout
    from search.sources import Source, descriptor_files

    w = f"--workspace {opened.root}"
    try:
        folder = layout.current(opened)
        if folder is None:
            return  # said by the steps
        content = layout.manifest(folder)
        kept = [(name, bytes_) for name, bytes_, _ in content["files"]]
        kept += [(f"tiles/{f['name']}", f["bytes"]) for tile in content["tiles"] for f in tile["files"]]
    except (HubprobeError, OSError, KeyError, TypeError, ValueError) as error:
        yield Check("index", "fail", f"{error}", f"hubprobe index {w} --rebuild")
        return
    wrong = [name for name, length in kept if not _is_long(folder / name, length)]
    if wrong:
        found = f"{wrong[0]} is missing or cut" + (f", and {len(wrong) - 1} more" if len(wrong) > 1 else "")
        yield Check("index", "fail", found, f"hubprobe index {w} --rebuild")
        return
    found = f"{content['models']:,} models, {content['logits']:,} logits, {size(sum(length for _, length in kept))}"
    try:
        files = descriptor_files(opened)
        new = len({Source.of(path) for path in files} - {Source(**source) for source in content["sources"]})
        other = content["probe_set"] != opened.probe_set
    except HubprobeError:
        new, other = 0, False
    if other:
        yield Check("index", "warn", f"{found}: of another probe set than the one in use", f"hubprobe index {w}")
    elif new:
        found += f": {new} descriptor files are newer, or of a copied workspace"
        yield Check("index", "warn", found, f"hubprobe index {w}")
    else:
        yield Check("index", "ok", f"{found}, every file as long as it was; every byte: hubprobe index --verify")
