"""Who gets which model next, where workers come, go and die."""

from __future__ import annotations

import random

from probing.fetching import AHEAD_MODELS, HandOut
from probing.inflight import LAST_AFTER
from probing.plan import Task

TASKS = [Task(f"owner/{i:03d}", "a" * 40, 1) for i in range(60)]


def _places(given: list[tuple[str, Task]]) -> list[int]:
    return [int(task.repo_id[-3:]) for _, task in given]


def test_largest_first_and_a_few_ahead_to_each() -> None:
    handout: HandOut[str] = HandOut(TASKS)
    assert handout.ready() == [], "nobody is there"
    handout.join("a")
    handout.join("b")
    given = handout.ready()
    assert _places(given) == list(range(2 * AHEAD_MODELS))
    assert [worker for worker, _ in given] == ["a", "b"] * AHEAD_MODELS
    assert handout.ready() == []
    handout.ended("b", given[1][1])
    assert [(worker, task) for worker, task in handout.ready()] == [("b", TASKS[2 * AHEAD_MODELS])]


def test_towards_the_end_nobody_hoards() -> None:
    handout: HandOut[int] = HandOut(TASKS[:8])
    for worker in range(4):
        handout.join(worker)
    assert [worker for worker, _ in handout.ready()] == [0, 1, 2, 3], "one each, though two would fit"
    handout.join(4)
    handout.ready()
    assert handout.held(4), "who joins late finds something to do"


def test_what_a_lost_worker_had_is_next_and_what_kills_is_last() -> None:
    handout: HandOut[str] = HandOut(TASKS)
    handout.join("a")
    given = _places(handout.ready())
    assert [int(task.repo_id[-3:]) for task in handout.lost("a")] == given
    handout.join("b")
    assert [(t.repo_id, t.deaths) for _, t in handout.ready()] == [(t.repo_id, 0) for t in TASKS[:AHEAD_MODELS]]
    for _ in range(LAST_AFTER):
        for worker in ("b", "c"):
            handout.lost(worker, by_itself=True)
        handout.join("c")
        handout.ready()
    assert _places([("c", t) for t in handout.held("c")]) == list(range(AHEAD_MODELS, 2 * AHEAD_MODELS))
    assert handout.left == len(TASKS)


def test_every_model_ends_once_whatever_happens() -> None:
    chance = random.Random(0)
    handout: HandOut[int] = HandOut(TASKS)
    ended: list[str] = []
    held: list[tuple[int, Task]] = []
    for step in range(10_000):
        if not handout.left:
            break
        if chance.random() < 0.1:
            handout.join(step)
        held += handout.ready()
        if held and chance.random() < 0.05:
            gone = held[0][0]
            handout.lost(gone, by_itself=chance.random() < 0.5)
            held = [pair for pair in held if pair[0] != gone]
        elif held:
            worker, task = held.pop(chance.randrange(len(held)))
            handout.ended(worker, task)
            ended.append(task.repo_id)
    assert sorted(ended) == [task.repo_id for task in TASKS]
