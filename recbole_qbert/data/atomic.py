"""Read RecBole's atomic files exactly as they are written.

All code of this package that reads atomic files uses this module, so that every fault is reported
in the same way: with file, line, field and value. No types or missing values are inferred: "NA",
"null" and blanks are ordinary text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from recbole_qbert.common.errors import InputError, did_you_mean, preview
from recbole_qbert.data.codec import quote

BLOCK_BYTES = 1 << 24  # parsed at a time
LARGE = pa.large_string()  # type of every column that is read
KINDS = ("token", "token_seq", "float", "float_seq")  # RecBole's column types
PADDING = "[PAD]"  # RecBole's token of the item, and the user, with internal ID 0
# Spellings of a missing number that pandas writes or reads.
NO_NUMBER = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "<NA>")


class Atomic:
    """Content of an atomic file, all cells as text.

    Attributes:
        path: the file.
        cells: header cells, `name:type` of each column.
        names: column names.
        columns: the columns, all of text.
        lines: line number of each row in the file, counted from 1; int64 [rows].
    """

    def __init__(self, path: Path, cells: list[str], columns: pa.Table, lines: np.ndarray):
        self.path = path
        self.cells = cells
        self.names = [cell.partition(":")[0] for cell in cells]
        self.columns = columns
        self.lines = lines

    @property
    def n_rows(self) -> int:
        """Number of rows below the header."""
        return int(self.columns.num_rows)

    @cached_property
    def kinds(self) -> dict[str, str]:
        """Type of each column, by name; one of KINDS."""
        return dict(zip(self.names, (cell.partition(":")[2] for cell in self.cells), strict=True))

    def fault(self, rows: np.ndarray | pa.Array, name: str, said: str) -> InputError:
        """Build the error for the first bad row of a column.

        Args:
            rows: bool [rows], True at each bad row.
            name: the column.
            said: the end of the message, after the value: the fault and the remedy.
        """
        mask = np.asarray(rows)
        row = int(mask.argmax())
        others = int(mask.sum()) - 1
        value = str(self.columns[name][row])
        return InputError(
            f"{self.path}: line {self.lines[row]}, {name}: {quote(value)} {said}"
            f"{f' ({others} more such lines)' if others else ''}"
        )

    def need(self, names: Iterable[str], remedy: str) -> None:
        """Check that columns exist.

        Args:
            names: names of the columns.
            remedy: end of the message.

        Raises:
            InputError: a column is missing; lists the existing ones.
        """
        for name in names:
            if name not in self.names:
                raise InputError(
                    f"{self.path}: no column '{name}'; it has {', '.join(self.names)}"
                    f"{did_you_mean(name, self.names)}; {remedy}"
                )

    def need_rows(self) -> None:
        """Check that the file has rows.

        Raises:
            InputError: nothing follows the header.
        """
        if not self.n_rows:
            raise InputError(f"{self.path} is empty: no rows follow the header; give it rows")

    def check_ids(self, name: str) -> None:
        """Check a column of user or item tokens.

        Raises:
            InputError: a token is empty, is RecBole's padding token, or differs from another one
                only by blanks at its ends.
        """
        column = self.columns[name]
        empty = pc.equal(column, "")
        if pc.any(empty).as_py():
            raise self.fault(empty, name, "is no id; give every row one")
        self.check_padding(name)
        trimmed = pc.utf8_trim_whitespace(column)
        blanks = np.asarray(pc.not_equal(trimmed, column))
        if blanks.any():
            first = pd.DataFrame({"id": column.to_pandas(), "bare": trimmed.to_pandas()})
            first = first.drop_duplicates("id")
            twins = first[first.duplicated("bare", keep=False)]
            if len(twins):
                pair = twins[twins["bare"] == twins["bare"].iloc[0]].iloc[:2]
                (one, other), lines = pair["id"], self.lines[pair.index]
                raise InputError(
                    f"{self.path}: lines {lines[0]} and {lines[1]}, {name}: {quote(one)} and "
                    f"{quote(other)} differ only by blanks at their ends; write one id one way"
                )

    def check_padding(self, name: str) -> None:
        """Check that no cell of a token column is RecBole's padding token.

        Raises:
            InputError: a cell is.
        """
        padding = pc.equal(self.columns[name], PADDING)
        if pc.any(padding).as_py():
            raise self.fault(padding, name, "is RecBole's name of the padding; rename it")

    def check_padding_in_lists(self, name: str, between: str) -> None:
        """Check that no list of a token_seq column holds RecBole's padding token.

        Args:
            name: the column.
            between: separator of list elements.

        Raises:
            InputError: a list does.
        """
        column = self.columns[name]
        if pc.any(pc.match_substring(column, PADDING)).as_py():
            padding = np.array([PADDING in each.split(between) for each in column.to_pylist()])
            if padding.any():
                raise self.fault(padding, name, "holds RecBole's name of the padding; rename it")

    def check_unique(self, name: str, noun: str) -> None:
        """Check that no token of a column occurs twice.

        Args:
            name: the column.
            noun: the kind of thing that the tokens name, for the message.

        Raises:
            InputError: a token has two rows.
        """
        if len(self.columns[name].unique()) < self.n_rows:
            tokens = self.columns[name].to_pandas()
            row = int(tokens.duplicated().to_numpy().argmax())
            raise InputError(
                f"{self.path}: line {self.lines[row]}: {noun} {quote(tokens[row])} occurs a second "
                f"time; keep one row for each {noun}"
            )

    def frame(self, fields: Sequence[str]) -> pd.DataFrame:
        """Return columns of text in the order of `fields`; the index, named "line", is `lines`.

        Raises:
            InputError: a field is unknown or is given twice.
        """
        for field in fields:
            if field not in self.names:
                hint = did_you_mean(field, self.names)
                raise InputError(
                    f"{self.path}: no field '{field}' (it has {preview(self.names)}){hint}"
                )
        if len(set(fields)) != len(fields):
            raise InputError(f"{self.path}: a field is asked for twice ({preview(list(fields))})")
        frame: pd.DataFrame = self.columns.select(list(fields)).to_pandas()
        return frame.set_index(pd.Index(self.lines, dtype="int64", name="line"))

    def lists(self, name: str, between: str) -> list[np.ndarray]:
        """Return a token_seq or float_seq column as one array per row, without empty elements.

        Args:
            name: the column.
            between: separator of list elements.

        Raises:
            InputError: an element of a float_seq column is not a finite number.
        """
        parts = [list(filter(None, text.split(between))) for text in self.columns[name].to_pylist()]
        if self.kinds[name] == "token_seq":
            return [np.array(each, str) for each in parts]
        flat = np.array([part for each in parts for part in each], object)
        numbers = pd.to_numeric(pd.Series(flat), errors="coerce").to_numpy(float)
        lengths = np.array(list(map(len, parts)))
        wrong = ~np.isfinite(numbers)
        if wrong.any():
            rows = np.repeat(np.arange(len(parts)), lengths)
            mask = np.bincount(rows[wrong], minlength=len(parts)) > 0
            raise self.fault(mask, name, "holds what is not a finite number; correct it")
        return np.split(numbers, lengths.cumsum()[:-1])

    def numbers(self, name: str, may_lack: bool = False) -> np.ndarray:
        """Return a column of numbers, float64 [rows].

        Args:
            name: the column.
            may_lack: whether a cell may be missing (one of NO_NUMBER), which gives NaN.

        Raises:
            InputError: a cell is text or infinite, or is missing although `may_lack` is False.
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


