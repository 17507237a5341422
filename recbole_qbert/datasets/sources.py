"""Reader of large raw files, plain or compressed, in blocks of bounded size; JSON lines.

An invalid line does not stop the reader: it is reported to a `Rejects`. JSON lines are parsed a
block at once or line by line. Both parsers give the same values for each line that both accept, so
that the result does not depend on the block boundaries.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.json

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.progress import Progress
from recbole_qbert.data.codec import quote

BLOCK = 8 << 20  # bytes of complete lines that are parsed at once
LONGEST_LINE = 64 << 20  # bytes; a file with longer lines is not a file of lines
_FEW = 64  # lines; a block of at most this many lines with a fault is parsed line by line
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
Lines = tuple[np.ndarray, pa.Table]  # line numbers [n], columns of n rows


class Unfit(ValueError):
    """Error for a value that does not have the type of its column; the message is the reason."""


class JsonObject(dict[str, Any]):
    """Object of a JSON file, with its duplicate keys.

    Attributes:
        twice: keys that occur more than once; the last value of each is kept.
    """

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        counts = Counter(key for key, _ in pairs) if len(self) < len(pairs) else {}
        self.twice = {key for key, count in counts.items() if count > 1}

    def check(self, keys: Collection[str]) -> None:
        """Check that none of the keys occurs twice.

        Raises:
            Unfit: a key occurs twice.
        """
        if twice := self.twice.intersection(keys):
            raise Unfit(f"the key '{min(twice)}' occurs twice")


_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=JsonObject)


class Rejects:
    """Counter and report of rejected lines.

    Attributes:
        reasons: numbers of rejected lines by reason.
        notes: numbers of changed values by a description of the change.
    """

    def __init__(self, handle: IO[str]) -> None:
        self._handle = handle
        self.reasons: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()

    def add(self, path: Path, line: int, reason: str, text: str = "") -> None:
        """Report one rejected line of a file, with a reason and the beginning of its text."""
        self.reasons[reason] += 1
        shown = f"\t{quote(text, 80)}" if text else ""
        self._handle.write(f"{path.name}:{line}\t{reason}{shown}\n")

    def add_rows(
        self, path: Path, lines: np.ndarray, reason: str, values: Iterable[object] = ()
    ) -> None:
        """Report several lines with one reason, and with the invalid value of each line."""
        shown = ["" if value is None else str(value) for value in values] or [""] * len(lines)
        for line, value in zip(lines.tolist(), shown, strict=True):
            self.add(path, line, reason, value)


@contextlib.contextmanager
def opened(path: Path, progress: bool = False) -> Iterator[pa.NativeFile]:
    """Open a file for reading, decompressed if its first bytes are those of gzip, bzip2 or zstd.

    Raises:
        InputError: the file cannot be read, or its compression is broken.
    """
    try:
        raw = open(path, "rb")  # noqa: SIM115  closed below
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); correct the path") from None
    with raw, Progress(
        total=path.stat().st_size, desc=path.name, unit="B", unit_scale=True, leave=False,
        disable=not progress, mininterval=1.0,
    ) as bar:  # fmt: skip
        head = raw.read(4)
        raw.seek(0)
        found = [name for magic, name in _MAGIC.items() if head.startswith(magic)]
        stream: pa.NativeFile = pa.PythonFile(_Counted(raw, bar), mode="r")
        if found:
            stream = pa.CompressedInputStream(stream, found[0])
        try:
            yield stream
        except OSError as error:
            if not found:
                raise
            raise InputError(
                f"{path}: broken or cut short ({error}); download the file again"
            ) from None


class _Counted:
    """File that updates a progress bar as it is read."""

    def __init__(self, raw: IO[bytes], bar: Any) -> None:
        self._raw, self._bar = raw, bar

    def read(self, size: int = -1) -> bytes:
        data = self._raw.read(size)
        self._bar.update(len(data))
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


def line_blocks(
    path: Path, progress: bool = False, size: int = BLOCK, encoding: str = "utf-8"
) -> Iterator[tuple[int, bytes]]:
    """Yield blocks of complete lines in UTF-8, with the number of each block's first line.

    Each block ends with LF. A file in UTF-8 is not validated.

    Args:
        path: the file.
        progress: whether to show a progress bar.
        size: number of bytes to read at once.
        encoding: encoding of the file.

    Raises:
        InputError: as `opened`, or a line is longer than `LONGEST_LINE`.
        UnicodeError: the bytes are invalid in an encoding other than UTF-8.
    """
    number, rest = 1, b""
    other = codecs.lookup(encoding).name != "utf-8"
    decoder = codecs.getincrementaldecoder(encoding)()
    with opened(path, progress) as stream:
        while data := stream.read(size):
            if other:
                data = decoder.decode(data).encode()
            if number == 1 and not rest:
                data = data.removeprefix(b"\xef\xbb\xbf")
            cut = data.rfind(b"\n") + 1
            if not cut:
                rest += data
                if len(rest) > LONGEST_LINE:
                    raise InputError(
                        f"{path}: line {number} is longer than {LONGEST_LINE >> 20} MiB; one "
                        "record a line is expected"
                    )
                continue
            block = rest + data[:cut]
            if b"\r" in block:
                block = block.replace(b"\r\n", b"\n")
            yield number, block
            number += block.count(b"\n")
            rest = data[cut:]
    if other:
        decoder.decode(b"", True)  # raises UnicodeError if the last character is incomplete
    if rest:
        yield number, rest.rstrip(b"\r") + b"\n"


def json_lines(
    path: Path, schema: pa.Schema, rejects: Rejects, progress: bool = False, size: int = BLOCK
) -> Iterator[Lines]:
    """Yield columns of a file of JSON objects, one per line; other keys are ignored.

    A missing key or `null` is null. Blank lines are skipped, and lines in which one of the keys
    occurs twice are rejected.

    Args:
        path: the file.
        schema: the keys, of type string, double or int64. A string column also accepts numbers, and
            a double column also accepts numbers as text. int64 means that most IDs are integers;
            its values are returned as text.
        rejects: receives invalid lines.
        progress: whether to show a progress bar.
        size: number of bytes to read at once.

    Raises:
        InputError: as `line_blocks`.
    """
    for number, block in line_blocks(path, progress, size):
        yield from _parsed(path, schema, rejects, number, block)


def _parsed(
    path: Path, schema: pa.Schema, rejects: Rejects, number: int, block: bytes
) -> Iterator[Lines]:
    """Parse a block at once; if that fails, parse its halves, or few lines one by one."""
    table = _parse_block(schema, block)
    if table is not None:
        yield np.arange(number, number + table.num_rows), table
        return
    if (count := block.count(b"\n")) <= _FEW:
        yield _parse_lines(path, schema, rejects, number, block)
        return
    cut = _nth_line(block, count // 2)
    yield from _parsed(path, schema, rejects, number, block[:cut])
    yield from _parsed(path, schema, rejects, number + count // 2, block[cut:])


def _nth_line(block: bytes, n: int) -> int:
    """Return the start of the line after the first `n`."""
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == 10)
    return int(ends[n - 1]) + 1


def _parse_block(schema: pa.Schema, block: bytes) -> pa.Table | None:
    """Parse all lines at once; return None if any line is not exactly one valid object."""
    values = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(values == 10)
    starts = np.concatenate([[0], ends[:-1] + 1])
    # An object over several lines, or a line of two objects, would shift the later line numbers. If
    # each line has braces at both ends, and there are as many objects as lines, each line has one.
    if (values[starts] != ord("{")).any() or (values[ends - 1] != ord("}")).any():
        return None
    try:
        table = pyarrow.json.read_json(
            pa.BufferReader(block),
            pyarrow.json.ReadOptions(use_threads=False, block_size=len(block) + 1),
            pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
        table.validate(full=True)  # the parser does not check for valid UTF-8
        table = table.cast(_text_ids(schema))
    except pa.ArrowException:
        return None
    again = any(_occurs_again(block, table, name) for name in schema.names)
    return table if table.num_rows == len(ends) and not again else None


def _occurs_again(block: bytes, table: pa.Table, name: str) -> bool:
    """Return whether a key occurs more often than it has values: twice in an object, or nested."""
    places = re.findall(rb'"%s"\s*:(?!\s*null\b)' % re.escape(name.encode()), block)
    return len(places) > table.num_rows - table[name].null_count


def _text_ids(schema: pa.Schema) -> pa.Schema:
    return pa.schema([(f.name, pa.string() if f.type == pa.int64() else f.type) for f in schema])


def _parse_lines(
    path: Path, schema: pa.Schema, rejects: Rejects, number: int, block: bytes
) -> Lines:
    numbers: list[int] = []
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    schema = _text_ids(schema)
    read = {field.name: _as_text if field.type == pa.string() else _as_number for field in schema}
    for place, line in enumerate(block.split(b"\n")[:-1], number):
        if not line.strip():
            continue
        text = line.decode("utf-8", "replace")
        try:
            record = parse_json(text)
            if not isinstance(record, JsonObject):
                raise ValueError("not an object")
            record.check(columns)
            values = [convert(record.get(name)) for name, convert in read.items()]
            if any("\ufffd" in value for value in values if isinstance(value, str)):
                line.decode()  # raises UnicodeDecodeError unless U+FFFD is in the file itself
        except Unfit as error:
            rejects.add(path, place, str(error), text)
            continue
        except UnicodeDecodeError:
            rejects.add(path, place, "not UTF-8", text)
            continue
        except (ValueError, RecursionError):
            rejects.add(path, place, "not a JSON object", text)
            continue
        numbers.append(place)
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    return np.array(numbers, dtype=np.int64), pa.table(columns, schema=schema)


def parse_json(text: str) -> Any:
    """Parse a JSON value; strings may contain control characters.

    Raises:
        ValueError: the text is not JSON.
        RecursionError: the value is nested too deeply.
    """
    return _DECODER.decode(text)


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        if value is not None and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise Unfit("no Unicode text")
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number_text(value)
    raise Unfit("neither text nor a number")


def _as_number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise Unfit("a number is expected where there is none")
    try:
        return float(str(value).replace("_", "?"))  # refuses Python's digit groups such as 1_000
    except (ValueError, OverflowError):
        raise Unfit("a number is expected where there is none") from None


def number_text(value: float) -> str:
    """Format a number as an ID, whole numbers without a fraction."""
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    return str(value)


def json_records(
    path: Path,
    parse: Callable[[str], dict[str, Any] | None],
    rejects: Rejects,
    progress: bool = False,
    size: int = BLOCK,
) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    """Yield the objects of a file, one per line, with their line numbers, block by block.

    This is for nested or irregular fields, which the columns of `json_lines` cannot represent.

    Args:
        path: the file.
        parse: parses a line to an object; returns None if the line is no object, and raises `Unfit`
            with any other reason.
        rejects: receives invalid lines.
        progress: whether to show a progress bar.
        size: number of bytes to read at once.
    """
    for number, block in line_blocks(path, progress, size):
        records = []
        for place, line in enumerate(block.split(b"\n")[:-1], number):
            if not line.strip():
                continue
            text = line.decode("utf-8", "replace")
            try:
                record = parse(text)
            except Unfit as error:
                rejects.add(path, place, str(error), text)
                continue
            if record is None:
                rejects.add(path, place, "not an object", text)
            else:
                records.append((place, record))
        yield records
