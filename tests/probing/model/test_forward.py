from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from probing.images.inputs import Inputs
from probing.images.processors import Affine
from probing.model import forward
from workspace import ModelError, Status

ROOT = Path(__file__).parents[3]
N = 50
IDS = np.arange(N, dtype=np.int32)


def _inputs() -> Inputs:
    pixels = np.random.default_rng(0).integers(0, 256, (N, 3, 8, 8), dtype=np.uint8)
    return Inputs(pixels, Affine((10.0, 20.0, 30.0), (50.0, 60.0, 70.0)))


def _model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3), torch.nn.GELU(), torch.nn.Flatten(), torch.nn.Linear(16 * 36, 7)
    ).eval()


def _run(model: Any, ids: Any = IDS, **changes: Any) -> forward.Outputs:
    options = {"num_labels": 7, "batch_size": 8, "device": "cpu", "deadline": time.monotonic() + 60} | changes
    how = {name: options.pop(name, default) for name, default in (("threads", 1), ("precision", "float32"))}
    return forward.run(forward.Work(model, _inputs(), ids, **options), **how)


def test_threads_do_not_change_a_bit() -> None:
    model = _model()
    alone = _run(model).raw
    for threads in (2, 3, 8):
        assert np.array_equal(_run(model, threads=threads).raw, alone)
    with torch.inference_mode():
        wanted = model(_inputs().batch(IDS)).numpy()
    np.testing.assert_allclose(alone, wanted, rtol=1e-4, atol=1e-5)


def test_the_caller_keeps_its_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        _run(_model())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_inputs_are_scaled_and_shifted_per_channel() -> None:
    inputs = _inputs()
    x = inputs.batch(np.array([4, 2], np.int32))
    assert x.dtype == torch.float32
    wanted = (inputs.pixels[2, 1].astype(np.float32) - 20.0) / 60.0
    assert np.array_equal(x[1, 1].numpy(), wanted)


@pytest.mark.parametrize("largest", [4, 1])
def test_batches_are_halved_when_memory_runs_out(largest: int) -> None:
    model = _model()

    def hungry(x: torch.Tensor) -> torch.Tensor:
        if len(x) > largest:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return model(x)

    outputs = _run(hungry)
    assert outputs.batch_size == largest
    assert np.array_equal(outputs.raw, _run(model, batch_size=largest).raw)


def test_no_memory_for_one_image_is_an_end() -> None:
    def starving(x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ModelError) as error:
        _run(starving)
    assert error.value.status is Status.OUT_OF_MEMORY


@pytest.mark.parametrize(
    ("output", "status"),
    [
        (lambda x: torch.zeros(len(x), 6), Status.WRONG_SHAPE),
        (lambda x: torch.zeros(len(x), 7, 2), Status.WRONG_SHAPE),
        (lambda x: torch.zeros(7), Status.WRONG_SHAPE),
        (lambda x: (torch.zeros(len(x), 7), torch.zeros(len(x), 7)), Status.WRONG_SHAPE),
        (lambda x: torch.zeros(len(x), 7, dtype=torch.int64), Status.WRONG_SHAPE),
        (lambda x: torch.zeros(len(x), 7, dtype=torch.bool), Status.WRONG_SHAPE),
        (lambda x: torch.randn(len(x), 7, dtype=torch.complex64), Status.WRONG_SHAPE),
        (lambda x: torch.view_as_real(torch.randn(len(x), 7, dtype=torch.complex64)), Status.WRONG_SHAPE),
        (lambda x: torch.randn(len(x), 7).to_sparse(), Status.WRONG_SHAPE),
        (lambda x: torch.randn(len(x), 7).to_sparse_csr(), Status.WRONG_SHAPE),
        (lambda x: torch.zeros(len(x), 7, device="meta"), Status.WRONG_SHAPE),
        (lambda x: torch.nested.nested_tensor([torch.zeros(7)] * len(x), layout=torch.jagged), Status.WRONG_SHAPE),
        (lambda x: torch.nested.nested_tensor([torch.zeros(7)] * len(x)), Status.WRONG_SHAPE),
        (lambda x: torch.quantize_per_tensor(torch.randn(len(x), 7), 0.1, 0, torch.qint8), Status.WRONG_SHAPE),
        (lambda x: list(torch.randn(len(x), 7)), Status.WRONG_SHAPE),
        (lambda x: [torch.randn(len(x), 7)], Status.WRONG_SHAPE),
        (lambda x: {"logits": torch.randn(len(x), 7)}, Status.WRONG_SHAPE),
        (lambda x: torch.randn(len(x), 7).numpy(), Status.WRONG_SHAPE),
        (lambda x: torch.randn(1, 7), Status.WRONG_SHAPE),
        (lambda x: torch.randn(2 * len(x), 7), Status.WRONG_SHAPE),
        (lambda x: torch.randn(len(x), 0), Status.WRONG_SHAPE),
        (lambda x: torch.randn(len(x), 8), Status.WRONG_SHAPE),
        (lambda x: None, Status.WRONG_SHAPE),
        (lambda x: torch.full((len(x), 7), float("nan")), Status.NONFINITE_OUTPUT),
    ],
)
def test_outputs_that_are_no_logits(output: Any, status: Status) -> None:
    with pytest.raises(ModelError) as error:
        _run(output)
    assert error.value.status is status


