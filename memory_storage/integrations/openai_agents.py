"""Keep the sessions of the OpenAI Agents SDK in the storage. Needs the extra `openai-agents`.

    from memory_storage.integrations.openai_agents import MemoryStorageSession

    await Runner.run(agent, "Hello", session=MemoryStorageSession("user-42", storage))

A session is the log `openai-agents:` and its id in `storage.logs`, and each of its items is a record.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from memory_storage.aio import AsyncLogRepository, AsyncMemoryStorage
from memory_storage.errors import CommitUnknownError, CorruptDataError, ValidationError
from memory_storage.models import LogRecord, new_id
from memory_storage.storage import MemoryStorage

from ._packages import needs
from ._threads import as_async

with needs("MemoryStorageSession needs the OpenAI Agents SDK: pip install 'memory-storage[openai-agents]'", "agents"):
    from agents.memory import SessionSettings
    from agents.memory.session_settings import coerce_session_settings

if TYPE_CHECKING:
    from agents import TResponseInputItem

__all__ = ["MemoryStorageSession"]

_log = logging.getLogger(__name__)
_PREFIX = "openai-agents:"


class MemoryStorageSession:
    """A conversation for `Runner.run(..., session=...)`: implements the SDK's protocol `Session`.

    No method blocks the event loop. A task that is cancelled has added, removed or cleared everything or nothing. The
    session closes nothing: the caller closes the storage. Any number of session objects, tasks and processes may use
    one conversation: a batch of items is never interleaved with another one.
    """

    session_id: str
    session_settings: SessionSettings | None

    def __init__(
        self,
        session_id: str,
        storage: MemoryStorage | AsyncMemoryStorage,
        *,
        session_settings: SessionSettings | Mapping[str, Any] | None = None,
    ) -> None:
        """Use the conversation of this id in the storage's namespace; it may be new.

        Args:
            session_id: Names the conversation in the namespace.
            storage: Where it is stored. The sessions on a MemoryStorage share threads that run their calls; those on an
                AsyncMemoryStorage use its threads.
            session_settings: The default `limit` of `get_items`, as an object of the SDK or a mapping.

        Raises:
            ConfigurationError: `storage` is no storage.
            ValidationError: `session_id` is not a text with at least 1 character, or a setting is unknown or invalid.
        """
        if not isinstance(session_id, str) or not session_id:
            raise ValidationError("session_id", "a text with at least 1 character", session_id)
        self.session_id = session_id
        self.session_settings = _as_settings(session_settings)
        self._storage = as_async(storage)
        self._name = f"{_PREFIX}{session_id}"
        # The batch whose acknowledgement is missing, and the ids of its records.
        self._unconfirmed: tuple[list[Any], list[str]] | None = None

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """Return the items of the conversation, the oldest first.

        Up to 1,000 items (`limits.query_maximum`) are read in one round trip, more in one snapshot. Items that cannot
        be decoded are left out, do not count for the limit, and are logged as a warning.

        Args:
            limit: The maximum number of items, those that were added last. None takes the `limit` of
                `session_settings`; if that is None too, all items are returned.

        Returns:
            The items.

        Raises:
            ValidationError: `limit` is no whole number from 0 on.
        """
        if limit is None and self.session_settings is not None:
            limit = self.session_settings.limit
        if limit is not None and (type(limit) is not int or limit < 0):
            raise ValidationError("limit", "a whole number from 0 on, or None", limit)
        if limit == 0:
            return []
        page = self._storage.settings.limits.query_maximum
        records = await self._latest(self._storage.logs, min(limit or page, page))
        if len(records) == page and limit != page:
            async with self._storage.snapshot() as view:
                records = await self._pages(view.logs, limit, page)
        return [cast("TResponseInputItem", record.value) for record in records]

    async def add_items(self, items: Sequence[TResponseInputItem]) -> None:
        """Append items: all or none, in one round trip, and in their order.

        If the call has failed or was cancelled, and the same items are added next, those that were stored nevertheless
        are not added a second time.

        Args:
            items: Any JSON values.

        Raises:
            ValidationError: An item is no JSON value or over a limit; nothing is stored.
        """
        batch = list(items)
        if not batch:
            return
        repeated, self._unconfirmed = self._unconfirmed, None
        ids = repeated[1] if repeated and repeated[0] == batch else [str(new_id()) for _ in batch]
        try:
            try:
                await self._storage.logs.append(self._name, batch, ids=ids)
            except CommitUnknownError:  # the ids make the repetition idempotent
                await self._storage.logs.append(self._name, batch, ids=ids)
        except ValidationError:
            raise
        except BaseException:
            self._unconfirmed = batch, ids
            raise

    async def pop_item(self) -> TResponseInputItem | None:
        """Remove the item that was added last, and return it; None if there is none.

        Items that cannot be decoded are removed with it, and logged as a warning. Two callers never get the same item.

        Raises:
            CommitUnknownError: The connection failed after the request was sent. With the code "RESULT_LOST", one item
                was removed: a repetition would remove another one.
        """
        while True:
            try:
                record = await self._storage.logs.pop(self._name)
            except CorruptDataError as error:
                _warn(error)
            else:
                return None if record is None else cast("TResponseInputItem", record.value)

    async def clear_session(self) -> None:
        """Delete all items of the conversation."""
        await self._storage.logs.clear(self._name)

    async def _pages(self, logs: AsyncLogRepository, limit: int | None, page: int) -> list[LogRecord]:
        pages: list[list[LogRecord]] = []
        last, rest = None, limit
        while rest is None or rest > 0:
            size = page if rest is None else min(rest, page)
            pages.append(records := await self._latest(logs, size, last))
            if len(records) < size or records[0].number == 1:
                break
            last = records[0].number - 1
            rest = None if rest is None else rest - size
        return [record for records in reversed(pages) for record in records]

    async def _latest(self, logs: AsyncLogRepository, count: int, last: int | None = None) -> list[LogRecord]:
        return await logs.read(self._name, latest=count, last=last, on_corrupt=_warn)

    def __repr__(self) -> str:
        return f"MemoryStorageSession({self.session_id!r}, {self._storage!r})"


def _as_settings(settings: SessionSettings | Mapping[str, Any] | None) -> SessionSettings:
    if isinstance(settings, Mapping):
        settings = dict(settings)
    try:
        return SessionSettings() if settings is None else coerce_session_settings(settings)
    except (TypeError, ValueError) as error:
        raise ValidationError("session_settings", str(error), settings) from error


def _warn(error: CorruptDataError) -> None:
    _log.warning("an item of a session was left out: %s", error)
