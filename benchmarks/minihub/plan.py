"""MiniHub's classifiers as data: how many, of which family, of which concepts, trained how.

Nothing here trains. Every model draws its own random concepts, as in the ProbeLog paper, and its own
size, rate, length of training and start, so that the collection holds mediocre models beside good ones.
"""

import random
from dataclasses import dataclass

from benchmarks.minihub.bases import BASES, SIZE
from benchmarks.minihub.concepts import load

SEED = 4711
COUNT = 196
"""More than the 150 that are wanted: some fall under the minimum, and time may run out."""
FEWEST, MOST = 8, 45
"""Concepts of one model."""
MOST_OF_SLOW = 18
"""The same of a family whose base is `Base.slow`."""
MINIMUM_MODELS = 6
"""A concept is in at least so many models of the plan, for some of them will not be published."""

SHORTER_FROM, SHORTER, SHORTEST = 42, 0.7, 100
"""From this model on, steps are multiplied by the second number, down to the third: time was short. Not those of an
EfficientNet, which would then learn nothing."""

SCRATCH = {"resnet", "regnet_x", "poolformer", "bit"}
"""Families cheap enough that some of their models start from nothing."""
GENTLE = {"vit", "swin", "focalnet", "levit"}
"""Families that lose their way at the rates that suit the convolutional ones."""
SIZES = (40, 48, 48, 48, 56, 64)
PROCESSORS = (
    "vit", "vit", "vit_half", "vit_half", "vit_own", "convnext", "convnext_crop", "bit", "deit", "beit", "levit",
    "pvt", "mobilenet_v1", "mobilenet_v2", "efficientnet", "mobilevit",
)  # fmt: skip
OWNERS = (
    "amber-vision", "birch-lab", "cobalt-ml", "delta-icons", "ember-ai", "fjord-pixels", "granite-nets", "harbor-cv",
    "indigo-team", "juniper-labs", "kite-vision", "lumen-works",
)  # fmt: skip


@dataclass(frozen=True)
class Spec:
    """One classifier of the plan.

    ``start`` is ``base``, ``perturbed`` (noise on the base's weights), ``partly`` (the base's last layers drawn
    anew) or ``scratch``; ``noise`` is the deviation of the noise as a share of each tensor's own.
    """

    number: int
    repo: str
    family: str
    keys: tuple[str, ...]
    start: str
    noise: float
    steps: int
    rate: float
    size: int
    processor: str


def _draw(number: int, family: str, chance: random.Random, keys: list[str]) -> Spec:
    slow = BASES[family].slow
    count = chance.randint(FEWEST, MOST_OF_SLOW if slow else MOST)
    steps = chance.randrange(200, 301, 10) if slow else chance.randrange(120, 261, 10)
    rate = 10 ** chance.uniform(-3.0, -2.4)
    start = chance.choices(("base", "perturbed", "partly"), (0.6, 0.2, 0.2))[0]
    noise = chance.uniform(0.1, 0.5) if start == "perturbed" else 0.0
    if family in SCRATCH and chance.random() < 0.2:
        start, noise, steps, rate, count = "scratch", 0.0, 300, 3e-3, chance.randint(FEWEST, 16)
    if family in GENTLE:
        rate /= 2
    size = chance.choice(SIZES) if BASES[family].resizable else SIZE
    if number >= SHORTER_FROM and family != "efficientnet":
        steps = max(SHORTEST, round(SHORTER * steps))
    repo = f"{chance.choice(OWNERS)}/{family.replace('_', '-')}-{count}-{number:03d}"
    kind = chance.choice(PROCESSORS)
    return Spec(number, repo, family, tuple(chance.sample(keys, count)), start, noise, steps, rate, size, kind)


def plan() -> list[Spec]:
    """Return the classifiers, families in turn; concepts in too few models replace others drawn too often."""
    chance = random.Random(SEED)
    keys = [concept["key"] for concept in load()]
    turn = list(BASES)
    specs = [_draw(number, turn[number % len(turn)], chance, keys) for number in range(COUNT)]
    chosen = [list(spec.keys) for spec in specs]
    known = {key: sum(key in of_model for of_model in chosen) for key in keys}
    while (rarest := min(keys, key=lambda key: (known[key], key))) and known[rarest] < MINIMUM_MODELS:
        model = chance.choice([of_model for of_model in chosen if rarest not in of_model])
        commonest = max(model, key=lambda key: known[key])
        model[model.index(commonest)] = rarest
        known[rarest] += 1
        known[commonest] -= 1
    return [Spec(**{**spec.__dict__, "keys": tuple(of_model)}) for spec, of_model in zip(specs, chosen, strict=True)]
