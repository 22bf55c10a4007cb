"""Settings: where the database is, how it is reached, and what is too much. Every rule about them is here."""

from __future__ import annotations

import os
from collections.abc import Callable
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
    """What to call for a token. Its repr shows nothing, unlike that of a partial or of a method of something."""

    def __init__(self, ask: Callable[[], str | SecretStr]) -> None:
        self._ask = ask

    def __call__(self) -> str | SecretStr:
        """Ask for a token."""
        return self._ask()

    def __repr__(self) -> str:
        return "**********"


def hidden_token(token: Any) -> Any:
    """A token, or what to call for one, that a traceback's locals do not show."""
    if callable(token) and not isinstance(token, TokenProvider):
        return TokenProvider(token)
    if token is None or isinstance(token, SecretStr | TokenProvider):
        return token
    return SecretStr(token) if isinstance(token, str) else NotImplemented  # which is refused, and shows nothing


def hidden(values: dict[str, Any]) -> dict[str, Any]:
    """Settings as they were given, but for what may be a secret in them."""
    return {name: _hidden(_BY_ALIAS.get(name, name), value) for name, value in values.items()}


def _hidden(name: str, value: Any) -> Any:
    if "token" in name.lower():  # also in a name that was mistyped, which is refused later
        return hidden_token(value)
    if "key" in name.lower() and isinstance(value, str):
        return SecretStr(value)
    return redacted(value) if name == "database" else value


def _checked_token(token: Any) -> Any:
    token = hidden_token(token)
    if token is NotImplemented:
        raise ValueError("must be a token or what to call for one")
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
        raise problem  # not in a block above: the frames of pydantic have what it was given

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # see models/model.py


