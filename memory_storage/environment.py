"""Reads settings from environment variables. An empty variable counts as unset."""

from __future__ import annotations

import os
from typing import Any

from pydantic import AliasChoices, BaseModel

from .errors import ConfigurationError
from .suggestions import nearest

PREFIX = "MEMORY_STORAGE_"
MCP_TOKEN = PREFIX + "MCP_TOKEN"  # read by `memory_storage.integrations.mcp`: no setting of a storage
_NESTED = "__"

# Variables with the prefix that are not settings: those of `memory_storage.testing` and of this package's tests, and
# the token of the MCP server.
OTHERS = frozenset(
    PREFIX + name
    for name in (
        "CHAOS_CHANGES",
        "CHAOS_SECONDS",
        "CHAOS_SEED",
        "CHROMIUM",
        "ENGINE_HISTORIES",
        "HARBOR",
        "INTERLEAVINGS",
        "LOAD_SECONDS",
        "MCP_TOKEN",
        "OPENING_RACES",
        "OUTAGE_SECONDS",
        "PROCESSES_SECONDS",
        "RESTORE_KILLS",
        "SCRUB_KILLS",
        "SCRUB_ROUNDS",
        "SQLD",
        "TEST_CUTS",
        "TEST_DECIMALS",
        "TEST_EVERY_ARGUMENT",
        "TEST_EXAMPLES",
        "TEST_ITERATED",
        "TEST_KILLS",
        "TEST_LARGE_EPISODES",
        "TEST_RACES",
        "TEST_RESTARTS",
    )
)
# Names that callers may guess for settings with another variable.
_DATABASES = "LIBSQL_DATABASE_PATH or TURSO_DATABASE_URL"
_ELSEWHERE = {"DATABASE": _DATABASES, "DATABASE_PATH": _DATABASES, "DATABASE_URL": _DATABASES, "DB": _DATABASES}
_ELSEWHERE |= {"PATH": _DATABASES, "URL": _DATABASES, "AUTH_TOKEN": "TURSO_AUTH_TOKEN", "TOKEN": "TURSO_AUTH_TOKEN"}
_VENDORS = ("TURSO_", "LIBSQL_")
_FORMER = {PREFIX + "VECTOR_INDEX_MEMORY": "vector_index_memory"}  # the settings accept it, with a warning


def read(settings: type[BaseModel]) -> dict[str, Any]:
    """Read the variables of `settings`, a model whose sections are models.

    Raises:
        ConfigurationError: A variable with the prefix is not a setting, or that of a section is not JSON.
    """
    if not any(value and name.upper().startswith((PREFIX, *_VENDORS)) for name, value in os.environ.items()):
        return {}
    # Imported here: it would double the import time of this package.
    from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

    class Environment(BaseSettings):
        model_config = SettingsConfigDict(
            env_prefix=PREFIX, env_nested_delimiter=_NESTED, env_ignore_empty=True, populate_by_name=False
        )

    for name, field in settings.model_fields.items():
        Environment.model_fields[name] = field
    refuse_unknown(settings)
    former = {_FORMER[name.upper()]: value for name, value in os.environ.items() if value and name.upper() in _FORMER}
    try:
        return {**dict(EnvSettingsSource(Environment)()), **former}
    except SettingsError as error:
        problem = str(error)
    raise ConfigurationError(problem)  # not in the block above: the frames of the error hold the whole environment


def refuse_unknown(settings: type[BaseModel]) -> None:
    """Raise ConfigurationError, with a suggestion, if a variable with the prefix is not a setting."""
    known = variables(settings)
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX) and os.environ[name] and name.upper() not in known | OTHERS | _FORMER.keys():
            raise ConfigurationError(f"the environment variable {name} is not a setting{_advice(name.upper(), known)}")


def variables(settings: type[BaseModel]) -> set[str]:
    """Return the variables with the prefix: those of all fields, and of the fields of sections."""
    names = set()
    for name, field in settings.model_fields.items():
        if field.validation_alias is None:
            names.add(PREFIX + name.upper())
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                names |= {f"{PREFIX}{name}{_NESTED}{inner}".upper() for inner in field.annotation.model_fields}
    return names


def misspelled(settings: type[BaseModel]) -> str:
    """Return a hint if a misspelled variable like TURSO_DATABSE_URL is set; else an empty string."""
    names = {name for field in settings.model_fields.values() for name in _aliases(field.validation_alias)}
    for name in sorted(os.environ):
        suggestion = nearest(name, names) if name.upper().startswith(_VENDORS) and os.environ[name] else None
        if suggestion and name.upper() not in names:
            return f". {name} is set: did you mean {suggestion}?"
    return ""


def _aliases(alias: object) -> list[str]:
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return [choice for choice in choices if isinstance(choice, str)]


def _advice(name: str, known: set[str]) -> str:
    meant = _ELSEWHERE.get(name.removeprefix(PREFIX))
    if meant:
        return f"; set {meant}"
    suggestion = nearest(name.removeprefix(PREFIX), (known_name.removeprefix(PREFIX) for known_name in known))
    return f"; did you mean {PREFIX}{suggestion}?" if suggestion else ""
