"""Whole crawls of a synthetic hub: killed and resumed, of a million rows, and against rate limits.

::

    python benchmarks/crawler/crawls.py full --repos 200000 --kills 5    # exactly once, requests, memory, speed
    python benchmarks/crawler/crawls.py memory --repos 1000000           # listing alone: peak memory
    python benchmarks/crawler/crawls.py pace --window 60 --windows 3     # share of the server's limit, and 429s
    python benchmarks/crawler/crawls.py outage --seconds 60              # the network away for a minute

The hub runs in a process of its own (`tests.hubs.synthetic`), the crawl in another, so that it can be killed.
Results as measured are in RESULTS.md.
"""

from __future__ import annotations

import json
import logging
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

import crawler
from hubprobe.demo.server import HubServer
from tests.hubs.limits import GENEROUS, Quotas, RateLimiter
from tests.hubs.synthetic import ANONYMOUS, SyntheticCatalog
from workspace import Config, CrawlConfig, Workspace, WorkspaceError
from workspace.architectures import Architectures
from workspace.files import num_rows, table_files
from workspace.status import Status

COST = {
    Status.ELIGIBLE: {"api": 1, "resolvers": 5, "cdn": 1},
    Status.CUSTOM_CODE: {"resolvers": 2},
    Status.PICKLE_ONLY: {"api": 1},
    Status.ZERO_SHOT: {"resolvers": 2},
    Status.REGRESSION: {"resolvers": 2},
    Status.HEAD_MISSING: {"resolvers": 3, "cdn": 1},
    Status.HEAD_MISMATCH: {"resolvers": 3, "cdn": 1},
    Status.GONE: {"api": 1, "resolvers": 1},
}
"""Requests that an undisturbed crawl needs for a repository, by its end; none for those the listing decides.

A small file takes two of ``resolvers``, for the hub answers with a redirect as the real one does; where there is only
pickle, its pull requests are asked for a conversion.
"""


def serve(repos: int, limits: Quotas, port_file: Path) -> None:
    """Serve a synthetic hub until killed, and keep the counts of requests beside ``port_file``."""
    with HubServer(SyntheticCatalog(repos), limiter=RateLimiter(limits)) as server:
        port_file.write_text(server.url)
        while True:
            time.sleep(0.5)
            counts = {bucket: server.requests.count(bucket) for bucket in ("api", "resolvers", "cdn")}
            limited = {f"429 {bucket}": server.requests.count(bucket, 429) for bucket in ("api", "resolvers")}
            temporary = port_file.with_suffix(".tmp")
            temporary.write_text(json.dumps(counts | limited))
            temporary.replace(port_file.with_suffix(".json"))


def child(root: Path, limit: int | None) -> None:
    """Crawl in this process and print what it took."""
    summary = crawler.crawl(Workspace.open(root), token=False, progress=False, limit=limit)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cpu = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    sys.stdout.write(json.dumps({"peak_mb": peak, "cpu": cpu, **vars(summary)}))


class Bench:
    """A hub, a workspace, and crawls of it in processes of their own."""

    def __init__(self, folder: Path, repos: int, limits: Quotas = GENEROUS, **crawl: Any) -> None:
        self.port_file = folder / "port"
        arguments = [sys.executable, __file__, "serve", str(repos), json.dumps(vars(limits)), str(self.port_file)]
        self._server = subprocess.Popen(arguments)
        while not self.port_file.exists():
            time.sleep(0.1)
        config = Config(endpoint=self.port_file.read_text(), crawl=CrawlConfig(**crawl))
        self.workspace = Workspace.create(folder / "workspace", config)
        self.workspace.cache_dir.mkdir()
        Architectures.load(self.workspace.cache_dir)  # a question to transformers and timm, not part of the crawl

    def start(self, limit: int | None = None) -> subprocess.Popen[str]:
        """Start a crawl."""
        arguments = [sys.executable, __file__, "child", str(self.workspace.root), json.dumps(limit)]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)

    def counts(self) -> dict[str, int]:
        """Return the requests the hub has answered."""
        time.sleep(1.2)
        counted: dict[str, int] = json.loads(self.port_file.with_suffix(".json").read_text())
        return counted

    def listed(self) -> int:
        """Return the rows that everybody can read so far."""
        try:
            return sum(num_rows(path) for path in table_files(self.workspace.catalog_dir))
        except (OSError, WorkspaceError):  # merged at this moment
            return 0

    def stop(self) -> None:
        """End the hub."""
        self._server.terminate()


