"""Output of the commands: data on stdout, as JSON or a table; messages and progress on stderr."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from pydantic_core import to_json
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from memory_storage._formatting import in_one_line, printable

_WIDTH_OF_A_FILE = 160
_READABLE = 16  # the minimum width of a text column, in terminal columns
_WORD = 36  # a word of at most this width, that of a UUID, is not split in a table
_GAP = 2
_BESIDE = " · "


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise it, so that `app` handles it."""
        raise BrokenPipeError


def write_json(value: Any) -> None:
    """Write one JSON document, in UTF-8 whatever the terminal's encoding is."""
    sys.stdout.flush()
    write_line(to_json(value))


def write_line(line: bytes) -> None:
    """Write one line of data."""
    WholeStream(sys.stdout.buffer).writelines((line, b"\n"))  # not joined: a line may be large


class WholeStream(io.BufferedIOBase):
    """A binary stream like stdout's, to which each write is complete, and which is never closed."""

    def __init__(self, target: BinaryIO) -> None:
        self._target = target

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any, /) -> int:
        """Write all of the bytes."""
        rest = memoryview(data)
        while rest:
            # With PYTHONUNBUFFERED set, stdout is the raw file, whose write() may be partial.
            rest = rest[self._target.write(rest) :]
        return len(data)

    def flush(self) -> None:
        """Flush what is written."""
        self._target.flush()

    def close(self) -> None:
        """Flush what is written; the stream stays open."""
        self.flush()


def talk(message: str) -> None:
    """Write a message to stderr."""
    print(printable(message), file=sys.stderr)  # noqa: T201 - this is where printing is done


def say(message: str) -> None:
    """Write a line of text to stdout."""
    _stdout().print(Text(printable(message)), soft_wrap=True)


def show_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, whole: Sequence[str] = (), nothing: str = ""
) -> None:
    """Show rows as a table; if the terminal is too narrow for the columns, as one record per row.

    Args:
        columns: their names, which are never wrapped.
        rows: the cells; each is shown in one line if it fits, and None as an empty cell.
        whole: the columns whose cells are never wrapped.
        nothing: the message, on stderr, for a table without rows.
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
    """Return whether complete ids fit: in a file or a pipe, and in a terminal of at least 160 columns."""
    return _stdout().width >= _WIDTH_OF_A_FILE


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]], whole: Sequence[str], room: int) -> list[int] | None:
    """Return the width of each column, or None if they do not fit next to each other."""
    longest = [max(map(cell_len, column)) for column in zip(columns, *rows, strict=True)]
    words = [  # the longest word of each column that is not split
        max((size for cell in column for word in cell.split() if (size := cell_len(word)) <= _WORD), default=0)
        for column in zip(columns, *rows, strict=True)
    ]
    least = [
        size if name in whole else max(cell_len(name), min(size, _READABLE), word)
        for name, size, word in zip(columns, longest, words, strict=True)
    ]
    room -= _GAP * (len(columns) - 1)
    if sum(least) > room:
        return None

    def widths(most: int) -> list[int]:
        return [max(low, min(size, most)) for low, size in zip(least, longest, strict=True)]

    return next(found for most in range(room, 0, -1) if sum(found := widths(most)) <= room)


def _record(columns: Sequence[str], row: Sequence[str], width: int) -> Table:
    """Return a row as a record: its first cell, and below it the others with their names."""
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
    """Show names and values, one pair a line; omit those that are None."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields.items():
        if value is not None:
            table.add_row(Text(in_one_line(name)), Text(printable(str(value))))
    _stdout().print(table)


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr if it is a terminal; yields the function that sets the amount done."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)


def drop_stdout() -> None:
    """Discard buffered output after its reader has closed it."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stdout() -> Console:
    console = _Console(file=sys.stdout, highlight=False, emoji=False, markup=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDTH_OF_A_FILE
    return console
