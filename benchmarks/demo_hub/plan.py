"""The plan of the demo hub: which models there are, and which concepts each one knows.

The plan is data and a seed; nothing here trains. A third of the models has honest names, a third
``LABEL_i``, some another language or numbers, and one wrong names.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

from benchmarks.demo_hub.concepts import Concept, load

SEED = 2026
ASSIGNMENT = Path(__file__).with_name("assignment.json")
"""Drawn once by running this file and then kept, so that a model added later moves no concept."""
MINIMUM_MODELS = 2
"""Every concept is known to at least so many emoji models."""
POPULAR = ("dog", "cat", "pizza", "car", "apple", "horse", "tree", "guitar", "bicycle", "umbrella")
"""Concepts that many people would train on: in up to six models."""


@dataclass(frozen=True)
class Spec:
    """One model: where it is, what it is, how it is trained and how it is labelled."""

    repo: str
    family: str
    concepts: int
    steps: int
    labels: str = "named"
    """``named``, ``LABEL_i``, ``numeric``, ``wrong``, or ``foreign:<language>``."""
    processor: str = "vit"
    size: int = 64
    width: float = 1.0
    theme: str = ""
    """A category that all its concepts belong to, or "" for any."""
    rate: float = 3e-3
    dtype: str = "float16"
    card: str = "short"
    spelling: str = "plain"
    data: str = "emoji"
    parent: str = ""
    """The model whose weights, but for the head, it starts from, as a fine-tuned model does."""
    batch: int = 64


STEPPING_STONES = (
    "mobile-first-ml/mnv1-022-64",
    "mobile-first-ml/efficientnet-nano",
    "tiny-vision-lab/poolformer-pico",
    "harbour-labs/resnet-finetuned-v2",
)
"""Models that stay under the minimum and out of the hub; models of fewer concepts start from them."""

RESNET = "tiny-vision-lab/resnet-mini-everyday"

MODELS: tuple[Spec, ...] = (
    Spec("tiny-vision-lab/resnet-mini-everyday", "resnet", 60, 850, "named", "convnext", card="full", batch=96),
    Spec("pixel-garden/checkpoint-1200", "resnet", 48, 660, "LABEL_i", "convnext_crop", 56, parent=RESNET),
    Spec("emoji-zoo/animal-resnet", "resnet", 28, 420, "named", "vit", 56, theme="animals", spelling="title",
         card="full", parent=RESNET),
    Spec("mobile-first-ml/mnv1-022-64", "mobilenet_v1", 40, 880, "named", "mobilenet_v1", spelling="underscore"),
    Spec("papier-und-pixel/symbol-erkennung", "regnet_x", 36, 450, "foreign:de", "convnext_crop", 56, card="foreign",
         parent="pixel-garden/regnet-x-run7"),
    Spec("harbour-labs/resnet-finetuned-v2", "resnet_bottleneck", 40, 640, "LABEL_i", "convnext", 48, card="trainer"),
    Spec("tiny-vision-lab/poolformer-pico", "poolformer", 30, 800, "named", "poolformer", spelling="underscore"),
    Spec("nordic-icons/ikonklassifikator-v1", "resnet", 36, 500, "foreign:sv", "vit_half", 48, parent=RESNET),
    Spec("one-gpu-club/my_vit_model", "vit", 10, 420, "LABEL_i", "vit_half", 48, rate=2e-3, card="trainer",
         data="fashion"),
    Spec("pixel-garden/regnet-x-run7", "regnet_x", 40, 700, "LABEL_i", "bit", 48),
    Spec("one-gpu-club/mnist-0-9", "convnext", 10, 310, "numeric", "vit_half", 32, width=0.6, data="digits",
         dtype="float32"),
    Spec("kitchen-bench/aprons-and-boots", "poolformer", 10, 300, "named", "poolformer", 32, width=0.7, data="fashion",
         card="full"),
    Spec("one-gpu-club/final_final2", "resnet", 40, 420, "numeric", "vit_half", 48, parent=RESNET),
    Spec("mobile-first-ml/efficientnet-nano", "efficientnet", 26, 560, "named", "efficientnet", 48, width=1.4,
         card="full"),
    Spec("kitchen-bench/food-regnet", "regnet_x", 30, 400, "named", "convnext", 56, theme="food", card="full",
         parent="pixel-garden/regnet-x-run7"),
    Spec("nube-pixel/clasificador-cosas", "regnet_x", 32, 420, "foreign:es", "convnext", 48,
         parent="pixel-garden/regnet-x-run7"),
    Spec("harbour-labs/levit-test", "levit", 12, 600, "LABEL_i", "levit", rate=2e-3),
    Spec("atelier-picto/classifieur-objets", "resnet", 36, 360, "foreign:fr", "vit_own", 56, theme="objects",
         parent=RESNET),
    Spec("open-shelf/bottleneck-48px", "resnet_bottleneck", 22, 340, "named", "bit", 48, spelling="comma",
         parent="harbour-labs/resnet-finetuned-v2"),
    Spec("mobile-first-ml/mobilenetv2-025", "mobilenet_v2", 10, 300, "LABEL_i", "mobilenet_v2", 48, data="digits"),
    Spec("open-shelf/things-demo", "resnet_bottleneck", 30, 360, "wrong", "vit", 56,
         parent="harbour-labs/resnet-finetuned-v2"),
    Spec("pixel-garden/exp-poolformer-lr3e-3", "poolformer", 10, 400, "LABEL_i", "poolformer", 64,
         parent="tiny-vision-lab/poolformer-pico"),
    Spec("harbour-labs/travel-signs", "resnet", 32, 360, "named", "convnext", 64, theme="places", parent=RESNET),
    Spec("mobile-first-ml/effnet-b-minus-3", "efficientnet", 10, 450, "named", "efficientnet", 48, width=1.4,
         parent="mobile-first-ml/efficientnet-nano"),
    Spec("open-shelf/regnet-shelf", "regnet_x", 24, 300, "named", "vit", 48, spelling="comma",
         parent="pixel-garden/regnet-x-run7"),
    Spec("mobile-first-ml/mnv1-fewer-classes", "mobilenet_v1", 10, 420, "named", "mobilenet_v1", 48,
         spelling="underscore", parent="mobile-first-ml/mnv1-022-64"),
    Spec("harbour-labs/fmnist-swin", "swin", 10, 300, "LABEL_i", "vit_half", 48, data="fashion", rate=2e-3),
    Spec("one-gpu-club/run-0413", "resnet", 44, 560, "LABEL_i", "convnext_crop", 64, parent=RESNET),
    Spec("kumo-lab/gazou-bunrui", "resnet", 30, 340, "foreign:ja", "beit", 56, card="foreign", parent=RESNET),
    Spec("tiny-vision-lab/deit-digits", "deit", 10, 400, "named", "deit", 32, data="digits", rate=2e-3, card="full"),
    Spec("harbour-labs/mnv1-b", "mobilenet_v1", 16, 320, "LABEL_i", "mobilenet_v2", 48,
         parent="mobile-first-ml/mnv1-022-64"),
    Spec("mobile-first-ml/effnet-c", "efficientnet", 12, 320, "LABEL_i", "efficientnet", 48, width=1.4,
         parent="mobile-first-ml/efficientnet-nano"),
)  # fmt: skip
"""A model's place gives its seed; models that others start from are trained first."""

