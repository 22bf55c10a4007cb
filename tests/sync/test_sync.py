"""Replicas of a database on a real server: what travels, what it costs, and what the modes and options do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import memory_storage as ms
from memory_storage import dbapi, migrate, schema
from memory_storage.models import new_id
from memory_storage.testing import Sqld
from tests.proxy import Proxy
from tests.raising import raises
from tests.test_forget import insert_checkpoint

from .conftest import Open
from .world import contents

MakeEpisode = Callable[..., ms.Episode]


def synced(*storages: ms.MemoryStorage) -> None:
    """Sync each, twice."""
    for _ in range(2):
        for storage in storages:
            storage.sync()


def test_everything_arrives_as_it_was_saved(replica: Open, make_episode: MakeEpisode) -> None:
    a, b = replica("a"), replica("b")
    episode = a.episodes.save(
        make_episode(
            3,
            context=ms.TaskContext(domain="web-api", language="python", tags=["context"]),
            tags=["auth", "日本語"],
            metadata={"nested": {"pi": 3.141592653589793, "big": 2**53 + 1}, "text": 'quote " \\ line\n'},
            artifacts=["a.txt"],
            reward=ms.RewardScore(total=0.1 + 0.2),
            outcome=ms.PartialSuccess(verdict="so so", completed=["x"], failed=["y"]),
            reflection=ms.Reflection(successes=["s"]),
        )
    )
    a.episodes.archive(episode.id)
    pattern = a.patterns.save(ms.ErrorRecovery(error_type="timeout", recovery_steps=["retry"], evidence=[episode.id]))
    a.patterns.record_application(pattern.id, success=True, reward_delta=1 / 3)
    a.embeddings.put_many(
        [("episode", episode.id, [0.1, 0.2]), ("step", episode.steps[0].id, [0.3, 0.4])], model="two numbers"
    )
    a.embeddings.put("pattern", pattern.id, [1.0, 2.0, 3.0], model="three numbers")
    a.spatiotemporal.put(
        ms.SpatiotemporalEntry(owner_type="step", owner_id=episode.steps[1].id, latitude=47.123456789, longitude=-0.1)
    )
    a.in_namespace("another").episodes.save(make_episode(0))
    parent = a.episodes.save(ms.Episode(task_description="parent"))
    a.relationships.add(parent.id, episode.id, "parent_child", weight=1 / 3, metadata={"ü": [None, 0.1 + 0.2]})
    insert_checkpoint(a, episode.id, "日本語")
    report = a.sync()
    assert (report.pushed, report.waiting, report.is_complete) == (13, 0, True)
    assert b.sync().pulled == 13
    assert contents(a) == contents(b)
    assert contents(a.in_namespace("another")) == contents(b.in_namespace("another"))
    with ms.MemoryStorage.open(str(a.settings.sync_url)) as server:
        assert contents(server) == contents(a)
    assert [hit.item.id for hit in b.episodes.search("token refresh", archived=None)] == [episode.id]
    assert [hit.item.id for hit in b.episodes.similar_to([0.1, 0.2], model="two numbers", archived=None)] == [
        episode.id
    ]
    assert b.health_check(deep=True).is_healthy


def test_relationships_travel_change_and_are_deleted(replica: Open, make_episode: MakeEpisode) -> None:
    a, b = replica("a"), replica("b")
    ids = [one.id for one in a.episodes.save_many([make_episode(0) for _ in range(3)])]
    first = a.relationships.add(ids[0], ids[1], "follows", metadata={"n": 1})
    second = a.relationships.add(ids[1], ids[2], "follows")
    synced(a, b)
    changed = b.relationships.add(ids[0], ids[1], "follows", weight=0.7, metadata={"n": 2})
    assert (changed.id, changed.created_at) == (first.id, first.created_at)
    b.relationships.delete(second.id)
    synced(b, a)
    assert list(a.relationships.iterate()) == [changed]
    b.episodes.delete(ids[1])
    synced(b, a)
    assert a.relationships.count() == b.relationships.count() == 0
    with ms.MemoryStorage.open(str(a.settings.sync_url)) as server:
        assert server.relationships.count() == 0


def test_write_through_relationships_are_refused_by_the_server(replica: Open, make_episode: MakeEpisode) -> None:
    a, b = replica("a", sync_mode="write_through"), replica("b")
    ids = [one.id for one in a.episodes.save_many([make_episode(0) for _ in range(3)])]
    b.sync()
    b.relationships.add(ids[0], ids[1], "blocks")
    b.sync()
    with raises(ms.ValidationError, field="to_id"):
        a.relationships.add(ids[1], ids[0], "blocks")
    assert a.relationships.path(ids[0], ids[1], "blocks") == ids[:2]
    a.relationships.add(ids[1], ids[2], "blocks")
    b.sync()
    assert [one.episode_id for one in b.relationships.descendants(ids[0], "blocks")] == ids[1:]


def test_a_server_without_the_tables_is_refused(replica: Open, empty_server_url: str) -> None:
    with ms.MemoryStorage.open(empty_server_url) as server:
        migrate.downgrade(server.engine, "0012")
    a = replica("a", sync_url=empty_server_url)
    one, other = a.episodes.save_many([ms.Episode(task_description="t") for _ in range(2)])
    a.relationships.add(one.id, other.id, "follows")
    with raises(ms.SchemaError, match="migrate=True", found="0012", expected=schema.HEAD):
        a.sync()
    assert a.sync(migrate=True).pushed == 3


def test_a_partial_replica_has_relationships_of_what_it_keeps(replica: Open, make_episode: MakeEpisode) -> None:
    a = replica("a")
    long_ago = datetime.now(timezone.utc) - timedelta(days=40)
    old, new, newest = a.episodes.save_many([make_episode(0, started_at=long_ago), make_episode(0), make_episode(0)])
    a.relationships.add(new.id, old.id, "follows")
    a.relationships.add(newest.id, new.id, "follows")
    a.sync()
    b = replica("b", sync_keep=timedelta(days=30))
    b.sync()
    assert b.relationships.path(newest.id, new.id, "follows") == [newest.id, new.id]
    assert b.relationships.count() == 1
    assert b.episodes.find(old.id) is not None  # fetched, with its relationships
    assert b.relationships.path(newest.id, old.id, "follows") == [newest.id, new.id, old.id]
    b.relationships.add(new.id, old.id, "follows", weight=2.0)
    b.sync()
    a.sync()
    assert a.relationships.query(old.id).items[0].weight == 2.0


def test_a_sync_without_news_is_one_small_round_trip(replica: Open, make_episode: MakeEpisode) -> None:
    a = replica("a")
    a.episodes.save(make_episode())
    a.sync()
    report = a.sync()
    assert report.round_trips == 1
    print(f"sent {report.bytes_sent} bytes, received {report.bytes_received}, with the heads of HTTP")
    assert report.bytes_received < 1000
    assert report.bytes_sent < 600  # of which 55 are the name of this test's database
    assert (report.pushed, report.pulled) == (0, 0)


def test_own_changes_do_not_come_back(replica: Open, make_episode: MakeEpisode) -> None:
    a = replica("a")
    a.sync()
    for _ in range(3):
        a.episodes.save(make_episode())
        report = a.sync()
        assert (report.pushed, report.pulled, report.round_trips) == (3, 0, 1)


@pytest.mark.slow
def test_ten_thousand_changes_are_pushed_in_twelve_round_trips(replica: Open, make_episode: MakeEpisode) -> None:
    a = replica("a")
    a.sync()
    for first in range(0, 2_000, 500):
        a.episodes.save_many([make_episode(4) for _ in range(first, first + 500)])
    report = a.sync()
    print(
        f"{report.pushed} changes, {report.round_trips} round trips, {report.bytes_sent} bytes, {report.seconds:.2f} s"
    )
    assert report.pushed == 10_000
    assert report.round_trips <= 12
    b = replica("b")
    pulled = b.sync()
    print(f"pulled in {pulled.round_trips} round trips, {pulled.bytes_received} bytes, {pulled.seconds:.2f} s")
    assert b.episodes.count() == 2_000
    assert b.steps.count() == 8_000


def edited(replica: Open, make_episode: MakeEpisode, **settings: object) -> tuple[ms.MemoryStorage, ms.MemoryStorage]:
    """Two replicas that have changed one description, the first one's at the server; the second has not synced."""
    a, b = replica("ann"), replica("ben", **settings)
    episode = a.episodes.save(make_episode(1, task_description="as it was", tags=["old"]))
    synced(a, b)
    a.episodes.save(episode.model_copy(update={"task_description": "Ann's", "tags": ["old", "by Ann"]}))
    b.episodes.save(b.episodes.get(episode.id).model_copy(update={"task_description": "Ben's", "tags": ["by Ben"]}))
    a.sync()
    return a, b


