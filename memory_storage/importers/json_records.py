"""Read a byte stream as JSON objects with their line numbers."""

from __future__ import annotations

import codecs
import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Callable, Generator, Iterator
from json import JSONDecodeError
from typing import Any, BinaryIO, NamedTuple, NoReturn, cast

from memory_storage.errors import ValidationError
from memory_storage.sql.validation import replace_unstorable, unstorable_error

LINE_BYTES = 80_000_000
"""The longest line that is read, in bytes. A longer one is reported: its run would not fit in a document of 10 MB.

A line of an export is one value with all its steps, so its limit is `DOCUMENT_BYTES`.
"""

DOCUMENT_BYTES = 1_000_000_000
"""The largest file that is read into memory (arrays, objects over several lines), and the longest line of an export."""

_BLANK = b" \t\r\n"
_SPACE = re.compile(r"[ \t\r\n\x1e]*")  # U+001E precedes each object of a JSON text sequence (RFC 7464)
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_GZIP = b"\x1f\x8b"
_BINARY_FORMATS = {
    _GZIP: "gzip inside of gzip: decompress it once (gunzip)",
    b"\x28\xb5\x2f\xfd": "Zstandard data: decompress it first (zstd -d)",
    b"BZh": "bzip2 data: decompress it first (bunzip2)",
    b"\xfd7zXZ\0": "xz data: decompress it first (unxz)",
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"SQLite format 3\0": "a SQLite database: export it, and import that",
    b"PAR1": "a Parquet file: write it as JSON lines first",
}
_NESTED_ARRAYS = 8
# A NUL or a surrogate in JSON. An emoji is a pair of surrogates too, so this is only a cheap filter.
_UNSTORABLE_ESCAPE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")


class Record(NamedTuple):
    """One record of the stream: its content, or the problem that prevented reading it.

    Attributes:
        line: the line on which it begins, from 1.
        content: the JSON object; empty if there is a problem.
        problem: why it could not be read; empty if it could.
        size: its approximate number of bytes in the stream.
        array: the number of the array of which it is an element, from 1; 0 if none.
    """

    line: int
    content: dict[str, Any]
    problem: str
    size: int
    array: int = 0


class _Reader(NamedTuple):
    """Decodes and parses records."""

    line_bytes: int
    replace_invalid: bool

    def decode(self, data: bytes) -> str:
        return data.decode(errors="replace" if self.replace_invalid else "strict")

    def record(self, line: int, text: str, size: int, array: int = 0) -> Record:
        try:
            content = parse_json(text)
        except JSONDecodeError as error:
            return Record(line, {}, f"not JSON: {error.msg} (character {error.pos + 1})", size)
        except ValueError as error:
            return Record(line, {}, str(error), size)
        if not isinstance(content, dict):
            return Record(line, {}, "not a JSON object", size)
        if _UNSTORABLE_ESCAPE.search(text):
            if self.replace_invalid:
                content = replace_unstorable(content)
            elif refusal := unstorable_error("", content):
                problem = f"{refusal.field}: {refusal.limit}; --replace-invalid replaces it by U+FFFD"
                return Record(line, {}, problem, size)
        return Record(line, content, "", size, array)

    def line_record(self, number: int, line: bytes) -> Record:
        if len(line) > self.line_bytes:
            return Record(number, {}, f"the line has more than {self.line_bytes:,} bytes", len(line))
        try:
            stripped = line.rstrip(_BLANK)
            return self.record(number, self.decode(stripped[:-1] if stripped.endswith(b",") else line), len(line))
        except UnicodeDecodeError as error:
            problem = f"not UTF-8: byte {error.start + 1} of the line; --replace-invalid replaces it by U+FFFD"
            return Record(number, {}, problem, len(line))


def read_records(
    stream: BinaryIO,
    *,
    line_bytes: int | None = None,
    replace_invalid: bool = False,
    is_header: Callable[[Record], bool] = lambda _: False,
) -> Iterator[Record]:
    """Read objects from JSON lines, JSON arrays, or a sequence of objects that span lines.

    The encoding is UTF-8, with or without a byte order mark, optionally gzipped. JSON lines are read one by one, and an
    invalid one does not affect the others. A file whose first line is not a complete object is read into memory; after
    a syntax error the rest of it cannot be read, and the problem says so.

    Args:
        stream: the bytes.
        line_bytes: the longest line that is read; `LINE_BYTES` by default. A longer one is a problem.
        replace_invalid: replace each NUL, lone surrogate and byte that is not UTF-8 by U+FFFD.
        is_header: returns for the first record whether the limit of the others is `DOCUMENT_BYTES`.

    Raises:
        ValidationError: the encoding is not UTF-8, or the file is too large to be read into memory.
    """
    most = LINE_BYTES if line_bytes is None else line_bytes
    reader = _Reader(most, replace_invalid)
    source = cast("BinaryIO", gzip.GzipFile(fileobj=stream)) if is_gzip(stream) else stream
    lines = _lines(source, most)
    number = 0
    try:
        for number, line in enumerate(lines, 1):
            content = _without_bom(line) if number == 1 else line
            if not content.strip():
                continue
            first = reader.line_record(number, content)
            if _is_complete(content, first):
                yield first
                if is_header(first):
                    reader, lines = _Reader(DOCUMENT_BYTES, replace_invalid), _lines(source, DOCUMENT_BYTES)
                rest = enumerate(lines, number + 1)
                yield from (reader.line_record(number, line) for number, line in rest if line.strip())
            else:
                yield from _read_in_memory(content, lines, number, first, reader)
            return
    except (EOFError, OSError, zlib.error) as error:
        yield Record(number + 1, {}, f"the gzip data is damaged: {error}; nothing from here on was read", 0)


