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
from collections import Counter
from collections.abc import Callable, Iterator
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
_DECODER = json.JSONDecoder(strict=False)  # strings may contain control characters
Lines = tuple[np.ndarray, pa.Table]  # line numbers [n], columns of n rows


class Unfit(ValueError):
    """Error for a line that cannot be used; the message is the reason."""


class Rejects:
    """Counter and report of rejected lines."""

    def __init__(self, handle: IO[str]) -> None:
        self._handle = handle
        self.reasons: Counter[str] = Counter()  # number of rejected lines by reason
        self.notes: Counter[str] = Counter()  # number of changed values by description

    def add(self, path: Path, line: int, reason: str, text: str = "") -> None:
        """Report one rejected line of a file, with a reason and the beginning of its text."""
        self.reasons[reason] += 1
        shown = f"\t{quote(text, 80)}" if text else ""
        self._handle.write(f"{path.name}:{line}\t{reason}{shown}\n")


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
    with raw, Progress.wrapattr(
        raw, "read", total=path.stat().st_size, desc=path.name, leave=False,
        disable=not progress, mininterval=1.0,
    ) as counted:  # fmt: skip
        head = raw.read(4)
        raw.seek(0)
        found = [name for magic, name in _MAGIC.items() if head.startswith(magic)]
        stream: pa.NativeFile = pa.PythonFile(counted, mode="r")
        if found:
            stream = pa.CompressedInputStream(stream, found[0])
        try:
            yield stream
        except OSError as error:
            if not found:
                raise
            raise InputError(
                f"{path}: the compressed data are damaged or incomplete ({error}); download the "
                "file again"
            ) from None


def line_blocks(
    path: Path, progress: bool = False, size: int | None = None, encoding: str = "utf-8"
) -> Iterator[tuple[int, bytes]]:
    """Yield blocks of complete lines in UTF-8, with the number of each block's first line.

    Each block ends with LF. A file in UTF-8 is not validated.

    Args:
        size: number of bytes to read at once; None for `BLOCK`.
        encoding: encoding of the file.

    Raises:
        InputError: as `opened`, or a line is longer than `LONGEST_LINE`.
        UnicodeError: the bytes are invalid in an encoding other than UTF-8.
    """
    number, rest = 1, b""
    recode = codecs.lookup(encoding).name != "utf-8"
    decoder = codecs.getincrementaldecoder(encoding)()
    with opened(path, progress) as stream:
        while data := stream.read(size or BLOCK):
            if recode:
                data = decoder.decode(data).encode()
            if number == 1 and not rest:
                data = data.removeprefix(codecs.BOM_UTF8)
            cut = data.rfind(b"\n") + 1
            if not cut:
                rest += data
                if len(rest) > LONGEST_LINE:
                    raise InputError(
                        f"{path}: line {number} is longer than {LONGEST_LINE >> 20} MiB; give a "
                        "file with one record on each line"
                    )
                continue
            block = rest + data[:cut]
            if b"\r" in block:
                block = block.replace(b"\r\n", b"\n")
            yield number, block
            number += block.count(b"\n")
            rest = data[cut:]
    if recode:
        decoder.decode(b"", True)  # raises UnicodeError if the last character is incomplete
    if rest:
        yield number, rest.rstrip(b"\r") + b"\n"


def records(
    path: Path, block: tuple[int, bytes], parse: Callable[[bytes], Any], rejects: Rejects
) -> list[tuple[int, Any]]:
    """Parse the non-blank lines of one of the `line_blocks`; return line numbers and results.

    `parse` raises `Unfit` with a reason, or another ValueError if a line is not a JSON object.
    """
    found = []
    for number, line in enumerate(block[1].split(b"\n")[:-1], block[0]):
        if not line.strip():
            continue
        try:
            found.append((number, parse(line)))
        except (ValueError, RecursionError) as error:
            reason = "not a JSON object"
            if isinstance(error, (Unfit, UnicodeError)):
                reason = str(error) if isinstance(error, Unfit) else "not valid UTF-8"
            rejects.add(path, number, reason, line.decode("utf-8", "replace"))
    return found


