"""How things are shown: data on stdout, as JSON or a table; talk and progress on stderr. Knows no command."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from pydantic_core import to_json
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_WIDTH_OF_A_FILE = 160
# Transcripts come from anywhere: nothing in them may move the cursor or rename the window.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


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
    rest = memoryview(line + b"\n")
    while rest:
        # With PYTHONUNBUFFERED set this is the bare file, which may take only a part.
        rest = rest[sys.stdout.buffer.write(rest) :]


def talk(message: str) -> None:
    """A sentence for the person at the terminal."""
    print(printable(message), file=sys.stderr)  # noqa: T201 - this is where printing is done


def say(message: str) -> None:
    """A sentence that is what the command is for."""
    _stdout().print(Text(printable(message)), soft_wrap=True)


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, whole: Sequence[str] = ()) -> None:
    """Rows under their columns. The columns in `whole` are never broken."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, no_wrap=name in whole, overflow="fold", min_width=None if name in whole else 8)
    for row in rows:
        table.add_row(*(Text(printable("" if cell is None else str(cell))) for cell in row))
    _stdout().print(table)


def show_fields(fields: Mapping[str, object]) -> None:
    """Names and values, one pair a line; what is None is left out."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields.items():
        if value is not None:
            table.add_row(name, Text(printable(str(value))))
    _stdout().print(table)


def printable(text: str) -> str:
    """The text without the characters that a terminal obeys."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


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
