"""Copy a database row by row into a new file, and read the copy back to verify it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import chain
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.pool import NullPool

from memory_storage import dbapi
from memory_storage._deprecation import renamed_attributes
from memory_storage._exception_mapping import map_exceptions
from memory_storage.dbapi import EncryptionKey
from memory_storage.errors import CorruptDataError

from ._canonical_text import PIECE, canonical_parts
from ._tables import MANIFEST, Layout, Page, Row, Table, layout, quoted

Progress = Callable[[str, int, int], None]

_MAKE_MANIFEST = f"CREATE TABLE {MANIFEST} (table_name TEXT PRIMARY KEY, rows INTEGER, digest BLOB, made_at INTEGER)"


@dataclass(frozen=True)
class TableReport:
    """The number of copied rows of a table, and the digest of their values."""

    rows: int
    digest: str


@renamed_attributes(with_aside="with_set_aside")
@dataclass(frozen=True)
class BackupReport:
    """The result of a backup or restore.

    Attributes:
        tables: the copied rows and their digests, by table.
        set_aside: the path of the replaced database; None if none was replaced.
    """

    tables: dict[str, TableReport]
    set_aside: Path | None = None

    @property
    def rows(self) -> int:
        """The number of rows of all tables."""
        return sum(table.rows for table in self.tables.values())

    def with_set_aside(self, path: Path | None) -> BackupReport:
        """Return a copy with the path of the replaced database."""
        return replace(self, set_aside=path)


class _Tally:
    """Counts rows and updates their digest."""

    def __init__(self) -> None:
        self.rows = 0
        self._digest = blake2b(digest_size=16)

    def add(self, page: Page) -> None:
        self.rows += len(page.rows)
        update = self._digest.update
        # Most pages have no value that is larger than a piece: spare their rows the search for one.
        texts = map(repr, page.rows) if page.largest <= PIECE else chain.from_iterable(map(canonical_parts, page.rows))
        for text in texts:
            update(text.encode())

    def report(self) -> TableReport:
        return TableReport(self.rows, self._digest.hexdigest())


def copy_database(
    engine: Engine,
    path: Path,
    key: EncryptionKey | None,
    progress: Progress | None = None,
    *,
    check_manifest: bool = False,
) -> BackupReport:
    """Copy a snapshot of the database into a new file, and verify the copy."""
    progress = progress or _ignore_progress
    with map_exceptions(engine):
        target_engine = engine_of(path, key, is_new=True)
        with target_engine.connect().execution_options(libsql_begin="IMMEDIATE") as target:
            # A server ends a snapshot that is idle for ten seconds, so the snapshot is closed before indexes are built.
            with _reading(engine) as source:
                known = _manifest(source) if check_manifest else {}
                source_layout = layout(source)
                report = _copy_rows(source, target, source_layout, progress)
            _compare(report.tables, known or report.tables, "the backup was modified after its creation")
            _complete(target, source_layout)
            _write_manifest(target, report)
            target.commit()
        target_engine.dispose()
        _verify(path, key, report, progress)
    return report


def is_backup(path: Path, key: EncryptionKey | None) -> bool:
    """Return whether the file has a manifest, which only backups have."""
    engine = engine_of(path, key)
    with map_exceptions(engine), _reading(engine) as connection:
        return bool(_manifest(connection))


def engine_of(path: Path, key: EncryptionKey | None, *, is_new: bool = False) -> Engine:
    """Return an engine on a file that no other process uses, without a write-ahead log."""

    def connect() -> dbapi.Connection:
        connection = dbapi.connect(str(path.absolute()), busy_timeout=5, encryption_key=key, configure=False)
        if is_new:  # it is deleted if anything fails, and synced once at the end
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA journal_mode = MEMORY")
            # CREATE INDEX sorts all entries. In a file it takes bounded memory, but a file would be in plain.
            if key is None:
                connection.execute("PRAGMA temp_store = FILE")
        connection.execute("PRAGMA foreign_keys = OFF")
        return connection

    return create_engine("libsql://", creator=connect, poolclass=NullPool, hide_parameters=True)


@contextmanager
def _reading(engine: Engine) -> Iterator[Connection]:
    options = {"libsql_begin": "DEFERRED"} | ({"libsql_keep_alive": True} if engine.url.host else {})
    with engine.connect().execution_options(**options) as connection:
        yield connection


def _copy_rows(source: Connection, target: Connection, source_layout: Layout, progress: Progress) -> BackupReport:
    """Copy the rows of all tables, and of the virtual tables that store rows of their own."""
    total, done, tables = _total(source, source_layout), 0, {}
    for table in source_layout.tables:
        target.exec_driver_sql(table.sql)
        tally = _Tally()
        for page in table.pages(source):
            tally.add(page)
            done += len(page.rows)
            _insert(target, table, page.rows)
            del page  # it may be large: release it before the next one is read
            progress("copied", done, total)
        tables[table.name] = tally.report()
    _run(target, source_layout.statements("view"))
    _run(target, source_layout.statements("table"))
    for name in source_layout.virtual_tables:
        _copy_virtual(source, target, name)
    return BackupReport(tables)


def _copy_virtual(source: Connection, target: Connection, name: str) -> None:
    rows = source.exec_driver_sql(f"SELECT * FROM {quoted(name)}")
    steps = [
        dbapi.BatchStep(f"INSERT INTO {quoted(name)} VALUES ({', '.join('?' * len(row))})", tuple(row)) for row in rows
    ]
    if steps:
        target.exec_driver_sql(dbapi.Batch(steps))


def _insert(target: Connection, table: Table, rows: list[Row]) -> None:
    """Insert a page of rows, many of them with each statement."""
    size = table.rows_per_insert
    rest = len(rows) - len(rows) % size
    if rest:
        chunks = (rows[start : start + size] for start in range(0, rest, size))
        target.exec_driver_sql(table.insert_many, [tuple(chain.from_iterable(chunk)) for chunk in chunks])
    if rows[rest:]:
        target.exec_driver_sql(table.insert, rows[rest:])


def _complete(target: Connection, source_layout: Layout) -> None:
    """Build indexes, full text, sequences and triggers from the copied rows; the source is not needed for it."""
    _run(target, source_layout.statements("index"))
    for index in source_layout.full_text:
        index.fill(target)
    for name, number in source_layout.sequences:
        target.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = ?", (name,))
        target.exec_driver_sql("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (name, number))
    _run(target, source_layout.statements("trigger"))


def _verify(path: Path, key: EncryptionKey | None, report: BackupReport, progress: Progress) -> None:
    """Read the copy back through another connection, and compare it with the report."""
    engine, done, read = engine_of(path, key), 0, {}
    with _reading(engine) as target:
        for table in layout(target).tables:
            tally = _Tally()
            for page in table.pages(target):
                tally.add(page)
                done += len(page.rows)
                del page
                progress("verified", done, report.rows)
            read[table.name] = tally.report()
        _compare(read, report.tables, "the copy differs from the database")
        problems = [row[0] for row in target.exec_driver_sql("PRAGMA integrity_check")]
        if problems != ["ok"]:
            raise CorruptDataError(f"the copy is damaged; nothing was replaced: {'; '.join(problems[:3])}")
    engine.dispose()


def _compare(found: dict[str, TableReport], expected: dict[str, TableReport], problem: str) -> None:
    wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    if wrong:
        raise CorruptDataError(
            f"{problem}: the rows of {', '.join(wrong)} differ; nothing was replaced", table=wrong[0]
        )


def _manifest(source: Connection) -> dict[str, TableReport]:
    present = source.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = ?", (MANIFEST,)).first()
    if not present:
        return {}
    rows = source.exec_driver_sql(f"SELECT table_name, rows, lower(hex(digest)) FROM {MANIFEST}")
    return {name: TableReport(number, digest) for name, number, digest in rows}


def _write_manifest(target: Connection, report: BackupReport) -> None:
    target.exec_driver_sql(_MAKE_MANIFEST)
    now = time.time_ns() // 1000
    for name, table in report.tables.items():
        values = (name, table.rows, bytes.fromhex(table.digest), now)
        target.exec_driver_sql(f"INSERT INTO {MANIFEST} VALUES (?, ?, ?, ?)", values)


def _total(source: Connection, source_layout: Layout) -> int:
    counts = " UNION ALL ".join(f"SELECT count(*) AS n FROM {quoted(table.name)}" for table in source_layout.tables)
    return int(source.exec_driver_sql(f"SELECT sum(n) FROM ({counts})").scalar() or 0)


def _run(target: Connection, statements: Iterable[str]) -> None:
    for sql in statements:
        target.exec_driver_sql(sql)


def _ignore_progress(what: str, done: int, total: int) -> None:
    """Ignore progress."""
