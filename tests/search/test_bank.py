"""The concept bank: what is in it, what is not, and which names are related."""

import re
import time
from pathlib import Path

import pytest

from search.text import bank as module
from search.text.bank import DATA, Concept, bank, fold, names, related

LISTS = Path(__file__).parents[2] / "benchmarks" / "concept_bank"


def listed(name: str) -> list[str]:
    lines = (LISTS / name).read_text(encoding="utf-8").splitlines()
    return [s.strip() for line in lines if not line.startswith("#") for s in line.split(",") if s.strip()]


def test_at_least_two_thousand_everyday_names():
    assert len(names()) >= 2000
    assert len(names()) < len(names(everyday_only=False)) == len(bank())


def test_sorted_and_unique_whatever_the_case_or_number():
    every = names(everyday_only=False)
    assert every == sorted(every, key=lambda s: (s.lower(), s))
    assert len({fold(s) for s in every}) == len(every)


def test_rows_are_complete():
    groups = {c.group for c in bank()}
    assert {"animal", "food", "plant", "vehicle", "clothing", "tool", "person", "symbol"} <= groups
    known = {fold(c.name) for c in bank()}
    for concept in bank():
        assert concept.name == concept.name.strip() != ""
        assert len(concept.synonyms) <= 5
        assert len(concept.hypernyms) <= 5
        assert not {fold(s) for s in concept.synonyms} & known, concept
        assert concept.name not in concept.hypernyms, concept


def test_nothing_offensive():
    offensive = {word for line in listed("offensive.txt") for word in line.split()}
    assert len(offensive) > 40
    for concept in bank():
        words = {w for s in (concept.name, *concept.synonyms) for w in re.findall(r"\w+", s.lower())}
        assert not words & offensive, concept


def test_no_abstract_nouns():
    assert not {"love", "idea", "justice", "freedom", "information", "thing", "entity", "artifact"} & set(names(False))


def test_everyday_things_are_in():
    known = {fold(s) for c in bank() if c.everyday for s in (c.name, *c.synonyms)}
    wanted = listed("must_have.txt")
    assert len(wanted) > 300
    assert [s for s in wanted if fold(s) not in known] == []


def test_related_to_dog():
    found = related("dog")
    assert {"dog", "poodle", "beagle", "Standard Poodle", "dachshund", "animal"} <= found
    assert not {"cat", "hot dog", "wolf", "prairie dog", "car"} & found


def test_related_goes_both_ways():
    assert "dog" in related("poodle")
    assert "beagle" not in related("poodle")
    assert {"oak", "tree", "plant"} <= related("oak")
    assert "oak" in related("tree")
    assert {"poodle", "cat", "oyster"} <= related("animal")


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("Dogs", "dog"),
        ("CHERRIES", "cherry"),
        ("cookies", "cookie"),
        ("toes", "toe"),
        ("old wooden watches", "watch"),
        ("sofa", "couch"),
        ("7", "digit seven"),
        ("vintage sports cars", "sports car"),
        ("labrador", "labrador retriever"),
        ("canine", "dog"),
    ],
)
def test_related_by_other_words(query, name):
    assert name in related(query)


@pytest.mark.parametrize("query", ["", "  ", "!", "LABEL_12", "quark"])
def test_related_to_nothing(query):
    assert related(query) == set()


def test_glasses_are_no_glass():
    assert "glasses" not in related("glass")
    assert fold("Glasses") != fold("glass")
    assert fold("T-shirts") == fold("t-shirt")


def test_concepts_are_frozen_values():
    dog = next(c for c in bank() if c.name == "dog")
    assert isinstance(dog, Concept)
    assert hash(dog) == hash(Concept(dog.name, dog.group, dog.synonyms, dog.hypernyms, dog.everyday))
    with pytest.raises(AttributeError):
        dog.name = "cat"  # type: ignore[misc]
    assert bank() is bank()


def test_loads_in_under_a_tenth_of_a_second():
    def seconds() -> float:
        module.bank.cache_clear()
        start = time.process_time()
        bank()
        return time.process_time() - start

    assert min(seconds() for _ in range(5)) < 0.1


def test_file_and_notice():
    assert DATA.stat().st_size < 200_000
    assert DATA.read_bytes().decode("utf-8").startswith("name\tgroup\tsynset\tsynonyms\thypernyms\teveryday\tsources\n")
    notice = DATA.with_name("BANK_NOTICE.md").read_text(encoding="utf-8")
    for text in ("WordNet 3.1 Copyright 2011 by Princeton University", "UNICODE LICENSE V3", "MIT License", "wordfreq"):
        assert text in notice
    assert f"{len(bank()):,} names" in notice
    assert f"{len(names()):,} of them everyday" in notice
