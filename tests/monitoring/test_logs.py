"""The slow-query log and the audit log: their records, and the absence of values."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

import memory_storage as ms
from memory_storage.models import new_id
from memory_storage.monitoring import without_literals
from memory_storage.testing import Sqld
from tests.checks import assert_consistent
from tests.proxy import Proxy
from tests.raising import raises

CANARY = "canary-7f3a"


@pytest.fixture
def open_with(target: str) -> Iterator[Callable[..., ms.MemoryStorage]]:
    opened: list[ms.MemoryStorage] = []

    def open_(**logging_settings: object) -> ms.MemoryStorage:
        opened.append(ms.MemoryStorage.open(ms.Settings(database=target, logging=logging_settings)))
        return opened[-1]

    yield open_
    for storage in opened:
        storage.close()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[str], list[logging.LogRecord]]:
    caplog.set_level(logging.DEBUG)
    return lambda name: [record for record in caplog.records if record.name == f"memory_storage.{name}"]


def test_a_block_is_as_slow_as_its_statements(open_with, lines, make_episode):
    storage = open_with(slow_query=0.9)
    with storage.transaction() as tx:
        tx.episodes.save(make_episode())
    assert storage.episodes.count() == 1
    assert lines("slow") == []
    figures = storage.metrics()["transaction"]
    assert (figures.count, 0 < figures.latency.longest < 0.9) == (1, True)


def test_what_only_reads_is_no_write(open_with, lines):
    storage = open_with(audit=True)
    with storage.transaction() as tx:
        tx.execute([("SELECT 1", ())])
        tx.episodes.count()
    assert lines("audit") == []


def test_what_a_block_has_written_is_stored_or_unknown(open_with, lines, make_episode, monkeypatch):
    storage = open_with(audit=True)
    with storage.transaction() as tx:
        tx.episodes.save(make_episode())
    assert [record.result for record in lines("audit")] == ["stored"]

    def lose(*_: object) -> None:
        raise ms.CommitUnknownError("it may be stored, or not")

    with pytest.raises(ms.CommitUnknownError), storage.transaction() as tx:  # noqa: PT012
        tx.episodes.save(make_episode())
        monkeypatch.setattr(tx._executor, "_commit", lose)
        held = tx._executor._connection
    held.close()
    assert [record.result for record in lines("audit")] == ["stored", "unknown"]


def test_both_logs_are_off_by_default(storage: ms.MemoryStorage, lines, make_episode):
    storage.episodes.save(make_episode())
    with storage.transaction() as tx:
        tx.episodes.save(make_episode())
    assert lines("slow") == lines("audit") == []


def test_a_slow_query_is_logged_with_its_plan_and_no_value(open_with, lines, make_episode):
    storage = open_with(slow_query=0.0)
    saved = storage.episodes.save(make_episode(task_description=CANARY))
    storage.episodes.get(saved.id)
    assert any("SEARCH" in record.plan for record in lines("slow"))
    with storage.transaction() as tx:
        tx.episodes.count(text=CANARY)
        tx.execute([(f"SELECT count(*) FROM steps WHERE tool = '{CANARY}' AND latency_ms > 12345", ())])
    found = lines("slow")
    assert all(record.levelno == logging.WARNING for record in found)
    texts = [record.getMessage() for record in found]
    assert any("SELECT" in text and "plan: " in text and "INDEX" in text for text in texts)
    assert any("INSERT INTO episodes" in text and "INSERT INTO steps" in text for text in texts)
    assert any("WHERE tool = ? AND latency_ms > ?" in text for text in texts)
    assert not any(CANARY in f"{record.__dict__}" or "12345" in record.getMessage() for record in found)
    last = found[-1]
    assert (last.rows, last.plan) == (1, texts[-1].partition("plan: ")[2])
    assert "steps" in last.plan  # what SQLite says: SEARCH steps USING ..., or SCAN steps
    assert 0 < last.seconds < 60
    assert last.sql in texts[-1]


def test_a_quick_one_is_not(open_with, lines, make_episode):
    storage = open_with(slow_query=60.0)
    storage.episodes.save(make_episode())
    with storage.snapshot() as view:
        view.episodes.count()
    assert lines("slow") == []


def test_to_explain_ddl_would_harm_an_index_so_it_is_not(open_with, lines):
    storage = open_with(slow_query=0.0)
    owner = storage.episodes.save(ms.Episode(task_description="x"))
    storage.embeddings.put("episode", owner.id, [1.0, 2.0], model="m")
    storage.embeddings.index.drop_all()
    storage.embeddings.index.recreate_all()
    assert_consistent(storage.engine)
    assert any("DROP INDEX" in record.sql for record in lines("slow"))
    with storage.transaction() as tx:
        tx.execute([("CREATE TABLE mine (x)", ())])
    assert "mine" not in lines("slow")[-1].plan


def test_a_plan_that_cannot_be_had_is_no_reason_to_fail(migrated_server_url: str, sqld: Sqld, lines):
    with Proxy(sqld.port) as line:
        url = migrated_server_url.replace(str(sqld.port), str(line.port))
        with ms.MemoryStorage.open(ms.Settings(database=url, logging={"slow_query": 0.0})) as storage:
            record = logging.getLogger("memory_storage.slow")
            line.latency = 0.3
            asked = []

            def after_the_answer(*_: object) -> bool:
                asked.append(True)
                return True

            record.addFilter(after_the_answer)
            threaded = _cut_after_the_first_round_trip(line)
            assert storage.episodes.count() == 0
            threaded()
            record.removeFilter(after_the_answer)
    assert asked
    assert "plan: none (" in lines("slow")[-1].getMessage()


def _cut_after_the_first_round_trip(line: Proxy) -> Callable[[], None]:
    import threading

    done = threading.Event()
    start = line.round_trips

    def cut() -> None:
        while line.round_trips < start + 2 and not done.is_set():
            done.wait(0.005)
        line.refuse()
        line.cut_all()

    thread = threading.Thread(target=cut)
    thread.start()

    def finish() -> None:
        done.set()
        thread.join()

    return finish


def test_a_write_is_logged_with_actor_operation_and_rows(open_with, lines):
    storage = open_with(audit=True).in_namespace("team").acting_as("alice")
    episode = storage.episodes.save(ms.Episode(task_description=CANARY, steps=[ms.Step(tool="t", action=CANARY)]))
    step = storage.episodes.append_step(episode.id, ms.Step(tool="t", action=CANARY))
    storage.episodes.get(episode.id)
    storage.embeddings.put("episode", episode.id, [1.0, 2.0], model="m")
    storage.episodes.delete(str(episode.id))
    found = lines("audit")
    assert [record.operation for record in found] == [
        "episodes.save",
        "episodes.append_step",
        "embeddings.put",
        "episodes.delete",
    ]
    save, append, put, delete = found
    assert {(one.actor, one.namespace, one.result, one.levelno) for one in found} == {
        ("alice", "team", "stored", logging.INFO)
    }
    assert (save.ids, save.tables[:2]) == ((str(episode.id),), ("episodes", "steps"))
    assert save.rows >= 2
    assert set(append.ids) == {str(episode.id), str(step.id)}
    assert (append.tables, append.rows) == (("steps",), 1)
    assert "embeddings" in put.tables
    assert put.ids == (str(episode.id),)
    assert (delete.tables, delete.ids, delete.rows) == (("episodes",), (str(episode.id),), 1)
    expected = f"episodes.delete stored by 'alice' in 'team': 1 rows of episodes, ids {episode.id}"
    assert delete.getMessage() == expected
    assert CANARY not in "".join(f"{record.__dict__}" for record in found)


def test_refused_and_empty_operations_are_logged_as_such(open_with, lines, make_episode):
    storage = open_with(audit=True)
    saved = storage.episodes.save(make_episode())
    storage.episodes.save(saved)
    with pytest.raises(ms.ConflictError):
        storage.episodes.save(saved)
    with raises(ms.ValidationError, field="id"):
        storage.episodes.delete("no id")
    assert [record.operation for record in lines("audit")] == ["episodes.save", "episodes.save"]
    storage.episodes.delete(new_id())
    assert lines("audit")[-1].rows == 0


def test_a_transaction_is_logged_on_commit_only(open_with, lines, make_episode):
    storage = open_with(audit=True)
    with storage.transaction() as tx:
        tx.episodes.save(make_episode())
        tx.execute([("UPDATE steps SET tool = tool WHERE namespace = ?", ("default",))])
        assert lines("audit") == []
    assert [record.operation for record in lines("audit")] == ["episodes.save", "transaction.execute"]
    assert lines("audit")[1].tables == ("steps",)
    assert lines("audit")[1].rows == 2
    with pytest.raises(ZeroDivisionError), storage.transaction() as tx:  # noqa: PT012
        tx.episodes.save(make_episode())
        1 / 0  # noqa: B018
    assert len(lines("audit")) == 2


def test_many_ids_are_counted_and_a_hundred_named(open_with, lines, make_episode):
    storage = open_with(audit=True)
    storage.episodes.save_many([make_episode(0) for _ in range(120)])
    record = lines("audit")[-1]
    assert len(record.ids) == 100
    assert f" and 20 more (digest of all: {record.ids_digest})" in record.getMessage()


@pytest.mark.slow
def test_a_write_with_an_unresolved_outcome_is_logged_as_unknown(
    migrated_server_url: str, sqld: Sqld, lines, make_episode
):
    with Proxy(sqld.port) as line:
        url = migrated_server_url.replace(str(sqld.port), str(line.port))
        settings = ms.Settings(database=url, request_timeout=0.3, logging={"audit": True})
        with ms.MemoryStorage.open(settings) as storage:
            storage.episodes.count()
            line.deaf = True
            with pytest.raises(ms.CommitUnknownError):
                storage.episodes.save(make_episode())
    assert [(record.operation, record.result) for record in lines("audit")] == [("episodes.save", "unknown")]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT 'it''s', x'00ff', 1, 2.5e3, -7 FROM t", "SELECT ?, ?, ?, ?, -? FROM t"),
        ('SELECT "a 1", `b 2`, [c 3] FROM t1 -- a secret', 'SELECT "a 1", `b 2`, [c 3] FROM t1'),
        ("SELECT /* 'x' */ 1", "SELECT ?"),
        ("SELECT 'open", "SELECT ?"),
        ("SELECT\n  a\n FROM  t", "SELECT a FROM t"),
        ("SELECT ?1, ?", "SELECT ?1, ?"),
    ],
)
def test_literals_are_not_shown(sql: str, expected: str):
    assert without_literals(sql) == expected
