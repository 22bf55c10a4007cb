"""The repository of summaries. Each method is one round trip unless its docstring says otherwise; a write is atomic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from uuid import UUID

from typing_extensions import Unpack

from memory_storage.dbapi import RowCountError, chunked
from memory_storage.errors import ConflictError, NotFoundError, ValidationError
from memory_storage.models import Episode, EpisodeFilters, EpisodeSummary
from memory_storage.monitoring import operation
from memory_storage.repositories.episodes import sql as episodes_sql
from memory_storage.repositories.episodes.recalls import EpisodeSession
from memory_storage.repositories.episodes.repository import EpisodeRepository
from memory_storage.schema.words import words_of_summary
from memory_storage.search.vector_index import Progress
from memory_storage.sql.documents import CHUNK_BYTES, OnCorrupt, decode, encode
from memory_storage.sql.episode_rows import encode_episode
from memory_storage.sql.session import Repository, Row, exceeds_limit, write_and_read
from memory_storage.sql.statement import to_micros
from memory_storage.sql.validation import (
    as_id,
    check_summary,
    flag,
    function,
    instance,
    most_bytes,
    size,
    to_list,
    too_large,
)
from memory_storage.summarizers import ExtractiveSummarizer, Summarizer

from . import sql

_ATTEMPTS = 3  # to summarize an episode that other writers keep changing
_BATCH = 100  # summaries of one round trip
_TEXTS = "a sequence of texts, not one text"
_SIZE_CHECK = 2  # the number of the statement that checks the limit

_Row = tuple[str, str]
"""The ID of an episode, and JSON: its summary, and what identifies the state in which it was read."""


class SummaryRepository(Repository):
    """The summaries of the episodes of one namespace.

    A summary is a part of its episode: it is exported, synced, archived and erased with it. Its words are in the
    full-text index, and in the text that is embedded.
    """

    _operations = "summaries"

    _session: EpisodeSession

    @operation
    def put(
        self,
        episode_id: UUID | str,
        text: str,
        *,
        key_steps: Sequence[str] = (),
        key_concepts: Sequence[str] = (),
        created_by: str = "caller",
    ) -> EpisodeSummary:
        """Store the summary of an episode, replacing an existing one. The version of the episode grows by one.

        If the stored one is the same but for its time, nothing changes.

        Args:
            episode_id: The ID of the episode.
            text: The summary, which is not blank. With the key steps and concepts it has 20,000 characters at most by
                default (`limits.summary`).
            key_steps: The steps that decided the outcome, each in one line.
            key_concepts: What the episode was about, in single words or short names.
            created_by: What wrote it.

        Returns:
            The stored summary.

        Raises:
            NotFoundError: The episode does not exist.
            ValidationError: The text is blank, an argument is not text, or a limit is exceeded.
        """
        summary = EpisodeSummary(
            text=text,
            key_steps=to_list(key_steps, "key_steps", _TEXTS),
            key_concepts=to_list(key_concepts, "key_concepts", _TEXTS),
            created_by=created_by,
            created_at=self._session.now(),
        )
        document = self._document_of(summary)
        key = {"namespace": self._session.namespace, "id": as_id(episode_id, "episode_id")}
        change = sql.PUT.bind(
            1, summary=document, words=words_of_summary(document), now=to_micros(self._session.now()), **key
        )
        check = episodes_sql.CHECK_SIZE.bind(0, most=self._most_bytes, **key)
        try:
            rows = write_and_read(self._session, [change, check], sql.GET.bind(**key), changed=1)
        except (RowCountError, ValidationError) as error:
            if exceeds_limit(error, _SIZE_CHECK):
                raise self._too_large(episode_id, summary) from error
            if isinstance(error, RowCountError):
                raise NotFoundError("episode", episode_id) from error
            raise
        self._note_saved("episode", [UUID(key["id"])])
        stored = _summary_of(rows, key["id"])
        return summary if stored is None else stored  # a concurrent writer deleted it after the write

    @operation
    def get(self, episode_id: UUID | str) -> EpisodeSummary:
        """Return the summary of an episode.

        Raises:
            NotFoundError: The episode does not exist, or has no summary.
        """
        summary = self.find(episode_id)
        if summary is None:
            raise NotFoundError("summary of episode", episode_id)
        return summary

    @operation
    def find(self, episode_id: UUID | str) -> EpisodeSummary | None:
        """Return the summary of an episode, or None if it has none or does not exist."""
        key = as_id(episode_id, "episode_id")
        return _summary_of(self._session.read(sql.GET.bind(namespace=self._session.namespace, id=key)), key)

    @operation
    def delete(self, episode_id: UUID | str) -> bool:
        """Delete the summary of an episode. Returns whether there was one."""
        key = as_id(episode_id, "episode_id")
        step = sql.DELETE.bind(
            namespace=self._session.namespace,
            id=key,
            words=words_of_summary("null"),
            now=to_micros(self._session.now()),
        )
        is_deleted = bool(self._session.write([step], changed=1))
        if is_deleted:
            self._note_saved("episode", [UUID(key)])
        return is_deleted

    @operation
    def summarize(self, episode_id: UUID | str, summarizer: Summarizer | None = None) -> EpisodeSummary:
        """Read an episode, have its summary written, and store it, replacing an existing one. Two round trips.

        The summarizer is called between them, outside of any transaction. If the episode changes during the call, it is
        read and summarized again, three times in all.

        Args:
            episode_id: The ID of the episode.
            summarizer: Writes the summary; default: `ExtractiveSummarizer()`, which needs no model.

        Returns:
            The stored summary.

        Raises:
            NotFoundError: The episode does not exist.
            ConflictError: Other writers kept changing the episode; nothing was stored.
            ValidationError: It is called in a transaction, or the summary exceeds a limit or cannot be stored.
            Exception: What the summarizer raises.
        """
        summarize = self._checked(summarizer)
        episodes = EpisodeRepository(self._session)
        for _ in range(_ATTEMPTS):
            episode = episodes.get(episode_id)
            summary = self._written(summarize, episode)
            if episode.summary is not None and _is_same(episode.summary, summary):
                return episode.summary
            if self._store([self._row(episode, summary)]):
                return summary
            if _bytes_with(episode, summary) > self._most_bytes:
                raise self._too_large(episode_id, summary)
        actual = episodes.get(episode_id, steps=False).version
        detail = f"other writers changed it {_ATTEMPTS} times while it was summarized; nothing was stored"
        raise ConflictError(
            "episode", episode.id, expected=episode.version, actual=actual, detail=detail, advice="summarize it again"
        )

    @operation
    def summarize_many(
        self,
        summarizer: Summarizer | None = None,
        *,
        replace: bool = False,
        progress: Progress | None = None,
        on_corrupt: OnCorrupt = None,
        **filters: Unpack[EpisodeFilters],
    ) -> int:
        """Summarize all episodes that pass the filters and have no summary, as `summarize` does.

        Summaries are stored 100 at a time, or 4 MB if they are large: after an interruption, call it again. Episodes
        that are deleted concurrently are skipped.

        Args:
            summarizer: Writes the summaries; default: `ExtractiveSummarizer()`, which needs no model.
            replace: Whether existing summaries are replaced.
            progress: Called with "summarized", and twice the number of summaries stored so far (the total is unknown).
            on_corrupt: Called with the CorruptDataError of each episode that cannot be decoded, which is then skipped.
                Without it the error is raised.
            **filters: The filters of `episodes.query`, like `completed=True`.

        Returns:
            The number of summaries that were stored.

        Raises:
            ConflictError: Other writers kept changing an episode; the summaries before it are stored.
            ValidationError: A filter is invalid; or as for `summarize`.
            Exception: What the summarizer raises.
        """
        summarize = self._checked(summarizer)
        flag("replace", replace)
        if progress is not None:
            function("progress", progress, "lambda what, done, total: print(what, done)")
        done = 0
        found = EpisodeRepository(self._session).iterate(on_corrupt=on_corrupt, **filters)
        pending = (episode for episode in found if replace or episode.summary is None)
        # Rows only: what has been summarized is not held, whatever the size of its steps.
        rows = (row for episode in pending for row in self._changed_row(episode, self._written(summarize, episode)))
        for part in chunked(rows, lambda row: size(row[1]), most_bytes=CHUNK_BYTES, most=_BATCH):
            stored = self._store(part)
            again = [one for one, _ in part if one not in stored]
            done += len(stored) + sum(self._summarize_again(one, summarize) for one in again)
            if progress:
                progress("summarized", done, done)
        return done

    def _summarize_again(self, episode_id: str, summarizer: Summarizer) -> bool:
        """Summarize an episode that has changed since it was read; returns whether it still exists."""
        try:
            self.summarize(episode_id, summarizer)
        except NotFoundError:
            return False
        return True

    def _checked(self, summarizer: Summarizer | None) -> Summarizer:
        if self._session.is_transaction:  # which would hold the write lock for as long as the summarizer takes
            raise ValidationError("summarizer", "must be called outside of one; in one, use `put`", "in a transaction")
        found = ExtractiveSummarizer() if summarizer is None else summarizer
        if isinstance(found, type) or not isinstance(found, Summarizer):  # a class has the method, too
            raise ValidationError("summarizer", "must have a method summarize, like ExtractiveSummarizer()", summarizer)
        return found

    def _written(self, summarizer: Summarizer, episode: Episode) -> EpisodeSummary:
        """Return a summary by the summarizer, checked, with the time of the storage."""
        summary: object = summarizer.summarize(episode)
        checked = instance("summary", summary, EpisodeSummary, 'EpisodeSummary(text="...", created_by="...")')
        return checked.model_copy(update={"created_at": self._session.now()})

    def _document_of(self, summary: EpisodeSummary) -> str:
        """Return the JSON of a summary.

        Raises:
            ValidationError: The text is blank, a limit is exceeded, or it would not be read back equal.
        """
        document, checked = encode(EpisodeSummary, summary)
        if not checked.text.strip():
            raise ValidationError("text", "a text that is not blank", checked.text)
        check_summary("summary", checked, self._session.limits)
        return document

    def _changed_row(self, episode: Episode, summary: EpisodeSummary) -> Iterator[_Row]:
        """Yield the row of a summary, unless the stored one is the same."""
        if episode.summary is None or not _is_same(episode.summary, summary):
            yield self._row(episode, summary)

    def _row(self, episode: Episode, summary: EpisodeSummary) -> _Row:
        document = self._document_of(summary)
        key, last_step = str(episode.id), episode.steps[-1].step_number if episode.steps else 0
        facts = f'{{"id":"{key}","version":{episode.version},"last_step":{last_step}'
        return key, f'{facts},"summary":{document},"words":{words_of_summary(document)}}}'

    def _store(self, rows: Sequence[_Row]) -> set[str]:
        """Store the summaries of the episodes that are as they were read, and return the IDs of these."""
        values = {"namespace": self._session.namespace, "rows": f"[{','.join(row for _, row in rows)}]"}
        put = sql.PUT_MANY.bind(now=to_micros(self._session.now()), most=self._most_bytes, **values)
        stored = {str(row[0]) for row in self._session.write([put], again=sql.STORED.bind(**values), changed=len(rows))}
        self._note_saved("episode", [UUID(one) for one in stored])
        return stored

    def _too_large(self, episode_id: UUID | str, summary: EpisodeSummary) -> ValidationError:
        """Return the error for an episode that exceeds the limit of its document with a summary."""
        stored = EpisodeRepository(self._session).find(episode_id, steps=False)
        found = _bytes_with(stored, summary) if stored else 0
        # Unless another writer has changed it since.
        return too_large("", max(found, self._most_bytes + 1), self._session.limits, self._session.max_value_bytes)

    @property
    def _most_bytes(self) -> int:
        return most_bytes(self._session.limits, self._session.max_value_bytes)


def _is_same(one: EpisodeSummary, other: EpisodeSummary) -> bool:
    """Return whether two summaries differ in nothing but their time."""
    return one == other.model_copy(update={"created_at": one.created_at})


def _bytes_with(episode: Episode, summary: EpisodeSummary) -> int:
    """Return the bytes of an episode's document with a summary."""
    return size(encode_episode(episode.model_copy(update={"summary": summary})).document)


def _summary_of(rows: Sequence[Row], episode_id: str) -> EpisodeSummary | None:
    if not rows or rows[0][0] in (None, "null"):
        return None
    return decode(EpisodeSummary.model_validate_json, rows[0][0], "episodes", episode_id)
