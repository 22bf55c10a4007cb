"""The repository of episodes. Each method is one round trip unless its docstring says otherwise; a write is atomic."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import chain
from typing import Any
from uuid import UUID

from pydantic_core import to_json
from typing_extensions import Unpack

from memory_storage import dbapi
from memory_storage.dbapi import RowCountError
from memory_storage.embedders import Embedder
from memory_storage.errors import ConflictError, NotFoundError, ValidationError
from memory_storage.models import (
    Checkpoint,
    Direction,
    Episode,
    EpisodeFilter,
    EpisodeFilters,
    Handoff,
    Hits,
    Outcome,
    Page,
    Recall,
    Reflection,
    RewardScore,
    SearchFilters,
    SearchMode,
    Step,
    new_id,
)
from memory_storage.monitoring import operation
from memory_storage.repositories.checkpoints.adding import add_checkpoint
from memory_storage.repositories.checkpoints.handoff import build_handoff
from memory_storage.repositories.patterns import sql as patterns_sql
from memory_storage.repositories.retention.tombstones import (
    assert_not_tombstoned,
    eviction_prefix,
    reject_tombstoned,
    remove_tombstones,
    stale_copy_error,
    tombstoned_among,
)
from memory_storage.repositories.steps import sql as steps_sql
from memory_storage.repositories.steps.appending import append_steps
from memory_storage.search.planner import find_hits
from memory_storage.search.request import SearchRequest, Weights, embed_query, embed_text
from memory_storage.search.statement import EPISODES
from memory_storage.sql.documents import OnCorrupt, encode
from memory_storage.sql.episode_rows import (
    STEP_COLUMNS,
    StoredEpisode,
    bytes_of_step,
    encode_episode,
    encode_step,
    episode_values,
    number_steps,
    step_of_values,
    with_columns_of_row,
)
from memory_storage.sql.filters import Shape, active_filters, compile_filters, conditions, leading_facets
from memory_storage.sql.id_prefixes import IdPrefixes
from memory_storage.sql.paging import (
    ITERATE_PAGE,
    PAGE_BYTES,
    Cursor,
    check_limit,
    draining,
    fill_page,
    is_descending,
    iterate_pages,
    narrowed,
    order_and_condition,
    parse_cursor,
)
from memory_storage.sql.session import (
    Repository,
    Row,
    SessionProtocol,
    exceeds_limit,
    ids_as_json,
    retry_on_row_conflict,
    write_and_read,
)
from memory_storage.sql.statement import SqlTemplate, to_micros
from memory_storage.sql.validation import (
    as_id,
    check_episode,
    check_on_corrupt,
    check_step,
    check_value,
    flag,
    most_bytes,
    size,
    to_list,
    too_large,
)

from . import sql
from .recalls import EpisodeSession, RecallUse, unknown_recall_error, unknown_use_error
from .rows import (
    completion_bytes,
    completion_values,
    episode_from_rows,
    hits_from_rows,
    page_from_rows,
    same_content,
    with_completion,
)

# Filters whose index has the episodes in the order of a page: the next page begins where the last one ended.
_INDEX_ORDERED = {
    *("task_type", "domain", "language", "framework", "complexity", "outcome"),
    *("since", "until", "archived"),
}

_IDS = IdPrefixes("episodes", "episode")

_BOUNDS = ("since", "until")  # of `started_at`, by which pages are sorted

_SIGNS = {"since": ">=", "until": "<"}
"""How a facet's time is compared with a bound of `started_at`."""

# The numbers of the statements that check a kept recall, after the one that compares it with the stored one.
_KEPT_CHECK, _USED_CHECK = 2, 3
_SIZE_CHECK = 2  # the number of the statement that checks the limit


