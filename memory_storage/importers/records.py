"""A stream of bytes as JSON objects with their lines. Knows nothing of what is in them."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from json import JSONDecodeError
from typing import Any, BinaryIO, NamedTuple, NoReturn

from memory_storage.errors import ValidationError

LINE_BYTES = 80_000_000
"""A longer line is reported without being held: what is in it would not fit into a document of 10 MB."""

_SPACE = re.compile(r"[ \t\r\n]*")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Record(NamedTuple):
    """What begins at `line` (the first is 1): its `content`, or the `problem` that kept it from being read.

    `size` is about how many bytes of the stream it took.
    """

    line: int
    content: dict[str, Any]
    problem: str
    size: int


def read_records(stream: BinaryIO, *, line_bytes: int = LINE_BYTES) -> Iterator[Record]:
    """The objects of JSON lines, of a JSON array, or one object over several lines. UTF-8; a BOM does no harm.

    JSON lines are read one by one, and a broken one does not touch the others. An array is held as a whole; what comes
    after a break in its structure cannot be read, and the problem says so.

    Raises:
        ValidationError: it is in another encoding.
    """
    is_first = True
    for number, line in enumerate(_lines(stream, line_bytes), 1):
        content = _without_bom(line) if number == 1 else line
        if not content.strip():
            continue
        if is_first and _spans_lines(content.strip()):
            yield from _values(content + stream.read(), number)
            return
        is_first = False
        yield _line_record(number, content, line_bytes)


def parse_json(text: str) -> Any:
    """What the text says. ValueError for what JSON lacks (NaN), and for a key given twice: one would be lost."""
    try:
        return _STRICT.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _lines(stream: BinaryIO, maximum: int) -> Iterator[bytes]:
    while line := stream.readline(maximum + 1):
        yield line
        while len(line) > maximum and not line.endswith(b"\n"):
            line = stream.readline(maximum + 1)


def _without_bom(beginning: bytes) -> bytes:
    if beginning.startswith(_UTF16) or b"\0" in beginning[:4]:
        raise ValidationError("file", "must be UTF-8 text", beginning[:4])
    return beginning.removeprefix(codecs.BOM_UTF8)


def _spans_lines(first: bytes) -> bool:
    return first.startswith(b"[") or first == b"{"


def _line_record(number: int, line: bytes, maximum: int) -> Record:
    if len(line) > maximum:
        return Record(number, {}, f"the line has more than {maximum:,} bytes", len(line))
    try:
        return _record(number, line.decode(), len(line))
    except UnicodeDecodeError as error:
        return Record(number, {}, f"not UTF-8: byte {error.start + 1} of the line", len(line))


def _record(line: int, text: str, size: int) -> Record:
    try:
        content = parse_json(text)
    except JSONDecodeError as error:
        return Record(line, {}, f"not JSON: {error.msg} (character {error.pos + 1})", size)
    except ValueError as error:
        return Record(line, {}, str(error), size)
    if not isinstance(content, dict):
        return Record(line, {}, "not a JSON object", size)
    return Record(line, content, "", size)


def _values(data: bytes, line: int) -> Iterator[Record]:
    text = _decoded(data)
    counted = 0
    try:
        for start, end in _elements(text):
            line += text.count("\n", counted, start)
            counted = start
            yield _record(line, text[start:end], end - start)
    except JSONDecodeError as error:
        line += text.count("\n", counted, error.pos)
        yield Record(line, {}, f"not JSON: {error.msg}; nothing from here on was read", len(text) - error.pos)


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValidationError(
            "file", f"must be UTF-8 text; line {line} is not", data[error.start : error.end]
        ) from error


def _elements(text: str) -> Iterator[tuple[int, int]]:
    """Where the elements of an array begin and end; of a lone object, where it does."""
    position = _skip(text, 0)
    is_array = text[position] == "["
    position = _skip(text, position + is_array)
    while not text.startswith("]", position):
        end = _end_of_value(text, position)
        yield position, end
        position = _skip(text, end)
        if not is_array:
            break
        if text.startswith(",", position):
            position = _skip(text, position + 1)
        elif not text.startswith("]", position):
            raise JSONDecodeError("Expecting ',' or ']'", text, position)
    position = _skip(text, position + is_array)
    if position < len(text):
        raise JSONDecodeError("Text after the end", text, position)


def _end_of_value(text: str, position: int) -> int:
    try:
        return _LENIENT.raw_decode(text, position)[1]
    except RecursionError:
        raise JSONDecodeError("Nested too deep", text, position) from None


def _skip(text: str, position: int) -> int:
    return _SPACE.match(text, position).end()  # type: ignore[union-attr] # it matches the empty text too


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"not JSON: {name}")


def _finite(digits: str) -> float:
    value = float(digits)
    if value - value != 0:
        raise ValueError(f"the number {digits} is too large")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is given twice")
    return found


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)
_LENIENT = json.JSONDecoder(parse_int=str, parse_float=str)  # it only looks for where a value ends
