"""The session service: ADK's contract, as its own service has it; retries, concurrency, failures, cancellation."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
from datetime import datetime, timezone

import pytest
from google.adk.errors import StaleSessionError
from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events.event import Event
from google.adk.sessions.base_session_service import GetSessionConfig
from google.adk.sessions.in_memory_session_service import InMemorySessionService
from google.adk.sessions.session import Session
from google.genai import types

import memory_storage as ms
from memory_storage.aio import AsyncMemoryStorage
from memory_storage.integrations.google_adk import MemoryStorageMemoryService, MemoryStorageSessionService
from tests.integrations.lock import assert_waiting_blocks_no_loop
from tests.proxy import Proxy
from tests.raising import raises

from .services import APP, SCOPE, USER, event, texts

in_memory = pytest.mark.parametrize("target", ["memory"], indirect=True)


@pytest.fixture
def service(storage) -> MemoryStorageSessionService:
    return MemoryStorageSessionService(storage)


@pytest.fixture(params=["ours", "theirs"])
def either(request, storage):
    """Our service and ADK's own, so that the test is one of ADK's contract."""
    return MemoryStorageSessionService(storage) if request.param == "ours" else InMemorySessionService()


def test_a_session_is_created_read_and_deleted(service, storage):
    async def main():
        assert await service.get_session(**SCOPE, session_id="s") is None
        session = await service.create_session(**SCOPE, state={"a": 1, "temp:b": 2})
        assert (session.app_name, session.user_id, session.state) == (APP, USER, {"a": 1})
        await service.append_event(session, event("hello"))
        assert await service.get_session(**SCOPE, session_id=session.id) == session
        await service.delete_session(**SCOPE, session_id=session.id)
        await service.delete_session(**SCOPE, session_id=session.id)
        assert await service.get_session(**SCOPE, session_id=session.id) is None
        with raises(SessionNotFoundError):
            await service.append_event(session, event("late"))
        await service.flush()

    asyncio.run(main())
    assert storage.items.count() == 0


def test_an_event_is_read_back_equal(service):
    content = types.Content(
        role="model",
        parts=[
            types.Part.from_bytes(data=b"\x00\xffimage", mime_type="image/png"),
            types.Part(function_call=types.FunctionCall(name="f", args={"x": [1, None, 0.1 + 0.2, 2**60]})),
            types.Part(thought=True, text="hm", thought_signature=b"\x01"),
        ],
    )
    one = event(delta={"none": None, "deep": {"list": [None, {"a": None}]}}, timestamp=1_700_000_000.123)
    one = one.model_copy(
        update={
            "content": content,
            "long_running_tool_ids": {"b", "a"},
            "custom_metadata": {"k": "v"},
            "grounding_metadata": types.GroundingMetadata(
                search_entry_point=types.SearchEntryPoint(sdk_blob=b"blob"), web_search_queries=["q"]
            ),
            "usage_metadata": types.GenerateContentResponseUsageMetadata(prompt_token_count=3),
        }
    )

    async def main():
        session = await service.create_session(**SCOPE)
        await service.append_event(session, one)
        assert await service.get_session(**SCOPE, session_id=session.id) == session
        assert session.last_update_time == one.timestamp

    asyncio.run(main())


@in_memory
def test_state_has_the_scopes_of_its_prefixes(either):
    async def main():
        first = await either.create_session(**SCOPE, session_id="1", state={"app:a": 1, "user:u": 1, "s": 1})
        delta = {"app:a": 2, "app:": "empty", "user:v": {"deep": [1]}, "s": None, "temp:t": 1, "apple": "no prefix"}
        one = event(delta=delta)
        await either.append_event(first, one)
        assert first.state["temp:t"] == 1  # for the rest of the invocation
        assert "temp:t" not in one.actions.state_delta
        shared = {"app:a": 2, "app:": "empty", "user:u": 1, "user:v": {"deep": [1]}}
        stored = await either.get_session(**SCOPE, session_id="1")
        assert stored.state == {**shared, "s": None, "apple": "no prefix"}
        assert (await either.create_session(**SCOPE, session_id="2")).state == shared
        bob = await either.create_session(app_name=APP, user_id="bob")
        assert bob.state == {"app:a": 2, "app:": "empty"}
        assert (await either.create_session(app_name="other", user_id=USER)).state == {}
        assert await either.get_user_state(**SCOPE) == {"u": 1, "v": {"deep": [1]}}
        assert await either.get_user_state(app_name=APP, user_id="bob") == {}

    asyncio.run(main())


@in_memory
def test_a_session_id_is_taken_once_and_without_padding(either):
    async def main():
        session = await either.create_session(**SCOPE, session_id="  s ")
        assert session.id == "s"
        for session_id in ("s", " s"):
            with raises(AlreadyExistsError):
                await either.create_session(**SCOPE, session_id=session_id, state={"app:lost": 1})
        assert (await either.get_session(**SCOPE, session_id="s ")).state == {}
        assert (await either.create_session(app_name=APP, user_id="bob", session_id="s")).id == "s"
        await either.delete_session(**SCOPE, session_id="\ts")
        assert await either.get_session(**SCOPE, session_id="s") is None

    asyncio.run(main())


@in_memory
def test_events_are_limited_by_number_and_time(either):
    async def main():
        session = await either.create_session(**SCOPE)
        for number in range(1, 6):
            await either.append_event(session, event(str(number), timestamp=number))

        async def read(**config) -> list[str]:
            found = await either.get_session(**SCOPE, session_id=session.id, config=GetSessionConfig(**config))
            return texts(found.events)

        assert await read() == ["1", "2", "3", "4", "5"]
        assert await read(num_recent_events=0) == []
        assert await read(num_recent_events=3) == ["3", "4", "5"]
        assert await read(num_recent_events=9) == ["1", "2", "3", "4", "5"]
        assert await read(after_timestamp=4.0) == ["4", "5"]
        assert await read(after_timestamp=50) == []
        assert await read(after_timestamp=4, num_recent_events=1) == ["5"]
        assert await read(after_timestamp=4, num_recent_events=3) == ["4", "5"]

    asyncio.run(main())


@in_memory
def test_sessions_are_listed_by_their_last_update(either):
    async def main():
        for user, session_id in (("ann", "1"), ("ann", "2"), ("bob", "1"), ("", "1")):
            await either.create_session(app_name=APP, user_id=user, session_id=session_id, state={"user:is": user})
        await either.create_session(app_name="other", user_id="ann")
        first = await either.get_session(**SCOPE, session_id="1")
        await either.append_event(first, event("hi", timestamp=first.last_update_time + 100))
        listed = (await either.list_sessions(app_name=APP, user_id="ann")).sessions
        assert [(one.id, one.state, one.events) for one in listed] == [
            ("2", {"user:is": "ann"}, []),
            ("1", {"user:is": "ann"}, []),
        ]
        everyone = (await either.list_sessions(app_name=APP)).sessions
        assert [one.state["user:is"] for one in everyone] == ["ann", "bob", "", "ann"]
        assert [one.user_id for one in (await either.list_sessions(app_name=APP, user_id="")).sessions] == [""]
        assert (await either.list_sessions(app_name=APP, user_id="carl")).sessions == []

    asyncio.run(main())


@in_memory
def test_partial_events_are_not_stored(either):
    async def main():
        session = await either.create_session(**SCOPE)
        await either.append_event(session, event("half", partial=True, delta={"a": 1}))
        assert session.events == []
        stored = await either.get_session(**SCOPE, session_id=session.id)
        assert (stored.events, stored.state) == ([], {})

    asyncio.run(main())


def _shown(session):
    return None if session is None else (session.id, session.state, [one.id for one in session.events])


async def _effect(service, kind: str, scope: dict, session_id: str, one: Event):
    """Return what a caller sees of one call."""
    if kind == "create":
        try:
            session = await service.create_session(**scope, session_id=session_id, state=one.actions.state_delta)
        except AlreadyExistsError:
            return "exists"
        return session.state
    if kind == "delete":
        return await service.delete_session(**scope, session_id=session_id)
    if kind == "list":
        listed = (await service.list_sessions(app_name=scope["app_name"])).sessions
        return sorted((one.user_id, one.id, str(sorted(one.state.items()))) for one in listed)
    session = await service.get_session(**scope, session_id=session_id)
    if session is not None:
        await service.append_event(session, one)
    return _shown(session)


@in_memory
@pytest.mark.parametrize("seed", range(5))
def test_any_sequence_of_calls_has_the_effects_of_adks_service(storage, seed):
    choices = random.Random(seed)
    services = MemoryStorageSessionService(storage), InMemorySessionService()
    keys = ["a", "b", "app:a", "app:b", "user:a", "temp:a", "user:", "app:user:x"]
    scopes = [{"app_name": app, "user_id": user} for app in ("x", "x/y") for user in ("u", "y/u")]

    async def main() -> None:
        for number in range(80):
            kind = choices.choice(["create", "append", "append", "append", "delete", "list"])
            scope, session_id = choices.choice(scopes), choices.choice("12")
            delta = {key: choices.choice([number, None, {"n": number}]) for key in choices.sample(keys, 3)}
            one = event(id=str(number), delta=delta)
            ours, theirs = [
                await _effect(service, kind, scope, session_id, one.model_copy(deep=True)) for service in services
            ]
            assert ours == theirs
        for scope in scopes:
            ours, theirs = [await service.get_user_state(**scope) for service in services]
            assert ours == theirs

    asyncio.run(main())


# -- writers that meet -------------------------------------------------------------------------------------------------


def test_a_stale_session_is_refused_and_stores_nothing(service):
    async def main():
        session = await service.create_session(**SCOPE)
        other = await service.get_session(**SCOPE, session_id=session.id)
        await service.append_event(other, event("other", delta={"a": 1}))
        with raises(StaleSessionError):
            await service.append_event(session, event("stale", delta={"a": 2, "app:a": 2}))
        assert session.events == []
        stored = await service.get_session(**SCOPE, session_id=session.id)
        assert (texts(stored.events), stored.state) == (["other"], {"a": 1})
        await service.append_event(stored, event("again", delta={"a": 2}))
        await service.append_event(stored, event("and again"))

    asyncio.run(main())


@in_memory
def test_a_session_that_was_created_again_is_another_one(service):
    async def main():
        old = await service.create_session(**SCOPE, session_id="s")
        await service.delete_session(**SCOPE, session_id="s")
        await service.create_session(**SCOPE, session_id="s")
        with raises(StaleSessionError):
            await service.append_event(old, event("for the old one"))

    asyncio.run(main())


@in_memory
def test_sessions_that_the_caller_made_are_compared_by_time_or_events(service):
    async def main():
        session = await service.create_session(**SCOPE, session_id="s")
        await service.append_event(session, event("1"))
        made = Session(**SCOPE, id="s", events=session.events[:], last_update_time=session.last_update_time - 1)
        await service.append_event(made, event("2"))
        made = Session(**SCOPE, id="s", last_update_time=made.last_update_time + 1)
        await service.append_event(made, event("3"))
        with raises(StaleSessionError):
            await service.append_event(Session(**SCOPE, id="s"), event("4"))
        assert len((await service.get_session(**SCOPE, session_id="s")).events) == 3

    asyncio.run(main())


def test_writers_in_threads_lose_nothing(storage):
    """Each reloads its session after a conflict, as a runner does."""

    async def write(writer: int) -> None:
        service = MemoryStorageSessionService(storage)
        for number in range(5):
            one = event(f"{writer}.{number}", delta={f"{writer}.{number}": 1, f"app:{writer}.{number}": 1})
            while True:
                session = await service.get_session(**SCOPE, session_id="s")
                try:
                    await service.append_event(session, one)
                    break
                except StaleSessionError:
                    await asyncio.sleep(0.001)

    service = MemoryStorageSessionService(storage)
    asyncio.run(service.create_session(**SCOPE, session_id="s"))
    threads = [threading.Thread(target=asyncio.run, args=(write(writer),)) for writer in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    session = asyncio.run(service.get_session(**SCOPE, session_id="s"))
    expected = {f"{writer}.{number}" for writer in range(3) for number in range(5)}
    assert sorted(texts(session.events)) == sorted(expected)
    assert set(session.state) == expected | {f"app:{one}" for one in expected}


def test_tasks_that_share_one_session_object_all_append(service):
    async def main():
        session = await service.create_session(**SCOPE)
        await asyncio.gather(*(service.append_event(session, event(str(n), delta={str(n): n})) for n in range(20)))
        stored = await service.get_session(**SCOPE, session_id=session.id)
        assert stored == session
        assert len(stored.events) == len(stored.state) == 20
        assert len(service._locks) == 0

    asyncio.run(main())


def test_sessions_of_one_app_change_its_state_without_conflict(service):
    async def main():
        sessions = [await service.create_session(app_name=APP, user_id=str(n)) for n in range(5)]
        await asyncio.gather(
            *(service.append_event(one, event(delta={f"app:{n}": n, "app:last": n})) for n, one in enumerate(sessions))
        )
        state = (await service.create_session(**SCOPE)).state
        assert {f"app:{n}": n for n in range(5)}.items() <= state.items()
        assert len(state) == 6

    asyncio.run(main())


# -- retries and failures ----------------------------------------------------------------------------------------------


def test_the_same_event_again_is_stored_once(service):
    async def main():
        session = await service.create_session(**SCOPE, session_id="s")
        one = event("once", delta={"n": 1, "app:n": 1})
        await service.append_event(session, one)
        await service.append_event(session, event("later", delta={"n": 2, "app:n": 2}))
        await service.append_event(session, one)
        reloaded = await service.get_session(**SCOPE, session_id="s")
        await service.append_event(reloaded, one.model_copy(deep=True))
        for found in (session, reloaded, await service.get_session(**SCOPE, session_id="s")):
            assert texts(found.events) == ["once", "later"]
            assert found.state == {"n": 2, "app:n": 2}
        with raises(AlreadyExistsError):
            await service.append_event(session, event("other", id=one.id))

    asyncio.run(main())


def _failing_after(monkeypatch, storage, failure: BaseException) -> None:
    """Have the next batch that writes fail after it has stored everything."""
    batch, left = storage.items.batch, [failure]

    def fail(operations):
        operations = list(operations)
        result = batch(operations)
        if left and any(isinstance(one, ms.models.PutItem) for one in operations):
            raise left.pop()
        return result

    monkeypatch.setattr(storage.items, "batch", fail)


@in_memory
def test_an_unknown_commit_is_resolved_by_reading(service, storage, monkeypatch):
    async def main():
        _failing_after(monkeypatch, storage, ms.CommitUnknownError("lost"))
        session = await service.create_session(**SCOPE, state={"a": 1})
        assert session.state == {"a": 1}
        _failing_after(monkeypatch, storage, ms.CommitUnknownError("lost"))
        await service.append_event(session, event("1"))
        await service.append_event(session, event("2"))
        stored = await service.get_session(**SCOPE, session_id=session.id)
        assert stored == session
        assert texts(stored.events) == ["1", "2"]

    asyncio.run(main())


@in_memory
def test_an_append_that_failed_can_be_repeated(service, storage, monkeypatch):
    async def main():
        session = await service.create_session(**SCOPE)
        _failing_after(monkeypatch, storage, ms.UnavailableError("lost"))
        one = event("1", delta={"a": 1})
        with raises(ms.UnavailableError):
            await service.append_event(session, one)
        assert session.events == []
        await service.append_event(session, one)
        await service.append_event(session, event("2"))
        assert await service.get_session(**SCOPE, session_id=session.id) == session
        assert texts(session.events) == ["1", "2"]

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.server
def test_a_lost_response_doubles_nothing(sqld, migrated_server_url):
    async def main(storage, line) -> None:
        service = MemoryStorageSessionService(storage)
        session = await service.create_session(**SCOPE)
        for number in range(3):
            line.cut_reply_after(0, times=1)
            await service.append_event(session, event(str(number), delta={str(number): 1}))
        assert line.cuts == 3
        stored = await service.get_session(**SCOPE, session_id=session.id)
        assert stored == session
        assert texts(stored.events) == ["0", "1", "2"]

    with (
        Proxy(sqld.port) as line,
        ms.MemoryStorage.open(migrated_server_url.replace(f":{sqld.port}/", f":{line.port}/")) as storage,
    ):
        asyncio.run(main(storage, line))


@in_memory
@pytest.mark.parametrize(
    ("delta", "text"),
    [({"a": "\x00"}, "x"), ({"app:a": float("nan")}, "x"), ({"a\x00": 1}, "x"), ({"app:b": 1}, "\x00")],
)
def test_an_event_that_cannot_be_stored_changes_nothing(service, storage, delta, text):
    async def main():
        session = await service.create_session(**SCOPE)
        before = storage.items.count()
        with pytest.raises(ms.ValidationError):
            await service.append_event(session, event(text, delta={"app:good": 1, **delta}))
        assert (session.events, storage.items.count()) == ([], before)
        await service.append_event(session, event("after"))

    asyncio.run(main())


@pytest.mark.parametrize("delay", [0, 0.0005, 0.001, 0.002, 0.004])
def test_a_cancelled_append_is_stored_completely_or_not_at_all(migrated_file, delay):
    async def main() -> None:
        async with AsyncMemoryStorage.open(migrated_file) as storage:
            service = MemoryStorageSessionService(storage)
            session = await service.create_session(**SCOPE)
            one = event("1", delta={"a": 1, "app:a": 1, "user:a": 1})
            task = asyncio.create_task(service.append_event(session, one))
            await asyncio.sleep(delay)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            stored = await service.get_session(**SCOPE, session_id=session.id)
            assert (len(stored.events), len(stored.state)) in ((0, 0), (1, 3))
            assert task.cancelled() or len(stored.events) == 1
            await service.append_event(session, one)  # the same event, with the same object
            await service.append_event(session, event("2"))
            assert texts((await service.get_session(**SCOPE, session_id=session.id)).events) == ["1", "2"]

    asyncio.run(main())


@in_memory
def test_the_event_loop_is_not_blocked_while_another_writes(storage, service):
    async def main() -> None:
        session = await service.create_session(**SCOPE)
        await assert_waiting_blocks_no_loop(storage, service.append_event(session, event("a")))

    asyncio.run(main())


# -- scopes and sizes --------------------------------------------------------------------------------------------------

HOSTILE = ["a", "a/b", "b/a", "", " ", "%", "a\x01b", "\x02", "\x01", "a:b", "é", "';--", "..", "null"]


@in_memory
def test_no_id_reaches_the_sessions_of_another(service):
    pairs = [(app, user) for app in HOSTILE for user in HOSTILE]

    async def main():
        for app, user in pairs:
            own = f"{app}|{user}"
            session = await service.create_session(app_name=app, user_id=user, session_id="s")
            await service.append_event(session, event(own, delta={"own": own, "user:own": own}))
        for app, user in pairs:
            scope = {"app_name": app, "user_id": user}
            own = {"own": f"{app}|{user}", "user:own": f"{app}|{user}"}
            (listed,) = (await service.list_sessions(**scope)).sessions
            assert listed.state == own
            assert texts((await service.get_session(**scope, session_id="s")).events) == [own["own"]]
        await service.delete_session(app_name="a", user_id="a", session_id="s")
        assert len((await service.list_sessions(app_name="a")).sessions) == len(HOSTILE) - 1
        assert len((await service.list_sessions(app_name="a/b")).sessions) == len(HOSTILE)

    asyncio.run(main())


@in_memory
@pytest.mark.parametrize("bad", [{"app_name": "a\x00"}, {"user_id": "\ud800"}, {"session_id": "x" * 1_001}])
def test_ids_that_cannot_be_stored_are_refused(service, bad):
    with pytest.raises(ms.ValidationError):
        asyncio.run(service.create_session(**{**SCOPE, "session_id": "s", **bad}))


@in_memory
def test_namespaces_are_apart(storage):
    async def main():
        await MemoryStorageSessionService(storage).create_session(**SCOPE, session_id="s", state={"app:a": 1})
        other = MemoryStorageSessionService(storage.in_namespace("other"))
        assert await other.get_session(**SCOPE, session_id="s") is None
        assert (await other.create_session(**SCOPE, session_id="s")).state == {}

    asyncio.run(main())


@pytest.mark.parametrize("target", ["memory", "file"], indirect=True)
@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_what_is_longer_than_a_page_is_whole(target, count):
    limits = {"query_maximum": 3, "query_default": 3}
    settings = target if isinstance(target, ms.Settings) else ms.Settings(database=target)
    settings = settings.model_copy(update={"limits": settings.limits.model_copy(update=limits)})

    async def main(storage):
        service = MemoryStorageSessionService(storage)
        for number in range(count):
            await service.create_session(**SCOPE, session_id=str(number), state={f"user:{number}": number})
        session = await service.get_session(**SCOPE, session_id="0")
        for number in range(count):
            await service.append_event(session, event(str(number), delta={f"app:{number}": number}))
        expected = [str(number) for number in range(count)]
        for limit in (None, 1, 2, 3, 4, 5, 9):
            config = GetSessionConfig(num_recent_events=limit)
            found = await service.get_session(**SCOPE, session_id="0", config=config)
            assert texts(found.events) == expected[-limit if limit else None :]
            assert len(found.state) == 2 * count
        assert len((await service.list_sessions(**SCOPE)).sessions) == count
        assert len(await service.get_user_state(**SCOPE)) == count

    with ms.MemoryStorage.open(settings) as storage:
        asyncio.run(main(storage))


@pytest.mark.slow
@pytest.mark.server
def test_a_call_takes_few_round_trips(sqld, migrated_server_url):
    async def main(storage, line) -> list[int]:
        service, memory = MemoryStorageSessionService(storage), MemoryStorageMemoryService(storage)
        session = await service.create_session(**SCOPE, session_id="s", state={"app:a": 1, "user:a": 1, "a": 1})
        costs = []
        for call in (
            lambda: service.create_session(**SCOPE, session_id="t"),
            lambda: service.append_event(session, event("1", delta={"app:a": 2, "user:a": 2, "a": 2})),
            lambda: service.get_session(**SCOPE, session_id="s"),
            lambda: service.list_sessions(**SCOPE),
            lambda: service.get_user_state(**SCOPE),
            lambda: service.delete_session(**SCOPE, session_id="t"),
            lambda: memory.add_session_to_memory(session),
            lambda: memory.search_memory(**SCOPE, query="1"),
        ):
            before = line.round_trips
            await call()
            costs.append(line.round_trips - before)
        return costs

    with (
        Proxy(sqld.port) as line,
        ms.MemoryStorage.open(migrated_server_url.replace(f":{sqld.port}/", f":{line.port}/")) as storage,
    ):
        assert asyncio.run(main(storage, line)) == [2, 2, 1, 1, 1, 3, 2, 1]


@in_memory
def test_it_shows_its_storage_and_refuses_others(service):
    assert repr(service).startswith("MemoryStorageSessionService(AsyncMemoryStorage(':memory:'")
    with raises(ms.ConfigurationError):
        MemoryStorageSessionService("memory.db")


@in_memory
def test_an_id_that_is_no_text_and_a_state_that_is_too_deep_are_refused(service, storage):
    deep: dict = {}
    for _ in range(5_000):
        deep = {"a": deep}

    async def main():
        for call in (service.create_session, service.get_session, service.delete_session):
            with raises(ms.ValidationError, field="session_id"):
                await call(**SCOPE, session_id=1)
        with raises(ms.ValidationError, field="state"):
            await service.create_session(**SCOPE, state={"deep": deep})
        assert storage.items.count() == 0
        session = await service.create_session(**SCOPE)
        with raises(ms.ValidationError, field="event.actions.state_delta"):
            await service.append_event(session, event(delta={"deep": deep}))
        assert session.events == (await service.get_session(**SCOPE, session_id=session.id)).events == []

    asyncio.run(main())


@in_memory
def test_values_without_a_json_form_are_written_as_adk_writes_them(service):
    moment = datetime(2026, 1, 2, tzinfo=timezone.utc)

    async def main():
        session = await service.create_session(**SCOPE, state={"at": moment})
        await service.append_event(session, event(delta={"user:at": moment}))
        stored = await service.get_session(**SCOPE, session_id=session.id)
        assert stored.state == {"at": "2026-01-02T00:00:00Z", "user:at": "2026-01-02T00:00:00Z"}

    asyncio.run(main())


@pytest.mark.slow
def test_a_missing_sdk_is_named_with_its_extra():
    code = (
        "import sys; sys.modules['google.adk'] = None\n"
        "import memory_storage as ms\n"
        "try: import memory_storage.integrations.google_adk\n"
        "except ms.ConfigurationError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "pip install 'memory-storage[google-adk]'" in done.stdout