def read_atomic(path: str | Path, separator: str = "\t", encoding: str = "utf-8") -> Atomic:
    """Read a whole atomic file as text.

    A cell that is one complete quotation, `"a ""b"" c"`, is read as the text in it, as RecBole
    does; all other quotes are kept.

    Args:
        path: a `.item`, `.user` or `.inter` file.
        separator: separator of fields.
        encoding: text encoding; a byte-order mark is skipped, and CRLF ends a line as LF does.

    Raises:
        InputError: the file is missing, empty, or not in this encoding; the header is not
            `name:type`; a row has another number of fields; or the text contains a carriage return
            inside a line or a NUL character, which readers treat differently.
    """
    path = Path(path)
    text = _read_text(path, encoding)
    header, _, body = text.partition("\n")
    header = header.removesuffix("\r")
    names = header_fields(path, header, separator)
    columns = pa.table({name: pa.array([], LARGE) for name in names})
    if body.strip("\r\n"):
        try:
            columns = pyarrow.csv.read_csv(
                pa.BufferReader(body.encode()),
                read_options=pyarrow.csv.ReadOptions(column_names=names, block_size=BLOCK_BYTES),
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter=separator, quote_char=False, double_quote=False
                ),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(names, LARGE),
                    null_values=[],
                    strings_can_be_null=False,
                ),
            )
        except pa.ArrowException as error:
            _check_row_lengths(path, text, len(names), separator)
            raise InputError(f"{path}: cannot be read ({error}); write it again") from None
    columns = pa.table({name: _unquoted(columns[name]) for name in names})
    lines = np.arange(len(columns)) + 2
    if re.search(r"\n\r?\n", text.rstrip("\r\n")):  # blank lines are not rows, as in RecBole
        lines = np.flatnonzero([line not in ("", "\r") for line in text.split("\n")])[1:] + 1
    return Atomic(path, header.split(separator), columns, lines)


