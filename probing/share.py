"""Which probes a model is run on now: all, a random share, what an earlier share lacks, or a share to be chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from probing import adaptive, responses, subset
from probing.attempts import Attempt
from probing.responses import Earlier
from probing.settings import Settings
from probing.subset import Ids
from workspace import Workspace

if TYPE_CHECKING:
    from probing.adaptive import Factors


@dataclass(frozen=True)
class Share:
    """The probes of one model.

    Attributes:
        probe_ids: to run first, ascending.
        earlier: responses of an earlier, smaller share, which these add to.
        factors: by them ``to_choose`` further probes are chosen.
        random_ids: of all, those drawn at random; None when all are.
        refused: those of the share that cannot be prepared for the model, and are not run.
    """

    probe_ids: Ids
    earlier: Earlier | None = None
    factors: Factors | None = None
    to_choose: int = 0
    random_ids: Ids | None = None
    refused: Ids = field(default_factory=lambda: np.empty(0, np.int32))

    def with_earlier(self, raw: npt.NDArray[np.float32], ids: Ids) -> tuple[npt.NDArray[np.float32], Ids]:
        """Return responses ``raw`` to ``ids`` and those of the earlier share together, in ascending order of probes."""
        if self.earlier is not None:
            return self.earlier.merged(raw, ids)
        order = np.argsort(ids)
        return raw[order], ids[order]


def of_model(workspace: Workspace, attempt: Attempt, settings: Settings, refused: Ids) -> Share:
    """Return the share of the model of ``attempt``; probes ``refused`` cannot be prepared for it, and are not in it."""
    share = _random_share(workspace, attempt, settings, refused)
    if not settings.adaptive or settings.probes_per_model >= settings.n_probes:
        return share
    factors = adaptive.read_factors(workspace.factors_path(settings.probe_set), settings.probe_set, settings.n_probes)
    if factors is None:
        return share
    tenth = max(2, math.ceil(adaptive.RANDOM_SHARE * settings.n_probes))
    random, done = _draw(attempt, settings, min(settings.probes_per_model, tenth)), np.empty(0, np.int32)
    random = random[~np.isin(random, refused)]
    wanted = random
    if share.earlier is not None:
        done = share.earlier.probe_ids
        wanted = random[~np.isin(random, done)]
        drawn = done if share.earlier.random_ids is None else share.earlier.random_ids
        random = np.union1d(random, drawn).astype(np.int32)
    rest = max(0, settings.probes_per_model - len(done) - len(wanted))
    return Share(wanted, share.earlier, factors, rest, random, refused)


def _random_share(workspace: Workspace, attempt: Attempt, settings: Settings, refused: Ids) -> Share:
    drawn = _draw(attempt, settings, settings.probes_per_model)
    wanted, refused = drawn[~np.isin(drawn, refused)], refused[np.isin(refused, drawn)]
    earlier = responses.read_earlier(workspace.responses_dir(settings.probe_set) / f"{attempt.stem}.parquet")
    missing = wanted if earlier is None else wanted[~np.isin(wanted, earlier.probe_ids)]
    if earlier is None or len(missing) == 0 or len(earlier.probe_ids) >= settings.probes_per_model:
        return Share(wanted, refused=refused)  # asked to run again what was run: nothing of the old is kept
    partial = len(missing) + len(earlier.probe_ids) < settings.n_probes
    return Share(missing, earlier, random_ids=earlier.random_ids if partial else None, refused=refused)


def _draw(attempt: Attempt, settings: Settings, count: int) -> Ids:
    key = attempt.fields["repo_id"], attempt.fields["sha"], settings.probe_set
    return subset.choose(settings.n_probes, count, *key, settings.core)
