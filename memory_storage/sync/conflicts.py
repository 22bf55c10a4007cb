"""The repository of conflicts: what was changed here and at the server, and could not be merged."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

from memory_storage.dbapi import RowCountError
from memory_storage.errors import NotFoundError, ValidationError
from memory_storage.models import (
    PATTERN,
    AnyPattern,
    Conflict,
    Embedding,
    Episode,
    Relationship,
    SpatiotemporalEntry,
    Step,
)
from memory_storage.monitoring import operation
from memory_storage.repositories import (
    EmbeddingRepository,
    EpisodeRepository,
    PatternRepository,
    RelationshipRepository,
    SpatiotemporalRepository,
    StepRepository,
)
from memory_storage.search.session import SearchSession
from memory_storage.sql.paging import ITERATE_PAGE, iterate_pages
from memory_storage.sql.session import Repository, Row
from memory_storage.sql.statement import EPOCH, SqlTemplate
from memory_storage.sql.validation import as_id, function

Resolved = Episode | AnyPattern | Step | Embedding | SpatiotemporalEntry | Relationship

_COLUMNS = "id, kind, object_id, episode_id, fields, base, mine, theirs, my_writer, their_writer, detected_at"
_PAGE = SqlTemplate(f"""
SELECT {_COLUMNS}, seq FROM sync_conflicts WHERE namespace = :namespace AND seq > :after ORDER BY seq LIMIT :limit
""")
_GET = SqlTemplate(f"SELECT {_COLUMNS} FROM sync_conflicts WHERE namespace = :namespace AND id = :id")
_COUNT = SqlTemplate("SELECT count(*) FROM sync_conflicts WHERE namespace = :namespace")
_DELETE = SqlTemplate("DELETE FROM sync_conflicts WHERE namespace = :namespace AND id = :id RETURNING id")
# A checkpoint travels as its columns.
_RESTORE_CHECKPOINT = SqlTemplate("""
INSERT INTO checkpoints (namespace, id, episode_id, step_number, label, created_at, document)
SELECT e.namespace, :mine ->> '$.id', e.id, :mine ->> '$.step_number', :mine ->> '$.label', :mine ->> '$.created_at',
    :mine -> '$.document'
FROM episodes AS e WHERE e.namespace = :namespace AND e.id = :mine ->> '$.episode_id'
ON CONFLICT (namespace, id) DO UPDATE
    SET step_number = excluded.step_number, label = excluded.label, document = excluded.document
