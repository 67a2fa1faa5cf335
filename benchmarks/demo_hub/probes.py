"""Build the demo's probe set, ``hubprobe/demo/probes.parquet``.

Run ``python -m benchmarks.demo_hub.probes`` after ``render.py``. The file opens with
``datasets.load_dataset("parquet", data_files=...)`` as columns ``image`` (Image), ``caption``,
``source`` and ``license``. Nothing in it may be trained on: training
scripts drop what looks like a probe (see ``clip_pool.items``).
"""

import hashlib
import io
import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from benchmarks.demo_hub import clipart, sources
from benchmarks.demo_hub.probe_rejects import REJECTED, RENAMED
from benchmarks.demo_hub.probe_sources import Probe, emoji_probes, photo_probes, renders, stamp_probes

OUTPUT = Path(__file__).resolve().parents[2] / "hubprobe" / "demo" / "probes.parquet"
SEED = 0
CLIPART_COUNT = 680
PER_CAPTION = 5
"""At most so many clip-art probes share a caption."""
SAME = 0.03
"""Root mean square difference of two fingerprints (0 to 1) below which probes count as duplicates."""
TOO_CLOSE = 0.08
"""The same between a probe and a drawing that may be trained on. At 0.08 the two are redrawn copies."""
BACKGROUNDS = ((255, 255, 255),) * 3 + ((244, 240, 232), (232, 240, 246), (240, 244, 232), (246, 234, 238))
"""White for three in seven, soft tints for the others."""


def fingerprint(rgba: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the drawing over white, shrunk to 16 x 16: float32 of shape (768,), 0 to 1."""
    small = over(clipart.fit(Image.fromarray(rgba)), (255, 255, 255)).resize((16, 16), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32).ravel() / np.float32(255)


def distances(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return root mean square differences of fingerprints, shape (len(left), len(right))."""
    squares = (left**2).sum(1)[:, None] + (right**2).sum(1)[None] - 2 * left @ right.T
    result: NDArray[np.float32] = np.sqrt(np.clip(squares, 0, None) / left.shape[1])
    return result


def over(rgba: NDArray[np.uint8], background: tuple[int, int, int]) -> Image.Image:
    """Return an RGBA drawing composited on a plain background, as an RGB image."""
    image = Image.fromarray(rgba)
    canvas = Image.new("RGB", image.size, background)
    canvas.paste(image, mask=image.getchannel("A"))
    return canvas


def redrawn() -> set[str]:
    """Return the glyphs whose probe drawing is nearly the same as in a style that may be trained on."""
    images, names = renders(sources.PROBE_STYLE)
    mine = {entry["glyph"]: fingerprint(np.asarray(image)) for image, entry in zip(images, names, strict=True)}
    found: set[str] = set()
    for style in sources.STYLES:
        if style == sources.PROBE_STYLE:
            continue
        for image, entry in zip(*renders(style), strict=True):
            glyph = entry["glyph"]
            if glyph in mine and glyph not in found:
                difference = fingerprint(np.asarray(image)) - mine[glyph]
                if float(np.sqrt(np.mean(difference**2))) < TOO_CLOSE:
                    found.add(glyph)
    return found


def clipart_probes() -> list[Probe]:
    """Return a seeded choice of the clip art kept for probes, at most `PER_CAPTION` a caption.

    Rejected drawings are dropped last and not replaced, so that the choice of training images, which
    avoids the probes, stays valid when another probe is rejected.
    """
    reserved = [drawing for drawing in clipart.drawings() if clipart.reserved(drawing.path)]
    random.Random(SEED).shuffle(reserved)
    taken: Counter[str] = Counter()
    found = []
    for drawing in reserved:
        if taken[drawing.caption] < PER_CAPTION and len(found) < CLIPART_COUNT:
            taken[drawing.caption] += 1
            found.append(Probe(drawing.path, drawing.caption, drawing.rgba, "openclipart", "public domain"))
    return [probe for probe in found if probe.name not in REJECTED]


def distinct(probes: Sequence[Probe]) -> list[Probe]:
    """Return the probes without those that look the same as an earlier one."""
    prints = np.stack([fingerprint(probe.rgba) for probe in probes])
    same = np.tril(distances(prints, prints) < SAME, k=-1)
    return [probe for probe, row in zip(probes, same, strict=True) if not row.any()]


def select() -> list[Probe]:
    """Return all probes in their final, seeded order."""
    copies = redrawn()
    emoji = [p for p in emoji_probes() if p.name not in copies and p.name not in REJECTED]
    sys.stderr.write(f"left out, nearly the same in another style: {len(copies)}: {' '.join(sorted(copies))}\n")
    chosen = distinct([*photo_probes(), *stamp_probes(), *emoji, *clipart_probes()])
    random.Random(SEED).shuffle(chosen)
    return [probe._replace(caption=RENAMED.get(probe.name, probe.caption)) for probe in chosen]


def encode(probe: Probe) -> bytes:
    """Return the probe as WebP, 96 x 96 RGB; the background hangs on its name."""
    digest = int(hashlib.sha256(probe.name.encode()).hexdigest(), 16)
    buffer = io.BytesIO()
    over(probe.rgba, BACKGROUNDS[digest % len(BACKGROUNDS)]).save(buffer, "WEBP", quality=88, method=6)
    return buffer.getvalue()


def table(probes: Sequence[Probe]) -> pa.Table:
    """Return the Arrow table with the schema metadata that makes `datasets` see an Image column."""
    text = {"dtype": "string", "_type": "Value"}
    features = {"image": {"_type": "Image"}, "caption": text, "source": text, "license": text}
    schema = pa.schema(
        [
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("caption", pa.string()),
            ("source", pa.string()),
            ("license", pa.string()),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    rows = [
        {
            "image": {"bytes": encode(p), "path": Path(p.name).stem.lower() + ".webp"},
            "caption": p.caption,
            "source": f"{p.source}:{p.name}",
            "license": p.license,
        }
        for p in probes
    ]
    return pa.Table.from_pylist(rows, schema=schema)


def main() -> None:
    """Write the Parquet file and say what is in it."""
    probes = select()
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(probes), OUTPUT, compression="zstd", row_group_size=256)
    counts = Counter(f"{p.source} ({p.license})" for p in probes)
    lines = "\n".join(f"  {count:5d}  {source}" for source, count in counts.most_common())
    size = OUTPUT.stat().st_size / 1e6
    sys.stdout.write(f"{len(probes)} probes, {len({p.caption for p in probes})} captions, {size:.2f} MB\n{lines}\n")


if __name__ == "__main__":
    main()
