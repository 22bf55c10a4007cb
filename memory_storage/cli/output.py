"""How things are shown: data on stdout, as JSON or a table; talk and progress on stderr. Knows no command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from pydantic_core import to_json
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from memory_storage._formatting import in_one_line, printable

_WIDTH_OF_A_FILE = 160
_READABLE = 16  # columns of a terminal that a text needs at least
_GAP = 2
_BESIDE = " · "


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the one place that handles it."""
        raise BrokenPipeError


def write_json(value: Any) -> None:
    """One JSON document, in UTF-8 whatever the terminal's encoding is."""
    sys.stdout.flush()
    write_line(to_json(value))


def write_line(line: bytes) -> None:
    """One line of data."""
    for rest in (memoryview(line), memoryview(b"\n")):  # not joined: a line may be large
        while rest:
            # With PYTHONUNBUFFERED set this is the bare file, which may take only a part.
            rest = rest[sys.stdout.buffer.write(rest) :]


def talk(message: str) -> None:
    """A sentence for the person at the terminal."""
    print(printable(message), file=sys.stderr)  # noqa: T201 - this is where printing is done


def say(message: str) -> None:
    """A sentence that is what the command is for."""
    _stdout().print(Text(printable(message)), soft_wrap=True)


def show_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, whole: Sequence[str] = (), nothing: str = ""
) -> None:
    """Show rows under their columns; where the columns have no room beside each other, one row below the other.

    Args:
        columns: their names, which are never broken.
        rows: the cells; each is shown in one line if there is room, and None as nothing.
        whole: the columns whose cells are never broken.
        nothing: the sentence, on stderr, for a table without rows.
    """
    if not rows and nothing:
        talk(nothing)
        return
    console = _stdout()
    cells = [["" if cell is None else in_one_line(str(cell)) for cell in row] for row in rows]
    widths = _widths(columns, cells, whole, console.width)
    if widths is None:
        for row in cells:
            console.print(_record(columns, row, console.width))
        return
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for name, width in zip(columns, widths, strict=True):
        table.add_column(name, width=width, no_wrap=name in whole, overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)


def has_wide_output() -> bool:
    """Whether there is room for whole ids: in a file or a pipe, and in a terminal that is as wide."""
    return _stdout().width >= _WIDTH_OF_A_FILE


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]], whole: Sequence[str], room: int) -> list[int] | None:
    """Return the width of each column, or None if they have no room beside each other."""
    longest = [max(map(cell_len, column)) for column in zip(columns, *rows, strict=True)]
    least = [
        size if name in whole else max(cell_len(name), min(size, _READABLE))
        for name, size in zip(columns, longest, strict=True)
    ]
    room -= _GAP * (len(columns) - 1)
    if sum(least) > room:
        return None

    def widths(most: int) -> list[int]:
        return [max(low, min(size, most)) for low, size in zip(least, longest, strict=True)]

    return next(found for most in range(room, 0, -1) if sum(found := widths(most)) <= room)


def _record(columns: Sequence[str], row: Sequence[str], width: int) -> Table:
    """A row as its first cell, and below it the others with their names."""
    lines: list[Text] = []
    for name, cell in zip(columns[1:], row[1:], strict=True):
        if not cell:
            continue
        part = Text.assemble((name, "dim"), " ", cell)
        if lines and lines[-1].cell_len + len(_BESIDE) + part.cell_len <= width - _GAP:
            lines[-1].append(_BESIDE).append_text(part)
        else:
            lines.append(part)
    record = Table.grid(expand=False)
    record.add_column(overflow="fold")
    record.add_row(Text(row[0], "bold"))
    for line in lines:
        record.add_row(Padding(line, (0, 0, 0, _GAP)))
    return record


def show_fields(fields: Mapping[str, object]) -> None:
    """Show names and values, one pair a line; what is None is left out."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields.items():
        if value is not None:
            table.add_row(Text(in_one_line(name)), Text(printable(str(value))))
    _stdout().print(table)


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, if that is a terminal: gives what to call with how much is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)


def drop_stdout() -> None:
    """Nobody reads any more: let what is still buffered go nowhere, in silence."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stdout() -> Console:
    console = _Console(file=sys.stdout, highlight=False, emoji=False, markup=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDTH_OF_A_FILE
    return console
