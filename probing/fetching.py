"""Models fetched ahead of those that run, by a few threads, within bounds on their number and their bytes."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from probing.attempts import Attempt
from probing.plan import Task
from workspace import ModelError
from workspace.seams import Fetch, Fetched

_log = logging.getLogger(__name__)

THREADS = 2
"""Models fetched at once: one may wait for its server while the other receives."""

AHEAD_MODELS = 5
"""Models fetched or being fetched and not yet booked. Small, because at the end of a run they are what one process has
and the others lack; and as many as keep `WINDOW` models running while two are fetched."""

AHEAD_BYTES = 16 * 1024**3
"""Bytes of weights fetched and not yet booked; one model alone may be larger."""


@dataclass
class Taken:
    """A task with its files, or with the error that fetching them met."""

    task: Task
    row: Mapping[str, Any]
    attempt: Attempt
    fetched: Fetched | None = None
    error: ModelError | None = None


class Fetching:
    """Takes tasks and fetches their files until there are none; each ends on ``done``, and None when all have.

    Args:
        fetch: brings a model's files.
        take: returns the next task, None when there is none; called by one thread at a time.
        done: queue of `Taken`.
    """

    def __init__(self, fetch: Fetch, take: Callable[[], Taken | None], done: queue.Queue[Any]) -> None:
        self._fetch, self._take, self._done = fetch, take, done
        self._room = threading.Condition()
        self._models = self._bytes = 0
        self._stopped = False
        self._running = THREADS
        self._threads = [threading.Thread(target=self._serve, name="fetch", daemon=True) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def booked(self, taken: Taken) -> None:
        """Give back the room of a model that was booked."""
        with self._room:
            self._models -= 1
            self._bytes -= _size(taken)
            self._room.notify_all()

    def stop(self) -> None:
        """Take no more; wait for the fetches under way."""
        with self._room:
            self._stopped = True
            self._room.notify_all()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        try:
            while (taken := self._reserve()) is not None:
                try:
                    with taken.attempt.phase("fetch"):
                        taken.fetched = self._fetch(taken.row)
                    taken.attempt.fields["bytes_fetched"] = taken.fetched.bytes_fetched
                except ModelError as error:
                    taken.error = error
                self._done.put(taken)
        except Exception as error:  # noqa: BLE001 - handed to the main thread, which raises it
            _log.error("taking the next model failed", exc_info=error)
            self._done.put(error)
        with self._room:
            self._running -= 1
            if not self._running:
                self._done.put(None)

    def _reserve(self) -> Taken | None:
        """Wait until there is room for one more model, take it, and wait until there is room for its bytes."""
        with self._room:
            self._room.wait_for(lambda: self._stopped or self._models < AHEAD_MODELS)
            if self._stopped or (taken := self._take()) is None:
                return None
            self._models += 1
            size = _size(taken)
            self._room.wait_for(lambda: self._stopped or not self._bytes or self._bytes + size <= AHEAD_BYTES)
            self._bytes += size
            return None if self._stopped else taken


def _size(taken: Taken) -> int:
    return int(taken.row["weights_bytes"] or 0)
