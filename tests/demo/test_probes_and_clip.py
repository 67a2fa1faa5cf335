"""The shipped probe set and image-text model are whole, free, and work with the ordinary libraries."""

import hashlib
import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, CLIPConfig, CLIPModel, CLIPProcessor

DEMO = Path(__file__).resolve().parents[2] / "hubprobe" / "demo"
PROBES = DEMO / "probes.parquet"
MODEL = DEMO / "hub" / "models" / "hubprobe" / "demo-clip"
LICENSES = {"Apache-2.0", "CC-BY-2.0", "CC-BY-2.5", "CC0-1.0", "public domain"}
COMMON = ("dog", "cat", "apple", "fish", "umbrella", "strawberry", "guitar", "butterfly")
"""Concepts of which most must be found; the model is small, so not all."""


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """Return the probe set's rows as plain dictionaries."""
    found: list[dict[str, Any]] = pq.read_table(PROBES).to_pylist()
    return found


@pytest.fixture(scope="module")
def images(rows: list[dict[str, Any]]) -> list[Image.Image]:
    """Return the decoded probes."""
    return [Image.open(io.BytesIO(row["image"]["bytes"])) for row in rows]


def test_there_are_at_least_a_thousand_small_rgb_images(images: list[Image.Image]) -> None:
    assert len(images) >= 1000
    assert {image.size for image in images} == {(96, 96)}
    assert {image.mode for image in images} == {"RGB"}
    assert PROBES.stat().st_size < 6_000_000


def test_no_two_probes_are_the_same_image(images: list[Image.Image]) -> None:
    assert len({hashlib.sha256(image.tobytes()).digest() for image in images}) == len(images)


def test_every_probe_has_a_caption_a_source_and_a_free_license(rows: list[dict[str, Any]]) -> None:
    assert all(row["caption"].strip() == row["caption"] != "" for row in rows)
    assert all(":" in row["source"] for row in rows)
    assert {row["license"] for row in rows} <= LICENSES


def test_sources_and_licenses_stand_in_the_notice(rows: list[dict[str, Any]]) -> None:
    notice = (DEMO / "NOTICE").read_text("utf-8").lower()
    for name in ("noto emoji", "open clip art", "tux paint", "scikit-image", "twemoji", "openmoji", "fashion-mnist"):
        assert name in notice
    attributed = {row["source"] for row in rows if row["license"].startswith("CC-BY")}
    assert len(attributed) == sum(author in notice for author in ("aaron m. lang", "jmb", "patrick fitzgerald"))


def test_datasets_opens_the_file_as_images(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    probes = datasets.load_dataset("parquet", data_files=str(PROBES), cache_dir=str(tmp_path), split="train")
    assert isinstance(probes.features["image"], datasets.Image)
    assert probes[0]["image"].size == (96, 96)


def test_the_model_is_small_and_in_hugging_face_layout() -> None:
    names = {path.name for path in MODEL.iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"} <= names
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 10_000_000
    assert "pipeline_tag: zero-shot-image-classification" in (MODEL / "README.md").read_text("utf-8")
    config = CLIPConfig.from_pretrained(MODEL)
    assert AutoImageProcessor.from_pretrained(MODEL).crop_size["height"] == config.vision_config.image_size


def test_the_tokenizer_frames_pads_and_ignores_case() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    batch = tokenizer(["a photo of a dog", "Dog"], padding=True)
    long, short = batch["input_ids"]
    assert long[0] == short[0] == tokenizer.bos_token_id
    assert long[-1] == tokenizer.eos_token_id
    assert short.index(tokenizer.eos_token_id) == sum(batch["attention_mask"][1]) - 1
    assert tokenizer("dog")["input_ids"] == tokenizer("DOG")["input_ids"]
    assert len(tokenizer("word " * 100, truncation=True)["input_ids"]) == tokenizer.model_max_length


@torch.no_grad()
def test_text_finds_images_of_what_it_names(rows: list[dict[str, Any]], images: list[Image.Image]) -> None:
    model = CLIPModel.from_pretrained(MODEL, dtype=torch.float32).eval()
    processor = CLIPProcessor.from_pretrained(MODEL)
    prompts = [f"a photo of a {name}" for name in COMMON]
    text = processor(text=prompts, padding=True, return_tensors="pt")
    seen = [model.vision_model(**processor(images=part, return_tensors="pt")).pooler_output for part in _parts(images)]
    left = torch.nn.functional.normalize(model.text_projection(model.text_model(**text).pooler_output), dim=-1)
    right = torch.nn.functional.normalize(model.visual_projection(torch.cat(seen)), dim=-1)
    best = (left @ right.T).topk(10).indices.tolist()
    found = [name for name, row in zip(COMMON, best, strict=True) if name in {rows[i]["caption"] for i in row}]
    assert len(found) >= len(COMMON) // 2, found


def _parts(images: list[Image.Image], size: int = 128) -> list[list[Image.Image]]:
    return [images[start : start + size] for start in range(0, len(images), size)]
