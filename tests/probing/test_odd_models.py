"""Models at the edges of what there is: each ends in one booked row, and its row says how it was run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import probing
from probing import responses
from tests.probing.conftest import PROCESSOR, Repos, by_repo, vit_config, write_model
from workspace import Status, Workspace, records


def _probe(workspace: Workspace, repos: Repos, **options: Any) -> dict[str, dict[str, Any]]:
    repos.write_catalog(workspace)
    summary = probing.probe(workspace, repos.fetch, progress=False, isolate=False, **options)
    rows = {row["repo_id"]: row for row in workspace.attempts().to_pylist()}
    assert summary.attempted == len(repos.rows) == len(rows)
    return rows


def _odd(repos: Repos, name: str, config: Mapping[str, Any], tensors: Any, processor: Any = PROCESSOR) -> None:
    write_model(repos.root / name, config, tensors, processor)
    repos.list(name)


def test_weights_in_eight_bits(workspace: Workspace, repos: Repos, vit_tensors: Any) -> None:
    whole = vit_tensors()
    for name, kind in (("fp8", torch.float8_e4m3fn), ("int8", torch.int8), ("uint8", torch.uint8)):
        _odd(repos, name, vit_config(), {k: v.to(kind) if v.ndim > 1 else v for k, v in whole.items()})
    for name, half in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        _odd(repos, name, vit_config(), {k: v.to(half) for k, v in whole.items()})
    rows = _probe(workspace, repos)
    assert {k: r["status"] for k, r in rows.items()} == {
        "fp8": "quantised", "int8": "quantised", "uint8": "quantised", "fp16": "ok", "bf16": "ok",
    }  # fmt: skip
    assert "8 bits" in rows["int8"]["reason"]
    assert rows["int8"]["ended_in"] == "load"


def test_one_label(workspace: Workspace, repos: Repos, vit_tensors: Any) -> None:
    one = vit_tensors(labels=("cat",))
    _odd(repos, "tagger", vit_config(labels=("cat",), problem_type="multi_label_classification"), one)
    _odd(repos, "regression", vit_config(labels=("LABEL_0",)), one)
    _odd(repos, "softmax", vit_config(labels=("cat",), problem_type="single_label_classification"), one)
    rows = _probe(workspace, repos)
    assert {k: r["status"] for k, r in rows.items()} == {
        "tagger": "ok", "regression": "regression", "softmax": "malformed_config",
    }, rows["softmax"]["reason"]  # fmt: skip
    assert rows["tagger"]["problem_type"] == "multi_label_classification"
    assert workspace.responses().num_rows == 1


@pytest.mark.slow
def test_two_hundred_thousand_labels(workspace: Workspace, repos: Repos) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    config = vit_config() | {"id2label": {str(i): f"n{i}" for i in range(200_000)}}
    del config["label2id"]
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig.from_dict(config))
    with torch.no_grad():
        model.classifier.weight.normal_(0, 1)
    _odd(repos, "many", config, model.state_dict())
    rows = _probe(workspace, repos)
    assert (rows["many"]["status"], rows["many"]["num_logits"]) == ("ok", 200_000), rows["many"]["reason"]
    labels = workspace.responses(["label", "logit"])
    assert labels.num_rows == 200_000
    assert labels["label"][199_999].as_py() == "n199999"


def test_images_of_one_pixel_and_of_other_modes(tmp_path: Path, repos: Repos, vit_tensors: Any) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i, size in enumerate([(1, 1), (1, 3), (3, 1), (2, 2), (3, 3), (900, 2), (4, 50)]):
        pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"small-{i}.png")
    base = Image.fromarray(random.integers(0, 256, (20, 24, 4), dtype=np.uint8))
    for mode in ("1", "L", "LA", "P", "CMYK", "RGBA"):
        base.convert(mode).save(folder / f"{mode}.{'tiff' if mode == 'CMYK' else 'png'}")
    Image.fromarray(random.integers(0, 65536, (20, 24)).astype(np.uint16)).save(folder / "sixteen.png")
    made = Workspace.create(tmp_path / "odd-work")
    n = probing.probes.build(made, folder, n=50, progress=False).n
    assert n == 13, "900 x 2 pixels are too thin"
    repos.vit("square")
    cropped = PROCESSOR | {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 32}}
    repos.vit("cropped", seed=1, processor=cropped)
    gray = PROCESSOR | {"image_mean": [0.5], "image_std": [0.5]}
    _odd(repos, "gray", vit_config(num_channels=1), vit_tensors(num_channels=1), gray)
    _odd(repos, "four", vit_config(num_channels=4), vit_tensors(num_channels=4))
    rows = _probe(made, repos)
    ends = {k: r["status"] for k, r in rows.items()}
    assert (ends["square"], ends["gray"], rows["square"]["probes_run"]) == ("ok", "ok", n)
    assert ends["four"] != "ok", "RGB images have no fourth channel"
    assert all(r["status"] == "ok" or len(r["reason"]) > 10 for r in rows.values())
    assert rows["four"]["ended_in"] in ("preprocess", "forward")


def test_an_input_of_one_pixel(workspace: Workspace, repos: Repos, vit_tensors: Any) -> None:
    for edge in (1, 2):
        tiny = {"image_size": edge, "patch_size": 1}
        processor = PROCESSOR | {"size": {"height": edge, "width": edge}}
        _odd(repos, f"{edge}x{edge}", vit_config(**tiny), vit_tensors(**tiny), processor)
    rows = _probe(workspace, repos)
    # torch 2.15 cannot shrink 8-bit images to one pixel; where it can, the model is run
    assert rows["1x1"]["status"] in ("ok", "processor_error")
    assert rows["2x2"]["status"] == "ok", rows["2x2"]["reason"]
    assert rows["2x2"]["batch_size"] == 64


def test_several_heads(workspace: Workspace, repos: Repos) -> None:
    from transformers import LevitConfig, LevitForImageClassificationWithTeacher

    shape = {"image_size": 32, "hidden_sizes": [16, 24, 32], "num_attention_heads": [1, 1, 1], "depths": [1, 1, 1],
             "key_dim": [8, 8, 8], "num_labels": 4}  # fmt: skip
    torch.manual_seed(0)
    model = LevitForImageClassificationWithTeacher(LevitConfig(**shape))
    folder = repos.root / "two-heads"
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    repos.list("two-heads")
    rows = _probe(workspace, repos)
    ended = rows["two-heads"]
    assert (ended["status"], ended["num_logits"]) == ("ok", 4), ended["reason"]


def test_no_processor_and_the_ways_inputs_are_kept(workspace: Workspace, repos: Repos, vit_tensors: Any) -> None:
    repos.vit("default", processor=None)
    repos.vit("plain")
    offset = {"image_processor_type": "EfficientNetImageProcessor", "size": {"height": 32, "width": 32}}
    repos.vit("offset", processor=offset)
    rows = _probe(workspace, repos)
    assert {r["status"] for r in rows.values()} == {"ok"}
    assert rows["default"]["processor_source"] == "default"
    assert by_repo(rows.values(), "input_dtype") == {"default": "uint8", "plain": "uint8", "offset": "float32"}
    assert {r["kernels"] for r in rows.values()} == {"one thread a batch"}
    assert {r["half_error"] for r in rows.values()} == {None}
    assert {r["ended_in"] for r in rows.values()} == {None}


def test_a_model_that_memory_cannot_hold(workspace: Workspace, repos: Repos, monkeypatch: pytest.MonkeyPatch) -> None:
    from probing import settings

    repos.vit("one")
    monkeypatch.setattr(settings, "host_memory", lambda: 10_000)
    rows = _probe(workspace, repos)
    assert rows["one"]["status"] == Status.EXCEEDS_MEMORY.value
    assert "GB" in rows["one"]["reason"]
    monkeypatch.undo()
    assert _probe(workspace, repos, retry=["exceeds_memory"])["one"]["status"] == "ok"


def test_files_of_an_older_version_lack_columns_and_are_read(workspace: Workspace, repos: Repos) -> None:
    repos.vit("one")
    repos.vit("two", seed=1)
    wanted = _probe(workspace, repos)
    new = {"ended_in", "half_error", "kernels", "input_dtype", "random_ids"}
    for folder in (workspace.attempts_dir, workspace.responses_dir(workspace.probe_set)):
        for path in folder.glob("*.parquet"):
            table = pq.read_table(path)
            pq.write_table(table.drop_columns([n for n in table.column_names if n in new]), path)
    rows = workspace.attempts().to_pylist()
    assert [{k: v for k, v in row.items() if k not in new} for row in rows] == [
        {k: v for k, v in row.items() if k not in new} for row in wanted.values()
    ]
    assert workspace.responses().schema.equals(records.RESPONSES)
    assert _probe(workspace, repos) == {r["repo_id"]: r for r in rows}
    assert responses.compact_attempts(workspace, least=2) == 2
    assert workspace.attempts().num_rows == 2