def test_the_second_to_sync_sees_the_conflict(replica: Open, make_episode: MakeEpisode) -> None:
    a, b = edited(replica, make_episode)
    report = b.sync()
    assert (report.conflicts, report.merged) == (1, 0)
    (conflict,) = b.conflicts.iterate()
    assert conflict.difference() == {"task_description": ("as it was", "Ben's", "Ann's")}
    assert (conflict.kind, conflict.my_writer, conflict.their_writer) == ("episode", "ben", "ann")
    a.sync()
    (mine,), (theirs,) = b.episodes.query().items, a.episodes.query().items
    assert mine == theirs
    assert (mine.task_description, mine.tags) == ("Ann's", ["by Ann", "by Ben"])  # what merges has merged


def test_a_conflict_is_resolved_by_one_of_the_sides(replica: Open, make_episode: MakeEpisode) -> None:
    a, b = edited(replica, make_episode)
    b.sync()
    (conflict,) = b.conflicts.iterate()
    b.conflicts.take_mine(conflict.id)
    assert b.conflicts.count() == 0
    with pytest.raises(ms.NotFoundError):
        b.conflicts.get(conflict.id)
    synced(b, a)
    assert a.episodes.query().items[0].task_description == "Ben's"


def test_a_conflict_is_resolved_by_a_function(replica: Open, make_episode: MakeEpisode) -> None:
    a, b = edited(replica, make_episode)
    b.sync()
    (conflict,) = b.conflicts.iterate()

    def merge(one: ms.models.Conflict) -> ms.Episode:
        _, mine, theirs = one.difference()["task_description"]
        return b.episodes.get(one.object_id).model_copy(update={"task_description": f"{theirs} and {mine}"})

    b.conflicts.merge(conflict.id, merge)
    synced(b, a)
    assert a.episodes.query().items[0].task_description == "Ann's and Ben's"


