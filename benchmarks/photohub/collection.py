"""PhotoHub in memory: every model's responses to the probes, what each output really is, and the captions.

The responses of fine-tuned models come from kept features, so that a hundred of them cost three passes over the
photographs; `benchmarks.photohub.check` runs some as repositories through the prober, and compares.
"""

import functools
import logging
import time
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from benchmarks.accuracy.collection import Collection, Model
from benchmarks.demo_hub import processors
from benchmarks.photohub import lite, models, photos
from benchmarks.photohub.plan import Spec, halves

CAPTION_NAMES = 5
CAPTION_SHARE = 0.1
"""A caption holds the names whose probability is at least this share of the likeliest one's, at most so many."""
UNSEEN = "unseen"
"""Captions by a classifier whose outputs for the test half of the classes are cut off: it never names what is asked."""

log = logging.getLogger("collection")


def full_repo(number: int) -> str:
    """Return the name of a full ImageNet model."""
    return f"timm/tf_efficientnet_lite{number}.in1k"


def captions(count: int, without: set[str] | None = None) -> list[str]:
    """Return what the held-out classifier says of each of the first ``count`` probes, leaving out some classes."""
    names = photos.classes()[0]
    logits = lite.kept("whole", lite.CAPTIONER, count)
    allowed = np.array([i for i, name in enumerate(names) if name not in (without or ())])
    said = []
    for row in logits[:, allowed]:
        order = np.argsort(-row)[:CAPTION_NAMES]
        sure = np.exp(row[order] - row[order[0]]) >= CAPTION_SHARE
        said.append(", ".join(dict.fromkeys(names[allowed[i]] for i in order[sure])))
    return said


@functools.lru_cache(maxsize=3)
def _pixels(kind: str, count: int) -> torch.Tensor:
    made, parts = processors.processor(kind, models.SIZE), []
    data = photos.probes().column("bytes").combine_chunks()[:count]
    for start in range(0, count, 250):
        images = [photos.picture(one.as_py()) for one in data[start : start + 250]]
        parts.append(made(images=images, return_tensors="pt")["pixel_values"])
    return torch.cat(parts)


@torch.inference_mode()
def _answers(spec: Spec, count: int) -> NDArray[np.float32]:
    """Return raw responses ``[logits, count]``."""
    if spec.kind == "scratch":
        network, pixels = models.load_scratch(spec), _pixels(models.processor_of(spec), count)
        return torch.cat([network(pixel_values=part).logits for part in pixels.split(500)]).numpy().T
    tensors = load_file(models.folder() / f"{spec.number:03d}.safetensors")
    if spec.kind == "head":
        features = torch.from_numpy(lite.kept("small", spec.base, count))
        return (features @ tensors["weight"].T + tensors["bias"]).numpy().T
    tail = models.Tail(spec.base, len(spec.classes))
    tail.load_state_dict(tensors)
    maps = torch.from_numpy(lite.kept("maps", spec.base, count))
    return torch.cat([tail.eval()(part.float()) for part in maps.split(500)]).numpy().T


def answers(spec: Spec, count: int) -> NDArray[np.float32]:
    """Return raw responses ``[logits, count]``, computed once."""
    made = photos.root() / f"responses-{count}"
    made.mkdir(exist_ok=True)
    path = made / f"{spec.number:03d}.npy"
    if not path.exists():
        started = time.monotonic()
        partial = made / f"partial-{spec.number:03d}.npy"
        np.save(partial, np.ascontiguousarray(_answers(spec, count)))
        partial.rename(path)
        log.info("%s: %.1f s", spec.repo, time.monotonic() - started)
    found: NDArray[np.float32] = np.load(path)
    return found


def load(count: int | None = None, *, unseen: bool = False, captioner: bool = False) -> Collection:
    """Return the collection over the first ``count`` probes; those everything is computed for when None.

    Args:
        count: of the probes.
        unseen: captions never name the test half's classes.
        captioner: put the model that writes the captions into the collection, too.
    """
    count = lite.ready() if count is None else count
    names, where = photos.classes()
    parts = halves()
    probes = photos.probes().slice(0, count)
    told = captions(count, set(parts["test"]) if unseen else None)
    hashes = probes.column("image_hash").to_pylist()
    if unseen:
        hashes = [f"{one}-{UNSEEN}" for one in hashes]  # another probe set: embeddings are kept by its name
    table = pa.table(
        {
            "image_hash": hashes,
            "caption": told,
            **{name: probes.column(name) for name in ("source", "width", "height")},
        }
    )
    found = [
        Model(full_repo(number), np.ascontiguousarray(lite.kept("whole", number, count).T), list(names))
        for number in lite.SIZES
        if captioner or number != lite.CAPTIONER
    ]
    for spec in models.trained():
        own: list[str | None] = [names[where[one]] for one in spec.classes]
        found.append(Model(spec.repo, answers(spec, count), own, float((models.record(spec) or {})["accuracy"])))
    return Collection(table, sorted(found, key=lambda m: m.repo_id), {name: name for name in names}, parts)


def shown(collection: Collection) -> Any:
    """Return the labels that every model states: honest, generated, wrong, shuffled or missing; None for no words."""
    by_repo = {spec.repo: spec for spec in models.trained()}

    def labels(model: Model) -> list[str] | None:
        if model.repo_id not in by_repo:
            return [collection.names[name] for name in model.concepts if name]
        spec = by_repo[model.repo_id]
        return None if spec.labels == "generated" else spec.shown()

    return labels
