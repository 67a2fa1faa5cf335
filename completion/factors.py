"""A low-rank Gaussian model of descriptors: what the responses that were run say about those that were not.

A z-scored response is ``r = mean + basis @ z + noise`` with ``z ~ N(0, I)`` and independent noise of its own variance
for each probe (factor analysis; probabilistic PCA where all variances are the same: Tipping and Bishop 1999). All
logits of a model were run on the same probes, so one Cholesky factor, ``[rank, rank]``, serves all of them, and with it
comes the posterior variance, which they share, too.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from workspace.files import damaged, read_tensors, write_tensors

VERSION = "1"

MULTIPLES = tuple(2.0 ** (i / 2) for i in range(-6, 13))
"""Multiples of the gallery's noise that a model may have: an eighth to 64 times."""


@dataclass(frozen=True)
class Block:
    """The logits of one model, all run on the same probes.

    Attributes:
        key: the model.
        observed: int64 ``[o]``, the probes run, ascending.
        values: float32 ``[logits, o]``, responses in deviations from their mean over all probes.
    """

    key: tuple[str, str]
    observed: Tensor
    values: Tensor

    def to(self, device: str) -> Block:
        """Return the same block on ``device``."""
        return Block(self.key, self.observed.to(device), self.values.to(device))


class Completer(Protocol):
    """Anything that fills a block: the factors, or a baseline."""

    def complete(self, block: Block) -> tuple[Tensor, Tensor]:
        """Return float32 ``[logits, n]`` whole responses and float32 ``[n]`` the variance of each entry's error."""


@dataclass(frozen=True)
class Solved:
    """What a block says about its latents, for any multiple c of the noise D; W are the observed rows of the basis.

    Attributes:
        power: float64 ``[rank]``, eigenvalues of ``W' D^-1 W``.
        directions: float64 ``[rank, rank]``, its eigenvectors.
        projected: float64 ``[logits, rank]``, ``(r - mean) D^-1 W`` along them.
        left_over: ``(r - mean) D^-1 (r - mean)'`` over all logits.
        observed: probes run.
    """

    power: Tensor
    directions: Tensor
    projected: Tensor
    left_over: float
    observed: int

    def evidence(self, times: float) -> float:
        """Return the log density of the observed responses under ``N(mean, W W' + c D)``, but for a constant."""
        logits = len(self.projected)
        explained = (self.projected.square().sum(0) / (times * times * (1.0 + self.power / times))).sum()
        volume = self.observed * math.log(times) + float((self.power / times).log1p().sum())
        return -0.5 * (logits * volume + self.left_over / times - float(explained))

    def noise(self) -> float:
        """Return the multiple of the noise that makes the observed responses likeliest (type II likelihood)."""
        best: float = max(MULTIPLES, key=self.evidence)
        return best

    def latent(self, times: float) -> tuple[Tensor, Tensor]:
        """Return latent means, float32 ``[logits, rank]``, and variances, ``[rank]``, along `directions`."""
        shrink = 1.0 / (1.0 + self.power / times)
        return (self.projected / times * shrink).float(), shrink.float()


