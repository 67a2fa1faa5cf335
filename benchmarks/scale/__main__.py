"""``python -m benchmarks.scale``: 100,000 models, 200 machines; then fewer and more of them. Writes scale.svg here."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import click

from benchmarks.scale.simulation import Cluster, Outcome, run

FETCHES = 4
"""Requests to the Hub for a model's files: config, processor, weights, and the weights' redirect."""

QUOTAS = {"free": 5_000, "PRO": 12_000}
"""Files asked for in five minutes, as the Hub documents them; see docs/operations.md."""


HEADING = (
    "machines, way", "hours", "of the bound", "idle", "cut off", "repeated", "interruptions", "store requests a model",
    "requests to the Hub in 5 minutes",
)  # fmt: skip


def line(name: str, found: Outcome) -> str:
    cells = [name, f"{found.makespan / 3600:.2f}", f"{found.makespan / found.bound:.3f}", f"{found.idle:.1%}"]
    cells += [f"{found.lost / found.busy:.1%}", f"{found.duplicates:,} ({found.repeated / found.busy:.1%})"]
    cells += [f"{found.interruptions:,}", f"{1 + found.lists / found.models:.1f}", f"{FETCHES * found.peak:,}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--sweep", type=int, nargs="*", default=[50, 100, 400, 800])
    asked = parser.parse_args()
    click.echo(f"| {' | '.join(HEADING)} |\n{'|---' * len(HEADING)}|")
    cluster = Cluster(asked.workers)
    whole = replace(cluster, dead=0, late=0)
    curves: dict[str, list[tuple[int, Outcome]]] = {"shards": [], "ray": []}
    for way in curves:
        found = run(cluster, asked.models, way)
        click.echo(line(f"{cluster.workers} spot, {way}", found))
        curves[way].append((cluster.workers, found))
        click.echo(line(f"{cluster.workers} spot, none dead or late, {way}", run(whole, asked.models, way)))
        steady = run(replace(whole, spot=False), asked.models, way)
        click.echo(line(f"{cluster.workers} steady, {way}", steady))
    found = run(whole, asked.models, "fixed")
    click.echo(line(f"{cluster.workers} spot, none dead or late, a fixed split without help", found))
    for workers in asked.sweep:
        for way in curves:
            share = max(1, workers // 20)
            found = run(Cluster(workers, dead=share, late=share), asked.models, way)
            click.echo(line(f"{workers} spot, {way}", found))
            curves[way].append((workers, found))
    draw(curves, Path(__file__).with_name("scale.svg"))


def draw(curves: dict[str, list[tuple[int, Outcome]]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for way, points in curves.items():
        points.sort(key=lambda pair: pair[0])
        workers, found = [number for number, _ in points], [outcome for _, outcome in points]
        option = {"shards": "--shard", "ray": "--engine ray"}[way]
        left.plot(workers, [o.makespan / o.bound for o in found], marker="o", label=option)
        wasted = [o.idle + (1 - o.idle) * (o.lost + o.repeated) / (o.busy + o.lost + o.repeated) for o in found]
        middle.plot(workers, [100 * share for share in wasted], marker="o")
        right.plot(workers, [FETCHES * o.peak for o in found], marker="o")
    left.set(title="time over the lower bound", xlabel="machines", xscale="log", ylim=(1, None))
    middle.set(title="idle, cut off or repeated, %", xlabel="machines", xscale="log", ylim=(0, None))
    right.set(title="requests to the Hub in 5 minutes", xlabel="machines", xscale="log", yscale="log")
    for name, quota in QUOTAS.items():
        right.axhline(quota, linestyle="--", color="grey")
        right.annotate(f"quota, {name}", (50, quota * 1.08), color="grey")
    ticks = sorted({number for points in curves.values() for number, _ in points})
    for axes in (left, middle, right):
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
    left.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main()
