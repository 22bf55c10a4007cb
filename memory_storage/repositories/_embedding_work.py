"""What there is to embed, a page at a time: so it can be interrupted anywhere, and goes on. Calls no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from memory_storage.models import AnyPattern, Episode, OwnerType, Step

from . import _episode_sql, _pattern_sql, _step_sql
from ._codec import decode_steps
from ._embedding_sql import TABLES
from ._episode_rows import whole
from ._session import Session, json_ids
from ._statement import Prepared
from .patterns import as_pattern

Thing = Episode | Step | AnyPattern

_LACKING = """NOT EXISTS (SELECT 1 FROM embeddings AS m WHERE m.namespace = o.namespace
    AND m.owner_type = '{owner}' AND m.owner_id = o.id AND m.model = :model)"""
_HAVING = """EXISTS (SELECT 1 FROM embeddings AS m WHERE m.namespace = o.namespace
    AND m.owner_type = '{owner}' AND m.owner_id = o.id AND m.model = :old)"""
_PAGE = "SELECT o.id FROM {table} AS o WHERE o.namespace = :namespace AND o.id > :after AND {conditions} ORDER BY o.id"


def _pages(*conditions: str) -> dict[str, Prepared]:
    return {
        owner: Prepared(
            f"{_PAGE.format(table=table, conditions=' AND '.join(conditions)).format(owner=owner)} LIMIT :limit"
        )
        for owner, table in TABLES.items()
    }


_NEW = _pages(_LACKING)
_AGAIN = _pages(_HAVING, _LACKING)


def lacking(
    session: Session, owner_type: OwnerType, model: str, *, old: str | None, size: int
) -> Iterator[list[tuple[str, Thing]]]:
    """Pages of those without a vector by `model`, by their ids; if `old` is given, of those with one by that."""
    pages = (_NEW if old is None else _AGAIN)[owner_type]
    after = ""
    while ids := [
        row[0]
        for row in session.read(pages.step(namespace=session.namespace, model=model, old=old, after=after, limit=size))
    ]:
        yield _READERS[owner_type](session, ids)
        after = ids[-1]


def _episodes(session: Session, ids: Sequence[str]) -> list[tuple[str, Thing]]:
    values = {"namespace": session.namespace, "ids": json_ids(ids)}
    return [(row[1], whole([row])) for row in session.read(_episode_sql.HEADS.step(**values))]


def _steps(session: Session, ids: Sequence[str]) -> list[tuple[str, Thing]]:
    rows = session.read(_step_sql.GET_MANY.step(namespace=session.namespace, ids=json_ids(ids)))
    return [(str(step.id), step) for step in decode_steps(rows)]


def _patterns(session: Session, ids: Sequence[str]) -> list[tuple[str, Thing]]:
    rows = session.read(_pattern_sql.GET_MANY.step(namespace=session.namespace, ids=json_ids(ids)))
    return [(row[0], as_pattern(row)) for row in rows]


_READERS: dict[str, Callable[[Session, Sequence[str]], list[tuple[str, Any]]]] = {
    "episode": _episodes,
    "step": _steps,
    "pattern": _patterns,
}
