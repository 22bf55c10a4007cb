"""What was found: facts without any stored value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection

from memory_storage._deprecation import renamed_attributes

_SHOWN = 5


@renamed_attributes(can_mend="can_repair")
@dataclass(frozen=True)
class Finding:
    """Something that is wrong. `code` is its kind, like "orphans.steps"; `seqs` are the first of the rows it is about.

    `remedy` says what `repair` does, or what somebody has to do where it can do nothing.
    """

    code: str
    table: str
    rows: int
    problem: str
    remedy: str
    seqs: tuple[int, ...] = ()
    repair: Callable[[Connection], None] | None = field(default=None, repr=False, compare=False)

    @property
    def can_repair(self) -> bool:
        """Whether `repair` can repair it."""
        return self.repair is not None


@renamed_attributes(is_sound="is_healthy", mended="repaired")
@dataclass(frozen=True)
class Report:
    """What is wrong, and what was repaired."""

    findings: list[Finding]
    repaired: list[Finding] = field(default_factory=list)

    @property
    def is_healthy(self) -> bool:
        """Whether nothing is wrong (any more)."""
        return not self.findings


def about_rows(
    code: str,
    table: str,
    seqs: Sequence[int],
    problem: str,
    remedy: str,
    repair: Callable[[Connection], None] | None,
) -> list[Finding]:
    """One finding about these rows; none if there are none."""
    if not seqs:
        return []
    return [Finding(code, table, len(seqs), problem, remedy, tuple(seqs[:_SHOWN]), repair)]


def seqs_of(connection: Connection, sql: str, *values: object) -> list[int]:
    """The first column of a query."""
    return [row[0] for row in connection.exec_driver_sql(sql, values)]


def has_table(connection: Connection, name: str) -> bool:
    """Whether there is a table, or a view, of that name."""
    return bool(seqs_of(connection, "SELECT 1 FROM sqlite_master WHERE name = ?", name))
