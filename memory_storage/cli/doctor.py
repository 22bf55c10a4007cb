"""The command that finds out what is wrong with a database, and mends it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from memory_storage.doctor import Finding, Report, examine, mend
from memory_storage.errors import CorruptDataError

from .app import app
from .database import settings_for
from .options import AsJson, Database
from .output import say, show_table, write_json


@app.command()
def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Mend what can be. Make a backup before.")] = False,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Find out what is wrong with the database, and mend it. Leaves with 9 if it is not sound. Shows no stored value.

    With --fix, indexes and counters are made anew, and columns are taken from their documents. No row is deleted: one
    that cannot be used is moved to a table quarantined_..., as it is.
    """
    settings = settings_for(database, None)
    report = mend(settings) if fix else examine(settings)
    if as_json:
        write_json({"findings": _as_json(report.findings), "mended": _as_json(report.mended)})
    else:
        _show(report)
    if not report.is_sound:
        can = any(finding.can_mend for finding in report.findings)
        raise CorruptDataError("it is not sound" + (": --fix mends what can be" if can and not fix else ""))


def _show(report: Report) -> None:
    if report.mended:
        say("mended:")
        show_table(*_table(report.mended), whole=["what"])
    if report.is_sound:
        say("nothing is wrong" + (" any more" if report.mended else ""))
    else:
        show_table(*_table(report.findings), whole=["what"])


def _table(findings: list[Finding]) -> tuple[list[str], list[tuple[object, ...]]]:
    rows: list[tuple[object, ...]] = [(one.code, one.table, one.rows, one.problem, one.remedy) for one in findings]
    return ["what", "where", "rows", "problem", "remedy"], rows


def _as_json(findings: list[Finding]) -> list[dict[str, Any]]:
    names = ("code", "table", "rows", "problem", "remedy", "seqs", "can_mend")
    return [{name: getattr(finding, name) for name in names} for finding in findings]