class PoolSettings(_Section):
    """The connection pool.

    `min_idle` connections are opened by `MemoryStorage.open`, and stay open however long they are idle; others are
    closed after `idle_timeout` seconds. A connection that breaks is replaced when it is needed.
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
    """When to stop asking a database that does not answer. All namespaces of a storage share one breaker."""

    enabled: bool = True
    failure_threshold: Count = 5
    success_threshold: Count = 2
    timeout: Seconds = 60.0
    half_open_max_calls: Count = 3


class RetrySettings(_Section):
    """How a call, or a unit of work, is repeated when that is safe.

    No attempt begins later than `deadline` seconds after the first. `budget` is how many repeats there may be at a
    stretch while a server is not there; each success after that gives a tenth of one back.
    """

    max_attempts: Count = 3
    initial_backoff: Seconds = 0.1
    max_backoff: Seconds = 5.0
    multiplier: Annotated[float, Field(ge=1)] = 2.0
    deadline: Seconds = 60.0
    budget: Annotated[int, Field(ge=0)] = 10


class LoggingSettings(_Section):
    """What is logged by Python's `logging`, beyond warnings. Never a value, only SQL, names and ids.

    `slow_query`: to `memory_storage.slow`, with its plan, each query that takes so many seconds; None for none.
    `audit`: to `memory_storage.audit`, who has written which rows by what operation.
    """

    slow_query: Seconds | None = None
    audit: bool = False


class Limits(_Section):
    """What is too much. Over a limit is a ValidationError; nothing is cut.

    `max_episodes` is how many a namespace may have; None is any number. `when_full` says what a save of a new one then
    does: "refuse" it, or "evict" the oldest (by `started_at`) of those that are no evidence of a pattern.
    """

    task_description: Count = 10_000
    steps_per_episode: Count = 10_000
    step_bytes: Count = 1_000_000
    document_bytes: Count = 10_000_000
    tags: Count = 100
    tag_min_length: Count = 2
    tag_max_length: Count = 100
    query_default: Count = 100
    query_maximum: Count = 1_000
    max_episodes: Count | None = None
    when_full: Literal["refuse", "evict"] = "refuse"


@renamed_attributes(vector_index_memory="hnsw_max_bytes")
class Settings(_Section):
    """All of it. `database` is a path, ":memory:", or a URL; `Settings.from_environment()` reads the environment too.

    `auth_token` is a token, or what to call for one: at the first request, and again when the server refuses that.
    `encryption_key` (1 to 32 bytes) is that of a local file: a new file is encrypted with it, one that is there needs
    the same again.
    `tls_ca_file` has the certificates (PEM) to trust in place of the system's. `max_response_bytes` is the largest
    response of a server, decompressed. `base_url_hosts` are addresses (`host`, or `host:port`) besides that of
    `database` to which the server may direct the rest of a transaction; the token is sent there too.
    `max_concurrent_writes` is how many writes are in flight to a server at a time. `vector_index` is
    where searches get their candidates: "hnsw" is an index in this process, of at most `hnsw_max_bytes` bytes
    (the extra `ann`), "diskann" one in the database, "exact" none; "auto" is hnsw for a file if it is installed, else
    diskann.

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
    vector_index: Literal["auto", "hnsw", "diskann", "exact"] = "auto"
    hnsw_max_bytes: Annotated[int, Field(ge=0)] = 1_000_000_000
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
        if self.server:  # a token that is left over in the environment does a file no harm
            _check_token(self.credentials)
            if self.encryption_key is not None:  # whoever gives it believes that the data is encrypted with it
                raise ConfigurationError("encryption_key: a server has to encrypt its own files; leave it out")
        return self

    @model_validator(mode="after")
    def _check_vector_index(self) -> Self:
        if self.server and self.vector_index == "hnsw":
            raise ValueError("vector_index: hnsw is for files: a server has diskann")
        return self

    @property
    def path(self) -> Path | None:
        """The database's file, or None for one in memory or on a server."""
        return None if self.database == MEMORY or self.server else Path(self.database)

    @property
    def server(self) -> Server | None:
        """The server that has the database, or None for a file or memory."""
        return Server.parse(self.database) if self.database.startswith("libsql://") else None

    @property
    def key(self) -> EncryptionKey | None:
        """The key of an encrypted file, for the driver; its repr shows nothing."""
        return EncryptionKey.of(self.encryption_key)

    @property
    def credentials(self) -> Credentials:
        """The token, or where to get it; its repr shows nothing."""
        return Credentials(self.auth_token)

    @classmethod
    def from_environment(cls, **overrides: Any) -> Self:
        """Settings from TURSO_DATABASE_URL, TURSO_AUTH_TOKEN or LIBSQL_DATABASE_PATH, and MEMORY_STORAGE_*.

        A nested one is written MEMORY_STORAGE_POOL__MAX_CONNECTIONS. An empty variable is an unset one; an unknown
        one with this prefix is a ConfigurationError. `overrides` win over the environment.
        """
        overrides = hidden(overrides)  # before anything can fail: a traceback may show this frame
        values = {**_environment(cls), **overrides}
        if "database" not in values:
            raise ConfigurationError(
                "no database is given: set LIBSQL_DATABASE_PATH, or TURSO_DATABASE_URL and TURSO_AUTH_TOKEN; or pass a "
                'path or URL (`--database`, `alembic -x database=...`, `MemoryStorage.open("memory.db")`)'
                f"{environment.misspelled(cls)}"
            )
        return cls(**values)


def _environment(settings: type[Settings]) -> dict[str, Any]:
    return {_BY_ALIAS.get(name, name): value for name, value in hidden(environment.read(settings)).items()}


def _checked_database(database: str) -> str:
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
        raise kind(f"database: {error}") from error


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
        raise (TokenExpiredError if expired else CredentialError)(f"auth_token: {error}: get a new one") from error


def _as_configuration_error(error: pydantic.ValidationError, settings: type[BaseModel]) -> ConfigurationError:
    problem = first_problem(error.errors(include_url=False, include_input=False))
    field = ".".join(_BY_ALIAS.get(str(part), str(part)) for part in problem["loc"])
    return ConfigurationError(f"{field}: {explanation(problem, settings)}")
