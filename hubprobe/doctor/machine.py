"""The device that models run on, cores and memory, and the limits of this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hubprobe.doctor.check import Check, Setting
from hubprobe.output import size

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
    from probing.model.placement import host_memory

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota()
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


def _cpu_quota() -> float | None:
    from probing.model.placement import control_groups

    found = [text.split() for text in control_groups("cpu", ["cpu.max"], root=_GROUPS)]
    return min((int(quota) / int(period) for quota, period in found if quota != "max"), default=None)


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
