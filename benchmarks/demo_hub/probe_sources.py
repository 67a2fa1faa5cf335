"""The probe images that are not clip art: one emoji style, a few stamps, a few photos.

Stamps: Debian declares the package GPL-2 as a whole, so only those are used whose entry in its
changelog names public domain or CC-BY. Photos: those of scikit-image whose notes say CC0 or public
domain. No model of the demo hub is trained on any of these.
"""

import io
import json
import zipfile
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.demo_hub import sources
from benchmarks.demo_hub.clipart import fit

CONCRETE = ("activities", "animals", "food", "objects", "places")
"""Categories of emoji whose drawings are all considered; of the others only the demo hub's concepts."""

UNCLEAR = {
    "admission-tickets", "anger-symbol", "bookmark-tabs", "card-index-dividers", "carp-streamer", "chart-decreasing",
    "chart-increasing", "chart-increasing-with-yen", "club-suit", "diamond-suit", "direct-hit", "droplet",
    "flower-playing-cards", "heart-suit", "input-symbols", "joker", "mahjong-red-dragon", "moon-viewing-ceremony",
    "new-moon", "open-file-folder", "performing-arts", "pine-decoration", "reminder-ribbon", "spade-suit", "sparkles",
    "tanabata-tree", "white-flower", "japanese-dolls", "muted-speaker", "speaker-low-volume", "speaker-medium-volume",
    "speaker-high-volume", "fog", "milky-way", "bellhop-bell", "dizzy", "level-slider", "control-knobs", "bar-chart",
    "clamp", "wavy-dash", "wind-face", "new-moon-face", "house-with-garden", "derelict-house", "map-of-japan",
}  # fmt: skip
"""Drawings that a person could not name from a 96 pixel picture, and ideograms."""


class Probe(NamedTuple):
    """A candidate probe: name in its source, caption, RGBA (96, 96, 4) uint8, source and licence."""

    name: str
    caption: str
    rgba: NDArray[np.uint8]
    source: str
    license: str


def renders(style: str) -> tuple[NDArray[np.uint8], list[dict[str, str]]]:
    """Return a style's drawings, uint8 (n, 96, 96, 4), and their names, as ``render.py`` wrote them."""
    folder = sources.assets() / "renders"
    names: list[dict[str, str]] = json.loads((folder / f"{style}.json").read_text("utf-8"))
    return np.load(folder / f"{style}.npy", mmap_mode="r"), names


def glyph_captions() -> dict[str, str]:
    """Return the caption of every emoji: the concept's name where it draws one, else CLDR's English name."""
    names = {entry["glyph"]: entry["glyph"].replace("-", " ") for entry in renders("openmoji")[1]}
    english = json.loads(sources.annotations_file("en").read_text("utf-8"))["annotations"]["annotations"]
    for entry in renders("openmoji")[1]:
        annotation = english.get(entry["emoji"]) or english.get(entry["emoji"].replace("\ufe0f", "")) or {}
        if annotation.get("tts"):
            names[entry["glyph"]] = annotation["tts"][0].lower().replace("’", "'").replace("“", "").replace("”", "")
    for concept in concepts():
        names.update(dict.fromkeys(concept["glyphs"], concept["name"]))
    return names


def concepts() -> list[dict[str, list[str]]]:
    """Return the demo hub's concepts (keys ``name``, ``glyphs``, ``synonyms``...)."""
    path = sources.Path(__file__).with_name("concepts.json")
    found: list[dict[str, list[str]]] = json.loads(path.read_text("utf-8"))
    return found


def emoji_probes() -> list[Probe]:
    """Return the drawings of the probe style: every concept's, and other concrete things as distractors."""
    captions = glyph_captions()
    wanted = {glyph for concept in concepts() for glyph in concept["glyphs"]}
    images, names = renders(sources.PROBE_STYLE)
    found = []
    for image, entry in zip(images, names, strict=True):
        glyph = entry["glyph"]
        distractor = entry["category"] in CONCRETE and glyph not in UNCLEAR and "oclock" not in glyph
        if glyph in wanted or (distractor and "thirty" not in glyph):
            rgba = fit(Image.fromarray(np.asarray(image)))
            found.append(Probe(glyph, captions[glyph], rgba, f"iconify:{sources.PROBE_STYLE}", "Apache-2.0"))
    return found


