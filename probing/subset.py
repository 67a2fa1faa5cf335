"""Which probes a model is run on when it is not run on all: its own random subset, the same at every attempt.

The order is a permutation seeded by the model's key and the probe set, so a larger share contains every smaller one,
and raising it later runs only what is missing (METHOD.md section 3: collaborative probing).
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt

from workspace import ConfigError

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
