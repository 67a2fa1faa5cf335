"""Names of drawings: which icon of which style draws which glyph.

A *glyph* is an emoji by OpenMoji's name for it ("dog-face"). Eight of the nine styles share those
names, aliases included; FxEmoji spells its own without hyphens and sometimes differently.
"""

import functools
import json
from typing import Any, NamedTuple

from benchmarks.demo_hub import sources

CATEGORIES = {
    "Animals Nature": "animals",
    "Food Drink": "food",
    "Activities": "activities",
    "Objects": "objects",
    "Travel Places": "places",
    "Smileys Emotion": "faces",
    "People Body": "people",
    "Symbols": "symbols",
    "Flags": "flags",
}
"""OpenMoji's category -> the short name used here."""

_FXEMOJI = """
cat=catside dog=dogside pig=pigside mouse=mouseside tiger=tigerside leopard=leopardside
dragon-face=dragonhead dragon=dragonside rabbit=bunnyside rabbit-face=bunny panda=pandaface
wolf=wolfface hamster=hampster camel=dromedarycamel two-hump-camel=bactriancamel dove=doveofpeace
front-facing-baby-chick=frontfacingchick ewe=sheep spouting-whale=spurtingwhale eggplant=aubergine
ear-of-corn=earofmaize hot-pepper=chilipepper pizza=sliceofpizza curry-rice=curryandrice
sake=sakebottleandcup kitchen-knife=hocho fishing-pole=fishingpoleandfish pool-8-ball=billiards
wrapped-gift=present skis=skiandskiboot tennis=tennisball framed-picture=framewithpicture
basketball=basketballandhoop backpack=schoolsatchel dollar-banknote=banknotedollar
euro-banknote=banknoteeuro pound-banknote=banknotepound yen-banknote=banknoteyen
womans-clothes=womansshirt womans-boot=boot high-heeled-shoe=heels mans-shoe=mensshoe
running-shoe=mensrunner womans-sandal=sandals t-shirt=mansshirt necktie=tie gem-stone=gem
flashlight=electrictorch floppy-disk=floppydisk2 hourglass-done=hourglass
hourglass-not-done=hourglassflowingsand laptop=personalcomputer
magnifying-glass-tilted-left=leftmagnifyingglass magnifying-glass-tilted-right=rightmagnifyingglass
studio-microphone=studiomic mobile-phone=cellphone musical-notes=multiplemusicalnotes locked=lock
unlocked=openlock locked-with-key=lockandkey paintbrush=lowerleftpaintbrush crayon=lowerleftcrayon
scissors=blackscissors telephone=blacktelephone videocassette=videocasette
video-camera=handheldvideocamera castle=europeancastle house=housebuilding
locomotive=steamlocomotive police-car-light=policecarsrevolvinglight racing-car=racecar
bullet-train=highspeedtrainbulletnose snow-capped-mountain=snowmountains star=whitemediumstar
sun=whitesun tokyo-tower=toykotower beach-with-umbrella=beachumbrella
globe-showing-americas=americasglobe globe-showing-asia-australia=asiaaustraliaglobe
globe-showing-europe-africa=europeafricaglobe full-moon-face=fullmoonwithface
file-folder=folder open-file-folder=openfolder red-paper-lantern=izakayalantern
loudspeaker=bullhorn mountain-railway=mountainrailway fallen-leaf=fallingleaf
"""
FXEMOJI_NAMES = {glyph: icon for glyph, _, icon in (pair.partition("=") for pair in _FXEMOJI.split())}
"""Glyph -> FxEmoji's icon, where dropping the hyphens does not give it."""


class Glyph(NamedTuple):
    """One emoji: its name, its characters, and its category (a value of `CATEGORIES`)."""

    name: str
    emoji: str
    category: str


@functools.cache
def icon_set(style: str) -> dict[str, Any]:
    """Return the parsed ``icons.json`` of a style (Iconify JSON: ``icons``, ``aliases``, sizes)."""
    data: dict[str, Any] = json.loads((sources.icon_folder(style) / "icons.json").read_text("utf-8"))
    return data


@functools.cache
def glyphs() -> dict[str, Glyph]:
    """Return every emoji without a skin tone, by name; OpenMoji's own additions are left out."""
    folder = sources.icon_folder("openmoji")
    codes: dict[str, str] = json.loads((folder / "chars.json").read_text("utf-8"))
    categories = json.loads((folder / "metadata.json").read_text("utf-8"))["categories"]
    code_of: dict[str, str] = {}
    for code, name in codes.items():
        code_of.setdefault(name, code)
    found = {}
    for long_name, category in CATEGORIES.items():
        for name in categories[long_name]:
            if "skin-tone" in name or name not in code_of:
                continue
            emoji = "".join(chr(int(part, 16)) for part in code_of[name].split("-"))
            found[name] = Glyph(name, emoji, category)
    return dict(sorted(found.items()))


def icon_name(style: str, glyph: str) -> str | None:
    """Return the name of the icon that draws ``glyph`` in ``style``, or None if it has none."""
    data = icon_set(style)
    candidates = [glyph]
    if style == "fxemoji":
        candidates = [FXEMOJI_NAMES.get(glyph, glyph.replace("-", "")), glyph.replace("-", "")]
    for name in candidates:
        if name in data["icons"]:
            return name
        alias = data.get("aliases", {}).get(name)
        if alias is not None and not alias.keys() - {"parent"}:
            return str(alias["parent"])
    return None


def styles_drawing(glyph: str) -> list[str]:
    """Return the styles that draw a glyph, in the order of `sources.STYLES`."""
    return [style for style in sources.STYLES if icon_name(style, glyph) is not None]
