"""What Ray costs beside one process, on the same real models: processor seconds and clock.

``python -m benchmarks.scale.overhead --folder F`` crawls the demo hub's classifiers, each under several names, and
probes them in one process and through ``--engine ray --address local``, one actor with all cores: few models and all of
them, so that starting up and running are told apart. Prints a JSON line for each run. Processor time is that of every
process which descends from the command, Ray's own too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import crawler
from hubprobe.demo.server import HubServer, demo_repos
from probing import probes
from workspace import Config, Workspace

PROBES = Path(__file__).parents[2] / "hubprobe" / "demo" / "probes.parquet"
psutil: Any = import_module("psutil")  # comes with accelerate
MARK = "HUBPROBE_BENCHMARK"


def measure(command: list[str], mark: str) -> dict[str, float]:
    """Run a command to its end; return its clock, and the processor seconds of all that carry its mark."""
    environment = os.environ | {MARK: mark, "RAY_USAGE_STATS_ENABLED": "0"}
    started, spent = time.monotonic(), dict[int, float]()
    ours: dict[int, bool] = {}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            for one in psutil.process_iter():
                try:
                    if one.pid not in ours:
                        # by the environment, for Ray's daemons leave their parent; by the parent, for a prober's child
                        # has an environment of its own
                        ours[one.pid] = ours.get(one.ppid(), False) or one.environ().get(MARK) == mark
                    if ours[one.pid]:
                        times = one.cpu_times()
                        spent[one.pid] = times.user + times.system
                except psutil.Error:
                    continue
            time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return {"clock_s": round(time.monotonic() - started, 1), "processor_s": round(sum(spent.values()), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--copies", type=int, default=4, help="names of every model")
    parser.add_argument("--few", type=int, default=4, help="models of the short runs")
    parser.add_argument("--probes", type=int, default=600)
    options = parser.parse_args()
    shutil.rmtree(options.folder, ignore_errors=True)
    models = demo_repos(with_unhealthy=False, with_lite0=False)
    repos = [replace(repo, id=f"{repo.id}-{i}") for repo in models for i in range(options.copies)]
    with HubServer(repos) as server:
        home = Workspace.create(options.folder / "home", Config(endpoint=server.url))
        probes.build(home, str(PROBES), n=options.probes, seed=0, progress=False)
        crawler.crawl(home, token="", progress=False)
        for count in (options.few, len(repos)):
            for engine in ("accelerate", "ray"):
                root = options.folder / f"{engine}-{count}"
                shutil.copytree(home.root, root)
                verb = ["probe", "--workspace", str(root), "--quiet", "--limit", str(count), "--engine", engine]
                if engine == "ray":
                    verb += ["--address", "local", "--workers", "1", "--cpus", str(os.cpu_count())]
                found = measure([sys.executable, "-m", "hubprobe", *verb], f"{engine}-{count}-{time.time()}")
                ends = Workspace.open(root).attempts(["outcome"])["outcome"].to_pylist()
                found |= {"ok": ends.count("ok"), "load": round(os.getloadavg()[0], 1)}
                sys.stdout.write(json.dumps({"engine": engine, "models": count, **found}) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
