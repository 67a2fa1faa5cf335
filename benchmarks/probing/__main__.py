"""``python -m benchmarks.probing``: the comparisons of docs/probe.md, printed as a Markdown table.

Each comparison runs both sides on the same images and models, one after the other. ``--device cuda`` runs the one for
GPUs, which needs nothing from the network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import click

from benchmarks.probing import preprocessing, setting
from benchmarks.probing.utilisation import Utilisation

ROOT = Path(__file__).parents[2]
PARTS = ("preprocess", "pipeline", "bare", "scaling", "idle", "kills", "full", "gpu")
Row = tuple[str, str, str]


def _child(module: str, *arguments: str, cores: str | None = None, **environment: str) -> str:
    pin = ["taskset", "-c", cores] if cores is not None else []
    done = subprocess.run(
        [*pin, sys.executable, "-m", module, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return done.stdout


def _baseline(name: str, **options: Any) -> dict[str, Any]:
    from probing.child.walls import FIXED

    environment = dict(FIXED) if options.get("workers") else {}
    text = _child("benchmarks.probing.baselines", name, json.dumps(options), **environment)
    return json.loads(text.strip().splitlines()[-1])  # type: ignore[no-any-return]


def _workspace(root: Path, repos: dict[str, Path], images: Path, n: int) -> tuple[Any, dict[str, Path]]:
    """Return a workspace with probes and a catalog, and where its copies of ``repos`` lie (``models.json``, too)."""
    import probing
    from workspace import Workspace

    workspace = Workspace.create(root)
    probing.probes.build(workspace, images, n=n, progress=False)
    setting.catalog(workspace, repos)
    # Into the workspace, where what is fetched lies: the models' process starts anew for a folder elsewhere.
    sources = {folder: workspace.root / "repos" / str(i) for i, folder in enumerate(dict.fromkeys(repos.values()))}
    for folder, copy in sources.items():
        shutil.copytree(folder, copy)
    inside = {name: sources[folder] for name, folder in repos.items()}
    (workspace.root / "models.json").write_text(json.dumps({k: str(v) for k, v in inside.items()}))
    return workspace, inside


def against_pipeline(root: Path, models: int, probes: int) -> list[Row]:
    """Models an hour against `transformers.pipeline` on the same files, batches of 32; there one model of each kind."""
    repos = setting.demo_models(models)
    images = setting.images(root / "images", probes)
    workspace, _ = _workspace(root / "pipeline", repos, images, probes)
    kinds: dict[str, Path] = {}
    for folder in repos.values():
        kinds.setdefault(json.loads((folder / "config.json").read_text())["model_type"], folder)
    started, used = perf_counter(), _children_cpu()
    _child("benchmarks.probing.one_run", str(workspace.root))
    wall, cpu = (perf_counter() - started) / len(repos), (_children_cpu() - used) / len(repos)
    ended = workspace.attempts(["status"])["status"].to_pylist()
    made = _baseline("pipeline", folders=[str(f) for f in kinds.values()], images=str(images), n=probes)
    names = [json.loads((f / "config.json").read_text())["model_type"] for f in repos.values()]
    theirs = {key: dict(zip(kinds, made[key], strict=True)) for key in ("seconds", "cpu")}
    mean, mean_cpu = (sum(theirs[key][name] for name in names) / len(names) for key in ("seconds", "cpu"))
    what = f"prober: {ended.count('ok')} of {len(repos)} small models x {probes} probes, cold cache, start included"
    kind = f"transformers.pipeline: one model of each of {len(kinds)} kinds, weighted"
    return [
        (what, f"{wall:.2f} s a model, {3600 / wall:.0f} models/h", f"{cpu:.2f} s of processor time"),
        (kind, f"{mean:.2f} s a model, {3600 / mean:.0f} models/h", f"{mean_cpu:.2f} s of processor time"),
        ("ratio", f"{mean / wall:.1f}x (goal 5x)", f"{mean_cpu / cpu:.1f}x in processor time"),
    ]


def preprocess(root: Path, models: int, probes: int) -> list[Row]:
    """Cold preprocessing of every geometry, in lists and one image at a time."""
    repos = setting.demo_models(models)
    workspace, repos = _workspace(root / "cold", repos, setting.images(root / "images", probes), probes)
    return preprocessing.measure(workspace, repos)


def _children_cpu() -> float:
    """Return the processor time of the processes started from here that have ended, in seconds."""
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def against_bare(root: Path, probes: int) -> list[Row]:
    """EfficientNet-Lite0 all the way from a loopback hub, preprocessing cached, against its forward passes alone."""
    import crawler
    import probing
    from hubprobe.demo.server import serve_demo
    from workspace import Config, Workspace

    images = setting.images(root / "images", probes)
    with serve_demo(with_unhealthy=False) as hub:
        workspace = Workspace.create(root / "bare", Config(endpoint=hub.url))
        probing.probes.build(workspace, images, n=probes, progress=False)
        crawler.crawl(workspace, progress=False)
        name = next(i for i in workspace.catalog(["id"])["id"].to_pylist() if "lite0" in i)
        files: list[Path] = []
        for retry in ((), ("ok",)):  # the first run makes the cache of preprocessed probes, the second is measured
            for folder in files:
                shutil.rmtree(folder)  # so that it fetches the files again
            files.clear()
            fetcher = crawler.Fetcher(workspace, keep=True)  # for the bare passes afterwards

            def fetch(row: Any, fetcher: Any = fetcher) -> Any:
                fetched = fetcher(row)
                files.append(fetched.folder)
                return fetched

            used = _children_cpu() + process_time()
            summary = probing.probe(workspace, fetch, models=[name], retry=retry, progress=False)
            fetcher.close()
        cpu = _children_cpu() + process_time() - used
    phases = summary.seconds_by_phase
    total = sum(phases.values())
    meta = next((workspace.cache_dir / "inputs").glob("*/meta.json"))
    shape = json.loads(meta.read_text())["shape"]
    sizes = workspace.attempts(["batch_size"]).column(0).to_pylist()
    batch = next(size for size in sizes if size)  # the prober's own, so the same batches
    common = {"folder": str(files[0]), "pixels": str(meta.with_name("pixels")), "shape": shape, "batch": batch}
    cores = len(os.sched_getaffinity(0))
    plain = _baseline("bare", **common, device="cpu", workers=0)
    best = _baseline("bare", **common, device="cpu", workers=cores)
    parts = ", ".join(f"{k} {v:.2f}" for k, v in phases.items())
    return [
        (f"EfficientNet-Lite0, {probes} probes in batches of {batch}, cache warm: {parts}", f"{total:.1f} s",
         f"{cpu:.1f} s of processor time, start of the child included"),
        ("bare passes, torch's own threads", f"{plain['seconds']:.1f} s, ratio {total / plain['seconds']:.2f}",
         f"{plain['cpu']:.1f} s of processor time; goal at most 1.15"),
        (f"bare passes, as the prober runs them ({cores} batches at once)",
         f"{best['seconds']:.1f} s, ratio {total / best['seconds']:.2f}",
         f"{best['cpu']:.1f} s of processor time; goal at most 1.15"),
    ]  # fmt: skip


def scaling(root: Path, models: int, probes: int) -> list[Row]:
    """Two processes on two cores against one process on one core; times without the start of Python."""
    repos = setting.demo_models(models)
    images = setting.images(root / "images", probes)
    seconds: dict[str, float] = {}
    for name, cores in (("one", "0"), ("two", "0,1")):
        workspace, _ = _workspace(root / name, repos, images, probes)
        script = str(Path(__file__).with_name("one_run.py"))
        warm = _child("benchmarks.probing.one_run", str(workspace.root), "2")
        assert warm is not None
        if name == "one":
            _child("benchmarks.probing.one_run", str(workspace.root), cores=cores)
        else:
            launch = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
            _child("accelerate.commands.launch", *launch, "--dynamo_backend", "no", script, str(workspace.root),
                   cores=cores)  # fmt: skip
        rows = workspace.attempts(["started_at", "run_id", "rank"]).to_pylist()
        last = max(r["run_id"] for r in rows)
        manifest = json.loads((workspace.runs_dir / f"{last}.json").read_text())
        seconds[name] = manifest["seconds"]
    return [
        (f"{models} small models x {probes} probes, one process on one core", f"{seconds['one']:.1f} s", ""),
        ("two processes on two cores", f"{seconds['two']:.1f} s, {seconds['one'] / seconds['two']:.2f}x", "goal 1.7x"),
    ]


def kills(root: Path, models: int, probes: int) -> list[Row]:
    """A rank, the launcher, and everything at once killed with SIGKILL; then the rows against an undisturbed run's."""
    from benchmarks.probing.kills import kill_and_compare

    said = _disturbed(root / "kills", models, probes, kill_and_compare)
    return [(f"{models} models x {probes} probes, two processes; rank, launcher, all killed", said, "goal: same")]


