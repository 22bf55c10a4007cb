"""The index speeds searches up, and is never trusted: whatever happens to it, results are correct."""

from __future__ import annotations

import logging
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import pytest
from sqlalchemy import exc

import memory_storage as ms
from memory_storage import migrate
from memory_storage._files import MaintenanceLock
from memory_storage.doctor import check, repair
from memory_storage.engine import make_engine
from memory_storage.schema import pack_vector
from memory_storage.schema.vector_tables import METADATA_TABLE, PRESETS, VectorSpace, drop_diskann
from tests.backup.test_backup import save_in_0001
from tests.checks import assert_consistent
from tests.durability.processes import killed, together
from tests.raising import raises
from tests.schema.spy import spied
from tests.search import oracle, work
from tests.search.conftest import COUNT, DIMENSION, MODEL, Indexed, at

PROMISED = 0.97


def _execute(storage: ms.MemoryStorage, *statements: str) -> None:
    with storage.engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


@pytest.mark.slow
def test_new_vectors_are_indexed_and_found_by_the_index(indexed):
    assert indexed.recall() >= PROMISED
    assert (indexed.status().vectors, indexed.status().pending, indexed.status().is_fragmented) == (COUNT, 0, False)
    assert indexed.recall(mode="exact", plan="exact") == 1.0
    assert_consistent(indexed.storage.engine)


def test_few_vectors_have_no_index(storage):
    few = Indexed(storage, 500).store()
    assert few.recall(plan="exact") == 1.0
    assert few.status().indexed == 0


@pytest.mark.parametrize(
    ("filters", "keep"),
    [
        ({"archived": None}, lambda n: True),
        ({"task_type": "debugging"}, lambda n: n % 2 == 1),
        ({"domain": "d3"}, lambda n: n % 10 == 3),
        ({"tags_any": ["t7"]}, lambda n: n % 100 == 7),
        ({"tags_all": ["t7"], "task_type": "debugging", "domain": "d7"}, lambda n: n % 100 == 7),
        ({"metadata": {"number": 77}}, lambda n: n == 77),
        ({"metadata": {"number": -1}}, lambda n: False),
        ({"text": "77"}, lambda n: n == 77),
    ],
)
def test_a_filter_leaves_as_many_as_there_are(by_source, filters, keep):
    kept = [number for number in range(COUNT) if keep(number)]
    assert by_source.recall(kept, plan=None, **filters) >= PROMISED


@pytest.mark.parametrize("k", [1, 7, 40, 41, 300, 1000])
def test_any_k_returns_all_results(searched, k):
    hits = searched.storage.episodes.similar_to(searched.queries[0], model=MODEL, k=k, steps=False)
    assert len({hit.item.id for hit in hits}) == k
    nearest = oracle.nearest(searched.queries[:1], searched.vectors, k)[0]
    assert len({searched.numbers[hit.item.id] for hit in hits} & nearest) >= 0.9 * k


def test_pages_have_no_gaps_and_no_repeats(searched):
    found: list[Any] = []
    cursor: str | None = None
    plans = set()
    for _ in range(12):
        hits = searched.storage.episodes.similar_to(searched.queries[1], model=MODEL, k=10, cursor=cursor, steps=False)
        found += [hit.item.id for hit in hits]
        plans.add(hits.plan)
        cursor = hits.next_cursor
    assert len(set(found)) == len(found) == 120
    assert plans <= {searched.plan, "exact"}  # deep pages are compared one by one
    nearest = oracle.nearest(searched.queries[1:2], searched.vectors, 120)[0]
    assert len({searched.numbers[one] for one in found} & nearest) >= 0.98 * 120


