"""ADK's session service on items."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from google.adk.errors import StaleSessionError
from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from google.adk.platform import time as platform_time
from google.adk.sessions.base_session_service import BaseSessionService, GetSessionConfig, ListSessionsResponse
from google.adk.sessions.session import Session
from google.adk.sessions.state import State

from memory_storage.aio import AsyncMemoryStorage, AsyncTransaction
from memory_storage.errors import CommitUnknownError, ConflictError, UnavailableError, ValidationError
from memory_storage.integrations._threads import as_async
from memory_storage.models import GetItem, Item, PutItem, new_id
from memory_storage.sql.validation import instance
from memory_storage.storage import MemoryStorage

from .paths import app_state_path, event_key, events_path, sessions_path, user_state_path
from .reading import Listing, read, value_of

__all__ = ["MemoryStorageSessionService"]

_ATTEMPTS = 5
_STALE = (
    "The session has been modified in storage since it was loaded; the event was not stored; load the session again "
    "and repeat it."
)


class _Key(NamedTuple):
    """What identifies a session."""

    app_name: str
    user_id: str
    session_id: str

    @classmethod
    def of(cls, app_name: str, user_id: str, session_id: str | None) -> _Key:
        """Return the key of a session; white space around its id does not count."""
        if session_id is not None:
            instance("session_id", session_id, str, '"session-1"')
        return cls(app_name, user_id, (session_id or "").strip())

    @property
    def head(self) -> GetItem:
        """Reads the session without its events."""
        return GetItem(path=sessions_path(self.app_name, self.user_id), key=self.session_id)

    def by_id(self, event_id: str) -> GetItem:
        """Reads the number of an event."""
        return GetItem(path=events_path(*self, "by-id"), key=event_id)


class _Deltas(NamedTuple):
    """A change of state by its scopes, without the prefixes."""

    app: dict[str, Any]
    user: dict[str, Any]
    session: dict[str, Any]

    @classmethod
    def of(cls, state: dict[str, Any]) -> _Deltas:
        deltas = cls({}, {}, {})
        for key, value in state.items():
            if key.startswith(State.APP_PREFIX):
                deltas.app[key.removeprefix(State.APP_PREFIX)] = value
            elif key.startswith(State.USER_PREFIX):
                deltas.user[key.removeprefix(State.USER_PREFIX)] = value
            elif not key.startswith(State.TEMP_PREFIX):
                deltas.session[key] = value
        return deltas

    def shared_puts(self, key: _Key) -> list[PutItem]:
        """Return the puts of the keys that other sessions share."""
        scopes = ((app_state_path(key.app_name), self.app), (user_state_path(*key[:2]), self.user))
        return [PutItem(path=path, key=name, value=value) for path, delta in scopes for name, value in delta.items()]


class MemoryStorageSessionService(BaseSessionService):
    """The sessions of ADK's agents, with their events and state, in the namespace of a storage.

    An event and its change of state are stored together or not at all. Any number of tasks, threads and processes may
    use one session: an append to one that another writer has changed since it was loaded raises ADK's
    StaleSessionError and stores nothing. Appending the same event again stores it once.

    No method blocks the event loop. The service closes nothing: the caller closes the storage.
    """

    def __init__(self, storage: MemoryStorage | AsyncMemoryStorage) -> None:
        """Use the sessions in the storage's namespace.

        Args:
            storage: Where they are stored. The services on a MemoryStorage share threads that run their calls; those on
                an AsyncMemoryStorage use its threads.

        Raises:
            ConfigurationError: `storage` is no storage.
        """
        self._storage = as_async(storage)
        # Of one session, the appends of a process wait for each other: they may share one object of ADK.
        self._locks: WeakValueDictionary[tuple[asyncio.AbstractEventLoop, _Key], asyncio.Lock] = WeakValueDictionary()

    async def create_session(
        self,
        *,
        app_name: str,
        user_id: str,
        state: dict[str, Any] | None = None,
        session_id: str | None = None,
    ) -> Session:
        """Create a session, in one round trip, and read it in another.

        Args:
            app_name: The app.
            user_id: The user.
            state: Its first state; keys with `app:` and `user:` change what the app's and the user's sessions share.
            session_id: Its id, without surrounding white space; by default a new one.

        Returns:
            The session, with the state that it shares.

        Raises:
            AlreadyExistsError: ADK's; the user has a session of this id.
            ValidationError: An id or the state is invalid or over a limit; nothing is stored.
        """
        key = _Key.of(app_name, user_id, session_id)
        if not key.session_id:
            key = key._replace(session_id=str(new_id()))
        deltas = _Deltas.of(_as_json(state or {}))
        incarnation = str(new_id())
        head = {
            "state": deltas.session,
            "events": 0,
            "last_event": None,
            "update_time": platform_time.get_time(),
            "incarnation": incarnation,
        }
        puts = [PutItem(path=key.head.path, key=key.session_id, value=head, version=0), *deltas.shared_puts(key)]
        for _ in range(_ATTEMPTS):
            try:
                await self._storage.items.batch(puts)
            except CommitUnknownError:
                continue  # if it was stored, the repetition conflicts
            except ConflictError as error:
                stored = await self._storage.items.find(key.head.path, key.session_id)
                if stored is None:
                    continue
                if value_of(stored)["incarnation"] != incarnation:
                    raise AlreadyExistsError(f"Session with id {key.session_id} already exists.") from error
            session = await self.get_session(app_name=app_name, user_id=user_id, session_id=key.session_id)
            if session is not None:
                return session
        raise UnavailableError("other writers keep changing this session; try again")

    async def get_session(
        self, *, app_name: str, user_id: str, session_id: str, config: GetSessionConfig | None = None
    ) -> Session | None:
        """Return a session with its events, in one round trip; if it has more than a page, in one snapshot.

        Args:
            app_name: The app.
            user_id: The user.
            session_id: The session; surrounding white space does not count.
            config: Which events are returned: the latest `num_recent_events` of those from `after_timestamp` on.

        Returns:
            The session, its events in the order in which they were appended; None if it does not exist.

        Raises:
            ValidationError: An id is invalid.
        """
        key = _Key.of(app_name, user_id, session_id)
        listings = [Listing(app_state_path(app_name)), Listing(user_state_path(app_name, user_id))]
        config = config or GetSessionConfig()
        if config.num_recent_events != 0:
            after = config.after_timestamp
            conditions = None if after is None else {"timestamp": {"$gte": after}}
            listings.append(Listing(events_path(*key, "by-number"), conditions, config.num_recent_events))
        (head,), (app_state, user_state, *events) = await read(self._storage, [key.head], listings)
        if head is None:
            return None
        session = _session(key, head, app_state, user_state)
        if events and events[0]:
            # In a thread: thousands would hold up the event loop. The newest is the first of them.
            session.events = await asyncio.to_thread(
                lambda: [Event.model_validate(item.value) for item in reversed(events[0])]
            )
        return session

    async def list_sessions(self, *, app_name: str, user_id: str | None = None) -> ListSessionsResponse:
        """Return sessions with their state and without their events, in one round trip or one snapshot.

        Args:
            app_name: The app.
            user_id: The user; None for all users.

        Returns:
            The sessions, the one that was updated last at the end.

        Raises:
            ValidationError: An id is invalid.
        """
        prefixes = (sessions_path(app_name, user_id), app_state_path(app_name), user_state_path(app_name, user_id))
        _, (heads, app_state, user_states) = await read(self._storage, [], [Listing(one) for one in prefixes])
        by_user: dict[str, list[Item]] = {}
        for item in user_states:
            by_user.setdefault(item.path[-1], []).append(item)
        sessions = [
            _session(_Key(app_name, head.path[-1], head.key), head, app_state, by_user.get(head.path[-1], ()))
            for head in heads
        ]
        sessions.sort(key=lambda one: (one.last_update_time, one.user_id, one.id))
        return ListSessionsResponse(sessions=sessions)

    async def delete_session(self, *, app_name: str, user_id: str, session_id: str) -> None:
        """Delete a session with its events and its own state, in one transaction. Idempotent.

        Args:
            app_name: The app.
            user_id: The user.
            session_id: The session; surrounding white space does not count.

        Raises:
            ValidationError: An id is invalid.
        """
        key = _Key.of(app_name, user_id, session_id)

        async def delete(tx: AsyncTransaction) -> None:
            await tx.items.delete(key.head.path, key.session_id)
            await tx.items.clear(events_path(*key))

        await self._storage.run(delete)

    async def get_user_state(self, *, app_name: str, user_id: str) -> dict[str, Any]:
        """Return the state that the sessions of a user share, by keys without `user:`.

        Args:
            app_name: The app.
            user_id: The user.

        Returns:
            The state; empty if there is none.

        Raises:
            ValidationError: An id is invalid.
        """
        _, (items,) = await read(self._storage, [], [Listing(user_state_path(app_name, user_id))])
        return {item.key: item.value for item in items}

    async def append_event(self, session: Session, event: Event) -> Event:
        """Append an event, and apply its change of state: both or neither, in two round trips.

        Keys with `temp:` change only `session`. A partial event is not stored. If the call fails or is cancelled,
        `session` has not the event, and the same event can be appended again: if it was stored, it is not stored twice.

        Args:
            session: The session, as this service has returned it.
            event: The event; its `temp:` keys are removed from it.

        Returns:
            The event.

        Raises:
            AlreadyExistsError: ADK's; the session has another event of this id.
            SessionNotFoundError: ADK's; the session does not exist.
            StaleSessionError: ADK's; another writer has changed the session since it was loaded. Nothing is stored.
            ValidationError: The event is invalid or over a limit; nothing is stored.
        """
        if event.partial:
            return event
        self._apply_temp_state(session, event)
        event = self._trim_temp_delta_state(event)
        key = _Key(session.app_name, session.user_id, session.id)
        lock = self._locks.setdefault((asyncio.get_running_loop(), key), asyncio.Lock())
        async with lock:
            marker, is_last, is_new = await self._stored(key, session, event)
            if is_last:
                session._storage_update_marker = marker
                session.last_update_time = event.timestamp
            if is_new or all(one.id != event.id for one in session.events):
                self._commit_event_to_session(session, event)
            return event

    async def _stored(self, key: _Key, session: Session, event: Event) -> tuple[str, bool, bool]:
        """Store the event unless it is stored.

        Returns:
            The marker of the session, whether the event is its last, and whether it was new.
        """
        _check_numbers("event.actions.state_delta", event.actions.state_delta)
        document = event.model_dump(mode="json", exclude_none=True)
        digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
        for _ in range(_ATTEMPTS):
            head, earlier = await self._storage.items.batch([key.head, key.by_id(event.id)])
            if head is None:
                raise SessionNotFoundError(f"Session {key.session_id} not found.")
            if earlier is not None:
                if value_of(earlier)["digest"] != digest:
                    raise AlreadyExistsError(f"The session has another event with the id {event.id}.")
                return _marker(head, head.version), value_of(earlier)["number"] == value_of(head)["events"], False
            _check_current(session, head)
            try:
                await self._storage.items.batch(_puts(key, head, document, digest))
            except (CommitUnknownError, ConflictError):
                continue  # the next read shows what is stored
            return _marker(head, head.version + 1), True, True
        raise StaleSessionError(_STALE)

    def __repr__(self) -> str:
        return f"MemoryStorageSessionService({self._storage!r})"


def _puts(key: _Key, head: Item, document: dict[str, Any], digest: str) -> list[PutItem]:
    """Return the puts that append an event; they conflict if the session has changed since `head` was read."""
    deltas = _Deltas.of(document.get("actions", {}).get("state_delta", {}))
    old = value_of(head)
    number = old["events"] + 1
    new = {
        **old,
        "state": {**old["state"], **deltas.session},
        "events": number,
        "last_event": document["id"],
        "update_time": document["timestamp"],
    }
    index = {"number": number, "digest": digest}
    return [
        PutItem(path=head.path, key=head.key, value=new, version=head.version),
        PutItem(path=events_path(*key, "by-number"), key=event_key(number), value=document, version=0),
        PutItem(path=events_path(*key, "by-id"), key=document["id"], value=index, version=0),
        *deltas.shared_puts(key),
    ]


def _check_current(session: Session, head: Item) -> None:
    value, marker = value_of(head), session._storage_update_marker
    if marker is not None:
        is_current = marker == _marker(head, head.version)
    elif value["update_time"] <= session.last_update_time:
        is_current = True
    else:  # an object that the caller has made: its events tell
        last = session.events[-1].id if session.events else None
        is_current = (len(session.events), last) == (value["events"], value["last_event"])
    if not is_current:
        raise StaleSessionError(_STALE)


def _marker(head: Item, version: int) -> str:
    return f"{value_of(head)['incarnation']}:{version}"


def _session(key: _Key, head: Item, app_state: Sequence[Item], user_state: Sequence[Item]) -> Session:
    value = value_of(head)
    state = dict(value["state"])
    state.update((f"{State.APP_PREFIX}{item.key}", item.value) for item in app_state)
    state.update((f"{State.USER_PREFIX}{item.key}", item.value) for item in user_state)
    session = Session(
        app_name=key.app_name,
        user_id=key.user_id,
        id=key.session_id,
        state=state,
        last_update_time=value["update_time"],
    )
    session._storage_update_marker = _marker(head, head.version)
    return session


def _as_json(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state as an event would have it: ADK's own serialization."""
    _check_numbers("state", state)
    delta: dict[str, Any] = EventActions(state_delta=state).model_dump(mode="json")["state_delta"]
    return delta


def _check_numbers(field: str, state: dict[str, Any]) -> None:
    """Refuse what JSON has no number for, which ADK would write as null, and what is nested too deep."""
    try:
        json.dumps(state, allow_nan=False, skipkeys=True, default=str)
    except ValueError as error:
        raise ValidationError(field, "finite numbers, and no value that contains itself", state) from error
    except RecursionError as error:
        raise ValidationError(field, "values that are nested less deeply", state) from error