""")
_OF_THE_STORE = {"version", "created_at", "updated_at", "archived_at", "effectiveness"}


class ConflictRepository(Repository):
    """The conflicts of one namespace that are not resolved. The server's version of each stands until then."""

    _operations = "conflicts"

    _session: SearchSession

    @operation
    def iterate(self) -> Iterator[Conflict]:
        """Iterate over the conflicts, the oldest first, in pages of 100."""

        def read(after: int) -> tuple[Iterator[Conflict], int | None]:
            page = _PAGE.bind(namespace=self._session.namespace, after=after, limit=ITERATE_PAGE)
            rows = self._session.read(page)
            return map(_from_row, rows), rows[-1][-1] if len(rows) == ITERATE_PAGE else None

        yield from iterate_pages(read, 0)

    @operation
    def get(self, conflict_id: UUID | str) -> Conflict:
        """Return the conflict.

        Raises:
            NotFoundError: There is none, or it is resolved.
        """
        key = as_id(conflict_id, "conflict_id")
        rows = self._session.read(_GET.bind(namespace=self._session.namespace, id=key))
        if not rows:
            raise NotFoundError("conflict", key)
        return _from_row(rows[0])

    @operation
    def count(self) -> int:
        """Count the conflicts."""
        return int(self._session.read(_COUNT.bind(namespace=self._session.namespace))[0][0])

    @operation
    def take_theirs(self, conflict_id: UUID | str) -> None:
        """Resolve a conflict by what stands already, the server's version. The local one is deleted.

        Raises:
            NotFoundError: There is no such conflict.
        """
        self._resolve(self.get(conflict_id), None)

    @operation
    def take_mine(self, conflict_id: UUID | str) -> None:
        """Resolve a conflict by the local version: its fields in conflict are written, as a new change.

        A row that was deleted at the server is written again, an episode with its steps.

        Raises:
            NotFoundError: There is no such conflict, or the episode of a step, place or relationship no longer exists.
            ValidationError: A relationship would close a cycle that its kind forbids.
            ConflictError: The row was changed by another thread. Nothing was stored.
        """
        conflict = self.get(conflict_id)
        if conflict.kind == "checkpoint":
            self._restore_checkpoint(conflict)
        self._resolve(conflict, None if conflict.kind == "checkpoint" else self._mine(conflict))

    @operation
    def merge(self, conflict_id: UUID | str, merge: Callable[[Conflict], Resolved]) -> None:
        """Resolve a conflict by a function.

        Args:
            conflict_id: The ID of the conflict.
            merge: Takes the conflict and returns the model that is stored, as it is saved by its repository: of an
                episode or a pattern with the version that is stored now.

        Raises:
            NotFoundError: There is no such conflict.
            ValidationError: `merge` is no function, or returned a model of another kind.
        """
        function("merge", merge, "lambda conflict: ...")
        conflict = self.get(conflict_id)
        merged = merge(conflict)
        if type(merged).__name__ != _KINDS.get(conflict.kind) and conflict.kind != "pattern":
            raise ValidationError("merge", f"a function that returns a {_KINDS[conflict.kind]}", merged)
        self._resolve(conflict, merged)

    def _resolve(self, conflict: Conflict, chosen: Resolved | None) -> None:
        if isinstance(chosen, Episode):
            EpisodeRepository(self._session).save(chosen)
        elif isinstance(chosen, Step):
            self._save_step(conflict, chosen)
        elif isinstance(chosen, SpatiotemporalEntry):
            SpatiotemporalRepository(self._session).put(chosen)
        elif isinstance(chosen, Relationship):
            RelationshipRepository(self._session).add_many([chosen])
        elif isinstance(chosen, Embedding):
            owner = chosen.owner_type, chosen.owner_id
            EmbeddingRepository(self._session).put(*owner, chosen.vector, model=chosen.model)
        elif chosen is not None:
            PatternRepository(self._session).save(chosen)
        self._session.write([_DELETE.bind(namespace=self._session.namespace, id=str(conflict.id))])

    def _restore_checkpoint(self, conflict: Conflict) -> None:
        mine = json.dumps(conflict.mine, ensure_ascii=False)
        try:
            self._session.write([_RESTORE_CHECKPOINT.bind(1, namespace=self._session.namespace, mine=mine)])
        except RowCountError as error:
            raise NotFoundError("episode", conflict.episode_id) from error

    def _save_step(self, conflict: Conflict, step: Step) -> None:
        episodes = EpisodeRepository(self._session)
        stored = StepRepository(self._session).find(step.id)
        episode_id = conflict.episode_id or conflict.object_id
        if stored is None:
            episodes.append_step(episode_id, step.model_copy(update={"step_number": None}))
        else:
            numbered = step.model_copy(update={"step_number": stored.step_number})
            episodes.save(episodes.get(episode_id, steps=False).model_copy(update={"steps": [numbered]}))

    def _mine(self, conflict: Conflict) -> Resolved:
        """Return the row that is stored, with the local fields that are in conflict."""
        parts: dict[str, type[Step | SpatiotemporalEntry | Embedding | Relationship]] = {
            "step": Step,
            "place": SpatiotemporalEntry,
            "embedding": Embedding,
            "relationship": Relationship,
        }
        if conflict.kind in parts:
            return parts[conflict.kind].model_validate(conflict.mine)
        mine: Episode | AnyPattern
        stored: Episode | AnyPattern | None
        if conflict.kind == "episode":
            mine = Episode.model_validate(conflict.mine)
            stored = EpisodeRepository(self._session).find(conflict.object_id, steps=False)
        else:
            mine = PATTERN.validate_python(conflict.mine)
            stored = PatternRepository(self._session).find(conflict.object_id)
        if stored is None:  # deleted there: a new one, as `delete` allows
            return mine.model_copy(update={"version": 0, "created_at": None, "updated_at": None})
        names = conflict.fields
        if names == ["deleted"]:  # and stored again since
            names = [name for name in type(mine).model_fields if name not in _OF_THE_STORE]
        return _with_fields(stored, mine, names)


def _with_fields(stored: Episode | AnyPattern, mine: Episode | AnyPattern, names: list[str]) -> Episode | AnyPattern:
    """Return the stored row with fields of another one: a name like `metadata.owner` is that of one key."""
    update: dict[str, Any] = {}
    for name in names:
        head, _, key = name.partition(".")
        value = getattr(mine, head)
        part = update.get(head, getattr(stored, head))
        if not key:
            update[head] = value
        elif isinstance(part, dict):
            rest = {one: part[one] for one in part if one != key}
            update[head] = {**rest, key: value[key]} if key in value else rest
        else:
            update[head] = part.model_copy(update={key: getattr(value, key)})
    return stored.model_copy(update=update)


_KINDS = {
    "episode": "Episode",
    "step": "Step",
    "embedding": "Embedding",
    "place": "SpatiotemporalEntry",
    "relationship": "Relationship",
    "checkpoint": "Checkpoint",
}


def _from_row(row: Row) -> Conflict:
    key, kind, object_id, episode_id, fields, base, mine, theirs, my_writer, their_writer, detected_at, *_ = row
    return Conflict(
        id=UUID(key),
        kind=kind,
        object_id=UUID(object_id),
        episode_id=None if episode_id is None else UUID(episode_id),
        fields=json.loads(fields),
        base=None if base is None else json.loads(base),
        mine=None if mine is None else json.loads(mine),
        theirs=None if theirs is None else json.loads(theirs),
        my_writer=my_writer,
        their_writer=their_writer,
        detected_at=EPOCH + timedelta(microseconds=detected_at),
    )
