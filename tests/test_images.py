from __future__ import annotations

import io
import json
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from plait import images
from plait.errors import ImageError

SHARED = Path(os.environ.get("PLAIT_SHARED", Path(__file__).parents[2] / "shared"))
HARD = SHARED / "realdata/hard-images"
EXPECTED = json.loads((HARD / "expected.json").read_text()) if (HARD / "expected.json").is_file() else {"files": []}
ROWS = EXPECTED["files"]


def save(picture: PIL.Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def png(colour_type: int, bits: int, rows: bytes, width: int, height: int, trns: bytes = b"") -> bytes:
    """A PNG that Pillow itself cannot write; `rows` as PNG filters them, with filter byte 0."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    extra = chunk(b"tRNS", trns) if trns else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def pixels(content: bytes) -> list[list[list[int]]]:
    picture = images.decode(content)
    assert picture.mode == "RGB"
    return np.asarray(picture).tolist()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_the_content_decides_not_the_name(tmp_path: Path, form: str) -> None:
    path = tmp_path / "picture.txt"
    path.write_bytes(save(PIL.Image.new("RGB", (40, 30), (200, 16, 48)), form))
    for source in (path, str(path), path.read_bytes()):
        picture = images.decode(source)
        assert (picture.mode, picture.size) == ("RGB", (40, 30))
        assert np.abs(np.asarray(picture).astype(int) - [200, 16, 48]).max() <= 8  # JPEG and WebP are lossy


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    turned = {  # as the camera stores the upright picture
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: np.rot90(upright, 2).T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    content = save(PIL.Image.fromarray(np.ascontiguousarray(turned)), exif=exif)
    np.testing.assert_array_equal(np.asarray(images.decode(content))[..., 0], upright)


def test_damaged_exif_does_not_stop_the_load() -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03"
    content = save(PIL.Image.new("L", (8, 8), 90), "JPEG", exif=exif)
    assert pixels(content)[0][0] == [90, 90, 90]


def test_sixteen_bits_are_divided_by_257() -> None:
    values = np.array([[0, 257, 128 * 257, 65535, 300, 65400]], dtype=np.uint16)
    content = save(PIL.Image.fromarray(values))
    assert [value for value, _, _ in pixels(content)[0]] == [0, 1, 128, 255, 1, 254]


def test_alpha_is_laid_over_white() -> None:
    rgba = PIL.Image.new("RGBA", (2, 1), (100, 0, 200, 0))
    rgba.putpixel((1, 0), (100, 0, 200, 128))
    assert pixels(save(rgba)) == [[[255, 255, 255], [177, 127, 227]]]
    assert pixels(save(rgba.convert("LA")))[0][0] == [255, 255, 255]


def test_a_colour_that_is_declared_transparent() -> None:
    palette = PIL.Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert pixels(save(palette, transparency=1)) == [[[10, 20, 30], [255, 255, 255]]]
    rgb = png(2, 8, b"\0" + bytes([1, 2, 3, 4, 5, 6]), 2, 1, trns=bytes([0, 1, 0, 2, 0, 3]))
    assert pixels(rgb) == [[[255, 255, 255], [4, 5, 6]]]
    gray = png(0, 8, b"\0" + bytes([7, 9]), 2, 1, trns=bytes([0, 7]))
    assert pixels(gray) == [[[255, 255, 255], [9, 9, 9]]]
    gray16 = png(0, 16, b"\0" + struct.pack(">HH", 514, 771), 2, 1, trns=struct.pack(">H", 514))
    assert pixels(gray16) == [[[255, 255, 255], [3, 3, 3]]]


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame(form: str) -> None:
    frames = [PIL.Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    options = {"lossless": True} if form == "WEBP" else {}
    assert pixels(save(frames[0], form, save_all=True, append_images=frames[1:], **options))[0][0] == [255, 0, 0]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "F", "I"])
def test_other_modes_become_rgb(mode: str) -> None:
    assert images.to_rgb(PIL.Image.new(mode, (3, 2))).mode == "RGB"


def test_an_rgb_picture_is_not_copied() -> None:
    picture = PIL.Image.new("RGB", (3, 2))
    assert images.to_rgb(picture) is picture


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes; the file is empty, fetch it again"),
        (b"<html><body>404</body></html>", r"no picture in a format that is read \(JPEG, PNG, "),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture in a format that is read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "no picture in a format that is read"),
        (save(PIL.Image.new("RGB", (64, 64)))[:-30], "no readable picture"),
        (save(PIL.Image.effect_noise((64, 64), 50), "JPEG")[:-300], "no readable picture .*truncated"),
        (png(2, 8, b"", 60_000, 60_000), "3600000000 pixels.*, above the limit of 89478485; resize it first"),
        (png(2, 8, b"", 10_000, 9_000), "10000 x 9000 pixels, above the limit of 89478485; resize it first"),
        (b"GIF89a\0\0\x05\0\0\0\0", "x.png: "),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "x.png: "),
        (b"II*\0\xff\xff\xff\xff", "x.png: "),
    ],
    ids=["empty", "html", "svg", "eps", "cut-png", "cut-jpeg", "bomb", "large", "no-width", "no-chunk", "no-tag"],
)
def test_what_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        images.decode(content, "x.png")
    assert str(caught.value).startswith("x.png: ")
    assert "\n" not in str(caught.value) and "0x" not in str(caught.value)


@pytest.mark.parametrize("name", ["gone.png", "a\0b.png", "."])
def test_a_path_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError, match=r"cannot be read \(.*\); check the path"):
        images.decode(f"{tmp_path}/{name}")


def test_threads_leave_the_warning_filters_alone() -> None:
    content = save(PIL.Image.new("RGB", (200, 200)), "JPEG")
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(images.decode, [content] * 200))) == 200
    assert warnings.filters == before


def test_arrays_and_back() -> None:
    picture = PIL.Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 11)
    values = images.to_array(picture)
    assert (values.shape, values.dtype) == ((3, 2, 4), np.float32)
    assert values.min() == -1 and values[2, 1, 3] == np.float32(253 / 255 * 2 - 1)
    back = np.asarray(images.from_array(values)).astype(int)
    assert np.abs(back - np.asarray(picture)).max() <= 1  # truncated, not rounded
    assert np.asarray(images.from_array(np.array([-3, 0, 3], np.float32).reshape(3, 1, 1))).tolist() == [
        [[0, 127, 255]]
    ]


def test_resize_and_crop_takes_the_centre() -> None:
    picture = PIL.Image.new("RGB", (90, 30), "red")
    picture.paste("blue", (30, 0, 60, 30))
    assert np.asarray(images.resize_and_crop(picture, 30)).tolist() == [[[0, 0, 255]] * 30] * 30
    assert images.resize_and_crop(picture, 20).size == images.resize_and_crop(picture.rotate(90), 20).size == (20, 20)
    square = PIL.Image.new("RGB", (16, 16))
    assert images.resize_and_crop(square, 16) is square


@pytest.mark.parametrize("row", ROWS, ids=[row["file"] for row in ROWS])
def test_hard_images(
    row: dict[str, Any], as_expected: Callable[[PIL.Image.Image, Mapping[str, Any], float], None]
) -> None:
    path = HARD / row["file"]
    if row["expect"] == "load":
        as_expected(images.decode(path), row, EXPECTED["mean_tolerance"])
        return
    with pytest.raises(ImageError) as caught:
        images.decode(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


# --------------------------------------------------------------------------------------------- the fast way


def photo(width: int, height: int) -> PIL.Image.Image:
    """Smooth colours with an edge."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    values = np.stack([255 * x, 255 * y, 200 * (x + y > 1)], -1)
    return PIL.Image.fromarray(values.astype(np.uint8))


@pytest.mark.parametrize("sides", [(96, 64), (64, 96), (61, 131), (32, 32), (20, 30)])
def test_the_fast_way_is_near_the_exact_one(sides: tuple[int, int]) -> None:
    content = save(photo(*sides), "JPEG", quality=95)
    fast = images.fast_square(content, 32)
    exact = images.to_array(images.resize_and_crop(images.decode(content), 32))
    assert fast is not None and fast.shape == exact.shape == (3, 32, 32) and fast.dtype == np.float32
    assert np.abs(fast - exact).mean() < 0.02 and fast.min() >= -1 and fast.max() <= 1
    if sides == (32, 32):  # nothing to resize
        assert np.abs(fast - exact).max() < 1e-6


def test_the_fast_way_leaves_what_is_no_plain_jpeg_to_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = photo(64, 48)
    turned = PIL.Image.Exif()
    turned[0x0112] = 6
    whole = save(picture, "JPEG")
    others = {
        "png": save(picture),
        "cmyk": save(picture.convert("CMYK"), "JPEG"),
        "turned": save(picture, "JPEG", exif=turned),
        "cut": whole[: len(whole) // 2],
        "no picture": b"\xff\xd8\xff",
    }
    assert [name for name, content in others.items() if images.fast_square(content, 32) is not None] == []
    upright = PIL.Image.Exif()
    upright[0x0112] = 1
    assert images.fast_square(save(picture, "JPEG", exif=upright), 32) is not None
    assert images.fast_square(save(picture.convert("L"), "JPEG"), 32) is not None
    monkeypatch.setattr(images, "MAX_PIXELS", 64 * 48 - 1)
    assert images.fast_square(whole, 32) is None


def test_clip_levels_are_written_where_they_are_wanted() -> None:
    picture = PIL.Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3))
    exact = np.asarray(picture).astype(np.float64).transpose(2, 0, 1) / 255
    exact = (exact - np.reshape(images.CLIP_MEAN, (3, 1, 1))) / np.reshape(images.CLIP_STD, (3, 1, 1))
    out = np.empty((2, 3, 4, 5), np.float32)
    assert images.to_clip(picture, out[1]) is not None
    np.testing.assert_allclose(out[1], exact, rtol=0, atol=5e-7)
    assert np.array_equal(images.to_clip(picture), out[1])


