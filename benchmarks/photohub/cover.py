"""Probes chosen to cover the concept bank against probes drawn at random, on photographs.

    HUBPROBE_PHOTOS=photos python -m benchmarks.photohub.cover            # the test half of the classes: COVER.md
    HUBPROBE_PHOTOS=photos python -m benchmarks.photohub.cover --choose   # the validation half: what was chosen by it

The pool is as uneven as natural ones are: one photograph of each of ImageNet's 1,000 classes, and 9,426 of 200 of them,
14 to 500 of each. EfficientNet-Lite2 writes the captions, all-MiniLM embeds them, which stands in for CLIP; Lite0 and
Lite1 are asked for the names of half of the 1,000 classes, `contrastive`, labels unread, 1,000 outputs each. All three
read 160 pixels and run in bfloat16. What was computed stays below the asset folder: half an hour of a core at first.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks.photohub import lite, photos
from probing.cover import BATCH, Offered, Pool
from probing.images.pictures import image_print
from search.text import bank
from search.text.calibration import BANK, spread
from search.text.contrast import hubness, offered, strengths, unit, zero_shot
from workspace.seams import Sight

if TYPE_CHECKING:
    from numpy.typing import NDArray

SEED = 15
TINY, STEEPNESS, MOST = 10_000, 0.8, 500
"""Photographs of the 200 classes before the cut, exponent of their counts, most of one class."""
PIXELS, RESIZED = 160, 176


def pool() -> list[bytes]:
    """Return the encoded photographs of the pool."""
    rng = np.random.default_rng(SEED)
    one = pq.read_table(photos.folder() / "imagenet_sample.parquet").column("image").to_pylist()
    many = pq.read_table(photos.folder() / "tiny_imagenet_train.parquet")
    labels = np.array(many.column("label").to_pylist())
    share = 1 / np.arange(1, 201) ** STEEPNESS
    share = share[rng.permutation(200)]
    counts = np.minimum(np.round(share / share.sum() * TINY).astype(int), MOST)
    picked = np.concatenate([rng.permutation(np.flatnonzero(labels == c))[: counts[c]] for c in range(200)])
    column = many.column("image")
    return [row["bytes"] for row in one] + [column[int(i)].as_py()["bytes"] for i in picked]


def logits(number: int, pictures: Sequence[bytes]) -> NDArray[np.float32]:
    """Return what EfficientNet-Lite ``number`` answers, float32 ``[pictures, 1000]``, kept."""
    import timm

    path = folder() / f"lite{number}.npy"
    if path.exists():
        return np.asarray(np.load(path), np.float32)
    model = timm.create_model(lite.architecture(number), pretrained=False)
    model.load_state_dict(lite.weights(number))
    model.eval().to(memory_format=torch.channels_last)
    parts = []
    for start in range(0, len(pictures), 64):
        batch = np.stack([_pixels(picture) for picture in pictures[start : start + 64]])
        pixels = torch.from_numpy(batch).permute(0, 3, 1, 2).float().sub_(127).div_(128)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            parts.append(model(pixels.to(memory_format=torch.channels_last)).float().numpy().astype(np.float16))
    np.save(path, np.concatenate(parts))
    return np.concatenate(parts).astype(np.float32)


def _pixels(picture: bytes) -> NDArray[np.uint8]:
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    scale = RESIZED / min(image.size)
    size = max(RESIZED, round(image.width * scale)), max(RESIZED, round(image.height * scale))
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (image.width - PIXELS) // 2, (image.height - PIXELS) // 2
    return np.asarray(image.crop((left, top, left + PIXELS, top + PIXELS)))


def folder() -> Path:
    """Return where what was computed stays."""
    made = photos.root() / "cover"
    made.mkdir(parents=True, exist_ok=True)
    return made


def captions(answers: NDArray[np.float32], names: Sequence[str]) -> list[str]:
    """Return up to five names a photograph: those at least a tenth as probable as the most probable."""
    told = []
    for row in answers:
        best = np.argsort(-row)[:5]
        told.append(", ".join(dict.fromkeys(names[i] for i in best[np.exp(row[best] - row[best[0]]) >= 0.1])))
    return told


class Study:
    """The pool as an encoder sees it, and two models' answers to it."""

    def __init__(self) -> None:
        from benchmarks.accuracy.collection import imagenet_names

        self.names, self.pictures = imagenet_names(), pool()
        self.told = captions(logits(2, self.pictures), self.names)
        self.answers = [logits(number, self.pictures) for number in (0, 1)]
        path = folder() / "embeddings.npz"
        if not path.exists():
            from benchmarks.accuracy.encoder import captions as encoder

            distinct = sorted(set(self.told))
            rows = dict(zip(distinct, encoder().encode_texts(distinct), strict=True))
            concepts = encoder().encode_texts(bank.names(everyday_only=False))
            np.savez(
                path,
                probes=np.stack([rows[t] for t in self.told]),
                bank=concepts,
                names=encoder().encode_texts(self.names),
            )
        with np.load(path) as kept:
            self.probes, self.bank, self.asked = (kept[n].astype(np.float32) for n in ("probes", "bank", "names"))
        everyday = set(bank.names())
        rows = [row for row, name in zip(self.bank, bank.names(everyday_only=False), strict=True) if name in everyday]
        self.centre = np.stack(spread(rows, BANK))

    def accuracy(self, chosen: NDArray[np.int64], classes: NDArray[np.int64]) -> tuple[float, float]:
        """Return top-1 and top-5 of both models by the probes chosen, asked for these classes by name."""
        probes = self.probes[chosen]
        centre = probes @ self.centre.mean(axis=0)
        concepts = zero_shot(self.centre @ probes.T, centre)
        asked, found = zero_shot(self.asked[classes] @ probes.T, centre), []
        for answers in self.answers:
            raw = answers[chosen].T
            strong = strengths((raw - raw.mean(axis=1, keepdims=True)) / raw.std(axis=1, keepdims=True))
            scores = asked @ strong.T - hubness(strong, concepts, offered(strong, concepts))
            ranks = (scores > scores[np.arange(classes.size), classes][:, None]).sum(axis=1)
            found.append([(ranks < 1).mean(), (ranks < 5).mean()])
        top1, top5 = np.mean(found, axis=0)
        return float(top1), float(top5)

    def covering(self, n: int, seed: int = 0) -> NDArray[np.int64]:
        """Return the ``n`` probes that the pool's stream chooses, in the order of ``seed``."""
        order = np.random.default_rng(seed).permutation(len(self.pictures))
        by_caption = dict(zip(self.told, self.probes, strict=True))

        def embed(_: Sequence[bytes], told: Sequence[str | None]) -> NDArray[np.float32]:
            return np.stack([by_caption[caption or ""] for caption in told])

        sight = Sight("captions", "", tuple(bank.names(everyday_only=False)), unit(self.bank), embed)
        with tempfile.TemporaryDirectory() as temporary:
            images = Pool(Path(temporary) / "pool.sqlite", sight, {}, first=n)
            refused = {"duplicates": 0}
            for start in range(0, order.size, BATCH):
                images.add(
                    [self._offered(at, int(order[at])) for at in range(start, min(start + BATCH, order.size))],
                    start,
                    refused,
                )
            chosen = images.choose(n).positions
            images.close(remove=True)
        return order[np.array(chosen)]

    def _offered(self, at: int, i: int) -> Offered:
        row: dict[str, Any] = {"probe_id": at, "caption": self.told[i], "image": {"bytes": b""}}
        return Offered(row, image_print(Image.open(io.BytesIO(self.pictures[i])).convert("RGB")))


def main() -> None:
    """Print a row of JSON for every number of probes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choose", action="store_true", help="ask for the validation half")
    asked = parser.parse_args()
    order = np.random.default_rng(20261127).permutation(1_000)
    classes = np.sort(order[:500] if asked.choose else order[500:])
    study = Study()
    total = len(study.pictures)
    _say(probes="all", n=total, top1_top5=study.accuracy(np.arange(total), classes))
    for n in (500, 1_000, 1_500, 2_000):
        drawn = [np.random.default_rng(seed).choice(total, n, replace=False) for seed in range(5)]
        at_random = [study.accuracy(one, classes) for one in drawn]
        covering = [study.accuracy(study.covering(n, seed), classes) for seed in range(2)]
        for how, found in (("random", at_random), ("covering", covering)):
            mean, deviation = (part.round(3).tolist() for part in (np.mean(found, axis=0), np.std(found, axis=0)))
            _say(probes=how, n=n, top1_top5=mean, sd=deviation, orders=len(found))


def _say(**row: Any) -> None:
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
