"""Times, and what else the machine was doing."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def milliseconds(call: Callable[[Any], Any], arguments: Sequence[Any]) -> dict[str, float]:
    """Return p50, p99 and the minimum of calling ``call`` with each argument, in milliseconds."""
    times = []
    for argument in arguments:
        started = time.perf_counter()
        call(argument)
        times.append((time.perf_counter() - started) * 1e3)
    return {
        "p50_ms": round(float(np.percentile(times, 50)), 3),
        "p99_ms": round(float(np.percentile(times, 99)), 3),
        "min_ms": round(min(times), 3),
        "n": len(times),
    }


def bandwidth_gb_s(threads: int = 2) -> float:
    """Return what ``threads`` threads read from memory together, best of five: the floor's denominator."""
    from concurrent.futures import ThreadPoolExecutor

    parts = [np.ones(1 << 25, np.float64) for _ in range(threads)]  # 256 MB each, beyond the caches
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            started = time.perf_counter()
            list(pool.map(np.sum, parts))
            best = max(best, sum(p.nbytes for p in parts) / (time.perf_counter() - started) / 1e9)
    return round(best, 1)


def machine() -> dict[str, Any]:
    """Return processor, cores and the load averages of this moment."""
    model = platform.processor()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            model = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": model, "cores": cores, "load": [round(x, 1) for x in os.getloadavg()]}