def test_a_squashed_picture_is_whole() -> None:
    picture = PIL.Image.new("RGB", (40, 10), (0, 0, 0))
    picture.paste((255, 255, 255), (20, 0, 40, 10))
    square = np.asarray(images.squash(picture, 8))
    assert square.shape == (8, 8, 3)
    assert (square[:, :3] < 20).all() and (square[:, 5:] > 235).all()


def test_bilinear_ways() -> None:
    wide = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 33, 3), dtype=np.uint8))
    assert np.array_equal(images.squash_bilinear(wide, 8), wide.resize((8, 8), PIL.Image.Resampling.BILINEAR))
    resized = wide.resize((13, 8), PIL.Image.Resampling.BILINEAR)  # 13.2 is rounded down
    assert np.array_equal(images.bilinear_square(wide, 8), resized.crop((2, 0, 10, 8)))  # so is 2.5


def test_values_are_truncated_or_rounded() -> None:
    values = np.full((3, 1, 1), 100.6 / 255 * 2 - 1, np.float32)
    assert np.asarray(images.from_array(values))[0, 0, 0] == 100
    assert np.asarray(images.from_array(values, rounded=True))[0, 0, 0] == 101


def test_a_random_part_is_within_its_bounds() -> None:
    parts = np.array([images._part(120, 90, np.random.default_rng(seed), (0.5, 1.0)) for seed in range(400)])
    left, top, width, height = parts.T
    assert (parts >= 0).all() and (left + width <= 120).all() and (top + height <= 90).all()
    ratio, share = width / height, width * height / (120 * 90)
    assert ratio.min() >= 0.73 and ratio.max() <= 1.36  # sides are whole pixels
    assert share.min() >= 0.49
    assert len(set(map(tuple, parts))) > 300
    assert left.max() > 20 and top.max() > 15


