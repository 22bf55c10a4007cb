"""Rows as an aligned text and as HTML, for a terminal and a notebook. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from html import escape

from memory_storage._formatting import counted, in_one_line, width_of

_LONGEST = 60  # characters of a cell
_MOST_ROWS = 50


def text_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return the rows under their columns, aligned; a last line says how many are not shown."""
    cells = [list(columns), *([_cell(value) for value in row] for row in rows[:_MOST_ROWS])]
    widths = [max(map(width_of, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(_padded, row, widths)).rstrip() for row in cells]
    return "\n".join([*lines, *_rest(rows)])


def html_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return the rows as an HTML table; everything in it is escaped."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(_cell(value))}</td>' for value in row)}</tr>" for row in rows[:_MOST_ROWS]
    )
    rest = "".join(f"<p>{line}</p>" for line in _rest(rows))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"


def shortened(text: str, length: int = _LONGEST) -> str:
    """Return the printable text in one line, and its beginning if it is longer than `length`."""
    line = in_one_line(text[: 2 * length])
    return line if len(line) <= length and len(text) <= 2 * length else f"{line[: length - 3]}..."


def fields_of(item: object) -> dict[str, str]:
    """Return what identifies an item in a list: the fields of its short repr, or the whole repr."""
    arguments = getattr(item, "__repr_args__", None)
    if arguments is None:
        return {"item": shortened(repr(item))}
    return {name or "": _cell(value) for name, value in arguments()}


def table_of(items: Sequence[object]) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of some items: every field that one of their short reprs has."""
    found = [fields_of(item) for item in items]
    columns = list(dict.fromkeys(name for fields in found for name in fields))
    return columns, [[fields.get(name, "") for name in columns] for fields in found]


def _padded(cell: str, width: int) -> str:
    return cell + " " * (width - width_of(cell))


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, datetime):
        return value.isoformat(" ", "seconds")
    return shortened(str(value))


def _rest(rows: Sequence[object]) -> list[str]:
    more = len(rows) - _MOST_ROWS
    return [f"... and {counted(more, 'more row')}"] if more > 0 else []
