"""Detection of a JSON file's layout, so that it can be written again byte for byte."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Common layouts of JSON files; MQL4GRec's is the first.
STYLES: tuple[dict[str, Any], ...] = tuple(
    {"indent": indent, "ensure_ascii": ascii_only, "end": end}
    for indent, ascii_only, end in itertools.product((4, None, 2), (True, False), ("", "\n"))
)


def as_json(content: Any, style: Mapping[str, Any]) -> str:
    """Format the content as JSON; `style` is one of `STYLES`."""
    text = json.dumps(content, indent=style["indent"], ensure_ascii=style["ensure_ascii"])
    return text + str(style["end"])


def style_of(path: Path, content: Any) -> dict[str, Any] | None:
    """Find the style that formats `content` to the bytes of the file; None if there is none."""
    data = path.read_bytes()
    for style in STYLES:
        # The first bytes exclude most styles, so that few are tried on a large file.
        if (b"\n" in data[:200].strip()) == (style["indent"] is not None) and (
            data.endswith(b"\n") == bool(style["end"])
        ):
            try:
                if as_json(content, style).encode() == data:
                    return dict(style)
            except UnicodeEncodeError:
                continue
    return None