@pytest.mark.slow
def test_archived_and_foreign_rows_do_not_reduce_k(searched):
    storage = searched.storage
    for episode in searched.episodes[: COUNT // 2 : 2]:
        storage.episodes.archive(episode.id)
    kept = [number for number in range(COUNT) if number >= COUNT // 2 or number % 2]
    assert searched.recall(kept, plan=None) >= PROMISED
    other = storage.in_namespace("other")
    copies = other.episodes.save_many([ms.Episode(task_description="copy") for _ in range(20)])
    near = [("episode", one.id, query) for one, query in zip(copies, searched.queries, strict=False)]
    other.embeddings.put_many(near, model=MODEL)
    assert searched.recall(kept, plan=None) >= PROMISED
    assert len(other.episodes.similar_to(searched.queries[0], model=MODEL, k=50)) == 20


@pytest.mark.slow
def test_steps_count_for_their_episode_once(storage):
    indexed = Indexed(storage, 600).store()
    storage, noise = indexed.storage, oracle.clustered(2400, DIMENSION, 8)
    items = []
    for number, episode in enumerate(indexed.episodes):
        for place in range(4):
            step = storage.episodes.append_step(episode.id, ms.Step(tool="t")) if number < 500 else None
            near = indexed.vectors[number] + 0.05 * noise[4 * number + place]
            if step:
                items.append(("step", step.id, near))
    storage.embeddings.put_many(items, model=MODEL)
    indexed.settle()
    assert indexed.status().indexed == 2600
    for query in indexed.queries[:10]:
        hits = storage.episodes.similar_to(query, model=MODEL)
        assert (len({hit.item.id for hit in hits}), hits.plan) == (10, indexed.plan)


class TestAfterChanges:
    """Recall is back at its promise, at once."""

    @pytest.mark.slow
    def test_of_every_vector(self, by_source):
        for _ in range(2):
            turned = np.roll(by_source.vectors, 7, axis=1)[::-1].copy()
            by_source.put(range(COUNT), turned)
            by_source.queries = np.roll(by_source.queries, 7, axis=1)
            assert by_source.recall(plan=None) >= PROMISED
        assert_consistent(by_source.storage.engine)

    @pytest.mark.slow
    def test_one_by_one(self, by_source):
        changed = oracle.clustered(300, DIMENSION, 12)
        for number in range(300):
            by_source.put([number], changed[number : number + 1])
        by_source.settle()
        assert by_source.recall() >= PROMISED
        assert by_source.plan == "exact" or by_source.status().pending <= 2
        assert_consistent(by_source.storage.engine)

    @pytest.mark.slow
    def test_when_nine_in_ten_are_deleted(self, by_source):
        with by_source.storage.transaction() as tx:
            for number in range(COUNT):
                if number % 10:
                    tx.embeddings.delete("episode", by_source.episodes[number].id, model=MODEL)
        assert by_source.plan == "exact" or by_source.status().is_fragmented
        kept = range(0, COUNT, 10)
        assert by_source.recall(kept, plan=None) == 1.0
        by_source.settle()
        assert not by_source.status().is_fragmented
        assert by_source.recall(kept, plan="exact") == 1.0
        assert_consistent(by_source.storage.engine)

    @pytest.mark.slow
    def test_when_most_are_deleted_and_others_come(self, by_source):
        for episode in by_source.episodes[: COUNT * 9 // 10]:
            by_source.storage.embeddings.delete("episode", episode.id, model=MODEL)
        by_source.put(range(2200), oracle.clustered(2200, DIMENSION, 4))
        by_source.settle()
        assert not by_source.status().is_fragmented
        assert by_source.recall() >= PROMISED

    @pytest.mark.parametrize("count", [50, 2300])
    def test_of_many_to_the_same_vector(self, by_source, count):
        by_source.put(range(count), np.repeat(by_source.vectors[:1], count, axis=0))
        assert by_source.status().vectors == COUNT - count + 1
        assert by_source.recall(plan=None) >= PROMISED
        same = by_source.storage.episodes.similar_to(by_source.vectors[0], model=MODEL, k=min(count, 1000))
        assert len(same) == min(count, 1000)
        assert same[-1].similarity > 0.99999
        assert_consistent(by_source.storage.engine)

    @pytest.mark.slow
    def test_of_their_owners(self, by_source):
        storage = by_source.storage
        for episode in by_source.episodes[:400]:
            storage.episodes.delete(episode.id)
        assert (storage.embeddings.count(), by_source.status().vectors) == (COUNT - 400,) * 2
        assert by_source.recall(range(400, COUNT), plan=None) >= PROMISED
        assert_consistent(storage.engine)


class TestDamage:
    """An index that is missing, half made or wrong costs speed, never results; and it is found out and repaired."""

    @pytest.fixture
    def table(self) -> str:
        return VectorSpace(MODEL).table

    @pytest.mark.slow
    def test_a_missing_index(self, indexed, table):
        _execute(indexed.storage, f"DROP INDEX {table}_ann")
        health = indexed.storage.embeddings.index.verify(MODEL)
        assert (health.nodes, health.is_healthy) == (None, False)
        assert indexed.recall(plan="exact") == 1.0
        indexed.put([5], indexed.vectors[5:6])
        self._is_rebuilt(indexed)

    @pytest.mark.slow
    def test_an_index_that_lost_what_was_in_it(self, on_file, table):
        _execute(on_file.storage, f"DELETE FROM {table}_ann_shadow WHERE index_key % 3 = 0")
        assert not on_file.storage.embeddings.index.verify(MODEL).is_healthy
        self._is_rebuilt(on_file)

    @pytest.mark.slow
    def test_an_empty_index(self, on_file, table):
        _execute(on_file.storage, f"DELETE FROM {table}_ann_shadow")
        health = on_file.storage.embeddings.index.verify(MODEL)
        assert (health.nodes, health.recall, health.is_healthy) == (0, None, False)
        assert on_file.recall(plan=None) == 1.0
        self._is_rebuilt(on_file)

    @pytest.mark.slow
    def test_a_failed_creation(self, on_file, table):
        _execute(on_file.storage, f"DROP INDEX {table}_ann")
        # Outside of a transaction: it leaves an empty index behind.
        with raises(exc.OperationalError, code="SQLITE_ERROR", match="vector"):
            self._create_in_vain(on_file.storage, table)
        assert on_file.recall(plan=None) == 1.0
        self._is_rebuilt(on_file)

    @pytest.mark.slow
    def test_lost_metadata(self, on_file, table):
        _execute(on_file.storage, f"DELETE FROM libsql_vector_meta_shadow WHERE name = '{table}_ann'")
        assert on_file.recall(plan="exact") == 1.0
        health = on_file.storage.embeddings.index.verify(MODEL)
        assert (health.recall, health.is_healthy) == (None, False)
        with raises(ms.MemoryStorageError, match="the database reported an error"):
            on_file.storage.embeddings.put("episode", on_file.episodes[5].id, on_file.queries[0], model=MODEL)
        self._is_rebuilt(on_file)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "damage",
        [
            "DROP INDEX {table}_ann",
            "DELETE FROM {table}_ann_shadow",
            "DROP TABLE {table}_ann_shadow",
            "DELETE FROM libsql_vector_meta_shadow",
        ],
    )
    def test_opening_recreates_a_missing_index(self, on_file, database, table, damage, caplog):
        _execute(on_file.storage, damage.format(table=table))
        on_file.storage.close()
        with ms.MemoryStorage.open(at(database)) as storage:
            assert f"the vector index of '{MODEL}' is missing" in caplog.text
            on_file.storage = storage
            assert (on_file.status().indexed, on_file.status().pending) == (0, COUNT)
            assert on_file.recall(plan="exact") == 1.0
            assert storage.embeddings.index.catch_up(MODEL) == COUNT
            assert on_file.recall() >= PROMISED
            assert_consistent(storage.engine)
        caplog.clear()
        ms.MemoryStorage.open(at(database)).close()
        assert caplog.text == ""

    @pytest.mark.parametrize("is_empty", [False, True], ids=["nothing was in it", "nothing is left"])
    def test_a_missing_empty_index_is_recreated_too(self, database, caplog, is_empty):
        # As a process leaves it that is killed while it rewrites the file.
        with ms.MemoryStorage.open(at(database)) as storage:
            indexed = Indexed(storage, 50)
            storage.episodes.save_many(indexed.episodes)
            indexed.put(range(50), indexed.vectors, index=is_empty)
            for episode in indexed.episodes if is_empty else ():
                storage.episodes.delete(episode.id)
            table = VectorSpace(MODEL).table
            for text in (*drop_diskann([VectorSpace(MODEL)]), VectorSpace(MODEL).mark_pending()):
                _execute(storage, text)
        with ms.MemoryStorage.open(at(database)) as storage:
            assert f"the vector index of '{MODEL}' is missing" in caplog.text
            assert_consistent(storage.engine)
            with storage.engine.connect() as connection:
                assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}_ann_shadow").scalar() == 0

    def test_an_index_that_cannot_be_built_does_not_block_open(self, on_file, database, table, caplog):
        _execute(on_file.storage, f"DELETE FROM {table}_ann_shadow")
        settings = ms.Settings(database=str(database), request_timeout=0.2, vector_index="diskann")
        with on_file.storage.transaction() as tx:
            tx.episodes.archive(on_file.episodes[0].id)  # it has the lock
            with ms.MemoryStorage.open(settings) as storage:
                assert "cannot be changed" in caplog.text
                assert len(storage.episodes.similar_to(on_file.queries[0], model=MODEL)) == 10

    @pytest.mark.slow
    def test_a_vacuum(self, on_file):
        with on_file.storage.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM")
        assert on_file.recall(plan=None) >= PROMISED
        self._is_rebuilt(on_file)

    def _create_in_vain(self, storage: ms.MemoryStorage, table: str) -> None:
        with storage.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql(f"CREATE INDEX {table}_ann ON {table} (libsql_vector_idx(digest))")

    def _is_rebuilt(self, indexed: Indexed) -> None:
        index = indexed.storage.embeddings.index
        assert index.rebuild(MODEL) == indexed.status().vectors
        assert index.verify(MODEL).is_healthy
        assert indexed.recall() >= PROMISED
        assert_consistent(indexed.storage.engine)


class TestRebuilding:
    @pytest.mark.slow
    def test_with_another_preset(self, on_file):
        for preset in ("compact", "accurate"):
            on_file.storage.embeddings.index.rebuild(MODEL, preset=preset)
            assert on_file.status().preset == preset
            assert on_file.recall() >= 0.93
            assert on_file.storage.embeddings.index.verify(MODEL).is_healthy

    @pytest.mark.slow
    def test_says_how_far_it_is(self, on_file):
        reported: list[tuple[str, int, int]] = []
        on_file.storage.embeddings.index.rebuild(MODEL, progress=lambda *facts: reported.append(facts))
        assert reported[-1] == ("indexed", COUNT, COUNT)
        assert [done for _, done, _ in reported] == sorted({done for _, done, _ in reported})

    def test_no_such_model_or_preset(self, on_file):
        index = on_file.storage.embeddings.index
        for call in (index.verify, index.rebuild, index.catch_up, index.dimension):
            with raises(ms.NotFoundError, kind="embedding model", match="none"):
                call("none")
        with raises(ms.ValidationError, field="preset", match="compact"):
            index.rebuild(MODEL, preset="best")

    @pytest.mark.slow
    def test_an_interrupted_one_is_finished_later(self, on_file, database):
        def interrupt(what: str, done: int, total: int) -> None:
            if done >= 500:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            on_file.storage.embeddings.index.rebuild(MODEL, progress=interrupt)
        assert 500 <= on_file.status().indexed < 1000
        assert on_file.recall(plan="exact") == 1.0
        with ms.MemoryStorage.open(at(database)) as other:
            assert other.embeddings.index.catch_up(MODEL) > 1000
        assert on_file.status().pending == 0
        assert on_file.recall() >= PROMISED


def test_vectors_that_are_not_indexed_yet_are_found(searched):
    late = oracle.clustered(400, DIMENSION, 21)
    searched.put(range(400), late, index=False)
    assert searched.plan == "exact" or 398 <= searched.status().pending <= 400
    searched.queries = oracle.unit(late[:60] + 0.1 * oracle.clustered(60, DIMENSION, 22))
    assert searched.recall() >= PROMISED


def test_a_search_looks_among_more_candidates_as_the_index_grows():
    for preset in PRESETS.values():
        assert preset.search_among(2_000) < preset.search_among(20_000) == preset.search
        assert preset.search_among(100_000) > 1.5 * preset.search
        assert preset.search_among(10**9) == 4 * preset.search


@pytest.mark.slow
def test_nothing_is_lost_when_a_bulk_load_is_killed(database):
    with ms.MemoryStorage.open(at(database)) as storage:
        episodes = storage.episodes.save_many([ms.Episode(task_description="e") for _ in range(4000)])
        ids = [episode.id for episode in episodes]
    for attempt in range(4):
        written = killed(work.load, database, ids, attempt, after=0.3 + 0.4 * attempt, from_first_byte=True)
        acknowledged = {int(line) for line in written.split() if line}
        with ms.MemoryStorage.open(at(database)) as storage:
            stored = storage.embeddings.get_many("episode", ids, model=MODEL)
            assert all(ids[number] in stored for number in acknowledged)
            assert_consistent(storage.engine)
            for number in list(acknowledged)[::50]:
                best = storage.episodes.similar_to(stored[ids[number]].vector, model=MODEL, k=1)
                assert best[0].similarity > 0.9999
    with ms.MemoryStorage.open(at(database)) as storage:
        items = [("episode", one, vector) for one, vector in zip(ids, work.vectors(4000, 0), strict=True)]
        storage.embeddings.put_many(items, model=MODEL)
        assert storage.embeddings.index.verify(MODEL).is_healthy
        assert storage.embeddings.index.status()[0].pending == 0


def test_processes_that_make_a_model_at_once_make_one(database):
    with ms.MemoryStorage.open(at(database)) as storage:
        ids = [one.id for one in storage.episodes.save_many([ms.Episode(task_description="e") for _ in range(400)])]
    together(work.register, [(database, ids[part::4]) for part in range(4)])
    with ms.MemoryStorage.open(at(database)) as storage:
        assert storage.embeddings.models() == {MODEL: 16, "another": 8}
        assert storage.embeddings.count() == 800
        assert_consistent(storage.engine)


@pytest.mark.slow
def test_threads_search_while_others_write_and_rebuild(on_file):
    busy = work.Busy(on_file.storage, [one.id for one in on_file.episodes], on_file.queries, seconds=3)
    with ThreadPoolExecutor(7) as pool:
        searches = [pool.submit(busy.search, thread) for thread in range(4)]
        changes = [pool.submit(busy.write, thread) for thread in range(2)] + [pool.submit(busy.rebuild)]
    assert sum(task.result() for task in searches) > 20
    assert [task.result() for task in changes] == [None] * 3
    assert_consistent(on_file.storage.engine)


class TestFileWithoutDiskann:
    """Only `vector_index="diskann"` creates DiskANN indexes: SQLite cannot write a table that has one."""

    @pytest.fixture
    def small(self, database: Path) -> Indexed:
        """A file of an earlier version: each model has an index, in which few vectors are not."""
        with ms.MemoryStorage.open(at(database)) as storage:
            found = Indexed(storage, 50).store()
        assert diskann_objects(database) >= {f"{VectorSpace(MODEL).index}_shadow", METADATA_TABLE}
        return found

    @pytest.mark.parametrize("source", ["hnsw", "exact", "auto"])
    def test_no_index_is_created(self, database, source):
        with ms.MemoryStorage.open(at(database, source)) as storage:
            few = Indexed(storage, 50).store()
            few.put([5], few.vectors[6:7])
            index = storage.embeddings.index
            assert (index.catch_up(MODEL), index.repair_missing(), index.rebuild(MODEL)) == (0, [], 0)
            assert index.verify(MODEL).is_healthy
            assert storage.scrub().complete
            assert storage.health_check(deep=True).is_healthy
            assert few.recall(plan="exact", mode="index") == 1.0
        assert diskann_objects(database) <= {METADATA_TABLE}  # which revision 0001 leaves, empty
        assert check(at(database, source)).is_healthy

    @pytest.mark.parametrize("source", ["hnsw", "exact"])
    def test_opening_drops_empty_indexes(self, database, small, source, caplog):
        caplog.set_level(logging.INFO, "memory_storage")
        with ms.MemoryStorage.open(at(database, source)) as storage:
            assert f"dropped {VectorSpace(MODEL).index}: empty DiskANN indexes" in caplog.text
            small.storage, small.plan = storage, "exact"
            assert small.recall() == 1.0
            assert_consistent(storage.engine)
        assert diskann_objects(database) == set()
        caplog.clear()
        ms.MemoryStorage.open(at(database, source)).close()
        assert caplog.text == ""

    def test_an_open_that_finds_none_runs_one_statement(self, database):
        ms.MemoryStorage.open(at(database, "exact")).close()
        with ms.MemoryStorage.open(at(database, "exact")) as storage, spied(storage.engine) as batches:
            storage._repair_indexes()
        assert [len(batch.steps) for batch in batches] == [1]

    def test_none_is_dropped_during_maintenance(self, database, small):
        with MaintenanceLock(database).exclusive(0), ms.MemoryStorage.open(at(database, "exact")) as storage:
            assert storage.embeddings.index.drop_unused() == []
            with raises(ms.UnavailableError, code="MAINTENANCE"):
                storage.embeddings.index.switch_to("exact")
        assert VectorSpace(MODEL).index in diskann_objects(database)

    def test_diskann_drops_none(self, database, small):
        with ms.MemoryStorage.open(at(database)) as storage:
            assert storage.embeddings.index.drop_unused() == []
        assert VectorSpace(MODEL).index in diskann_objects(database)

    @pytest.mark.slow
    def test_opening_leaves_a_filled_index_alone(self, on_file, database):
        on_file.storage.close()
        with ms.MemoryStorage.open(at(database, "exact")) as storage:
            on_file.storage, on_file.plan = storage, "exact"
            on_file.put([5], on_file.vectors[6:7])
            storage.episodes.delete(on_file.episodes[7].id)
            assert_consistent(storage.engine)
        with ms.MemoryStorage.open(at(database)) as storage:
            assert storage.embeddings.index.verify(MODEL).is_healthy

    @pytest.mark.slow
    @pytest.mark.parametrize("source", ["hnsw", "exact"])
    def test_switching_drops_a_filled_index(self, on_file, database, source):
        on_file.storage.close()
        with ms.MemoryStorage.open(at(database, source)) as storage:
            on_file.storage, on_file.plan = storage, source
            storage.embeddings.index.switch_to(source)
            assert on_file.recall() >= PROMISED
            assert_consistent(storage.engine)
        assert diskann_objects(database) == set()
        with ms.MemoryStorage.open(at(database)) as storage:
            on_file.storage, on_file.plan = storage, "index"
            assert on_file.recall(plan="exact") == 1.0
            assert storage.embeddings.index.switch_to("diskann") == COUNT
            assert on_file.recall() >= PROMISED
            assert_consistent(storage.engine)

    @pytest.mark.slow
    @pytest.mark.parametrize("has_function", [True, False], ids=["with a stub", "without the function"])
    def test_sqlite_drops_a_filled_index(self, on_file, database, has_function):
        on_file.storage.close()
        space, evaluated = VectorSpace(MODEL), []
        connection = apsw.Connection(str(database))
        if has_function:
            connection.create_scalar_function("libsql_vector_idx", evaluated.append, -1, deterministic=True)
        with connection:
            for text in (*drop_diskann([space]), space.mark_pending()):
                connection.execute(text)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT indexed, vectors FROM vector_models").fetchall() == [(0, COUNT)]
        connection.execute("DELETE FROM episodes WHERE seq = 7")
        connection.close()
        assert (evaluated, diskann_objects(database)) == ([], set())
        with ms.MemoryStorage.open(at(database)) as storage:
            assert_consistent(storage.engine)
            assert storage.embeddings.index.catch_up(MODEL) == COUNT - 1
            assert storage.embeddings.index.verify(MODEL).is_healthy

    @pytest.mark.slow
    def test_another_process_drops_the_index(self, on_file, database):
        with ms.MemoryStorage.open(at(database, "exact")) as other:
            assert on_file.recall() >= PROMISED
            other.embeddings.index.switch_to("exact")
        assert on_file.recall(plan="exact") == on_file.recall(plan="exact", mode="index") == 1.0
        on_file.storage.embeddings.put("episode", on_file.episodes[5].id, on_file.vectors[6], model=MODEL)
        on_file.storage.episodes.delete(on_file.episodes[7].id)
        assert on_file.status().indexed == 0
        assert_consistent(on_file.storage.engine)
        on_file.settle()
        assert on_file.status().pending == 0
        assert on_file.storage.embeddings.index.verify(MODEL).is_healthy

    def test_a_scrub_drops_an_index_that_is_not_used(self, database, small):
        with ms.MemoryStorage.open(at(database)) as storage:
            _execute(storage, f"UPDATE {VectorSpace(MODEL).table} SET indexed = 1")
        assert VectorSpace(MODEL).index in diskann_objects(database)
        with ms.MemoryStorage.open(at(database, "exact")) as storage:
            assert storage.scrub().complete
            assert_consistent(storage.engine)
        assert diskann_objects(database) == set()

    @pytest.mark.parametrize("damage", ["DROP TABLE {index}_shadow", "DELETE FROM {index}_shadow WHERE index_key < 9"])
    def test_the_doctor_drops_a_damaged_index(self, database, small, damage):
        with ms.MemoryStorage.open(at(database)) as storage:
            _execute(storage, f"UPDATE {VectorSpace(MODEL).table} SET indexed = 1")
            _execute(storage, damage.format(index=VectorSpace(MODEL).index))
        assert [finding.code for finding in check(at(database, "exact")).findings] == ["vectors.index"]
        assert repair(at(database, "exact")).is_healthy
        assert diskann_objects(database) == set()

    @pytest.mark.parametrize("local_engine", ["sqlite", "libsql"])
    def test_a_file_of_revision_0002_has_none_when_it_is_upgraded(self, database, local_engine):
        engine = make_engine(ms.Settings(database=str(database), local_engine="libsql"))
        migrate.upgrade(engine, "0002")
        save_in_0001(engine)
        with engine.begin() as connection:
            old = """INSERT INTO embeddings (namespace, owner_type, owner_id, model, dimension, vector_384, created_at,
                updated_at) SELECT namespace, 'episode', id, 'm', 384, ?, 1, 1 FROM episodes"""
            connection.exec_driver_sql(old, (pack_vector([1.0] * 384),))
        engine.dispose()
        settings = ms.Settings(database=str(database), local_engine=local_engine, vector_index="exact")
        with ms.MemoryStorage.open(settings) as storage:
            assert len(storage.episodes.similar_to([1.0] * 384, model="m")) == 1
            assert_consistent(storage.engine)
        assert diskann_objects(database) == set()

    @pytest.mark.slow
    def test_a_server_drops_and_creates_its_index(self, migrated_server_url):
        with ms.MemoryStorage.open(migrated_server_url) as storage:
            small = Indexed(storage, 50).store()
            _execute(storage, f"UPDATE {VectorSpace(MODEL).table} SET indexed = 1")
            with ms.MemoryStorage.open(at(migrated_server_url, "exact")) as other:
                assert other.embeddings.index.switch_to("exact") == 0
                assert_consistent(other.engine)
            assert small.recall(plan="exact", mode="index") == 1.0
            assert storage.embeddings.index.switch_to("diskann") == 0
            _execute(storage, f"UPDATE {VectorSpace(MODEL).table} SET indexed = 1")
            assert storage.embeddings.index.verify(MODEL).is_healthy
            assert_consistent(storage.engine)


def diskann_objects(path: Path) -> set[str]:
    """The names of what binds a file to libSQL; no storage may have the file open."""
    objects = "SELECT name FROM sqlite_master WHERE sql LIKE '%libsql_vector%' OR name GLOB '*_ann_shadow'"
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute(objects)}
