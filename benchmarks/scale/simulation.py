"""Models, machines that are taken away, and the two ways to share the work: events in order of time.

Which model a machine runs next is decided by `probing.plan.Shard.order` and `probing.fetching.HandOut`, as in a real
run. A model that another job has committed is passed over when it is taken, as `probing.prober.is_booked` has it; what
the remote holds is listed as often as `workspace.remote.Remote.has` lists it.
"""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import count

import numpy as np

from probing import plan as shard_code
from probing.fetching import HandOut
from probing.plan import Shard, Task

OUTAGES = (192, 96, 480, 256, 704, 288, 4800, 4480, 3680, 640, 544, 288, 96)
"""Seconds that a spot machine was away: the 13 outages in the first 47 hours of a trace of a V100 in us-west-2c
(April 2023, skypilot-org/spot-traces, preemption/1-node/aws-04-22-2023), ticks of 32 s, the long ones to within ten."""

UP_SECONDS = (47 * 3600 - sum(OUTAGES)) / len(OUTAGES)
"""How long it was there between two of them, on average: 3.3 hours."""

START_SECONDS = 60.0
"""From the start of a machine's job to its first model: imports, the catalog, the probes."""

NOTICE_SECONDS = 30.0
"""Until the driver knows that a machine is gone."""

LONGEST_SECONDS = 30 * 86_400.0
"""After which a crawl that has not ended never will."""

SECONDS_PER_MB = 12.0 / 343
"""A model of the commonest kind, 343 MB, takes 12 s: the rate that ProbeLog's authors report for one GPU."""


@dataclass(frozen=True)
class Cluster:
    """Machines. ``dead`` of them end for good within an hour, ``late`` ones begin up to ``late_seconds`` late."""

    workers: int = 200
    dead: int = 10
    late: int = 10
    late_seconds: float = 3600.0
    spot: bool = True
    seed: int = 0


@dataclass
class Outcome:
    """What came of a run. Times in seconds; ``busy`` is useful work, ``lost`` was cut off, ``repeated`` done elsewhere.

    ``lists`` are requests for what was committed; ``peak`` is the most models that were begun in five minutes.
    """

    models: int
    makespan: float = 0.0
    bound: float = 0.0
    busy: float = 0.0
    lost: float = 0.0
    repeated: float = 0.0
    duplicates: int = 0
    interruptions: int = 0
    lists: int = 0
    idle: float = 0.0
    begun: list[float] = field(default_factory=list)

    @property
    def peak(self) -> int:
        """Models begun in the busiest five minutes."""
        return int(np.bincount((np.array(self.begun) / 300).astype(int)).max()) if self.begun else 0


def models(number: int, seed: int = 0) -> tuple[list[Task], np.ndarray]:
    """Return tasks, the largest first as in a plan, and the seconds of each: log-normal, median 14 s."""
    megabytes = np.sort(np.random.default_rng(seed).lognormal(math.log(343), 1.0, number))[::-1]
    tasks = [Task(f"owner-{i % 997}/model-{i}", f"{i:040x}", i) for i in range(number)]
    return tasks, 2.0 + megabytes * SECONDS_PER_MB


class _Machine:
    """When a machine is there: ``turns`` are pairs of beginning and end, the jobs that ran on it."""

    def __init__(self, number: int, cluster: Cluster) -> None:
        chance = random.Random(f"{cluster.seed}/{number}")
        self.speed = chance.uniform(0.8, 1.2)
        self._begin = chance.uniform(0, 300.0)
        if number < cluster.late:
            self._begin += chance.uniform(0, cluster.late_seconds)
        ends = number >= cluster.workers - cluster.dead
        self._death = self._begin + chance.uniform(60, 3600) if ends else math.inf
        self._chance, self._spot = chance, cluster.spot
        self.turns: list[tuple[float, float]] = []

    def turn(self, i: int) -> tuple[float, float] | None:
        """Return its ``i``-th stay, None when it is gone for good."""
        while len(self.turns) <= i:
            begin = self.turns[-1][1] + self._chance.choice(OUTAGES) if self.turns else self._begin
            if begin >= self._death:
                return None
            end = begin + self._chance.expovariate(1 / UP_SECONDS) if self._spot else math.inf
            self.turns.append((begin, min(end, self._death)))
        return self.turns[i]

    def there(self, until: float) -> float:
        """Return for how long it could work until a moment."""
        total, i = 0.0, 0
        while (stay := self.turn(i)) is not None and stay[0] < until:
            total += max(0.0, min(stay[1], until) - stay[0] - START_SECONDS)
            i += 1
            if stay[1] == math.inf:
                break
        return total


shard_code.model_file_name = cache(shard_code.model_file_name)  # type: ignore[attr-defined]  # asked of all by each job


