"""The processes of a run: who they are, and the queue they pull from.

accelerate launches them and `PartialState` joins them into a process group, on gloo also where there are GPUs: ranks
pass no tensors, they only count in the group's key-value store. Nothing is split in advance: a rank takes the next
model when it is free. What was committed is in the workspace's files; the store can be lost at any time.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)
_calls = itertools.count()

_WAIT = timedelta(seconds=60)
"""One wait on the store; it is repeated, because a model may take longer than any timeout that fits all."""

_LAUNCHED = ("LOCAL_RANK", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""What a launcher sets, of which accelerate asks: without any it finds one process."""


class Group:
    """One process among its peers: ``rank`` of ``size``, ``local_rank`` of ``local_size`` on this host."""

    def __init__(self, rank: int, size: int, local_rank: int, local_size: int, store: Any = None) -> None:
        self.rank, self.size, self.local_rank, self.local_size = rank, size, local_rank, local_size
        self._store = store
        self._counts: Counter[str] = Counter()

    @classmethod
    def join(cls) -> Group:
        """Join the processes that were launched together; one process alone needs nothing, torch included."""
        if not any(name in os.environ for name in _LAUNCHED):
            _warn_of_silent_single(1)
            return cls(0, 1, 0, 1)
        from accelerate import PartialState

        state = PartialState(cpu=True)
        _warn_of_silent_single(state.num_processes)
        if state.num_processes == 1:
            return cls(0, 1, 0, 1)
        from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

        store = PrefixStore(f"hubprobe/{next(_calls)}", _get_default_store())
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", state.num_processes))
        return cls(state.process_index, state.num_processes, state.local_process_index, local_size, store)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that plans, books what is skipped, and reports."""
        return self.rank == 0

    def share(self, key: str, value: Any = None) -> Any:
        """Return the first process's ``value``, any JSON, to all of them."""
        if self._store is None:
            return value
        if self.is_first:
            self._store.set(key, json.dumps(value))
            return value
        self._wait([key])
        return json.loads(self._store.get(key))

    def pull(self) -> int:
        """Return the next place in the queue, each given out once."""
        return self.count("next") - 1

    def count(self, name: str, more: int = 1) -> int:
        """Add ``more`` to a count that all processes share; return what it is then."""
        if self._store is None:
            self._counts[name] += more
            return self._counts[name]
        return int(self._store.add(name, more))

    def done(self) -> None:
        """Say that this process has finished its work; the first waits until all have said so."""
        self._say("done")

    def leave(self) -> None:
        """Part: the first process, which may host the store, goes last."""
        self._say("left")

    def _say(self, what: str) -> None:
        if self._store is not None:
            self._store.set(f"{what}/{self.rank}", "1")
            if self.is_first:
                self._wait([f"{what}/{rank}" for rank in range(self.size)])

    def _wait(self, keys: list[str]) -> None:
        from torch.distributed import DistStoreError

        while True:
            try:
                self._store.wait(keys, _WAIT)
                return
            except DistStoreError:
                _log.debug("still waiting for %s", keys)


def _warn_of_silent_single(size: int) -> None:
    """Say so when accelerate was asked for several processes and started one: ``--cpu`` always does that."""
    if size > 1 or "ACCELERATE_USE_CPU" not in os.environ:
        return
    asked = _asked_of_launcher()
    if asked > 1:
        _log.warning(
            "accelerate was asked for %d processes and started one: --cpu always starts one; "
            "use 'accelerate launch --multi_gpu --num_processes %d', which also serves processors",
            asked,
            asked,
        )


def _asked_of_launcher() -> int:
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:  # no /proc: nothing can be said
        return 1
    for word, following in itertools.pairwise(words):
        if word in ("--num_processes", "--num-processes") and following.isdigit():
            return int(following)
        if word.startswith(("--num_processes=", "--num-processes=")) and word.split("=")[1].isdigit():
            return int(word.split("=")[1])
    return 1


def choose_device(asked: str | None, local_rank: int) -> str:
    """Return the torch device of this process: the one asked for, or CUDA (also ROCm), MPS, CPU, what there is."""
    import torch

    if asked and asked != "auto":
        return f"cuda:{local_rank % max(torch.cuda.device_count(), 1)}" if asked == "cuda" else asked
    if torch.cuda.is_available():
        return f"cuda:{local_rank % torch.cuda.device_count()}"
    return "mps" if sys.platform == "darwin" and torch.backends.mps.is_available() else "cpu"


def cpu_threads(local_size: int) -> int:
    """Return this process's share of the cores it may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // max(local_size, 1))
