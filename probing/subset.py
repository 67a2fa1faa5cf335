"""Which probes a model is run on when it is not run on all: a random subset of its own, or one chosen step by step.

The order of the random ones is a permutation seeded by the model's key and the probe set, so it is the same at every
attempt, a larger share contains every smaller one, and raising it later runs only what is missing.

Where probes are chosen, a random share is run first. From it and the basis that the completion left in ``factors/``
follows what every output answers to the other probes, and how sure that is; in a few rounds the probes with the largest
prediction plus twice its deviation are run. All outputs of a model share the probes run, so one Cholesky factor serves
all. Everything here is on one thread: the same bits in every process.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from workspace import ConfigError, WorkspaceError
from workspace.files import damaged, read_tensors

if TYPE_CHECKING:
    import torch

Ids = npt.NDArray[np.int32]


def size(n: int, fraction: float | None, probes_per_model: int | None) -> int:
    """Return how many of ``n`` probes each model is run on; all unless one of the two says otherwise.

    Raises `ConfigError` for both at once, or for a value out of range.
    """
    if fraction is not None and probes_per_model is not None:
        raise ConfigError("give a fraction or a number of probes per model, not both")
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise ConfigError(f"fraction must be above 0 and at most 1, not {fraction}")
        return max(2, min(n, math.ceil(fraction * n)))
    if probes_per_model is not None:
        if probes_per_model < 2:
            raise ConfigError("a response needs at least 2 probes to have a deviation")
        return min(n, probes_per_model)
    return n


def choose(n: int, count: int, repo_id: str, sha: str, probe_set: str, core: int = 0) -> Ids:
    """Return the ``count`` probes, ascending, of the model ``repo_id@sha``; ``core`` of them are common to all models.

    ``count`` includes the core; where ``core`` is larger, the core is what is run.
    """
    if count >= n:
        return np.arange(n, dtype=np.int32)
    common = _order(n, probe_set)[: min(core, n)]
    own = _order(n, f"{probe_set}:{repo_id}@{sha}")
    rest = own[~np.isin(own, common)][: max(count - len(common), 0)]
    return np.sort(np.concatenate([common, rest])).astype(np.int32)


def _order(n: int, seed: str) -> npt.NDArray[np.int64]:
    digest = hashlib.sha256(seed.encode("utf-8", "replace")).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big"))).permutation(n)


ROUNDS = 4
"""Times that probes are chosen; what each brings in sharpens the next."""

RANDOM_SHARE = 0.1
"""Share of all probes that is drawn at random first, at least."""

NARROW_SHARE = 0.6
"""Share of its own probes that is drawn at random first, at least, of a model with fewer outputs than `WIDE`."""

WIDE = 256
"""Outputs of which so few probes tell enough of the others; of fewer outputs less can be told."""

DEVIATIONS = 2.0
"""Posterior deviations added to a prediction: what is unsure may be strong, too."""

MAX_LOGITS = 8192
"""Outputs that take part in choosing; of a model with more, every so many-th: neighbours ask for the same probes."""

NONE: Ids = np.empty(0, np.int32)
"""No probes."""

_CHUNK = 1024  # outputs predicted at a time: 4,000 probes x 1,024 outputs are 16 MB


@dataclass(frozen=True)
class Factors:
    """The completion's model of a response, in standard deviations: ``mean + basis @ z + noise``, z standard normal."""

    mean: torch.Tensor  # float32 [probes]
    basis: torch.Tensor  # float32 [probes, rank]
    noise: torch.Tensor  # float32 [probes], the variance of what the basis does not explain


def read_factors(path: Path, probe_set: str, n: int) -> Factors | None:
    """Return the factors in ``path``, None when there is no such file; `WorkspaceError` when they do not fit."""
    import torch

    if not path.exists():
        return None
    arrays, said = read_tensors(path)
    try:
        made = Factors(*(torch.from_numpy(arrays[name]).float() for name in ("mean", "basis", "noise")))
    except (KeyError, TypeError) as error:
        raise damaged(path, error) from error
    shapes = tuple(made.mean.shape), tuple(made.noise.shape), made.basis.ndim, len(made.basis)
    if said.get("version") != "1" or said.get("probe_set") != probe_set or shapes != ((n,), (n,), 2, n):
        raise WorkspaceError(
            f"{path} is not about this probe set, or of another version: run 'hubprobe complete' again"
        )
    return made


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread: the same bits in every process. Of threads, those started from now on, too."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def at_random(n: int, budget: int, outputs: int) -> int:
    """Return how many of a model's ``budget`` of ``n`` probes are drawn at random, before any is chosen.

    Mean and deviation are unbiased over these alone. Shares chosen in benchmarks/completion/RESULTS.md.

    >>> at_random(3_000, 1_000, outputs=1_000), at_random(3_000, 1_000, outputs=10)
    (300, 600)
    """
    first = max(2, math.ceil(RANDOM_SHARE * n))
    return min(budget, first if outputs >= WIDE else max(first, math.ceil(NARROW_SHARE * budget)))


