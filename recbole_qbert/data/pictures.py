"""Item pictures: files opened as RGB and upright, or a reason why not."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from recbole_qbert.data.codec import quote

# A list of its own, because Pillow would also start Ghostscript for an EPS file.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
MIN_SIDE = 4  # pixels; shops serve a blank 1 x 1 picture where they have none
MAX_ASPECT = 100  # resizing the short side of a thinner picture would take gigabytes


class UnreadablePicture(Exception):
    """A picture that cannot be used; the message is a short reason."""


def open_picture(path: str | Path, at_least: int | None = None) -> Image.Image:
    """The picture of a file, decoded in full.

    The first frame of an animation; turned as its EXIF orientation says; transparency on white;
    16-bit gray scaled to 8 bits.

    Args:
        path: a file of one of `FORMATS`, whatever its suffix.
        at_least: if given, a JPEG may be decoded at a half, a quarter or an eighth of its size, as
            long as both sides keep this many pixels; several times faster for large ones.

    Returns:
        A picture of mode RGB.

    Raises:
        UnreadablePicture: missing, empty, truncated or broken file, another format or no picture,
            too many pixels
            (`PIL.Image.MAX_IMAGE_PIXELS`), or sides below `MIN_SIDE` or further apart than
            `MAX_ASPECT` times.
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
        if isinstance(error, OSError) and error.errno is not None:  # the system's, not Pillow's
            raise UnreadablePicture(f"cannot be read ({error.strerror})") from None
        said = quote(str(error) or type(error).__name__, 80)
        raise UnreadablePicture(f"truncated or broken picture ({said})") from None


def _check_file(path: str | Path) -> None:
    """UnreadablePicture unless `path` is a file that holds something."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise UnreadablePicture("no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise UnreadablePicture(f"cannot be read ({reason})") from None
    if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
        raise UnreadablePicture("not a file")
    if not found.st_size:
        raise UnreadablePicture("empty file")


def _check_size(width: int, height: int) -> None:
    """UnreadablePicture for sizes that would fill the memory, or that show nothing."""
    short, long = sorted((width, height))
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise UnreadablePicture(f"too many pixels ({width} x {height}; at most {limit} in all)")
    if short < MIN_SIDE or long > MAX_ASPECT * short:
        raise UnreadablePicture(f"too small or too thin ({width} x {height} pixels)")


def _upright(picture: Image.Image) -> Image.Image:
    """Turned as the EXIF orientation says; broken metadata turn nothing."""
    with contextlib.suppress(Exception):  # as above; the pixels are fine
        return ImageOps.exif_transpose(picture)
    return picture


def _as_rgb(picture: Image.Image) -> Image.Image:
    """Mode RGB in a copy of its own, which outlives the file."""
    if picture.mode.startswith("I"):  # 16 bits; Pillow's own conversion may clip at 255
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        layered = picture.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(white, layered).convert("RGB")
    return picture.convert("RGB")