def parse_json(text: str) -> Any:
    """Parse JSON strictly: raise ValueError for NaN and infinity, and for duplicate keys, which would lose a value."""
    try:
        return _STRICT.decode(text)
    except RecursionError:
        raise ValueError("the value is nested too deeply") from None


def is_gzip(stream: BinaryIO) -> bool:
    """Return whether the stream is gzipped. Does not change its position."""
    if hasattr(stream, "peek"):
        return bool(stream.peek(2)[:2] == _GZIP)
    if not stream.seekable():
        return False
    beginning = stream.read(2)
    stream.seek(-len(beginning), io.SEEK_CUR)
    return beginning == _GZIP


def _lines(stream: BinaryIO, maximum: int) -> Iterator[bytes]:
    while line := stream.readline(maximum + 1):
        yield line
        while len(line) > maximum and not line.endswith(b"\n"):
            line = stream.readline(maximum + 1)


def _without_bom(beginning: bytes) -> bytes:
    for magic, what in _BINARY_FORMATS.items():
        if beginning.startswith(magic):
            raise ValidationError("file", f"must be UTF-8 text, or gzip of it; this is {what}", beginning[:16])
    if beginning.startswith(_UTF16) or b"\0" in beginning[:4]:
        raise ValidationError("file", "must be UTF-8 text, or gzip of it", beginning[:4])
    return beginning.removeprefix(codecs.BOM_UTF8)


def _is_complete(line: bytes, record: Record) -> bool:
    """Return whether the first line is a complete record: the file is then JSON lines."""
    return not line.lstrip(b" \t\x1e").startswith(b"[") and (not record.problem or not _opens(line))


def _opens(line: bytes) -> bool:
    return line.lstrip(b" \t\x1e").startswith(b"{")


def _read_in_memory(
    first_line: bytes, lines: Iterator[bytes], number: int, first: Record, reader: _Reader
) -> Iterator[Record]:
    """Read the records of a file that is not JSON lines, or whose first line is invalid."""
    held = [first_line]
    size = len(first_line)
    for line in lines:
        held.append(line)
        size += len(line)
        if size > DOCUMENT_BYTES:
            limit = f"at most {DOCUMENT_BYTES:,} bytes where it is not JSON lines: write one object per line"
            raise ValidationError("file", limit, size)
    if _opens(first_line) and _is_json_line(held[1:]):
        yield first
        rest = enumerate(held[1:], number + 1)
        yield from (reader.line_record(number, line) for number, line in rest if line.strip())
    else:
        yield from _values(b"".join(held), number, reader)


def _is_json_line(lines: list[bytes]) -> bool:
    """Return whether the first non-blank line is a complete JSON object: the file is then JSON lines."""
    line = next((line for line in lines if line.strip()), b"")
    try:
        return _opens(line) and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _values(data: bytes, line: int, reader: _Reader) -> Iterator[Record]:
    text = _decode_document(data, reader)
    counted = 0
    try:
        for start, end, array in _elements(text):
            line += text.count("\n", counted, start)
            counted = start
            yield reader.record(line, text[start:end], end - start, array)
    except JSONDecodeError as error:
        line += text.count("\n", counted, error.pos)
        yield Record(line, {}, f"not JSON: {error.msg}; nothing from here on was read", len(text) - error.pos)


def _decode_document(data: bytes, reader: _Reader) -> str:
    try:
        return reader.decode(data)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValidationError(
            "file", f"must be UTF-8 text; line {line} is not", data[error.start : error.end]
        ) from error


def _elements(text: str) -> Iterator[tuple[int, int, int]]:
    """Yield the start and end of each value, and the number of its array (0 if none).

    A nested array has its own number. Values may be separated by commas.
    """
    position, arrays = _skip(text, 0), itertools.count(1)
    while position < len(text):
        if text[position] != "[":
            end = _end_of_value(text, position)
            yield position, end, 0
        else:
            end = yield from _elements_of_array(text, position + 1, arrays)
        position = _skip(text, end)
        if text.startswith(",", position):
            position = _skip(text, position + 1)


def _elements_of_array(
    text: str, position: int, arrays: Iterator[int], depth: int = 1
) -> Generator[tuple[int, int, int], None, int]:
    array = next(arrays)
    position = _skip(text, position)
    while not text.startswith("]", position):
        if text.startswith("[", position) and depth < _NESTED_ARRAYS:
            end = yield from _elements_of_array(text, position + 1, arrays, depth + 1)
        else:
            end = _end_of_value(text, position)
            yield position, end, array
        position = _skip(text, end)
        if text.startswith(",", position):
            position = _skip(text, position + 1)
        elif not text.startswith("]", position):
            raise JSONDecodeError("Expecting ',' or ']'", text, position)
    return position + 1


def _end_of_value(text: str, position: int) -> int:
    try:
        return _LENIENT.raw_decode(text, position)[1]
    except RecursionError:
        raise JSONDecodeError("Nested too deep", text, position) from None


def _skip(text: str, position: int) -> int:
    return _SPACE.match(text, position).end()  # type: ignore[union-attr] # it matches the empty string too


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"not JSON: {name}")


def _finite(digits: str) -> float:
    value = float(digits)
    if value - value != 0:
        raise ValueError(f"the number {digits} is too large")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"the key {key!r} is given twice")
        content[key] = value
    return content


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)
_LENIENT = json.JSONDecoder(parse_int=str, parse_float=str)  # it only finds the end of a value
