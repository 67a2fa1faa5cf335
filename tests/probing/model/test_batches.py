"""How many images at once, and where the weights lie."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from probing.images.inputs import Inputs
from probing.model import forward, placement
from tests.probing.conftest import vit_config


@pytest.mark.parametrize(
    ("shape", "images"),
    [((3, 224, 224), 8), ((3, 384, 384), 4), ((3, 48, 48), 64), ((1, 28, 28), 64), ((3, 4096, 4096), 1)],
)
def test_the_rule_for_processors_knows_the_input_alone(shape: tuple[int, ...], images: int) -> None:
    assert forward.for_cpu(shape, 64) == images
    assert forward.for_cpu(shape, 3) <= 3


@pytest.mark.parametrize(("knee", "grown"), [(8, 8), (64, 64), (10_000, 512)])
def test_a_batch_grows_to_the_knee(knee: int, grown: int) -> None:
    assert forward.grown(lambda batch: max(batch, knee) / 1000, 8, 512) == grown


def test_a_batch_stops_growing_where_memory_ends() -> None:
    def seconds(batch: int) -> float:
        if batch > 32:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1.0

    assert forward.grown(seconds, 8, 512) == 32

    def broken(batch: int) -> float:
        if batch > 8:
            raise RuntimeError("something else")
        return 1.0

    with pytest.raises(RuntimeError, match="something else"):
        forward.grown(broken, 8, 512)


def test_a_device_grows_its_batch_and_gives_the_same_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(forward, "perf_counter", lambda: clock[0])
    inputs = Inputs(np.random.default_rng(0).random((64, 3, 8, 8), dtype=np.float32), None)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5)).eval()

    def slow(x: torch.Tensor) -> torch.Tensor:
        clock[0] += 1.0  # as long for many images as for one
        return model(x)

    ids = np.arange(64, dtype=np.int32)
    work = forward.Work(slow, inputs, ids, 5, 4, "cpu", time.monotonic() + 60)
    made = forward._run_device(work, "float32", grow_to=4096)
    assert made.batch_size == 64, "not more than there are"
    with torch.inference_mode():
        np.testing.assert_allclose(made.raw, model(inputs.batch(ids)).numpy(), rtol=1e-4, atol=1e-5)
    assert forward._run_device(work, "float32").batch_size == 4


def test_batches_are_remembered(tmp_path: Path) -> None:
    memory = forward.Memory(tmp_path / "cache" / "batches.json")
    assert memory.get("a") is None
    memory.put("a", 256)
    memory.put("b", 8)
    assert (memory.get("a"), memory.get("b")) == (256, 8)
    (tmp_path / "cache" / "batches.json").write_text("{")
    assert memory.get("a") is None
    memory.put("a", 2)
    assert memory.get("a") == 2


def _vit() -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = vit_config(num_hidden_layers=6, hidden_size=64, intermediate_size=256)
    return ViTForImageClassification(ViTConfig.from_dict(config)).eval()


def test_weights_that_do_not_fit_are_spread(tmp_path: Path) -> None:
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    whole, spread = _vit(), _vit()
    size = sum(p.numel() * 4 for p in whole.parameters())
    assert placement.place(whole, "cpu", max_memory={"cpu": size}) == "cpu"
    where = placement.place(spread, "cpu", max_memory={"cpu": size // 2, "disk": 10 * size}, offload=tmp_path / "disk")
    assert where == "cpu+disk"
    assert list((tmp_path / "disk").glob("*.dat")), "weights are on the disk"
    with torch.inference_mode():
        assert torch.equal(whole(x).logits, spread(x).logits)


def test_a_machine_has_memory() -> None:
    assert 2**28 < placement.host_memory() < 2**63
    assert placement.place(_vit(), "cpu") == "cpu"