def full_disk(root: Path, models: int, probes: int) -> list[Row]:
    """The same on disks that fill up during the run."""
    from benchmarks.probing.kills import fill_and_compare

    said = _disturbed(root / "full", models, probes, fill_and_compare)
    return [(f"{models} models x {probes} probes on a disk too small, a quarter larger each time", said, "goal: same")]


def _disturbed(root: Path, models: int, probes: int, disturb: Callable[..., str]) -> str:
    repos = setting.demo_models(models)
    images = setting.images(root / "images", probes)
    workspaces = [_workspace(root / name, repos, images, probes)[0] for name in ("disturbed", "quiet")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return disturb(workspaces, Path(__file__).with_name("one_run.py"), environment)


def idle(ranks: int = 64, models: int = 5000, mean_seconds: float = 0.2) -> list[Row]:
    """Idle share of many ranks that pull simulated models, largest first, from a real store on this machine."""
    import threading
    import time

    import numpy as np
    from torch.distributed import PrefixStore, TCPStore

    from probing.group import Group

    sizes = np.random.default_rng(0).lognormal(0.0, 1.0, models)
    sizes = np.sort(sizes / sizes.mean() * mean_seconds)[::-1]
    server = TCPStore("127.0.0.1", 0, is_master=True)
    busy, began, ended = ([0.0] * ranks for _ in range(3))
    together = threading.Barrier(ranks)

    def work(rank: int) -> None:
        store = TCPStore("127.0.0.1", server.port, is_master=False)
        group = Group(rank, ranks, rank, ranks, PrefixStore("idle", store))
        together.wait()
        began[rank] = perf_counter()
        while (place := group.pull()) < models:
            at = perf_counter()
            time.sleep(sizes[place])
            busy[rank] += perf_counter() - at
        ended[rank] = perf_counter()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = max(ended) - min(began)
    share = 1 - sum(busy) / (wall * ranks)
    what = f"{ranks} ranks, {models} models of {mean_seconds} s (log-normal), pulled largest first"
    return [(what, f"{wall:.1f} s, idle {100 * share:.1f} %", "goal under 3 %")]


def on_gpu(root: Path, device: str, copies: int, probes: int) -> list[Row]:
    """Models of four usual sizes with random weights, against their bare forward passes in the same precision."""
    import probing

    repos = setting.large_models(root / "large", copies)
    images = setting.images(root / "images", probes)
    workspace, repos = _workspace(root / "gpu", repos, images, probes)
    first = [name for name in repos if name.endswith("-0")]
    probing.probe(workspace, setting.Folders(repos), device=device, models=first, progress=False)
    with Utilisation(device) as gpu:
        summary = probing.probe(workspace, setting.Folders(repos), device=device, progress=False)
    if summary.failed:
        raise SystemExit(f"some models failed: {summary.by_status}")
    meta = next((workspace.cache_dir / "inputs").glob("*/meta.json"))
    shape = json.loads(meta.read_text())["shape"]
    batch = 256 if device != "cpu" else 64
    bare = 0.0
    for name in first:
        options = {"folder": str(repos[name]), "pixels": str(meta.with_name("pixels")), "shape": shape}
        workers = 0 if device != "cpu" else len(os.sched_getaffinity(0))
        bare += _baseline("bare", **options, batch=batch, device=device, workers=workers)["seconds"]
    wanted = bare * summary.run / len(first)
    return [
        (f"{summary.run} models (ResNet-50, ViT-B/16, ConvNeXt-T, Swin-T), {probes} probes, {device}",
         f"{summary.models_per_hour:.0f} models/h, {summary.images_per_second:.0f} images/s", ""),
        ("share of the bare-forward rate", f"{100 * wanted / summary.seconds:.0f} %", "goal 90 %"),
        ("GPU utilisation", gpu.text, ""),
        ("seconds by phase (they overlap)", json.dumps(dict(summary.seconds_by_phase)), f"wall {summary.seconds:.1f}"),
    ]  # fmt: skip


@click.command()
@click.option("--only", type=click.Choice(PARTS), multiple=True)
@click.option("--device", default="cpu", show_default=True, help="'cuda' runs the comparison for GPUs.")
@click.option("--models", default=40, show_default=True)
@click.option("--probes", default=2000, show_default=True)
@click.option("--copies", default=50, show_default=True, help="Models of each of the four sizes, for GPUs.")
def main(only: tuple[str, ...], device: str, models: int, probes: int, copies: int) -> None:
    """Measure, and print Markdown."""
    chosen = only or (("gpu",) if device.startswith("cuda") else ("pipeline", "bare", "scaling", "idle", "kills"))
    click.echo(f"{setting.machine()}\n\n| what | measured | |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        measures: dict[str, Callable[[], list[Row]]] = {
            "preprocess": lambda: preprocess(root, models, probes),
            "pipeline": lambda: against_pipeline(root, models, probes),
            "bare": lambda: against_bare(root, probes),
            "scaling": lambda: scaling(root, models, probes),
            "idle": idle,
            "kills": lambda: kills(root, models, probes),
            "full": lambda: full_disk(root, models, probes),
            "gpu": lambda: on_gpu(root, device, copies, probes),
        }
        for name in chosen:
            for row in measures[name]():
                click.echo(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