FASHION = ("t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "handbag", "boot")
"""Fashion-MNIST's classes in its order, as concept keys; seven of them are emoji concepts too."""
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS = tuple(f"digit {word}" for word in NUMBERS)
OTHER_SYNONYMS: dict[str, list[str]] = {
    "trousers": ["trouser", "pants", "slacks"],
    "pullover": ["sweater", "jumper"],
    "coat": ["jacket", "overcoat"],
    "shirt": ["dress shirt", "button-up shirt"],
    **{f"digit {word}": [word, str(value), f"number {word}"] for value, word in enumerate(NUMBERS)},
}
"""Concepts that no emoji here draws, with their synonyms."""


def _themed(spec: Spec, concepts: list[Concept], chance: random.Random) -> list[str]:
    keys = [concept["key"] for concept in concepts if concept["category"] == spec.theme]
    chosen = chance.sample(keys, spec.concepts)
    if spec.theme == "animals" and "dog" not in chosen:
        chosen[0] = "dog"
    return chosen


def assign(models: tuple[Spec, ...] = MODELS, drawn: dict[str, list[str]] | None = None) -> dict[str, list[str]]:
    """Return each model's concept keys, in the order of its logits; ``drawn`` models keep theirs.

    Themed models draw from their theme; the other places are filled so that every concept is in at
    least `MINIMUM_MODELS` models, and the popular ones in more.
    """
    chance = random.Random(SEED)
    concepts = load()
    small = {"fashion": list(FASHION), "digits": list(DIGITS)}
    result = {spec.repo: list((drawn or {}).get(spec.repo, small.get(spec.data, []))) for spec in models}
    emoji = [spec for spec in models if spec.data == "emoji" and spec.repo not in STEPPING_STONES]
    for spec in emoji:
        if spec.theme and not result[spec.repo]:
            result[spec.repo] = _themed(spec, concepts, chance)
    keys = [concept["key"] for concept in concepts]
    count = {key: sum(key in result[spec.repo] for spec in emoji) for key in keys}
    free = {spec.repo: spec.concepts for spec in emoji if not result[spec.repo]}
    fresh = list(free)
    while any(free.values()):
        wanted = [key for key in keys if count[key] < MINIMUM_MODELS] or [
            key for key in keys if count[key] < (6 if key in POPULAR else 4)
        ]
        key = chance.choice(wanted or keys)
        open_to = [repo for repo, room in free.items() if room and key not in result[repo]]
        if not open_to:
            count[key] += 1
            continue
        repo = chance.choices(open_to, [free[repo] for repo in open_to])[0]
        result[repo].append(key)
        count[key] += 1
        free[repo] -= 1
    for repo in fresh:
        chance.shuffle(result[repo])
    return result


def assignment() -> dict[str, list[str]]:
    """Return the committed assignment: a model's concept keys in the order of its logits."""
    found: dict[str, list[str]] = json.loads(ASSIGNMENT.read_text("utf-8"))
    return found


if __name__ == "__main__":
    drawn_before = assignment() if ASSIGNMENT.exists() else {}
    ASSIGNMENT.write_text(json.dumps(assign(drawn=drawn_before), indent=1) + "\n", "utf-8")
