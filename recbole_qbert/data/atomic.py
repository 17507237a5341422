"""Read RecBole's atomic files exactly as they are written.

All code of this package that reads atomic files uses this module, so that every fault is reported
in the same way: with file, line, field and value. No types or missing values are inferred: "NA",
"null" and blanks are ordinary text.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from recbole_qbert.common.errors import InputError, did_you_mean, did_you_mean_path
from recbole_qbert.data.codec import quote

BLOCK_BYTES = 1 << 24  # parsed at a time
LARGE = pa.large_string()  # type of every column that is read
KINDS = ("token", "token_seq", "float", "float_seq")  # RecBole's column types
PADDING = "[PAD]"  # RecBole's token of the item, and the user, with internal ID 0
# Spellings of a missing number that pandas writes or reads.
NO_NUMBER = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "<NA>")
_EXAMPLE = "write a RecBole header such as 'item_id:token<TAB>title:token_seq'"


@dataclass(frozen=True, eq=False)
class Atomic:
    """Content of an atomic file, all cells as text.

    Attributes:
        path: the file.
        cells: header cells, `name:type` of each column.
        columns: the columns that were read, all of text.
        lines: line number of each row in the file, counted from 1; int64 [rows].
    """

    path: Path
    cells: list[str]
    columns: pa.Table
    lines: np.ndarray

    @cached_property
    def kinds(self) -> dict[str, str]:
        """Type of each column, by name; one of KINDS."""
        return {cell.partition(":")[0]: cell.partition(":")[2] for cell in self.cells}

    @property
    def names(self) -> list[str]:
        """Names of all columns of the file."""
        return list(self.kinds)

    @property
    def n_rows(self) -> int:
        """Number of rows below the header."""
        return int(self.columns.num_rows)

    def fault(self, rows: np.ndarray | pa.Array, name: str, said: str) -> InputError:
        """Build the error for the first bad row of a column.

        `rows` is bool [rows], True at each bad row; `said` follows the value in the message and
        states the fault and the remedy.
        """
        mask = np.asarray(rows)
        row, others = int(mask.argmax()), int(mask.sum()) - 1
        more = f" ({others} more such lines)" if others else ""
        value = quote(self.columns[name][row])
        return InputError(f"{self.path}: line {self.lines[row]}, {name}: {value} {said}{more}")

    def need(self, names: Iterable[str], remedy: str) -> None:
        """Raise an InputError if a column is missing; `remedy` ends the message."""
        for name in names:
            if name not in self.names:
                raise InputError(
                    f"{self.path}: no column '{name}'; it has {', '.join(self.names)}"
                    f"{did_you_mean(name, self.names)}; {remedy}"
                )

    def need_rows(self) -> None:
        """Raise an InputError if no rows follow the header."""
        if not self.n_rows:
            raise InputError(f"{self.path} is empty: no rows follow the header; add rows")

    def check_ids(self, name: str) -> None:
        """Raise an InputError if a user or item token is wrong.

        It is if it is empty, is RecBole's padding token, or differs from another one only by blanks
        at its ends.
        """
        column = self.columns[name]
        empty = pc.equal(column, "")
        if pc.any(empty).as_py():
            raise self.fault(empty, name, "is not an ID; give every row one")
        self.check_padding(name)
        trimmed = pc.utf8_trim_whitespace(column)
        if pc.all(pc.equal(trimmed, column)).as_py():
            return
        first = pd.DataFrame({"id": column.to_pandas(), "bare": trimmed.to_pandas()})
        first = first.drop_duplicates("id")
        twins = first[first.duplicated("bare", keep=False)]
        if len(twins):
            pair = twins[twins["bare"] == twins["bare"].iloc[0]].iloc[:2]
            (one, other), lines = pair["id"], self.lines[pair.index]
            raise InputError(
                f"{self.path}: lines {lines[0]} and {lines[1]}, {name}: {quote(one)} and "
                f"{quote(other)} differ only by blanks at their ends; spell each ID one way"
            )

    def check_padding(self, name: str, between: str | None = None) -> None:
        """Raise an InputError if a cell of a token column is RecBole's padding token.

        In a token_seq column, whose elements `between` separates, no element may be it.
        """
        padding = pc.match_substring(self.columns[name], PADDING)
        if pc.any(padding).as_py():
            cells = self.columns[name].to_pylist()
            parts = [cell.split(between) if between else [cell] for cell in cells]
            rows = np.array([PADDING in each for each in parts])
            if rows.any():
                raise self.fault(rows, name, "has RecBole's padding token [PAD]; rename it")

    def check_unique(self, name: str, noun: str) -> None:
        """Raise an InputError if a token of a column occurs twice; `noun` is what tokens name."""
        tokens = self.columns[name].to_pandas()
        repeated = tokens.duplicated().to_numpy()
        if repeated.any():
            row = int(repeated.argmax())
            raise InputError(
                f"{self.path}: line {self.lines[row]}: {noun} {quote(tokens[row])} occurs a second "
                f"time; keep one row per {noun}"
            )

    def frame(self, fields: Sequence[str]) -> pd.DataFrame:
        """Return columns of text in the order of `fields`; the index, named "line", is `lines`."""
        frame: pd.DataFrame = self.columns.select(list(fields)).to_pandas()
        return frame.set_index(pd.Index(self.lines, dtype="int64", name="line"))

    def lists(self, name: str, between: str) -> list[np.ndarray]:
        """Return a token_seq or float_seq column as one array per row, without empty elements.

        `between` separates the elements.

        Raises:
            InputError: an element of a float_seq column is not a finite number.
        """
        parts = pc.split_pattern(self.columns[name], between)
        row = np.repeat(np.arange(self.n_rows), np.asarray(pc.list_value_length(parts)))
        elements = pc.list_flatten(parts)
        filled = pc.not_equal(elements, "")
        row = row[np.asarray(filled)]
        flat = elements.filter(filled).to_pandas().to_numpy(object)
        if self.kinds[name] == "float_seq":
            flat = pd.to_numeric(flat, errors="coerce").astype(float)
            wrong = row[~np.isfinite(flat)]
            if len(wrong):
                rows = np.isin(np.arange(self.n_rows), wrong)
                said = "has an element that is not a finite number; correct it"
                raise self.fault(rows, name, said)
        ends = np.bincount(row, minlength=self.n_rows).cumsum().tolist()
        return [flat[start:end] for start, end in itertools.pairwise([0, *ends])]

    def numbers(self, name: str, may_lack: bool = False) -> np.ndarray:
        """Return a column of numbers, float64 [rows].

        With `may_lack`, a missing cell (one of NO_NUMBER) gives NaN.

        Raises:
            InputError: another cell is not a finite number.
        """
        column = self.columns[name]
        if may_lack:
            lacking = pc.is_in(column, pa.array(NO_NUMBER, LARGE))
            column = pc.if_else(lacking, pa.scalar(None, LARGE), column)
        try:
            numbers: np.ndarray = pc.cast(column, pa.float64()).to_numpy()
        except pa.ArrowInvalid:
            numbers = pd.to_numeric(column.to_pandas(), errors="coerce").to_numpy(float)
        wrong = ~np.isfinite(numbers)
        if may_lack:
            wrong &= ~np.asarray(lacking)
        if wrong.any():
            raise self.fault(wrong, name, "is not a finite number; correct it")
        return numbers


def read_atomic(
    path: str | Path,
    fields: Sequence[str] | None = None,
    separator: str = "\t",
    encoding: str = "utf-8",
    *,
    plain_header: bool = False,
    unquote: bool = True,
) -> Atomic:
    """Read an atomic file as text.

    Args:
        path: a `.item`, `.user` or `.inter` file.
        fields: names of the columns to read; all by default.
        separator: separator of fields.
        encoding: text encoding; a byte-order mark is skipped, and CRLF ends a line as LF does.
        plain_header: whether header cells without a type are allowed.
        unquote: whether a cell that is one complete quotation, `"a ""b"" c"`, is read as the text
            in it, as RecBole does. All other quotes are kept.

    Raises:
        InputError: the file is missing, empty, or not in this encoding; the header is not
            `name:type`; a field is unknown; a row has another number of fields; or the text
            contains a carriage return inside a line or a NUL character, which readers treat
            differently.
    """
    path = Path(path)
    data = _read_utf8(path, encoding)
    end = data.find(b"\n") if b"\n" in data else len(data)
    header = data[:end].decode().removesuffix("\r")
    if not header:
        raise InputError(f"{path}: line 1 is empty; {_EXAMPLE}")
    cells = header.split(separator)
    plain = plain_header and ":" not in header
    names = cells if plain else header_fields(path, header, separator)
    chosen = names if fields is None else list(fields)
    for words, said in ((names, "occurs twice in line 1; rename one"), (chosen, "is given twice")):
        repeated = [word for word in words if words.count(word) > 1]
        if repeated:
            raise InputError(f"{path}: the field {quote(repeated[0])} {said}")
    columns = pa.table({name: pa.array([], LARGE) for name in names})
    file = Atomic(path, cells, columns, np.array([], np.int64))
    file.need(chosen, "correct the file or the name")
    if not re.compile(b"[^\r\n]").search(data, end):
        return file
    try:
        columns = pyarrow.csv.read_csv(
            pa.BufferReader(data),
            read_options=pyarrow.csv.ReadOptions(
                column_names=names, skip_rows=1, block_size=BLOCK_BYTES
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=separator, quote_char=False, double_quote=False
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, LARGE),
                include_columns=chosen,
                null_values=[],
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowException as error:
        _check_row_lengths(path, data.decode(), len(names), separator)
        raise InputError(f"{path}: cannot be read ({error}); write it again") from None
    if unquote:
        columns = pa.table({name: _unquoted(columns[name]) for name in chosen})
    lines = np.arange(len(columns)) + 2
    if b"\n\n" in data or b"\n\r\n" in data:  # blank lines are not rows, as in RecBole
        lines = np.flatnonzero([bool(line.strip(b"\r")) for line in data.split(b"\n")])[1:] + 1
    return Atomic(path, cells, columns, lines)


def _unquoted(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Replace cells that are one complete quotation by the text in it."""
    if not pc.any(pc.starts_with(column, '"')).as_py():
        return column
    whole = pc.match_substring_regex(column, '^"([^"]|"")*"$')
    inner = pc.replace_substring(pc.utf8_slice_codeunits(column, 1, -1), '""', '"')
    return pc.if_else(whole, inner, column)


