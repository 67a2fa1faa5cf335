"""Where a model's weights lie: on its device, or spread by accelerate over devices, memory and disk where too large."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

_log = logging.getLogger(__name__)

SHARE = 0.7
"""Share of a device's free memory that weights may take: the rest is for activations and what else runs there."""


def place(
    module: nn.Module,
    device: str,
    *,
    lone: bool = False,
    max_memory: Mapping[int | str, int] | None = None,
    offload: Path | None = None,
) -> str:
    """Move ``module`` to ``device`` and return where it is, such as ``cuda:0`` or ``cuda:0+cpu``.

    Args:
        module: loaded on the CPU, in evaluation mode.
        device: where its inputs will be.
        lone: this process may use the other devices of this host, too.
        max_memory: bytes that weights may take on each device, ``cpu`` and ``disk`` included; what is free when None.
        offload: folder for weights that go to the disk.
    """
    import torch

    size = sum(t.numel() * t.element_size() for t in [*module.parameters(), *module.buffers()])
    room = dict(max_memory) if max_memory is not None else _room(device, lone)
    first = torch.device(device).index if device.startswith("cuda") else device
    if room.get(first if first is not None else 0, size) >= size:
        # convolutions are quicker on channels-last memory; other layers do not mind
        module.to(device).to(memory_format=torch.channels_last)
        return device
    return _spread(module, device, room, offload)


def _spread(module: nn.Module, device: str, room: dict[int | str, int], offload: Path | None) -> str:
    """Let accelerate divide the layers by what fits where; each is brought to a device when its turn comes."""
    from accelerate import dispatch_model, infer_auto_device_map

    whole = list(getattr(module, "_no_split_modules", None) or [])
    layers = infer_auto_device_map(module, max_memory=room, no_split_module_classes=whole)
    dispatch: Any = dispatch_model
    folder = None if offload is None else str(offload)
    dispatch(module, layers, main_device=device, offload_dir=folder, force_hooks=True)
    names = sorted({f"cuda:{place}" if isinstance(place, int) else str(place) for place in layers.values()})
    _log.info("weights spread over %s", ", ".join(names))
    return "+".join(names)


def _room(device: str, lone: bool) -> dict[int | str, int]:
    """Return the bytes that weights may take on ``device`` and, in a spread, on the CPU and on devices nobody uses."""
    import torch

    if not device.startswith("cuda"):
        return {}
    own = torch.device(device).index or 0
    devices = range(torch.cuda.device_count()) if lone else [own]
    room: dict[int | str, int] = {i: int(SHARE * torch.cuda.mem_get_info(i)[0]) for i in sorted(devices)}
    return room | {"cpu": host_memory()}


def host_memory(proc: Path = Path("/proc/self"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return this machine's memory in bytes, or what the control groups of the process at ``proc`` may use of it."""
    if not hasattr(os, "sysconf"):  # pragma: no cover - Windows
        return 2**63 - 1
    total = int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limits = ("memory.max", "memory.high", "memory.limit_in_bytes")
    found = [int(text) for text in control_groups("memory", limits, proc, root) if text.isdecimal()]  # or "max"
    return min([total, *(limit for limit in found if limit > 0)])


def control_groups(
    controller: str, files: Sequence[str], proc: Path = Path("/proc/self"), root: Path = Path("/sys/fs/cgroup")
) -> list[str]:
    """Return what ``files`` say in the control groups that a process is in, and in all those that these are in.

    Args:
        controller: such as ``memory``; of it are the groups where each controller has groups of its own (version 1).
        files: names of files in a group's folder; what is not there is left out.
        proc: the process's folder in ``/proc``.
        root: where control groups are mounted. In a container a group's path may be the host's and not be there:
            then the groups above it are looked at, the mount's own among them.
    """
    try:
        lines = (proc / "cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no Linux
        return []
    found: list[str] = []
    for line in ["0::/", *lines]:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        for mount in (root / controllers, root / controller) if controllers else (root, root / "unified"):
            group = mount / path.strip("/")
            if ".." in group.parts:  # of a group outside this container's: nothing is told of it
                group = mount
            for folder in (group, *group.parents):
                found += [text for name in files if (text := _text(folder / name))]
                if folder == mount:
                    break
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
