"""The report of a benchmark, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Line:
    """One ratio: the median of the rounds, the least and the greatest, and the required bounds, if any."""

    name: str
    ratio: float
    least: float
    greatest: float
    detail: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the ratio is within its bounds."""
        return (self.at_least is None or self.ratio >= self.at_least) and (
            self.at_most is None or self.ratio <= self.at_most
        )

    @property
    def bound(self) -> str:
        """The bound as text."""
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "" if self.at_most is None else f"<= {self.at_most:g}"

    def describe(self) -> str:
        """Return the ratio and its bound as one line of text."""
        return f"{self.name}: {self.ratio:.2f}, required {self.bound or 'nothing'}"


def line_of(
    name: str, figure: float, detail: str = "", *, at_least: float | None = None, at_most: float | None = None
) -> Line:
    """Return the line of a figure that was measured once."""
    return Line(name, figure, figure, figure, detail, at_least=at_least, at_most=at_most)


@dataclass(frozen=True)
class Grid:
    """A table of text cells."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Report:
    """The ratios and tables of one benchmark, with notes that explain them."""

    title: str
    lines: list[Line]
    notes: list[str]
    grids: list[Grid] = field(default_factory=list)


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as JSON-compatible values."""
    lines = [{**asdict(line), "holds": line.holds} for line in report.lines]
    grids = {grid.title: [dict(zip(grid.columns, row, strict=True)) for row in grid.rows] for grid in report.grids}
    return {"title": report.title, "lines": lines, "notes": report.notes, "tables": grids}


def show(report: Report) -> None:
    """Print the report."""
    console = Console(width=140)
    for grid in report.grids:
        console.print(_as_table(grid))
    notes = Text("\n".join(report.notes), style="table.caption")  # as text: [bench] is no markup
    table = Table(title=report.title, title_justify="left", caption=notes, caption_justify="left")
    table.add_column("what")
    for name in ("ratio", "min - max", "required"):
        table.add_column(name, justify="right")
    table.add_column("median times")
    for line in report.lines:
        spread = f"{line.least:.2f} - {line.greatest:.2f}"
        table.add_row(line.name, f"{line.ratio:.2f}", spread, _required(line), line.detail)
    console.print(table)


def _required(line: Line) -> str:
    return line.bound if line.holds else f"MISSED {line.bound}"


def as_markdown(report: Report) -> str:
    """Return the tables of the report, and its ratios as another, in Markdown."""
    ratios = [(line.name, f"{line.ratio:.2f}", _required(line), line.detail) for line in report.lines]
    grids = [*report.grids, Grid(report.title, ("what", "ratio", "required", "median times"), ratios)]
    return "\n\n".join(_as_markdown(grid) for grid in grids)


def _as_markdown(grid: Grid) -> str:
    alignment = ("---", *("---:" for _ in grid.columns[1:]))
    return "\n".join(f"| {' | '.join(cell.strip() for cell in row)} |" for row in (grid.columns, alignment, *grid.rows))


def _as_table(grid: Grid) -> Table:
    table = Table(title=grid.title, title_justify="left")
    for number, name in enumerate(grid.columns):
        table.add_column(name, justify="right" if number else "left")
    for row in grid.rows:
        table.add_row(*row)
    return table


def milliseconds(seconds: float) -> str:
    """Format a duration in milliseconds."""
    return f"{seconds * 1000:.{max(0, 2 - len(str(int(seconds * 1000))) + 1)}f} ms"