_SEPARATORS = {"\t": "tab", ",": "comma", " ": "blank"}


def _check_row_lengths(path: Path, text: str, n_fields: int, separator: str) -> None:
    """Raise an InputError for the first row whose number of fields is not `n_fields`."""
    for number, line in enumerate(text.split("\n"), 1):
        found = line.count(separator) + 1
        if line not in ("", "\r") and found != n_fields:
            mark = _SEPARATORS.get(separator, repr(separator))
            raise InputError(
                f"{path}: line {number}: {found} fields where the header has {n_fields}; "
                f"separate fields with one {mark} and remove each {mark} inside a field"
            )


def read_columns(path: str | Path, fields: Sequence[str]) -> pd.DataFrame:
    """Read the named columns of a tab-separated atomic file as text; an empty cell is "".

    Returns:
        One string column per field, in the order of `fields`. The index, named "line", is each
        row's line in the file; blank lines are skipped, as in RecBole.

    Raises:
        InputError: as in `read_atomic`.
    """
    return read_atomic(path, fields).frame(fields)


def read_lines(path: Path, encoding: str = "utf-8", *, may_be_empty: bool = False) -> list[str]:
    """Read a file's lines without their ends; only LF and CRLF end a line.

    Raises:
        InputError: the file cannot be read, as in `read_atomic`, or it is empty and may not be.
    """
    data = _read_utf8(path, encoding, may_be_empty)
    return [line.removesuffix("\r") for line in data.decode().split("\n")]


