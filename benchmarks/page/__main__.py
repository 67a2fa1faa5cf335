"""Start the page as a subprocess, let 50 searchers ask it without pause, and report how long they waited.

``python -m benchmarks.page --workspace W [--searchers 50] [--seconds 60] [--way page|api|queue] [--fresh SHARE]``

A searcher asks its next question as soon as it has the answer to the last. ``page`` is what a browser gets (HTML);
``api`` and ``queue`` are the API as Gradio's clients ask it: one POST, or a POST and then an event stream, as JSON.
``--fresh`` is the share of questions whose words nobody asked before: the encoder has to read them.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.page.client import Connection

TEXTS = (
    "dog", "cat", "car", "tree", "house", "boat", "pizza", "apple", "chair", "guitar", "bus", "horse", "bird", "fish",
    "cup", "shoe", "clock", "phone", "flower", "cloud", "strawberry", "banana", "trumpet", "piano", "tiger", "lion",
    "elephant", "umbrella", "bicycle", "train", "aeroplane", "rocket", "star", "moon", "snowman", "castle", "church",
    "hammer", "scissors", "key", "lamp", "sofa", "bread", "cheese", "carrot", "mushroom", "butterfly", "spider",
    "a red car", "a yellow flower",
)  # fmt: skip
WHERES = ("", "", "", "downloads >= 1000", "license = 'apache-2.0'", "label_quality = 'named'", "parameters <= 200000")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--searchers", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--way", choices=("page", "api", "queue"), default="page")
    parser.add_argument("--fresh", type=float, default=0.0)
    parser.add_argument("--out", type=Path, help="also append the result to this file, a line of JSON")
    args = parser.parse_args()
    command = [sys.executable, "-m", "hubprobe", "serve", "--workspace", str(args.workspace), "--port", "0"]
    server = subprocess.Popen([*command, "--rate", "0"], stderr=subprocess.PIPE, text=True)
    try:
        found = asyncio.run(_measure(_address(server), server.pid, args))
    finally:
        server.terminate()
        server.wait(20)
    print(json.dumps(found, indent=2))  # noqa: T201 - a benchmark's result
    if args.out:
        with args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
    sys.exit(1 if found["errors"] else 0)


def _address(server: subprocess.Popen[str]) -> str:
    assert server.stderr is not None
    for line in server.stderr:
        if match := re.search(r"http://\S+/", line):
            return match[0]
    raise SystemExit("the page did not start")


async def _measure(url: str, pid: int, args: argparse.Namespace) -> dict[str, Any]:
    first = Connection(url)
    while not (await _patient(first))["names"]:
        await asyncio.sleep(0.5)
    for text in TEXTS:  # what a page that has been up for a while has seen
        await first.ask("page", text, "")
    await asyncio.sleep(3)  # thumbnails
    took: list[float] = []
    errors: list[str] = []
    memory = [(0.0, _rss(pid))]
    cpu = _cpu(pid)
    started = time.perf_counter()
    until = started + args.seconds
    fresh = itertools.count()

    async def searcher(number: int) -> None:
        choose, connection = random.Random(number), Connection(url)
        while time.perf_counter() < until:
            new = choose.random() < args.fresh
            text = f"{choose.choice(TEXTS)} {next(fresh)}" if new else choose.choice(TEXTS)
            begun = time.perf_counter()
            try:
                await connection.ask(args.way, text, choose.choice(WHERES))
            except (OSError, EOFError, ValueError) as error:
                errors.append(repr(error)[:200])
            took.append(time.perf_counter() - begun)

    async def watch() -> None:
        while time.perf_counter() < until:
            await asyncio.sleep(5)
            memory.append((round(time.perf_counter() - started, 1), _rss(pid)))

    await asyncio.gather(watch(), *(searcher(n) for n in range(args.searchers)))
    seconds, cpu = time.perf_counter() - started, _cpu(pid) - cpu
    p50, p95, p99 = (round(float(np.percentile(took, p)) * 1000, 1) for p in (50, 95, 99))
    return {
        "way": args.way, "searchers": args.searchers, "seconds": round(seconds, 1), "fresh": args.fresh,
        "searches": len(took), "per_second": round(len(took) / seconds, 1), "p50_ms": p50, "p95_ms": p95, "p99_ms": p99,
        "slowest_ms": round(max(took) * 1000, 1),
        "server_cpu_ms": round(cpu / max(len(took), 1) * 1000, 2), "errors": len(errors),
        "error": errors[0] if errors else None,
        "rss_mb_start": memory[0][1], "rss_mb_end": memory[-1][1], "rss_mb": [mb for _, mb in memory],
    }  # fmt: skip


async def _patient(connection: Connection) -> Any:
    while True:
        try:
            return await connection.get("/health")
        except OSError:
            await asyncio.sleep(0.2)


def _cpu(pid: int) -> float:
    """Return the processor time of a process in seconds."""
    values = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


def _rss(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) // 1024  # type: ignore[index]


if __name__ == "__main__":
    main()
