"""The one reader of images: every hostile file ends in one sentence that names it, quickly and in little memory."""

from __future__ import annotations

import io
import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from workspace import QueryError, images
from workspace.images import Refusal, RefusedImageError, read_image


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, more: bytes = b"", pixels: bytes = b"") -> bytes:
    """Return a PNG of 8-bit grey that announces ``width`` x ``height`` pixels and holds ``pixels``."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = _chunk(b"IHDR", header) + more + _chunk(b"IDAT", zlib.compress(pixels))
    return b"\x89PNG\r\n\x1a\n" + body + _chunk(b"IEND", b"")


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _noise(size: tuple[int, int] = (24, 18), mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def _scans(repeated: int, edge: int = 6000) -> bytes:
    """Return a progressive JPEG whose last pass over all pixels is there ``repeated`` times more: 8 bytes each."""
    whole = encoded(Image.new("L", (edge, edge)), "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * repeated + whole[-2:]


def _tiff(width: int, height: int, tags: dict[int, list[int]], pixels: bytes) -> bytes:
    """Return a TIFF of 8-bit grey with further tags, of 32-bit numbers."""
    tags = {256: [width], 257: [height], 258: [8], 259: [1], 262: [1], 277: [1]} | tags
    after, at = b"", 8 + 2 + 12 * len(tags) + 4
    entries = b""
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"<{len(values)}I", *values)
        place = packed if len(packed) == 4 else struct.pack("<I", at + len(after))
        after += packed if len(packed) > 4 else b""
        entries += struct.pack("<HHI", tag, 4, len(values)) + place
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + after + pixels


TEXT = b"zTXt"
HUGE: dict[str, Callable[[], bytes]] = {
    "pixels": lambda: _png(60_000, 60_000),
    "a_little_more_than_allowed": lambda: _png(9_000, 9_000),
    "one_by_260000": lambda: _png(1, 260_000, pixels=bytes(2 * 260_000)),
    "one_by_fifty_million": lambda: _png(1, 49_999_999),
    "fifty_million_by_one": lambda: _png(49_999_999, 1),
    "thin": lambda: _png(20_000, 700),
    "bmp_by_the_header": lambda: b"BM" + bytes(8) + struct.pack("<IIiiHH24x", 54, 40, 70_000, 70_000, 1, 24),
    "ppm_by_the_header": lambda: b"P6\n60000 60000\n255\n",
    "a_million_chunks": lambda: _png(8, 8, _chunk(b"prIv", b"") * 1_000_000),
    "a_million_texts": lambda: _png(8, 8, _chunk(b"tEXt", b"a\0b") * 1_000_000),
    "an_endless_comment": lambda: b"P6\n#" + b"a" * 2_000_000 + b"\n1 1 255\nabc",
    "passes": lambda: _scans(1000),
    "a_tile_larger_than_the_image": lambda: _tiff(
        100, 100, {259: [8], 322: [40_000], 323: [40_000], 324: [200], 325: [50]}, zlib.compress(bytes(1000))
    ),
    "tiles_as_long_as_they_are_thin": lambda: _tiff(
        7_000, 7_000, {259: [8], 322: [16], 323: [3_000_000], 324: [200] * 438, 325: [50] * 438}, bytes(1000)
    ),
    "passes_over_a_strip_that_is_named_often": lambda: _tiff(
        5_000, 5_000, {259: [7], 273: [60_000] * 5_000, 278: [5_000], 279: [2_000] * 5_000}, b"\xff\xda" * 1_000
    ),
    "bytes": lambda: b"\x89PNG\r\n\x1a\n" + bytes(images.MAX_BYTES),
}  # fmt: skip
BROKEN: dict[str, Callable[[], bytes]] = {
    "eps": lambda: encoded(_noise(), "EPS"),
    "pdf": lambda: encoded(_noise(), "PDF"),
    "ico": lambda: encoded(_noise((32, 32)), "ICO"),
    "svg": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "wmf": lambda: b"\xd7\xcd\xc6\x9a" + bytes(80),
    "fits": lambda: b"SIMPLE  =                    T" + bytes(3000),
    "pcd": lambda: bytes(2048) + b"PCD_" + bytes(3000),
    "empty": lambda: b"",
    "html": lambda: b"<html>404</html>",
    "cut": lambda: encoded(_noise())[:300],
    "cut_jpeg": lambda: encoded(_noise((300, 300)), "JPEG")[:3000],
    "cut_gif": lambda: encoded(_noise((300, 300)).convert("P"), "GIF")[:1500],
    "no_edge": lambda: _png(0, 5),
    "text_bomb": lambda: _png(8, 8, _chunk(TEXT, b"a\0\0" + zlib.compress(bytes(10**8), 9)), bytes(72)),
    "profile_bomb": lambda: _png(8, 8, _chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**8), 9)), bytes(72)),
    "many_text_bombs": lambda: _png(8, 8, _chunk(TEXT, b"a\0\0" + zlib.compress(bytes(10**6), 9)) * 80, bytes(72)),
    "ppm_as_text": lambda: b"P3\n2000 2000\n255\n" + b"0 " * 100_000,
    "pgm_as_text": lambda: b"P2\n#" + b"#\n" * 100_000,
    "not_finite": lambda: encoded(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"),
}


@pytest.mark.parametrize("name", [*HUGE, *BROKEN])
def test_hostile_files_end_in_a_sentence(name: str) -> None:
    data = {**HUGE, **BROKEN}[name]()
    started = time.process_time()
    with pytest.raises(RefusedImageError, match=rf"^{name}\.png ") as refused:
        read_image(data, f"{name}.png")
    assert time.process_time() - started < 5
    assert refused.value.refusal is (Refusal.TOO_LARGE if name in HUGE else Refusal.BROKEN), str(refused.value)
    assert isinstance(refused.value, QueryError)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["pixels", "one_by_260000", "passes", "thin", "a_tile_larger_than_the_image"])
def test_nothing_is_decoded_before_the_header_is_checked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = HUGE[name]()
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(RefusedImageError):
        read_image(data)


def test_no_other_program_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    (tmp_path / "x.eps").write_bytes(BROKEN["eps"]())
    with pytest.raises(RefusedImageError, match=r"^x\.eps cannot be read: it is no image in BMP, .*WEBP$"):
        read_image(tmp_path / "x.eps")


def test_pipes_devices_and_folders_are_no_images(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero"), tmp_path, tmp_path / "none.png"):
        with pytest.raises(RefusedImageError, match="cannot be read"):
            read_image(path)


def test_names_of_files_cannot_write_to_a_terminal() -> None:
    with pytest.raises(RefusedImageError) as refused:
        read_image(b"", "a\x1b[31m\n\u202eb.png")
    assert not {"\x1b", "\n", "\u202e"} & set(str(refused.value))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("1", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGB", "WEBP"), ("RGBA", "WEBP"), ("CMYK", "TIFF"),
     ("CMYK", "JPEG"), ("L", "JPEG"), ("P", "GIF"), ("RGB", "BMP"), ("RGB", "PPM"), ("RGB", "TIFF")],
)  # fmt: skip
def test_good_images_of_every_mode(mode: str, kind: str) -> None:
    image = _noise((40, 30), mode)
    made = read_image(encoded(image, kind))
    assert (made.mode, made.size) == ("RGB", (40, 30))
    if kind not in ("JPEG", "WEBP", "GIF") and mode in ("1", "L", "CMYK", "RGB"):
        assert made.tobytes() == image.convert("RGB").tobytes()


def test_transparency_is_laid_over_white_and_wide_grey_keeps_its_range() -> None:
    assert read_image(encoded(Image.new("RGBA", (4, 4), (200, 0, 0, 0)))).getpixel((0, 0)) == (255, 255, 255)
    palette = _noise().quantize(8)
    assert read_image(encoded(palette, transparency=palette.getpixel((0, 0)))).getpixel((0, 0)) == (255, 255, 255)
    for kind in (np.uint16, np.int32, np.float32):
        deep = Image.fromarray(np.linspace(0, 65535, 4000).reshape(4, 1000)[:, ::25].astype(kind))
        shown = np.asarray(read_image(encoded(deep, "TIFF")))
        assert (shown.min(), shown.max() > 250) == (0, True)


def test_images_taller_than_a_band_are_whole() -> None:
    image = _noise((300, 2500), "RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    assert read_image(encoded(image)).tobytes() == Image.alpha_composite(white, image).convert("RGB").tobytes()


@pytest.mark.parametrize("turned", range(1, 9))
def test_images_are_turned_upright(turned: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = turned
    data = encoded(_noise((30, 20)), "PNG", exif=exif)
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert read_image(data).tobytes() == wanted.tobytes()
    assert read_image(data).size == wanted.size


def test_of_an_animation_the_first_frame_alone_is_decoded() -> None:
    frames = [Image.new("RGB", (9, 9), (i % 256, 0, 0)) for i in range(40)]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        lossless = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)
        assert read_image(data[: len(data) if kind in ("WEBP", "TIFF") else len(data) - 20]).getpixel((4, 4)) == (
            0,
            0,
            0,
        )


def test_shapes_at_the_edge_of_what_is_allowed() -> None:
    assert read_image(encoded(_noise((1, 1)))).size == (1, 1)
    assert read_image(encoded(_noise((20, 400)))).size == (20, 400)
    with pytest.raises(RefusedImageError, match="20 times"):
        read_image(encoded(_noise((20, 401))))
    assert read_image(encoded(_noise((2, 900))), max_aspect=1000).size == (2, 900), "stored before there was a cap"
    assert read_image(_scans(3, 500)).size == (500, 500), "a few more passes than usual are read"


def test_an_image_that_was_opened_already_is_checked_too() -> None:
    with pytest.raises(RefusedImageError, match="20 times"):
        read_image(Image.new("L", (1, 5000)))
    with pytest.raises(RefusedImageError, match="empty"):
        read_image(Image.new("L", (0, 5)))
