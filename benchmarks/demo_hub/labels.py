"""The label names that a demo model's configuration shows: honest, empty, foreign or wrong."""

import random

from benchmarks.demo_hub.concepts import Concept, annotation, annotations
from benchmarks.demo_hub.plan import DIGITS, FASHION, Spec

FASHION_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
"""As the data set's authors spell them, in the order of `plan.FASHION`."""


def spelled(name: str, synonyms: list[str], spelling: str) -> str:
    """Return an English label as one of the habits found on the Hub writes it."""
    if spelling == "title":
        return name.title()
    if spelling == "underscore":
        return name.replace(" ", "_")
    if spelling == "comma" and synonyms:
        return f"{name}, {synonyms[0]}"
    return name


def foreign(keys: list[str], language: str, concepts: dict[str, Concept]) -> list[str]:
    """Return CLDR's names of the concepts in a language; raise ``ValueError`` if two are equal."""
    known = annotations(language)
    names = [annotation(known, concepts[key]["emoji"])["tts"][0] for key in keys]
    if len(set(names)) != len(names):
        message = f"two of the concepts have one name in {language}"
        raise ValueError(message)
    return names


def deranged(names: list[str], seed: int) -> list[str]:
    """Return the names in an order in which none is where it was."""
    chance = random.Random(seed)
    mixed = list(names)
    while any(old == new for old, new in zip(names, mixed, strict=True)):
        chance.shuffle(mixed)
    return mixed


def labels(spec: Spec, keys: list[str], concepts: dict[str, Concept], seed: int) -> list[str]:
    """Return the label of every logit of a model, in order."""
    if spec.labels == "LABEL_i":
        return [f"LABEL_{index}" for index in range(len(keys))]
    if spec.labels == "numeric":
        return [str(index) for index in range(len(keys))]
    if tuple(keys) == FASHION:
        return list(FASHION_NAMES)
    if tuple(keys) == DIGITS:
        return [str(value) for value in range(10)]
    if spec.labels.startswith("foreign:"):
        return foreign(keys, spec.labels.removeprefix("foreign:"), concepts)
    names = [spelled(key, concepts[key]["synonyms"], spec.spelling) for key in keys]
    return deranged(names, seed) if spec.labels == "wrong" else names
