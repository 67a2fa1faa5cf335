"""Write ``search/data/lists.tsv``: label lists of well-known data sets, in the order in which models learn them.

    python -m benchmarks.concept_bank.lists WHEELS

``WHEELS`` holds the wheels of ``tensorflow-datasets`` 4.9 and ``clip-benchmark`` 1.6 (``pip download --no-deps``).
CIFAR's names are in neither; they are as Krizhevsky (2009) lists them, and Fashion-MNIST's as its paper does.
ImageNet's larger lists are read from timm when they are needed.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from pathlib import Path

OUT = Path(__file__).parents[2] / "search" / "data" / "lists.tsv"

CIFAR10 = """
airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck
"""
CIFAR100 = """
apple, aquarium fish, baby, bear, beaver, bed, bee, beetle, bicycle, bottle, bowl, boy, bridge, bus, butterfly,
camel, can, castle, caterpillar, cattle, chair, chimpanzee, clock, cloud, cockroach, couch, crab, crocodile, cup,
dinosaur, dolphin, elephant, flatfish, forest, fox, girl, hamster, house, kangaroo, keyboard, lamp, lawn mower,
leopard, lion, lizard, lobster, man, maple tree, motorcycle, mountain, mouse, mushroom, oak tree, orange, orchid,
otter, palm tree, pear, pickup truck, pine tree, plain, plate, poppy, porcupine, possum, rabbit, raccoon, ray, road,
rocket, rose, sea, seal, shark, shrew, skunk, skyscraper, snail, snake, spider, squirrel, streetcar, sunflower,
sweet pepper, table, tank, telephone, television, tiger, tractor, train, trout, tulip, turtle, wardrobe, whale,
willow tree, wolf, woman, worm
"""
FASHION = """
t-shirt, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot
"""

CLIP = {
    "imagenet1k": "imagenet-1k", "flowers": "oxford-flowers-102", "pets": "oxford-iiit-pets", "gtsrb": "gtsrb",
    "eurosat": "eurosat", "fer2013": "fer2013", "mnist": "mnist", "caltech101_vtab": "caltech-101",
}  # fmt: skip
FILES = {
    "image_classification/food-101_classes.txt": "food-101",
    "image_classification/categories_places365.txt": "places365",
    "image_classification/sun397_labels.txt": "sun397",
    "datasets/quickdraw_bitmap/labels.txt": "quickdraw",
}


def words(name: str) -> str:
    """Return a label as words: a path's letter, a trailing number and underscores gone."""
    name = re.sub(r"^/\w/|\s\d+$", "", name.strip())
    return re.sub(r"[\s_/|]+", " ", name).strip()


def main(wheels: Path) -> None:
    """Read the wheels and write the file."""
    told = {"cifar-10": CIFAR10, "cifar-100": CIFAR100, "fashion-mnist": FASHION}
    lists = {name: re.split(r",\s+", text.strip()) for name, text in told.items()}
    with zipfile.ZipFile(next(wheels.glob("clip_benchmark-*.whl"))) as archive:
        named = json.loads(archive.read("clip_benchmark/datasets/en_classnames.json"))
    lists |= {ours: named[theirs] for theirs, ours in CLIP.items()}
    with zipfile.ZipFile(next(wheels.glob("tensorflow_datasets-*.whl"))) as archive:
        for path, ours in FILES.items():
            lists[ours] = archive.read(f"tensorflow_datasets/{path}").decode().split("\n")
    rows = []
    for name, labels in sorted(lists.items()):
        clean = [words(label) for label in labels if label.strip()]
        rows.append(f"{name}\t{len(clean)}\t{'|'.join(clean)}")
    OUT.write_text("list\tcount\tlabels\n" + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
