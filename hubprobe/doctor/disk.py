"""The disks that hubprobe writes to: room, inodes, kind of file system, permission."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hubprobe.doctor.check import Check, Setting
from hubprobe.output import size

_MOUNTS = Path("/proc/self/mounts")
_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "afs")
_MEMORY = ("tmpfs", "ramfs")
_FEW_INODES = 100_000

IMAGE_BYTES = 200_000
"""Of a probe image, its row in the probe set: photographs of COCO are 160 KB."""

TYPICAL_LOGITS = 100
"""Outputs of an image classifier, on average over a thousand-class model and many of a few classes."""

BYTES_PER_RESPONSE = 7
"""One output on one probe: two bytes each as response, descriptor and in the index, and a byte as the index's code."""


def disks(setting: Setting) -> Iterator[Check]:
    """One row per place; a place on the same file system as an earlier one adds nothing."""
    from huggingface_hub.constants import HF_HOME

    seen: set[int] = set()
    places = {
        "disk of the workspace": (setting.root, setting.least_bytes),
        "disk of the workspace's cache": (setting.root / "cache", setting.least_bytes),
        "disk of HF_HOME": (Path(HF_HOME), setting.least_bytes // 10),
        "disk of temporary files": (Path(tempfile.gettempdir()), setting.least_bytes // 10),
    }
    for name, (place, least) in places.items():
        there = _existing(place)
        if not os.access(there, os.W_OK | os.X_OK) or not there.is_dir():
            yield Check(name, "fail", f"{there} cannot be written to", "name another folder, or mend its permissions")
        if (number := there.stat().st_dev) not in seen:
            seen.add(number)
            yield _room(name, there, least, estimate(setting) if there == _existing(setting.root) else 0)


def estimate(setting: Setting) -> int:
    """Return the bytes that a run is known to need beyond the room for one model's files.

    The encoder's files, as the check of the encoder found them; the probe images; and, of a run with a limit, what its
    models would leave. What a whole Hub leaves is not known before it is listed.
    """
    probes = setting.own.probes.n
    needed = int(setting.learned.get("encoder_bytes", 0))
    if not setting.learned.get("has_probes"):
        needed += probes * IMAGE_BYTES
    if setting.limit is not None and not setting.is_searchable:
        needed += setting.limit * TYPICAL_LOGITS * probes * BYTES_PER_RESPONSE
    return needed


def _room(name: str, place: Path, least: int, known: int = 0) -> Check:
    usage = shutil.disk_usage(place)
    kind = file_system(place)
    found = f"{size(usage.free)} of {size(usage.total)} free at {place}" + (f", {kind}" if kind else "")
    least += known
    if usage.free < least:
        return Check(name, "fail", found, f"make room: at least {size(least)}; a workspace's cache/ may be deleted")
    inodes = os.statvfs(place) if hasattr(os, "statvfs") else None
    if inodes is not None and inodes.f_files and inodes.f_favail < _FEW_INODES:
        return Check(name, "warn", f"{found}, {inodes.f_favail} inodes left", "delete small files, or use another disk")
    if kind in _NETWORK or kind.startswith("fuse."):
        advice = "fine to crawl and probe; to search copy the workspace to a local disk: its index is memory-mapped"
        return Check(name, "warn", f"{found}: a network file system", advice)
    if kind in _MEMORY:
        return Check(name, "warn", f"{found}: memory, gone at the next boot", "keep a workspace on a disk")
    if usage.free < 10 * least:
        advice = (
            f"enough to begin with; a crawl wants {size(10 * least)} and more, or a bound: hubprobe probe --max-disk GB"
        )
        return Check(name, "warn", found, advice)
    return Check(name, "ok", found)


def file_system(place: Path) -> str:
    """Return the type of the file system that ``place`` is on, such as ``ext4``; empty where nothing says so."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    target, best, kind = place.resolve(), -1, ""
    for line in lines:
        _, mount, found, *_ = line.split(" ")
        point = Path(mount.replace("\\040", " "))
        if len(point.parts) >= best and (point == target or point in target.parents):
            best, kind = len(point.parts), found  # of equals the last: it is mounted on top
    return kind


def _existing(place: Path) -> Path:
    place = place.expanduser().absolute()
    return next(p for p in (place, *place.parents) if p.exists())
