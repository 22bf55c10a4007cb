"""Settings: the database, the connection to it, retries, limits and logging; and their validation."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    FilePath,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    field_validator,
    model_validator,
)
from typing_extensions import Self

from . import environment
from ._deprecation import renamed_attributes, warn_renamed
from .dbapi import (
    CONCURRENT_WRITES,
    LOCAL_URL,
    RESPONSE_BYTES,
    Credentials,
    EncryptionKey,
    OperationalError,
    ProgrammingError,
    Server,
    checked_authority,
    redacted,
)
from .errors import ConfigurationError, CredentialError, InsecureConnectionError, TokenExpiredError
from .suggestions import explanation, first_problem

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False, description="seconds")]
Count = Annotated[int, Field(ge=1)]

MEMORY = ":memory:"
_BY_ALIAS = {"TURSO_DATABASE_URL": "database", "LIBSQL_DATABASE_PATH": "database", "TURSO_AUTH_TOKEN": "auth_token"}


class TokenProvider:
    """A callable that returns a token. Its repr is masked; that of a partial or a bound method could show a token."""

    def __init__(self, provide: Callable[[], str | SecretStr]) -> None:
        self._provide = provide

    def __call__(self) -> str | SecretStr:
        """Return a token."""
        return self._provide()

    def __repr__(self) -> str:
        return "**********"


def hidden_token(token: Any) -> Any:
    """Return a token, or a provider of one, in a form whose repr is masked in tracebacks."""
    if callable(token) and not isinstance(token, TokenProvider):
        return TokenProvider(token)
    if token is None or isinstance(token, SecretStr | TokenProvider):
        return token
    return SecretStr(token) if isinstance(token, str) else NotImplemented  # rejected later, without being shown


def hidden(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of settings with every possible secret masked."""
    return {name: _hidden(_BY_ALIAS.get(name, name), value) for name, value in values.items()}


def _hidden(name: str, value: Any) -> Any:
    if "token" in name.lower():  # also in a misspelled name, which is rejected later
        return hidden_token(value)
    if "key" in name.lower() and isinstance(value, str):
        return SecretStr(value)
    return redacted(value) if name == "database" else value


def _checked_token(token: Any) -> Any:
    token = hidden_token(token)
    if token is NotImplemented:
        raise ValueError("must be a string, or a callable that returns one")
    return token


AuthToken = Annotated[
    SecretStr | Callable[[], str | SecretStr] | None,
    PlainValidator(_checked_token),
    PlainSerializer(lambda token: token and "**********", when_used="json"),
]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, hide_input_in_errors=True)

    def __init__(self, /, **values: Any) -> None:
        values = hidden(values)  # before anything can fail: a traceback may show this frame
        try:
            super().__init__(**values)
        except pydantic.ValidationError as error:
            problem = _as_configuration_error(error, type(self))
        except ConfigurationError as error:
            problem = error.with_traceback(None)
        else:
            return
        values.clear()
        raise problem  # not in a block above: the frames of pydantic hold the values

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # see models/model.py


class PoolSettings(_Section):
    """The connection pool.

    `min_idle` connections are opened by `MemoryStorage.open`, and stay open even when idle; others are closed
    after `idle_timeout` idle seconds. A broken connection is replaced when one is needed.
    """

    max_connections: Count = 10
    min_idle: Annotated[int, Field(ge=0)] = 0
    connect_timeout: Seconds = 30.0
    idle_timeout: Seconds = 600.0

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if self.min_idle > self.max_connections:
            raise ValueError("min_idle is more than max_connections")
        return self


class CircuitBreakerSettings(_Section):
    """When calls to an unreachable database are refused. All namespaces of a storage share one breaker.

    `failure_threshold` failures in a row open the circuit. After `timeout` seconds it is half open: up to
    `half_open_max_calls` calls at a time are admitted, and `success_threshold` successes close it.
    """

    enabled: bool = True
    failure_threshold: Count = 5
    success_threshold: Count = 2
    timeout: Seconds = 60.0
    half_open_max_calls: Count = 3


