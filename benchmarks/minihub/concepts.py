"""Write ``concepts.json`` and ``split.json``: MiniHub's concepts, and which of them may be tuned on.

Run ``python -m benchmarks.minihub.concepts``. The concepts are the demo hub's and those of
``concept_table.py``, in the demo hub's format, sorted by key. The split gives a fifth to training, two
fifths to validation and two fifths to test, drawn with a seed: what is learnt or chosen on some concepts
is measured on others.
"""

import functools
import json
import random
from pathlib import Path

from benchmarks.demo_hub import concepts as demo
from benchmarks.demo_hub import sources
from benchmarks.demo_hub.concepts import Concept
from benchmarks.demo_hub.drawings import glyphs, styles_drawing
from benchmarks.minihub.concept_table import TABLE

FILE = Path(__file__).with_name("concepts.json")
SPLIT = Path(__file__).with_name("split.json")
SPLIT_SEED = 20261123
SHARES = {"train": 0.2, "validation": 0.4, "test": 0.4}


def added() -> list[Concept]:
    """Return the concepts of ``concept_table.py``; raise ``ValueError`` for a clash or a missing drawing."""
    english, known = demo.annotations("en"), glyphs()
    names = {concept["key"] for concept in demo.load()}
    used = {glyph for concept in demo.load() for glyph in concept["glyphs"]}
    found: list[Concept] = []
    for line in TABLE.strip().splitlines():
        name, _, written = line.partition(" = ")
        drawn = written.split() or [name.replace(" ", "-")]
        styles = styles_drawing(drawn[0])
        if len(styles) < demo.MINIMUM_STYLES or sources.EVALUATION_STYLE not in styles:
            message = f"{name}: {drawn[0]} is drawn only in {styles}"
            raise ValueError(message)
        if name in names or used & set(drawn):
            message = f"{name}: the name or a drawing belongs to another concept"
            raise ValueError(message)
        names.add(name)
        used.update(drawn)
        emojis = [known[glyph].emoji for glyph in drawn]
        found.append(
            Concept(
                key=name,
                name=name,
                synonyms=demo.synonyms(name, emojis, english),
                codepoint="-".join(f"{ord(character):x}" for character in emojis[0]),
                emoji=emojis[0],
                category=known[drawn[0]].category,
                glyphs=drawn,
                styles=styles,
            )
        )
    return found


def divide(keys: list[str]) -> dict[str, list[str]]:
    """Return the keys by part of `SHARES`, each part sorted."""
    mixed = sorted(keys)
    random.Random(SPLIT_SEED).shuffle(mixed)
    ends = [round(len(mixed) * share) for share in (SHARES["train"], SHARES["train"] + SHARES["validation"])]
    parts = (mixed[: ends[0]], mixed[ends[0] : ends[1]], mixed[ends[1] :])
    return {name: sorted(part) for name, part in zip(SHARES, parts, strict=True)}


@functools.cache
def load() -> list[Concept]:
    """Return the committed concepts, sorted by key."""
    found: list[Concept] = json.loads(FILE.read_text("utf-8"))
    return found


def split() -> dict[str, list[str]]:
    """Return the committed split: part -> concept keys."""
    found: dict[str, list[str]] = json.loads(SPLIT.read_text("utf-8"))
    return found


if __name__ == "__main__":
    everything = sorted([*demo.load(), *added()], key=lambda concept: concept["key"])
    FILE.write_text(json.dumps(everything, indent=1, ensure_ascii=False) + "\n", "utf-8")
    SPLIT.write_text(json.dumps(divide([concept["key"] for concept in everything]), indent=1) + "\n", "utf-8")
