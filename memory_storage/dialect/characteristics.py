"""The execution options that this dialect adds: how transactions begin, and whether idle ones are kept open."""

from __future__ import annotations

from typing import Any

from sqlalchemy import exc
from sqlalchemy.engine.characteristics import ConnectionCharacteristic

_BEGIN_MODES = {"", "DEFERRED", "IMMEDIATE"}


class BeginCharacteristic(ConnectionCharacteristic):
    """`execution_options(libsql_begin="IMMEDIATE")`: how transactions of this connection begin."""

    transactional = True

    def reset_characteristic(self, dialect: Any, dbapi_connection: Any) -> None:  # noqa: ARG002 - SQLAlchemy's signature
        """Let the first statement decide again."""
        dbapi_connection.begin_mode = ""

    def set_characteristic(self, dialect: Any, dbapi_connection: Any, value: str) -> None:  # noqa: ARG002 - also
        """Set the mode. ArgumentError unless `value` is "", "DEFERRED" or "IMMEDIATE"."""
        if value not in _BEGIN_MODES:
            raise exc.ArgumentError(f"libsql_begin must be one of {sorted(_BEGIN_MODES)}, not {value!r}")
        dbapi_connection.begin_mode = value

    def get_characteristic(self, dialect: Any, dbapi_connection: Any) -> str:  # noqa: ARG002 - also
        """Return the current mode."""
        mode: str = dbapi_connection.begin_mode
        return mode


class KeepAliveCharacteristic(ConnectionCharacteristic):
    """`execution_options(libsql_keep_alive=True)`: idle transactions of this connection do not expire on a server."""

    transactional = True

    def reset_characteristic(self, dialect: Any, dbapi_connection: Any) -> None:  # noqa: ARG002 - SQLAlchemy's signature
        """Let idle transactions expire again, after ten seconds."""
        dbapi_connection.keep_alive = False

    def set_characteristic(self, dialect: Any, dbapi_connection: Any, value: bool) -> None:  # noqa: ARG002 - also
        """Set whether idle transactions are kept alive."""
        dbapi_connection.keep_alive = value

    def get_characteristic(self, dialect: Any, dbapi_connection: Any) -> bool:  # noqa: ARG002 - also
        """Return whether idle transactions are kept alive."""
        value: bool = dbapi_connection.keep_alive
        return value