def test_a_policy_decides(replica: Open, make_episode: MakeEpisode) -> None:
    a, b = edited(replica, make_episode, sync_conflicts="local_wins")
    b.sync()
    a.sync()
    assert a.episodes.query().items[0].task_description == "Ben's"
    assert b.conflicts.count() == 1  # Ann's is kept


def test_a_function_decides(replica: Open, make_episode: MakeEpisode) -> None:
    asked = []

    def decide(conflict: ms.models.Conflict) -> str:
        asked.append(conflict.difference())
        return "mine"

    a, b = edited(replica, make_episode, sync_conflicts=decide)
    b.sync()
    a.sync()
    assert asked == [{"task_description": ("as it was", "Ben's", "Ann's")}]
    assert a.episodes.query().items[0].task_description == "Ben's"
    assert b.conflicts.count() == 0


def test_what_was_changed_here_and_deleted_there_is_kept_with_its_steps(
    replica: Open, make_episode: MakeEpisode
) -> None:
    a, b = replica("a"), replica("b")
    episode = a.episodes.save(make_episode(2))
    synced(a, b)
    b.episodes.append_step(episode.id, ms.Step(tool="late", action="one more"))
    a.episodes.delete(episode.id)
    a.sync()
    b.sync()
    assert b.episodes.find(episode.id) is None
    (conflict,) = b.conflicts.iterate()
    assert conflict.fields == ["deleted"]
    assert conflict.theirs is None
    b.conflicts.take_mine(conflict.id)
    synced(b, a)
    assert [step.tool for step in a.episodes.get(episode.id).steps] == ["tool-1", "tool-2", "late"]
    assert contents(a) == contents(b)


