"""The SQLAlchemy dialect for libSQL: sqlalchemy-libsql's over this package's driver. Knows no tables of ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from sqlalchemy import LargeBinary, event, exc, pool
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.engine import URL, Engine
from sqlalchemy.engine.characteristics import ConnectionCharacteristic
from sqlalchemy.engine.interfaces import DBAPIConnection, IsolationLevel
from sqlalchemy_libsql.libsql import SQLiteDialect_libsql

from . import dbapi

_BEGIN_MODES = {"", "DEFERRED", "IMMEDIATE"}
_VECTOR_TABLE = "libsql_vector_meta_shadow"  # the engine's list of vector indexes
_VECTOR_TYPES = ("F64_BLOB", "F32_BLOB", "F16_BLOB", "FB16_BLOB", "F8_BLOB", "F1BIT_BLOB")
_OPTIONS: dict[str, type] = {"durability": str, "busy_timeout": float}


class BeginCharacteristic(ConnectionCharacteristic):
    """`execution_options(libsql_begin="IMMEDIATE")`: how the transactions of this connection begin."""

    transactional = True

    def reset_characteristic(self, dialect: Any, dbapi_connection: Any) -> None:  # noqa: ARG002 - SQLAlchemy's signature
        """Back to: the first statement decides."""
        dbapi_connection.begin_mode = ""

    def set_characteristic(self, dialect: Any, dbapi_connection: Any, value: str) -> None:  # noqa: ARG002 - also
        """ArgumentError where `value` is neither "", "DEFERRED" nor "IMMEDIATE"."""
        if value not in _BEGIN_MODES:
            raise exc.ArgumentError(f"libsql_begin must be one of {sorted(_BEGIN_MODES)}, not {value!r}")
        dbapi_connection.begin_mode = value

    def get_characteristic(self, dialect: Any, dbapi_connection: Any) -> str:  # noqa: ARG002 - also
        """The mode in force."""
        mode: str = dbapi_connection.begin_mode
        return mode


class LibSQLDialect(SQLiteDialect_libsql):  # type: ignore[misc] # sqlalchemy-libsql is not annotated
    """`libsql:///file.db` and `libsql://` (in memory). `name` stays "sqlite", so Alembic and upserts know it."""

    driver = "libsql"
    is_async = False
    supports_statement_cache = True
    ischema_names: ClassVar[dict[str, Any]] = {
        **SQLiteDialect.ischema_names,
        **dict.fromkeys(_VECTOR_TYPES, LargeBinary),
    }
    connection_characteristics = SQLiteDialect_libsql.connection_characteristics.union(
        {"libsql_begin": BeginCharacteristic()}
    )

    @classmethod
    def import_dbapi(cls) -> ModuleType:
        """Ours."""
        return dbapi

    @classmethod
    def get_pool_class(cls, url: URL) -> type[pool.Pool]:  # noqa: ARG003 - SQLAlchemy's signature
        """A queue, for memory too: `MemoryDatabase` is one database for all of its connections."""
        return pool.QueuePool

    @classmethod
    def engine_created(cls, engine: Engine) -> None:
        """A process that was forked off opens its own connections."""
        event.listen(engine, "checkout", _refuse_unusable)

    def create_connect_args(self, url: URL) -> tuple[Sequence[str], dict[str, Any]]:
        """The file's absolute path, or a new in-memory database for this engine, and the URL's options."""
        if url.host:
            raise exc.ArgumentError(f"{url.host!r}: connections to a server are not supported yet; use libsql:///path")
        unknown = sorted(set(url.query) - set(_OPTIONS))
        if unknown:
            raise exc.ArgumentError(f"unknown option {unknown[0]!r} in the URL; known are {sorted(_OPTIONS)}")
        options = {name: _OPTIONS[name](value) for name, value in url.query.items()}
        if url.database in {None, "", ":memory:"}:
            return [dbapi.MemoryDatabase()], options  # type: ignore[list-item]
        return [str(Path(url.database or "").absolute())], options

    def on_connect(self) -> Callable[[DBAPIConnection], None] | None:
        """Nothing: REGEXP and FLOOR are built into the engine."""
        return None

    def set_isolation_level(self, dbapi_connection: Any, level: IsolationLevel) -> None:
        """AUTOCOMMIT is the driver's own; the others are the engine's."""
        dbapi_connection.autocommit = level == "AUTOCOMMIT"
        if level != "AUTOCOMMIT":
            # Not super(): pysqlite's sets an attribute of the sqlite3 module's connections.
            SQLiteDialect.set_isolation_level(self, dbapi_connection, level)

    def detect_autocommit_setting(self, dbapi_conn: Any) -> bool:
        """Whether the connection commits by itself."""
        autocommit: bool = dbapi_conn.autocommit
        return autocommit

    def is_disconnect(self, e: Exception, connection: Any, cursor: Any) -> bool:  # noqa: ARG002 - SQLAlchemy's signature
        """A connection that is closed, broken or of another process leaves the pool."""
        return isinstance(e, dbapi.InterfaceError) or (connection is not None and not connection.usable)

    def get_table_names(self, connection: Any, schema: str | None = None, **kw: Any) -> list[str]:
        """The tables, without those that the vector indexes keep for themselves."""
        names: list[str] = super().get_table_names(connection, schema, **kw)
        if _VECTOR_TABLE not in names:
            return names
        table = ".".join(map(self.identifier_preparer.quote_identifier, filter(None, (schema, _VECTOR_TABLE))))
        indexes = connection.exec_driver_sql(f"SELECT name FROM {table}").scalars()  # noqa: S608 - quoted
        hidden = {_VECTOR_TABLE, *(f"{index}_shadow" for index in indexes)}
        return [name for name in names if name not in hidden]

    def _get_table_pragma(self, connection: Any, pragma: str, table_name: str, schema: str | None = None) -> Any:
        # A vector index is over an expression, which SQLAlchemy leaves out with a warning; this leaves it out without.
        rows = super()._get_table_pragma(connection, pragma, table_name, schema)
        if pragma != "index_list" or not rows:
            return rows
        master = ".".join(map(self.identifier_preparer.quote_identifier, filter(None, (schema, "sqlite_master"))))
        query = f"SELECT name FROM {master} WHERE type = 'index' AND sql LIKE '%libsql_vector_idx%'"  # noqa: S608 - quoted
        vector_indexes = set(connection.exec_driver_sql(query).scalars())
        return [row for row in rows if row[1] not in vector_indexes]


def _refuse_unusable(dbapi_connection: Any, record: Any, proxy: Any) -> None:  # noqa: ARG001 - SQLAlchemy's signature
    if not dbapi_connection.usable:
        raise exc.DisconnectionError("the connection belongs to another process or is broken")


dialect = LibSQLDialect
