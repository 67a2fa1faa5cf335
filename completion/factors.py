"""A low-rank Gaussian model of descriptors: what the responses that were run say about those that were not.

A z-scored response is ``r = mean + basis @ z + noise`` with ``z ~ N(0, I)`` and independent noise of its own variance
for each probe (factor analysis; probabilistic PCA where all variances are the same: Tipping and Bishop 1999). All
logits of a model were run on the same probes, so one Cholesky factor, ``[rank, rank]``, serves all of them, and with it
comes the posterior variance, which they share, too.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from workspace import WorkspaceError
from workspace.files import replacing

VERSION = "1"


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
class Factors:
    """The fitted model, in units of a logit's standard deviation over all probes.

    Attributes:
        mean: float32 ``[n]``.
        basis: float32 ``[n, rank]``.
        noise: float32 ``[n]``, variance of what the basis does not explain.
    """

    mean: Tensor
    basis: Tensor
    noise: Tensor

    @property
    def rank(self) -> int:
        """Number of latent dimensions."""
        return int(self.basis.shape[1])

    def to(self, device: str) -> Factors:
        """Return the same factors on ``device``."""
        return Factors(self.mean.to(device), self.basis.to(device), self.noise.to(device))

    def noisier(self, times: float) -> Factors:
        """Return the same factors with ``times`` the noise: less is concluded from what was observed."""
        return Factors(self.mean, self.basis, self.noise * times)

    def posterior(self, observed: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latent means, float32 ``[logits, rank]``, and their common covariance, ``[rank, rank]``.

        With W the observed rows of the basis and D their noise: ``V = (I + W' D^-1 W)^-1`` and
        ``z = V W' D^-1 (r - mean)`` (Tipping and Bishop 1999, section 3.1, with noise of its own for each probe).

        Args:
            observed: int64 ``[o]``.
            values: float32 ``[logits, o]``.
        """
        basis = self.basis[observed]
        weighted = basis / self.noise[observed, None]
        precision = torch.eye(self.rank, device=basis.device) + basis.T @ weighted
        root = torch.linalg.cholesky(precision)
        latent = torch.cholesky_solve(((values - self.mean[observed]) @ weighted).T, root).T
        return latent, torch.cholesky_inverse(root)

    def complete(self, block: Block) -> tuple[Tensor, Tensor]:
        """Return the posterior means, float32 ``[logits, n]``, and the posterior variance of each probe, ``[n]``.

        Observed entries are returned as they were, with variance 0.
        """
        latent, covariance = self.posterior(block.observed, block.values)
        values = self.mean + latent @ self.basis.T
        variance = self.noise + ((self.basis @ covariance) * self.basis).sum(1)
        values[:, block.observed] = block.values
        variance[block.observed] = 0.0
        return values, variance

    def digest(self) -> str:
        """Return a hash of the three tensors: the file's bytes vary, its metadata is in no order."""
        found = hashlib.sha256()
        for tensor in (self.mean, self.basis, self.noise):
            found.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return found.hexdigest()

    def save(self, path: Path, probe_set: str, metadata: dict[str, str]) -> None:
        """Write ``mean``, ``basis`` and ``noise`` as safetensors, atomically."""
        named = {"mean": self.mean, "basis": self.basis, "noise": self.noise}
        tensors = {name: tensor.detach().cpu().float().contiguous() for name, tensor in named.items()}
        said = {**metadata, "version": VERSION, "probe_set": probe_set, "rank": str(self.rank)}
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata=said)


def load(path: Path, probe_set: str, n: int) -> tuple[Factors, dict[str, str]] | None:
    """Return what `Factors.save` wrote and its metadata; None when there is no file or it is of another version.

    Args:
        path: the file.
        probe_set: the probe set the factors must be about.
        n: its number of probes.

    Raises `WorkspaceError` when the file is damaged.
    """
    if not path.is_file():
        return None
    opened: Any = safe_open
    try:
        with opened(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            if metadata.get("version") != VERSION or metadata.get("probe_set") != probe_set:
                return None
            factors = Factors(*(file.get_tensor(name).float() for name in ("mean", "basis", "noise")))
    except (SafetensorError, OSError) as error:
        raise WorkspaceError(f"{path} is damaged ({error}): delete it and run 'hubprobe complete' again") from error
    if factors.mean.shape != (n,) or factors.noise.shape != (n,) or factors.basis.shape[:1] != (n,):
        raise WorkspaceError(f"{path} is not about {n} probes: delete it and run 'hubprobe complete' again")
    return factors, metadata