STAMPS = """
seasonal/christmas/Candy_cane_photo_1 = candy cane = public domain
seasonal/christmas/Candy_cane_photo_2 = candy cane = public domain
seasonal/christmas/Christmas_Tree_photo = christmas tree = public domain
seasonal/christmas/Mince_Pie = mince pie = CC-BY-2.5
seasonal/christmas/Roast_turkey = roast turkey = CC-BY-2.0
vehicles/emergency/firetruck = fire truck = CC-BY-2.5
medical/stethoscope = stethoscope = public domain
animals/fish/shrimp = shrimp = public domain
animals/fish/lobster = lobster = public domain
animals/fish/seahorse = seahorse = public domain
town/cartoon/docks = docks = public domain
town/cartoon/fountain = fountain = public domain
town/cartoon/gate = gate = public domain
town/cartoon/mine = mine = public domain
town/cartoon/ruins = ruins = public domain
town/cartoon/shipwreck = shipwreck = public domain
town/cartoon/watch_tower = watch tower = public domain
town/cartoon/wishing_well = wishing well = public domain
town/monuments/cartoon/graveyard = graveyard = public domain
town/monuments/cartoon/obelisk = obelisk = public domain
town/monuments/cartoon/pyramid = pyramid = public domain
town/monuments/cartoon/statue = statue = public domain
town/monuments/cartoon/sword_in_the_stone = sword in the stone = public domain
town/monuments/cartoon/totem = totem pole = public domain
town/houses/cartoon/blacksmith = blacksmith = public domain
town/houses/cartoon/cathedral = cathedral = public domain
town/houses/cartoon/cave_entrance = cave = public domain
town/houses/cartoon/circus = circus tent = public domain
town/houses/cartoon/farm = farm = public domain
town/houses/cartoon/fortress = fortress = public domain
town/houses/cartoon/fort = fort = public domain
town/houses/cartoon/medieval_tent = tent = public domain
town/houses/cartoon/tower_round = tower = public domain
town/houses/cartoon/tower_square = tower = public domain
town/houses/cartoon/windmill = windmill = public domain
"""
"""File below the stamps' folder = caption = licence that the package's changelog names for it."""

PHOTOS = """
astronaut.png = astronaut = public domain
brick.png = brick wall = CC0-1.0
camera.png = photographer with a camera = CC0-1.0
chelsea.png = cat = CC0-1.0
clock_motion.png = blurred clock = public domain
coffee.png = cup of coffee = CC0-1.0
grass.png = grass = CC0-1.0
gravel.png = gravel = CC0-1.0
horse.png = horse = CC0-1.0
hubble_deep_field.jpg = galaxies = public domain
rocket.jpg = rocket = public domain
"""
"""File in scikit-image's data folder = caption = licence that the function's notes name for it."""


def _lines(table: str) -> list[tuple[str, str, str]]:
    rows = (line.split(" = ") for line in table.strip().splitlines())
    return [(file, caption, license_) for file, caption, license_ in rows]


def stamp_probes() -> list[Probe]:
    """Return the stamps that are public domain or CC-BY."""
    folder = sources.assets() / "deb" / "usr" / "share" / "tuxpaint" / "stamps"
    found = []
    for file, caption, license_ in _lines(STAMPS):
        with Image.open(folder / f"{file}.png") as image:
            found.append(Probe(file, caption, fit(image), "tuxpaint-stamps", license_))
    return found


def photo_probes() -> list[Probe]:
    """Return scikit-image's free photos, the centre square of each."""
    wheel = next(iter(sorted((sources.assets() / "py").glob("scikit_image-*.whl"))))
    found = []
    with zipfile.ZipFile(wheel) as archive:
        for file, caption, license_ in _lines(PHOTOS):
            with Image.open(io.BytesIO(archive.read(f"skimage/data/{file}"))) as image:
                side = min(image.size)
                left, top = (image.width - side) // 2, (image.height - side) // 2
                square = image.convert("RGBA").crop((left, top, left + side, top + side))
                found.append(Probe(file, caption, fit(square, margin=0), "scikit-image", license_))
    return found
