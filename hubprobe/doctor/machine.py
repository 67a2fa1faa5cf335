"""The machine: the device that models run on, cores, memory, limits, walls; its disks; Python and the libraries."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from hubprobe.doctor.check import Check, Setting
from hubprobe.output import size
from workspace.version import __version__

_DRIVER = Path("/proc/driver/nvidia/version")
_GROUPS = Path("/sys/fs/cgroup")
_SHARED = Path("/dev/shm")

LITTLE_MEMORY = 4 * 2**30
LITTLE_VIDEO_MEMORY = 4 * 2**30
FEW_FILES = 1024
LITTLE_SHARED = 16 * 2**20


def device(_: Setting) -> Iterator[Check]:
    """What torch can compute on: each device is made to add up sixteen ones."""
    try:
        import torch
    except Exception as error:  # noqa: BLE001 - a half-installed torch raises anything
        said = f"torch cannot be imported: {type(error).__name__}: {error}"
        yield Check("device", "fail", said, "pip install --force-reinstall torch torchvision")
        return
    if torch.cuda.is_available():
        kind = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
        for i in range(torch.cuda.device_count()):
            yield _gpu(torch, i, kind)
    elif torch.backends.mps.is_available():
        works = _works(torch, "mps")
        yield Check("device mps", "fail" if works else "ok", works or "Apple GPU", "use --device cpu" if works else "")
    else:
        yield _no_gpu(torch)


def _gpu(torch: Any, i: int, kind: str) -> Check:
    name = f"device cuda:{i}"
    if broken := _works(torch, f"cuda:{i}"):
        advice = "this torch was not built for this GPU or driver: see pytorch.org/get-started, or use --device cpu"
        return Check(name, "fail", f"{torch.cuda.get_device_name(i)}: {broken}", advice)
    free, total = torch.cuda.mem_get_info(i)
    found = f"{torch.cuda.get_device_name(i)}, {size(free)} of {size(total)} free, {kind}{_driver()}"
    if free < LITTLE_VIDEO_MEMORY:
        return Check(name, "warn", found, "another process holds its memory: see nvidia-smi; large models will not fit")
    return Check(name, "ok", found)


def _no_gpu(torch: Any) -> Check:
    """Say why there is only the processor, when a driver says that there could be more."""
    if not _driver():
        return Check("device", "ok", "cpu; no GPU driver on this machine")
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return Check("device", "warn", "cpu: CUDA_VISIBLE_DEVICES hides every GPU", "unset CUDA_VISIBLE_DEVICES")
    if not torch.version.cuda:
        found = f"cpu: this torch ({torch.__version__}) was built without CUDA{_driver()}"
        return Check("device", "warn", found, "install a CUDA build of torch: see pytorch.org/get-started")
    try:
        torch.cuda.init()
        why = "torch sees no device"
    except Exception as error:  # noqa: BLE001 - whatever CUDA says is the answer
        why = str(error)
    found = f"cpu: torch for CUDA {torch.version.cuda}{_driver()}: {why}"
    advice = "update the driver, or install a torch for an older CUDA; in a container start it with --gpus all"
    return Check("device", "warn", found, advice)


def _works(torch: Any, name: str) -> str:
    """Return why a sum on this device goes wrong; empty when it is right."""
    try:
        total = float(torch.ones(4, 4, device=name).sum())
    except Exception as error:  # noqa: BLE001 - whatever the device says is the answer
        return f"{type(error).__name__}: {error}"
    return "" if total == 16.0 else f"adds up 16 ones to {total}"


def _driver() -> str:
    try:
        words = _DRIVER.read_text(encoding="utf-8").split("Kernel Module", 1)[-1].split()
    except OSError:
        return ""
    version = next((word for word in words if word[:1].isdigit()), "?")
    return f", driver {version}"


def processor(_: Setting) -> Iterator[Check]:
    """Cores, threads and memory, as far as this process may use them."""
    from probing.model.placement import control_groups, host_memory

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [text.split() for text in control_groups("cpu", ["cpu.max"], root=_GROUPS)]
    quota = min((int(most) / int(period) for most, period in quotas if most != "max"), default=None)
    threads = os.environ.get("OMP_NUM_THREADS", "")
    memory = host_memory()
    found = f"{cores} core{'s'[: cores != 1]}, {size(memory)} memory"
    found += f", OMP_NUM_THREADS={threads}" if threads else ""
    if threads and not (threads.isdecimal() and 0 < int(threads) <= cores):
        yield Check("processor", "warn", found, f"set OMP_NUM_THREADS to 1..{cores}, or unset it")
    elif quota is not None and quota < cores:
        found += f", but its control group gets {quota:g}"
        yield Check("processor", "warn", found, f"set OMP_NUM_THREADS={max(int(quota), 1)}: more threads only wait")
    elif memory < LITTLE_MEMORY:
        yield Check("processor", "warn", found, "large models end as exceeds_memory: use a machine with 8 GB or more")
    else:
        yield Check("processor", "ok", found)


def walls(_: Setting) -> Iterator[Check]:
    """What keeps a stranger's model from the network, from other programs and from files, tried in a process."""
    from probing.child import walls

    standing = walls.standing()
    if not standing:
        advice = "run 'hubprobe probe' in a container that has no network and owns nothing but the workspace"
        yield Check("walls", "warn", "could not be tried: the process that tries them failed", advice)
        return
    found = "around a model's process: " + ", ".join(standing)
    if "seccomp" in standing and "landlock" in standing:
        yield Check("walls", "ok", found)
        return
    advice = (
        "this kernel or container keeps the others from being raised; Python's audit hook does not bind native code"
    )
    yield Check("walls", "warn", found, advice)