class RetrySettings(_Section):
    """How a call, or a unit of work, is retried when that cannot apply a write twice.

    At most `max_attempts` attempts, with full jitter between them; none begins later than `deadline` seconds after the
    first. `budget` limits the retries during an outage: each retry costs one, each success refunds a tenth.
    """

    max_attempts: Count = 3
    initial_backoff: Seconds = 0.1
    max_backoff: Seconds = 5.0
    multiplier: Annotated[float, Field(ge=1)] = 2.0
    deadline: Seconds = 60.0
    budget: Annotated[int, Field(ge=0)] = 10


class LoggingSettings(_Section):
    """What is logged in addition to warnings: SQL, names and ids, never values.

    `slow_query`: seconds from which a query is logged with its plan to `memory_storage.slow`; None for none.
    `audit`: log the actor, operation and ids of each write to `memory_storage.audit`.
    """

    slow_query: Seconds | None = None
    audit: bool = False


class Limits(_Section):
    """Limits of stored values and queries. Exceeding one raises ValidationError; nothing is truncated.

    `summary` is the characters of the text, the key steps and the key concepts of a summary together.
    `max_episodes` is the quota of a namespace; None is unlimited. `when_full` decides about a new episode beyond it:
    "refuse" raises, "evict" deletes the oldest episodes (by `started_at`) that are no evidence of a pattern.
    """

    task_description: Count = 10_000
    summary: Count = 20_000
    steps_per_episode: Count = 10_000
    step_bytes: Count = 1_000_000
    document_bytes: Count = 10_000_000
    tags: Count = 100
    tag_min_length: Count = 2
    tag_max_length: Count = 100
    path_depth: Count = 32
    key_length: Count = 1_000
    query_default: Count = 100
    query_maximum: Count = 1_000
    max_episodes: Count | None = None
    when_full: Literal["refuse", "evict"] = "refuse"


