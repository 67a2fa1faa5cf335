"""What is trained on what: drawn once with a seed, so that the collection is the same wherever it is rebuilt."""

import functools
import random
from dataclasses import dataclass

from benchmarks.photohub import photos

SEED = 20261127
HEADS, BLOCKS, SCRATCH = 94, 8, 50
"""Models with a new head alone, with the last block tuned as well, and trained from nothing."""
FEWEST, MOST = 4, 60
SCRATCH_MOST = 12
FAMILIES = (
    "resnet", "regnet_x", "poolformer", "convnext", "resnet_bottleneck", "bit", "levit", "swin", "vit", "mobilenet_v1",
)  # fmt: skip
"""Of `benchmarks.demo_hub.families`, for the models from nothing, in turn."""
LABELS = {"honest": 0.4, "generated": 0.25, "missing": 0.15, "wrong": 0.1, "shuffled": 0.1}
"""Label lists and their shares: the classes' names, ``LABEL_0``..., none, other classes' names, the names mixed up."""
OWNERS = ("alder-vision", "basalt-lab", "cedar-ml", "dune-images", "elm-photo", "fjord-cv", "gorse-ai", "heath-nets")


@dataclass(frozen=True)
class Spec:
    """One classifier.

    Attributes:
        number: its place in the plan.
        repo: its name.
        kind: ``head``, ``block`` or ``scratch``.
        base: which EfficientNet-Lite it starts from; -1 for none.
        family: of its architecture.
        classes: of Tiny-ImageNet's 200, in the order of its outputs.
        labels: of `LABELS`.
        images: training photographs of a class.
        steps: of training.
        decay: weight decay.
    """

    number: int
    repo: str
    kind: str
    base: int
    family: str
    classes: tuple[int, ...]
    labels: str
    images: int
    steps: int
    decay: float

    def shown(self) -> list[str] | None:
        """Return the label of every output as the repository states it, or None where it states nothing."""
        names, where = photos.classes()
        own = [names[where[one]] for one in self.classes]
        chance = random.Random(f"{SEED} labels {self.number}")
        if self.labels == "generated":
            return [f"LABEL_{i}" for i in range(len(own))]
        if self.labels == "missing":
            return None
        if self.labels == "wrong":
            return [names[where[i]] for i in chance.sample(sorted(set(range(200)) - set(self.classes)), len(own))]
        if self.labels == "shuffled":
            return chance.sample(own, len(own))
        return own


def _kinds() -> list[str]:
    return ["head"] * HEADS + ["block"] * BLOCKS + ["scratch"] * SCRATCH


@functools.cache
def plan() -> tuple[Spec, ...]:
    """Return all of them."""
    chance = random.Random(SEED)
    specs = []
    for number, kind in enumerate(_kinds()):
        base = chance.choices((0, 1, 2), (0.4, 0.35, 0.25))[0] if kind == "head" else 0 if kind == "block" else -1
        family = FAMILIES[number % len(FAMILIES)] if kind == "scratch" else f"efficientnet-lite{base}"
        most = {"head": MOST, "block": 24, "scratch": SCRATCH_MOST}[kind]
        count = round(FEWEST * (most / FEWEST) ** chance.random())  # many small ones, as on the Hub
        classes = tuple(chance.sample(range(200), count))
        labels = chance.choices(list(LABELS), list(LABELS.values()))[0]
        images = {"head": chance.choice((8, 15, 30, 60)), "block": 60, "scratch": 300}[kind]
        steps = {"head": chance.choice((60, 120, 240)), "block": 120, "scratch": 180}[kind]
        name = f"{chance.choice(OWNERS)}/{family.replace('_', '-')}-{count}-{number:03d}"
        decay = 10 ** chance.uniform(-4, -1)
        specs.append(Spec(number, name, kind, base, family, classes, labels, images, steps, decay))
    return tuple(specs)


def halves() -> dict[str, list[str]]:
    """Return the names of ImageNet's classes in halves, ``validation`` and ``test``; Tiny-ImageNet's are halved too."""
    names, where = photos.classes()
    tiny = sorted({names[i] for i in where})
    rest = sorted(set(names) - set(tiny))
    parts: dict[str, list[str]] = {"validation": [], "test": []}
    for group in (tiny, rest):
        mixed = random.Random(f"{SEED} halves").sample(group, len(group))
        parts["validation"] += mixed[: len(mixed) // 2]
        parts["test"] += mixed[len(mixed) // 2 :]
    return {part: sorted(keys) for part, keys in parts.items()}
