"""Models fetched ahead of those that run, by a few threads, within bounds on their number and their bytes."""

from __future__ import annotations

import logging
import queue
import threading
from bisect import insort
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Generic, TypeVar

from probing.attempts import Attempt
from probing.inflight import LAST_AFTER
from probing.plan import Task
from workspace import ModelError, Status
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
    given_up: bool = False  # it was booked although its fetch went on: what still comes is not used


class Fetching:
    """Takes tasks and fetches their files until there are none; each ends on ``done``, and None when all have.

    Args:
        fetch: brings a model's files.
        take: returns the next task, None when there is none; called by one thread at a time.
        done: queue of `Taken`.
        seconds: what a fetch may take.
    """

    def __init__(self, fetch: Fetch, take: Callable[[], Taken | None], done: queue.Queue[Any], seconds: float) -> None:
        self._fetch, self._take, self._done, self._seconds = fetch, take, done, seconds
        self._room, self._taking = threading.Condition(), threading.Lock()
        self._models = self._bytes = 0
        self._stopped = False
        self._running = 0
        self._threads: list[threading.Thread] = []
        self._busy: dict[threading.Thread, tuple[Taken, float]] = {}
        for _ in range(THREADS):
            self._start()

    def booked(self, taken: Taken) -> None:
        """Give back the room of a model that was booked."""
        with self._room:
            self._models -= 1
            self._bytes -= _size(taken)
            self._room.notify_all()

    def late(self) -> list[Taken]:
        """Return, once, the models whose fetch goes on for too long, each with the error to book.

        A thread cannot be stopped: another takes its place, and it ends when its fetch does.
        """
        now, seconds, found = monotonic(), self._seconds, []
        with self._room:
            for thread, (taken, since) in list(self._busy.items()):
                if now - since <= seconds or self._stopped:
                    continue
                taken.given_up = True
                del self._busy[thread]
                self._threads.remove(thread)
                self._running -= 1
                error = ModelError(Status.TIMEOUT, f"hung in fetch: not over after {seconds:.0f} s")
                attempt = taken.attempt.copy()
                attempt.fields["seconds_fetch"] = now - since
                found.append(Taken(taken.task, taken.row, attempt, error=error))
                self._start()
        return found

    def _start(self) -> None:
        thread = threading.Thread(target=self._serve, name="fetch", daemon=True)
        self._threads.append(thread)
        self._running += 1
        thread.start()

    def stop(self, patience: float | None = None) -> None:
        """Take no more; wait for the fetches under way, in all ``patience`` seconds, or until they end."""
        with self._room:
            self._stopped = True
            self._room.notify_all()
        until = None if patience is None else monotonic() + patience
        for thread in self._threads:
            thread.join(None if until is None else max(until - monotonic(), 0))

    def _serve(self) -> None:
        me, taken = threading.current_thread(), None
        try:
            while (taken := self._reserve()) is not None:
                with self._room:
                    self._busy[me] = taken, monotonic()
                started = monotonic()
                try:
                    with taken.attempt.phase("fetch"):
                        taken.fetched = self._fetch(taken.row)
                    taken.attempt.fields["bytes_fetched"] = taken.fetched.bytes_fetched
                    if (seconds := monotonic() - started) > self._seconds:
                        raise ModelError(Status.TIMEOUT, f"took {seconds:.1f} s to fetch, where it had {self._seconds}")
                except ModelError as error:
                    taken.error = error
                with self._room:
                    self._busy.pop(me, None)
                    taken.given_up |= self._stopped
                    if taken.given_up:
                        break
                self._done.put(taken)
        except Exception as error:  # noqa: BLE001 - handed to the main thread, which raises it
            if self._stopped:  # nobody listens, and the fetcher may be closed by now
                return
            _log.error("taking the next model failed", exc_info=error)
            self._done.put(error)
        if taken is not None and taken.given_up:
            if taken.fetched is not None:
                taken.fetched.release()
            return
        with self._room:
            self._running -= 1
            if not self._running:
                self._done.put(None)

    def _reserve(self) -> Taken | None:
        """Wait until there is room for one more model, take it, and wait until there is room for its bytes."""
        with self._taking:
            with self._room:
                self._room.wait_for(lambda: self._stopped or self._models < AHEAD_MODELS)
            if self._stopped or (taken := self._take()) is None:  # it may wait, so `_room` must not: that books
                return None
            with self._room:
                self._models += 1
        with self._room:
            size = _size(taken)
            self._room.wait_for(lambda: self._stopped or not self._bytes or self._bytes + size <= AHEAD_BYTES)
            self._bytes += size
            return None if self._stopped else taken


def _size(taken: Taken) -> int:
    return int(taken.row["weights_bytes"] or 0)


W = TypeVar("W", bound=Hashable)


class HandOut(Generic[W]):
    """Models in their plan's order, the largest first, a few at a time to each worker, so that it can fetch ahead.

    Example:
        >>> handout = HandOut([Task("a/large", "0" * 40, 1), Task("a/small", "0" * 40, 1)])
        >>> handout.join("worker")
        >>> [task.repo_id for _, task in handout.ready()]
        ['a/large', 'a/small']
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._waiting = list(enumerate(tasks))[::-1]  # the next one is the last
        self._last: list[Task] = []
        self._held: dict[W, list[tuple[int, Task]]] = {}

    @property
    def left(self) -> int:
        """Models that have not ended."""
        return self.waiting + sum(map(len, self._held.values()))

    @property
    def waiting(self) -> int:
        """Models that nobody has."""
        return len(self._waiting) + len(self._last)

    def held(self, worker: W) -> list[Task]:
        """Return what a worker has."""
        return [task for _, task in self._held.get(worker, ())]

    def join(self, worker: W) -> None:
        """Have ``worker`` take part from now on."""
        self._held[worker] = []

    def ready(self) -> list[tuple[W, Task]]:
        """Hand out what can be: to whoever has least, and towards the end fewer ahead, for those that come free."""
        given = []
        while self.waiting and self._held:
            worker = min(self._held, key=lambda w: len(self._held[w]))
            if len(self._held[worker]) >= max(1, min(AHEAD_MODELS, self.waiting // len(self._held))):
                break
            self._held[worker].append(self._waiting.pop() if self._waiting else (-1, self._last.pop(0)))
            given.append((worker, self._held[worker][-1][1]))
        return given

    def ended(self, worker: W, task: Task) -> None:
        """Note that ``worker`` has ended with ``task``."""
        self._held[worker] = [held for held in self._held[worker] if held[1] != task]

    def lost(self, worker: W, *, by_itself: bool = False) -> list[Task]:
        """Take back what a worker that is gone had, to be handed out again in its place; return that.

        When it died by itself, and not with its machine, one of its models may be why: each is held against it, and
        from `LAST_AFTER` deaths on it is tried after all others.
        """
        back = self._held.pop(worker, [])
        for place, task in back:
            again = replace(task, deaths=task.deaths + by_itself)
            if again.deaths >= LAST_AFTER:
                self._last.append(again)
            else:
                insort(self._waiting, (place, again), key=lambda entry: -entry[0])
        return [task for _, task in back]