def peak_of(process: subprocess.Popen[str]) -> float:
    """Return the peak memory of a running process in MB."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) / 1024


@click.group()
def main() -> None:
    """Crawls of a synthetic hub."""
    logging.basicConfig(level=logging.WARNING)


@main.command("full")
@click.option("--repos", default=200_000)
@click.option("--kills", default=5)
@click.option("--seed", default=0)
def full(repos: int, kills: int, seed: int) -> None:
    """Crawl everything, killed at random points."""
    points = sorted(random.Random(seed).sample(range(repos // 50, repos), kills))
    started = time.monotonic()
    peaks: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), repos)
        try:
            for point in points:
                running = bench.start()
                while running.poll() is None and bench.listed() < point:
                    time.sleep(0.2)
                time.sleep(random.Random(point).random() * 2)  # not only at the moment of a commit
                peaks.append(peak_of(running))
                running.send_signal(signal.SIGKILL)
                running.wait()
                report(f"killed at {bench.listed():,} listed, {time.monotonic() - started:,.0f} s")
            last = json.loads(bench.start().communicate()[0])
            seconds = time.monotonic() - started
            check(bench, repos, seconds, [*peaks, last["peak_mb"]])
        finally:
            bench.stop()


def check(bench: Bench, repos: int, seconds: float, peaks: list[float]) -> None:
    """Compare catalog and requests with what they must be."""
    catalog = SyntheticCatalog(repos)
    expected = {catalog.repo_id(i): catalog.expected(i) for i in range(repos)}
    rows = bench.workspace.catalog(["id", "eligibility"], history=True)
    names, ends = rows.column("id").to_pylist(), rows.column("eligibility").to_pylist()
    wrong = [(n, e) for n, e in zip(names, ends, strict=True) if expected.get(n) is None or expected[n].value != e]
    report(f"rows {len(names):,}, distinct {len(set(names)):,}, hub {repos:,}; wrong status: {len(wrong)} {wrong[:3]}")
    least: Counter[str] = Counter({"api": -(-repos // 1000)})
    for status in expected.values():
        least.update(COST.get(status, {}))
    made = bench.counts()
    for bucket in ("api", "resolvers", "cdn"):
        report(
            f"{bucket}: {made[bucket]:,} requests, minimum {least[bucket]:,}: {made[bucket] / least[bucket] - 1:+.3%}"
        )
    total, floor = sum(made[b] for b in least), sum(least.values())
    report(f"all: {total:,} requests, minimum {floor:,}: {total / floor - 1:+.3%}; 429s: {made['429 api']}")
    report(f"{seconds:,.0f} s, {repos / seconds:,.0f} repos/s, {total / seconds:,.0f} requests/s")
    report(f"peak memory {max(peaks):.0f} MB (each run: {', '.join(f'{p:.0f}' for p in peaks)})")


@main.command("memory")
@click.option("--repos", default=1_000_000)
def memory(repos: int) -> None:
    """List and book many rows that the listing alone decides (their licence is excluded here)."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), repos, excluded_licenses=("apache-2.0",))
        try:
            for name in ("first crawl", "second crawl, nothing changed"):
                last = json.loads(bench.start().communicate()[0])
                rate = last["listed"] / last["seconds"]
                report(f"{name}: {last['listed']:,} listed, {last['new']:,} new, {last['unchanged']:,} unchanged")
                report(f"  {last['seconds']:,.0f} s, {rate:,.0f} rows/s, peak memory {last['peak_mb']:.0f} MB")
                report(f"  requests {last['requests']}")
        finally:
            bench.stop()


@main.command("pace")
@click.option("--window", default=60)
@click.option("--windows", default=3)
def pace(window: int, windows: int) -> None:
    """Crawl against the anonymous limits in shorter windows."""
    limits = Quotas(ANONYMOUS.api, ANONYMOUS.resolvers, ANONYMOUS.pages, window)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), 50_000, limits)
        try:
            running = bench.start()
            while bench.counts()["api"] == 0:
                time.sleep(0.1)
            time.sleep(window * windows)
            made = bench.counts()
            running.kill()
            for bucket in ("api", "resolvers"):
                allowed = getattr(limits, bucket) * windows
                share = (made[bucket] - made[f"429 {bucket}"]) / allowed
                report(
                    f"{bucket}: {made[bucket]:,} of {allowed:,} allowed in {windows} windows of {window} s: {share:.1%}"
                )
            report(f"429s: api {made['429 api']}, resolvers {made['429 resolvers']}")
        finally:
            bench.stop()


@main.command("outage")
@click.option("--repos", default=3_000)
@click.option("--seconds", default=60)
def outage(repos: int, seconds: int) -> None:
    """Take the hub away for a while in the middle of a crawl: connections are refused, then it is back."""
    catalog = SyntheticCatalog(repos)
    with tempfile.TemporaryDirectory() as folder, HubServer(catalog) as server:
        workspace = Workspace.create(Path(folder) / "workspace", Config(endpoint=server.url))
        workspace.cache_dir.mkdir()
        Architectures.load(workspace.cache_dir)
        threading.Timer(4.0, lambda: server.down(seconds)).start()
        summary = crawler.crawl(workspace, token=False, progress=False)
        rows = workspace.catalog(["id", "eligibility"], history=True).to_pylist()
        found = {row["id"]: row["eligibility"] for row in rows}
        right = sum(found.get(catalog.repo_id(i)) == catalog.expected(i).value for i in range(repos))
        report(f"away for {seconds} s: {len(rows):,} rows, {right:,} of {repos:,} as they must be")
        report(f"{summary.seconds:.0f} s in all, {summary.retries} requests tried again")


def report(line: str) -> None:
    """Print one line of the result."""
    click.echo(line)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(int(sys.argv[2]), Quotas(**json.loads(sys.argv[3])), Path(sys.argv[4]))
    elif sys.argv[1:2] == ["child"]:
        child(Path(sys.argv[2]), json.loads(sys.argv[3]))
    else:
        main()
