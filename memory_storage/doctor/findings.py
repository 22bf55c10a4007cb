"""Findings of a check; they contain no stored value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection

from memory_storage._deprecation import renamed_attributes

_SHOWN = 5


@renamed_attributes(can_mend="can_repair")
@dataclass(frozen=True)
class Finding:
    """A kind of damage.

    Attributes:
        code: the kind, like "orphans.steps".
        table: the damaged table; "" if the finding is about the file.
        rows: the number of damaged rows or objects.
        problem: what is wrong.
        remedy: what `repair` does, or the manual action required if it cannot repair this.
        seqs: the row numbers (`seq`) of the first five damaged rows.
        repair: repairs the damage on a connection; None if it cannot be repaired.
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
        """Whether `doctor.repair` can repair it."""
        return self.repair is not None


@renamed_attributes(is_sound="is_healthy", mended="repaired")
@dataclass(frozen=True)
class Report:
    """The result of a check or repair.

    Attributes:
        findings: the damage found; after a repair, the damage that remains.
        repaired: the damage that was repaired.
    """

    findings: list[Finding]
    repaired: list[Finding] = field(default_factory=list)

    @property
    def is_healthy(self) -> bool:
        """Whether there are no findings."""
        return not self.findings


def about_rows(
    code: str,
    table: str,
    seqs: Sequence[int],
    problem: str,
    remedy: str,
    repair: Callable[[Connection], None] | None,
) -> list[Finding]:
    """Return one finding about these rows; none without rows."""
    if not seqs:
        return []
    return [Finding(code, table, len(seqs), problem, remedy, tuple(seqs[:_SHOWN]), repair)]


def seqs_of(connection: Connection, sql: str, *values: object) -> list[int]:
    """Return the first column of a query."""
    return [row[0] for row in connection.exec_driver_sql(sql, values)]


def has_table(connection: Connection, name: str) -> bool:
    """Return whether there is a table or view of that name."""
    return bool(seqs_of(connection, "SELECT 1 FROM sqlite_master WHERE name = ?", name))
