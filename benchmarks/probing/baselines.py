"""The other side of each comparison, each in a process of its own so that no thread setting leaks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import perf_counter, process_time
from typing import Any


def pipeline(folders: list[str], images: str, n: int) -> dict[str, Any]:
    """What a person would write: `transformers.pipeline` for each model over the image files, batches of 32."""
    from transformers import pipeline as make
    from transformers.utils import logging

    logging.set_verbosity_error()
    files = [str(p) for p in sorted(Path(images).iterdir())[:n]]
    seconds, cpu = [], []
    for folder in folders:
        started, used = perf_counter(), process_time()
        classify = make("image-classification", model=folder, batch_size=32, device="cpu")
        for _ in classify(files, top_k=None):
            pass
        seconds.append(perf_counter() - started)
        cpu.append(process_time() - used)
    return {"seconds": seconds, "cpu": cpu}


def bare(folder: str, pixels: str, shape: list[int], batch: int, device: str, workers: int) -> dict[str, Any]:
    """Forward passes alone, on batches that lie ready in memory.

    ``workers`` batches at once, one thread each; 0 is the plain way, torch's own threads. On a GPU the passes run in
    bfloat16 autocast, as the prober's do.
    """
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    import torch

    from probing.model.loading import Caps, load

    if workers:
        torch.set_num_threads(1)
    model = load(Path(folder), Caps(10**10, 10**6, 4096)).module.to(device)
    if workers or device != "cpu":
        model = model.to(memory_format=torch.channels_last)
    raw = np.memmap(pixels, dtype=np.uint8, mode="r", shape=tuple(shape))
    starts = range(0, len(raw), batch)
    made = [torch.from_numpy(np.array(raw[s : s + batch])).to(device).float().div_(128).sub_(1) for s in starts]

    def one(x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), torch.autocast(device.split(":")[0], torch.bfloat16, enabled=device != "cpu"):
            out = model(x)
        return out.logits if hasattr(out, "logits") else out

    one(made[0])
    if device != "cpu":
        torch.cuda.synchronize()
    started, used = perf_counter(), process_time()
    if workers:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(one, made))
    else:
        for x in made:
            one(x)
    if device != "cpu":
        torch.cuda.synchronize()
    return {"seconds": perf_counter() - started, "cpu": process_time() - used}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](**json.loads(sys.argv[2]))))  # noqa: T201