@renamed_attributes(vector_index_memory="hnsw_max_bytes")
class Settings(_Section):
    """All settings of a storage. `Settings.from_environment()` also reads the environment.

    `database` is a path, ":memory:" or a URL. `auth_token` is a token or a callable that returns one, called at the
    first request, and again when the server rejects the token. `encryption_key` (1 to 32 bytes) encrypts a new local
    file, and is required to open it again.
    `tls_ca_file` has the certificates (PEM) to trust instead of the system's. `max_response_bytes` limits a server's
    response, decompressed. `base_url_hosts` are further addresses (`host`, or `host:port`) to which the server may
    direct the rest of a transaction; the token is sent there too.
    `local_engine` is what opens a file: "sqlite", "libsql" (the extra of that name), or "auto": libSQL for a file
    with a DiskANN index or with `vector_index="diskann"`, else SQLite.
    `max_concurrent_writes` is how many writes are in flight to a server at a time. `vector_index` is
    where searches get their candidates: "hnsw" is an index in this process, of at most `hnsw_max_bytes` bytes
    (the extra `ann`), "diskann" one in the database, which binds a file to libSQL, "exact" none; "auto" is diskann for
    a server, and for a local database hnsw if it is installed, else exact.

    `embedder` names what computes the vectors of what is saved and searched (see `embedders.embedder_named`). `embed`
    says when: "in_background", collected for `embed_delay` seconds; "on_save", before the save returns; or "manually".

    Raises ConfigurationError, naming the setting, for a value that cannot work.
    """

    model_config = ConfigDict(populate_by_name=True)

    database: Annotated[str, Field(validation_alias=AliasChoices("TURSO_DATABASE_URL", "LIBSQL_DATABASE_PATH"))]
    auth_token: Annotated[AuthToken, Field(validation_alias="TURSO_AUTH_TOKEN", repr=False)] = None
    encryption_key: Annotated[SecretStr | None, Field(repr=False)] = None
    tls_ca_file: FilePath | None = None
    namespace: Annotated[str, Field(min_length=1, max_length=200)] = "default"
    durability: Literal["full", "normal"] = "full"
    request_timeout: Seconds = 30.0
    max_response_bytes: Count = RESPONSE_BYTES
    base_url_hosts: tuple[str, ...] = ()
    max_concurrent_writes: Count = CONCURRENT_WRITES
    local_engine: Literal["auto", "sqlite", "libsql"] = "auto"
    vector_index: Literal["auto", "hnsw", "diskann", "exact"] = "auto"
    hnsw_max_bytes: Annotated[int, Field(ge=0)] = 1_000_000_000
    embedder: str | None = None
    embed: Literal["in_background", "on_save", "manually"] = "in_background"
    embed_delay: Seconds = 0.5
    sync_url: str | None = None
    sync_interval: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    sync_mode: Literal["local_first", "write_through"] = "local_first"
    sync_namespaces: tuple[str, ...] | None = None
    sync_keep: timedelta | None = None
    sync_conflicts: Literal["server_wins", "local_wins"] | Callable[[Any], Any] = "server_wins"
    sync_writer: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    pool: PoolSettings = Field(default_factory=PoolSettings)
    circuit_breaker: CircuitBreakerSettings = Field(default_factory=CircuitBreakerSettings)
    retry: RetrySettings = Field(default_factory=RetrySettings)
    logging: LoggingSettings = Field(default_factory=LoggingSettings)
    limits: Limits = Field(default_factory=Limits)

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if "vector_index_memory" in values and "hnsw_max_bytes" not in values:
            warn_renamed("the setting vector_index_memory", "hnsw_max_bytes")
            values = {**values, "hnsw_max_bytes": values["vector_index_memory"]}
            del values["vector_index_memory"]
        if values.get("vector_index") == "memory":
            warn_renamed("vector_index='memory'", "vector_index='hnsw'")
            values = {**values, "vector_index": "hnsw"}
        return values

    @field_validator("database")
    @classmethod
    def _check_url(cls, database: str) -> str:
        return _checked_database(database)

    @field_validator("sync_url")
    @classmethod
    def _check_sync_url(cls, url: str | None) -> str | None:
        if not url:
            return None
        checked = _checked_database(url, "sync_url")
        if not checked.startswith("libsql://"):
            raise ValueError("must be the URL of a server, like libsql://db.example.io")
        return checked

    @field_validator("encryption_key")
    @classmethod
    def _check_encryption_key(cls, key: SecretStr | None) -> SecretStr | None:
        try:
            EncryptionKey.of(key)
        except ProgrammingError as error:
            raise ConfigurationError(str(error)) from None
        return key

    @field_validator("base_url_hosts")
    @classmethod
    def _check_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(_checked_authority, hosts))

    @model_validator(mode="after")
    def _check_credentials(self) -> Self:
        if self.server:  # for a file a token from the environment is ignored
            _check_token(self.credentials)
            if self.encryption_key is not None:  # the caller expects encryption, which a client cannot give
                raise ConfigurationError("encryption_key: is for local files; a server encrypts its own; leave it out")
        return self

    @model_validator(mode="after")
    def _check_sync(self) -> Self:
        if self.sync_url is None:
            return self
        if self.server:
            raise ValueError("sync_url: is for a file, and database is a server already; leave one of them out")
        if self.limits.when_full == "evict":
            raise ValueError("limits.when_full: evict would delete at the server what does not fit here; use sync_keep")
        _check_token(self.credentials)
        return self

    @model_validator(mode="after")
    def _check_vector_index(self) -> Self:
        if self.server and self.vector_index == "hnsw":
            raise ValueError("vector_index: hnsw is for local files; use diskann with a server")
        if not self.server and self.vector_index == "diskann" and self.local_engine == "sqlite":
            raise ValueError("local_engine: sqlite has no DiskANN indexes; use libsql, or vector_index hnsw or exact")
        return self

    @property
    def required_engine(self) -> str:
        """The local engine for the driver: that of the settings, or libSQL's if they ask for DiskANN."""
        return "libsql" if self.vector_index == "diskann" else self.local_engine

    @property
    def path(self) -> Path | None:
        """The file of the database, or None for an in-memory database or a server."""
        return None if self.database == MEMORY or self.server else Path(self.database)

    @property
    def server(self) -> Server | None:
        """The server of the database, or None for a file or an in-memory database."""
        return Server.parse(self.database) if self.database.startswith("libsql://") else None

    @property
    def of_server(self) -> Settings | None:
        """The settings of the connection to the server that a file is synchronized with; None without one."""
        if self.sync_url is None:
            return None
        local = {name for name in type(self).model_fields if name.startswith("sync_")}
        local |= {
            "embedder",
            "embed",
            "embed_delay",
            "encryption_key",
            "local_engine",
            "vector_index",
            "hnsw_max_bytes",
            "durability",
        }
        values = {name: value for name, value in dict(self).items() if name not in local}
        return Settings(**{**values, "database": self.sync_url})

    @property
    def key(self) -> EncryptionKey | None:
        """The key of an encrypted file, for the driver; its repr is masked."""
        return None if self.encryption_key is None else EncryptionKey.of(self.encryption_key)

    @property
    def credentials(self) -> Credentials:
        """The token or its provider, for the driver; its repr is masked."""
        return Credentials(self.auth_token)

    @classmethod
    def from_environment(cls, **overrides: Any) -> Self:
        """Return settings from TURSO_DATABASE_URL, TURSO_AUTH_TOKEN, LIBSQL_DATABASE_PATH and MEMORY_STORAGE_*.

        A nested setting is written MEMORY_STORAGE_POOL__MAX_CONNECTIONS. An empty variable counts as unset.

        Args:
            **overrides: Settings that take precedence over the environment.

        Raises:
            ConfigurationError: A variable with this prefix is unknown, a value is invalid, or no database is given.
        """
        overrides = hidden(overrides)  # before anything can fail: a traceback may show this frame
        variables = hidden(environment.read(cls))
        values = {**{_BY_ALIAS.get(name, name): value for name, value in variables.items()}, **overrides}
        if "database" not in values:
            raise ConfigurationError(
                "no database is given: set LIBSQL_DATABASE_PATH, or TURSO_DATABASE_URL and TURSO_AUTH_TOKEN; or pass a "
                'path or URL (`--database`, `alembic -x database=...`, `MemoryStorage.open("memory.db")`)'
                f"{environment.misspelled(cls)}"
            )
        return cls(**values)


