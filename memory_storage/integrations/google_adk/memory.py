"""ADK's memory service on items."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from google.adk.events.event import Event
from google.adk.memory.base_memory_service import BaseMemoryService, SearchMemoryResponse
from google.adk.memory.memory_entry import MemoryEntry
from google.adk.platform import time as platform_time
from google.adk.sessions.session import Session
from google.genai import types

from memory_storage.aio import AsyncMemoryStorage
from memory_storage.embedders import Embedder, embedder_named
from memory_storage.errors import CommitUnknownError, ConflictError, UnavailableError, ValidationError
from memory_storage.integrations._threads import as_async
from memory_storage.models import Hit, Item, PutItem, QueryItems, SearchItems
from memory_storage.sql.validation import embedder as as_embedder
from memory_storage.sql.validation import instance
from memory_storage.storage import MemoryStorage

from .paths import memory_path
from .reading import value_of
from .words import fused, query_words_of, ranked_by_words, words_of

__all__ = ["MemoryStorageMemoryService"]

_ATTEMPTS = 5
_WORDS_OF_A_FILTER = 100
_MOST_WORDS = 500  # the engine takes 1,000 conditions
_MOST_QUERIES = 200  # of a batch
_VECTOR = "text"


class MemoryStorageMemoryService(BaseMemoryService):
    """What ADK's agents remember of their sessions, in the namespace of a storage, found by words and by vectors.

    A memory is the content of an event, or what `add_memory` was given. Those of an app and a user are found by a
    search for this app and this user, and by no other one. No method blocks the event loop. The service closes nothing:
    the caller closes the storage.
    """

    def __init__(
        self,
        storage: MemoryStorage | AsyncMemoryStorage,
        *,
        limit: int = 10,
        embedder: Embedder | str | None = None,
        min_similarity: float = 0.0,
    ) -> None:
        """Use the memories in the storage's namespace.

        Args:
            storage: Where they are stored. The services on a MemoryStorage share threads that run their calls; those on
                an AsyncMemoryStorage use its threads.
            limit: The maximum number of memories that a search returns.
            embedder: Computes the vectors of memories and queries; an Embedder or a name. Default: the storage's.
                Without one, memories are found by their words only.
            min_similarity: A memory without a word of the query is found if its cosine is above this.

        Raises:
            ConfigurationError: `storage` is no storage, or `embedder` no embedder.
            ValidationError: Another argument is invalid.
        """
        self._storage = as_async(storage)
        most = self._storage.settings.limits.query_maximum
        if type(limit) is not int or not 1 <= limit <= most:
            raise ValidationError("limit", f"a whole number from 1 to {most}", limit)
        if type(min_similarity) not in (int, float) or not -1 <= min_similarity <= 1:
            raise ValidationError("min_similarity", "a number from -1 to 1", min_similarity)
        self._page = most
        self._limit, self._min_similarity = limit, min_similarity
        self._embedder = self._embedder_of(embedder)

    async def add_session_to_memory(self, session: Session) -> None:
        """Add the events of a session that have text. Those that were added before, or deleted, are left out.

        Raises:
            ValidationError: An event or an id is invalid or over a limit; nothing is stored.
        """
        await self.add_events_to_memory(
            app_name=session.app_name, user_id=session.user_id, events=session.events, session_id=session.id
        )

    async def add_events_to_memory(
        self,
        *,
        app_name: str,
        user_id: str,
        events: Sequence[Event],
        session_id: str | None = None,
        custom_metadata: Mapping[str, object] | None = None,
    ) -> None:
        """Add events that have text: all or none. Those that were added before, or deleted, are left out.

        An event is known by the session and its id, and one without an id by what it contains.

        Args:
            app_name: The app.
            user_id: The user.
            events: The events.
            session_id: Their session, or None.
            custom_metadata: JSON values that a search returns with each of them.

        Raises:
            ValidationError: An event, an id or the metadata is invalid or over a limit; nothing is stored.
        """
        path = memory_path(app_name, user_id)
        values = dict(_memories_of(events, session_id, custom_metadata))
        vectors: dict[str, Sequence[float]] = {}
        for _ in range(_ATTEMPTS if values else 0):
            known = await self._storage.items.get_many([(path, key) for key in values])
            new = {key: value for (key, value), item in zip(values.items(), known, strict=True) if item is None}
            if not new:
                return
            missing = {key: value for key, value in new.items() if key not in vectors}
            vectors |= await self._vectors(missing)
            try:
                await self._storage.items.put_many([self._put(path, key, new[key], vectors, version=0) for key in new])
            except (CommitUnknownError, ConflictError):
                continue  # the next read shows what is stored
            return
        if values:
            raise UnavailableError("other writers keep adding these events; nothing was stored; try again")

    async def add_memory(
        self,
        *,
        app_name: str,
        user_id: str,
        memories: Sequence[MemoryEntry],
        custom_metadata: Mapping[str, object] | None = None,
    ) -> None:
        """Add memories: all or none. One that has the id of a stored memory replaces it.

        Args:
            app_name: The app.
            user_id: The user.
            memories: The memories. One without an id is known by its author and content: added again, it is there once.
                One without a timestamp gets the current time.
            custom_metadata: JSON values for all of them; those of a memory come first.

        Raises:
            ValidationError: A memory has no content, or something is invalid or over a limit; nothing is stored.
        """
        path = memory_path(app_name, user_id)
        values = {}
        for number, one in enumerate(memories):
            if not one.content.parts:
                raise ValidationError(f"memories.{number}.content", "at least one part", one.content)
            content, metadata = _as_json(one.content), {**(custom_metadata or {}), **one.custom_metadata}
            key = f"memory-{_digest(one.author, content)}" if one.id is None else one.id
            timestamp = one.timestamp or _iso(platform_time.get_time())
            values[key] = _document(content, one.author, timestamp, metadata)
        vectors = await self._vectors(values)
        puts = [self._put(path, key, value, vectors) for key, value in values.items()]
        try:
            await self._storage.items.put_many(puts)
        except CommitUnknownError:  # the keys make the repetition idempotent
            await self._storage.items.put_many(puts)

    async def search_memory(self, *, app_name: str, user_id: str, query: str) -> SearchMemoryResponse:
        """Search the memories of a user, in one round trip, or two if more than 1,000 have words of the query.

        Those that share words with the query are ranked by them, rare words first; with an embedder, they are combined
        with the most similar ones by reciprocal rank fusion. Of equal ones, the newer is first. Of a word that more
        than 1,000 memories have (`limits.query_maximum`), those that were added last are ranked. The first 500 distinct
        words of the query count.

        Args:
            app_name: The app.
            user_id: The user.
            query: The query.

        Returns:
            The memories, the best first.

        Raises:
            ValidationError: An argument is invalid, or the embedder's vectors have another dimension than those stored.
        """
        if not instance("query", query, str, '"what does the user like?"').strip():
            return SearchMemoryResponse()
        path, words = memory_path(app_name, user_id), query_words_of(query)[:_MOST_WORDS]
        groups = [words[first : first + _WORDS_OF_A_FILTER] for first in range(0, len(words), _WORDS_OF_A_FILTER)]
        operations: list[QueryItems | SearchItems] = [self._having(path, group) for group in groups]
        if (embedder := self._embedder) is not None:
            vector = await asyncio.to_thread(embedder.embed_query, query)
            operations.append(SearchItems(prefix=path, vector=vector, model=embedder.model, limit=self._limit))
        results = await self._storage.items.batch(operations) if operations else []
        hits: list[Hit[Item]] = [] if embedder is None else results.pop()
        if any(len(page) == self._page for page in results):  # a frequent word has displaced what has the rare ones
            results += await self._storage.items.batch([self._having(path, [one]) for one in words[:_MOST_QUERIES]])
        items = {item.key: item for page in results for item in page}
        return SearchMemoryResponse(memories=[_entry(item) for item in self._ranked(words, items, hits)])

    async def delete_memory(self, *, app_name: str, user_id: str, memory_id: str | None = None) -> None:
        """Delete a memory with its vectors. Idempotent. One of an event is not added again with its session.

        Args:
            app_name: The app.
            user_id: The user.
            memory_id: The `id` of a memory that a search has returned; None deletes nothing.

        Raises:
            ValidationError: An id is invalid.
        """
        if not memory_id:
            return
        path = memory_path(app_name, user_id)
        for _ in range(_ATTEMPTS):
            item = await self._storage.items.find(path, memory_id)
            if item is None or not value_of(item).get("content"):
                return
            if not memory_id.startswith("event-"):
                await self._storage.items.delete(path, memory_id)
                return
            tombstone = {name: value_of(item).get(name) for name in ("session_id", "event_id")}
            try:
                await self._storage.items.put(path, memory_id, tombstone, version=item.version)
            except (CommitUnknownError, ConflictError):
                continue
            return
        raise UnavailableError("other writers keep changing this memory; try again")

    def _having(self, path: Sequence[str], words: Sequence[str]) -> QueryItems:
        """Return the query of the memories that have any of these words."""
        conditions = {"$or": [{"words": {"$contains": word}} for word in words]}
        return QueryItems(prefix=path, filter=conditions, newest_first=True, limit=self._page)

    def _ranked(self, words: Sequence[str], items: Mapping[str, Item], hits: Sequence[Hit[Item]]) -> list[Item]:
        scores = ranked_by_words(words, {key: value_of(item)["words"] for key, item in items.items()})
        similar = {hit.item.key: hit.item for hit in hits if hit.score > self._min_similarity}
        known = {**items, **similar}

        def best_first(of: Mapping[str, float]) -> list[str]:
            return sorted(of, key=lambda key: (of[key], str(value_of(known[key])["timestamp"]), key), reverse=True)

        if hits:
            scores = fused(best_first(scores), list(similar))
        return [known[key] for key in best_first(scores)[: self._limit]]

    async def _vectors(self, values: Mapping[str, dict[str, Any]]) -> dict[str, Sequence[float]]:
        """Return the vectors of documents that have text, by their keys."""
        texts = {key: text for key, value in values.items() if (text := _text_of(value["content"]))}
        if self._embedder is None or not texts:
            return {}
        vectors = await asyncio.to_thread(self._embedder.embed, list(texts.values()))
        if len(vectors) != len(texts):
            raise ValidationError("embedder", f"one vector for each of {len(texts)} texts", len(vectors))
        return dict(zip(texts, vectors, strict=True))

    def _put(
        self,
        path: Sequence[str],
        key: str,
        value: dict[str, Any],
        vectors: Mapping[str, Sequence[float]],
        *,
        version: int | None = None,
    ) -> PutItem:
        vector = vectors.get(key)
        if vector is None or self._embedder is None:
            return PutItem(path=path, key=key, value=value, version=version)
        model = self._embedder.model
        return PutItem(path=path, key=key, value=value, vectors={_VECTOR: vector}, model=model, version=version)

    def _embedder_of(self, chosen: Embedder | str | None) -> Embedder | None:
        if chosen is None:
            queue = self._storage._storage._queue
            return None if queue is None else queue.embedder
        return embedder_named(chosen) if isinstance(chosen, str) else as_embedder("embedder", chosen)

    def __repr__(self) -> str:
        return f"MemoryStorageMemoryService({self._storage!r})"


def _memories_of(
    events: Sequence[Event], session_id: str | None, metadata: Mapping[str, object] | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the key and the document of each event that has text."""
    for event in events:
        content = event.content
        if content is None or not content.parts:
            continue
        document = _as_json(content)
        if not _text_of(document):
            continue
        identity = (event.id,) if event.id else (event.author, event.timestamp, document)
        value = _document(document, event.author, _iso(event.timestamp), metadata or {})
        value |= {"session_id": session_id, "event_id": event.id or None}
        yield f"event-{_digest(session_id, *identity)}", value