def run(cluster: Cluster, number: int, way: str) -> Outcome:
    """Simulate a crawl by ``shards``, ``ray``, or a ``fixed`` split without help, for comparison."""
    tasks, seconds = models(number, cluster.seed)
    machines = [_Machine(w, cluster) for w in range(cluster.workers)]
    result = Outcome(number)
    done, left = bytearray(number), number
    committed = _shards(cluster, tasks, way) if way != "ray" else None
    handout: HandOut[int] = HandOut(tasks)
    queues: list[list[Task]] = [[] for _ in machines]
    events: list[tuple[float, int, Callable[[float], None]]] = []
    order = count()
    asked = [-math.inf] * cluster.workers
    ends: list[float] = []
    waits: set[int] = set()

    def at(moment: float, do: Callable[[float], None]) -> None:
        heapq.heappush(events, (moment, next(order), do))

    def ask(w: int, now: float) -> None:
        """Count a list of what was committed: the last five minutes, a thousand a request."""
        recent = len(ends) - bisect_left(ends, now - 300)
        if now - asked[w] > 10.0 * (1 + recent // 1000):
            asked[w] = now
            result.lists += 1 + recent // 1000

    def following(w: int, now: float) -> Task | None:
        if committed is not None:
            for task in committed[w]:
                if not done[task.number]:
                    ask(w, now)
                    return task
            return None
        for worker, task in handout.ready():
            queues[worker].append(task)
            if worker in waits:
                waits.discard(worker)
                at(now, lambda t, v=worker: work(v, current[v], t))  # type: ignore[misc]
        return queues[w].pop(0) if queues[w] else None

    current = [0] * cluster.workers

    def begin(w: int, i: int, now: float) -> None:
        current[w] = i
        if way == "ray":
            handout.join(w)
        work(w, i, now)

    def work(w: int, i: int, now: float) -> None:
        if i != current[w] or not left:
            return
        stay = machines[w].turn(i)
        assert stay is not None
        if now >= stay[1]:
            return
        task = following(w, now)
        if task is None:
            waits.add(w)
            return
        model = task.number
        result.begun.append(now)
        takes = seconds[model] / machines[w].speed
        if now + takes <= stay[1]:
            at(now + takes, lambda t: end(w, i, task, takes, t))
            return
        result.interruptions += 1
        result.lost += stay[1] - now
        if committed is not None:
            committed[w] = _first(task, committed[w])

    def end(w: int, i: int, task: Task, takes: float, now: float) -> None:
        nonlocal left
        model = task.number
        if done[model]:
            result.duplicates += 1
            result.repeated += takes
        else:
            done[model] = True
            left -= 1
            ends.append(now)
            result.busy += takes
            result.makespan = now
        if way == "ray":
            handout.ended(w, task)
        work(w, i, now)

    def leave(w: int, i: int, now: float) -> None:
        """The machine goes away; its next stay begins a job anew."""
        waits.discard(w)
        current[w] = -1
        if way == "ray":
            at(now + NOTICE_SECONDS, lambda t: lost(w, t))
        come(w, i + 1)

    def lost(w: int, now: float) -> None:
        queues[w].clear()
        handout.lost(w)
        for other in sorted(waits):
            waits.discard(other)
            at(now, lambda t, v=other: work(v, current[v], t))  # type: ignore[misc]

    def come(w: int, i: int) -> None:
        stay = machines[w].turn(i)
        if stay is None:
            return
        ready = stay[0] + START_SECONDS
        if ready < stay[1]:
            at(max(ready, stay[0]), lambda t: begin(w, i, t))
        if stay[1] < math.inf:
            at(stay[1], lambda t: leave(w, i, t) if current[w] == i else come(w, i + 1))

    for w in range(cluster.workers):
        come(w, 0)
    while events and left and events[0][0] < LONGEST_SECONDS:
        moment, _, do = heapq.heappop(events)
        do(moment)
    result.bound = _bound(machines, seconds)
    there = sum(machine.there(result.makespan) for machine in machines)
    result.idle = 1 - (result.busy + result.lost + result.repeated) / there
    if left:
        result.makespan = math.inf
    return result


def _shards(cluster: Cluster, tasks: list[Task], way: str) -> list[Iterator[Task]]:
    """Return every job's models in its order: its own, and unless the split is fixed what the others left."""
    orders = []
    for w in range(cluster.workers):
        shard = Shard(w, cluster.workers)
        own = [task for task in tasks if shard.owns(task.repo_id, task.sha)] if way == "fixed" else None
        orders.append(iter(own if own is not None else _lazily(shard, tasks)))
    return orders


def _lazily(shard: Shard, tasks: list[Task]) -> Iterator[Task]:
    yield from shard.order(tasks)


def _first(task: Task, others: Iterator[Task]) -> Iterator[Task]:
    yield task
    yield from others


def _bound(machines: list[_Machine], seconds: np.ndarray) -> float:
    """Return the least time in which the machines that were there, each at its speed, could have done the work."""
    total, low, high = float(seconds.sum()), 0.0, LONGEST_SECONDS
    while high - low > 1.0:
        middle = (low + high) / 2
        could = sum(machine.there(middle) * machine.speed for machine in machines)
        low, high = (middle, high) if could < total else (low, middle)
    return max(high, START_SECONDS + float(seconds[0]) / max(m.speed for m in machines))
