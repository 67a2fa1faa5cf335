"""Speed, quality and memory of completion on structured synthetic responses.

* ``python -m benchmarks.completion.synthetic quality``: 10,000 logits x 4,000 probes, 24 of 200 models fully probed,
  the others on a random third; EM, soft-impute, anchors and the probe mean on the same data, and a convergence plot.
* ``python -m benchmarks.completion.synthetic memory``: the whole job, `complete`, over shards in a workspace; peak
  resident memory of a process of its own, then once more with the factors kept.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from completion import train
from completion.factors import Block
from completion.fit import Fit, affordable_rank, fit, largest_rank
from completion.validation import Case, Split, measure
from workspace import Workspace
from workspace.files import write_table
from workspace.records import ATTEMPTS, PROBES, RESPONSES

Array = npt.NDArray[np.float32]
NOISE = 0.52
"""Share of the variance that no method can predict: the ceiling of R2 is 0.48."""
CONCEPTS, GROUPS, DIMENSIONS = 8000, 200, 96


class World:
    """Concepts in groups; a logit answers one of them, through its model's own quirk, with noise."""

    def __init__(self, n: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        groups = rng.normal(size=(GROUPS, DIMENSIONS))
        self.concepts = groups[rng.integers(0, GROUPS, CONCEPTS)] + rng.normal(size=(CONCEPTS, DIMENSIONS)) * 0.7
        shown = rng.integers(0, CONCEPTS, n)
        self.probes = (self.concepts[shown] + rng.normal(size=(n, DIMENSIONS)) * 0.7).astype(np.float32)
        self.seed = seed

    def model(self, i: int, logits: int) -> Array:
        """Return z-scored responses of model ``i``, float32 ``[logits, n]``."""
        rng = np.random.default_rng([self.seed, 1, i])
        quirk = rng.normal(size=(DIMENSIONS, DIMENSIONS)) * (0.35 / DIMENSIONS**0.5)
        known = self.concepts[rng.integers(0, CONCEPTS, logits)].astype(np.float32)
        turned = known @ (np.eye(DIMENSIONS) + quirk).astype(np.float32)
        signal = np.logaddexp(0, 1.5 * zscore(turned @ self.probes.T) - 1).astype(np.float32)
        noise = rng.standard_normal(signal.shape, dtype=np.float32)
        return zscore(zscore(signal) * (1 - NOISE) ** 0.5 + noise * NOISE**0.5)


def zscore(x: Array) -> Array:
    return (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)


def subset(i: int, n: int, share: float) -> npt.NDArray[np.int64]:
    return np.sort(np.random.default_rng([7, i]).permutation(n)[: round(n * share)])


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def quality(options: argparse.Namespace) -> None:
    """Print a line a method: seconds, processor seconds, R2 and calibration on everything that was not run."""
    world, n = World(options.probes), options.probes
    responses = [world.model(i, 50) for i in range(options.models)]
    blocks = []
    for i, values in enumerate(responses):
        ids = np.arange(n) if i < options.anchors else subset(i, n, options.share)
        blocks.append(Block((f"m{i}", ""), torch.from_numpy(ids), torch.from_numpy(values[:, ids].copy())))
    truth = []
    for block, values in zip(blocks[options.anchors :], responses[options.anchors :], strict=True):
        gone = np.setdiff1d(np.arange(n), block.observed.numpy())
        truth.append(Case(block, torch.from_numpy(gone), torch.from_numpy(values[:, gone])))

    def gallery() -> list[Block]:
        return blocks

    split = Split({b.key: len(b.observed) for b in blocks}, n)
    logits = sum(len(b.values) for b in blocks)
    masks = options.models - options.anchors

    def em(cases: list[Case]) -> Fit:
        ranks = {"largest": min(options.rank, largest_rank(logits)), "affordable": affordable_rank(n, masks)}
        return fit(gallery, split, cases, rank=None, anchors=options.anchors > 0, **ranks)

    common = {"seed": 0, "device": "cpu"}
    ways = {
        "em": em,
        "soft-impute": lambda cases: train.soft_impute(gallery, split, cases, rank=options.rank, **common),
        "anchors": lambda cases: train.anchor_ridge(gallery, split, cases, rank=options.rank, **common),
        "mean": lambda cases: train.probe_mean(gallery, split, cases, device="cpu"),
    }
    say("| method | rank | s by the clock | s of processor time | R2 | error^2 / variance | R2 by iteration |")
    say("|---|---|---|---|---|---|---|")
    history = {}
    for name, way in ways.items():
        began, worked = time.time(), time.process_time()
        found = way(split.cases(gallery, "cpu"))
        clock, work = time.time() - began, time.process_time() - worked
        true = measure(found.factors.complete, truth, n)
        steps = ", ".join(f"{value:.3f}" for value in found.history)
        times = f"{clock:.1f} | {work:.1f}"
        say(f"| {name} | {found.factors.rank} | {times} | {true.r2:.3f} | {true.calibration:.2f} | {steps} |")
        history[name] = found.history
        for line in found.log:
            say(f"<!-- {line} -->")
    if options.plot:
        _plot(history, options.plot)


def _plot(history: dict[str, list[float]], path: str) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.5))
    for name, values in history.items():
        axes.plot(range(len(values)), values, marker="o", label=name)
    axes.set_xlabel("iteration (soft-impute: threshold)")
    axes.set_ylabel("R² on hidden responses")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def write_gallery(root: Path, n: int, logits: int, share: float, per_file: int = 2000, per_model: int = 50) -> None:
    """Write a workspace of responses, ``per_file`` logits a file."""
    world, workspace = World(n), Workspace.create(root)
    image = {"bytes": b"x", "path": None}
    rows = [{"probe_id": i, "image": image, "image_hash": f"{i:064x}", "width": 1, "height": 1} for i in range(n)]
    write_table(workspace.probes_dir("made") / "probes.parquet", pa.Table.from_pylist(rows, PROBES))
    workspace.use_probe_set("made")
    attempts = []
    for first in range(0, logits // per_model, per_file // per_model):
        tables = []
        for i in range(first, min(first + per_file // per_model, logits // per_model)):
            ids = subset(i, n, share)
            part = zscore(world.model(i, per_model)[:, ids]).astype(np.float16)
            offsets = np.arange(per_model + 1, dtype=np.int32) * len(ids)
            none = [None] * (per_model - 1)
            columns = {
                "repo_id": [f"o/m{i:06d}"] * per_model, "sha": ["0" * 40] * per_model,
                "logit": np.arange(per_model, dtype=np.int32), "label": [None] * per_model,
                "mean": np.zeros(per_model, np.float32), "std": np.ones(per_model, np.float32),
                "excluded": [None] * per_model,
                "response": pa.ListArray.from_arrays(offsets, pa.array(part.reshape(-1))),
                "probe_ids": [ids.tolist(), *none], "logsumexp": [[0.0] * len(ids), *none], "random_ids": [None, *none],
            }  # fmt: skip
            tables.append(pa.table(columns, schema=RESPONSES))
            attempts.append({
                "repo_id": f"o/m{i:06d}", "sha": "0" * 40, "attempt": 1, "outcome": "ok", "status": "ok", "reason": "",
                "probe_set": "made", "started_at": datetime.now(timezone.utc),
            })  # fmt: skip
        write_table(workspace.responses_dir("made") / f"s{first:06d}.parquet", pa.concat_tables(tables))
    write_table(workspace.attempts_dir / "all.parquet", pa.Table.from_pylist(attempts, ATTEMPTS))


def memory(options: argparse.Namespace) -> None:
    """Write a gallery as shards and run the job on it in processes of their own."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root = Path(folder) / "w"
        write_gallery(root, options.probes, options.logits, options.share)
        size = sum(path.stat().st_size for path in root.rglob("*.parquet")) / 1e9
        say(f"{options.logits} logits x {options.probes} probes, share {options.share}: {size:.2f} GB of responses")
        command = [sys.executable, "-m", "benchmarks.completion.synthetic", "job", "--folder", str(root)]
        for name in ("first run", "factors kept"):
            done = subprocess.run(
                [*command, "--rank", str(options.rank), "--iterations", str(options.iterations)],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            say(f"{name}: {done.stdout.strip()}")


def job(options: argparse.Namespace) -> None:
    """Run `complete` and say what it took."""
    import completion

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.time()
    settings = completion.Settings(rank=options.rank, iterations=options.iterations, device="cpu")
    summary = completion.complete(Workspace.open(options.folder), settings, progress=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    say(
        f"peak {peak / 1e6:.2f} GB ({before / 1e6:.2f} GB of it imports), {time.time() - began:.0f} s by the clock, "
        f"{time.process_time():.0f} s of processor time, R2 {summary.r2}, {summary.logits} logits"
    )


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["quality", "memory", "job"])
    parser.add_argument("--probes", type=int, default=4000)
    parser.add_argument("--models", type=int, default=200, help="of 50 logits")
    parser.add_argument("--anchors", type=int, default=24, help="fully probed models")
    parser.add_argument("--logits", type=int, default=100_000)
    parser.add_argument("--share", type=float, default=1 / 3)
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--folder", help="where the workspace is written, or lies")
    parser.add_argument("--plot", help="PNG of the convergence")
    options = parser.parse_args()
    {"quality": quality, "memory": memory, "job": job}[options.part](options)


if __name__ == "__main__":
    main()
