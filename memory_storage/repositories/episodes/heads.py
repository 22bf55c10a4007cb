"""Reading of episodes without their steps, several at once."""

from __future__ import annotations

from collections.abc import Iterable

from memory_storage.models import Episode
from memory_storage.sql.session import SessionProtocol, ids_as_json

from . import sql
from .rows import episode_from_rows


def read_heads(session: SessionProtocol, ids: Iterable[str]) -> list[Episode]:
    """Return those of the episodes that are stored, without their steps, in any order, by one statement."""
    values = {"namespace": session.namespace, "ids": ids_as_json(list(ids))}
    return [episode_from_rows([row]) for row in session.read(sql.HEADS.bind(**values))]
