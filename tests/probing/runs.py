"""Runs of the prober in processes of their own: forks of one that has imported torch and transformers, once."""

from __future__ import annotations

import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Mapping
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import probing
from workspace import Workspace
from workspace.seams import Fetched

SECONDS = 240  # after which a run has hung


def run(
    root: str, repos: str, seconds: float = 0.0, isolate: bool = False, most: int = 0, others: int = 0, **options: Any
) -> None:
    """Probe the workspace at ``root``, noting each fetch in ``fetched.txt``; fetching takes ``seconds``.

    From the fetch after the ``most``-th on it hangs, so that a kill comes before the end however late it is; and the
    first waits until ``others`` have begun one, so that all of several processes have taken part.
    """
    turns, lock = iter(range(10**6)), threading.Lock()

    def fetch(row: Mapping[str, Any]) -> Fetched:
        with lock:
            turn = next(turns)
        if most and turn >= most:
            time.sleep(SECONDS)
        if others and turn == 0:
            Path(root, f"began-{os.getpid()}").touch()
            until = time.monotonic() + SECONDS
            while len(list(Path(root).glob("began-*"))) < others and time.monotonic() < until:
                time.sleep(0.01)
        time.sleep(seconds)
        with Path(root, "fetched.txt").open("a", encoding="utf-8") as log:
            log.write(f"{row['id']}\n")
        return Fetched(Path(repos, row["id"]), 100, seconds, lambda: None)

    probing.probe(Workspace.open(root), fetch, progress=False, isolate=isolate, batch_size=16, **options)


def start(*arguments: Any, **options: Any) -> BaseProcess:
    """Begin `run` in a process of its own."""
    process = _context().Process(target=run, args=arguments, kwargs=options)
    process.start()
    return process


def together(size: int, *arguments: Any, **options: Any) -> None:
    """Do `run` in ``size`` processes, joined through the variables that a launcher sets for them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    processes = [_context().Process(target=_as, args=(r, size, port, arguments, options)) for r in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * size


def _as(rank: int, size: int, port: int, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in values.items()} | {"MASTER_ADDR": "127.0.0.1"})
    run(*arguments, **options)


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.probing.runs", "torch", "transformers.models.vit.modeling_vit"])
    return context
