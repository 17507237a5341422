"""Cleaning of text, and checks of tokens, so that RecBole reads them back unchanged.

A cell is one line without tabs. RecBole reads atomic files with pandas' Python engine, which treats
words such as `NA` as missing; `recbole_qbert` reads them as IDs. Double quotes are allowed in text;
`write_rows` handles those at the start of a cell.
"""

from __future__ import annotations

import functools
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_qbert.data.atomic import PADDING
from recbole_qbert.data.items import clean_text

# Words that pandas reads as a missing value.
MISSING = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
    "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip
_CONTROL = r"[\x00-\x1f\x7f-\x{9f}\x{2028}\x{2029}]"
_BLANKS = r"[\p{Z}\p{Cc}]+"
_HIDDEN = r"[\x{ad}\x{200b}\x{2060}\x{feff}]"  # soft hyphen, zero-width spaces, byte-order mark
_MARKUP = r"[<&]"
_LETTERS = re.compile(r"\w")


def token_faults(tokens: pa.Array) -> dict[str, np.ndarray]:
    """Find tokens (strings or null) that would not be read back unchanged; bool [n] by reason."""
    tokens = pc.fill_null(tokens, "")
    faults = {
        "is blank": pc.match_substring_regex(tokens, r"^\s*$"),
        "has a tab, line end or control character": pc.match_substring_regex(tokens, _CONTROL),
        "has a double quote": pc.match_substring(tokens, '"'),
        f"is {PADDING}, which RecBole reserves for padding": pc.equal(tokens, PADDING),
        "has surrounding blanks": pc.match_substring_regex(tokens, r"^\s|\s$"),
    }
    return {reason: np.asarray(fault) for reason, fault in faults.items()}


def clean_column(values: pa.Array) -> pa.Array:
    """Clean strings of HTML entities, tags, control characters, line ends and repeated blanks."""
    marked = np.flatnonzero(pc.match_substring_regex(values, _MARKUP))
    if len(marked):
        cleaned = [clean_text(text) for text in values.take(pa.array(marked)).to_pylist()]
        mask = np.zeros(len(values), dtype=bool)
        mask[marked] = True
        values = pc.replace_with_mask(values, pa.array(mask), pa.array(cleaned, values.type))
    values = pc.replace_substring_regex(values, _HIDDEN, "")
    values = pc.replace_substring_regex(values, _BLANKS, " ")
    return pc.utf8_trim(values, characters=" ")


@functools.lru_cache(maxsize=1 << 16)
def as_word(text: str) -> str:
    """Convert a name to one word of a `token_seq`, with underscores for blanks.

    A name without letters or digits becomes "".
    """
    cleaned: str = clean_column(pa.array([encodable(text)]))[0].as_py()
    return cleaned.replace(" ", "_") if _LETTERS.search(cleaned) else ""


def encodable(text: str) -> str:
    """Make text encodable as UTF-8: surrogate pairs are joined, single surrogates replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
