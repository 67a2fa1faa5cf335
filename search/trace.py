"""What a query did, step by step, for ``explain``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Step:
    """One step: its name, what it worked on, the bytes it read and the time it took."""

    name: str
    detail: str = ""
    bytes: int = 0
    ms: float = 0.0


@dataclass
class Trace:
    """Collects steps; a disabled one costs nothing.

    ``str(trace)`` is the plan as a table for people.
    """

    steps: list[Step] = field(default_factory=list)
    enabled: bool = True

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Time a step; fill in ``detail`` and ``bytes`` inside the block."""
        current = Step(name)
        started = time.perf_counter()
        try:
            yield current
        finally:
            current.ms = (time.perf_counter() - started) * 1e3
            if self.enabled:
                self.steps.append(current)

    @property
    def ms(self) -> float:
        """Time of all steps, in milliseconds."""
        return sum(step.ms for step in self.steps)

    def __str__(self) -> str:
        lines = [f"{'step':<12}{'ms':>9}{'MB read':>10}  detail"]
        lines += [f"{s.name:<12}{s.ms:>9.2f}{s.bytes / 1e6:>10.2f}  {s.detail}" for s in self.steps]
        lines.append(f"{'total':<12}{self.ms:>9.2f}{sum(s.bytes for s in self.steps) / 1e6:>10.2f}")
        return "\n".join(lines)


SILENT = Trace(enabled=False)
"""For queries nobody asked to explain."""
