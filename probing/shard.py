"""Independent jobs that share a crawl without anybody who hands out: a fixed split by key, then what others left."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from probing.plan import Task
from workspace import ConfigError, model_file_name

AUTO = "auto"
"""Take the share from SLURM's variables of an array job."""

T = TypeVar("T", bound=Task)


@dataclass(frozen=True)
class Shard:
    """Job ``index``, from 0, of ``count``.

    Example:
        >>> Shard.parse("2/8")
        Shard(index=2, count=8)
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str, environment: Mapping[str, str] = os.environ) -> Shard:
        """Return the shard that ``I/N`` names, or ``auto`` for that of a SLURM array's task. Raises `ConfigError`."""
        if text == AUTO:
            first, task, count = (environment.get(f"SLURM_ARRAY_TASK_{name}") for name in ("MIN", "ID", "COUNT"))
            if task is None or count is None:
                raise ConfigError(
                    "--shard auto reads SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT, which are not set here: "
                    "write --shard I/N, I from 0 to N-1"
                )
            text = f"{int(task) - int(first or 0)}/{count}"
        found = re.fullmatch(r"(\d{1,7})/(\d{1,7})", text)
        if found is None or not int(found[1]) < int(found[2]):
            raise ConfigError(f"--shard {text}: write I/N, job I of N, I from 0 to N-1: 0/8 to 7/8")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def owns(self, repo_id: str, sha: str) -> bool:
        """Return whether a model is of this share: by its key alone, so that every job answers alike."""
        return int(model_file_name(repo_id, sha), 16) % self.count == self.index

    def order(self, tasks: Sequence[T]) -> list[T]:
        """Return ``tasks`` in this job's order: its own as they come, then the others', shuffled.

        Each job shuffles by its index: any common order would have all that are free run the same model. In the
        simulation (``benchmarks/scale``) shuffling repeats 6 % of the work where rotated or reversed shares triple it.
        """
        own, others = list[T](), list[T]()
        for task in tasks:
            (own if self.owns(task.repo_id, task.sha) else others).append(task)
        random.Random(self.index).shuffle(others)
        return own + others