def test_what_is_erased_is_erased_everywhere(replica: Open, make_episode: MakeEpisode) -> None:
    a, b = edited(replica, make_episode)
    b.sync()
    assert b.conflicts.count() == 1
    (episode,) = a.episodes.query().items
    a.forget(episode=episode.id)
    a.sync()
    report = b.sync()
    assert report.erased == 1
    assert (b.episodes.count(), b.conflicts.count()) == (0, 0)
    with pytest.raises(ms.ValidationError, match="erased"):
        b.episodes.import_many([episode], restore_forgotten=False) or b.episodes.save(
            episode.model_copy(update={"version": 0, "created_at": None})
        )


def test_without_a_server_all_local_calls_work(tmp_path: Path, make_episode: MakeEpisode) -> None:
    with Sqld(directory=tmp_path / "server") as server:
        ms.MemoryStorage.open(server.url).close()
        settings = ms.Settings(
            database=str(tmp_path / "a.db"),
            sync_url=server.url,
            circuit_breaker={"failure_threshold": 2},
            retry={"max_attempts": 1},
        )
        now = [datetime(2026, 11, 29, tzinfo=timezone.utc)]
        with ms.MemoryStorage.open(settings, now=lambda: now[0]) as a:
            server.stop()
            for _ in range(60):  # a sync a minute, for an hour
                now[0] += timedelta(minutes=1)
                a.episodes.save(make_episode(1))
                with pytest.raises(ms.UnavailableError):
                    a.sync()
            status = a.sync_status()
            assert status is not None
            assert status.waiting == 120
            assert a._server is not None
            assert a._server.circuit_breaker_status().state == "open"
            assert a._server.metrics() == {}  # its operations are the replica's
            assert a.episodes.count() == 60
            server.start()
            a._server.circuit_breaker.reset()
            assert a.sync().pushed == 120
            assert a.health_check().sync == a.sync_status()


def test_a_thread_syncs_by_itself(replica: Open, make_episode: MakeEpisode) -> None:
    a, b = replica("a", sync_interval=0.05), replica("b", sync_interval=0.05)
    episode = a.episodes.save(make_episode(1))
    arrived = threading.Event()
    for _ in range(200):
        if b.episodes.find(episode.id) is not None:
            arrived.set()
            break
        arrived.wait(0.05)
    assert arrived.is_set()


def test_write_through_reads_without_a_round_trip(replica: Open, make_episode: MakeEpisode) -> None:
    a, b = replica("a", sync_mode="write_through"), replica("b")
    episodes = [a.episodes.save(make_episode(1)) for _ in range(10)]
    sent = dbapi.traffic.sent
    for _ in range(100):
        for episode in episodes:
            assert a.episodes.get(episode.id) == episode
    assert dbapi.traffic.sent == sent, "1,000 gets, no round trip"
    assert b.sync().pulled == 20  # they are at the server
    b.episodes.append_step(episodes[0].id, ms.Step(tool="b", action="b"))
    b.sync()
    assert len(a.episodes.get(episodes[0].id).steps) == 1
    a.sync()
    assert len(a.episodes.get(episodes[0].id).steps) == 2


