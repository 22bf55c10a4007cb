"""The SQLAlchemy dialect for libSQL: SQLAlchemy's own SQLite dialect on this package's driver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from sqlalchemy import LargeBinary, event, exc, pool
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import URL, Engine, reflection
from sqlalchemy.engine.interfaces import DBAPIConnection, IsolationLevel

from memory_storage import dbapi
from memory_storage.errors import InsecureConnectionError

from .characteristics import BeginCharacteristic, KeepAliveCharacteristic
from .reflection import CatalogueInspector, catalogue_of, known_catalogue_of

_VECTOR_TABLE = "libsql_vector_meta_shadow"  # where the engine lists its vector indexes
_VECTOR_TYPES = ("F64_BLOB", "F32_BLOB", "F16_BLOB", "FB16_BLOB", "F8_BLOB", "F1BIT_BLOB")
_MAIN = {None, "main"}
_OPTIONS: dict[str, type] = {"durability": str, "busy_timeout": float, "local_engine": str}
_LOST = {"TRANSACTION_LOST", "TRANSACTION_TIMEOUT", "STREAM_EXPIRED", "CONNECTION_LOST", "COMMIT_UNKNOWN"}


class LibSQLDialect(SQLiteDialect_pysqlite):
    """`libsql:///file.db`, `libsql://` (in memory) and `libsql://host[:port]`.

    `name` stays "sqlite", so that Alembic and upserts support it.
    """

    driver = "libsql"
    is_async = False
    do_commit = staticmethod(dbapi.commit_or_roll_back)  # type: ignore[assignment] # of all connections
    supports_statement_cache = True
    inspector = CatalogueInspector
    ischema_names: dict[str, Any] = {  # noqa: RUF012 - declared by SQLAlchemy as an attribute of instances
        **SQLiteDialect.ischema_names,
        **dict.fromkeys(_VECTOR_TYPES, LargeBinary),
    }
    connection_characteristics = SQLiteDialect_pysqlite.connection_characteristics.union(
        {"libsql_begin": BeginCharacteristic(), "libsql_keep_alive": KeepAliveCharacteristic()}
    )

    @classmethod
    def import_dbapi(cls) -> ModuleType:
        """Return this package's driver."""
        return dbapi

    @classmethod
    def get_pool_class(cls, url: URL) -> type[pool.Pool]:  # noqa: ARG003 - SQLAlchemy's signature
        """Return QueuePool, for memory too: a `MemoryDatabase` is one database for all of its connections."""
        return pool.QueuePool

    @classmethod
    def engine_created(cls, engine: Engine) -> None:
        """Add the listeners for liveness, modes, disconnects and secrets."""
        if not getattr(engine.pool, "checks_liveness", False):  # such a pool does both itself
            event.listen(engine, "checkout", _refuse_unusable)
            event.listen(engine, "checkin", _reset_modes)
        event.listen(engine, "handle_error", _keep_the_others)
        event.listen(engine, "do_connect", _hide_secrets)
        if engine.hide_parameters:  # SQLAlchemy hides parameters, but logs rows at DEBUG
            engine._should_log_debug = lambda: False  # type: ignore[method-assign]

    def create_connect_args(self, url: URL) -> tuple[Sequence[str], dict[str, Any]]:
        """Return the driver's arguments: an absolute path, an in-memory database or a server, and the options."""
        if url.host:
            return [_server(url)], {}  # type: ignore[list-item]
        unknown = sorted(set(url.query) - set(_OPTIONS))
        if unknown:
            raise exc.ArgumentError(f"unknown option {unknown[0]!r} in the URL; known are {sorted(_OPTIONS)}")
        options = {name: _OPTIONS[name](value) for name, value in url.query.items()}
        if url.database in {None, "", ":memory:"}:
            return [dbapi.MemoryDatabase()], options  # type: ignore[list-item]
        return [str(Path(url.database or "").absolute())], options

    def on_connect(self) -> Callable[[DBAPIConnection], None] | None:  # type: ignore[override] # as of all dialects
        """Return None: pysqlite's functions REGEXP and FLOOR are built into the engine."""
        return None

    def _get_server_version_info(self, connection: Any) -> tuple[int, ...]:  # noqa: ARG002 - SQLAlchemy's signature
        # Known without a query, like the next one: it would be a round trip, which some tokens may not make.
        return dbapi.sqlite_version_info

    def get_default_isolation_level(self, dbapi_conn: Any) -> IsolationLevel:
        """Return the current level: that of the engine's options."""
        return self.get_isolation_level(dbapi_conn)

    def get_isolation_level_values(self, dbapi_connection: Any) -> Sequence[IsolationLevel]:
        """Return the levels; a server has no READ UNCOMMITTED."""
        if dbapi_connection.is_remote:
            return ["SERIALIZABLE", "AUTOCOMMIT"]
        return list(super().get_isolation_level_values(dbapi_connection))

    def get_isolation_level(self, dbapi_connection: Any) -> IsolationLevel:
        """Return the current level."""
        if dbapi_connection.is_remote:
            return "SERIALIZABLE"
        level: IsolationLevel = super().get_isolation_level(dbapi_connection)
        return level

    def do_ping(self, dbapi_connection: Any) -> bool:
        """Return whether the connection is usable. Sends nothing to a server: the driver reconnects."""
        if dbapi_connection.is_remote:
            return bool(dbapi_connection.usable)
        return bool(super().do_ping(dbapi_connection))

    def set_isolation_level(self, dbapi_connection: Any, level: IsolationLevel) -> None:
        """Set the level: AUTOCOMMIT in the driver, others in the engine."""
        dbapi_connection.autocommit = level == "AUTOCOMMIT"
        if level != "AUTOCOMMIT" and not dbapi_connection.is_remote:
            # Not super(): pysqlite's implementation sets an attribute of sqlite3's connections.
            SQLiteDialect.set_isolation_level(self, dbapi_connection, level)

    def detect_autocommit_setting(self, dbapi_conn: Any) -> bool:
        """Return whether the connection is in autocommit mode."""
        autocommit: bool = dbapi_conn.autocommit
        return autocommit

    def is_disconnect(self, e: Exception, connection: Any, cursor: Any) -> bool:  # noqa: ARG002 - SQLAlchemy's signature
        """Return whether a connection lost its transaction, or is closed, broken, or opened by another process."""
        lost = isinstance(e, dbapi.Error) and e.code in _LOST and not isinstance(e, dbapi.InterfaceError)
        if lost and connection is not None and connection.is_remote:
            return True
        return isinstance(e, dbapi.InterfaceError) or (connection is not None and not connection.usable)

    @reflection.cache
    def get_table_names(  # type: ignore[override] # SQLAlchemy's own option is one of the keywords
        self, connection: Any, schema: str | None = None, **kw: Any
    ) -> list[str]:
        """Return the tables, without the shadow tables of vector indexes."""
        names: list[str] = super().get_table_names(connection, schema, **kw)
        if _VECTOR_TABLE not in names:
            return names
        hidden = {_VECTOR_TABLE, *(f"{index}_shadow" for index in self._vector_indexes(connection, schema))}
        return [name for name in names if name not in hidden]

    @reflection.cache
    def get_view_definition(self, connection: Any, view_name: str, schema: str | None = None, **kw: Any) -> str:
        """Return the statement that created a view."""
        # A server has no temporary views, so that only "main" is searched.
        schema = schema or ("main" if _is_remote(connection) else None)
        definition: str = super().get_view_definition(connection, view_name, schema, **kw)
        return definition

    @reflection.cache
    def _get_table_sql(self, connection: Any, table_name: str, schema: str | None = None, **kw: Any) -> str | None:
        if not _is_remote(connection):
            return super()._get_table_sql(connection, table_name, schema, **kw)  # type: ignore[no-any-return]
        known = catalogue_of(connection) if schema in _MAIN else None
        if known and (found := known.sql(table_name)):
            return found
        query = "SELECT sql FROM sqlite_master WHERE name = ? AND type IN ('table', 'view')"
        sql: str | None = connection.exec_driver_sql(query, (table_name,)).scalar()
        if sql is None and not self._is_sys_table(table_name):
            raise exc.NoSuchTableError(table_name)
        return sql

    def _get_table_pragma(self, connection: Any, pragma: str, table_name: str, schema: str | None = None) -> Any:
        # SQLAlchemy skips a vector index with a warning, since it is on an expression. Skip it without one.
        rows = self._pragma(connection, pragma, table_name, schema)
        if pragma != "index_list" or not rows:
            return rows
        vector_indexes = self._vector_indexes(connection, schema)
        return [row for row in rows if row[1] not in vector_indexes]

    def _pragma(self, connection: Any, pragma: str, table_name: str, schema: str | None) -> Any:
        if not _is_remote(connection):
            return super()._get_table_pragma(connection, pragma, table_name, schema)
        asks_for_one = pragma == "table_info"  # one table: not worth reading the whole catalogue
        known = (known_catalogue_of if asks_for_one else catalogue_of)(connection) if schema in _MAIN else None
        rows = known and known.pragma("table_xinfo" if asks_for_one else pragma, table_name)
        if rows is not None:
            return rows
        # As a table-valued function the pragma is a read, which every token may do. A server has no temporary tables.
        query = f"SELECT * FROM pragma_{pragma}(?, ?)"  # noqa: S608 - a name of SQLAlchemy's
        return connection.exec_driver_sql(query, (table_name, schema or "main")).fetchall()

    def _vector_indexes(self, connection: Any, schema: str | None) -> set[str]:
        if schema in _MAIN and (known := catalogue_of(connection)):
            return known.vector_indexes
        master = ".".join(map(self.identifier_preparer.quote_identifier, filter(None, (schema, "sqlite_master"))))
        query = f"SELECT name FROM {master} WHERE type = 'index' AND sql LIKE '%libsql_vector_idx%'"  # noqa: S608 - quoted
        return set(connection.exec_driver_sql(query).scalars())


