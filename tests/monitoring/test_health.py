"""health_check reports every problem, and raises for none."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import pytest

import memory_storage as ms
from memory_storage import health, migrate
from memory_storage.embedders import HashingEmbedder
from memory_storage.schema import HEAD
from memory_storage.testing import Sqld
from tests.backends import needs_libsql
from tests.proxy import Proxy


def test_a_sound_storage_is_healthy(storage: ms.MemoryStorage, make_episode):
    storage.episodes.save(make_episode())
    found = storage.health_check()
    assert (found.status, found.reason, found.is_healthy) == ("healthy", None, True)
    assert (found.schema, found.expected_schema) == (HEAD, HEAD)
    assert found.latency is not None
    assert 0 < found.latency < 60
    assert found.circuit_breaker == storage.circuit_breaker_status()
    assert (found.pool.size, found.checks, found.rows) == (10, (), None)
    assert (found.disk is None) == (storage.settings.path is None)
    assert found.checked_at.tzinfo is not None
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.status = "unhealthy"  # type: ignore[misc]


def test_a_deep_check_looks_at_every_index_and_counts(storage: ms.MemoryStorage, make_episode):
    saved = storage.episodes.save(make_episode(steps=3))
    vector = HashingEmbedder(16).embed_query("x")
    storage.embeddings.put("episode", saved.id, vector, model="hashing")
    found = storage.health_check(deep=True)
    assert found.is_healthy, found.reason
    assert [check.name for check in found.checks] == [
        "episode_words",
        "pattern_words",
        "spatiotemporal_rtree",
        *(["vectors of 'hashing'"] if storage.vector_index == "diskann" else []),
    ]
    assert found.rows is not None
    assert (found.rows["episodes"], found.rows["steps"], found.rows["embeddings"]) == (1, 3, 1)
    assert set(storage.metrics()) & {"analytics.summary"}


DAMAGES = {
    "episode_words": "INSERT INTO episode_words (episode_words) VALUES ('delete-all')",
    "pattern_words": "DELETE FROM pattern_words_docsize",
    "spatiotemporal_rtree": "DELETE FROM spatiotemporal_rtree",
    "vectors of 'hashing'": "UPDATE vector_models SET indexed = 1",
}


@pytest.mark.parametrize("name", DAMAGES)
def test_an_index_that_disagrees_is_found_and_named(database: Path, make_episode, name: str):
    with ms.MemoryStorage.open(ms.Settings(database=str(database), vector_index="diskann")) as storage:
        saved = storage.episodes.save(make_episode())
        storage.patterns.save(ms.Heuristic(condition="late", action="sleep"))
        storage.embeddings.put("episode", saved.id, HashingEmbedder(16).embed_query("x"), model="hashing")
        place = ms.SpatiotemporalEntry(owner_type="episode", owner_id=saved.id, latitude=1.0, longitude=2.0)
        storage.spatiotemporal.put(place)
        with storage.transaction() as tx:
            tx.execute([(DAMAGES[name], ())])
        assert storage.health_check().is_healthy
        found = storage.health_check(deep=True)
        assert found.status == "degraded"
        assert found.reason is not None
        assert found.reason.startswith(f"{name}: ")
        assert [check.name for check in found.checks if check.problem] == [name]


@pytest.mark.parametrize("damage", ["INSERT INTO episode_words (episode_words) VALUES ('delete-all')", None])
def test_a_server_that_disagrees_is_found(migrated_server_url: str, make_episode, damage: str | None):
    with ms.MemoryStorage.open(migrated_server_url) as storage:
        storage.episodes.save(make_episode(3))
        with storage.transaction() as tx:
            tx.execute([(damage, ())] if damage else [])
        found = storage.health_check(deep=True)
        assert [check.name for check in found.checks if check.problem] == (["episode_words"] if damage else [])


def test_another_writer_does_not_wait_for_a_deep_check(database: Path, make_episode):
    """No statement of the check needs the write lock: one that did would wait for this transaction, and fail."""
    settings = ms.Settings(database=str(database), request_timeout=0.5)
    with ms.MemoryStorage.open(settings) as storage, ms.MemoryStorage.open(settings) as other:
        storage.episodes.save_many([make_episode(2) for _ in range(20)])
        with other.transaction() as tx:
            tx.episodes.save(make_episode())
            found = storage.health_check(deep=True)
        assert found.is_healthy, found.reason
        with storage.engine.connect() as connection:
            left = connection.exec_driver_sql("SELECT name FROM sqlite_temp_master").all()
            assert (left, connection.exec_driver_sql("PRAGMA temp_store").scalar()) == ([], 0)


def test_a_missing_table_is_degraded_and_not_an_error(database: Path, make_episode):
    with ms.MemoryStorage.open(ms.Settings(database=str(database), vector_index="diskann")) as storage:
        with storage.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE vector_models RENAME TO elsewhere")
            connection.exec_driver_sql("ALTER TABLE spatiotemporal_index RENAME TO nowhere")
        found = storage.health_check(deep=True)
        assert found.status == "degraded"
        assert found.rows is None
        assert {check.name for check in found.checks if check.problem} == {"spatiotemporal_rtree", "deep"}


def test_an_absent_server_is_unhealthy_within_the_timeout(migrated_server_url: str, sqld: Sqld):
    with Proxy(sqld.port) as line:
        url = migrated_server_url.replace(str(sqld.port), str(line.port))
        breaker = {"failure_threshold": 2, "timeout": 30}
        with ms.MemoryStorage.open(ms.Settings(database=url, circuit_breaker=breaker)) as storage:
            line.deaf = True
            start = time.monotonic()
            found = storage.health_check(timeout=0.3, deep=True)
            assert time.monotonic() - start < 20
            assert (found.status, found.latency, found.schema, found.checks) == ("unhealthy", None, None, ())
            assert found.reason is not None
            assert found.reason.startswith("RequestTimeoutError: ")
            assert found.endpoint == url
            line.refuse()
            line.deaf = False
            line.cut_all()
            assert storage.health_check().reason.startswith(("UnavailableError: ", "RequestTimeoutError: "))
            line.reset_counts()
            found = storage.health_check()
            assert found.reason.startswith("CircuitOpenError: ")
            assert found.circuit_breaker.state == "open"
            assert line.connections == 0


def test_a_closed_storage_is_unhealthy(database: Path):
    storage = ms.MemoryStorage.open(database)
    storage.close()
    assert storage.health_check().reason == "UnavailableError: the storage is closed; open it again"


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE alembic_version SET version_num = '0002'", "run `memory-storage upgrade`"),
        ("UPDATE alembic_version SET version_num = '9999'", "upgrade the memory-storage package"),
        ("DELETE FROM alembic_version", "the schema is None"),
        ("DROP TABLE alembic_version", "SchemaError: "),
    ],
)
def test_another_schema_is_unhealthy_with_a_remedy(database: Path, sql: str, said: str):
    with ms.MemoryStorage.open(database) as storage:
        with storage.engine.begin() as connection:
            connection.exec_driver_sql(sql)
        found = storage.health_check(deep=True)
        assert (found.status, found.checks) == ("unhealthy", ())
        assert said in found.reason


@needs_libsql
@pytest.mark.slow
def test_a_diskann_index_that_the_engine_cannot_write_is_degraded(database: Path):
    with ms.MemoryStorage.open(ms.Settings(database=str(database), vector_index="diskann")) as storage:
        episodes = storage.episodes.save_many([ms.Episode(task_description="e") for _ in range(2_001)])
        storage.embeddings.put_many([("episode", one.id, [n + 1.0, 1.0]) for n, one in enumerate(episodes)], model="m")
        assert storage.embeddings.index.rebuild("m") > 0  # fewer vectors are not indexed
        assert storage.health_check().status == "healthy"
    with ms.MemoryStorage.open(database) as storage:
        assert (storage.local_engine, storage.health_check().status) == ("libsql", "healthy")
    with ms.MemoryStorage.open(ms.Settings(database=str(database), local_engine="sqlite")) as storage:
        found = storage.health_check()
        assert found.status == "degraded"
        assert found.reason.startswith("local_engine: the vectors in its DiskANN index can only be changed with libSQL")


def test_a_file_that_was_removed_is_unhealthy(database: Path):
    with ms.MemoryStorage.open(database) as storage:
        assert storage.health_check().disk.database_bytes > 0
        database.unlink()
        found = storage.health_check()
        assert (found.status, found.disk) == ("unhealthy", None)
        assert "the file was removed" in found.reason


def test_a_disk_that_is_nearly_full_is_degraded(database: Path, monkeypatch: pytest.MonkeyPatch):
    with ms.MemoryStorage.open(database) as storage:
        monkeypatch.setattr(health, "_LOW_DISK_BYTES", 2**62)
        found = storage.health_check()
        assert found.status == "degraded"
        assert "bytes are free on the disk" in found.reason


def test_the_command_reports_it_too(command, answered, database: Path, make_episode):
    with ms.MemoryStorage.open(database) as storage:
        storage.episodes.save(make_episode())
    found = answered("health", "--deep")
    assert (found["is_healthy"], found["status"], found["rows"]["episodes"]) == (True, "healthy", 1)
    shown = command("health", "--database", database, "--deep")
    assert shown.exit_code == 0
    assert "episode_words" in shown.stdout
    assert " ok" in shown.stdout
    assert command("health", "--database", ":memory:").exit_code == 0


def test_the_command_leaves_with_7_or_9(command, database: Path, make_episode):
    down = command("health", "--database", "libsql://127.0.0.1:1?tls=0", "--json")
    assert (down.exit_code, json.loads(down.stdout)["status"]) == (7, "unhealthy")
    assert command("health", "--database", database).exit_code == 3
    with ms.MemoryStorage.open(database) as storage:
        storage.episodes.save(make_episode())
        with storage.transaction() as tx:
            tx.execute([(DAMAGES["episode_words"], ())])
    assert command("health", "--database", database, "--deep").exit_code == 9
    with ms.MemoryStorage.open(database) as storage:
        migrate.downgrade(storage.engine, "0002")
    old = command("health", "--database", database)
    assert old.exit_code == 7
    assert "memory-storage upgrade" in old.stdout


def test_the_command_looks_into_an_encrypted_file_too(command, database: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MEMORY_STORAGE_ENCRYPTION_KEY", "the key of this test")
    ms.MemoryStorage.open(ms.Settings(database=str(database), encryption_key="the key of this test")).close()
    assert command("health", "--database", database).exit_code == 0
