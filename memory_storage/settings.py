"""Settings: where the database is, how it is reached, and what is too much. Every rule about them is here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import pydantic
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, field_validator
from typing_extensions import Self

from .errors import ConfigurationError, InsecureConnectionError

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]

MEMORY = ":memory:"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except pydantic.ValidationError as error:
            raise _as_configuration_error(error) from error

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # see models/_model.py


class PoolSettings(_Section):
    """The connection pool."""

    max_connections: Count = 10
    min_idle: Annotated[int, Field(ge=0)] = 0
    connect_timeout: Seconds = 30.0
    idle_timeout: Seconds = 600.0


class CircuitBreakerSettings(_Section):
    """When to stop asking a database that does not answer."""

    enabled: bool = True
    failure_threshold: Count = 5
    success_threshold: Count = 2
    timeout: Seconds = 60.0
    half_open_max_calls: Count = 3


class RetrySettings(_Section):
    """How a unit of work is repeated when that is safe."""

    max_attempts: Count = 3
    initial_backoff: Seconds = 0.1
    max_backoff: Seconds = 5.0
    multiplier: Annotated[float, Field(ge=1)] = 2.0


class Limits(_Section):
    """What is too much. Over a limit is a ValidationError; nothing is cut."""

    task_description: Count = 10_000
    steps_per_episode: Count = 10_000
    step_bytes: Count = 1_000_000
    document_bytes: Count = 10_000_000
    tags: Count = 100
    tag_min_length: Count = 2
    tag_max_length: Count = 100
    query_default: Count = 100
    query_maximum: Count = 1_000


class Settings(_Section):
    """All of it. `database` is a path, ":memory:", or a URL; `Settings.from_environment()` reads the environment too.

    Raises ConfigurationError, naming the setting, for a value that cannot work.
    """

    model_config = ConfigDict(populate_by_name=True)

    database: Annotated[str, Field(validation_alias=AliasChoices("TURSO_DATABASE_URL", "LIBSQL_DATABASE_PATH"))]
    auth_token: Annotated[SecretStr | None, Field(validation_alias="TURSO_AUTH_TOKEN")] = None
    namespace: Annotated[str, Field(min_length=1, max_length=200)] = "default"
    durability: Literal["full", "normal"] = "full"
    request_timeout: Seconds = 30.0
    pool: PoolSettings = Field(default_factory=PoolSettings)
    circuit_breaker: CircuitBreakerSettings = Field(default_factory=CircuitBreakerSettings)
    retry: RetrySettings = Field(default_factory=RetrySettings)
    limits: Limits = Field(default_factory=Limits)

    @field_validator("database")
    @classmethod
    def _can_be_reached(cls, database: str) -> str:
        return _checked_database(database)

    @property
    def path(self) -> Path | None:
        """The database's file, or None for one in memory."""
        return None if self.database == MEMORY else Path(self.database)

    @classmethod
    def from_environment(cls, **overrides: Any) -> Self:
        """Settings from TURSO_DATABASE_URL, TURSO_AUTH_TOKEN or LIBSQL_DATABASE_PATH, and MEMORY_STORAGE_*.

        A nested one is written MEMORY_STORAGE_POOL__MAX_CONNECTIONS. `overrides` win over the environment.
        """
        values = {**_environment(cls), **overrides}
        if "database" not in values:
            raise ConfigurationError(
                "no database is given: pass a path or URL, or set LIBSQL_DATABASE_PATH or TURSO_DATABASE_URL"
            )
        return cls(**values)


def _environment(settings: type[Settings]) -> dict[str, Any]:
    # Imported here: it doubles the time that importing this package takes.
    from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

    class Environment(BaseSettings):
        model_config = SettingsConfigDict(env_prefix="MEMORY_STORAGE_", env_nested_delimiter="__")

    for name, field in settings.model_fields.items():
        Environment.model_fields[name] = field
    try:
        found = EnvSettingsSource(Environment)()
    except SettingsError as error:
        raise ConfigurationError(str(error)) from error
    by_alias = {"TURSO_DATABASE_URL": "database", "LIBSQL_DATABASE_PATH": "database", "TURSO_AUTH_TOKEN": "auth_token"}
    return {by_alias.get(name, name): value for name, value in found.items()}


def _checked_database(database: str) -> str:
    if not database:
        raise ValueError("must be a path, ':memory:' or a URL")
    scheme = urlsplit(database).scheme.lower() if "://" in database else ""
    if scheme in {"http", "ws"}:
        raise InsecureConnectionError(f"{scheme}:// is not encrypted: use libsql://")
    if scheme in {"libsql", "https", "wss"}:
        return _local_part(database)
    if scheme:
        raise ValueError(f"the scheme {scheme!r} is unknown: use a path or libsql://")
    return database if database == MEMORY else os.fspath(Path(database.removeprefix("file:")).expanduser())


def _local_part(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc or parts.scheme != "libsql":
        raise ConfigurationError("database: connections to a server are not supported yet; use a path")
    return parts.path[1:] or MEMORY


def _as_configuration_error(error: pydantic.ValidationError) -> ConfigurationError:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return ConfigurationError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
