"""Run a model over the probes in fixed batches, so that the same numbers come out however the work is shared.

A float sum depends on its order, and a library's kernels choose the order by batch size and number of threads. So the
batch size is a setting, not a measurement, and on a CPU every batch runs on one thread; cores are used by running
several batches at once. One process with two threads and two processes with one give the same bits (tests/probing).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from probing.attempts import is_out_of_memory
from probing.inputs import Inputs
from workspace import ModelError, Status

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outputs:
    """Raw outputs, float32 [probes run, logits], and the batch size they were computed with."""

    raw: npt.NDArray[np.float32]
    batch_size: int


def run(
    forward: Callable[[torch.Tensor], Any],
    inputs: Inputs,
    probe_ids: npt.NDArray[np.int32],
    *,
    num_labels: int | None,
    batch_size: int,
    device: str,
    threads: int,
    deadline: float,
) -> Outputs:
    """Return the outputs of ``forward`` for ``probe_ids``, in their order.

    Args:
        forward: from float32 [batch, channels, height, width] on ``device`` to [batch, num_labels].
        inputs: the preprocessed probes.
        probe_ids: which to run.
        num_labels: outputs the model announced; None accepts what comes.
        batch_size: images in a batch; halved, down to one, when memory runs out.
        device: a torch device.
        threads: batches run at once on a CPU.
        deadline: value of `time.monotonic` after which no further batch is started.

    Raises `ModelError`: ``out_of_memory``, ``wrong_shape``, ``nonfinite_output``, ``timeout``.
    """
    while True:
        try:
            with _kernels(device):
                raw = _run(forward, inputs, probe_ids, num_labels, batch_size, device, threads, deadline)
            return Outputs(raw, batch_size)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if batch_size == 1:
                raise ModelError(Status.OUT_OF_MEMORY) from error
            _log.warning("out of memory with batches of %d images; trying %d", batch_size, batch_size // 2)
        batch_size //= 2
        _free(device)


def _run(
    forward: Callable[[torch.Tensor], Any],
    inputs: Inputs,
    probe_ids: npt.NDArray[np.int32],
    num_labels: int | None,
    batch_size: int,
    device: str,
    threads: int,
    deadline: float,
) -> npt.NDArray[np.float32]:
    import torch

    starts = range(0, len(probe_ids), batch_size)

    def one(start: int) -> npt.NDArray[np.float32]:
        if monotonic() > deadline:
            raise ModelError(Status.TIMEOUT, f"its deadline passed after {start} of {len(probe_ids)} probes")
        ids = probe_ids[start : start + batch_size]
        with torch.inference_mode():
            out = forward(inputs.batch(ids, device))
        return _checked(out, len(ids), num_labels)

    first = one(0)
    if not np.isfinite(first).any():
        raise ModelError(Status.NONFINITE_OUTPUT, "every output for the first probes is NaN or infinite")
    raw = np.empty((len(probe_ids), first.shape[1]), np.float32)
    raw[: len(first)] = first
    rest = starts[1:]
    if device != "cpu" or threads == 1 or len(rest) < 2:
        for start in rest:
            made = one(start)
            raw[start : start + len(made)] = made
        return raw
    with ThreadPoolExecutor(threads, thread_name_prefix="forward") as pool:
        try:
            for start, made in zip(rest, pool.map(one, rest), strict=True):
                raw[start : start + len(made)] = made
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return raw


def _checked(out: Any, rows: int, num_labels: int | None) -> npt.NDArray[np.float32]:
    import torch

    if not isinstance(out, torch.Tensor):
        raise ModelError(Status.WRONG_SHAPE, f"returns {type(out).__name__}, not one tensor of outputs")
    wanted = (rows, num_labels if num_labels is not None else out.shape[-1] if out.ndim else 0)
    if tuple(out.shape) != wanted or out.ndim != 2 or out.shape[1] == 0:
        raise ModelError(Status.WRONG_SHAPE, f"returns outputs of shape {list(out.shape)}, not {list(wanted)}")
    if not out.is_floating_point():
        raise ModelError(Status.WRONG_SHAPE, f"returns {out.dtype} outputs, not real numbers")
    return out.to(device="cpu", dtype=torch.float32).numpy()


@contextmanager
def _kernels(device: str) -> Iterator[None]:
    """Choose kernels whose result is always the same: one thread per batch on a CPU; no TF32, no autotuning."""
    import torch

    if device == "cpu":
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # of this thread, and of those it starts from now on
        try:
            yield
        finally:
            torch.set_num_threads(threads)
        return
    if not device.startswith("cuda"):
        yield
        return
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32
    cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = False, True, False, False
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = before


def _free(device: str) -> None:
    import gc

    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