@dataclass(frozen=True)
class Factors:
    """The fitted model, in units of a logit's standard deviation over all probes.

    Attributes:
        mean: float32 ``[n]``.
        basis: float32 ``[n, rank]``.
        noise: float32 ``[n]``, variance of what the basis does not explain, in the gallery as a whole.
        caution: the least multiple of the noise that a model has; for those that were fitted, evidence alone says too
            little: the basis follows their noise. Calibrated on hidden responses.
        doubt: float32 ``[rank, rank]``, the posterior covariance of a row of the basis over its noise, mean of all
            rows; None where it is not known. Fitting uses it, and it is not kept.
    """

    mean: Tensor
    basis: Tensor
    noise: Tensor
    caution: float = 1.0
    doubt: Tensor | None = None

    @property
    def rank(self) -> int:
        """Number of latent dimensions."""
        return int(self.basis.shape[1])

    def to(self, device: str) -> Factors:
        """Return the same factors on ``device``."""
        mean, basis, noise = (tensor.to(device) for tensor in (self.mean, self.basis, self.noise))
        return replace(self, mean=mean, basis=basis, noise=noise)

    def cautious(self, times: float) -> Factors:
        """Return the same factors with ``times`` the caution: less may be concluded from what was observed."""
        return replace(self, caution=self.caution * times)

    def posterior(self, observed: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latent means, float32 ``[logits, rank]``, and their common covariance, ``[rank, rank]``.

        With W the observed rows of the basis and D their noise: ``V = (I + W' D^-1 W)^-1`` and
        ``z = V W' D^-1 (r - mean)`` (Tipping and Bishop 1999, section 3.1, with noise of its own for each probe). W is
        known up to its `doubt`: ``E[W' D^-1 W]`` takes its place (variational PCA, Ilin and Raiko 2010, section 3.3).

        Args:
            observed: int64 ``[o]``.
            values: float32 ``[logits, o]``.
        """
        basis = self.basis[observed]
        weighted = basis / self.noise[observed, None]
        precision = torch.eye(self.rank, device=basis.device) + basis.T @ weighted
        if self.doubt is not None:
            precision += len(observed) * self.doubt
        root = torch.linalg.cholesky(precision)
        latent = torch.cholesky_solve(((values - self.mean[observed]) @ weighted).T, root).T
        return latent, torch.cholesky_inverse(root)

    def solve(self, block: Block) -> Solved:
        """Decompose what a block says, so that its noise can be chosen and its latents follow for any noise."""
        basis = self.basis[block.observed].double()
        weighted = basis / self.noise[block.observed, None]
        away = (block.values - self.mean[block.observed]).double()
        power, directions = torch.linalg.eigh(basis.T @ weighted)
        projected = away @ weighted @ directions
        left_over = float((away.square() / self.noise[block.observed]).sum())
        return Solved(power.clamp_min(0.0), directions, projected, left_over, len(block.observed))

    def complete(self, block: Block, solved: Solved | None = None) -> tuple[Tensor, Tensor]:
        """Return the posterior means, float32 ``[logits, n]``, and the posterior variance of each probe, ``[n]``.

        Observed entries are returned as they were, with variance 0. The noise is the gallery's times a multiple of the
        model's own: models unlike most of the gallery are predicted less well, and must be shrunk more.

        Args:
            block: the model.
            solved: what `solve` returns for it, when that was called before.
        """
        solved = solved or self.solve(block)
        times = max(solved.noise(), self.caution)
        latent, shrink = solved.latent(times)
        turned = self.basis @ solved.directions.float()
        values = self.mean + latent @ turned.T
        variance = times * self.noise + turned.square() @ shrink
        values[:, block.observed] = block.values
        variance[block.observed] = 0.0
        return values, variance

    def digest(self) -> str:
        """Return a hash of the three tensors: the file's bytes vary, its metadata is in no order."""
        found = hashlib.sha256()
        for tensor in (self.mean, self.basis, self.noise):
            found.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        found.update(repr(self.caution).encode())
        return found.hexdigest()

    def save(self, path: Path, probe_set: str, metadata: dict[str, str]) -> None:
        """Write ``mean``, ``basis`` and ``noise`` as safetensors, atomically."""
        named = {"mean": self.mean, "basis": self.basis, "noise": self.noise}
        arrays = {name: tensor.detach().cpu().float().numpy() for name, tensor in named.items()}
        about = {"version": VERSION, "probe_set": probe_set, "rank": str(self.rank), "caution": repr(self.caution)}
        write_tensors(path, arrays, {**metadata, **about})


def load(path: Path, probe_set: str, n: int) -> tuple[Factors, dict[str, str]] | None:
    """Return what `Factors.save` wrote and its metadata; None when there is no file or it is of another version.

    Args:
        path: the file.
        probe_set: the probe set the factors must be about.
        n: its number of probes.

    Raises `DamagedFileError`.
    """
    if not path.exists():
        return None
    arrays, metadata = read_tensors(path)
    if metadata.get("version") != VERSION or metadata.get("probe_set") != probe_set:
        return None
    try:
        mean, basis, noise = (torch.from_numpy(arrays[name]).float() for name in ("mean", "basis", "noise"))
        caution = float(metadata.get("caution", "1"))
    except (KeyError, ValueError, TypeError) as error:
        raise damaged(path, error) from error
    if mean.shape != (n,) or noise.shape != (n,) or basis.ndim != 2 or len(basis) != n:
        raise damaged(path, f"it is not about {n} probes")
    if not all(bool(torch.isfinite(t).all()) for t in (mean, basis, noise)) or not 0 < caution < math.inf:
        raise damaged(path, "its numbers are not finite")
    if bool((noise <= 0).any()):
        raise damaged(path, "its noise is not positive")
    return Factors(mean, basis, noise, caution), metadata