class EpisodeRepository(Repository):
    """The episodes of one namespace."""

    _operations = "episodes"

    _session: EpisodeSession

    @operation
    def save(self, episode: Episode) -> Episode:
        """Insert or update an episode by its ID, and return the stored episode with its new version.

        Writes the steps that the episode carries and removes none; use `steps.delete` for that. Steps may exchange
        their numbers. `created_at` and `archived_at` do not change. Saving the same new episode (version 0) twice
        stores it once. An episode that was removed by `delete` can be saved again; one that was erased by `forget`,
        retention or eviction cannot.

        Raises:
            ConflictError: The stored version differs from `episode.version`; the ID was reused for another episode
                after this one was deleted; or a stored step that the episode does not carry has the ID or number of one
                that it carries.
            ValidationError: A limit is exceeded, a value would not be read back equal, two steps have one ID or number,
                the episode ends before it starts (unless it is stored with these times), or it is new and was erased.
        """
        return self.save_many([episode])[0]

    @operation
    def save_many(self, episodes: Sequence[Episode]) -> list[Episode]:
        """Save episodes atomically; see `save`."""
        encoded = self._encode_all(episodes)
        self._reject_reversed_times([one.episode for one in encoded])
        # After a conflict all of them are compared again: one that was stored a moment ago may be deleted since.
        saved = retry_on_row_conflict(
            self._save, encoded, lambda _, error: self._remaining_to_save(encoded, error), "changing these episodes"
        )
        self._note_saved("episode", [one.episode.id for one in encoded])
        # An episode that is stored already as it was given is not written again, and only read.
        by_id = {episode.id: episode for episode in saved}
        return [by_id.get(one.episode.id) or self.get(one.episode.id) for one in encoded]

    @operation
    def import_many(self, episodes: Sequence[Episode], *, restore_forgotten: bool = False) -> int:
        """Insert copies unchanged, with their version and times. Idempotent.

        Episodes whose ID is stored already are not changed. Erased episodes are skipped; `erased_among` names them.

        Args:
            episodes: The copies.
            restore_forgotten: Whether to restore what `forget`, retention or eviction erased.

        Returns:
            The number of new episodes.

        Raises:
            ValidationError: An episode exceeds a limit, or would not be read back equal.
        """
        encoded = self._encode_all(episodes)
        write = partial(self._import, restore=flag("restore_forgotten", restore_forgotten))
        imported = retry_on_row_conflict(
            write, encoded, lambda _, error: self._remaining_to_import(encoded, error), "importing these episodes"
        )
        self._note_saved("episode", [one.episode.id for one in encoded])
        return imported

    @operation
    def erased_among(self, episode_ids: Iterable[UUID | str]) -> set[UUID]:
        """Return the IDs that were erased by `forget`, retention or eviction: copies of these episodes are refused."""
        ids = [UUID(as_id(one, "episode_ids")) for one in to_list(episode_ids, "episode_ids")]
        return tombstoned_among(self._session, ids)

    @operation
    def append_step(self, episode_id: UUID | str, step: Step) -> Step:
        """Append a step; the storage assigns its number. The version of the episode does not change.

        Appending the same step (by its ID) twice stores it once.

        Args:
            episode_id: The ID of the episode.
            step: The step, without a number.

        Returns:
            The stored step, with its number.

        Raises:
            NotFoundError: The episode does not exist.
            ConflictError: Another step has this ID.
            ValidationError: The step has a number already, or exceeds a limit.
        """
        row = encode_step(step)
        if row[0] is not None:
            raise ValidationError("step_number", "is given by the store; leave it out", row[0])
        found = bytes_of_step(row)
        check_step(step, found, self._session.limits)
        check_value("", found, self._session.max_value_bytes)
        limit = self._session.limits.steps_per_episode
        key = {"namespace": self._session.namespace, "episode_id": as_id(episode_id, "episode_id")}
        values = {**key, **dict(zip(STEP_COLUMNS[2:], row, strict=True))}
        change, again = steps_sql.APPEND.bind(limit=limit, **values), steps_sql.STEP_NUMBER.bind(**values)
        # Nothing is looked up before: constraints refuse a taken id and a missing episode, and are explained then.
        conflict = None
        try:
            rows = self._session.write([change], again=again, changed=1)
        except ConflictError as error:
            rows, conflict = (), error
        number = rows[0][0] if rows else self._resolve_append(step, values, limit, conflict)
        return step_of_values(row, number)

    @operation
    def append_steps(self, episode_id: UUID | str, steps: Sequence[Step]) -> list[Step]:
        """Append steps atomically, in one round trip; the storage assigns their numbers, in their order.

        A step that is stored already, as it is given, is not appended again: the same call twice stores each step once.
        The version of the episode does not change.

        Args:
            episode_id: The ID of the episode.
            steps: The steps, without numbers.

        Returns:
            The stored steps, with their numbers, in the order of `steps`.

        Raises:
            NotFoundError: The episode does not exist.
            ConflictError: Another step has the ID of one of them.
            ValidationError: A step has a number already, or exceeds a limit; or two have one ID.
        """
        return append_steps(self._session, as_id(episode_id, "episode_id"), steps)

    @operation
    def complete(
        self,
        episode_id: UUID | str,
        outcome: Outcome,
        *,
        reward: RewardScore | float | None = None,
        reflection: Reflection | None = None,
        completed_at: datetime | None = None,
        recalled: Recall | UUID | str | None = None,
        used: Sequence[UUID | str] | None = None,
        rating: int | None = None,
    ) -> Episode:
        """Record the outcome of an episode. The version grows by one.

        Completing it again replaces the outcome; the stored reward and reflection stay unless new ones are given.

        Args:
            episode_id: The ID of the episode.
            outcome: Success, PartialSuccess, Failure or Abstained.
            reward: The total reward, or a RewardScore with its parts.
            reflection: What was learned.
            completed_at: An aware datetime; now by default.
            recalled: What `storage.recall` returned for the task, or its ID: its receipt is stored on the episode, and
                each recalled pattern is counted as retrieved, once for an episode.
            used: The IDs of the recalled records that the work made use of; each pattern among them is counted as
                applied, with success or not, once for an episode. None: not known, and each recalled pattern is counted
                as applied.
            rating: How much the recall helped, from 1 to 5.

        Returns:
            The complete episode.

        Raises:
            NotFoundError: The episode does not exist.
            ValidationError: There is no outcome, `completed_at` is before the start and is not what is stored, a limit
                is exceeded, or a value would not be read back equal; or `recalled` is not one of the latest 1,000
                recalls of this process or the latest 10,000 with `keep=True`, is of another namespace, or is not the
                one that is stored already; or `used` names something else than what was recalled, or there is no recall
                that `used` or `rating` is about.
        """
        now = self._session.now()
        recall = self._recall_use(recalled, used, rating)
        # An episode of nothing else: only the database has the stored one, and these fields are checked as its own.
        completion = Episode(
            task_description="",
            outcome=outcome,
            reward=RewardScore(total=reward) if isinstance(reward, int | float) else reward,
            reflection=reflection,
            completed_at=now if completed_at is None else completed_at,
            recalled=recall and recall.receipt,
        )
        if completion.outcome is None:
            raise ValidationError("outcome", "how did it end? Success, PartialSuccess, Failure or Abstained", None)
        _, completion = encode(Episode, completion)
        most = most_bytes(self._session.limits, self._session.max_value_bytes)
        if (least := completion_bytes(completion)) > most:  # before it is sent
            raise too_large("", least, self._session.limits, self._session.max_value_bytes)
        end = completion.completed_at or now
        key = {"namespace": self._session.namespace, "id": as_id(episode_id)}
        values = {**completion_values(completion, end), "now": to_micros(now), "is_now": int(completed_at is None)}
        if completed_at is None:
            values["completed_json"] = None
        counting = self._count_recalled(recall, key["id"], values)
        statement = _completion_statement(recall, values)
        check = sql.CHECK_SIZE.bind(0, most=most, **key)
        try:
            completed = self._update(episode_id, statement, check, before=counting, changed=1, **values)
            self._note_saved("episode", [completed.id])
            return completed
        except NotFoundError:  # the statement changes no row, either, if the end is before the stored start
            if completed_at is not None and (stored := self.find(episode_id, steps=False)):
                raise _end_before_start_error("completed_at", stored.started_at, end) from None
            raise
        except (RowCountError, ValidationError) as error:
            explained = self._completion_error(error, completion, episode_id, len(counting))
            if explained is None:
                raise
            raise explained from error

    def _recall_use(
        self, recalled: Recall | UUID | str | None, used: Sequence[UUID | str] | None, rating: int | None
    ) -> RecallUse | None:
        """Return the recall that an episode is completed with, and what is known of its use; None without a recall."""
        if recalled is not None:
            return self._session.recalls.use(recalled, self._session.namespace, used, rating)
        for name, value in (("used", used), ("rating", rating)):
            if value is not None:
                raise ValidationError(name, "only with the recall that it is about, as `recalled`", value)
        return None

    def _completion_error(
        self, error: RowCountError | ValidationError, completion: Episode, episode_id: UUID | str, before: int
    ) -> ValidationError | None:
        """Return the error of a batch for the caller; None if it is for the caller as it is.

        Args:
            error: Of the batch.
            completion: What the episode was to be completed with.
            episode_id: Its ID.
            before: The number of statements before the completion.
        """
        receipt = completion.recalled
        if receipt is not None and isinstance(error, RowCountError) and error.index <= before:
            limit = "the recall that the episode was completed with before; leave it out, or pass that one"
            return {
                _KEPT_CHECK: unknown_recall_error(receipt.id),
                _USED_CHECK: unknown_use_error(receipt.used),
            }.get(error.index, ValidationError("recalled", limit, str(receipt.id)))
        if not exceeds_limit(error, before + _SIZE_CHECK):
            return None
        most = most_bytes(self._session.limits, self._session.max_value_bytes)
        stored = self.find(episode_id, steps=False)
        completed_bytes = size(encode_episode(with_completion(stored, completion)).document) if stored else 0
        # Unless another writer has changed it since.
        return too_large("", max(completed_bytes, most + 1), self._session.limits, self._session.max_value_bytes)

    def _count_recalled(
        self, recall: RecallUse | None, episode_id: str, values: dict[str, Any]
    ) -> list[dbapi.BatchStep]:
        """Return the statements that check the recall and count its patterns; the first checks have fixed places."""
        if recall is None:
            return []
        namespace, opening = self._session.namespace, self._session.opening
        key = {"namespace": namespace, "id": episode_id, "recall_id": str(recall.receipt.id)}
        count: dict[str, Any] = {
            "namespace": namespace,
            "episode_id": episode_id,
            "used": recall.used,
            "kind": values["kind"],
            "now": values["now"],
        }
        steps = [sql.CHECK_RECALLED.bind(0, **key)]
        if recall.is_kept:
            steps += [sql.CHECK_KEPT.bind(0, **key), sql.CHECK_USED.bind(0, used=recall.used or "[]", **key)]
            record = patterns_sql.RECORD_KEPT_RECALL.bind(recall_id=key["recall_id"], **count)
        elif recall.pattern_ids:
            record = patterns_sql.RECORD_RECALL.bind(ids=ids_as_json(recall.pattern_ids), **count)
        else:
            return steps
        return [*steps, *([] if opening is None else [patterns_sql.COUNT_AS.bind(opening=opening)]), record]

    @operation
    def checkpoint(
        self,
        episode_id: UUID | str,
        label: str,
        *,
        state: Mapping[str, Any] | None = None,
        step_number: int | None = None,
    ) -> Checkpoint:
        """Store a state of the episode from which its work can be resumed: see `handoff` and `resume`.

        Args:
            episode_id: The ID of the episode.
            label: What it is called, in 1 to 200 characters.
            state: What the agent needs to continue, a JSON object. Its key "next", a text or a list of texts, says
                what is to be done next.
            step_number: The number of the last step before it, or 0; by default that of the last step.

        Returns:
            The stored checkpoint. `storage.checkpoints` reads and deletes them.

        Raises:
            NotFoundError: The episode does not exist.
            ValidationError: An argument is invalid, the state exceeds a limit, or there is no step of this number.
        """
        return add_checkpoint(self._session, as_id(episode_id, "episode_id"), label, state, step_number)

    @operation
    def handoff(self, episode_id: UUID | str | Checkpoint) -> Handoff:
        """Return what another agent, or a later session, needs to continue the episode.

        It is made of the episode, of its steps in short, of its latest checkpoint, and of the patterns that are related
        to it. Give a checkpoint for what was known then: of the steps, those before it.

        Args:
            episode_id: The ID of the episode, or one of its checkpoints.

        Returns:
            The handoff: `handoff.to_markdown(max_chars=4_000)` is for a prompt.

        Raises:
            NotFoundError: The episode does not exist.
        """
        if isinstance(episode_id, Checkpoint):
            _, checkpoint = encode(Checkpoint, episode_id)
            return build_handoff(self._session, str(checkpoint.episode_id), checkpoint)
        return build_handoff(self._session, as_id(episode_id, "episode_id"), None)

    @operation
    def resume(self, checkpoint_id: UUID | str) -> Episode:
        """Store a new episode that continues from a checkpoint, and the relationship that it `follows` the other one.

        The new episode has the task, context and tags of the other one, and its metadata with the IDs of both as
        `resumed_from_episode` and `resumed_from_checkpoint`; it has no steps and no outcome. Each call stores another
        episode. Two round trips: the checkpoint is read, and both rows are written in one transaction.

        Args:
            checkpoint_id: The ID of the checkpoint.

        Returns:
            The new episode.

        Raises:
            NotFoundError: The checkpoint does not exist, or its episode was deleted concurrently.
            ValidationError: The limit of episodes is exceeded (`limits.max_episodes`).
        """
        key = {"namespace": self._session.namespace, "id": as_id(checkpoint_id, "checkpoint_id")}
        rows = self._session.read(sql.GET_HEAD_OF_CHECKPOINT.bind(**key))
        if not rows:
            raise NotFoundError("checkpoint", checkpoint_id)
        before = episode_from_rows(rows)
        origin = {"resumed_from_episode": str(before.id), "resumed_from_checkpoint": key["id"]}
        episode = Episode(
            task_description=before.task_description,
            task_type=before.task_type,
            context=before.context,
            tags=before.tags,
            metadata={**before.metadata, **origin},
            started_at=self._session.now(),
        )
        encoded = self._encode_all([episode])
        now = to_micros(self._session.now())
        follows = sql.ADD_FOLLOWS.bind(
            1,
            namespace=self._session.namespace,
            id=str(new_id()),
            from_id=str(episode.id),
            to_id=str(before.id),
            checkpoint_id=key["id"],
            now=now,
        )
        heads = [episode_values(encoded[0], self._session.namespace, 1, now, now, None)]
        try:
            self._write(sql.insert_episodes(heads), [follows], encoded, [episode.id])
        except RowCountError as error:
            raise NotFoundError("episode", before.id) from error
        self._note_saved("episode", [episode.id])
        return with_columns_of_row(encoded[0].episode, (1, now, now, None))

    @operation
    def archive(self, episode_id: UUID | str) -> Episode:
        """Archive the episode. Idempotent.

        Archived episodes are excluded from queries unless `archived` is True or None.

        Raises:
            NotFoundError: The episode does not exist.
        """
        return self._update(episode_id, sql.ARCHIVE, now=to_micros(self._session.now()))

    @operation
    def restore(self, episode_id: UUID | str) -> Episode:
        """Restore the episode from the archive. Idempotent.

        Raises:
            NotFoundError: The episode does not exist.
        """
        return self._update(episode_id, sql.RESTORE)

    @operation
    def delete(self, episode_id: UUID | str) -> bool:
        """Delete the episode with its steps, embeddings and spatiotemporal entries. Returns whether it existed."""
        return bool(self._session.write([sql.DELETE.bind(namespace=self._session.namespace, id=as_id(episode_id))]))

    @operation
    def get(self, episode_id: UUID | str, *, steps: bool = True) -> Episode:
        """Return the episode.

        Args:
            episode_id: The ID of the episode.
            steps: Whether it has its steps.

        Returns:
            The episode.

        Raises:
            NotFoundError: The episode does not exist.
        """
        episode = self.find(episode_id, steps=steps)
        if episode is None:
            raise NotFoundError("episode", episode_id)
        return episode

    @operation
    def find(self, episode_id: UUID | str, *, steps: bool = True) -> Episode | None:
        """Return the episode, or None.

        Args:
            episode_id: The ID of the episode.
            steps: Whether it has its steps.

        Returns:
            The episode, or None if it does not exist.

        Raises:
            ValidationError: The ID is invalid.
        """
        statement = sql.GET if steps else sql.GET_HEAD
        rows = self._session.read(statement.bind(namespace=self._session.namespace, id=as_id(episode_id)))
        return episode_from_rows(rows) if rows else None

    @operation
    def resolve_id(self, prefix: UUID | str) -> UUID:
        """Return the only ID that begins with a prefix, as returned by `short_ids`.

        Args:
            prefix: An ID, or at least its first 4 hexadecimal digits, with or without hyphens.

        Raises:
            NotFoundError: No ID in this namespace begins with the prefix.
            ValidationError: It is not a prefix of a UUID; or several IDs begin with it, and the message lists them.
        """
        return _IDS.resolve(self._session, prefix)

    @operation
    def short_ids(self, episode_ids: Iterable[UUID | str], *, least: int = 8) -> dict[UUID, str]:
        """Return for each ID its shortest prefix that identifies it among the stored episodes.

        Args:
            episode_ids: The IDs.
            least: The minimum number of characters of a prefix, from 4 to 36.

        Returns:
            The prefixes by ID.

        Raises:
            ValidationError: An ID or `least` is invalid.
        """
        return _IDS.short(self._session, episode_ids, "episode_ids", least)

    @operation
    def query(
        self,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        direction: Direction = "newest_first",
        steps: bool = True,
        on_corrupt: OnCorrupt = None,
        **filters: Unpack[EpisodeFilters],
    ) -> Page[Episode]:
        """Return a page of the episodes that pass all filters, by `started_at`.

        Archived episodes are excluded unless `archived` is True (only those) or None (all). `text` matches words,
        "phrases" or a prefix*: all of them, in the description, outcome, reflection, summary, tags or any of the steps.

        Args:
            limit: The maximum number of rows, 100 by default and 1,000 at most (`limits.query_default`,
                `query_maximum`).
            cursor: `next_cursor` or `previous_cursor` of a page with the same arguments.
            direction: "newest_first" or "oldest_first".
            steps: Whether the episodes have their steps.
            on_corrupt: Called with the CorruptDataError of each row that cannot be decoded, which is then skipped and
                does not count in `limit`. Without it the error is raised.
            **filters: Conditions that all have to hold.

        Returns:
            The page, with cursors of the next and the previous one.

        Raises:
            ValidationError: A filter, the limit, the cursor or the direction is invalid.
        """
        check_on_corrupt(on_corrupt)
        descending = is_descending(direction)
        flag("steps", steps)
        asked = EpisodeFilter(**filters)
        compiled = compile_filters(asked, "episode", has_recent=self._session.has_recent_words)
        where, values = compiled.finding, compiled.values
        facets = leading_facets(asked, values)
        if facets:
            bounds = [f"at {sign} :{name}" for name, sign in _SIGNS.items() if name in values]
            where = (*bounds, *conditions(asked, "episode", Shape("e.", by_row=True))[0])

        def read(size: int, place: Cursor | None) -> Page[Episode]:
            key, seq = ("at", "owner_seq") if facets else ("started_at", "seq")
            order, after, place_values = order_and_condition(key, place, descending=descending, seq=seq)
            place_values |= narrowed(values, place, _BOUNDS, descending=descending)
            if facets:
                statement = sql.query_by_facets(facets, (*where, *after), order, with_steps=steps)
            else:
                statement = sql.query((*where, *after), order, with_steps=steps)
            step = statement.bind(namespace=self._session.namespace, limit=size + 1, **values | place_values)
            backwards = place is not None and place.backwards
            rows = self._session.read(step)
            return page_from_rows(rows, size, place, descending=descending != backwards, on_corrupt=on_corrupt)

        return fill_page(read, check_limit(limit, self._session.limits), parse_cursor(cursor))

    @operation
    def iterate(
        self,
        *,
        direction: Direction = "newest_first",
        steps: bool = True,
        on_corrupt: OnCorrupt = None,
        **filters: Unpack[EpisodeFilters],
    ) -> Iterator[Episode]:
        """Iterate over all episodes that pass the filters, page by page. No connection is held between pages.

        A page has 100 episodes, or fewer if they are large: 4 MB of them, or one larger episode. If no index has the
        episodes in order (filters by text, tags, metadata, reward or completion), the order of those after the first
        page is fixed then, by one more round trip. Episodes that are deleted, or no longer pass a filter, when their
        page is read are skipped; their text is not checked again.

        Args:
            direction: "newest_first" or "oldest_first", by `started_at`.
            steps: Whether the episodes have their steps.
            on_corrupt: Called with the CorruptDataError of each row that cannot be decoded, which is then skipped and
                does not count in `limit`. Without it the error is raised.
            **filters: The filters of `episodes.query`.

        Returns:
            An iterator of episodes.

        Raises:
            ValidationError: An argument or a filter is invalid.
        """
        check_on_corrupt(on_corrupt)
        descending = is_descending(direction)
        flag("steps", steps)
        episode_filter = EpisodeFilter(**filters)
        is_index_ordered = active_filters(episode_filter).keys() <= _INDEX_ORDERED
        where, values = conditions(episode_filter, "episode", has_recent=self._session.has_recent_words)
        size = min(ITERATE_PAGE, self._session.limits.query_maximum)
        values |= {"namespace": self._session.namespace, "limit": size + 1, "page_bytes": PAGE_BYTES}

        def read(cursor: tuple[str, bool]) -> tuple[Iterator[Episode], tuple[str, bool] | None]:
            place, was_large = parse_cursor(cursor[0] or None), cursor[1]
            order, after, place_values = order_and_condition("started_at", place, descending=descending)
            place_values |= narrowed(values, place, _BOUNDS, descending=descending)
            statement = sql.page_by_bytes((*where, *after), order, with_steps=steps)
            rows = self._session.read(statement.bind(**values | place_values), shrinks=was_large)
            page = page_from_rows(rows, size, place, descending=descending, on_corrupt=on_corrupt)
            items, rest = draining(page.items), page.next_cursor
            # The index has no order among episodes that started at the same time: a page within them would read all.
            if rest is None or (is_index_ordered and len({row[0] for row in rows}) > 1):
                return items, None if rest is None else (rest, len(page) < size)
            candidates = self._iterate_listed(
                episode_filter, rest, size, direction=direction, steps=steps, on_corrupt=on_corrupt
            )
            return chain(items, candidates), None

        yield from iterate_pages(read, ("", False))

    def _iterate_listed(
        self,
        episode_filter: EpisodeFilter,
        cursor: str,
        size: int,
        *,
        direction: Direction,
        steps: bool,
        on_corrupt: OnCorrupt,
    ) -> Iterator[Episode]:
        """Yield the episodes after a cursor, by a list of ids: searching again for each page would be quadratic."""
        namespace = self._session.namespace
        order, after, place = order_and_condition(
            "started_at", parse_cursor(cursor), descending=is_descending(direction)
        )
        where, values = conditions(episode_filter, "episode", has_recent=self._session.has_recent_words)
        listed = self._session.read(sql.listed((*where, *after), order).bind(namespace=namespace, **values, **place))
        # Not the text: the index would be searched, and all matches joined, for each page.
        row_conditions, values = conditions(
            episode_filter.model_copy(update={"text": None}), "episode", Shape("e.", by_row=True)
        )
        statement = sql.page_of_listed(row_conditions, with_steps=steps)
        values |= {"namespace": namespace, "limit": size + 1, "page_bytes": PAGE_BYTES}
        was_large = True  # the page before this list may have been
        first = 0
        while first < len(listed):
            page = to_json([tuple(row) for row in listed[first : first + size]]).decode()
            rows = self._session.read(statement.bind(listed=page, **values), shrinks=was_large)
            # Episodes that did not fit are on the next page, identified by their position in the list.
            fitting = min((row[0] for row in rows if row[2] == 0 and row[3] is None), default=size)
            first, was_large = first + fitting, fitting < size
            episodes = draining(page_from_rows(rows, size, None, descending=False, on_corrupt=on_corrupt).items)
            del rows
            yield from episodes

    @operation
    def count(self, **filters: Unpack[EpisodeFilters]) -> int:
        """Count the episodes that pass all filters."""
        where, values = conditions(EpisodeFilter(**filters), "episode", has_recent=self._session.has_recent_words)
        rows = self._session.read(sql.count(where).bind(namespace=self._session.namespace, **values))
        return int(rows[0][0])

    @operation
    def similar_to(
        self,
        vector: Sequence[float] | str,
        *,
        model: str | None = None,
        k: int = 10,
        min_similarity: float | None = None,
        mode: SearchMode = "auto",
        cursor: str | None = None,
        steps: bool = True,
        explain: bool = False,
        on_corrupt: OnCorrupt = None,
        **filters: Unpack[EpisodeFilters],
    ) -> Hits[Episode]:
        """Return the `k` episodes that are most similar to a vector and pass all filters, or all if there are fewer.

        The similarity is the cosine, from -1 to 1, of the most similar one of the episode's own vector and those of its
        steps. Pages show each match once, of those that were stored when the first page was read. One round trip; two
        if `model` has to be looked up. A namespace without vectors of `model` has no hits, which is logged as
        information.

        Args:
            vector: The query vector; or a text, which the storage's embedder embeds.
            model: The embedding model of the vector. May be omitted for a text, or if the namespace has one model only.
            k: The number of hits, from 1 to 1,000.
            min_similarity: The lowest cosine similarity of a hit, from -1 to 1.
            mode: "auto" decides between the index and an exact scan; "exact" compares all vectors that pass the
                filters.
            cursor: `next_cursor` of the hits before, with the same arguments.
            steps: Whether the episodes have their steps.
            explain: Whether each hit has the parts that add up to its score.
            on_corrupt: Called with the CorruptDataError of each row that cannot be decoded, which is then skipped and
                does not count in `limit`. Without it the error is raised.
            **filters: The filters of `query`.

        Returns:
            The hits, the most similar first, with the plan and a cursor.

        Raises:
            ValidationError: The vector, `k`, a filter or the cursor is invalid; or the vector has another dimension
                than this namespace's vectors of the model.
        """
        vector, model = embed_text(self._session, vector, model)
        return self._hits(
            SearchRequest(
                EpisodeFilter(**filters), k, None, vector, model, mode, min_similarity, cursor, None, explain
            ),
            steps=steps,
            on_corrupt=on_corrupt,
        )

    @operation
    def search(
        self,
        text: str,
        *,
        vector: Sequence[float] | None = None,
        model: str | None = None,
        embedder: Embedder | None = None,
        k: int = 10,
        weights: Weights | None = None,
        min_similarity: float | None = None,
        mode: SearchMode = "auto",
        cursor: str | None = None,
        steps: bool = True,
        explain: bool = False,
        on_corrupt: OnCorrupt = None,
        **filters: Unpack[SearchFilters],
    ) -> Hits[Episode]:
        """Return the `k` best episodes by full text, or by full text and a vector, that pass all filters.

        Words are looked for in the description, outcome, reflection, tags and steps; the fewer texts of the namespace
        have a word, the more it counts, and twice in the description and tags. With a `vector` or an
        `embedder` the ranks of both are fused (reciprocal ranks, of the best 4 `k` of each). In a namespace without
        vectors, full text decides alone.

        Args:
            text: The words to find; any of them may match. Any string is safe.
            vector: A query vector, for a hybrid search.
            model: The embedding model of the vector. May be omitted if the namespace has one model only.
            embedder: Makes the vector of `text`, instead of `vector` and `model`; by default that of the storage.
                Without one, or with `Weights(vector=0)`, words alone decide.
            k: The number of hits, from 1 to 1,000.
            weights: The weights of text, vector, recency and reward.
            min_similarity: The lowest cosine similarity of a hit by vector, from -1 to 1.
            mode: "auto" decides between the index and an exact scan; "exact" compares all vectors that pass the
                filters.
            cursor: `next_cursor` of the hits before, with the same arguments.
            steps: Whether the episodes have their steps.
            explain: Whether each hit has the parts that add up to its score.
            on_corrupt: Called with the CorruptDataError of each row that cannot be decoded, which is then skipped and
                does not count in `limit`. Without it the error is raised.
            **filters: The filters of `query`, without `text`.

        Returns:
            The hits, the highest score first, with the plan and a cursor.

        Raises:
            ValidationError: An argument, a filter or the cursor is invalid; or the vector has another dimension than
                this namespace's vectors of the model.
        """
        text, vector, model = embed_query(self._session, text, vector, model, embedder, weights)
        return self._hits(
            SearchRequest(
                EpisodeFilter(**filters),
                k,
                text,
                vector,
                model,
                mode,
                min_similarity,
                cursor,
                weights,
                explain,
            ),
            steps=steps,
            on_corrupt=on_corrupt,
        )

    def _hits(self, request: SearchRequest, *, steps: bool, on_corrupt: OnCorrupt) -> Hits[Episode]:
        check_on_corrupt(on_corrupt)
        flag("steps", steps)
        statement, decode = partial(sql.search, with_steps=steps), partial(hits_from_rows, on_corrupt=on_corrupt)
        return find_hits(self._session, EPISODES, request, statement, decode)

    def _encode_all(self, episodes: Sequence[Episode]) -> list[StoredEpisode]:
        limits = self._session.limits
        encoded = []
        copies = to_list(episodes, "episodes")
        for index, episode in enumerate(copies):
            field = f"episodes.{index}" if len(copies) > 1 else ""
            stored = encode_episode(number_steps(episode), field)
            check_episode(
                stored.episode, stored.document, stored.step_sizes, limits, self._session.max_value_bytes, field
            )
            encoded.append(stored)
        if len({one.episode.id for one in encoded}) != len(copies):
            raise ValidationError("episodes", "each id once", [str(episode.id) for episode in copies])
        _reject_shared_steps(encoded)
        return encoded

    def _reject_reversed_times(self, episodes: Sequence[Episode]) -> None:
        """Reject an end before the start, unless both times are stored: older versions accepted them."""
        reversed_ = [
            (index, episode)
            for index, episode in enumerate(episodes)
            if episode.completed_at is not None and episode.completed_at < episode.started_at
        ]
        if not reversed_:
            return
        ids = ids_as_json([str(episode.id) for _, episode in reversed_])
        rows = self._session.read(sql.TIMES.bind(namespace=self._session.namespace, ids=ids))
        stored = {row[0]: tuple(row[1:]) for row in rows}
        for index, episode in reversed_:
            end = episode.completed_at or episode.started_at
            if stored.get(str(episode.id)) != (to_micros(episode.started_at), to_micros(end)):
                field = f"episodes.{index}.completed_at" if len(episodes) > 1 else "completed_at"
                raise _end_before_start_error(field, episode.started_at, end)

    def _save(self, encoded: list[StoredEpisode]) -> list[Episode]:
        if not encoded:
            return []
        new = _new_ids(encoded)
        namespace, now = self._session.namespace, to_micros(self._session.now())
        steps = _step_rows(namespace, encoded)
        heads = [episode_values(one, namespace, one.episode.version + 1, now, now, None) for one in encoded]
        rows: Sequence[Row] = ()
        if len(new) == len(encoded):  # then a step that exists is another episode's: no upsert
            self._write(sql.insert_episodes(heads), sql.insert_steps(steps), encoded, new)
        else:
            since = [one.episode.created_at and to_micros(one.episode.created_at) for one in encoded]
            heads = [(*head, created_at) for head, created_at in zip(heads, since, strict=True)]
            try:
                rows = self._write(sql.save_episodes(heads), sql.save_steps(steps), encoded, new)
            except ConflictError:
                if not self._only_moves_steps(encoded):
                    raise
                # Steps that exchange numbers. Parking writes each step twice, so it is done only after a conflict.
                ids = json.dumps([row[1:4:2] for row in steps])
                park = sql.PARK_STEPS.bind(namespace=namespace, steps=ids)
                rows = self._write(sql.save_episodes(heads), [park, *sql.save_steps(steps)], encoded, new)
        states = {row[0]: row[1:] for row in rows}
        return [
            with_columns_of_row(one.episode, _state_after_save(one.episode, states.get(str(one.episode.id)), now))
            for one in encoded
        ]

    def _import(self, new: list[StoredEpisode], *, restore: bool) -> int:
        if new:
            namespace, now = self._session.namespace, to_micros(self._session.now())
            self._write(
                sql.insert_episodes([_imported(one, namespace, now) for one in new]),
                sql.insert_steps(_step_rows(namespace, new)),
                new,
                [one.episode.id for one in new],
                remove_tombstones if restore else assert_not_tombstoned,
            )
        return len(new)

    def _write(
        self,
        heads: Iterable[dbapi.BatchStep],
        steps: Iterable[dbapi.BatchStep],
        encoded: list[StoredEpisode],
        new: list[UUID],
        preamble: Callable[[SessionProtocol, Sequence[UUID]], list[dbapi.BatchStep]] = assert_not_tombstoned,
    ) -> Sequence[Row]:
        quota = self._quota_statements(new)
        # Errors tell statements by their places: the guard of tombstones is the first, and the quota's check the last.
        # Heads are written before their steps, which reference them.
        changes = [*preamble(self._session, new), *heads, *steps, *quota]
        # The last statement only reads: if the acknowledgement is lost, it answers again. What is new is known.
        state = [] if len(new) == len(encoded) else [self._state_step(encoded)]
        try:
            return self._session.write([*changes, *state], changed=len(encoded))
        except RowCountError as error:
            if quota and error.index == len(changes):
                advice = "delete some, by storage.retention or one by one"
                limit = f"at most {self._session.limits.max_episodes:,} in a namespace: {advice}"
                raise ValidationError("episodes", limit, f"{len(new):,} more", setting="limits.max_episodes") from error
            raise

    def _quota_statements(self, new: Sequence[UUID]) -> list[dbapi.BatchStep]:
        """Return the statements that follow the insertion of new episodes; the last of them must change no row."""
        limits, namespace = self._session.limits, self._session.namespace
        if limits.max_episodes is None or not new:
            return []
        check = sql.CHECK_QUOTA.bind(0, namespace=namespace, max_episodes=limits.max_episodes)
        if limits.when_full == "refuse":
            return [check]
        add_eviction_keys = sql.ADD_EVICTION_KEYS.bind(
            namespace=namespace,
            prefix=eviction_prefix(namespace),
            ids=ids_as_json([str(one) for one in new]),
            max_episodes=limits.max_episodes,
        )
        return [add_eviction_keys, sql.EVICT.bind(namespace=namespace), check]

    def _only_moves_steps(self, encoded: Sequence[StoredEpisode]) -> bool:
        """Return whether the steps that the episodes carry conflict only with each other: they exchange numbers."""
        carried = {row[1]: (str(one.episode.id), row[0]) for one in encoded for row in one.steps}
        numbers = json.dumps(list(carried.values()))
        values = {"namespace": self._session.namespace, "ids": ids_as_json(list(carried)), "numbers": numbers}
        rows = self._session.read(steps_sql.CONFLICTING_STEPS.bind(**values))
        return all(carried.get(step_id, ("",))[0] == episode_id for step_id, episode_id in rows)

    def _states(self, encoded: Sequence[StoredEpisode]) -> Sequence[Row]:
        return self._session.read(self._state_step(encoded)) if encoded else []

    def _state_step(self, encoded: Sequence[StoredEpisode]) -> dbapi.BatchStep:
        ids = ids_as_json([str(one.episode.id) for one in encoded])
        return sql.STATE.bind(namespace=self._session.namespace, ids=ids)

    def _remaining_to_import(self, encoded: list[StoredEpisode], error: RowCountError) -> list[StoredEpisode]:
        known = {row[0] for row in self._states(encoded)}
        if error.index == 1:
            known |= {str(one) for one in tombstoned_among(self._session, [one.episode.id for one in encoded])}
        return [one for one in encoded if str(one.episode.id) not in known]

    def _remaining_to_save(self, encoded: list[StoredEpisode], error: RowCountError) -> list[StoredEpisode]:
        """Return the episodes that are not stored yet.

        Raises:
            ConflictError: One is stored in another version, or with other content.
        """
        if error.index == 1:
            reject_tombstoned(self._session, _new_ids(encoded))
        states = {row[0]: row[1:3] for row in self._states(encoded)}
        remaining = []
        for one in encoded:
            episode = one.episode
            version, created_at = states.get(str(episode.id), (None, None))
            is_same = episode.created_at is None or created_at == to_micros(episode.created_at)
            if (version or 0) == episode.version and (is_same or not version):
                remaining.append(one)  # the conflict was about another one
            # A new one with the same content was stored by an attempt without acknowledgement, or by another client.
            elif version is None or episode.version or not same_content(episode, self.get(episode.id)):
                raise stale_copy_error(self._session, "episode", episode.id, episode.version, version)
        return remaining

    def _update(
        self,
        episode_id: UUID | str,
        statement: SqlTemplate,
        *checks: dbapi.BatchStep,
        before: Sequence[dbapi.BatchStep] = (),
        changed: int = 0,
        **values: Any,
    ) -> Episode:
        key = {"namespace": self._session.namespace, "id": as_id(episode_id)}
        change = statement.bind(1, **key, **values)
        try:
            rows = write_and_read(self._session, [*before, change, *checks], sql.GET.bind(**key), changed=changed)
        except RowCountError as error:
            if error.index != len(before) + 1:
                raise
            raise NotFoundError("episode", episode_id) from error
        if not rows:  # a concurrent writer deleted the row between the unacknowledged write and the read
            raise NotFoundError("episode", episode_id)
        return episode_from_rows(rows)

    def _resolve_append(self, step: Step, values: dict[str, Any], limit: int, conflict: ConflictError | None) -> int:
        """Return the number of a step that is stored already; else raise the error that prevented the append."""
        rows = self._session.read(steps_sql.STORED_STEP.bind(**values))
        if rows:
            number, is_same = rows[0]
            if not is_same:
                raise ConflictError("step", step.id, expected=0, actual=None, detail="another step has this id")
            return int(number)
        if self.find(values["episode_id"], steps=False) is None:
            raise NotFoundError("episode", values["episode_id"])
        if conflict is not None:  # the cause of the refusal no longer exists: another writer has removed it
            raise conflict
        raise ValidationError("steps", f"at most {limit:,} steps", limit + 1, setting="limits.steps_per_episode")