def rounds(budget: int) -> list[int]:
    """Return how many probes each round takes, ``budget`` in all."""
    return [budget * (i + 1) // ROUNDS - budget * i // ROUNDS for i in range(ROUNDS)]


def choose_next(
    factors: Factors, raw: npt.NDArray[np.float32], ids: Ids, random: Ids, count: int, refused: Ids = NONE
) -> Ids:
    """Return the ``count`` probes to run next, ascending; fewer where fewer are left.

    ``raw`` are float32 [probes run, logits] of the probes ``ids``, ascending, of which ``random`` were drawn at random;
    ``refused`` ones cannot be run.
    """
    import torch

    with one_thread(), torch.inference_mode():
        return _choose(factors, raw, ids, random, count, refused)


def _choose(factors: Factors, raw: npt.NDArray[np.float32], ids: Ids, random: Ids, count: int, refused: Ids) -> Ids:
    import torch

    seen = torch.zeros(len(factors.mean), dtype=torch.bool)
    seen[torch.from_numpy(ids.astype(np.int64))] = True
    barred = seen.clone()
    barred[torch.from_numpy(refused.astype(np.int64))] = True
    left = torch.nonzero(~barred)[:, 0]
    count = min(count, len(left))
    z = _standardised(raw, np.isin(ids, random))
    if count <= 0 or not z.shape[1]:
        return left[:count].numpy().astype(np.int32)
    mean, basis, noise = (t.double() for t in (factors.mean, factors.basis, factors.noise.clamp_min(1e-6)))
    weighted = basis[seen] / noise[seen, None]
    factor = torch.linalg.cholesky(torch.eye(basis.shape[1], dtype=torch.float64) + basis[seen].T @ weighted)
    spread = torch.linalg.solve_triangular(factor, basis[left].T, upper=False).square().sum(0)
    bound = mean[left] + DEVIATIONS * (spread + noise[left]).sqrt()
    places, values = [], []
    for start in range(0, z.shape[1], _CHUNK):
        here = torch.from_numpy(z[:, start : start + _CHUNK]).double()
        weights = torch.cholesky_solve(weighted.T @ (here - mean[seen, None]), factor)
        best = torch.topk(basis[left] @ weights + bound[:, None], count, dim=0)
        places.append(best.indices.numpy())
        values.append(best.values.numpy())
    chosen = _in_turn(np.concatenate(places, 1), np.concatenate(values, 1), len(left), count)
    return left.numpy()[chosen].astype(np.int32)


def _in_turn(places: npt.NDArray[Any], values: npt.NDArray[Any], n: int, count: int) -> npt.NDArray[np.bool_]:
    """Return which ``count`` of ``n`` probes the outputs get when each takes its strongest, then its next, and so on.

    Where a turn asks for more than are left to give, those with the largest values come first.

    Args:
        places: int64 [turns, logits], the probes that each output asks for, its strongest first.
        values: float64 [turns, logits], how strongly.
        n: probes there are.
        count: probes to give.
    """
    chosen = np.zeros(n, np.bool_)
    for asked, strongly in zip(places, values, strict=True):
        best = np.full(n, -np.inf)
        np.maximum.at(best, asked, strongly)
        best[chosen] = -np.inf
        new = np.argsort(-best, kind="stable")[: count - int(chosen.sum())]
        chosen[new[np.isfinite(best[new])]] = True
        if chosen.sum() == count:
            break
    return chosen


def _standardised(raw: npt.NDArray[np.float32], random: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Return the responses in deviations from their mean, both over the random probes; outputs that vary, at most some.

    Outputs that are constant or not finite are left out: they can ask for nothing.
    """
    some = np.linspace(0, raw.shape[1] - 1, min(raw.shape[1], MAX_LOGITS)).astype(np.int64)
    part = raw[:, some].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        mean, std = part[random].mean(0), part[random].std(0)
        good = std > 2.0**-20 * np.abs(part).max(0)  # nothing is more than what is not finite
    return np.asarray(((part[:, good] - mean[good]) / std[good]).astype(np.float32))
