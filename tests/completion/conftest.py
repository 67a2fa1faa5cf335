from datetime import datetime, timezone

import numpy as np
import pyarrow as pa
import pytest
import torch

from completion.factors import Block
from workspace import Workspace, model_file_name, records
from workspace.files import write_table

N = 200
PROBE_SET = "0123456789abcdef"


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def truth(models=40, logits=8, rank=5, noise=0.6, seed=0):
    """z-scored responses, float32 [models, logits, N]: a low-rank part and noise of the given variance."""
    rng = np.random.default_rng(seed)
    basis = rng.normal(size=(rank, N)) * np.array([3, 2, 1.5, 1, 0.8])[:rank, None]
    low = rng.normal(size=(models, logits, rank)) @ basis
    low *= np.sqrt((1 - noise) / low.var())
    made = low + rng.normal(size=low.shape) * np.sqrt(noise)
    made = (made - made.mean(2, keepdims=True)) / made.std(2, keepdims=True)
    return made.astype(np.float16).astype(np.float32)


def subset(i, share, seed=0):
    size = round(N * share)
    return np.sort(np.random.default_rng([seed, i]).permutation(N)[:size])


def blocks(responses, share=1 / 3, full=0):
    """One block a model; the first ``full`` were run on all probes."""
    made = []
    for i, values in enumerate(responses):
        ids = np.arange(N) if i < full else subset(i, share)
        made.append(Block((f"o/m{i:03d}", "0" * 40), torch.from_numpy(ids), torch.from_numpy(values[:, ids])))
    return made


def new_workspace(path):
    made = Workspace.create(path)
    image = {"bytes": b"x", "path": None}
    rows = [{"probe_id": i, "image": image, "image_hash": f"{i:064x}", "width": 1, "height": 1} for i in range(N)]
    write_table(made.probes_dir(PROBE_SET) / "probes.parquet", pa.Table.from_pylist(rows, records.PROBES))
    made.use_probe_set(PROBE_SET)
    return made


def rows_of(i, values, ids, random_ids=None):
    """Responses of model ``i`` to the probes ``ids``, z-scored over these, as a prober writes them."""
    part = values[:, ids]
    mean, std = part.mean(1), part.std(1)
    made = []
    for j in range(len(values)):
        first = {"probe_ids": ids.tolist(), "logsumexp": [0.0] * len(ids), "random_ids": random_ids} if j == 0 else {}
        response = ((part[j] - mean[j]) / std[j]).astype(np.float16)
        row = {"repo_id": f"o/m{i:03d}", "sha": "0" * 40, "logit": j, "label": f"l{j}", "mean": mean[j], "std": std[j]}
        made.append({**row, "response": response, **first})
    return pa.Table.from_pylist(made, records.RESPONSES)


def commit(workspace, i, table):
    stem = model_file_name(f"o/m{i:03d}", "0" * 40)
    write_table(workspace.responses_dir(PROBE_SET) / f"{stem}.parquet", table)
    attempt = {
        "repo_id": f"o/m{i:03d}", "sha": "0" * 40, "attempt": 1, "outcome": "ok", "status": "ok", "reason": "",
        "probe_set": PROBE_SET, "started_at": datetime.now(timezone.utc),
    }  # fmt: skip
    write_table(workspace.attempts_dir / f"{stem}-001.parquet", pa.Table.from_pylist([attempt], records.ATTEMPTS))


@pytest.fixture
def gallery(tmp_path):
    """A workspace of 20 models, the first 4 fully probed, the others on a third; and what they really answer."""
    workspace, responses = new_workspace(tmp_path / "w"), truth(models=20)
    for i, values in enumerate(responses):
        commit(workspace, i, rows_of(i, values, np.arange(N) if i < 4 else subset(i, 1 / 3)))
    return workspace, responses
