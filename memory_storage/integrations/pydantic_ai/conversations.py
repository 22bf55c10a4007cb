"""Conversations of Pydantic AI on items.

Below `CONVERSATIONS_PATH`, by the label that follows it:

| path | key | value |
|---|---|---|
| `conversations` | id of the conversation | its record, its lineages, and the tips that it had before |
| `entries` | id of the entry | its message, its parent, its lineage, and the ids of up to 64 entries before it |
| `lineages`, lineage | id of the conversation | none: a fork has that of its origin |
| `recent` | time of the record, descending, and id | the id of the conversation |
| `scopes`, scope | as in `recent` | the id of the conversation |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Any, TypeVar, cast

import pydantic
from pydantic_ai import ModelMessagesTypeAdapter, UserError
from pydantic_ai.conversation_store import (
    ConversationConflict,
    ConversationEntry,
    ConversationRecord,
    ConversationStore,
)
from pydantic_core import PydanticSerializationError

from memory_storage.aio import AsyncMemoryStorage
from memory_storage.errors import CommitUnknownError, CorruptDataError, NotFoundError, ValidationError
from memory_storage.integrations._threads import as_async
from memory_storage.models import DeleteItem, GetItem, Item, ItemOperation, ItemPath, PutItem, new_id
from memory_storage.repositories import ItemRepository
from memory_storage.session import Transaction
from memory_storage.sql.statement import to_micros
from memory_storage.storage import MemoryStorage

CONVERSATIONS_PATH: ItemPath = ("pydantic-ai",)
"""The path below which the conversations of a namespace are items."""

_RECORDS: ItemPath = (*CONVERSATIONS_PATH, "conversations")
_ENTRIES: ItemPath = (*CONVERSATIONS_PATH, "entries")
_LINEAGES: ItemPath = (*CONVERSATIONS_PATH, "lineages")
_RECENT: ItemPath = (*CONVERSATIONS_PATH, "recent")
_SCOPES: ItemPath = (*CONVERSATIONS_PATH, "scopes")

_BLOCK = 64  # entries that are read at once: an entry has the ids of up to that many before it, each about 40 bytes
_CHUNK = 500  # records that are read at once
_END_OF_TIME = 10**18  # microseconds: beyond the last datetime

_record_adapter = pydantic.TypeAdapter(ConversationRecord)

T = TypeVar("T")


class MemoryStorageConversationStore(ConversationStore):
    """A ConversationStore in the namespace of a storage, for any number of tasks, processes and hosts.

    A save, and the deletion of a conversation, is one transaction: it is stored completely or not at all, and a
    revision is replaced by one writer only. Deleting a conversation deletes its entries, without those that another
    conversation has. A history is read in one round trip for each 64 messages. No method blocks the event loop.

    Entries are written as JSON by Pydantic AI's `ModelMessagesTypeAdapter`, so what a tool has returned as an object is
    read as its JSON.
    """

    def __init__(self, storage: MemoryStorage | AsyncMemoryStorage) -> None:
        """Use the conversations in the storage's namespace.

        Args:
            storage: Where they are stored; the caller closes it. The stores on a MemoryStorage share threads that run
                their calls; those on an AsyncMemoryStorage use its threads. With `sync_mode="write_through"`, writes
                raise ConfigurationError.

        Raises:
            ConfigurationError: It is no storage.
        """
        self._async = as_async(storage)
        self._storage = self._async._storage

    async def read_record(self, conversation_id: str) -> ConversationRecord | None:
        """Return the record of a conversation, or None."""
        item = await self._run(lambda: self._storage.items.find(_RECORDS, conversation_id))
        return None if item is None else _record_of(item)

    async def read_records(self, *, scope: str | None = None, limit: int | None = None) -> list[ConversationRecord]:
        """Return records, the newest `updated_at` first.

        Args:
            scope: Only those with this scope.
            limit: The maximum number of records.

        Returns:
            The records.
        """

        def read() -> list[ConversationRecord]:
            items = self._storage.items
            path = _RECENT if scope is None else (*_SCOPES, scope)
            keys = [(_RECORDS, str(item.value)) for item in islice(items.iterate(path), limit)]
            records = [
                _record_of(item)
                for start in range(0, len(keys), _CHUNK)
                for item in items.get_many(keys[start : start + _CHUNK])
                if item is not None  # deleted since
            ]
            # Others may have been saved, also with another scope, since their keys were read.
            in_scope = [one for one in records if scope is None or one.scope == scope]
            return sorted(in_scope, key=lambda one: one.updated_at, reverse=True)

        return await self._run(read)

    async def read_entry(self, entry_id: str) -> ConversationEntry:
        """Return an entry.

        Raises:
            NotFoundError: It does not exist.
        """
        return _entry_of(await self._run(lambda: _read_entries(self._storage.items, [entry_id])[0]))

    async def read_history(self, head_id: str | None, *, limit: int | None = None) -> list[ConversationEntry]:
        """Return the entries up to one, in order.

        Args:
            head_id: The last entry; None for no entries.
            limit: The maximum number of entries, the last ones.

        Returns:
            The entries.

        Raises:
            NotFoundError: One of them does not exist.
            UserError: `limit` is negative.
        """
        if limit is not None and limit < 0:
            raise UserError("`limit` must not be negative.")
        if head_id is None or limit == 0:
            return []
        return await self._run(lambda: _history(self._storage.items, head_id, limit))

    async def write_record(
        self,
        record: ConversationRecord,
        *,
        new_entries: Sequence[ConversationEntry] = (),
        expected_revision: str | None,
    ) -> None:
        """Store a record and new entries, if the stored record has the expected revision.

        Args:
            record: The record.
            new_entries: Entries, each after its parent.
            expected_revision: The revision of the stored record; None if none may be stored.

        Raises:
            ConversationConflict: Another revision is stored, or an entry that the new ones follow does not exist.
            ValidationError: A message or the record cannot be stored: it is over a limit, or is no JSON.
        """
        new = _NewRecord(record, list(new_entries), expected_revision)
        revision = record.revision

        def is_stored() -> bool:
            if revision == expected_revision:
                return False  # to write it again has the same effect
            item = self._storage.items.find(_RECORDS, record.conversation_id)
            return item is not None and _record_of(item).revision == revision

        await self._run(partial(self._write, new.write, is_stored))

    async def delete_record(self, conversation_id: str, *, expected_revision: str) -> None:
        """Delete a conversation, with the entries that no other conversation has, if it has the expected revision.

        Args:
            conversation_id: The conversation.
            expected_revision: The revision of the stored record.

        Raises:
            ConversationConflict: Another revision is stored, or none.
        """

        def is_deleted() -> bool:
            return self._storage.items.find(_RECORDS, conversation_id) is None

        work = partial(_delete, conversation_id, expected_revision)
        await self._run(partial(self._write, work, is_deleted))

    async def _run(self, work: Callable[[], T]) -> T:
        # All of it, and not only its statements: the event loop has other work to do than to read documents.
        return await self._async._calls.run(work)

    def _write(self, work: Callable[[Transaction], None], is_done: Callable[[], bool]) -> None:
        try:
            self._storage.run(work)
        except CommitUnknownError:
            if not is_done():
                self._storage.run(work)

    def __repr__(self) -> str:
        return f"MemoryStorageConversationStore({self._async!r})"


class _NewRecord:
    """A record and its new entries, as they are written. They are converted now: the caller may change them."""

    def __init__(
        self, record: ConversationRecord, entries: list[ConversationEntry], expected_revision: str | None
    ) -> None:
        self._id, self._expected = record.conversation_id, expected_revision
        self._tips = _tips(record)
        self._keys = _index_keys(record)
        self._document = _json("record", lambda: _record_adapter.dump_python(record, mode="json"))
        self._entries = [(one.id, one.parent_id, _entry_document(n, one)) for n, one in enumerate(entries)]
        known: dict[str | None, bool] = {None: False}  # whether an entry has to be stored already
        for entry in entries:
            known.setdefault(entry.parent_id, True)
            known.setdefault(entry.id, False)
        known.setdefault(record.head_id, True)
        self._known = [one for one, is_stored in known.items() if one is not None and is_stored]

    def write(self, tx: Transaction) -> None:
        """Store them, if nothing has changed since they were read."""
        reads = [GetItem(path=_RECORDS, key=self._id), *(GetItem(path=_ENTRIES, key=one) for one in self._known)]
        stored, *linked = tx.items.batch(reads)
        if _revision_of(stored) != self._expected or None in linked:
            raise ConversationConflict(self._id)
        lineages = list(_value(stored)["lineages"]) if stored is not None else []
        lineages += [_value(one)["lineage"] for one in (*linked, *self._foreign_tips(tx.items, stored))]
        lineages = list(dict.fromkeys(lineages)) or [str(new_id())]
        links = {one.key: (_value(one)["before"], _value(one)["lineage"]) for one in linked}
        operations: list[ItemOperation] = [*self._entry_puts(links, lineages[0])]
        value = {"record": self._document, "lineages": lineages, "left": self._left_tips(stored)}
        operations.append(PutItem(path=_RECORDS, key=self._id, value=value))
        operations += [PutItem(path=(*_LINEAGES, one), key=self._id, value=None) for one in lineages]
        if stored is not None:
            operations += [DeleteItem(path=path, key=key) for path, key in _index_keys(_record_of(stored))]
        operations += [PutItem(path=path, key=key, value=self._id) for path, key in self._keys]
        tx.items.batch(operations)

    def _foreign_tips(self, items: ItemRepository, stored: Item | None) -> list[Item]:
        """Return the tips that are neither new nor those of the stored record: `save` and `branch` add none."""
        own = {*self._known, *(entry_id for entry_id, _, _ in self._entries)}
        own |= set() if stored is None else {*_tips(_record_of(stored)), *_value(stored)["left"]}
        keys = [(_ENTRIES, one) for one in self._tips if one not in own]
        return [item for item in items.get_many(keys) if item is not None] if keys else []

    def _entry_puts(self, links: dict[str, tuple[list[str], str]], lineage: str) -> Iterable[PutItem]:
        for entry_id, parent_id, document in self._entries:
            before, own = ([], lineage) if parent_id is None else links[parent_id]
            if parent_id is not None:
                # The first of the ids is that of an entry that has `_BLOCK` ids itself, or that has no parent.
                before = [*before, parent_id] if len(before) < _BLOCK else [parent_id]
            links[entry_id] = before, own
            value = {**document, "before": before, "lineage": own}
            yield PutItem(path=_ENTRIES, key=entry_id, value=value)

    def _left_tips(self, stored: Item | None) -> list[str]:
        """Return the tips that the record has had and the new one no longer names: they are deleted with it."""
        if stored is None:
            return []
        passed = {*self._tips, *(parent_id for _, parent_id, _ in self._entries)}
        tips = [*_value(stored)["left"], *_tips(_record_of(stored))]
        return [one for one in dict.fromkeys(tips) if one not in passed]


def _delete(conversation_id: str, expected_revision: str, tx: Transaction) -> None:
    stored = tx.items.find(_RECORDS, conversation_id)
    if stored is None or _revision_of(stored) != expected_revision:
        raise ConversationConflict(conversation_id)
    lineages = [(*_LINEAGES, one) for one in _value(stored)["lineages"]]
    others = {item.key for path in lineages for item in tx.items.iterate(path)} - {conversation_id}
    shared: set[str] = set()
    for other in tx.items.get_many([(_RECORDS, one) for one in sorted(others)]):
        if other is not None:
            shared |= _chain(tx.items, _tips(_record_of(other)))
    record = _record_of(stored)
    own = _chain(tx.items, [*_tips(record), *_value(stored)["left"]])
    keys = [(_RECORDS, conversation_id), *((path, conversation_id) for path in lineages), *_index_keys(record)]
    tx.items.delete_many([*keys, *((_ENTRIES, one) for one in sorted(own - shared))])


def _history(items: ItemRepository, head_id: str, limit: int | None) -> list[ConversationEntry]:
    history = _read_entries(items, [head_id])  # the newest first
    while before := _value(history[-1])["before"]:
        missing = len(before) if limit is None else min(len(before), limit - len(history))
        if missing <= 0:
            break
        history += reversed(_read_entries(items, before[len(before) - missing :]))
    return [_entry_of(item) for item in reversed(history)]


def _read_entries(items: ItemRepository, entry_ids: list[str]) -> list[Item]:
    entries = items.get_many([(_ENTRIES, one) for one in entry_ids])
    if None in entries:
        raise NotFoundError("entry", entry_ids[entries.index(None)])
    return [item for item in entries if item is not None]


def _chain(items: ItemRepository, tips: Iterable[str]) -> set[str]:
    """Return the ids of the entries of histories, by reading one of 64 of them. Those that are deleted end one."""
    chain: set[str] = set()
    for tip in tips:
        entry_id: str | None = tip
        while entry_id is not None and entry_id not in chain:
            item = items.find(_ENTRIES, entry_id)
            chain.add(entry_id)
            before: list[str] = [] if item is None else _value(item)["before"]
            chain.update(before[1:])
            entry_id = before[0] if before else None
    return chain


def _tips(record: ConversationRecord) -> list[str]:
    """Return the last entries of the histories of a conversation."""
    return [*([] if record.head_id is None else [record.head_id]), *record.branches]


def _index_keys(record: ConversationRecord) -> list[tuple[ItemPath, str]]:
    """Return the items that list a conversation: keys sort as text, the newest first."""
    key = f"{_END_OF_TIME - to_micros(record.updated_at):019d} {record.conversation_id}"
    paths = [_RECENT] if record.scope is None else [_RECENT, (*_SCOPES, record.scope)]
    return [(path, key) for path in paths]


def _entry_document(number: int, entry: ConversationEntry) -> dict[str, Any]:
    message = _json(
        f"new_entries.{number}", lambda: ModelMessagesTypeAdapter.dump_python([entry.message], mode="json")[0]
    )
    return {"parent_id": entry.parent_id, "kind": entry.kind, "message": message}


def _json(field: str, dump: Callable[[], Any]) -> Any:
    try:
        return dump()
    except (PydanticSerializationError, UnicodeError) as error:
        raise ValidationError(field, f"values that JSON has: {error}", field) from error


def _entry_of(item: Item) -> ConversationEntry:
    value = _value(item)
    try:
        (message,) = ModelMessagesTypeAdapter.validate_python([value["message"]])
        return ConversationEntry(id=item.key, parent_id=value["parent_id"], message=message, kind=value["kind"])
    except (KeyError, pydantic.ValidationError) as error:
        raise _corrupt("entry", item) from error


def _record_of(item: Item) -> ConversationRecord:
    try:
        return _record_adapter.validate_python(_value(item)["record"])
    except (KeyError, pydantic.ValidationError) as error:
        raise _corrupt("conversation", item) from error


def _revision_of(item: Item | None) -> str | None:
    return None if item is None else _record_of(item).revision


def _value(item: Item) -> dict[str, Any]:
    return cast("dict[str, Any]", item.value)


def _corrupt(kind: str, item: Item) -> CorruptDataError:
    return CorruptDataError(f"the {kind} {item.key} is not of a known form", table="items", id=item.key)