def _read_utf8(path: Path, encoding: str, may_be_empty: bool = False) -> bytes:
    """Read a whole file as UTF-8 without a byte-order mark, and check its characters."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        hint = did_you_mean_path(path)
        raise InputError(f"{path}: no such file; correct the path{hint}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); correct the path") from None
    try:
        # A byte-order mark would otherwise become part of the first field's name.
        text = data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}: line {line}: not {encoding.upper()} ({error}); convert the file to UTF-8"
        ) from None
    except LookupError:
        raise InputError(f"encoding: Python has no {encoding!r}; give utf-8") from None
    if not (text or may_be_empty):
        raise InputError(f"{path} is empty; make it again")
    # CSV readers treat a carriage return as the end of a line; NumPy drops trailing NULs.
    for character, named in (("\r(?!\n)", "a carriage return"), ("\0", "a NUL character")):
        if character[0] in text and (found := re.search(character, text)):
            line = text.count("\n", 0, found.start()) + 1
            raise InputError(f"{path}: line {line}: {named} inside a line; remove it")
    utf8 = encoding.lower() in ("utf-8", "utf8", "utf-8-sig")
    return data.removeprefix(b"\xef\xbb\xbf") if utf8 else text.encode()


def header_fields(path: str | Path, line: str, separator: str = "\t") -> list[str]:
    """Return the field names of a header line, without their types.

    Raises:
        InputError: a cell is not `name:type`.
    """
    cells = [cell.partition(":") for cell in line.split(separator)]
    if not any(kind in KINDS for _, _, kind in cells):
        between = "tabs" if separator == "\t" else repr(separator)
        raise InputError(
            f"{path}: line 1: the header has no name:type fields separated by {between} "
            f"({line[:60]!r}); {_EXAMPLE}"
        )
    for name, colon, kind in cells:
        if not name or kind not in KINDS:
            raise InputError(
                f"{path}: line 1: {quote(name + colon + kind)} is not 'name:type' with a type of "
                f"{', '.join(KINDS)}; {_EXAMPLE}"
            )
    return [name for name, _, _ in cells]
