"""How many images go through a model at once.

On a CPU it is a rule, not a measurement: the last bits of a float sum depend on the batch, and they must be the same
whoever runs the model, in whatever company. On an accelerator it is grown by measurement and remembered.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from probing.attempts import is_out_of_memory
from workspace import WorkspaceError
from workspace.files import read_json, write_json

_log = logging.getLogger(__name__)

CPU_INPUT_BYTES = 8 * 1024**2
"""Most input of a batch on a CPU, in bytes of float32: 8 images of 224 pixels, 64 of 80.

Processor time per image, one thread, channels-last (Xeon, 2 MB of L2 cache a core): EfficientNet-Lite0 at 224 pixels
19.6, 18.7, 21.4 ms in batches of 4, 16, 64 (38.8 ms in 64 where freed memory goes back to the system); ViT-S 83, 77,
78 ms in 4, 8, 16; ResNet-18 30, 29, 28 ms; a ResNet of 56 pixels 0.56, 0.35, 0.32, 0.30 ms in 8, 32, 64, 256."""

GAIN = 1.05
"""A larger batch is kept on an accelerator when it makes the rate, in images per second, at least so much higher."""


def for_cpu(shape: Sequence[int], most: int) -> int:
    """Return the images in a batch of inputs of ``shape`` [channels, height, width]: a power of two, or ``most``."""
    count = 1
    image = 4
    for edge in shape:
        image *= edge
    while count < most and 2 * count * image <= CPU_INPUT_BYTES:
        count *= 2
    return min(count, most)


def grown(seconds: Callable[[int], float], start: int, most: int) -> int:
    """Return the batch at the knee: doubled from ``start`` as long as the rate grows and memory lasts.

    Args:
        seconds: runs a batch of so many images and returns the time it took.
        start: smallest batch.
        most: largest batch.
    """
    best, rate = start, start / seconds(start)
    while 2 * best <= most:
        try:
            faster = 2 * best / seconds(2 * best)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            break
        if faster < GAIN * rate:
            break
        best, rate = 2 * best, faster
    return best


class Memory:
    """Batches found earlier on this device, in ``cache/batches.json``, by architecture, size and input."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, key: str) -> int | None:
        """Return the batch remembered for ``key``."""
        found = self._read().get(key)
        return found if type(found) is int and found > 0 else None

    def put(self, key: str, batch: int) -> None:
        """Remember ``batch``. Of two processes that write at once one is forgotten: it is measured again."""
        known = self._read()
        if known.get(key) != batch:
            write_json(self._path, known | {key: batch})

    def _read(self) -> dict[str, Any]:
        try:
            known = read_json(self._path)
        except (OSError, WorkspaceError) as error:
            if not isinstance(error, FileNotFoundError):
                _log.debug("forgetting %s: %s", self._path, error)
            return {}
        return known if isinstance(known, dict) else {}
