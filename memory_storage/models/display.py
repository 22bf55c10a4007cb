"""Short representations for a terminal and a notebook: one line, an aligned table, an HTML table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from html import escape
from uuid import UUID

from memory_storage._formatting import counted, in_one_line, width_of

_CELL_LENGTH = 60  # characters
_REPR_LENGTH = 80  # characters: that of a hit has its score too, and fits into a line of 100
_MIN_TEXT_LENGTH = 12  # minimum characters of the text in a repr
_MAX_ROWS = 50


def short_repr(name: str, identifier: object, text: str, facts: Sequence[str]) -> str:
    """Return one line of about 80 characters, like `Episode(0197a1b2-3c4d…, 'Fix the login', outcome='success')`.

    Args:
        name: the class.
        identifier: a UUID, of which the beginning is shown.
        text: the description; it is cut to what is left of the line.
        facts: what follows it, each as it is to be shown.
    """
    known = [_short_id(identifier), *facts]
    room = _REPR_LENGTH - len(name) - sum(len(fact) + 2 for fact in known) - 2
    shown = [repr(shortened(text, max(_MIN_TEXT_LENGTH, room)))] if text else []
    return f"{name}({', '.join([known[0], *shown, *known[1:]])})"


def _short_id(identifier: object) -> str:
    if isinstance(identifier, UUID):
        return f"{str(identifier)[:13]}…"  # of version 7: its millisecond
    return shortened(str(identifier), 20)


def text_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return the rows under their columns, aligned; a last line says how many more there are than 50."""
    cells = [list(columns), *([_cell(value) for value in row] for row in rows[:_MAX_ROWS])]
    widths = [max(map(width_of, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(_padded, row, widths)).rstrip() for row in cells]
    return "\n".join([*lines, *_rest(rows)])


def html_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return the rows as an HTML table with everything in it escaped; a paragraph counts those after the 50th."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(_cell(value))}</td>' for value in row)}</tr>" for row in rows[:_MAX_ROWS]
    )
    rest = "".join(f"<p>{line}</p>" for line in _rest(rows))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"


def shortened(text: str, length: int = _CELL_LENGTH) -> str:
    """Return the printable text in one line; of a longer one than `length` characters the beginning, and `…`."""
    line = in_one_line(text[: 2 * length])
    return line if len(line) <= length and len(text) <= 2 * length else f"{line[: length - 1]}…"


def fields_of(item: object) -> dict[str, str]:
    """Return what identifies an item in a table: the fields of its short repr, or the whole repr."""
    arguments = getattr(item, "__repr_args__", None)
    if arguments is None:
        return {"item": shortened(repr(item))}
    return {name or "": _cell(value) for name, value in arguments()}


def table_of(items: Sequence[object]) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of some items: every field that one of their short reprs has."""
    cells = [fields_of(item) for item in items]
    columns = list(dict.fromkeys(name for fields in cells for name in fields))
    return columns, [[fields.get(name, "") for name in columns] for fields in cells]


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
    more = len(rows) - _MAX_ROWS
    return [f"... and {counted(more, 'more row')}"] if more > 0 else []