def test_write_through_shows_nothing_that_the_server_refused(replica: Open, make_episode: MakeEpisode) -> None:
    a, b = replica("a", sync_mode="write_through"), replica("b")
    episode = a.episodes.save(make_episode(1, task_description="first"))
    b.sync()
    b.episodes.save(b.episodes.get(episode.id).model_copy(update={"task_description": "second"}))
    b.sync()
    with pytest.raises(ms.ConflictError):
        a.episodes.save(episode.model_copy(update={"task_description": "refused"}))
    assert a.episodes.get(episode.id).task_description == "second"

    def append_and_save() -> None:
        with a.transaction() as tx:
            tx.episodes.append_step(episode.id, ms.Step(tool="t", action="t"))
            tx.episodes.save(episode)

    with pytest.raises(ms.ConflictError):
        append_and_save()
    assert len(a.episodes.get(episode.id).steps) == 1
    a.embeddings.put("episode", episode.id, [1.0, 2.0], model="m")
    a.forget(episode=episode.id)
    assert a.episodes.count() == 0


@pytest.mark.parametrize("sync_mode", ["local_first", "write_through"])
def test_what_is_saved_and_pulled_is_embedded(replica: Open, make_episode: MakeEpisode, sync_mode: str) -> None:
    a, b = replica("a"), replica("b", sync_mode=sync_mode, embedder="hashing", embed_delay=0.01)
    a.episodes.save(make_episode(task_description="made at a"))
    a.sync()
    assert b.sync().pulled
    b.episodes.save(make_episode(task_description="made at b"))
    with b.transaction() as tx:
        tx.episodes.save(make_episode(task_description="made in a transaction"))
    for _ in range(500):
        if b.embeddings.count() == 3:
            break
        time.sleep(0.02)
    assert b.episodes.similar_to("made at a", k=1)[0].item.task_description == "made at a"
    assert b.embeddings.count() == 3
    b.sync()
    a.sync()
    assert a.embeddings.count() == 3


def test_only_the_namespaces_that_are_asked_for_are_pulled(replica: Open, make_episode: MakeEpisode) -> None:
    a, b = replica("a"), replica("b", sync_namespaces=("mine",))
    a.episodes.save(make_episode(1))
    a.in_namespace("mine").episodes.save(make_episode(1))
    a.sync()
    b.sync()
    a.episodes.save(make_episode(1))
    a.in_namespace("mine").episodes.save(make_episode(1))
    a.sync()
    assert b.sync().pulled == 2
    assert (b.episodes.count(), b.in_namespace("mine").episodes.count()) == (0, 2)
    b.close()
    wider = replica("b", sync_namespaces=("mine", "default"))
    wider.sync()
    assert contents(wider) == contents(a)


def test_a_vector_of_another_dimension_than_the_server_has_is_kept(replica: Open, make_episode: MakeEpisode) -> None:
    a, b = replica("a"), replica("b")
    episode, other = a.episodes.save(make_episode(0)), a.episodes.save(make_episode(0))
    synced(a, b)
    a.embeddings.put("episode", episode.id, [1.0, 2.0], model="m")
    b.embeddings.put("episode", other.id, [1.0, 2.0, 3.0], model="m")
    synced(a, b)
    assert b.embeddings.models() == {"m": 2}
    assert [one.mine and one.mine["vector"] for one in b.conflicts.iterate()] == [[1.0, 2.0, 3.0]]
    synced(a, b)
    assert contents(a) == contents(b)


def test_what_the_server_cannot_take_is_refused_at_once(replica: Open) -> None:
    a = replica("a")
    with pytest.raises(ms.ValidationError):
        a.episodes.save(ms.Episode(task_description="large", metadata={"text": "x" * 5_000_000}))