def test_a_deadline_stops_between_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    model, clock = _model(), [0.0]
    monkeypatch.setattr(forward, "monotonic", lambda: clock[0])

    def slow(x: torch.Tensor) -> torch.Tensor:
        clock[0] += 1.0
        return model(x)

    with pytest.raises(ModelError, match="after 24 of") as error:
        _run(slow, deadline=2.5)
    assert error.value.status is Status.TIMEOUT


def test_an_error_in_one_of_several_threads_is_raised() -> None:
    def fails(x: torch.Tensor) -> torch.Tensor:
        if len(x) < 8:
            raise ValueError("the last batch")
        return torch.rand(len(x), 7)

    with pytest.raises(ValueError, match="the last batch"):
        _run(fails, threads=2)


@pytest.mark.gpu
def test_a_gpu_agrees_with_the_processor() -> None:
    model = _model()
    wanted = _run(model).raw
    exact = _run(model.cuda(), device="cuda:0", precision="float32")
    np.testing.assert_allclose(exact.raw, wanted, rtol=1e-3, atol=1e-4)
    quick = _run(model, device="cuda:0", precision="auto")
    assert np.corrcoef(quick.raw.ravel(), wanted.ravel())[0, 1] > 0.999


_HUNGRY = """
import torch
from tests.probing.model.test_forward import _model, _run
from probing.child.worker import bound_memory

bound_memory(192 * 2**20)
model = _model()
def hungry(x):
    scratch = torch.ones(len(x), 16 * 2**20)  # 64 MiB an image
    return model(x) + 0 * scratch[:, :1]
print(_run(hungry).batch_size)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the bound is Linux's")
def test_activations_beyond_the_bound_make_batches_smaller() -> None:
    """Really too large, in a process of its own: the allocation fails, the process lives, and half the batch fits."""
    done = subprocess.run([sys.executable, "-c", _HUNGRY], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() in ("1", "2"), "of 8: 512 MiB"


@pytest.mark.parametrize("later", [1, 6, 8])
def test_a_width_that_nobody_announced_must_stay_the_same(later: int) -> None:
    widths = iter([7, *[later] * N])
    with pytest.raises(ModelError) as error:
        _run(lambda x: torch.randn(len(x), next(widths)), num_labels=None)
    assert error.value.status is Status.WRONG_SHAPE


def test_more_outputs_than_are_allowed() -> None:
    with pytest.raises(ModelError) as error:
        _run(lambda x: torch.randn(len(x), 101), num_labels=None, max_labels=100)
    assert error.value.status is Status.TOO_MANY_LABELS
    assert _run(lambda x: torch.randn(len(x), 100), num_labels=None, max_labels=100).raw.shape == (N, 100)


def test_kernels_are_fixed_while_a_model_runs_and_given_back() -> None:
    def flags() -> tuple[bool, ...]:
        cudnn = torch.backends.cudnn
        return cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    before, threads = flags(), torch.get_num_threads()
    for device, inside in {"cuda:1": (False, True, False, False), "mps": before, "cpu": before}.items():
        with suppress(KeyError), forward._kernels(device):
            assert flags() == inside
            assert torch.get_num_threads() == (1 if device == "cpu" else threads)
            raise KeyError
        assert (flags(), torch.get_num_threads()) == (before, threads), device
    words = [forward.kernels(device) for device in ("cpu", "cuda:1", "mps")]
    assert words == ["one thread a batch", "tf32 off, deterministic, no autotuning", "as the device does"]
