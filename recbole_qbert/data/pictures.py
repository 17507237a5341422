"""Item pictures: open a file as an upright RGB image, or give the reason why it cannot be used."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from recbole_qbert.data.codec import quote

# An explicit list, because Pillow would otherwise start Ghostscript for EPS files.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
MIN_SIDE = 4  # pixels; shops serve a blank 1 x 1 picture for a missing one
MAX_ASPECT = 100  # resizing the short side of a thinner picture would need gigabytes


class UnreadablePicture(Exception):
    """Error for a picture that cannot be used; the message is a short reason."""


def open_picture(path: str | Path, at_least: int | None = None) -> Image.Image:
    """Open a picture file and decode it in full, as RGB.

    Of an animation, the first frame is used. The EXIF orientation is applied, transparent parts
    become white, and 16-bit gray is scaled to 8 bits.

    Args:
        path: a file in one of `FORMATS`, whatever its suffix.
        at_least: if given, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long as both
            sides keep this many pixels; several times faster for large files.

    Raises:
        UnreadablePicture: the file is missing, empty, truncated, broken or in another format, or
            its size exceeds `PIL.Image.MAX_IMAGE_PIXELS`, `MIN_SIDE` or `MAX_ASPECT`.
    """
    _check_file(path)
    try:
        with Image.open(path, formats=FORMATS) as picture:
            _check_size(*picture.size)
            if at_least is not None:
                picture.draft(None, (at_least, at_least))
            picture.load()
            return _as_rgb(_upright(picture))
    except UnreadablePicture:
        raise
    except UnidentifiedImageError:
        suffix = Path(path).suffix.lower()
        if suffix and suffix not in SUFFIXES:
            raise UnreadablePicture(f"format not read: {suffix}") from None
        raise UnreadablePicture("not a picture (JPEG, PNG, WebP, BMP or GIF)") from None
    except Image.DecompressionBombError:
        raise UnreadablePicture("too many pixels") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on a broken file
        if isinstance(error, OSError) and error.errno is not None:  # from the system, not Pillow
            raise UnreadablePicture(f"cannot be read ({error.strerror})") from None
        reason = quote(str(error) or type(error).__name__, 80)
        raise UnreadablePicture(f"truncated or broken picture ({reason})") from None


def _check_file(path: str | Path) -> None:
    """Raise UnreadablePicture unless `path` is a regular, non-empty file."""
    if not os.path.exists(path):
        raise UnreadablePicture("no such file")
    if not os.path.isfile(path):  # opening a pipe would block forever
        raise UnreadablePicture("not a file")
    if not os.path.getsize(path):
        raise UnreadablePicture("empty file")


def _check_size(width: int, height: int) -> None:
    """Raise UnreadablePicture for sizes that would exhaust memory, or that show nothing."""
    short, long = sorted((width, height))
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise UnreadablePicture(f"too many pixels ({width} x {height}; at most {limit} in all)")
    if short < MIN_SIDE or long > MAX_ASPECT * short:
        raise UnreadablePicture(f"too small or too thin ({width} x {height} pixels)")


def _upright(picture: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; broken metadata is ignored."""
    with contextlib.suppress(Exception):  # Pillow raises many types; the pixels are still usable
        return ImageOps.exif_transpose(picture)
    return picture


def _as_rgb(picture: Image.Image) -> Image.Image:
    """Convert to RGB, in a copy that stays valid after the file is closed."""
    if picture.mode.startswith("I"):  # 16 bits; Pillow's own conversion may clip at 255
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        layered = picture.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(white, layered).convert("RGB")
    return picture.convert("RGB")