@pytest.mark.parametrize(("size", "wanted"), [((100, 10), (13, 10)), ((10, 100), (10, 13)), ((1, 1), (1, 1))])
def test_the_middle_of_a_picture_too_long_for_a_random_part(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    left, top, *sides = images._part(*size, np.random.default_rng(0), (0.9, 1.0))
    assert tuple(sides) == wanted
    assert (left, top) == ((size[0] - wanted[0]) // 2, (size[1] - wanted[1]) // 2)


def test_a_random_part_is_that_of_its_generator() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    first, again, other = (
        np.asarray(images.random_part(PIL.Image.fromarray(noise), np.random.default_rng(seed))) for seed in (1, 1, 2)
    )
    assert 0.49 < first.size / noise.size <= 1
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_part_as_large_as_the_picture_is_the_picture() -> None:
    noise = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8))

    class Middle(np.random.Generator):
        """Draws the largest area, and sides of one length."""

        def uniform(self, low: float, high: float) -> float:  # type: ignore[override]
            return high if high == 1.0 else 0.0

    part = images.random_part(noise, Middle(np.random.PCG64(0)))
    assert np.array_equal(np.asarray(part), np.asarray(noise))


def test_the_middle_for_clip() -> None:
    """The long side is rounded down, where Chameleon's is rounded to the nearest."""
    picture = PIL.Image.fromarray(np.arange(37 * 61, dtype=np.uint8).reshape(37, 61)).convert("RGB")
    made = images.clip_square(picture, 16)
    wide = picture.resize((26, 16), PIL.Image.Resampling.BICUBIC)  # 26.4
    assert np.array_equal(np.asarray(made), np.asarray(wide)[:, 5:21])
