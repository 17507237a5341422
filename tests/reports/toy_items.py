"""Eight items whose numbers one can work out by hand, and what a report may be given with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from recbole_qbert.data.semid import SemanticIDTable, write_semantic_ids

CODES = [
    (0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 0, 2), (2, 3, 0), (3, 0, 0),
]  # fmt: skip
CATEGORIES = ["x", "x", "x", "y", "y", "y", "x", ""]
DEGREES = [0, 1, 3, 40, 41, 43, 100, 90]


@dataclass
class Toy:
    """Files of the eight items i0 to i7, in a folder of their own; i7 has no category."""

    folder: Path
    titles: list[str] = field(default_factory=lambda: [f"Thing number {row}" for row in range(8)])

    @property
    def semid(self) -> Path:
        """The semantic IDs, with a sidecar that reports three collisions."""
        return self.folder / "toy.semid"

    @property
    def item(self) -> Path:
        """Titles and categories."""
        return self.folder / "toy.item"

    @property
    def vectors(self) -> Path:
        """Embeddings: a point of the unit circle for each item."""
        return self.folder / "toy.npz"

    def write(self, order: Sequence[int] = range(8)) -> Toy:
        """Write all files with their rows in this order."""
        items = [f"i{row}" for row in order]
        codes = np.array([CODES[row] for row in order])
        report = {"reallocation": {"collisions": 3, "moved": 2, "moved_per_level": [0, 0, 2]}}
        write_semantic_ids(
            self.semid,
            SemanticIDTable(tuple(items), codes, (4, 4, 4)),
            {"method": "toy", "report": report},
        )
        kinds = [kind and f"{kind} z" for kind in CATEGORIES]
        rows = [f"i{row}\t{self.titles[row]}\t{kinds[row]}" for row in order]
        header = "item_id:token\ttitle:token_seq\tkind:token_seq"
        self.item.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
        angles = [math.radians(DEGREES[row]) for row in order]
        points = np.array([[2 * math.cos(angle), 2 * math.sin(angle)] for angle in angles])
        np.savez(self.vectors, items=np.array(items), vectors=points)
        return self
