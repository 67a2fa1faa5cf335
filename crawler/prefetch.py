"""Fetching ahead: while one model is run, the next ones in the prober's order come in beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

THREADS = 2  # models fetched at a time: one file at full bandwidth, one hiding its latency

Bring = Callable[[], int | None]
"""Fetches a model and returns a lock that keeps it; None when there is no room for it yet."""


class Prefetch:
    """Models being fetched, or kept, for a demand that is still to come.

    Args:
        drop: gives a lock back.
    """

    def __init__(self, drop: Callable[[int], None]) -> None:
        self._drop = drop
        self._threads = ThreadPoolExecutor(THREADS, "prefetch")
        self._lock = threading.Lock()
        self._coming: dict[str, Future[int | None]] = {}

    def plan(self, wanted: Sequence[tuple[str, Bring]]) -> None:
        """Fetch the models named in ``wanted``, in that order, and let others of an earlier plan go."""
        with self._lock:
            names = {name for name, _ in wanted}
            for name in [name for name in self._coming if name not in names]:
                self._let_go(name)
            for name, bring in wanted:
                if name not in self._coming:
                    self._coming[name] = self._threads.submit(bring)

    def take(self, name: str) -> int | None:
        """Return the lock on a planned model, waiting while it is fetched; None when it was not, or had no room.

        Raises what fetching it raised.
        """
        with self._lock:
            future = self._coming.pop(name, None)
        if future is None or future.cancel():
            return None
        return future.result()

    def make_way(self) -> None:
        """Let go of models that are here but not yet asked for: a demand needs their room."""
        with self._lock:
            for name in [name for name, future in self._coming.items() if future.done()]:
                self._let_go(name)

    def close(self) -> None:
        """Let everything go and stop."""
        with self._lock:
            for name in list(self._coming):
                self._let_go(name)
        self._threads.shutdown(cancel_futures=True)

    def _let_go(self, name: str) -> None:
        future = self._coming.pop(name)
        if not future.cancel():
            future.add_done_callback(self._dropped)

    def _dropped(self, future: Future[int | None]) -> None:
        if future.exception() is None and (handle := future.result()) is not None:
            self._drop(handle)
