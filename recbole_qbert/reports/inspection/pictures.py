"""Thumbnails of items as data URIs, for pages that need no other files."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from recbole_qbert.common.errors import InputError, preview
from recbole_qbert.common.output import counted
from recbole_qbert.data.pictures import UnreadablePicture, open_picture
from recbole_qbert.datasets.items import picture_files
from recbole_qbert.reports.inspection.catalog import Catalog

HEIGHT = 64  # pixels
_WIDEST = 128
_QUALITY = 80


class Pictures:
    """The pictures `<item_id>.<ext>` of a folder.

    Attributes:
        n_items: number of catalog items with a file.
        unreadable: names of requested files that could not be read, in order of request.
    """

    def __init__(self, folder: str | Path, catalog: Catalog) -> None:
        """List the folder.

        Raises:
            InputError: the folder cannot be listed, or has no picture of any item.
        """
        self._folder, self._files = Path(folder), picture_files(Path(folder))
        self.n_items = sum(item in self._files for item in catalog.items)
        if not self.n_items:
            raise InputError(
                f"{folder}: no picture of an item of {catalog.name}, such as "
                f"{catalog.items[0]}.jpg; give a folder of <item_id>.<jpg|png|webp|gif|bmp> files"
            )
        self._n_catalog = catalog.n_items
        self._made: dict[str, str | None] = {}
        self.unreadable: list[str] = []

    def uri(self, item: str) -> str | None:
        """Data URI (`data:image/jpeg;base64,...`) of an item's picture; None if not readable."""
        if item in self._files and item not in self._made:
            try:
                self._made[item] = _thumbnail(self._folder / self._files[item])
            except UnreadablePicture:
                self._made[item] = None
                self.unreadable.append(self._files[item])
        return self._made.get(item)

    def summary(self, has_page: bool) -> str:
        """One line on the numbers of available, shown and unreadable pictures."""
        line = f"Pictures: {self.n_items:,} of {counted(self._n_catalog, 'item')} have a file"
        if not has_page:
            return f"{line}; only the page shows them (--html=report.html)"
        line += f"; the page shows {len(self._made) - len(self.unreadable):,}"
        if self.unreadable:
            line += f"; {len(self.unreadable):,} cannot be read ({preview(self.unreadable)})"
        return line


def _thumbnail(path: Path) -> str:
    """Make a JPEG thumbnail on white, at most `HEIGHT` pixels high."""
    picture = open_picture(path, at_least=2 * _WIDEST)
    picture.thumbnail((_WIDEST, HEIGHT))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
