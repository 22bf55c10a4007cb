"""The repository of patterns. Counters are incremented by SQL, so that no count is lost between concurrent clients."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar, get_args
from uuid import UUID

from typing_extensions import Unpack

from memory_storage._deprecation import renamed_arguments
from memory_storage._formatting import with_article
from memory_storage.dbapi import BatchStep, RowCountError, chunked
from memory_storage.embedders import Embedder
from memory_storage.errors import ConflictError, NotFoundError, ValidationError
from memory_storage.models import (
    AnyPattern,
    EpisodeFilter,
    EpisodeFilters,
    Hits,
    Page,
    PatternFilter,
    PatternFilters,
    SearchMode,
)
from memory_storage.monitoring import operation
from memory_storage.repositories.analytics.arguments import check_lengths
from memory_storage.repositories.analytics.sql import SUCCESS_BY_OUTCOME, SUCCESS_BY_REWARD
from memory_storage.repositories.retention.sql import MINED_TAG
from memory_storage.repositories.retention.tombstones import (
    assert_not_tombstoned,
    reject_tombstoned,
    remove_tombstones,
    stale_copy_error,
    tombstoned_among,
)
from memory_storage.schema.words import with_words, words_of_pattern
from memory_storage.search.planner import find_hits
from memory_storage.search.request import SearchRequest, Weights, embed_query, embed_text
from memory_storage.search.session import SearchSession
from memory_storage.search.statement import PATTERNS
from memory_storage.sql.documents import REWARD_DELTAS, SUCCESS_RATES, OnCorrupt, chunk_documents, encode
from memory_storage.sql.filters import conditions
from memory_storage.sql.id_prefixes import IdPrefixes
from memory_storage.sql.paging import (
    ITERATE_PAGE,
    PAGE_BYTES,
    Cursor,
    check_limit,
    draining,
    fill_page,
    order_and_condition,
    page,
    parse_cursor,
)
from memory_storage.sql.session import (
    Repository,
    SessionProtocol,
    exceeds_limit,
    ids_as_json,
    retry_on_row_conflict,
    write_and_read,
)
from memory_storage.sql.statement import to_micros
from memory_storage.sql.validation import (
    as_id,
    check_document,
    check_on_corrupt,
    check_tags,
    finite,
    flag,
    limit_error,
    most_bytes,
    stored_bytes,
    to_list,
    too_large,
)

from . import sql
from .learning.learn import Learning, thresholds
from .rows import hits_from_rows, pattern_from_row, pattern_or_none

P = TypeVar("P", bound=AnyPattern)

_IDS = IdPrefixes("patterns", "pattern")

_MERGE_CHECK = 2  # the number of the statement that checks the limits


class PatternRepository(Repository):
    """The patterns of one namespace."""

    _operations = "patterns"

    _session: SearchSession

    @operation
    def save(self, pattern: P) -> P:
        """Insert or update a pattern by its ID, and return the stored pattern with its new version.

        `effectiveness` is written with a new pattern only; afterwards `record_*` and `merge` change it.

        A pattern that was removed by `delete` can be saved again as a new one (version 0); one that was erased by
        `forget` cannot.

        Raises:
            ConflictError: The stored version differs from `pattern.version`, or the ID was reused for another pattern
                after this one was deleted.
            ValidationError: A limit is exceeded, a value would not be read back equal, the evidence names an episode
                twice (unless it is stored with this evidence), or the pattern is new and was erased.
        """
        return self.save_many([pattern])[0]

    @operation
    def save_many(self, patterns: Sequence[P]) -> list[P]:
        """Save patterns atomically; see `save`."""
        encoded = self._encode_all(patterns)
        self._reject_repeated_evidence([pattern for _, pattern in encoded])
        saved = retry_on_row_conflict(
            self._save, encoded, lambda _, error: self._remaining_to_save(encoded, error), "changing these patterns"
        )
        self._note_saved("pattern", [pattern.id for _, pattern in encoded])
        by_id = {pattern.id: pattern for pattern in saved}
        return [by_id.get(pattern.id) or self.get(pattern.id) for _, pattern in encoded]  # type: ignore[misc]

    @operation
    def import_many(self, patterns: Sequence[AnyPattern], *, restore_forgotten: bool = False) -> int:
        """Insert copies unchanged, with their version, times and counters. Idempotent.

        Patterns whose ID is stored already are not changed. Erased patterns are skipped; `erased_among` names them.

        Args:
            patterns: The copies.
            restore_forgotten: Whether to restore what `forget` erased.

        Returns:
            The number of new patterns.

        Raises:
            ValidationError: A pattern exceeds a limit, or would not be read back equal.
        """
        encoded = self._encode_all(patterns)
        write = partial(self._import, restore=flag("restore_forgotten", restore_forgotten))
        imported = retry_on_row_conflict(
            write, encoded, lambda _, error: self._remaining_to_import(encoded, error), "importing these patterns"
        )
        self._note_saved("pattern", [pattern.id for _, pattern in encoded])
        return imported

    @operation
    def erased_among(self, pattern_ids: Iterable[UUID | str]) -> set[UUID]:
        """Return the IDs that were erased by `forget`: copies of these patterns are refused."""
        ids = [UUID(as_id(one, "pattern_ids")) for one in to_list(pattern_ids, "pattern_ids")]
        return tombstoned_among(self._session, ids)

    @operation
    def record_retrieval(self, pattern_ids: UUID | str | Iterable[UUID | str]) -> None:
        """Count one retrieval of each of these patterns.

        Raises:
            NotFoundError: A pattern does not exist; nothing is counted.
        """
        ids = [pattern_ids] if isinstance(pattern_ids, UUID | str) else to_list(pattern_ids, "pattern_ids")
        texts = sorted({as_id(one, "pattern_ids") for one in ids})
        values = {"namespace": self._session.namespace, "ids": ids_as_json(texts), "now": self._now()}
        try:
            self._session.write([*self._counting(), sql.RECORD_RETRIEVAL.bind(len(texts), **values)])
        except RowCountError as error:
            raise NotFoundError("pattern", ", ".join(texts)) from error

    @operation
    def record_application(self, pattern_id: UUID | str, *, success: bool, reward_delta: float = 0.0) -> None:
        """Count an application of a pattern. Counted in SQL, so that concurrent calls are all counted.

        Args:
            pattern_id: The ID of the pattern.
            success: Whether it helped.
            reward_delta: The change of the reward attributed to the pattern.

        Raises:
            NotFoundError: The pattern does not exist.
        """
        if not isinstance(success, bool):
            raise ValidationError("success", "True or False", success)
        if isinstance(reward_delta, bool) or not isinstance(reward_delta, int | float):
            raise ValidationError("reward_delta", "a finite number", reward_delta)
        if not abs(reward_delta) <= sys.float_info.max:  # refuses NaN, and an int that is too large for a float
            raise ValidationError("reward_delta", "a finite number", reward_delta)
        values = {"success": int(success), "reward_delta": float(reward_delta), "now": self._now()}
        step = sql.RECORD_APPLICATION.bind(1, namespace=self._session.namespace, id=as_id(pattern_id), **values)
        try:
            self._session.write([*self._counting(), step])
        except RowCountError as error:
            raise NotFoundError("pattern", pattern_id) from error

    @operation
    def merge(self, pattern_id: UUID | str, other_id: UUID | str) -> AnyPattern:
        """Add the occurrences, counters, evidence and tags of another pattern to this one, and delete the other one.

        Args:
            pattern_id: The ID of the pattern that stays.
            other_id: The ID of the pattern that is deleted.

        Returns:
            The merged pattern.

        Raises:
            NotFoundError: One of them does not exist.
            ValidationError: They are the same, or of different kinds; or together they exceed a limit.
        """
        key, other = as_id(pattern_id), as_id(other_id, "other_id")
        if key == other:
            raise ValidationError("other_id", "must be another pattern", other)
        namespace, most, tags = self._session.namespace, self._most_bytes, self._session.limits.tags
        counting = self._counting()
        try:
            rows = self._session.write(
                [
                    *counting,
                    sql.MERGE.bind(1, namespace=namespace, id=key, other=other, now=self._now()),
                    sql.CHECK_MERGED.bind(0, namespace=namespace, id=key, most=most, tags=tags),
                    sql.DELETE_MERGED.bind(1, namespace=namespace, id=other),
                    sql.GET.bind(namespace=namespace, id=key),
                ]
            )
        except (RowCountError, ValidationError) as error:
            if exceeds_limit(error, len(counting) + _MERGE_CHECK):
                raise self._merge_limit_error(key, other) from error
            if isinstance(error, ValidationError):
                raise
            kinds = self.get(key).kind, self.get(other).kind
            raise ValidationError("other_id", f"must be {with_article(kinds[0])} too", kinds[1]) from None
        if not rows:  # as in `_save`
            raise NotFoundError("pattern", key)
        self._note_saved("pattern", [UUID(key)])
        return pattern_from_row(rows[0])

    @renamed_arguments(least_episodes="min_episodes", most="max_patterns", reward_at_least="success_reward")
    @operation
    def learn(
        self,
        *,
        lengths: tuple[int, int] = (2, 4),
        min_episodes: int = 5,
        min_lift: float = 1.2,
        max_patterns: int = 50,
        evidence: int = 20,
        success_reward: float | None = None,
        **filters: Unpack[EpisodeFilters],
    ) -> list[AnyPattern]:
        """Learn patterns from the episodes that have an outcome, and store them.

        - A tool sequence succeeds at least `min_lift` times as often as all episodes do. Sequences that the same
          episodes have are one pattern, the longest; those that overlap are joined.
        - An error recovery is what was done after a failed step until its tool succeeded, at most 5 steps later, in
          episodes of which at least one succeeded. Errors of one class count as the same.
        - A decision point is the better one of several tools that episodes continue with after the same beginning.
        - A heuristic says what to avoid: a sequence that leads to failure. Of these and of decision points only those
          are learned whose false discovery rate is 0.05 or less.

        A pattern has the domain, language and framework that all of its episodes share. A sequence of several domains
        is `general`, and one of a single domain besides if its rate there differs, or if it leads to success only
        there. The description ends with words that several tasks of its evidence share, so that `search` finds it.
        `statistics` says how sure a pattern is, and which success rate to expect after the decay of old evidence.

        Without filters, learning is incremental: what was counted is kept, archived episodes included, and only new,
        changed and deleted episodes are read. It writes in portions that hold the write lock for about 20 ms. With a
        filter, `success_reward`, more than 4 tools or 20 episodes of evidence, or in a transaction, all episodes that
        pass are read.

        Of a tool's name the first 200 characters count. IDs are derived from the content and the context: learning
        again updates statistics, and keeps usage counters and edits. Patterns that are not found again stay, with the
        statistics of now.

        Args:
            lengths: The smallest and the largest number of tools of a sequence.
            min_episodes: The minimum number of completed episodes that have the pattern.
            min_lift: The lowest success rate relative to that of all.
            max_patterns: The maximum number of patterns of each kind, the surest first.
            evidence: The maximum number of episodes that a pattern names.
            success_reward: The smallest reward that counts as success; None judges by the outcome.
            **filters: The filters of `episodes.query`.

        Returns:
            The patterns, as they are stored.

        Raises:
            ValidationError: An argument or a filter is invalid.
        """
        lengths = check_lengths("lengths", lengths)
        minimum = thresholds(min_episodes, min_lift, max_patterns, evidence)
        where, values = conditions(EpisodeFilter(**filters), "episode", has_recent=self._session.has_recent_words)
        if success_reward is not None:
            values["success_reward"] = finite("success_reward", success_reward)
        success = SUCCESS_BY_OUTCOME if success_reward is None else SUCCESS_BY_REWARD
        learning = Learning(self._session, minimum, lengths, where if filters else (), success, values)
        learned, known = learning.patterns(self.iterate(tags_all=[MINED_TAG], on_corrupt=lambda _: None))
        self._store_learned(known)
        return self._store_learned(learned)

    @operation
    def get(self, pattern_id: UUID | str) -> AnyPattern:
        """Return the pattern.

        Raises:
            NotFoundError: The pattern does not exist.
        """
        pattern = self.find(pattern_id)
        if pattern is None:
            raise NotFoundError("pattern", pattern_id)
        return pattern

    @operation
    def find(self, pattern_id: UUID | str) -> AnyPattern | None:
        """Return the pattern, or None if it does not exist."""
        rows = self._session.read(sql.GET.bind(namespace=self._session.namespace, id=as_id(pattern_id)))
        return pattern_from_row(rows[0]) if rows else None

    @operation
    def get_many(self, pattern_ids: Iterable[UUID | str]) -> dict[UUID, AnyPattern]:
        """Return the patterns of these IDs, such as the sources of a playbook, by ID. Absent ones are missing."""
        ids = [UUID(as_id(one, "pattern_ids")) for one in to_list(pattern_ids, "pattern_ids")]
        stored = {pattern.id: pattern for pattern in self._get_many(ids)}
        return {one: stored[one] for one in ids if one in stored}

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
    def short_ids(self, pattern_ids: Iterable[UUID | str], *, least: int = 8) -> dict[UUID, str]:
        """Return for each ID its shortest prefix that identifies it among the stored patterns.

        Args:
            pattern_ids: The IDs.
            least: The minimum number of characters of a prefix, from 4 to 36.

        Returns:
            The prefixes by ID.

        Raises:
            ValidationError: An ID or `least` is invalid.
        """
        return _IDS.short(self._session, pattern_ids, "pattern_ids", least)

    @operation
    def query(
        self,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        on_corrupt: OnCorrupt = None,
        **filters: Unpack[PatternFilters],
    ) -> Page[AnyPattern]:
        """Return a page of the patterns that pass all filters, the highest success rate first.

        Args:
            limit: The maximum number of rows, 100 by default and 1,000 at most (`limits.query_default`,
                `query_maximum`).
            cursor: `next_cursor` or `previous_cursor` of a page with the same arguments.
            on_corrupt: Called with the CorruptDataError of each row that cannot be decoded, which is then skipped and
                does not count in `limit`. Without it the error is raised.
            **filters: Conditions that all have to hold.

        Returns:
            The page, with a cursor of the next one.

        Raises:
            ValidationError: An argument or a filter is invalid.
        """
        check_on_corrupt(on_corrupt)
        where, values = conditions(PatternFilter(**filters), "pattern")

        def read(size: int, place: Cursor | None) -> Page[AnyPattern]:
            order, after, place_values = order_and_condition("success_rate", place, descending=True)
            statement = sql.query((*where, *after), order)
            step = statement.bind(namespace=self._session.namespace, limit=size + 1, **values, **place_values)
            rows = self._session.read(step)
            patterns = [pattern_or_none(row[2:], on_corrupt) for row in rows[:size]]
            return page(patterns, [(row[0], row[1]) for row in rows], size, place)

        return fill_page(read, check_limit(limit, self._session.limits), parse_cursor(cursor))

    @operation
    def iterate(self, *, on_corrupt: OnCorrupt = None, **filters: Unpack[PatternFilters]) -> Iterator[AnyPattern]:
        """Iterate over all patterns that pass the filters, the highest success rate first, in pages of 100 patterns or
        4 MB.

        The order is fixed at the start: a pattern whose rate changes is returned once, as stored when its page is read.
        Patterns that are deleted before that are skipped.

        Args:
            on_corrupt: Called with the CorruptDataError of each row that cannot be decoded, which is then skipped and
                does not count in `limit`. Without it the error is raised.
            **filters: The filters of `patterns.query`.

        Returns:
            An iterator of patterns.

        Raises:
            ValidationError: An argument or a filter is invalid.
        """
        check_on_corrupt(on_corrupt)
        size = min(ITERATE_PAGE, self._session.limits.query_maximum)
        where, values = conditions(PatternFilter(**filters), "pattern")
        values |= {"namespace": self._session.namespace, "limit": size + 1, "page_bytes": PAGE_BYTES}
        # A rate may change between pages, and a cursor would then skip or repeat the pattern: the ids are listed first.
        page_with_index = self._session.read(sql.page_with_index(where).bind(**values))
        rows: Sequence[Sequence[Any]] = [row[2:] for row in page_with_index if row[2] is not None]
        sizes = [(row[0], row[1]) for row in page_with_index[len(rows) :]]
        del page_with_index
        yield from _decoded_patterns(draining(rows), on_corrupt)
        del rows
        for part in chunked(sizes, lambda one: int(one[1]), most_bytes=PAGE_BYTES, most=size):
            yield from _decoded_patterns(draining(self._rows_by_id([key for key, _ in part])), on_corrupt)

    @operation
    def count(self, **filters: Unpack[PatternFilters]) -> int:
        """Count the patterns that pass all filters."""
        where, values = conditions(PatternFilter(**filters), "pattern")
        rows = self._session.read(sql.count(where).bind(namespace=self._session.namespace, **values))
        return int(rows[0][0])

    @operation
    def delete(self, pattern_id: UUID | str) -> bool:
        """Delete the pattern with its embeddings. Returns whether it existed."""
        return bool(self._session.write([sql.DELETE.bind(namespace=self._session.namespace, id=as_id(pattern_id))]))

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
        explain: bool = False,
        on_corrupt: OnCorrupt = None,
        **filters: Unpack[PatternFilters],
    ) -> Hits[AnyPattern]:
        """Return the `k` patterns that are most similar to a vector and pass all filters; see
        `EpisodeRepository.similar_to`.

        Args:
            vector: The query vector; or a text, which the storage's embedder embeds.
            model: The embedding model of the vector. May be omitted for a text, or if the namespace has one model only.
            k: The number of hits, from 1 to 1,000.
            min_similarity: The lowest cosine similarity of a hit, from -1 to 1.
            mode: "auto" decides between the index and an exact scan; "exact" compares all vectors that pass the
                filters.
            cursor: `next_cursor` of the hits before, with the same arguments.
            explain: Whether each hit has the parts that add up to its score.
            on_corrupt: Called with the CorruptDataError of each row that cannot be decoded, which is then skipped and
                does not count in `limit`. Without it the error is raised.
            **filters: The filters of `patterns.query`.

        Returns:
            The hits, the most similar first, with the plan and a cursor.

        Raises:
            ValidationError: The vector, `k`, a filter or the cursor is invalid; or the vector has another dimension
                than this namespace's vectors of the model.
        """
        vector, model = embed_text(self._session, vector, model)
        request = SearchRequest(
            PatternFilter(**filters), k, None, vector, model, mode, min_similarity, cursor, None, explain
        )
        return self._hits(request, on_corrupt)

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
        explain: bool = False,
        on_corrupt: OnCorrupt = None,
        **filters: Unpack[PatternFilters],
    ) -> Hits[AnyPattern]:
        """Return the `k` best patterns by full text, or by full text and a vector; see `EpisodeRepository.search`.

        The reward of a pattern is its success rate, and its age is counted from its last change.

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
            explain: Whether each hit has the parts that add up to its score.
            on_corrupt: Called with the CorruptDataError of each row that cannot be decoded, which is then skipped and
                does not count in `limit`. Without it the error is raised.
            **filters: The filters of `patterns.query`.

        Returns:
            The hits, the highest score first, with the plan and a cursor.

        Raises:
            ValidationError: An argument, a filter or the cursor is invalid; or the vector has another dimension than
                this namespace's vectors of the model.
        """
        text, vector, model = embed_query(self._session, text, vector, model, embedder, weights)
        request = SearchRequest(
            PatternFilter(**filters),
            k,
            text,
            vector,
            model,
            mode,
            min_similarity,
            cursor,
            weights,
            explain,
        )
        return self._hits(request, on_corrupt)

    def _hits(self, request: SearchRequest, on_corrupt: OnCorrupt) -> Hits[AnyPattern]:
        check_on_corrupt(on_corrupt)
        decode = partial(hits_from_rows, on_corrupt=on_corrupt)
        return find_hits(self._session, PATTERNS, request, sql.search, decode)

    def _encode_all(self, patterns: Sequence[P]) -> list[tuple[str, P]]:
        encoded = []
        copies = to_list(patterns, "patterns")
        for index, pattern in enumerate(copies):
            field = f"patterns.{index}" if len(copies) > 1 else ""
            document, checked = encode(_kind_of(pattern, field), pattern, field)
            for name, tags in (("tags", checked.tags), ("context.tags", checked.context.tags)):
                check_tags(f"{field}.{name}".lstrip("."), tags, self._session.limits)
            check_document(field, checked, document, self._session.limits, self._session.max_value_bytes)
            encoded.append((document, checked))
        if len({pattern.id for pattern in copies}) != len(copies):
            raise ValidationError("patterns", "each id once", [str(pattern.id) for pattern in copies])
        return encoded

    def _reject_repeated_evidence(self, patterns: Sequence[AnyPattern]) -> None:
        """Reject evidence that names an episode twice, unless it is stored: older versions accepted it."""
        repeated = [
            (index, pattern)
            for index, pattern in enumerate(patterns)
            if len(set(pattern.evidence)) != len(pattern.evidence)
        ]
        stored = {pattern.id: pattern.evidence for pattern in self._get_many([pattern.id for _, pattern in repeated])}
        for index, pattern in repeated:
            if stored.get(pattern.id) != pattern.evidence:
                field = f"patterns.{index}.evidence" if len(patterns) > 1 else "evidence"
                raise ValidationError(field, "each episode once", [str(one) for one in pattern.evidence])

    def _counting(self) -> list[BatchStep]:
        """Return the statement that goes before a change of counters in a replica."""
        opening = self._session.opening
        return [] if opening is None else [sql.COUNT_AS.bind(opening=opening)]

    def _save(self, encoded: list[tuple[str, P]]) -> list[P]:
        if not encoded:
            return []
        saved = {row[0]: pattern_from_row(row) for row in self._write(sql.SAVE, encoded)}
        missing = [pattern for _, pattern in encoded if str(pattern.id) not in saved]
        if missing:  # a concurrent writer deleted the row between the unacknowledged write and the read
            raise ConflictError("pattern", missing[0].id, expected=missing[0].version + 1, actual=None)
        return [saved[str(pattern.id)] for _, pattern in encoded]  # type: ignore[misc]

    @property
    def _most_bytes(self) -> int:
        return most_bytes(self._session.limits, self._session.max_value_bytes)

    def _merge_limit_error(self, key: str, other: str) -> ValidationError:
        limits, both = self._session.limits, (self.get(key), self.get(other))
        tags, evidence = ({one for pattern in both for one in getattr(pattern, name)} for name in ("tags", "evidence"))
        if len(tags) > limits.tags:
            return limit_error("tags", "tags", limits.tags, len(tags), "tags")
        update = {
            "tags": list(tags),
            "evidence": list(evidence),
            "occurrence_count": sum(pattern.occurrence_count for pattern in both),
        }
        # The rate is rounded in the statement's result, and another writer may have changed the row since.
        merged_bytes = max(stored_bytes(both[0].model_copy(update=update)), self._most_bytes + 1)
        return too_large("", merged_bytes, limits, self._session.max_value_bytes)

    def _store_learned(self, mined: Sequence[AnyPattern]) -> list[AnyPattern]:
        if not mined:
            return []
        try:
            rows = self._write(sql.UPSERT_MINED, self._encode_all(mined))
        except (RowCountError, ValidationError) as error:
            if isinstance(error, ValidationError) and not exceeds_limit(error, 0):
                raise
            raise self._mined_limit_error(mined) from error
        stored = {row[0]: pattern_from_row(row) for row in rows}
        self._note_saved("pattern", [pattern.id for pattern in mined])
        return [stored[str(pattern.id)] for pattern in mined if str(pattern.id) in stored]

    def _mined_limit_error(self, mined: Sequence[AnyPattern]) -> ValidationError:
        """Return the error for the largest pattern: edited fields and new statistics exceed the limit together."""
        stored = {pattern.id: pattern for pattern in self._get_many([pattern.id for pattern in mined])}
        figures = ("occurrence_count", "success_rate", "evidence", "statistics")
        sizes = [
            (stored_bytes(stored[one.id].model_copy(update={name: getattr(one, name) for name in figures})), one.id)
            for one in mined
            if one.id in stored
        ]
        bytes_, key = max(sizes, default=(self._most_bytes + 1, mined[0].id))
        return too_large(f"patterns.{key}", bytes_, self._session.limits, self._session.max_value_bytes)

    def _import(self, new: list[tuple[str, AnyPattern]], *, restore: bool) -> int:
        if new:
            self._write(sql.IMPORT, new, remove_tombstones if restore else assert_not_tombstoned)
        return len(new)

    def _write(
        self,
        statement: Any,
        encoded: Sequence[tuple[str, AnyPattern]],
        preamble: Callable[[SessionProtocol, Sequence[UUID]], list[BatchStep]] = assert_not_tombstoned,
    ) -> Sequence[tuple[Any, ...]]:
        ids = ids_as_json([str(pattern.id) for _, pattern in encoded])
        namespace, now = self._session.namespace, self._now()
        new = [pattern for _, pattern in encoded if pattern.version == 0 or statement is sql.IMPORT]
        check = sql.CHECK_MINED.bind(0, namespace=namespace, ids=ids, now=now, most=self._most_bytes)
        changes = [
            # A copy of an erased pattern is refused, but the pattern may be mined again from other episodes.
            *preamble(self._session, [] if statement is sql.UPSERT_MINED else [pattern.id for pattern in new]),
            *(
                # Mining does not write a pattern that it finds unchanged: the count of rows says nothing then.
                statement.bind(
                    None if statement is sql.UPSERT_MINED else chunk.documents,
                    namespace=namespace,
                    documents=chunk.text,
                    now=now,
                )
                for chunk in chunk_documents(
                    with_words(document, words_of_pattern(document)) for document, _ in encoded
                )
            ),
            *_exact_numbers(namespace, [pattern for _, pattern in encoded], new),
            *([check] if statement is sql.UPSERT_MINED else []),
        ]
        written = sql.GET_MANY.bind(namespace=namespace, ids=ids)
        return write_and_read(self._session, changes, written)

    def _remaining_to_import(
        self, encoded: list[tuple[str, AnyPattern]], error: RowCountError
    ) -> list[tuple[str, AnyPattern]]:
        ids = [pattern.id for _, pattern in encoded]
        known = {pattern.id for pattern in self._get_many(ids)}
        if error.index == 1:
            known |= tombstoned_among(self._session, ids)
        return [pair for pair in encoded if pair[1].id not in known]

    def _remaining_to_save(self, encoded: list[tuple[str, P]], error: RowCountError) -> list[tuple[str, P]]:
        """Return the patterns that are not stored yet.

        Raises:
            ConflictError: One is stored in another version, or with other content.
        """
        if error.index == 1:
            reject_tombstoned(self._session, [pattern.id for _, pattern in encoded if pattern.version == 0])
        stored = {pattern.id: pattern for pattern in self._get_many([pattern.id for _, pattern in encoded])}
        remaining = []
        for document, pattern in encoded:
            stored_one = stored.get(pattern.id)
            version = stored_one.version if stored_one else None
            is_same = pattern.created_at is None or stored_one is None or pattern.created_at == stored_one.created_at
            if (version or 0) == pattern.version and is_same:
                remaining.append((document, pattern))
            elif stored_one is None or pattern.version or not _same_content(pattern, stored_one):
                raise stale_copy_error(self._session, "pattern", pattern.id, pattern.version, version)
        return remaining

    def _rows_by_id(self, ids: Sequence[str]) -> list[Sequence[Any]]:
        """Return the rows that exist, in the order of the ids."""
        rows = self._session.read(sql.GET_MANY.bind(namespace=self._session.namespace, ids=ids_as_json(ids)))
        by_id = {row[0]: row for row in rows}
        return [by_id[one] for one in ids if one in by_id]

    def _get_many(self, ids: Sequence[UUID]) -> list[AnyPattern]:
        values = {"namespace": self._session.namespace, "ids": ids_as_json([str(one) for one in ids])}
        return [pattern_from_row(row) for row in self._session.read(sql.GET_MANY.bind(**values))] if ids else []

    def _now(self) -> int:
        return to_micros(self._session.now())


def _exact_numbers(namespace: str, patterns: Sequence[AnyPattern], new: Sequence[AnyPattern]) -> list[BatchStep]:
    rates = (((str(one.id), one.kind), (one.success_rate,)) for one in patterns)
    deltas = (((str(one.id), one.kind), (one.effectiveness.avg_reward_delta,)) for one in new)
    return [*SUCCESS_RATES.steps(namespace, rates), *REWARD_DELTAS.steps(namespace, deltas)]


def _decoded_patterns(rows: Iterable[Sequence[Any]], on_corrupt: OnCorrupt) -> Iterator[AnyPattern]:
    for row in rows:
        pattern = pattern_or_none(row, on_corrupt)
        del row  # else its document stays in memory while the caller has the pattern
        if pattern is not None:
            yield pattern


def _kind_of(pattern: P, field: str) -> type[P]:
    if type(pattern) not in get_args(AnyPattern):
        raise ValidationError(
            field or "pattern", "must be one of the six kinds of pattern, like Heuristic(...)", pattern
        )
    return type(pattern)


def _same_content(pattern: AnyPattern, stored: AnyPattern) -> bool:
    names = ("version", "created_at", "updated_at", "effectiveness")
    return pattern.model_copy(update={name: getattr(stored, name) for name in names}) == stored