def limits(_: Setting) -> Iterator[Check]:
    """Open files, and the shared memory that locks between processes live in."""
    try:
        import resource
    except ImportError:  # pragma: no cover - Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    many = soft == unlimited or soft >= FEW_FILES
    found = "unlimited" if soft == unlimited else f"{soft}"
    advice = "" if many else f"ulimit -n {4096 if hard == unlimited else min(hard, 4096)}"
    yield Check("open files", "ok" if many else "warn", found, advice)
    if not _SHARED.is_dir():
        return
    free = os.statvfs(_SHARED).f_bavail * os.statvfs(_SHARED).f_frsize
    full = free < LITTLE_SHARED
    advice = "delete what is in it; in a container: docker run --shm-size=1g" if full else ""
    yield Check("/dev/shm", "warn" if full else "ok", f"{size(free)} free", advice)


# ── the disks that hubprobe writes to ─────────────────────────────────────────────────────────────────────────────────


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


# ── Python and the libraries, against the ranges of hubprobe's own metadata ───────────────────────────────────────────


SHOWN = ("torch", "torchvision", "transformers", "timm", "huggingface_hub", "lancedb", "duckdb")
"""Libraries with a row of their own; the others get one when something is wrong with them."""

_TOOLS = "dev"  # an extra for those who change hubprobe


def python(_: Setting) -> Iterator[Check]:
    """Python's version, and whether the installed hubprobe is the one that runs."""
    try:
        about = metadata.metadata("hubprobe")
    except metadata.PackageNotFoundError:
        yield Check("hubprobe", "warn", f"{__version__}, not installed, only importable", "pip install hubprobe")
        return
    same = about["Version"] == __version__
    advice = "" if same else "install it again: pip install --force-reinstall --no-deps hubprobe"
    found = f"{__version__}" if same else f"{__version__} runs, {about['Version']} is installed"
    yield Check("hubprobe", "ok" if same else "warn", found, advice)
    allowed = SpecifierSet(about["Requires-Python"] or "")
    version = platform.python_version()
    fits = allowed.contains(version, prereleases=True)
    tested = {c.rpartition(" ")[2] for c in about.get_all("Classifier") or [] if "Python :: 3." in c}
    found = f"{version}, {platform.python_implementation()} on {platform.system()} {platform.machine()}"
    if not fits:
        yield Check("python", "fail", f"{found}; hubprobe needs {allowed}", f"use a Python {allowed}")
    elif ".".join(map(str, sys.version_info[:2])) not in tested:
        found = f"{found}; tried with {', '.join(sorted(tested))}"
        yield Check("python", "warn", found, "if it fails, use one of those")
    else:
        yield Check("python", "ok", found)


def packages(_: Setting) -> Iterator[Check]:
    """Every library that hubprobe needs, and whether torchvision was built for this torch."""
    required = _required(lambda r: r.marker is None or r.marker.evaluate({"extra": ""}))
    fine = []
    for need in required:
        check = _judged(need)
        if check.state != "ok" or need.name.replace("-", "_") in SHOWN:
            yield check
        else:
            fine.append(need.name)
    if fine:
        yield Check("other libraries", "ok", f"{len(fine)} in their ranges: {', '.join(sorted(fine))}")
    yield from _torchvision()


def extras(_: Setting) -> Iterator[Check]:
    """What can be added, and whether it is there."""
    try:
        names = metadata.metadata("hubprobe").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return
    for extra in (name for name in names if name != _TOOLS):
        needs = _required(lambda r, e=extra: r.marker is not None and _only_with(r, e))
        judged = [_judged(need) for need in needs]
        bad = [check for check in judged if check.state != "ok"]
        missing = [check for check in bad if check.found.startswith("missing")]
        install = f"pip install 'hubprobe[{extra}]'"
        if missing and len(missing) == len(judged):
            yield Check(f"extra {extra}", "ok", "not installed, not needed for the rest", f"if you want it: {install}")
        elif bad:
            yield Check(f"extra {extra}", "warn", "; ".join(f"{c.check} {c.found}" for c in bad), install)
        else:
            yield Check(f"extra {extra}", "ok", ", ".join(f"{c.check} {c.found}" for c in judged))


def _judged(need: Requirement) -> Check:
    wanted = f"{need.name}{need.specifier}"
    try:
        version = metadata.version(need.name)
    except metadata.PackageNotFoundError:
        return Check(need.name, "fail", f"missing; hubprobe needs {wanted}", f"pip install '{wanted}'")
    if need.specifier.contains(version, prereleases=True):
        return Check(need.name, "ok", f"{version} ({_range(need.specifier)})" if need.specifier else version)
    return Check(need.name, "fail", f"{version}; hubprobe needs {_range(need.specifier)}", f"pip install '{wanted}'")


def _range(specifiers: SpecifierSet) -> str:
    return ", ".join(sorted(map(str, specifiers), reverse=True))  # the lower bound first


def _torchvision() -> Iterator[Check]:
    try:
        needs = [Requirement(text) for text in metadata.requires("torchvision") or []]
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:  # said above
        return
    for need in needs:
        if need.name == "torch" and not need.specifier.contains(version, prereleases=True):
            found = f"torchvision was built for torch{need.specifier}, and torch {version} is here"
            advice = "install both at once: pip install -U torch torchvision"
            yield Check("torch with torchvision", "fail", found, advice)


def _required(wanted: object) -> list[Requirement]:
    try:
        texts: Iterable[str] = metadata.requires("hubprobe") or []
    except metadata.PackageNotFoundError:
        return []
    return [need for need in map(Requirement, texts) if wanted(need)]  # type: ignore[operator]


def _only_with(need: Requirement, extra: str) -> bool:
    marker = need.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})