def test_old_episodes_stay_at_the_server(replica: Open, make_episode: MakeEpisode) -> None:
    a, b = replica("a"), replica("b", sync_keep=timedelta(days=90))
    long_ago = datetime.now(timezone.utc) - timedelta(days=91)
    old, new = a.episodes.save(make_episode(2, started_at=long_ago)), a.episodes.save(make_episode(2))
    a.sync()
    b.sync()
    assert [one.id for one in b.episodes.query().items] == [new.id]
    assert b.episodes.get(old.id) == a.episodes.get(old.id)
    b.sync()
    assert b.episodes.count() == 1
    assert b.episodes.find(old.id) is not None
    b.episodes.append_step(old.id, ms.Step(tool="t", action="t"))
    b.sync()
    a.sync()
    assert len(a.episodes.get(old.id).steps) == 3
    assert b.episodes.count() == 1


def test_another_server_is_noticed(replica: Open, sqld: Sqld, make_episode: MakeEpisode, tmp_path: Path) -> None:
    a = replica("a")
    episode = a.episodes.save(make_episode(2))
    a.sync()
    sqld.create_namespace("another")
    url = sqld.url_of("another")
    try:
        ms.MemoryStorage.open(url).close()
        with replica("a", sync_url=url) as moved:
            moved.episodes.save(make_episode(1))
            with pytest.raises(ms.ServerChangedError, match="rejoin"):
                moved.sync()
            assert moved.episodes.count() == 2
            moved.sync(rejoin=True)
            with ms.MemoryStorage.open(url) as server:
                assert server.episodes.get(episode.id) == a.episodes.get(episode.id)
                assert server.episodes.count() == 2
    finally:
        sqld.delete_namespace("another")


def test_a_server_is_not_migrated_by_surprise(sqld: Sqld, tmp_path: Path, make_episode: MakeEpisode) -> None:
    sqld.create_namespace("empty")
    url = sqld.url_of("empty")
    try:
        with ms.MemoryStorage.open(tmp_path / "a.db", sync_url=url) as a:
            a.episodes.save(make_episode(1))
            with pytest.raises(ms.SchemaError, match="migrate=True"):
                a.sync()
            a.sync(migrate=True)
        with ms.MemoryStorage.open(url) as server:
            assert server.episodes.count() == 1
    finally:
        sqld.delete_namespace("empty")


def test_a_file_that_has_rows_already_is_merged(replica: Open, tmp_path: Path, make_episode: MakeEpisode) -> None:
    a, plain = replica("a"), tmp_path / "b.db"
    episode = a.episodes.save(make_episode(2))
    a.sync()
    with ms.MemoryStorage.open(plain) as before:
        before.episodes.import_many([episode])
        own = before.episodes.save(make_episode(1))
        pattern = before.patterns.save(ms.Heuristic(condition="c", action="a"))
        before.patterns.record_retrieval(pattern.id)
    b = replica("b")
    b.sync()
    a.sync()
    assert b.conflicts.count() == 0
    assert contents(a) == contents(b)
    assert a.episodes.get(own.id)
    assert a.patterns.get(pattern.id).effectiveness.times_retrieved == 1


def test_a_sync_does_not_wait_for_another_forever(replica: Open) -> None:
    a = replica("a", request_timeout=0.1)
    assert a._replica is not None
    with a._replica._alone(), ThreadPoolExecutor(1) as thread, pytest.raises(ms.UnavailableError) as caught:
        thread.submit(a.sync, wait=0.2).result()
    assert caught.value.code == "SYNC_RUNNING"


def test_a_sync_that_may_wait_tries_again(replica: Open, sqld: Sqld, make_episode: MakeEpisode) -> None:
    with Proxy(sqld.port) as proxy:
        a = replica("a", sync_url=proxy.url, retry={"max_attempts": 1}, circuit_breaker={"timeout": 0.2})
        a.sync(migrate=True)
        proxy.refuse()
        proxy.cut_all()
        a.episodes.save(make_episode())
        with pytest.raises(ms.UnavailableError):
            a.sync(wait=0.3)
        threading.Timer(0.4, proxy.accept).start()
        assert a.sync(wait=20.0).pushed


