"""The repository of episodes. Each of its methods is one round trip; a write is all or nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NoReturn
from uuid import UUID

from typing_extensions import TypedDict, Unpack

from memory_storage.dbapi import RowCountError
from memory_storage.errors import ConflictError, NotFoundError, UnavailableError, ValidationError
from memory_storage.models import (
    Complexity,
    Direction,
    Episode,
    EpisodeFilter,
    Outcome,
    OutcomeKind,
    Page,
    Reflection,
    RewardScore,
    Step,
    TaskType,
)

from . import _episode_sql as sql
from . import _step_sql
from ._codec import check_document, check_episode, check_step, decode, encode, from_micros, stored, to_micros
from ._filters import conditions
from ._paging import check_limit, order_and_place, page, parse_cursor
from ._session import SAVE_ATTEMPTS, Repository, as_id, as_list

_ITERATE_PAGE = 100


class EpisodeFilters(TypedDict, total=False):
    """The keywords of `query`, `iterate` and `count`: the fields of `models.EpisodeFilter`."""

    task_type: TaskType | str | None
    domain: str | None
    language: str | None
    framework: str | None
    complexity: Complexity | str | None
    outcome: OutcomeKind | None
    completed: bool | None
    tags_any: Sequence[str]
    tags_all: Sequence[str]
    metadata: dict[str, str | int | float | bool | None]
    min_reward: float | None
    max_reward: float | None
    since: datetime | None
    until: datetime | None
    completed_since: datetime | None
    completed_until: datetime | None
    archived: bool | None
    text: str | None


class EpisodeRepository(Repository):
    """The episodes of one namespace."""

    def save(self, episode: Episode) -> Episode:
        """Insert or update by id, and give back what is stored, with its new version.

        The steps that the episode carries are written, and none is removed. `created_at` and `archived_at` stay.
        To save a new episode (version 0) again is harmless if it is stored as it is.

        Raises:
            ConflictError: the stored version is another than `episode.version`.
            ValidationError: a limit is broken, or something would not be read back equal.
        """
        return self.save_many([episode])[0]

    def save_many(self, episodes: Sequence[Episode]) -> list[Episode]:
        """Save all of them or none, as `save` does."""
        prepared = remaining = self._prepare(episodes)
        for _ in range(SAVE_ATTEMPTS):
            try:
                saved = {episode.id: episode for episode in self._save(remaining)}
            except RowCountError:
                remaining = self._without_repeats(prepared)
            else:
                return [saved.get(episode.id) or self.get(episode.id) for _, episode in prepared]
        raise UnavailableError("other writers keep changing these episodes")

    def import_many(self, episodes: Sequence[Episode]) -> int:
        """Insert copies as they are, with their version and times; leave alone those whose id is there already.

        Gives the number of new ones. To do it again changes nothing.
        """
        prepared = self._prepare(episodes)
        known = {row[0] for row in self._states([episode for _, episode in prepared])}
        new = [pair for pair in prepared if str(pair[1].id) not in known]
        if new:
            self._write(sql.IMPORT, new)
        return len(new)

    def append_step(self, episode_id: UUID | str, step: Step) -> Step:
        """Append a step; the store gives it the next number. The episode's version does not change.

        To append the same step (by its id) again is harmless: it is there once.

        Raises:
            NotFoundError: there is no such episode.
            ConflictError: another step has this id.
            ValidationError: the step has a number already, or a limit is broken.
        """
        document, step = encode(Step, step)
        if step.step_number is not None:
            raise ValidationError("step_number", "is given by the store; leave it out", step.step_number)
        check_step(step, self._session.limits)
        limit = self._session.limits.steps_per_episode
        values = {"namespace": self._session.namespace, "episode_id": as_id(episode_id, "episode_id")}
        rows = self._session.write([_step_sql.APPEND.step(document=document, limit=limit, **values)])
        if not rows:
            self._explain_no_append(values["episode_id"], limit)
        found_id, found = rows[0]
        appended = decode(Step.model_validate_json, found, "steps", str(step.id))
        if found_id != values["episode_id"] or appended.model_copy(update={"step_number": None}) != step:
            raise ConflictError("step", step.id, expected=0, actual=None, detail="another step has this id")
        return appended

    def complete(
        self,
        episode_id: UUID | str,
        outcome: Outcome,
        *,
        reward: RewardScore | float | None = None,
        reflection: Reflection | None = None,
        completed_at: datetime | None = None,
    ) -> Episode:
        """Record how it ended, and give back the whole episode. A reward or reflection that is not given stays.

        Raises:
            NotFoundError: there is no such episode.
        """
        now = self._session.now()
        ended = Episode(
            task_description="",
            outcome=outcome,
            reward=RewardScore(total=reward) if isinstance(reward, int | float) else reward,
            reflection=reflection,
            completed_at=completed_at or now,
        )
        if ended.outcome is None:
            raise ValidationError("outcome", "how did it end? Success, PartialSuccess, Failure or Abstained", None)
        document, ended = encode(Episode, ended)
        check_document("", document, self._session.limits)
        values = _ending(ended, ended.completed_at or now)
        return self._change(episode_id, sql.COMPLETE, now=to_micros(now), **values)

    def archive(self, episode_id: UUID | str) -> Episode:
        """Put it away: queries leave it out unless they ask. To archive again changes nothing.

        Raises:
            NotFoundError: there is no such episode.
        """
        return self._change(episode_id, sql.ARCHIVE, now=to_micros(self._session.now()))

    def restore(self, episode_id: UUID | str) -> Episode:
        """Take it back from the archive.

        Raises:
            NotFoundError: there is no such episode.
        """
        return self._change(episode_id, sql.RESTORE)

    def delete(self, episode_id: UUID | str) -> bool:
        """Delete it with its steps, embeddings and places. Whether it was there."""
        return bool(self._session.write([sql.DELETE.step(namespace=self._session.namespace, id=as_id(episode_id))]))

    def get(self, episode_id: UUID | str, *, steps: bool = True) -> Episode:
        """The episode; without its steps if `steps` is False.

        Raises:
            NotFoundError: there is no such episode.
        """
        found = self.find(episode_id, steps=steps)
        if found is None:
            raise NotFoundError("episode", episode_id)
        return found

    def find(self, episode_id: UUID | str, *, steps: bool = True) -> Episode | None:
        """The episode, or None."""
        statement = sql.GET if steps else sql.GET_HEAD
        rows = self._session.read(statement.step(namespace=self._session.namespace, id=as_id(episode_id)))
        return _episode(rows[0]) if rows else None

    def query(
        self,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        direction: Direction = "newest_first",
        steps: bool = True,
        **filters: Unpack[EpisodeFilters],
    ) -> Page[Episode]:
        """A page of the episodes for which all filters hold, by `started_at`.

        `limit` is 100 by default and 1,000 at most. `cursor` is a page's `next_cursor` or `previous_cursor`. Archived
        ones are left out unless `archived` is True (only those) or None (all). `text` finds words in the description,
        outcome, reflection, tags and steps: all of them, "a phrase", or a pre*.
        """
        size = check_limit(limit, self._session.limits)
        place = parse_cursor(cursor)
        order, after, place_values = order_and_place("started_at", place, descending=_is_descending(direction))
        where, values = conditions(EpisodeFilter(**filters), "episode")
        statement = sql.query((*where, *after), order, with_steps=steps)
        step = statement.step(namespace=self._session.namespace, limit=size + 1, **values, **place_values)
        rows = self._session.read(step)
        return page([_episode(row[2:]) for row in rows], [(row[0], row[1]) for row in rows], size, place)

    def iterate(
        self,
        *,
        direction: Direction = "newest_first",
        steps: bool = True,
        **filters: Unpack[EpisodeFilters],
    ) -> Iterator[Episode]:
        """All of them, a page at a time; no connection is held between the pages."""
        size = min(_ITERATE_PAGE, self._session.limits.query_maximum)
        cursor: str | None = None
        while True:
            found = self.query(limit=size, cursor=cursor, direction=direction, steps=steps, **filters)
            yield from found.items
            cursor = found.next_cursor
            if cursor is None:
                return

    def count(self, **filters: Unpack[EpisodeFilters]) -> int:
        """How many episodes there are for which all filters hold."""
        where, values = conditions(EpisodeFilter(**filters), "episode")
        rows = self._session.read(sql.count(where).step(namespace=self._session.namespace, **values))
        return int(rows[0][0])

    def _prepare(self, episodes: Sequence[Episode]) -> list[tuple[str, Episode]]:
        limits = self._session.limits
        prepared = []
        given = as_list(episodes, "episodes")
        for index, episode in enumerate(given):
            field = f"episodes.{index}" if len(given) > 1 else ""
            document, checked = encode(Episode, episode, field)
            check_episode(checked, limits, field)
            if 4 * len(document) > limits.step_bytes:  # no character has more than four bytes
                for number, step in enumerate(checked.steps):
                    check_step(step, limits, f"{field}.steps.{number}".lstrip("."))
            check_document(field, document, limits)
            prepared.append((document, checked))
        if len({episode.id for episode in given}) != len(given):
            raise ValidationError("episodes", "each id once", [str(episode.id) for episode in given])
        return prepared

    def _save(self, prepared: list[tuple[str, Episode]]) -> list[Episode]:
        if not prepared:
            return []
        states = {row[0]: row[1:] for row in self._write(sql.SAVE, prepared)}
        return [_with_state(episode, states[str(episode.id)]) for _, episode in prepared]

    def _write(self, statement: Any, prepared: list[tuple[str, Episode]]) -> Sequence[tuple[Any, ...]]:
        namespace, now = self._session.namespace, to_micros(self._session.now())
        documents = f"[{','.join(document for document, _ in prepared)}]"
        return self._session.write(
            [
                statement.step(len(prepared), namespace=namespace, documents=documents, now=now),
                sql.SAVE_STEPS.step(namespace=namespace, documents=documents),
                self._state_step([episode for _, episode in prepared]),
            ]
        )

    def _states(self, episodes: Sequence[Episode]) -> Sequence[tuple[Any, ...]]:
        return self._session.read(self._state_step(episodes)) if episodes else []

    def _state_step(self, episodes: Sequence[Episode]) -> Any:
        ids = ",".join(f'"{episode.id}"' for episode in episodes)
        return sql.STATE.step(namespace=self._session.namespace, ids=f"[{ids}]")

    def _without_repeats(self, prepared: list[tuple[str, Episode]]) -> list[tuple[str, Episode]]:
        """Those that are not stored yet. ConflictError if one is stored in another version, or with another content."""
        versions = {row[0]: row[1] for row in self._states([episode for _, episode in prepared])}
        remaining = []
        for document, episode in prepared:
            version = versions.get(str(episode.id))
            if (version is None and episode.version == 0) or version == episode.version:
                remaining.append((document, episode))
            elif version is None or episode.version or not _same_content(episode, self.get(episode.id)):
                raise ConflictError("episode", episode.id, expected=episode.version, actual=version)
        return remaining

    def _change(self, episode_id: UUID | str, statement: Any, **values: Any) -> Episode:
        key = {"namespace": self._session.namespace, "id": as_id(episode_id)}
        try:
            rows = self._session.write([statement.step(1, **key, **values), sql.GET.step(**key)])
        except RowCountError as error:
            raise NotFoundError("episode", episode_id) from error
        return _episode(rows[0])

    def _explain_no_append(self, episode_id: str, limit: int) -> NoReturn:
        if self.find(episode_id, steps=False) is None:
            raise NotFoundError("episode", episode_id)
        raise ValidationError("steps", f"at most {limit:,} steps", limit + 1, setting="limits.steps_per_episode")


def _episode(row: Sequence[Any]) -> Episode:
    key, document, version, created_at, updated_at, archived_at, *steps = row
    whole = f'{document[:-1]},"steps":[{steps[0]}]}}' if steps and steps[0] else document
    found = decode(Episode.model_validate_json, whole, "episodes", key)
    return stored(found, version, created_at, updated_at, archived_at=from_micros(archived_at))


def _with_state(episode: Episode, state: Sequence[Any]) -> Episode:
    version, created_at, updated_at, archived_at = state
    return stored(episode, version, created_at, updated_at, archived_at=from_micros(archived_at))


def _ending(ended: Episode, completed_at: datetime) -> dict[str, Any]:
    return {
        "kind": ended.outcome and ended.outcome.kind,
        "total": ended.reward and ended.reward.total,
        "completed_at": to_micros(completed_at),
        "completed_iso": completed_at.isoformat(),
        "outcome": ended.outcome and ended.outcome.model_dump_json(),
        "reward": ended.reward and ended.reward.model_dump_json(),
        "reflection": ended.reflection and ended.reflection.model_dump_json(),
    }


def _same_content(given: Episode, present: Episode) -> bool:
    """Whether the episode that is stored has all that the given one carries."""
    steps = {step.id: step for step in present.steps}
    names = ("version", "created_at", "updated_at", "archived_at", "steps")
    same_head = given.model_copy(update={name: getattr(present, name) for name in names}) == present
    return same_head and all(steps.get(step.id) == step for step in given.steps)


def _is_descending(direction: str) -> bool:
    if direction not in ("newest_first", "oldest_first"):
        raise ValidationError("direction", "must be 'newest_first' or 'oldest_first'", direction)
    return direction == "newest_first"
