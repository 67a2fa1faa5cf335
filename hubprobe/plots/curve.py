"""How much of a search survives when models are run on a part of the probes only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hubprobe.plots.outputs import unused_names
from hubprobe.plots.style import BLUE, GREY, ORANGE, SOFT, VERMILION, checked, note, number, picture
from search.scan.scoring import ZERO_SHOT
from search.text.calibration import spread
from search.text.contrast import strengths
from workspace import ConfigError, QueryError, WorkspaceError
from workspace.files import read_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from completion.factors import Block, Factors
    from search import Index

HITS = 10
FITTED_LOGITS = 6_000
"""Logits that factors are fitted to: at 4,000 probes 96 MB, and minutes at most."""

LEAST_MODELS = 6
_MEASURED_MODELS = 64
_MEASURED_LOGITS = 64  # of one model: one with 21,000 should not decide alone
_QUERIES = 512

SHARES = (0.05, 0.1, 1 / 6, 1 / 3, 0.5)
"""Shares of the probes that are tried when none is named."""

_MODES = {
    "adaptive": ("adaptive: chosen while probing, completed", VERMILION, "D-"),
    "random": ("random probes, completed", BLUE, "o-"),
    "fixed": ("the same fixed probes for all, not completed", GREY, "s--"),
}
_TASKS = {"text": "by a concept's name", "logit": "by another model's logit"}


def curve(
    index: Index, path: str | Path, *, shares: Sequence[float] = SHARES, seed: int = 0, progress: bool = True
) -> list[dict[str, Any]]:
    """Draw what partial probing would keep in this very workspace: nothing is run, and truth is full probing.

    A third of the fully probed models (64 at most) are treated as if only a share of their probes had been run, the
    factors fitted to the others. Drawn is the share of the ten best hits among their logits that stay, of names and of
    other models' logits, with completion and without; and R2 of the completed responses.

    Returns a row per share: ``share``, ``probes``, ``r2``, and ``similar``, ``similar_observed``, ``text``,
    ``text_observed`` (None without an encoder). Raises `ConfigError` for shares that leave too few probes or none out,
    `QueryError` when too few models were probed in full.
    """
    checked(path)
    rows, about = held_out(index, sorted(set(shares)), seed=seed, progress=progress)
    with picture(path, 9, 3.9) as figure:
        kept, fit = figure.subplots(1, 2, width_ratios=[3, 2])
        x = [row["share"] for row in rows]
        for name, colour, label in (
            ("text", ORANGE, "by a concept's name"), ("similar", BLUE, "by another model's logit"),
        ):  # fmt: skip
            if rows[0][name] is not None:
                kept.plot(x, [row[name] for row in rows], "o-", color=colour, label=f"{label}, completed")
                kept.plot(x, [row[f"{name}_observed"] for row in rows], "o:", color=colour, label="· run probes alone")
        kept.set_ylabel(f"share of the {HITS} best hits that stay")
        kept.legend(loc="lower right")
        fit.plot(x, [row["r2"] for row in rows], "o-", color=BLUE)
        fit.set_ylabel("R² of responses that were not run")
        _share_axes([kept, fit], x)
        fit.set_ylim(min(0.0, *(row["r2"] for row in rows)), 1)
        best = min(rows, key=lambda row: abs(row["share"] - 1 / 3))
        kept.set_title(f"{best['similar']:.0%} of the best hits stay when {best['share']:.0%} of the probes are run")
        note(
            kept,
            f"{about['measured']} models, {number(about['logits'])} logits, completed from {about['fitted']} others",
        )
    return rows


def recorded_curve(source: str | Path, path: str | Path) -> list[dict[str, Any]]:
    """Draw a recorded study of partial probing: share of the full accuracy against the share of the probes.

    ``source`` is a JSON file as ``benchmarks/accuracy/results/partial_*.json``: ``rows`` with ``part``, ``gallery``,
    ``mode``, ``share``, and for ``text`` and ``logit`` ``..._top1`` and ``..._of_full``. Only the test part is drawn.

    Returns its rows. Raises `ConfigError` when the file is no such record.
    """
    checked(path)
    try:
        recorded = read_json(Path(source))["rows"]
        rows = [{name: row[name] for name in _FIELDS} for row in recorded if row["part"] == "test"]
        galleries = list(dict.fromkeys(row["gallery"] for row in rows))
        full = {row["gallery"]: row for row in rows if row["mode"] == "full"}
        assert galleries
        assert set(galleries) == set(full)
    except (KeyError, TypeError, AssertionError, OSError, UnicodeDecodeError, WorkspaceError) as error:
        raise ConfigError(
            f"{source} is no record of partial probing ({type(error).__name__}: {error}): "
            "name one like benchmarks/accuracy/results/partial_imagenet.json"
        ) from error
    with picture(path, 9, 1.0 + 2.8 * len(galleries)) as figure:
        panels = figure.subplots(len(galleries), 2, squeeze=False)
        for line, gallery in zip(panels, galleries, strict=True):
            for axes, (task, name) in zip(line, _TASKS.items(), strict=True):
                some = [row for row in rows if row["gallery"] == gallery]
                _recorded(axes, some, task)
                top = full[gallery][f"{task}_top1"]
                axes.set_title(f"{some[0]['target'].rpartition('/')[2]}, {name}")
                note(axes, f"gallery: {gallery}; full probing: top-1 {top:.3f}")
        figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        most = max(row["share"] for row in rows if row["mode"] != "full")
        at = [row for row in rows if row["gallery"] == galleries[0] and row["share"] == most]
        best = max(at, key=lambda row: row["text_of_full"] + row["logit_of_full"])
        figure.suptitle(
            f"{best['share']:.0%} of the probes keep {best['text_of_full']:.0%} of the top-1 by name, "
            f"{best['logit_of_full']:.0%} by logit ({best['mode']}, gallery: {galleries[0]})",
            ha="left", x=0.01, fontsize=12,
        )  # fmt: skip
        _share_axes(panels.ravel().tolist(), sorted({row["share"] for row in rows if row["mode"] != "full"}))
    return rows


_FIELDS = (
    "target", "gallery", "mode", "share", "text_top1", "text_of_full", "logit_top1", "logit_of_full", "text_queries",
    "logit_queries",
)  # fmt: skip


def _recorded(axes: Axes, rows: list[dict[str, Any]], task: str) -> None:
    for mode, (label, colour, marks) in _MODES.items():
        points = sorted((row["share"], row[f"{task}_of_full"]) for row in rows if row["mode"] == mode)
        if points:
            axes.plot(*zip(*points, strict=True), marks, color=colour, label=label)
    axes.axhline(1.0, color=SOFT, lw=1, ls="--")
    axes.set_ylabel("share of the full top-1")
    axes.set_ylim(0, 1.08)


def _share_axes(panels: Sequence[Axes], shares: Sequence[float]) -> None:
    for axes in panels:
        axes.set_xscale("log")
        axes.set_xticks(shares, [f"{share:.2g}" if share < 0.01 else f"{share:.0%}" for share in shares])
        axes.minorticks_off()
        axes.set_xlabel("share of the probes run on a model")
        axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))
        axes.grid()


# ── treating fully probed models as if they had been probed in part ─────────────────────────────────────────────────


def held_out(
    index: Index, shares: Sequence[float], *, seed: int = 0, progress: bool = True
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Measure what `curve` draws; returns its rows, and ``measured``, ``fitted`` and ``logits``.

    Completion sees none of the measured models: they are new to it, as the next ones of a crawl will be.
    """
    from completion.settings import LEAST_PROBES

    gallery, n = index.gallery, index.gallery.n_probes
    wrong = [share for share in shares if not LEAST_PROBES <= math.ceil(share * n) < n]
    if not shares or wrong:
        raise ConfigError(f"a share runs at least {LEAST_PROBES} of the {n} probes and leaves some out, not {wrong}")
    rng = np.random.default_rng(seed)
    whole = np.flatnonzero(gallery.logits.column("observed").to_numpy() >= 1.0)
    models = rng.permutation(np.unique(gallery.model_of[whole]))
    if models.size < LEAST_MODELS:
        raise QueryError(f"{models.size} models were run on all probes: at least {LEAST_MODELS} are needed")
    measured = models[: min(_MEASURED_MODELS, models.size // 3)]
    rest = whole[~np.isin(gallery.model_of[whole], measured)]
    rest = np.sort(rng.choice(rest, min(rest.size, FITTED_LOGITS), replace=False))
    factors = _factors(index, rest, seed, progress)
    parts = [_some(whole[gallery.model_of[whole] == model]) for model in measured]
    truth = gallery.vectors(np.concatenate(parts))
    queries = {"similar": strengths(gallery.vectors(_some(rest, _QUERIES))), "text": _texts(index)}
    best = {name: _best(asked, truth) for name, asked in queries.items() if asked is not None}
    rows = []
    for share in shares:
        filled, alone, hidden = _as_partial(truth, [len(part) for part in parts], factors, share, rng)
        wrongness = ((truth - filled)[hidden] ** 2).sum(dtype=np.float64)
        r2 = 1.0 - float(wrongness / (truth[hidden] ** 2).sum(dtype=np.float64))
        row: dict[str, Any] = {"share": round(share, 4), "probes": math.ceil(share * n), "r2": round(r2, 4)}
        for name, asked in queries.items():
            for ending, vectors in (("", filled), ("_observed", alone)):
                row[f"{name}{ending}"] = None
                if asked is not None:
                    pairs = zip(best[name], _best(asked, vectors), strict=True)
                    row[f"{name}{ending}"] = round(float(np.mean([np.isin(a, b).mean() for a, b in pairs])), 4)
        rows.append(row)
    fitted = int(np.unique(gallery.model_of[rest]).size)
    return rows, {"measured": int(measured.size), "fitted": fitted, "logits": len(truth)}


def _some(rows: NDArray[np.int64], count: int = _MEASURED_LOGITS) -> NDArray[np.int64]:
    return np.array(spread(rows.tolist(), count), np.int64)


def _factors(index: Index, rows: NDArray[np.int64], seed: int, progress: bool) -> Factors:
    import torch

    from completion.factors import Block
    from completion.fit import fit, largest_rank
    from completion.validation import Split

    everything = torch.arange(index.gallery.n_probes)
    blocks: list[Block] = []
    for model in np.unique(index.gallery.model_of[rows]):
        own = rows[index.gallery.model_of[rows] == model]
        blocks.append(Block((str(model), ""), everything, torch.from_numpy(index.gallery.vectors(own))))
    split = Split({block.key: len(everything) for block in blocks}, len(everything))
    return fit(
        lambda: blocks, split, split.cases(lambda: blocks, "cpu"),
        rank=None, largest=min(128, largest_rank(rows.size)), iterations=2, seed=seed, progress=progress,
    ).factors  # fmt: skip


def _texts(index: Index) -> NDArray[np.float32] | None:
    """Return what names of the bank expect of every probe, float32 ``[names, n]``; None without an encoder."""
    if index.gallery.calibration is None:
        return None
    names = unused_names(_QUERIES)
    index.prepare(names)
    return np.stack([index.descriptor(name).sides[ZERO_SHOT] for name in names]).astype(np.float32)


def _as_partial(
    truth: NDArray[np.float32], sizes: list[int], factors: Factors, share: float, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Return descriptors completed, the same with 0 for what was not run, and which entries those are.

    As the prober would leave it: every model has a random set of its own, and responses are z-scored over that alone.
    """
    import torch

    from completion.factors import Block

    n = truth.shape[1]
    filled, alone = np.empty_like(truth), np.zeros_like(truth)
    hidden = np.ones(truth.shape, bool)
    start = 0
    for size in sizes:
        here = slice(start, start + size)
        run = np.sort(rng.choice(n, math.ceil(share * n), replace=False))
        seen = truth[here][:, run]
        seen = (seen - seen.mean(axis=1, keepdims=True)) / np.maximum(seen.std(axis=1, keepdims=True), 1e-3)
        block: Block = Block(("", ""), torch.from_numpy(run), torch.from_numpy(seen.astype(np.float32)))
        filled[here] = factors.complete(block)[0].numpy()
        alone[here, run] = seen
        hidden[here, run] = False
        start += size
    return filled, alone, hidden


def _best(asked: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the `HITS` logits of highest score for every query, int64 ``[queries, hits]``, in no order."""
    hits = min(HITS, len(vectors) // 3)
    best: NDArray[np.int64] = np.argpartition(-(asked @ strengths(vectors).T), hits - 1, axis=1)[:, :hits]
    return best
