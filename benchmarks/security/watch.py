"""What is watched while hostile inputs are tried: how each ended, how long it took, how much memory grew."""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

HANG_SECONDS = 5.0
"""An input that takes longer is a failure."""

GROWTH_BYTES = 1 << 30
"""A part whose process ever grows by more than this over its start is a failure."""


class HungError(BaseException):
    """Raised in the middle of an input that takes too long; no ``except Exception`` may swallow it."""


@dataclass
class Report:
    """How the inputs of one part ended.

    Attributes:
        part: its name.
        seed: of its inputs.
        inputs: tried.
        accepted: that were answered.
        refused: that ended in an error raised on purpose, or a 4xx.
        failures: one text for each input that did neither: a traceback, a 5xx, a hang.
        slowest: seconds of the slowest.
        growth: bytes that the process's peak memory grew over the start.
        seconds: of the whole part.
    """

    part: str
    seed: int
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0
    growth: int = 0
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether nothing failed, hung or grew."""
        return not self.failures and self.growth <= GROWTH_BYTES


@contextmanager
def watching(part: str, seed: int) -> Iterator[Report]:
    """Yield a `Report` whose totals are filled in at the end."""
    report, before, started = Report(part, seed), peak_memory(), time.perf_counter()
    yield report
    report.growth = peak_memory() - before
    report.seconds = time.perf_counter() - started


def attempt(report: Report, call: Callable[[], object], shown: str, expected: type[Exception]) -> None:
    """Run ``call`` on one input and book its end; ``expected`` is what a refusal raises, ``shown`` names the input."""
    report.inputs += 1
    started = time.perf_counter()
    old = signal.signal(signal.SIGALRM, _hung)
    signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
    try:
        call()
        report.accepted += 1
    except expected:
        report.refused += 1
    except HungError:
        report.failures.append(f"over {HANG_SECONDS:.0f} s: {shown[:500]}")
    except Exception:  # noqa: BLE001 - the very thing that is looked for
        report.failures.append(f"{shown[:500]}\n{traceback.format_exc()[-1500:]}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    report.slowest = max(report.slowest, time.perf_counter() - started)


def _hung(_signal: int, _frame: FrameType | None) -> None:
    raise HungError


def peak_memory() -> int:
    """Return the largest resident size of this process so far, in bytes (Linux)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    return 0