def _completion_statement(recall: RecallUse | None, values: dict[str, Any]) -> SqlTemplate:
    """Return the statement that completes an episode; adds to its values those of a kept recall."""
    if recall is None or not recall.is_kept:
        return sql.COMPLETE
    values |= {"recalled": recall.document, "recall_id": str(recall.receipt.id)}
    return sql.COMPLETE_KEPT


def _end_before_start_error(field: str, started_at: datetime, completed_at: datetime) -> ValidationError:
    limit = f"not before started_at, {started_at.isoformat()}"
    return ValidationError(field, limit, completed_at.isoformat())


def _state_after_save(episode: Episode, state: Row | None, now: int) -> Row:
    """Return the version and times that a save has left.

    `state` belongs to another writer if the acknowledgement was lost, and the row was read again after that writer's
    save.
    """
    if state is not None and state[0] == episode.version + 1:
        return state
    created_at = state[1] if state else now
    return episode.version + 1, created_at, now, state[3] if state else None


def _reject_shared_steps(encoded: Sequence[StoredEpisode]) -> None:
    if len(encoded) < 2:  # an episode has been checked by itself
        return
    seen: set[str] = set()
    for index, one in enumerate(encoded):
        ids = [row[1] for row in one.steps]
        for number, step_id in enumerate(ids):
            if step_id in seen:
                field = f"episodes.{index}.steps.{number}.id"
                raise ValidationError(
                    field, "each step its own id: a step of another of these episodes has this one", step_id
                )
        seen.update(ids)


def _new_ids(encoded: list[StoredEpisode]) -> list[UUID]:
    return [one.episode.id for one in encoded if one.episode.version == 0]


def _step_rows(namespace: str, encoded: Sequence[StoredEpisode]) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for one in encoded:
        episode_id = str(one.episode.id)
        rows += [(namespace, episode_id, *row) for row in one.steps]
    return rows


def _imported(stored: StoredEpisode, namespace: str, now: int) -> tuple[Any, ...]:
    """Return the row of a copy, which keeps its version and times; version 0 would mean that it was never saved."""
    one = stored.episode
    created_at = now if one.created_at is None else to_micros(one.created_at)
    updated_at = now if one.updated_at is None else to_micros(one.updated_at)
    archived_at = None if one.archived_at is None else to_micros(one.archived_at)
    return episode_values(stored, namespace, max(one.version, 1), created_at, updated_at, archived_at)
