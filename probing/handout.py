"""Who runs which model next, where one process hands them out to others that come, go and die."""

from __future__ import annotations

from bisect import insort
from collections.abc import Hashable, Iterable
from dataclasses import replace
from typing import Generic, TypeVar

from probing.fetching import AHEAD_MODELS
from probing.inflight import LAST_AFTER
from probing.plan import Task

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