def test_a_lost_response_is_named(replica: Open, monkeypatch: pytest.MonkeyPatch, make_episode: MakeEpisode) -> None:
    a = replica("a", retry={"max_attempts": 1})
    a.episodes.save(make_episode(0))
    assert a._server is not None
    executor = a._server._context.executor

    def lose(batch: dbapi.Batch, *, deadline: float | None = None) -> None:
        raise ms.CommitUnknownError("the connection was lost")

    monkeypatch.setattr(executor, "_run", lose)
    with pytest.raises(ms.UnavailableError) as caught:
        a.sync()
    assert caught.value.code == "RESPONSE_LOST"


def test_conflicts_are_those_of_a_namespace(replica: Open, make_episode: MakeEpisode) -> None:
    _, b = edited(replica, make_episode)
    b.sync()
    (conflict,) = b.conflicts.iterate()
    other = b.in_namespace("other").conflicts
    assert list(other.iterate()) == []
    assert other.count() == 0
    for call in (other.get, other.take_mine, other.take_theirs):
        with pytest.raises(ms.NotFoundError):
            call(conflict.id)
    with pytest.raises(ms.ValidationError, match="merge"):
        b.conflicts.merge(conflict.id, 5)  # type: ignore[arg-type]
    with pytest.raises(ms.ValidationError, match="merge"):
        b.conflicts.merge(conflict.id, lambda _: ms.Step(tool="t", action="a"))
    with pytest.raises(ms.ValidationError, match="conflict_id"):
        b.conflicts.get("'; DROP TABLE episodes; --")
    b.conflicts.take_theirs(conflict.id)
    assert b.episodes.query().items[0].task_description == "Ann's"


def test_two_threads_share_one_sync(replica: Open, make_episode: MakeEpisode) -> None:
    a = replica("a")
    stop = threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while not stop.is_set():
                a.episodes.save(make_episode(1))
                a.sync()
        except BaseException as error:  # noqa: BLE001 - the test shows it
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    stop.wait(2)
    stop.set()
    for thread in threads:
        thread.join()
    a.sync()
    assert not errors
    b = replica("b")
    b.sync()
    assert contents(a) == contents(b)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sync_url": "./file.db"}, "URL of a server"),
        ({"sync_url": "http://db.example.io"}, "sync_url"),
        ({"sync_url": "libsql://db.example.io", "limits": {"when_full": "evict", "max_episodes": 5}}, "evict"),
        ({"sync_url": "libsql://db.example.io", "sync_interval": 0}, "sync_interval"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ms.ConfigurationError, match=said):
        ms.Settings(database=":memory:", **settings)


def test_a_storage_without_a_server_says_so(tmp_path: Path) -> None:
    with ms.MemoryStorage.open(tmp_path / "a.db") as storage:
        assert storage.sync_status() is None
        with pytest.raises(ms.ConfigurationError, match="sync_url"):
            storage.sync()


def test_a_recall_that_was_completed_arrives_with_its_counts(replica: Open, make_episode: MakeEpisode) -> None:
    a, b = replica("a"), replica("b")
    pattern = a.patterns.save(ms.Heuristic(condition="token refresh", action="freeze the clock"))
    a.sync()
    b.sync()
    for one in (a, b):  # each counts by itself, and the counts add up
        episode = one.episodes.save(make_episode(0))
        recall = one.recall("the token refresh fails")
        assert [item.item.id for item in recall] == [pattern.id]
        completed = one.episodes.complete(episode.id, ms.Success(verdict="v"), recalled=recall.id)
        assert completed.recalled == recall.receipt
    for one in (a, b, a):
        one.sync()
    used = a.patterns.get(pattern.id).effectiveness
    assert (used.times_retrieved, used.times_applied, used.success_when_applied) == (2, 2, 2)
    assert contents(a) == contents(b)