def _checked_database(database: str, field: str = "database") -> str:
    if not database:
        raise ValueError("must be a path, ':memory:' or a URL")
    if "\0" in database or any("\ud800" <= character <= "\udfff" for character in database):
        raise ValueError("a path cannot hold NUL and lone surrogates")
    if "://" not in database:
        return database if database == MEMORY else os.fspath(Path(database.removeprefix("file:")).expanduser())
    if database.startswith(LOCAL_URL):
        return database.removeprefix(LOCAL_URL) or MEMORY
    try:
        return str(Server.parse(database))
    except ProgrammingError as error:
        kind = InsecureConnectionError if error.code == "INSECURE" else ConfigurationError
        raise kind(f"{field}: {error}") from error


def _checked_authority(text: str) -> str:
    try:
        return checked_authority(text)
    except ProgrammingError as error:
        raise ConfigurationError(f"base_url_hosts: {error}") from None


def _check_token(credentials: Credentials) -> None:
    try:
        credentials.check()
    except OperationalError as error:
        expired = error.code == "TOKEN_EXPIRED"
        raise (TokenExpiredError if expired else CredentialError)(f"auth_token: {error}; get a new token") from error


def _as_configuration_error(error: pydantic.ValidationError, settings: type[BaseModel]) -> ConfigurationError:
    problem = first_problem(error.errors(include_url=False, include_input=False))
    field = ".".join(_BY_ALIAS.get(str(part), str(part)) for part in problem["loc"])
    return ConfigurationError(f"{field}: {explanation(problem, settings)}")
