"""The command `doctor`: check a database and repair it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from memory_storage import doctor as checks
from memory_storage.doctor import Finding, Report
from memory_storage.errors import CorruptDataError

from .app import app
from .database import settings_for
from .options import AsJson, Database
from .output import say, show_table, write_json
from .renamed_options import renamed_options


@app.command(cls=renamed_options({"--fix": "--repair"}))
def doctor(
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair the damage where possible. Make a backup first.")
    ] = False,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Check the database for damage, and repair it with --repair. Exits with 9 if it is damaged.

    With --repair, indexes and counters are rebuilt, and columns are restored from their documents. No row is deleted:
    unusable rows are moved unchanged to a table quarantined_.... Stored values are never shown.
    """
    settings = settings_for(database, None)
    report = checks.repair(settings) if repair else checks.check(settings)
    if as_json:
        write_json({"findings": _as_json(report.findings), "repaired": _as_json(report.repaired)})
    else:
        _show(report)
    if not report.is_healthy:
        can = any(finding.can_repair for finding in report.findings)
        raise CorruptDataError("the database is damaged" + ("; repair it with --repair" if can and not repair else ""))


def _show(report: Report) -> None:
    if report.repaired:
        say("repaired:")
        show_table(*_table(report.repaired), whole=["what"])
    if report.is_healthy:
        say("the database is healthy" + (" now" if report.repaired else ""))
    else:
        show_table(*_table(report.findings), whole=["what"])


def _table(findings: list[Finding]) -> tuple[list[str], list[tuple[object, ...]]]:
    rows: list[tuple[object, ...]] = [(one.code, one.table, one.rows, one.problem, one.remedy) for one in findings]
    return ["what", "where", "rows", "problem", "remedy"], rows


def _as_json(findings: list[Finding]) -> list[dict[str, Any]]:
    names = ("code", "table", "rows", "problem", "remedy", "seqs")
    return [
        {**{name: getattr(finding, name) for name in names}, "can_repair": finding.can_repair} for finding in findings
    ]
