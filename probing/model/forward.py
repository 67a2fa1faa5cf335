"""Run a model over the probes in fixed batches, so that the same numbers come out however the work is shared.

A float sum depends on its order, and a library's kernels choose the order by batch size and number of threads. So on a
CPU the batch size follows from the input's size alone, and every batch runs on one thread; cores are used by running
several batches at once. One process with two threads and two processes with one give the same bits (tests/probing). On
an accelerator the batch is grown by measurement and remembered.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from probing.attempts import is_out_of_memory
from probing.images.inputs import Inputs
from probing.subset import one_thread
from workspace import ModelError, Status, WorkspaceError
from workspace.files import read_json, write_json

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

HALF_ERROR = 0.02
"""Largest error of half precision on the first batch, as root mean square relative to the spread of the float32 outputs
over that batch; above it the model runs in float32. bfloat16 keeps 8 bits, about 0.004 of each number."""

DEVICE_OUTPUT_BYTES = 1024**3
"""Outputs kept on the device until the end, in bytes, so that no batch waits for a copy; more is copied at once."""

CPU_INPUT_BYTES = 8 * 1024**2
"""Most input of a batch on a CPU, in bytes of float32: 8 images of 224 pixels, 64 of 80.

Processor time per image, one thread, channels-last (Xeon, 2 MB of L2 cache a core): EfficientNet-Lite0 at 224 pixels
19.6, 18.7, 21.4 ms in batches of 4, 16, 64 (38.8 ms in 64 where freed memory goes back to the system); ViT-S 83, 77,
78 ms in 4, 8, 16; ResNet-18 30, 29, 28 ms; a ResNet of 56 pixels 0.56, 0.35, 0.32, 0.30 ms in 8, 32, 64, 256."""

GAIN = 1.05
"""A larger batch is kept on an accelerator when it makes the rate, in images per second, at least so much higher."""


@dataclass(frozen=True)
class Outputs:
    """What came out, and how."""

    raw: npt.NDArray[np.float32]  # float32 [probes run, logits]
    batch_size: int  # images in a batch
    dtype: str = "float32"  # of the passes
    # root mean square error of half precision on the first batch, relative to the spread of the float32 outputs; None
    # where it was not tried
    half_error: float | None = None


@dataclass(frozen=True)
class Work:
    """What is run."""

    # from float32 [batch, channels, height, width] on ``device``, and the further inputs that the processor makes, by
    # name, to [batch, num_labels]
    forward: Callable[..., Any]
    inputs: Inputs  # the preprocessed probes
    probe_ids: npt.NDArray[np.int32]  # which to run
    num_labels: int | None  # outputs the model announced; None accepts what comes, as long as each batch brings as many
    batch_size: int  # images in a batch
    device: str  # a torch device
    deadline: float  # value of `time.monotonic` after which no further batch is started
    max_labels: int = 2**31  # outputs it may have

    def one(self, start: int) -> torch.Tensor:
        """Return the checked outputs of the batch that begins at ``start``, where they were computed."""
        import torch

        if monotonic() > self.deadline:
            raise ModelError(Status.TIMEOUT, f"its deadline passed after {start} of {len(self.probe_ids)} probes")
        ids = self.probe_ids[start : start + self.batch_size]
        with torch.inference_mode():
            made = self.forward(self.inputs.batch(ids, self.device), **self.inputs.beside(ids, self.device))
            out = _checked(made, len(ids), self.num_labels)
        if out.shape[1] > self.max_labels:
            raise ModelError(Status.TOO_MANY_LABELS, f"{out.shape[1]} outputs; at most {self.max_labels} are allowed")
        return out


def run(work: Work, *, threads: int, precision: str = "float32", grow_to: int = 0) -> Outputs:
    """Return the outputs for the probes of ``work``, in their order.

    Args:
        work: what is run; its batches are halved, down to one image, when memory runs out.
        threads: batches run at once on a CPU.
        precision: ``float32``; ``auto``: half precision on a device that has it, if the first batch agrees; or the
            ``dtype`` of an earlier call, taken as agreed.
        grow_to: on an accelerator, the batch grows from ``batch_size`` up to this while that makes it faster.

    Raises `ModelError`: ``out_of_memory``, ``wrong_shape``, ``nonfinite_output``, ``timeout``.
    """
    while True:
        try:
            with _kernels(work.device):
                return _run_cpu(work, threads) if work.device == "cpu" else _run_device(work, precision, grow_to)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if work.batch_size == 1:
                raise ModelError(Status.OUT_OF_MEMORY) from error
            half = work.batch_size // 2
            _log.warning("out of memory with batches of %d images; trying %d", work.batch_size, half)
        work, grow_to = replace(work, batch_size=half), 0
        _free(work.device)


def _run_cpu(work: Work, threads: int) -> Outputs:
    starts = range(0, len(work.probe_ids), work.batch_size)
    first = _numpy(work.one(0))
    _check_finite(first)
    work = replace(work, num_labels=first.shape[1])
    raw = np.empty((len(work.probe_ids), first.shape[1]), np.float32)
    raw[: len(first)] = first

    def fill(start: int) -> None:
        made = _numpy(work.one(start))
        raw[start : start + len(made)] = made

    if threads == 1 or len(starts) < 3:
        for start in starts[1:]:
            fill(start)
        return Outputs(raw, work.batch_size)
    with ThreadPoolExecutor(threads, thread_name_prefix="forward") as pool:
        try:
            for _ in pool.map(fill, starts[1:]):
                pass
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return Outputs(raw, work.batch_size)


def _run_device(work: Work, precision: str, grow_to: int = 0) -> Outputs:
    """Run on an accelerator: batches are queued one after the other, and nothing waits for them until the end."""
    import torch

    kind = work.device.partition(":")[0]
    first = work.one(0)
    _check_finite(_numpy(first))
    work = replace(work, num_labels=first.shape[1])
    dtype, error = _half(work, first, kind) if precision == "auto" else (getattr(torch, precision), None)
    made: list[torch.Tensor] = []
    with torch.autocast(kind, dtype=dtype, enabled=dtype != torch.float32):
        if grow_to > work.batch_size:
            most = min(grow_to, len(work.probe_ids))
            work = replace(work, batch_size=grown(lambda batch: _seconds(work, batch), work.batch_size, most))
        total = len(work.probe_ids) * first.shape[1] * 4
        for start in range(0, len(work.probe_ids), work.batch_size):
            out = work.one(start).to(torch.float32)
            made.append(out if total <= DEVICE_OUTPUT_BYTES else out.cpu())
    return Outputs(_numpy(torch.cat(made)), work.batch_size, str(dtype).removeprefix("torch."), error)


def _seconds(work: Work, batch: int) -> float:
    """Return the time of one batch of ``batch`` images, the second of two: the first chooses kernels and memory."""
    larger = replace(work, batch_size=batch)
    _numpy(larger.one(0)[:1])  # a copy to the host waits for what was queued
    started = perf_counter()
    _numpy(larger.one(0)[:1])
    return perf_counter() - started


def _half(work: Work, full: torch.Tensor, kind: str) -> tuple[torch.dtype, float | None]:
    """Return the half precision to run in, or float32 where there is none or the first batch differs; its error."""
    import torch

    if kind != "cuda":
        return torch.float32, None
    half = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    with torch.autocast(kind, dtype=half):
        quick = work.one(0).to(torch.float32)
    spread = (full - full.mean(0)).square().mean().sqrt()
    error = float((quick - full).square().mean().sqrt() / spread.clamp_min(1e-12))
    return (half if error <= HALF_ERROR else torch.float32), error  # NaN compares false


def _checked(out: Any, rows: int, num_labels: int | None) -> torch.Tensor:
    """Return ``out`` if it is one plain tensor of real numbers, a row per image; `ModelError` (wrong_shape) if not."""
    import torch

    if not isinstance(out, torch.Tensor):
        raise ModelError(Status.WRONG_SHAPE, f"returns {type(out).__name__}, not one tensor of outputs")
    if out.layout != torch.strided or out.is_nested or out.is_quantized or out.is_meta:
        raise ModelError(Status.WRONG_SHAPE, f"returns a tensor of another kind: {out.layout}, {out.dtype}")
    if not out.is_floating_point():  # complex numbers, integers, booleans
        raise ModelError(Status.WRONG_SHAPE, f"returns {out.dtype} outputs, not real numbers")
    wanted = (rows, num_labels if num_labels is not None else out.shape[-1] if out.ndim else 0)
    if tuple(out.shape) != wanted or out.ndim != 2 or out.shape[1] == 0:
        raise ModelError(Status.WRONG_SHAPE, f"returns outputs of shape {list(out.shape)}, not {list(wanted)}")
    return out


def _numpy(out: torch.Tensor) -> npt.NDArray[np.float32]:
    import torch

    return np.asarray(out.to(device="cpu", dtype=torch.float32).numpy())


def _check_finite(first: npt.NDArray[np.float32]) -> None:
    if not np.isfinite(first).any():
        raise ModelError(Status.NONFINITE_OUTPUT, "every output for the first probes is NaN or infinite")


def kernels(device: str) -> str:
    """Return in words what `_kernels` chooses: what of the arithmetic is fixed, beside batch size and dtype."""
    if device == "cpu":
        return "one thread a batch"
    return "tf32 off, deterministic, no autotuning" if device.startswith("cuda") else "as the device does"


@contextmanager
def _kernels(device: str) -> Iterator[None]:
    """Choose kernels whose result is always the same: one thread per batch on a CPU; no TF32, no autotuning."""
    import torch

    if device == "cpu":
        with one_thread():
            yield
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


# ── how many images go through a model at once ───────────────────────────────────────────────────────────────────────
def for_cpu(shape: Sequence[int], most: int) -> int:
    """Return the images in a batch of inputs of ``shape`` [channels, height, width]: a power of two, or ``most``."""
    fit = max(1, CPU_INPUT_BYTES // (4 * prod(shape)))
    return min(1 << (fit.bit_length() - 1), most)


def grown(seconds: Callable[[int], float], start: int, most: int) -> int:
    """Return the batch at the knee: doubled from ``start`` up to ``most`` as long as the rate grows and memory lasts.

    ``seconds`` runs a batch of so many images and returns the time it took.
    """
    best, rate = start, start / seconds(start)
    while 2 * best <= most:
        try:
            faster = 2 * best / seconds(2 * best)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            break
        if faster < GAIN * rate:
            break
        best, rate = 2 * best, faster
    return best


class Memory:
    """Batches found earlier on this device, in ``cache/batches.json``, by architecture, size and input."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, key: str) -> int | None:
        """Return the batch remembered for ``key``."""
        found = self._read().get(key)
        return found if type(found) is int and found > 0 else None

    def put(self, key: str, batch: int) -> None:
        """Remember ``batch``. Of two processes that write at once one is forgotten: it is measured again."""
        known = self._read()
        if known.get(key) != batch:
            write_json(self._path, known | {key: batch})

    def _read(self) -> dict[str, Any]:
        try:
            return read_json(self._path)
        except (OSError, WorkspaceError) as error:  # there is none yet, or it is damaged
            _log.debug("forgetting %s: %s", self._path, error)
            return {}
