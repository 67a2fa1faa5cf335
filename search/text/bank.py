"""The concept bank: a vocabulary of visible things that ships with the package.

It calibrates text queries, names outputs that have no label, and tells a query that no model covers from one that some
do. The rows are in ``data/bank.tsv``, their sources and licences in ``data/BANK_NOTICE.md``; made by
``benchmarks/concept_bank/build.py`` mostly from Princeton WordNet 3.1 (https://wordnet.princeton.edu).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

DATA = Path(__file__).parent.parent / "data" / "bank.tsv"
FAMILIES = frozenset({"animal", "building", "food", "furniture", "person", "plant", "tool", "toy", "vehicle"})
"""Groups whose name is itself a concept: the last hypernym of all their members, which the file does not repeat."""


@dataclass(frozen=True)
class Concept:
    """Something that can be seen in a picture."""

    name: str  # an English noun or noun phrase, unique in the bank whatever its case or number
    group: str  # a coarse kind: animal, food, vehicle
    synonyms: tuple[str, ...]  # at most five other names, none of which is the name of another concept
    hypernyms: tuple[str, ...]  # what it is a kind of, nearest first; not all are in the bank
    everyday: bool  # whether an ordinary person knows it; the others are species, breeds and the like


@lru_cache(maxsize=1)
def bank() -> tuple[Concept, ...]:
    """Return all concepts, sorted by name; the file is read once."""
    concepts = []
    for line in DATA.read_text(encoding="utf-8").splitlines()[1:]:
        name, group, _, synonyms, hypernyms, everyday, _ = line.split("\t")
        above = [s for s in hypernyms.split(";") if s]
        if group in FAMILIES and name != group:
            above.append(group)
        concepts.append(Concept(name, group, tuple(s for s in synonyms.split(";") if s), tuple(above), everyday == "1"))
    return tuple(concepts)


def names(everyday_only: bool = True) -> list[str]:
    """Return the concepts' names, sorted; ``everyday_only`` leaves out the fine-grained ones."""
    return [c.name for c in bank() if c.everyday or not everyday_only]


def named(name: str) -> list[str]:
    """Return the bank's names for the concepts that ``name`` names, by name or synonym, whatever its case or number."""
    return [concept.name for concept in _index()[0].get(fold(name), ())]


def related(name: str) -> set[str]:
    """Return the bank's names that must not count as something else than ``name``.

    They are the concepts that ``name`` names, by name or synonym, whatever its case or number, with their hypernyms and
    hyponyms. If the bank does not know ``name``, the concepts it shares its words with stand in for it: a "vintage
    sports car" for "sports car" and "car", "labrador" for "labrador retriever". Empty if there is nothing of the kind.
    """
    by_name, below = _index()
    key = fold(name)
    same = set(by_name.get(key, ()))
    if not same and key not in below:
        words = _words(name)
        same = {c for own, c in _wordings() if words and (own <= words or words <= own)}
    found = {*below.get(key, ())}
    for concept in same:
        found |= {concept.name, *below.get(fold(concept.name), ())}
        for above in concept.hypernyms:
            found.update(c.name for c in by_name.get(fold(above), ()) if fold(c.name) == fold(above))
    return found


def fold(name: str) -> str:
    """Return the form in which names are compared: lower case, no punctuation, a regular plural made singular."""
    text = re.sub(r"[^\w]+", " ", name.lower().replace("'", "").replace("’", "")).strip()
    for ending, singular in _PLURALS:
        text, changed = ending.subn(singular, text)
        if changed:
            break
    return text


# "cookie" and "cookies", "toe" and "toes" become one form, if not a word; "glasses" are no glass, "dress" is no plural
_PLURALS = (
    (re.compile(r"ies?$"), "y"),
    (re.compile(r"oes?$"), "o"),
    (re.compile(r"(?<=ch|sh)es$"), ""),
    (re.compile(r"(?<=x)es$"), ""),
    (re.compile(r"(?<=[^sui\d])s$"), ""),
)


def _words(name: str) -> frozenset[str]:
    return frozenset(fold(word) for word in re.split(r"[^\w'’]+", name) if word)


@lru_cache(maxsize=1)
def _index() -> tuple[dict[str, list[Concept]], dict[str, list[str]]]:
    """Return concepts by folded name and synonym, and names by folded hypernym."""
    by_name: dict[str, list[Concept]] = {}
    below: dict[str, list[str]] = {}
    folded = lru_cache(maxsize=None)(fold)  # a few hundred hypernyms come thousands of times
    for concept in bank():
        for key in {fold(s) for s in (concept.name, *concept.synonyms)}:
            by_name.setdefault(key, []).append(concept)
        for above in concept.hypernyms:
            below.setdefault(folded(above), []).append(concept.name)
    return by_name, below


@lru_cache(maxsize=1)
def _wordings() -> list[tuple[frozenset[str], Concept]]:
    return [(_words(s), concept) for concept in bank() for s in (concept.name, *concept.synonyms)]
