"""Serve MiniHub over the demo hub's wire protocol, crawl it and run every model on the probe set.

Run ``python -m benchmarks.minihub.probe``, also while ``models.py`` is still training: what is new is crawled
and probed, what is committed is never run again. ``--imagenet`` adds the two ImageNet models, two minutes
by themselves. The workspace is ``$HUBPROBE_ASSETS/minihub/workspace``, the probe set all images of
``$HUBPROBE_ASSETS/accuracy/probes.parquet`` (``python -m benchmarks.accuracy.probes``).
"""

import json
import logging
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

import crawler
from benchmarks.demo_hub import sources
from benchmarks.minihub import imagenet, pool
from hubprobe.demo.repository import Repo
from hubprobe.demo.server import HubServer
from hubprobe.front import probe
from probing import probes
from workspace import Config, Workspace

LARGEST = 10_000
"""More than there are, so that the probe set is every image of the file."""

log = logging.getLogger("probe")


def repos(with_imagenet: bool) -> list[Repo]:
    """Return the published models, and the ImageNet models if wanted or probed before."""
    folders = [path for root in ("hub", "imagenet") for path in sorted((pool.root() / root).glob("*/*"))]
    if with_imagenet:
        imagenet.assemble(pool.root() / "imagenet")
        folders = [path for root in ("hub", "imagenet") for path in sorted((pool.root() / root).glob("*/*"))]
    return [Repo.from_folder(f"{path.parent.name}/{path.name}", path) for path in folders]


def wait_for(path: Path) -> None:
    """Wait until the probe set has been written: it is somebody else's step."""
    while not path.exists():
        log.info("waiting for the probe set")
        time.sleep(10)


def main(with_imagenet: bool) -> None:
    """Crawl and probe whatever is there."""
    for name in ("NO_PROXY", "no_proxy"):  # the hub is on this machine
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost"]))
    images = sources.assets() / "accuracy" / "probes.parquet"
    wait_for(images)
    stored = Workspace.create(pool.root() / "workspace", Config())
    with HubServer(repos(with_imagenet)) as server:
        workspace = Workspace(stored.root, replace(stored.config, endpoint=server.url))
        if not (stored.root / "probes" / "current.json").exists():
            built = probes.build(workspace, images, n=LARGEST, seed=0, progress=False)
            log.info("probe set: %s", built)
        started = time.monotonic()
        log.info("crawl: %s", crawler.crawl(workspace, token="", progress=False))
        log.info("crawled in %.0f s", time.monotonic() - started)
        started = time.monotonic()
        summary = probe(workspace, token="", progress=False, precision="float32", device="cpu")
        seconds = time.monotonic() - started
    log.info("probe: %s", summary)
    log.info("probed in %.0f s", seconds)
    with (pool.root() / "probe_passes.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"seconds": round(seconds), "imagenet": with_imagenet, "summary": str(summary)}) + "\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    main("--imagenet" in sys.argv[1:])
