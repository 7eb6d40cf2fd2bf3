"""Pictures: decoding and resizing, exactly as each system wants it.

The rule of decoding: the content decides, not the name; a header that declares more than `MAX_PIXELS` is refused
before anything is decoded; the first frame; EXIF orientation applied; 16-bit values divided by 257; alpha laid over
white; then RGB.
"""

from __future__ import annotations

import io
import math
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from plait.errors import ConfigError, ImageError

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 89_478_485  # Pillow's own warning threshold: a quarter of a gigabyte in RGB
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000")  # not EPS: Pillow runs Ghostscript
_ORIENTATION = 0x0112  # EXIF
_LEVELS = (np.arange(256, dtype=np.float64) / 255 * 2 - 1).astype(np.float32)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_CLIP_LEVELS = (  # (3, 256), in fp32 as the published programs compute them
    np.arange(256, dtype=np.float32) / np.float32(255) - np.array(CLIP_MEAN, np.float32)[:, None]
) / np.array(CLIP_STD, np.float32)[:, None]


class _Quiet:
    """Ignores warnings while any thread is inside; `catch_warnings` alone leaves another thread's filters behind."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._caught.__exit__(None, None, None)


_quiet = _Quiet()  # Pillow warns of odd but readable metadata


def decode(source: str | Path | bytes, name: str | None = None, over_white: bool = True) -> PIL.Image.Image:
    """The picture in a file or in bytes, in RGB by the rule of this module.

    Args:
        over_white: see `to_rgb`.

    Raises:
        ImageError: missing, empty, broken, cut short, too large, or no picture; the message names the file.
    """
    name = name or ("image bytes" if isinstance(source, bytes) else str(source))
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ImageError(f"{name}: cannot be read ({getattr(error, 'strerror', error)}); check the path") from error
    if not content:
        raise ImageError(f"{name}: 0 bytes; the file is empty, fetch it again")
    with _quiet:
        try:
            picture = PIL.Image.open(io.BytesIO(content), formats=FORMATS)
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise ImageError(f"{name}: {width} x {height} pixels, above the limit of {MAX_PIXELS}; resize it first")
            picture.load()
            return to_rgb(_upright(picture), over_white)
        except ImageError:
            raise
        except PIL.UnidentifiedImageError as error:  # its message holds a memory address
            raise ImageError(
                f"{name}: no picture in a format that is read ({', '.join(FORMATS)}); convert it"
            ) from error
        except PIL.Image.DecompressionBombError as error:
            size, _, _ = str(error).partition(" exceeds")
            raise ImageError(f"{name}: {size}, above the limit of {MAX_PIXELS}; resize it first") from error
        except Exception as error:  # a hostile file makes Pillow's plugins raise almost anything
            raise ImageError(f"{name}: no readable picture ({type(error).__name__}: {error})") from error


def to_rgb(picture: PIL.Image.Image, over_white: bool = True) -> PIL.Image.Image:
    """RGB: 16-bit values divided by 257; alpha laid over white and truncated, as Chameleon's code does.

    Args:
        over_white: False leaves alpha out instead, and shows what it hid, as many programs do.
    """
    clear = picture.info.get("transparency")  # one value or colour that PNG declares transparent
    if picture.mode == "RGB" and clear is None:
        return picture
    if picture.mode in ("I;16", "I;16B", "I;16L", "I"):
        values = np.asarray(picture).astype(np.float64)
        values = np.where(values == clear, 255, values / 257)
        return PIL.Image.fromarray(np.clip(values + 0.5, 0, 255).astype(np.uint8)).convert("RGB")
    if over_white and ("A" in picture.mode or picture.mode == "P" or clear is not None):
        rgba = np.asarray(picture.convert("RGBA"), dtype=np.float64)
        alpha = rgba[:, :, 3:] / 255
        return PIL.Image.fromarray(((1 - alpha) * 255 + alpha * rgba[:, :, :3]).astype(np.uint8))
    return picture.convert("RGB")


def to_array(picture: PIL.Image.Image, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """(3, h, w) in [-1, 1]: 8-bit values computed in float64 and then rounded, as Chameleon's code does.

    Args:
        out: where they are written.
    """
    planes = np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))  # as bytes: floats take far longer to move
    values: NDArray[np.float32] = np.take(_LEVELS, planes, out=out, mode="clip")  # others go through a buffer
    return values


def to_clip(picture: PIL.Image.Image, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """(3, h, w) with the mean and deviation of CLIP's training pictures taken out.

    Args:
        out: where they are written.
    """
    out = np.empty((3, picture.height, picture.width), np.float32) if out is None else out
    planes = np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))
    for levels, plane, into in zip(_CLIP_LEVELS, planes, out, strict=True):
        np.take(levels, plane, out=into, mode="clip")
    return out


def from_clip(pixels: Tensor) -> Tensor:
    """What `to_clip` made, (..., 3, h, w), with the mean and deviation put back: in [-1, 1]."""
    mean, deviation = (pixels.new_tensor(each)[:, None, None] for each in (CLIP_MEAN, CLIP_STD))
    return (pixels * deviation + mean) * 2 - 1


def from_array(values: NDArray[np.float32], rounded: bool = False) -> PIL.Image.Image:
    """The picture of (3, h, w) in [-1, 1]: clamped and truncated to 8 bits, as Chameleon's code does.

    Args:
        rounded: to the nearest 8-bit value instead, as diffusers does.
    """
    clipped = (np.clip(values, -1, 1) + 1) / 2 * 255
    clipped = clipped.round() if rounded else clipped
    return PIL.Image.fromarray(clipped.astype(np.uint8).transpose(1, 2, 0))


def resize_and_crop(picture: PIL.Image.Image, size: int) -> PIL.Image.Image:
    """Short side to `size` with Lanczos, then the centre square (Chameleon's code; CM3Leon's parent).

    New sides are rounded to the nearest even number on ties (Python's `round`); crop offsets are rounded down.
    """
    width, height = picture.size
    if (width, height) == (size, size):
        return picture
    resized = picture.resize(_sides(width, height, size), PIL.Image.Resampling.LANCZOS)
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    return resized.crop((left, top, left + size, top + size))


def clip_square(picture: PIL.Image.Image, size: int, ties_even: bool = False) -> PIL.Image.Image:
    """Short side to `size` with the bicubic filter, the other rounded down, then the centre square (CLIP).

    Args:
        ties_even: where the crop begins is rounded to the nearest pixel, an even one on ties (torchvision), not down.
    """
    width, height = picture.size
    short = min(width, height)
    resized = picture.resize((size * width // short, size * height // short), PIL.Image.Resampling.BICUBIC)
    halves = (resized.width - size) / 2, (resized.height - size) / 2
    left, top = (round(half) if ties_even else int(half) for half in halves)
    return resized.crop((left, top, left + size, top + size))


def squash(picture: PIL.Image.Image, size: int) -> PIL.Image.Image:
    """size x size with the bicubic filter; the ratio of the sides is not kept (MiniGPT-4)."""
    return picture.resize((size, size), PIL.Image.Resampling.BICUBIC)


def squash_bilinear(picture: PIL.Image.Image, size: int) -> PIL.Image.Image:
    """size x size with the bilinear filter; the ratio of the sides is not kept (SEED-LLaMA)."""
    return picture.resize((size, size), PIL.Image.Resampling.BILINEAR)


def bilinear_square(picture: PIL.Image.Image, size: int) -> PIL.Image.Image:
    """Short side to `size` with the bilinear filter, then the centre square (SEED-LLaMA where it keeps the ratio).

    As in torchvision the other side is rounded down, crop offsets to the nearest even number on ties.
    """
    width, height = picture.size
    short = min(width, height)
    resized = picture.resize((size * width // short, size * height // short), PIL.Image.Resampling.BILINEAR)
    left, top = round((resized.width - size) / 2), round((resized.height - size) / 2)
    return resized.crop((left, top, left + size, top + size))


def random_part(
    picture: PIL.Image.Image, generator: np.random.Generator, scale: tuple[float, float] = (0.5, 1.0)
) -> PIL.Image.Image:
    """A random part of a picture, as it is (MiniGPT-4's first release, in training, before `squash`).

    Its share of the area is uniform within `scale`; the logarithm of its width to height is uniform between those of
    3/4 and 4/3. A part that does not fit is drawn again, ten times in all; then it is the largest in the middle whose
    ratio is within these bounds.
    """
    left, top, width, height = _part(picture.width, picture.height, generator, scale)
    return picture.crop((left, top, left + width, top + height))


def fast_square(content: bytes, size: int) -> NDArray[np.float32] | None:
    """`to_array(resize_and_crop(decode(content), size))` of a JPEG, sooner and not to the bit: (3, size, size).

    simplejpeg decodes, to the same pixels as Pillow; torch resizes them as 8-bit values by an antialiased bicubic
    filter, where the exact way has Lanczos. None where this path does not apply (another format, CMYK, turned by EXIF,
    above the limit, not readable): the exact way decides what becomes of it.

    Raises:
        ConfigError: simplejpeg is not installed.
    """
    if not content.startswith(b"\xff\xd8\xff"):
        return None
    simplejpeg = _simplejpeg()
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(content)
        if space not in ("YCbCr", "Gray") or height * width > MAX_PIXELS or _turned(content):
            return None
        pixels = simplejpeg.decode_jpeg(content, "RGB", fastdct=False, fastupsample=False, strict=True)
    except ValueError:
        return None
    return _resized(pixels, size)


def _sides(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height when the short side is `size`."""
    scale = size / min(width, height)
    return round(scale * width), round(scale * height)


def _part(
    width: int, height: int, generator: np.random.Generator, scale: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Left, top, width and height of a random part of a picture (see `random_part`)."""
    least, most = 3 / 4, 4 / 3
    for _ in range(10):
        area = width * height * generator.uniform(*scale)
        ratio = math.exp(generator.uniform(math.log(least), math.log(most)))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            return int(generator.integers(width - wide + 1)), int(generator.integers(height - high + 1)), wide, high
    wide, high = min(width, round(height * most)), min(height, round(width / least))
    return (width - wide) // 2, (height - high) // 2, wide, high


def _resized(pixels: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """The centre square of (h, w, 3), its short side resized to `size`."""
    import torch
    import torch.nn.functional as F

    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]  # (1, 3, h, w), channels last in memory
    height, width = pixels.shape[:2]
    wide, high = _sides(width, height, size)
    if (wide, high) != (width, height):
        planes = F.interpolate(planes, (high, wide), mode="bicubic", antialias=True)
    left, top = (wide - size) // 2, (high - size) // 2
    square = planes[0, :, top : top + size, left : left + size].float()
    values: NDArray[np.float32] = square.div_(127.5).sub_(1).contiguous().numpy()
    return values


def _turned(content: bytes) -> bool:
    """Whether the EXIF block of a JPEG asks for another orientation, or may do so."""
    if b"Exif\0\0" not in content[:65536]:
        return False
    with _quiet:
        try:
            return PIL.Image.open(io.BytesIO(content), formats=("JPEG",)).getexif().get(_ORIENTATION, 1) != 1
        except Exception:  # a damaged block: as the exact way sees it
            return True


def _simplejpeg() -> Any:
    try:
        import simplejpeg
    except ImportError as error:
        raise ConfigError('images="fast" needs simplejpeg: pip install "plait[fast-image]"') from error
    return simplejpeg


def _upright(picture: PIL.Image.Image) -> PIL.Image.Image:
    try:
        return PIL.ImageOps.exif_transpose(picture)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return picture
