"""Write ``concepts.json``: the demo hub's concepts with plain names, synonyms and drawings.

Run ``python -m benchmarks.demo_hub.concepts``. The file is the contract with the probe set and the
image-text model: a concept's ``key`` is its plain English name.
"""

import json
import re
from pathlib import Path
from typing import Any, TypedDict

from benchmarks.demo_hub import sources
from benchmarks.demo_hub.concept_table import TABLE
from benchmarks.demo_hub.drawings import glyphs, styles_drawing

FILE = Path(__file__).with_name("concepts.json")
MINIMUM_STYLES = 6
"""Of nine; a concept's first glyph must be drawn in at least so many."""
MAXIMUM_SYNONYMS = 8

NOISE = {"143", "face", "animal", "animals", "food", "object", "symbol", "drink", "emoji"}
"""CLDR keywords that say nothing about the one concept."""


class Concept(TypedDict):
    """One concept. ``glyphs`` name its drawings; ``styles`` those that draw the first glyph."""

    key: str
    name: str
    synonyms: list[str]
    codepoint: str
    emoji: str
    category: str
    glyphs: list[str]
    styles: list[str]


def annotations(language: str) -> dict[str, dict[str, list[str]]]:
    """Return CLDR's ``{emoji: {"tts": [name], "default": [keyword...]}}`` for a language."""
    data: dict[str, Any] = json.loads(sources.annotations_file(language).read_text("utf-8"))
    found: dict[str, dict[str, list[str]]] = data["annotations"]["annotations"]
    return found


def annotation(language: dict[str, dict[str, list[str]]], emoji: str) -> dict[str, list[str]]:
    """Return an emoji's entry, whether or not CLDR writes its variation selector."""
    plain = emoji.replace("\ufe0f", "")
    return language.get(emoji) or language.get(plain) or {}


def _lines() -> dict[str, list[str]]:
    table = {}
    for line in TABLE.strip().splitlines():
        name, _, drawn = line.partition(" = ")
        table[name] = drawn.split() or [name.replace(" ", "-")]
    return table


def synonyms(name: str, emojis: list[str], english: dict[str, dict[str, list[str]]]) -> list[str]:
    """Return at most `MAXIMUM_SYNONYMS` other English words for a concept, CLDR's names first."""
    entries = [annotation(english, emoji) for emoji in emojis]
    words = [word for entry in entries for word in entry.get("tts", [])]
    words += entries[0].get("default", [])
    kept: list[str] = []
    for word in words:
        plain = re.sub(r"[“”’]", "", word).lower().strip()
        if plain != name and plain not in NOISE and plain not in kept:
            kept.append(plain)
    return kept[:MAXIMUM_SYNONYMS]


def build() -> list[Concept]:
    """Return all concepts, sorted by key; raise ``ValueError`` where a drawing is missing."""
    english = annotations("en")
    known = glyphs()
    table = _lines()
    found: list[Concept] = []
    for name, drawn in sorted(table.items()):
        styles = styles_drawing(drawn[0])
        if len(styles) < MINIMUM_STYLES or sources.EVALUATION_STYLE not in styles:
            message = f"{name}: {drawn[0]} is drawn only in {styles}"
            raise ValueError(message)
        emojis = [known[glyph].emoji for glyph in drawn]
        found.append(
            Concept(
                key=name,
                name=name,
                synonyms=synonyms(name, emojis, english),
                codepoint="-".join(f"{ord(character):x}" for character in emojis[0]),
                emoji=emojis[0],
                category=known[drawn[0]].category,
                glyphs=drawn,
                styles=styles,
            )
        )
    return found


def load() -> list[Concept]:
    """Return the committed concepts, sorted by key."""
    found: list[Concept] = json.loads(FILE.read_text("utf-8"))
    return found


if __name__ == "__main__":
    FILE.write_text(json.dumps(build(), indent=1, ensure_ascii=False) + "\n", "utf-8")
