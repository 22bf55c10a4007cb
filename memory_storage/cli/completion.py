"""Completion of arguments in a shell, from an existing database. A problem offers no values, and no message."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, get_args

import typer

from memory_storage._formatting import in_one_line
from memory_storage.errors import MemoryStorageError
from memory_storage.models import Dimension, OutcomeKind, TaskType
from memory_storage.storage import MemoryStorage

from .database import open_existing

_SECONDS = 2.0  # a user waits for it
_SHOWN = 50

Candidates = list[tuple[str, str]]
"""Values, each with its description."""


def complete_task_type(incomplete: str) -> list[str]:
    """Return the types of tasks that begin with a text."""
    return _starting(incomplete, (kind.value for kind in TaskType))


def complete_outcome(incomplete: str) -> list[str]:
    """Return the kinds of outcomes that begin with a text."""
    return _starting(incomplete, get_args(OutcomeKind))


def complete_episode(ctx: typer.Context, incomplete: str) -> Candidates:
    """Return the ids of the newest episodes that begin with a text, with their tasks."""

    def read(storage: MemoryStorage) -> Candidates:
        episodes = storage.episodes.query(limit=_SHOWN, steps=False, archived=None)
        return [(str(one.id), in_one_line(one.task_description)[:60]) for one in episodes]

    return _matching(ctx, incomplete.lower(), read)


def complete_pattern(ctx: typer.Context, incomplete: str) -> Candidates:
    """Return the ids of the newest patterns that begin with a text, with their descriptions."""

    def read(storage: MemoryStorage) -> Candidates:
        return [(str(one.id), in_one_line(one.description)[:60]) for one in storage.patterns.query(limit=_SHOWN)]

    return _matching(ctx, incomplete.lower(), read)


def complete_domain(ctx: typer.Context, incomplete: str) -> Candidates:
    """Return the stored domains that begin with a text."""
    return _groups(ctx, incomplete, "domain")


def complete_language(ctx: typer.Context, incomplete: str) -> Candidates:
    """Return the stored languages that begin with a text."""
    return _groups(ctx, incomplete, "language")


def complete_tag(ctx: typer.Context, incomplete: str) -> Candidates:
    """Return the stored tags that begin with a text."""
    return _groups(ctx, incomplete, "tag")


def complete_tool(ctx: typer.Context, incomplete: str) -> Candidates:
    """Return the tools of stored steps that begin with a text."""
    return _groups(ctx, incomplete, "tool")


def _groups(ctx: typer.Context, incomplete: str, dimension: Dimension) -> Candidates:
    def read(storage: MemoryStorage) -> Candidates:
        return [(str(row.group), "") for row in storage.analytics.by(dimension)]

    return _matching(ctx, incomplete, read)


def _matching(ctx: typer.Context, incomplete: str, read: Callable[[MemoryStorage], Candidates]) -> Candidates:
    """Return what is read from the database that the command line or the environment names."""
    chosen: dict[str, Any] = {name: ctx.params.get(name) for name in ("database", "namespace")}
    with suppress(MemoryStorageError, OSError), open_existing(**chosen, request_timeout=_SECONDS) as storage:
        return [one for one in read(storage) if one[0].startswith(incomplete)]
    return []


def _starting(incomplete: str, values: Iterable[str]) -> list[str]:
    return [value for value in values if value.startswith(incomplete)]
