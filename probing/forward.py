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

HALF_ERROR = 0.02
"""Largest error of half precision on the first batch, as root mean square relative to the spread of the float32 outputs
over that batch; above it the model runs in float32. bfloat16 keeps 8 bits, about 0.004 of each number."""

DEVICE_OUTPUT_BYTES = 1024**3
"""Outputs kept on the device until the end, in bytes, so that no batch waits for a copy; more is copied at once."""


@dataclass(frozen=True)
class Outputs:
    """Raw outputs, float32 [probes run, logits]; the batch size and dtype they were computed with."""

    raw: npt.NDArray[np.float32]
    batch_size: int
    dtype: str = "float32"


@dataclass(frozen=True)
class _Work:
    forward: Callable[[torch.Tensor], Any]
    inputs: Inputs
    probe_ids: npt.NDArray[np.int32]
    num_labels: int | None
    batch_size: int
    device: str
    deadline: float

    def one(self, start: int) -> torch.Tensor:
        """Return the checked outputs of the batch that begins at ``start``, where they were computed."""
        import torch

        if monotonic() > self.deadline:
            raise ModelError(Status.TIMEOUT, f"its deadline passed after {start} of {len(self.probe_ids)} probes")
        ids = self.probe_ids[start : start + self.batch_size]
        with torch.inference_mode():
            return _checked(self.forward(self.inputs.batch(ids, self.device)), len(ids), self.num_labels)


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
    precision: str = "float32",
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
        precision: ``float32``, or ``auto``: half precision on a device that has it, if the first batch agrees.

    Raises `ModelError`: ``out_of_memory``, ``wrong_shape``, ``nonfinite_output``, ``timeout``.
    """
    while True:
        work = _Work(forward, inputs, probe_ids, num_labels, batch_size, device, deadline)
        try:
            with _kernels(device):
                raw, dtype = _run_cpu(work, threads) if device == "cpu" else _run_device(work, precision)
            return Outputs(raw, batch_size, dtype)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if batch_size == 1:
                raise ModelError(Status.OUT_OF_MEMORY) from error
            _log.warning("out of memory with batches of %d images; trying %d", batch_size, batch_size // 2)
        batch_size //= 2
        _free(device)


def _run_cpu(work: _Work, threads: int) -> tuple[npt.NDArray[np.float32], str]:
    starts = range(0, len(work.probe_ids), work.batch_size)
    first = _numpy(work.one(0))
    _check_finite(first)
    raw = np.empty((len(work.probe_ids), first.shape[1]), np.float32)
    raw[: len(first)] = first

    def fill(start: int) -> None:
        made = _numpy(work.one(start))
        raw[start : start + len(made)] = made

    if threads == 1 or len(starts) < 3:
        for start in starts[1:]:
            fill(start)
        return raw, "float32"
    with ThreadPoolExecutor(threads, thread_name_prefix="forward") as pool:
        try:
            for _ in pool.map(fill, starts[1:]):
                pass
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return raw, "float32"


def _run_device(work: _Work, precision: str) -> tuple[npt.NDArray[np.float32], str]:
    """Run on an accelerator: batches are queued one after the other, and nothing waits for them until the end."""
    import torch

    kind = work.device.partition(":")[0]
    first = work.one(0)
    _check_finite(_numpy(first))
    dtype = _half(work, first, kind) if precision == "auto" else torch.float32
    total = len(work.probe_ids) * first.shape[1] * 4
    made: list[torch.Tensor] = []
    with torch.autocast(kind, dtype=dtype, enabled=dtype != torch.float32):
        for start in range(0, len(work.probe_ids), work.batch_size):
            out = work.one(start).to(torch.float32)
            made.append(out if total <= DEVICE_OUTPUT_BYTES else out.cpu())
    return _numpy(torch.cat(made)), str(dtype).removeprefix("torch.")


def _half(work: _Work, full: torch.Tensor, kind: str) -> torch.dtype:
    """Return the half precision to run in, or float32 when there is none or the first batch comes out otherwise."""
    import torch

    if kind != "cuda":
        return torch.float32
    half = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    with torch.autocast(kind, dtype=half):
        quick = work.one(0).to(torch.float32)
    spread = (full - full.mean(0)).square().mean().sqrt()
    error = float((quick - full).square().mean().sqrt() / spread.clamp_min(1e-12))
    _log.debug("%s against float32 on the first batch: relative error %.4f", half, error)
    return half if error <= HALF_ERROR else torch.float32  # NaN compares false


def _checked(out: Any, rows: int, num_labels: int | None) -> torch.Tensor:
    import torch

    if not isinstance(out, torch.Tensor):
        raise ModelError(Status.WRONG_SHAPE, f"returns {type(out).__name__}, not one tensor of outputs")
    wanted = (rows, num_labels if num_labels is not None else out.shape[-1] if out.ndim else 0)
    if tuple(out.shape) != wanted or out.ndim != 2 or out.shape[1] == 0:
        raise ModelError(Status.WRONG_SHAPE, f"returns outputs of shape {list(out.shape)}, not {list(wanted)}")
    if not out.is_floating_point():
        raise ModelError(Status.WRONG_SHAPE, f"returns {out.dtype} outputs, not real numbers")
    return out


def _numpy(out: torch.Tensor) -> npt.NDArray[np.float32]:
    import torch

    array: npt.NDArray[np.float32] = out.to(device="cpu", dtype=torch.float32).numpy()
    return array


def _check_finite(first: npt.NDArray[np.float32]) -> None:
    if not np.isfinite(first).any():
        raise ModelError(Status.NONFINITE_OUTPUT, "every output for the first probes is NaN or infinite")


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