def json_lines(
    path: Path, schema: pa.Schema, rejects: Rejects, progress: bool = False
) -> Iterator[Lines]:
    """Yield columns of a file of JSON objects, one per line; other keys are ignored.

    A missing key or `null` is null. Blank lines are skipped.

    Args:
        schema: the keys, of type string, double or int64. A string column also accepts numbers, and
            a double column also accepts numbers as text. int64 means that most IDs are integers;
            its values are returned as text.

    Raises:
        InputError: as `line_blocks`.
    """
    for number, block in line_blocks(path, progress):
        yield from _parsed(path, schema, rejects, number, block)


def _parsed(
    path: Path, schema: pa.Schema, rejects: Rejects, number: int, block: bytes
) -> Iterator[Lines]:
    """Parse a block at once; if that fails, parse its halves, or few lines one by one."""
    count = block.count(b"\n")
    if (table := _parse_block(schema, block, count)) is not None:
        yield np.arange(number, number + count), table
    elif count <= _FEW:
        yield _parse_lines(path, schema, rejects, number, block)
    else:
        half = count // 2
        cut = int(np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))[half - 1]) + 1
        yield from _parsed(path, schema, rejects, number, block[:cut])
        yield from _parsed(path, schema, rejects, number + half, block[cut:])


def _parse_block(schema: pa.Schema, block: bytes, n_lines: int) -> pa.Table | None:
    """Parse all lines at once; return None if any line is not exactly one valid object."""
    # An object over several lines, or a line of two objects, would shift the later line numbers. If
    # each line has braces at both ends, and there are as many objects as lines, each line has one.
    inside = block.count(b"}\n{")
    if not (block.startswith(b"{") and block.endswith(b"}\n") and inside == n_lines - 1):
        return None
    try:
        table = pyarrow.json.read_json(
            pa.BufferReader(block),
            pyarrow.json.ReadOptions(use_threads=False, block_size=len(block) + 1),
            pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
        table.validate(full=True)  # the parser does not check for valid UTF-8
    except pa.ArrowException:
        return None
    return table.cast(_text_ids(schema)) if table.num_rows == n_lines else None


def _text_ids(schema: pa.Schema) -> pa.Schema:
    return pa.schema([(f.name, pa.string() if f.type == pa.int64() else f.type) for f in schema])


def _parse_lines(
    path: Path, schema: pa.Schema, rejects: Rejects, number: int, block: bytes
) -> Lines:
    schema = _text_ids(schema)
    convert = [(f.name, _as_text if f.type == pa.string() else _as_number) for f in schema]

    def parse(line: bytes) -> list[Any]:
        # Invalid bytes become surrogates, which `_as_text` refuses in the columns that are read.
        record = parse_json(line.decode("utf-8", "surrogateescape"))
        return [as_type(record.get(name)) for name, as_type in convert]

    found = records(path, (number, block), parse, rejects)
    rows = [dict(zip(schema.names, values, strict=True)) for _, values in found]
    numbers = np.array([place for place, _ in found], dtype=np.int64)
    return numbers, pa.Table.from_pylist(rows, schema)


def parse_json(text: str) -> dict[str, Any]:
    """Parse a JSON object; of a key that occurs twice, the last value counts.

    Raises:
        ValueError: the text is not a JSON object.
        RecursionError: the value is nested too deeply.
    """
    record = _DECODER.decode(text)
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    return record


def _as_text(value: Any) -> str | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number_text(value)
    if value is not None and not isinstance(value, str):
        raise Unfit("text or a number expected")
    if value is not None:
        value.encode()  # raises UnicodeError for surrogates
    return value


def _as_number(value: Any) -> float | None:
    if value is None:
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise TypeError
        return float(str(value).replace("_", "?"))  # refuses Python's digit groups such as 1_000
    except (TypeError, ValueError, OverflowError):
        raise Unfit("a number expected") from None


def number_text(value: float) -> str:
    """Format a number as an ID, whole numbers without a fraction."""
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    return str(value)
