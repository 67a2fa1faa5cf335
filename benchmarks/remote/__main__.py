"""Hosts that share nothing but an object store, and an index that is searched where it lies.

``python -m benchmarks.remote hosts --folder F`` starts moto's S3 server behind a proxy that counts, throttles and cuts,
eight processes as hosts on models of its own, kills three, adds two, and compares the tables with one undisturbed run.
``python -m benchmarks.remote published --folder F`` opens the 200,000-logit index of ``benchmarks.search build`` (in
the same folder) over loopback HTTP with 50 ms added to every answer. Each prints a JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pyarrow.compute as pc

from benchmarks.remote import hosts
from benchmarks.remote.proxy import Proxy
from hubprobe.sync import sync
from workspace import Workspace

BUCKET = "s3://bucket/hub"


def run_hosts(folder: Path, models: int, cut_s: float, calm: bool) -> dict[str, object]:
    from moto.server import ThreadedMotoServer

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    hosts.make_models(folder / "repos", models)
    alone = hosts.make_workspace(folder / "alone", models)
    hosts.run(alone, folder / "repos", None)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    with Proxy(moto.get_host_and_port()) as proxy:
        keys = {
            "AWS_ACCESS_KEY_ID": "benchmark",
            "AWS_SECRET_ACCESS_KEY": "not-a-real-secret",
            "AWS_REGION": "us-east-1",
        }
        os.environ.update(keys, AWS_ENDPOINT_URL=f"http://127.0.0.1:{proxy.port}", HUBPROBE_REMOTE=BUCKET)
        boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).create_bucket(Bucket="bucket")
        sync(hosts.make_workspace(folder / "first", models).root, progress=False)
        proxy.counts.clear()
        proxy.asked.clear()
        started = time.monotonic()

        def start(number: int) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", "benchmarks.remote.hosts", str(folder), str(number), "8"]
            log = (folder / f"host-{number}-{time.monotonic():.0f}.log").open("wb")
            return subprocess.Popen(command, stderr=log, stdout=log)

        running = {n: start(n) for n in range(6)}
        events: list[str] = []

        def at_commits(count: int, what: str) -> None:
            while proxy.commits() < count:
                time.sleep(0.2)
            events.append(f"{what} at {proxy.commits()} of {models} commits, {time.monotonic() - started:.0f} s")

        if calm:
            running |= {n: start(n) for n in (6, 7)}
        else:
            at_commits(models // 6, "three killed")
            for n in range(3):
                running.pop(n).send_signal(signal.SIGKILL)
            at_commits(models // 4, "two joined")
            running |= {n: start(n) for n in (6, 7)}
            at_commits(models // 3, "throttled")
            proxy.throttle = 0.2
            at_commits(models // 2, f"cut for {cut_s:.0f} s")
            proxy.cut(cut_s)
        codes = {n: process.wait() for n, process in running.items()}
        proxy.throttle = 0.0
        took = time.monotonic() - started
        last = folder / "last"
        summary = sync(last, remote=BUCKET, progress=False)
        counts, asked = dict(proxy.counts), dict(sorted(proxy.asked.items()))
    moto.stop()
    return compared(Workspace.open(last), alone, models) | {
        "models": models, "exit_codes": codes, "events": events, "seconds": round(took),
        "duplicates": summary.duplicates,
        "requests": counts, "requests_a_model": round((counts["GET"] + counts["PUT"]) / models, 2),
        "of_these_throttled_or_cut": counts.get("503", 0) + counts.get("cut", 0),
        "answered": asked,
    }  # fmt: skip


def compared(found: Workspace, alone: Workspace, models: int) -> dict[str, object]:
    """Compare the tables of the workspace that was pulled in the end with those of the undisturbed run."""
    one, two = (w.responses().sort_by([("repo_id", "ascending"), ("logit", "ascending")]) for w in (found, alone))
    rows = found.attempts(history=True)
    ends = [dict(zip(*(c.to_pylist() for c in pc.value_counts(w.attempts()["outcome"]).flatten()), strict=True))
            for w in (found, alone)]  # fmt: skip
    return {
        "attempt_rows": rows.num_rows, "models_in_them": len(pc.unique(rows["repo_id"])), "outcomes": ends[0],
        "attempted_is_the_sum": sum(ends[0].values()) == found.attempts().num_rows == models + 2,
        "outcomes_as_alone": ends[0] == ends[1], "holes": len(found.holes(here=True)),
        "responses_equal_alone": one.combine_chunks().equals(two.combine_chunks()), "response_rows": one.num_rows,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["hosts", "published"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--models", type=int, default=96)
    parser.add_argument("--cut", type=float, default=20.0, help="seconds")
    parser.add_argument("--calm", action="store_true", help="eight hosts from the start, and nothing goes wrong")
    options = parser.parse_args()
    if options.part == "hosts":
        figures = run_hosts(options.folder / "hosts", options.models, options.cut, options.calm)
    else:
        from benchmarks.remote.published import measure

        figures = measure(options.folder)
    sys.stdout.write(json.dumps({"part": options.part, **figures}) + "\n")


if __name__ == "__main__":
    main()
