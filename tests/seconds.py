"""Seconds of processors, which a busy machine does not lengthen: what a test of quickness may measure."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def children_seconds() -> Iterator[Callable[[], float]]:
    """Yield a function that returns what children that ended since have used, theirs included."""

    def used() -> float:
        found = resource.getrusage(resource.RUSAGE_CHILDREN)
        return found.ru_utime + found.ru_stime

    before = used()
    yield lambda: used() - before


def seconds_of(pid: int) -> float:
    """Return what a process that runs has used so far; from Linux's /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