def _unquoted(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Replace cells that are one complete quotation by the text in it."""
    whole = pc.match_substring_regex(column, '^"([^"]|"")*"$')
    if not pc.any(whole).as_py():
        return column
    inner = pc.replace_substring(pc.utf8_slice_codeunits(column, 1, -1), '""', '"')
    return pc.if_else(whole, inner, column)


def _check_row_lengths(path: Path, text: str, n_fields: int, separator: str) -> None:
    """Raise an InputError for the first row whose number of fields is not `n_fields`."""
    for number, line in enumerate(text.split("\n"), 1):
        found = line.count(separator) + 1
        if line not in ("", "\r") and found != n_fields:
            raise InputError(
                f"{path}: line {number}: {found} fields where the header has {n_fields}; "
                "separate fields with one tab and remove tabs inside a field"
            )


def read_columns(path: str | Path, fields: Sequence[str]) -> pd.DataFrame:
    """Read the named columns of a tab-separated atomic file as text.

    No types or missing values are inferred: "NA", "007" and blanks stay as written, an empty cell
    is "".

    Args:
        path: a UTF-8 `.item`, `.user` or `.inter` file.
        fields: column names, without their types.

    Returns:
        One string column per field, in the order of `fields`. The index, named "line", is each
        row's line in the file; blank lines are skipped, as in RecBole.

    Raises:
        InputError: as in `read_atomic` and `Atomic.frame`.
    """
    return read_atomic(path).frame(fields)


def read_lines(path: Path, encoding: str = "utf-8") -> list[str]:
    """Read a file's lines without their ends; only LF and CRLF end a line.

    Raises:
        InputError: as in `read_atomic`.
    """
    return [line.removesuffix("\r") for line in _read_text(path, encoding).split("\n")]


def _read_text(path: Path, encoding: str) -> str:
    """Read a whole file as text, without its byte-order mark."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise InputError(f"{path}: no such file") from None
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
        raise InputError(f"encoding: {encoding!r} is none that Python knows; give utf-8") from None
    if not text:
        raise InputError(f"{path} is empty; a header of 'name:type' fields and rows are expected")
    if text[0] in "\r\n":
        raise InputError(f"{path}: line 1 is empty; a header of 'name:type' fields is expected")
    # CSV readers treat a carriage return as the end of a line; NumPy drops trailing NULs.
    for character, named in (("\r(?!\n)", "a carriage return"), ("\0", "a NUL character")):
        if character[0] in text and (found := re.search(character, text)):
            line = text.count("\n", 0, found.start()) + 1
            raise InputError(f"{path}: line {line}: {named} inside a line; remove it")
    return text


def header_fields(path: str | Path, line: str, separator: str = "\t") -> list[str]:
    """Return the field names of a header line, without their types.

    Raises:
        InputError: a cell is not `name:type`, or a name occurs twice.
    """
    names = []
    cells = line.split(separator)
    kinds = [cell.partition(":")[2] for cell in cells]
    if not any(kind in KINDS for kind in kinds):
        between = "tabs" if separator == "\t" else repr(separator)
        raise InputError(
            f"{path}: line 1: the header has no name:type fields separated by {between} "
            f"({line[:60]!r}); write a RecBole header such as 'item_id:token<TAB>title:token_seq'"
        )
    for cell, kind in zip(cells, kinds, strict=True):
        name = cell.partition(":")[0]
        if not name or kind not in KINDS:
            raise InputError(
                f"{path}: line 1: '{cell}' is not 'name:type', the type one of {', '.join(KINDS)}; "
                "write a RecBole header such as 'item_id:token<TAB>title:token_seq'"
            )
        if name in names:
            raise InputError(f"{path}: line 1: the field '{name}' occurs twice; rename one")
        names.append(name)
    return names
