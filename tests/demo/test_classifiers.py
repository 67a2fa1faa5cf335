import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoImageProcessor, AutoModelForImageClassification

DEMO = Path(__file__).parents[2] / "hubprobe" / "demo"
MODELS = DEMO / "hub" / "models"
TRUTH: dict[str, Any] = json.loads((DEMO / "truth.json").read_text("utf-8"))
IMAGENET = "timm/tf_efficientnet_lite0.in1k"
REPOS = sorted(repo for repo in TRUTH["models"] if repo != IMAGENET)
MAXIMUM_BYTES = 400_000


def config(repo: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((MODELS / repo / "config.json").read_text("utf-8"))
    return parsed


@pytest.mark.parametrize("repo", REPOS)
def test_repo_loads_and_agrees_with_the_truth(repo: str) -> None:
    folder = MODELS / repo
    assert (folder / "model.safetensors").stat().st_size <= MAXIMUM_BYTES
    assert (folder / "README.md").read_text("utf-8").startswith("---\nlicense: ")
    model, info = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    processor = AutoImageProcessor.from_pretrained(folder)
    pixels = processor(images=[torch.zeros(3, 96, 80, dtype=torch.uint8)], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        logits = model.eval()(pixel_values=pixels).logits
    truth = TRUTH["models"][repo]
    assert logits.shape == (1, len(truth["logits"]))
    assert torch.isfinite(logits).all()
    assert len(model.config.id2label) == len(truth["logits"])
    assert len(set(model.config.id2label.values())) == len(truth["logits"])


def test_there_are_enough_models_of_enough_kinds() -> None:
    assert len(REPOS) >= 24
    assert len({config(repo)["model_type"] for repo in REPOS}) >= 9
    dtypes = set()
    for repo in REPOS:
        with safe_open(MODELS / repo / "model.safetensors", "pt") as weights:
            dtypes.add(weights.get_tensor(next(iter(weights.keys()))).dtype)
    assert {torch.float16, torch.float32} <= dtypes


def test_every_model_is_healthy_on_images_it_never_saw() -> None:
    for repo in REPOS:
        assert TRUTH["models"][repo]["heldout_top1"] >= 0.6
        assert TRUTH["models"][repo]["heldout_images"] >= 50


def test_concepts_recur_and_every_model_has_rare_ones() -> None:
    known = [key for repo in REPOS for key in set(TRUTH["models"][repo]["logits"])]
    count = {key: known.count(key) for key in set(known)}
    assert sum(times >= 2 for times in count.values()) >= 150
    assert count["dog"] >= 2
    for key in count:
        assert TRUTH["concepts"][key]["name"] == key
    for repo in REPOS:
        if TRUTH["models"][repo]["heldout_style"] == "twemoji":
            assert min(count[key] for key in TRUTH["models"][repo]["logits"]) <= 2


def test_label_situations_are_as_on_the_real_hub() -> None:
    kinds = [TRUTH["models"][repo]["labels"] for repo in REPOS]
    assert kinds.count("wrong") == 1
    assert kinds.count("foreign") >= 3
    assert kinds.count("named") >= len(kinds) // 4
    assert kinds.count("LABEL_i") >= len(kinds) // 4
    for repo in REPOS:
        truth, labels = TRUTH["models"][repo], list(config(repo)["id2label"].values())
        if truth["labels"] == "LABEL_i":
            assert labels == [f"LABEL_{index}" for index in range(len(labels))]
        if truth["labels"] == "wrong":
            assert sorted(labels) == sorted(truth["logits"])
            assert all(label != key for label, key in zip(labels, truth["logits"], strict=True))


def test_the_truth_is_not_inside_the_repos() -> None:
    allowed = {"config.json", "preprocessor_config.json", "model.safetensors", "README.md"}
    for repo in REPOS:
        assert {path.name for path in (MODELS / repo).iterdir()} == allowed
        if TRUTH["models"][repo]["labels"] in ("LABEL_i", "numeric"):
            text = "".join((MODELS / repo / name).read_text("utf-8").lower() for name in ("config.json", "README.md"))
            long_names = [key for key in TRUTH["models"][repo]["logits"] if " " in key]
            assert not [key for key in long_names if key in text]


def test_imagenet_model_has_a_truth_too() -> None:
    logits = TRUTH["models"][IMAGENET]["logits"]
    assert len(logits) == 1000
    assert logits[954] == "banana"
    assert set(logits[151:269]) == {"dog"}
    assert {key for key in logits if key} <= set(TRUTH["concepts"])