def _document(
    content: dict[str, Any], author: str | None, timestamp: str, metadata: Mapping[str, object]
) -> dict[str, Any]:
    return {
        "content": content,
        "author": author,
        "timestamp": timestamp,
        "custom_metadata": dict(metadata),
        "words": words_of(_text_of(content)),
    }


def _entry(item: Item) -> MemoryEntry:
    value = value_of(item)
    origin = {name: value[name] for name in ("session_id", "event_id") if value.get(name) is not None}
    return MemoryEntry(
        content=types.Content.model_validate(value["content"]),
        custom_metadata={**value["custom_metadata"], **origin},
        id=item.key,
        author=value["author"],
        timestamp=value["timestamp"],
    )


def _text_of(content: Mapping[str, Any]) -> str:
    """Return the text of a content, without the model's thoughts."""
    parts = content.get("parts") or ()
    return "\n".join(part["text"] for part in parts if part.get("text") and not part.get("thought"))


def _as_json(content: types.Content) -> dict[str, Any]:
    return content.model_dump(mode="json", exclude_none=True)


def _digest(*identity: object) -> str:
    """Return a name for what identifies a memory; different values have different names."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def _iso(timestamp: float) -> str:
    try:
        return datetime.fromtimestamp(timestamp, timezone.utc).isoformat()
    except (OverflowError, ValueError, OSError) as error:
        raise ValidationError("timestamp", "seconds since 1970, within the years 1 to 9999", timestamp) from error