def _is_remote(connection: Any) -> bool:
    return bool(connection.connection.dbapi_connection.is_remote)


def _server(url: URL) -> dbapi.Server:
    options = {name: value if isinstance(value, str) else value[-1] for name, value in url.query.items()}
    if url.username or url.password:
        raise exc.ArgumentError("a URL with a user or password in it is refused: pass connect_args={'auth_token': ...}")
    try:
        return dbapi.Server.at(url.host, url.port, url.database or "", options)
    except dbapi.ProgrammingError as error:
        if error.code == "INSECURE":
            raise InsecureConnectionError(str(error)) from error
        raise exc.ArgumentError(str(error)) from error


def _hide_secrets(dialect: Any, record: Any, arguments: Any, options: dict[str, Any]) -> None:  # noqa: ARG001 - also
    # A traceback through SQLAlchemy's frames may show the options.
    if options.get("auth_token") is not None:
        options["auth_token"] = dbapi.Credentials.of(options["auth_token"])
    if options.get("encryption_key") is not None:
        options["encryption_key"] = dbapi.EncryptionKey.of(options["encryption_key"])


def _keep_the_others(context: Any) -> None:
    # The end of one stream says nothing about other connections.
    context.invalidate_pool_on_disconnect = False


def _refuse_unusable(dbapi_connection: Any, record: Any, proxy: Any) -> None:  # noqa: ARG001 - SQLAlchemy's signature
    if not dbapi_connection.usable:
        raise exc.DisconnectionError("the connection belongs to another process or is broken")


def _reset_modes(dbapi_connection: Any, record: Any) -> None:  # noqa: ARG001 - also
    # A storage's transaction sets them past the execution options, which would be reset by themselves.
    if dbapi_connection is not None and dbapi_connection.begin_mode:
        dbapi_connection.begin_mode, dbapi_connection.keep_alive = "", False
