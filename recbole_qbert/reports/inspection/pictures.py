"""Thumbnails of items as data URIs, for pages that need no other files."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path

from PIL import Image, ImageOps

from recbole_qbert.common.errors import InputError, preview
from recbole_qbert.reports.inspection.catalog import Catalog

HEIGHT = 64  # pixels
_WIDEST = 128
_QUALITY = 80
_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")


class Pictures:
    """The pictures `<item_id>.<ext>` of a folder.

    Attributes:
        n_items: number of catalog items with a file.
        shown: number of distinct pictures that were requested and read.
        unreadable: names of requested files that could not be read, in order of request.
    """

    def __init__(self, folder: str | Path, catalog: Catalog) -> None:
        """List the folder.

        Raises:
            InputError: the folder cannot be listed, or has no picture of any item.
        """
        try:
            with os.scandir(folder) as entries:
                files = sorted((entry.name, entry.path) for entry in entries)
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be listed ({error.strerror}); give a folder of <item_id>.jpg"
            ) from None
        self._paths: dict[str, str] = {}
        for name, path in files:
            item, extension = os.path.splitext(name)
            if extension.lower() in _EXTENSIONS:
                self._paths.setdefault(item, path)
        self.folder = folder
        self.n_items = sum(item in self._paths for item in catalog.items)
        if not self.n_items:
            raise InputError(
                f"{folder}: no picture of any item of {catalog.name} "
                f"({catalog.items[0]}.jpg, say); give a folder of <item_id>.<ext>, with ext one "
                f"of {preview([extension[1:] for extension in _EXTENSIONS])}"
            )
        self._n_catalog = catalog.n_items
        self._made: dict[str, str | None] = {}
        self.unreadable: list[str] = []

    @property
    def shown(self) -> int:
        """Number of distinct pictures made so far."""
        return sum(uri is not None for uri in self._made.values())

    def uri(self, item: str) -> str | None:
        """Data URI (`data:image/jpeg;base64,...`) of an item's picture; None if not readable."""
        if item not in self._paths:
            return None
        if item not in self._made:
            self._made[item] = _thumbnail(self._paths[item])
            if self._made[item] is None:
                self.unreadable.append(os.path.basename(self._paths[item]))
        return self._made[item]

    def summary(self, has_page: bool) -> str:
        """One line on the numbers of available, shown and unreadable pictures."""
        line = f"Pictures: {self.n_items:,} of {self._n_catalog:,} items have a file"
        if not has_page:
            return f"{line}; they are shown in the page only (--html=report.html)"
        line += f"; {self.shown:,} are on the page"
        if self.unreadable:
            line += f", {len(self.unreadable):,} cannot be read ({preview(self.unreadable)})"
        return line


def _thumbnail(path: str) -> str | None:
    """Make a JPEG thumbnail on white, at most `HEIGHT` pixels high; None if not readable."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (2 * _WIDEST, 2 * HEIGHT))  # decodes a large JPEG at reduced size
            upright = ImageOps.exif_transpose(image)
            upright.thumbnail((_WIDEST, HEIGHT))
            layered = upright.convert("RGBA")
    except Exception:  # decoders raise many kinds of errors on damaged files
        return None
    flat = Image.new("RGB", layered.size, "white")
    flat.paste(layered, mask=layered.getchannel("A"))
    buffer = io.BytesIO()
    flat.save(buffer, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
