"""Backfill: the owners that have no vector yet, or changed since, one page at a time; it can be resumed anywhere.

The version of the owner (for a step: of its episode) is stored with each vector. Only if it differs, the text is read
and its digest compared with that of the embedded text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from memory_storage.dbapi import chunked
from memory_storage.models import AnyPattern, Episode, OwnerType, Step
from memory_storage.repositories.episodes.heads import read_heads
from memory_storage.repositories.patterns import sql as patterns_sql
from memory_storage.repositories.patterns.rows import pattern_from_row
from memory_storage.repositories.steps import sql as steps_sql
from memory_storage.search.vector_sql import TABLES
from memory_storage.sql.episode_rows import decode_steps
from memory_storage.sql.paging import PAGE_BYTES
from memory_storage.sql.session import Row, SessionProtocol, ids_as_json
from memory_storage.sql.statement import SqlTemplate, bytes_of_step

Owner = Episode | Step | AnyPattern

_VERSIONS = {
    "episode": "o.version",
    "step": "(SELECT e.version FROM episodes AS e WHERE e.namespace = o.namespace AND e.id = o.episode_id)",
    "pattern": "o.version",
}
# A vector that the caller stored has no digest, and stays.
_CHANGED = "(m.text_digest IS NOT NULL AND m.text_version IS NOT {version})"
_MISSING_OR_CHANGED = f"(m.seq IS NULL OR {_CHANGED})"
_MISSING_BESIDE_OLD = f"""{_MISSING_OR_CHANGED} AND EXISTS (SELECT 1 FROM embeddings AS old
    WHERE old.namespace = o.namespace AND old.owner_type = '{{owner}}' AND old.owner_id = o.id AND old.model = :old)"""
_AMONG = "o.id IN (SELECT value FROM json_each(:ids))"
_TEXT_UNKNOWN = "m.seq IS NOT NULL AND (m.text_digest IS NULL OR m.text_version IS NOT {version})"
_BYTES = {
    "episode": "octet_length(o.document)",
    "step": bytes_of_step("o"),
    "pattern": "octet_length(o.document)",
}
_PAGE = """
SELECT o.id, {version}, m.text_digest, {bytes}
FROM {table} AS o LEFT JOIN embeddings AS m ON m.namespace = o.namespace AND m.owner_type = '{owner}'
    AND m.owner_id = o.id AND m.model = :model
WHERE o.namespace = :namespace AND o.id > :after AND {condition} ORDER BY o.id LIMIT :limit
"""


class BackfillItem(NamedTuple):
    """An owner to embed, the minimum version of its text, and the digest of the text that was embedded before."""

    owner_id: str
    version: int
    digest: str | None


def _pages(condition: str) -> dict[str, SqlTemplate]:
    return {
        owner: SqlTemplate(
            _PAGE.format(
                table=table,
                owner=owner,
                version=_VERSIONS[owner],
                bytes=_BYTES[owner],
                condition=condition.format(owner=owner, version=_VERSIONS[owner]),
            )
        )
        for owner, table in TABLES.items()
    }


_PAGES = {
    "new": _pages(_MISSING_OR_CHANGED),
    "new_among": _pages(f"{_AMONG} AND {_MISSING_OR_CHANGED}"),
    "beside_old": _pages(_MISSING_BESIDE_OLD),
    "unknown": _pages(_TEXT_UNKNOWN),
}


def owners_to_embed(
    session: SessionProtocol,
    owner_type: OwnerType,
    model: str,
    text_of: Callable[[Owner], str],
    *,
    old: str | None,
    ids: Sequence[str] | None = None,
    size: int,
) -> Iterator[list[tuple[BackfillItem, str]]]:
    """Yield pages of the owners that have no vector of `model`, or may have changed since they were embedded.

    Owners are ordered by id. A page has at most `size` texts of 4 MB in total, or one larger text; owners are read 4 MB
    at a time. With `old`, only owners with a vector of that model are returned; if `old` is `model` itself, also those
    whose embedded text is unknown. With `ids`, only owners that have one of these. A version is read before its text,
    so the text may be newer than its version, and never older.
    """
    which = "unknown" if old == model else "beside_old"
    if old is None:
        which = "new" if ids is None else "new_among"
    pages = _PAGES[which][owner_type]
    values, after = {"namespace": session.namespace, "model": model, "old": old, "limit": size}, ""
    if ids is not None:
        values["ids"] = ids_as_json(ids)
    while rows := session.read(pages.bind(after=after, **values)):
        after = rows[-1][0]
        parts = chunked(rows, lambda row: int(row[3]), most_bytes=PAGE_BYTES)
        texts = (pair for part in parts for pair in _texts(session, owner_type, part, text_of))
        yield from chunked(texts, lambda pair: len(pair[1]), most_bytes=PAGE_BYTES)


def _texts(
    session: SessionProtocol, owner_type: OwnerType, rows: Sequence[Row], text_of: Callable[[Owner], str]
) -> list[tuple[BackfillItem, str]]:
    owners = dict(_READERS[owner_type](session, [row[0] for row in rows]))
    return [(BackfillItem(*row[:3]), text_of(owners[row[0]])) for row in rows if row[0] in owners]


def _episodes(session: SessionProtocol, ids: Sequence[str]) -> list[tuple[str, Owner]]:
    return [(str(episode.id), episode) for episode in read_heads(session, ids)]


def _steps(session: SessionProtocol, ids: Sequence[str]) -> list[tuple[str, Owner]]:
    rows = session.read(steps_sql.GET_MANY.bind(namespace=session.namespace, ids=ids_as_json(ids)))
    return [(str(step.id), step) for step in decode_steps(rows)]


def _patterns(session: SessionProtocol, ids: Sequence[str]) -> list[tuple[str, Owner]]:
    rows = session.read(patterns_sql.GET_MANY.bind(namespace=session.namespace, ids=ids_as_json(ids)))
    return [(row[0], pattern_from_row(row)) for row in rows]


_READERS: dict[str, Callable[[SessionProtocol, Sequence[str]], list[tuple[str, Any]]]] = {
    "episode": _episodes,
    "step": _steps,
    "pattern": _patterns,
}
