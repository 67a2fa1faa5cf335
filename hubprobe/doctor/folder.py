"""The workspace: its format, what has been done and what comes next, what was cut off, whether its files open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hubprobe.doctor.check import Check, Setting
from hubprobe.output import size
from workspace.errors import HubprobeError, MissingStepError

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
    for part in (_files, _holes, _steps, _cut_off, _index):
        yield from part(opened)


def _files(opened: Any) -> Iterator[Check]:
    """Whether every table is whole and of this version: footers only, not every byte; and what was set aside."""
    from workspace.files import DAMAGED_SUFFIX, check_version, remedy, table_files

    names = ("catalog", "probes", "attempts", "responses", "descriptors")
    files: list[Path] = []
    bad: list[tuple[Path, str]] = []
    for name in names:
        for folder in (opened.root / name, *sorted((opened.root / name).glob("[!.]*/"))):
            try:
                files += table_files(folder)
            except (HubprobeError, OSError) as error:
                bad.append((folder, str(error)))
    looked_at = sorted(files, key=lambda p: p.stat().st_mtime)[-MOST_FILES:]
    for path in looked_at:
        try:
            check_version(path)
        except (HubprobeError, OSError) as error:
            bad.append((path, str(error)))
    if bad:
        path, why = bad[0]
        more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        advice = f"{remedy(path)} --workspace {opened.root}".replace("' --workspace", "', --workspace")
        yield Check("tables", "fail", f"{path.relative_to(opened.root)} cannot be read{more}: {why}", advice)
        return
    aside = sorted(p for name in names for p in (opened.root / name).glob(f"**/*{DAMAGED_SUFFIX}"))
    if aside:
        found = f"{len(aside)} damaged files were set aside, such as {aside[0].relative_to(opened.root)}"
        yield Check("tables", "warn", found, "delete them when what they held was measured again")
        return
    total = size(sum(path.stat().st_size for path in looked_at))
    rest = f", of {len(files)}" if len(files) > len(looked_at) else ""
    yield Check("tables", "ok", f"{len(looked_at)} files{rest}, {total}, all whole by their footers")


def _holes(opened: Any) -> Iterator[Check]:
    """Models that were probed and whose responses are not what was committed."""
    try:
        holes = opened.holes()
    except (HubprobeError, OSError):  # no probe set yet, or attempts that cannot be read: other rows say so
        return
    if not holes:
        yield Check("responses", "ok", "every model that was probed has the responses that it committed")
        return
    (repo, _), why = min(holes.items())
    found = f"{len(holes)} models were probed and wait again; {repo}: {why}"
    yield Check("responses", "warn", found, f"hubprobe probe --workspace {opened.root} runs them again")


def _steps(opened: Any) -> Iterator[Check]:
    """Say what has been done and the first thing that has not."""
    from workspace.files import num_rows, table_files

    w = f"--workspace {opened.root}"

    def rows(folder: Path) -> int:
        try:
            return sum(num_rows(path) for path in table_files(folder))
        except (HubprobeError, OSError):  # the row about tables says it
            return 0

    try:
        probe_set = opened.probe_set
    except (HubprobeError, OSError) as error:
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
    from crawler.state import FILE
    from workspace.files import read_json

    if (opened.catalog_dir / FILE).exists():
        return True
    path = opened.catalog_dir / "journal.json"  # of an earlier hubprobe
    try:
        return path.exists() and not read_json(path, {"finished": bool})["finished"]
    except HubprobeError:  # a crawl says more of a damaged one
        return False


def _index(opened: Any) -> Iterator[Check]:
    """The index in use: format, every file there and as long as it was, and whether descriptors came since."""
    from search.store import versions
    from search.store.sources import Source, descriptor_files

    w = f"--workspace {opened.root}"
    try:
        folder, content, lock = versions.open_current(opened)
        if lock is not None:
            lock.close()
        kept = [(name, bytes_) for name, bytes_, _ in content["files"]]
        kept += [(f"tiles/{f.name}", f.bytes) for tile in versions.tiles_of(folder, content) for f in tile.files]
    except MissingStepError:
        return  # said by the steps
    except (HubprobeError, OSError) as error:
        yield Check("index", "fail", f"{error}", f"hubprobe index {w} --rebuild")
        return
    there = {name: path.stat().st_size for name, _ in kept if (path := folder / name).is_file()}
    wrong = [name for name, length in kept if there.get(name) != length]
    if wrong:
        found = f"{wrong[0]} is missing or cut" + (f", and {len(wrong) - 1} more" if len(wrong) > 1 else "")
        yield Check("index", "fail", found, f"hubprobe index {w} --rebuild")
        return
    found = f"{content['models']:,} models, {content['logits']:,} logits, {size(sum(length for _, length in kept))}"
    try:
        files = descriptor_files(opened)
        new = len({Source.of(path) for path in files} - {Source(**source) for source in content["sources"]})
        other = content["probe_set"] != opened.probe_set
    except (HubprobeError, TypeError):  # no descriptors any more, or sources that are none
        new, other = 0, False
    if other:
        yield Check("index", "warn", f"{found}: of another probe set than the one in use", f"hubprobe index {w}")
    elif new:
        found += f": {new} descriptor files are newer, or of a copied workspace"
        yield Check("index", "warn", found, f"hubprobe index {w}")
    else:
        yield Check("index", "ok", f"{found}, every file as long as it was; every byte: hubprobe index --verify")
