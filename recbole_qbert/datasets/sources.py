"""Read large raw files in bounded blocks: plain or compressed, and of JSON lines.

What cannot be used is never fatal and never silent: each such line goes to a `Rejects`. The two
ways to read JSON lines, a block at once and line by line, agree on every line they both take, so
that what is read does not depend on where a block happens to end.
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

BLOCK = 8 << 20  # bytes of whole lines that are parsed at once
LONGEST_LINE = 64 << 20  # bytes; a longer one means that the file holds no lines
_FEW = 64  # lines; a block this short that has a fault is read line by line
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
Lines = tuple[np.ndarray, pa.Table]  # line numbers [n], columns of n rows


class Unfit(ValueError):
    """A value of another kind than the column's; the message is a short reason."""


class JsonObject(dict[str, Any]):
    """An object of a JSON file.

    Attributes:
        twice: the keys that occur more than once; the last value of each is kept.
    """

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        counts = Counter(key for key, _ in pairs) if len(self) < len(pairs) else {}
        self.twice = {key for key, count in counts.items() if count > 1}

    def check(self, keys: Collection[str]) -> None:
        """Raises `Unfit` for one of the keys that occurs twice."""
        if twice := self.twice.intersection(keys):
            raise Unfit(f"the key '{min(twice)}' occurs twice")


_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=JsonObject)


class Rejects:
    """Lines that could not be used: counted by reason, and written one a row to a report.

    Attributes:
        reasons: numbers of rejected lines.
        notes: numbers of values that were used otherwise than they stand there, by what was done.
    """

    def __init__(self, handle: IO[str]) -> None:
        self._handle = handle
        self.reasons: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()

    def add(self, path: Path, line: int, reason: str, text: str = "") -> None:
        """One line of a file, why, and how it begins."""
        self.reasons[reason] += 1
        shown = f"\t{quote(text, 80)}" if text else ""
        self._handle.write(f"{path.name}:{line}\t{reason}{shown}\n")

    def add_rows(
        self, path: Path, lines: np.ndarray, reason: str, values: Iterable[object] = ()
    ) -> None:
        """Several lines, with one reason, and with the value of each that is at fault."""
        shown = ["" if value is None else str(value) for value in values] or [""] * len(lines)
        for line, value in zip(lines.tolist(), shown, strict=True):
            self.add(path, line, reason, value)


@contextlib.contextmanager
def opened(path: Path, progress: bool = False) -> Iterator[pa.NativeFile]:
    """The file's bytes, decompressed if its first bytes say that it is gzip, bzip2 or Zstandard.

    Raises:
        InputError: there is no such file, or its compression is broken.
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
    """A file that tells a progress bar how far it was read."""

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
    """Blocks of whole lines in UTF-8, each ending with LF, and the number of a block's first line.

    Bytes of a file in UTF-8 are passed on as they are.

    Raises:
        InputError: as `opened`, or a line is longer than `LONGEST_LINE`.
        UnicodeError: bytes that are not of another encoding than UTF-8.
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
        decoder.decode(b"", True)  # raises where the last character is cut
    if rest:
        yield number, rest.rstrip(b"\r") + b"\n"


def json_lines(
    path: Path, schema: pa.Schema, rejects: Rejects, progress: bool = False, size: int = BLOCK
) -> Iterator[Lines]:
    """Columns of a file of JSON objects, one a line; other keys are passed over.

    A missing key or `null` is null. Blank lines are passed over, and lines in which one of the keys
    occurs twice are rejected.

    Args:
        path: the file.
        schema: the keys, of type string, double or int64. A number is taken for a string and
            the text of a number for a double; int64 says that most ids are whole numbers, and
            comes out as text.
        rejects: gets the lines that are no such objects.
    """
    for number, block in line_blocks(path, progress, size):
        yield from _parsed(path, schema, rejects, number, block)


def _parsed(
    path: Path, schema: pa.Schema, rejects: Rejects, number: int, block: bytes
) -> Iterator[Lines]:
    """The block at once, or its halves, or, where few lines are left, one by one."""
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
    """Where the line after the first `n` begins."""
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == 10)
    return int(ends[n - 1]) + 1


def _parse_block(schema: pa.Schema, block: bytes) -> pa.Table | None:
    """All lines at once; None where any of them is not exactly one object that fits."""
    values = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(values == 10)
    starts = np.concatenate([[0], ends[:-1] + 1])
    # An object that spans lines, or a line of two, would shift all line numbers behind it: with
    # braces at both ends of each line, as many objects as lines means one a line.
    if (values[starts] != ord("{")).any() or (values[ends - 1] != ord("}")).any():
        return None
    try:
        table = pyarrow.json.read_json(
            pa.BufferReader(block),
            pyarrow.json.ReadOptions(use_threads=False, block_size=len(block) + 1),
            pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
        table.validate(full=True)  # the parser takes any bytes for UTF-8
        table = table.cast(_text_ids(schema))
    except pa.ArrowException:
        return None
    again = any(_occurs_again(block, table, name) for name in schema.names)
    return table if table.num_rows == len(ends) and not again else None


def _occurs_again(block: bytes, table: pa.Table, name: str) -> bool:
    """Whether a key is there more often than it has values: twice in an object, or deeper in it."""
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
                line.decode()  # raises ValueError unless the sign stands there by itself
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
    """A JSON value, control characters in strings allowed; ValueError or RecursionError."""
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
        return float(str(value).replace("_", "?"))  # Python's own digit groups are no number
    except (ValueError, OverflowError):
        raise Unfit("a number is expected where there is none") from None


def number_text(value: float) -> str:
    """A number as an id: whole ones without a fraction."""
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
    """Whole objects of a file of one object a line, block by block, with their line numbers.

    For nested and changing fields, which the columns of `json_lines` cannot hold.

    Args:
        parse: text of a line to an object; None where it is none, `Unfit` with another reason.
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