def test_playbooks_merge_by_field_and_their_uses_add_up(replica: Open) -> None:
    a, b = replica("ann"), replica("ben")
    sources = [new_id() for _ in range(3)]
    step = ms.PlaybookStep(tool="pytest", action="run it", parameters={"n": 0.1 + 0.2})
    saved = a.patterns.save(ms.Playbook(name="Fix it", steps=[step], sources=sources[:1]))
    synced(a, b)
    assert b.patterns.get(saved.id) == saved
    freeze, log = ms.PlaybookStep(action="freeze the clock"), ms.PlaybookStep(action="read the log")
    a.patterns.save(saved.model_copy(update={"steps": [step, freeze], "sources": sources[:2]}))
    b.patterns.save(saved.model_copy(update={"description": "why", "sources": [sources[2]]}))
    for one in (a, b):
        one.patterns.record_application(saved.id, success=True)
    synced(a, b)
    merged = a.patterns.get(saved.id)
    assert merged == b.patterns.get(saved.id)
    assert (merged.description, merged.steps, merged.sources) == ("why", [step, freeze], sources[1:])
    assert merged.effectiveness.times_applied == 2
    assert [[hit.item.id for hit in one.patterns.search("freeze")] for one in (a, b)] == [[saved.id]] * 2

    a.patterns.save(merged.model_copy(update={"steps": [freeze]}))
    b.patterns.save(merged.model_copy(update={"steps": [log]}))
    synced(a, b)
    (conflict,) = b.conflicts.iterate()
    versions = [[one.model_dump() for one in steps] for steps in ([step, freeze], [log], [freeze])]
    assert conflict.difference() == {"steps": tuple(versions)}
    b.conflicts.take_mine(conflict.id)
    synced(b, a)
    assert a.patterns.get(saved.id).steps == b.patterns.get(saved.id).steps == [log]
    assert contents(a) == contents(b)


@pytest.mark.parametrize("mode", ["local_first", "write_through"])
def test_what_was_used_is_counted_once_and_found_by_all(replica: Open, make_episode: MakeEpisode, mode: Any) -> None:
    a, b = replica("a", sync_mode=mode), replica("b")
    shown, used = a.patterns.save_many([ms.Heuristic(condition="token refresh", action=one) for one in ("x", "y")])
    a.sync()
    b.sync()
    for one in (a, b):
        episode = one.episodes.save(make_episode(0))
        recall = one.recall("the token refresh fails", keep=True)
        for _ in range(2):
            one.episodes.complete(episode.id, ms.Success(verdict="v"), recalled=recall, used=[used.id], rating=3)
    for one in (a, b, a):
        one.sync()
    counts = [
        (used.times_retrieved, used.times_applied, used.success_when_applied)
        for used in (a.patterns.get(one.id).effectiveness for one in (shown, used))
    ]
    assert counts == [(2, 0, 0), (2, 2, 2)]
    assert a.episodes.count(used=used.id) == b.episodes.count(used=used.id) == 2
    assert b.analytics.attribution("kind")[0].adoption.count == 2


@pytest.mark.parametrize("mode", ["local_first", "write_through"])
def test_items_and_logs_stay_in_the_file(replica: Open, migrated_server_url: str, mode: Any) -> None:
    a = replica("a", sync_mode=mode)
    a.items.put(("p",), "k", 1)
    a.logs.append("log", [1])
    a.sync()
    assert a.items.get(("p",), "k").value == 1
    assert [one.value for one in a.logs.read("log")] == [1]
    assert a.in_namespace("another").items.count() == 0
    with ms.MemoryStorage.open(migrated_server_url) as server:
        assert server.items.count() == server.logs.count() == 0
    done = a.forget(namespace="default")
    assert (done.items, done.records) == (1, 1)
    assert a.items.count() == a.logs.count() == 0


def test_a_write_through_transaction_refuses_items_and_logs(replica: Open) -> None:
    with replica("a", sync_mode="write_through").transaction() as tx:
        with raises(ms.ConfigurationError, match="only in the file"):
            tx.items.put(("p",), "k", 1)
        with raises(ms.ConfigurationError, match="only in the file"):
            tx.logs.append("log", [1])
