"""The index in this process follows its table, whichever process changes it; its file is validated before use."""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import memory_storage as ms
from memory_storage.schema.vector_tables import EXACT_SCAN_MAX, VectorSpace
from memory_storage.search.candidates import SOURCES
from memory_storage.search.hnsw import Graph, index
from tests.raising import raises
from tests.schema.spy import spied
from tests.search import oracle
from tests.search.conftest import COUNT, DIMENSION, MODEL, Indexed, at

PROMISED = 0.97
FAR = np.eye(DIMENSION, dtype=np.float32)[0] * 5


def _sidecar(database: Path) -> Path:
    return database.with_name(f"{database.name}.{VectorSpace(MODEL).token}.usearch")


def _best(storage: ms.MemoryStorage, vector: Any = FAR) -> tuple[str, float, str]:
    hits = storage.episodes.similar_to(vector, model=MODEL, k=1, steps=False)
    return str(hits[0].item.id), round(hits[0].similarity or 0.0, 4), hits.plan


def _put(storage: Any, indexed: Indexed, row: int, vector: Any = FAR) -> str:
    storage.embeddings.put("episode", indexed.episodes[row].id, vector, model=MODEL)
    return str(indexed.episodes[row].id)


def _is_without_diskann(storage: ms.MemoryStorage) -> bool:
    objects = "SELECT count(*) FROM sqlite_master WHERE sql LIKE '%libsql_vector_idx%' OR name GLOB '*_ann*'"
    with storage.engine.connect() as connection:
        marked = connection.exec_driver_sql(f"SELECT total(indexed) FROM {VectorSpace(MODEL).table}").scalar()
        return (connection.exec_driver_sql(objects).scalar(), marked) == (0, 0)


class TestFollowing:
    def test_the_database_has_no_index(self, in_memory):
        in_memory.put(range(50), oracle.clustered(50, DIMENSION, 9))
        assert _is_without_diskann(in_memory.storage)

    def test_new_rows_are_found_immediately(self, in_memory):
        for row in range(90):
            vector = oracle.clustered(1, DIMENSION, 1000 + row)[0]
            assert _best(in_memory.storage, vector)[1] < 0.9999
            assert _best(in_memory.storage, vector)[0] != _put(in_memory.storage, in_memory, row, vector)
            assert _best(in_memory.storage, vector) == (str(in_memory.episodes[row].id), 1.0, "hnsw")

    def test_a_transaction_sees_its_rows_a_rollback_leaves_none(self, in_memory):
        before = _best(in_memory.storage)
        with suppress(KeyboardInterrupt), in_memory.storage.transaction() as tx:
            changed = _put(tx, in_memory, 7)
            assert _best(tx) == (changed, 1.0, "hnsw")
            raise KeyboardInterrupt
        assert _best(in_memory.storage) == before
        other = oracle.clustered(1, DIMENSION, 77)[0]
        changed = _put(in_memory.storage, in_memory, 8, other)  # its row has the number of the one that was undone
        in_memory.settle()
        assert (_best(in_memory.storage)[1], _best(in_memory.storage, other)[0]) == (before[1], changed)

    def test_another_process_or_storage_has_written(self, in_memory, bare):
        _best(in_memory.storage)
        with ms.MemoryStorage.open(at(bare, "exact")) as other:
            changed = _put(other, in_memory, 3)
            assert _best(in_memory.storage) == (changed, 1.0, "hnsw")
            other.episodes.delete(in_memory.episodes[3].id)
            assert _best(in_memory.storage)[1] < 1.0

    def test_a_snapshot_ignores_later_writes_and_deletions(self, in_memory):
        changed = _put(in_memory.storage, in_memory, 4)
        with in_memory.storage.snapshot() as view:
            assert _best(view)[0] == changed
            in_memory.storage.episodes.delete(in_memory.episodes[4].id)
            in_memory.storage.embeddings.index.rebuild(MODEL)
            assert _best(view)[:2] == (changed, 1.0)
        assert _best(in_memory.storage)[0] != changed

    @pytest.mark.slow
    def test_searches_are_right_while_a_thread_syncs_the_index(self, bare, in_memory):
        _best(in_memory.storage)
        turned = oracle.clustered(COUNT, DIMENSION, 33)
        with ms.MemoryStorage.open(at(bare, "exact")) as other:
            Indexed(other, COUNT).put(range(COUNT), turned)
        in_memory.vectors[:] = turned
        assert in_memory.recall(plan=None) >= PROMISED
        for _ in range(200):
            if in_memory.status().pending == 0:
                break
            time.sleep(0.05)
            _best(in_memory.storage)
        assert in_memory.recall() >= PROMISED

    def test_views_of_other_namespaces_share_it(self, in_memory):
        other = in_memory.storage.in_namespace("other")
        saved = other.episodes.save_many([ms.Episode(task_description="o") for _ in range(20)])
        other.embeddings.put_many([("episode", one.id, FAR) for one in saved], model=MODEL)
        assert {hit.item.id for hit in other.episodes.similar_to(FAR, model=MODEL, k=50)} == {one.id for one in saved}
        other.close()
        assert in_memory.recall() >= PROMISED

    def test_threads_write_and_search(self, in_memory):
        def work(thread: int) -> int:
            right = 0
            for number in range(25):
                vector = oracle.clustered(1, DIMENSION, 5000 + 100 * thread + number)[0]
                changed = _put(in_memory.storage, in_memory, 100 * thread + number, vector)
                right += _best(in_memory.storage, vector)[0] == changed
            return right

        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(work, range(6))) == [25] * 6

    def test_a_child_process_continues_independently(self, in_memory):
        _best(in_memory.storage)
        child = os.fork()
        if child == 0:
            try:
                changed = _put(in_memory.storage, in_memory, 9)
                os._exit(0 if _best(in_memory.storage)[0] == changed else 1)
            except BaseException:  # noqa: BLE001 - the parent fails by it
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        assert _best(in_memory.storage)[:2] == (str(in_memory.episodes[9].id), 1.0)


class TestTheNearestFew:
    """Where nothing is filtered, a small statement looks at the nearest few; what it cannot answer others do."""

    def test_are_enough_and_found_by_indexes(self, in_memory):
        query = in_memory.queries[0]
        _best(in_memory.storage)  # its file is opened
        with spied(in_memory.storage.engine) as batches:
            assert in_memory.storage.episodes.similar_to(query, model=MODEL, steps=False).plan == "hnsw"
        (step,) = (step for batch in batches for step in batch.steps)
        assert "far" not in step.sql
        with in_memory.storage.engine.connect() as connection:
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {step.sql}", step.parameters)]
        searched = {line.split()[1] for line in plan if line.startswith("SEARCH")}
        assert {"v", "m", "i", "e"} <= searched
        scanned = {line.split()[1] for line in plan if line.startswith("SCAN ") and "SCAN (" not in line}
        # What is given, or found, or small; "CONSTANT ROW" is the one row that names the namespace's space.
        assert scanned == {"json_each", "candidates", "found", "sqlite_sequence", "CONSTANT"}

    @pytest.mark.slow
    def test_back_off_for_a_minute_in_a_foreign_namespace(self, in_memory, monkeypatch):
        other = in_memory.storage.in_namespace("other")
        saved = other.episodes.save_many([ms.Episode(task_description="o") for _ in range(COUNT)])
        noise = in_memory.vectors + 0.01 * oracle.clustered(COUNT, DIMENSION, 5)
        other.embeddings.put_many([("episode", one.id, it) for one, it in zip(saved, noise, strict=True)], model=MODEL)
        in_memory.settle()
        clock = [time.monotonic()]
        monkeypatch.setattr(index, "time", SimpleNamespace(monotonic=lambda: clock[0]))
        assert [self._statements(in_memory) for _ in range(3)] == [2, 1, 1]
        assert in_memory.recall() >= PROMISED
        clock[0] += 61
        assert [self._statements(in_memory) for _ in range(2)] == [2, 1]

    def test_state_per_namespace_is_bounded(self, in_memory):
        index = in_memory.storage._context.memory.of(VectorSpace(MODEL))
        for number in range(1_001):
            index.record_shortlist_failure(f"n{number}")
        assert index.shortlist_failed("n1000")
        assert not index.shortlist_failed("n999")

    def test_are_not_believed_where_the_index_is_far_behind(self, bare, in_memory):
        _best(in_memory.storage)
        in_memory.storage._context.memory.stop.set()  # no thread catches up
        turned = oracle.clustered(EXACT_SCAN_MAX + 100, DIMENSION, 34)
        with ms.MemoryStorage.open(at(bare, "exact")) as other:
            Indexed(other, COUNT).put(range(EXACT_SCAN_MAX + 100), turned)
        in_memory.vectors[: EXACT_SCAN_MAX + 100] = turned
        assert in_memory.recall(plan="exact") == 1.0

    @pytest.mark.parametrize("floor", [-1.0, 0.9, 1.0])
    def test_give_the_full_result_with_a_floor_and_on_later_pages(self, in_memory, floor):
        for query in in_memory.queries[:10]:
            self._pages_are_the_same(in_memory.storage, query, floor)

    def test_a_filter_uses_the_index_only_where_it_is_cheaper(self, in_memory, monkeypatch):
        asked: list[int] = []
        nearest = Graph.nearest

        def counted(graph: Graph, vector: bytes, count: int) -> list[int]:
            asked.append(count)
            return nearest(graph, vector, count)

        _best(in_memory.storage)
        monkeypatch.setattr(Graph, "nearest", counted)
        ways = {"hnsw": ({"task_type": "testing"}, 2, 1), "exact": ({"metadata": {"number": 7}}, 1, 0)}
        for plan, (filters, statements, times) in ways.items():
            asked.clear()
            with spied(in_memory.storage.engine) as batches:
                hits = in_memory.storage.episodes.similar_to(in_memory.queries[0], model=MODEL, **filters)
            assert (hits.plan, len(batches), len(asked)) == (plan, statements, times)

    def test_an_index_dropped_concurrently_is_not_an_error(self, in_memory, monkeypatch):
        candidates = index.HnswIndex.candidates

        def gone(index: Any, *args: Any, search: bool = True, **kwargs: Any) -> Any:
            return None if search else candidates(index, *args, search=False, **kwargs)

        _best(in_memory.storage)
        monkeypatch.setattr(index.HnswIndex, "candidates", gone)
        hits = in_memory.storage.episodes.similar_to(in_memory.queries[0], model=MODEL, task_type="testing")
        assert (len(hits), hits.plan) == (10, "exact")

    def _pages_are_the_same(self, storage: ms.MemoryStorage, query: Any, floor: float) -> None:
        asked = {"model": MODEL, "k": 4, "min_similarity": floor, "steps": False}
        pages: dict[str, list[Any]] = {"auto": [], "exact": []}
        for mode, found in pages.items():
            cursor = None
            for _ in range(4):
                hits = storage.episodes.similar_to(query, mode=mode, cursor=cursor, **asked)
                found += [hit.item.id for hit in hits]
                cursor = hits.next_cursor
                if cursor is None:
                    break
        assert len(set(pages["auto"])) == len(pages["auto"]) == len(pages["exact"])
        assert len({*pages["auto"]} & {*pages["exact"]}) >= PROMISED * len(pages["exact"]) - 1

    def _statements(self, indexed: Indexed) -> int:
        with spied(indexed.storage.engine) as batches:
            indexed.storage.episodes.similar_to(indexed.queries[1], model=MODEL, steps=False)
        return len(batches)


class TestTheFile:
    def test_is_read_and_not_rebuilt_when_the_database_is_opened(self, in_memory, bare):
        modified = _sidecar(bare).stat().st_mtime_ns
        assert in_memory.recall() >= PROMISED
        in_memory.storage.close()
        assert _sidecar(bare).stat().st_mtime_ns == modified

    def test_is_caught_up_if_stale(self, bare):
        with ms.MemoryStorage.open(at(bare, "exact")) as other:
            changed = _put(other, Indexed(other, COUNT), 5)
        with ms.MemoryStorage.open(at(bare, "hnsw")) as storage:
            assert _best(storage) == (changed, 1.0, "hnsw")

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "damage",
        [
            lambda data: data[: len(data) // 2],
            lambda data: data[:20],
            lambda data: b"",
            lambda data: b"no index at all" * 100,
            lambda data: data[:-1000] + bytes([data[-1000] ^ 4]) + data[-999:],
            lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
            lambda data: data[:12] + b"\xff\xff" + data[14:],
        ],
    )
    def test_is_rejected_and_rebuilt_if_damaged(self, bare, damage, caplog):
        path = _sidecar(bare)
        path.write_bytes(damage(path.read_bytes()))
        with ms.MemoryStorage.open(at(bare, "hnsw")) as storage:
            indexed = Indexed(storage, COUNT)
            assert indexed.recall(plan=None) >= PROMISED
            assert "is not used and will be rebuilt" in caplog.text
            indexed.settle()
            assert indexed.recall() >= PROMISED
        caplog.clear()
        with ms.MemoryStorage.open(at(bare, "hnsw")) as storage:
            assert Indexed(storage, COUNT).recall() >= PROMISED
        assert caplog.text == ""

    @pytest.mark.slow
    def test_of_another_database_is_not_believed(self, bare, tmp_path, caplog):
        other = tmp_path / "other.db"
        with ms.MemoryStorage.open(at(other, "hnsw")) as storage:
            indexed = Indexed(storage, COUNT)
            indexed.storage.episodes.save_many(indexed.episodes)
            indexed.put(range(COUNT), oracle.clustered(COUNT, DIMENSION, 50))
            indexed.settle()
        shutil.copy(_sidecar(other), _sidecar(bare))
        with ms.MemoryStorage.open(at(bare, "hnsw")) as storage:
            assert Indexed(storage, COUNT).recall(plan=None) >= PROMISED
        assert "its vectors are not those of the table" in caplog.text

    @pytest.mark.slow
    def test_from_after_a_backup_that_was_restored_is_not_believed(self, bare, database, caplog):
        backup = database.with_name("backup.db")
        shutil.copy(bare, backup)
        with ms.MemoryStorage.open(at(bare, "hnsw")) as storage:
            Indexed(storage, COUNT).put(range(300), oracle.clustered(300, DIMENSION, 51))
            storage.embeddings.index.catch_up(MODEL)
        for name in ("-wal", "-shm"):
            Path(f"{bare}{name}").unlink(missing_ok=True)
        shutil.copy(backup, bare)
        with ms.MemoryStorage.open(at(bare, "exact")) as storage:  # rows get the numbers that are in the file
            restored = Indexed(storage, COUNT)
            restored.put(range(400), oracle.clustered(400, DIMENSION, 52))
        with ms.MemoryStorage.open(at(bare, "hnsw")) as storage:
            restored.storage = storage
            assert restored.recall(plan=None) >= PROMISED
        assert "its vectors are not those of the table" in caplog.text

    def test_that_cannot_be_written_costs_nothing_but_the_next_start(self, bare, monkeypatch, caplog):
        _sidecar(bare).unlink()
        _sidecar(bare).mkdir()  # not even root can replace a directory by a file
        with ms.MemoryStorage.open(at(bare, "hnsw")) as storage:
            indexed = Indexed(storage, COUNT)
            indexed.settle()
            assert indexed.recall() >= PROMISED
        assert "cannot be written" in caplog.text

    @pytest.mark.slow
    def test_of_one_that_knows_more_is_left_alone(self, bare, in_memory):
        _best(in_memory.storage)
        in_memory.put(range(100), oracle.clustered(100, DIMENSION, 53))
        with ms.MemoryStorage.open(at(bare, "hnsw")) as other:
            other.embeddings.index.catch_up(MODEL)
        written = _sidecar(bare).read_bytes()
        in_memory.storage.embeddings.index.catch_up(MODEL)
        assert _sidecar(bare).read_bytes() == written
        assert not list(bare.parent.glob("*.tmp"))


class TestBuilding:
    def test_says_how_far_it_is(self, in_memory):
        reported: list[tuple[str, int, int]] = []
        assert (
            in_memory.storage.embeddings.index.rebuild(MODEL, progress=lambda *facts: reported.append(facts)) == COUNT
        )
        assert reported[-1] == ("indexed", COUNT, COUNT)

    @pytest.mark.slow
    def test_continues_in_a_thread_on_request(self, bare):
        _sidecar(bare).unlink()
        with ms.MemoryStorage.open(at(bare, "hnsw")) as storage:
            indexed = Indexed(storage, COUNT)
            assert storage.embeddings.index.catch_up(MODEL, background=True) == 0
            assert indexed.recall(plan=None) >= PROMISED
            indexed.settle()
            assert indexed.recall() >= PROMISED
        with ms.MemoryStorage.open(at(bare, "diskann")) as storage, raises(ms.ValidationError, field="background"):
            storage.embeddings.index.catch_up(MODEL, background=True)

    def test_over_the_limit_searches_do_without_and_say_so(self, bare):
        small = at(bare, "hnsw").model_copy(update={"hnsw_max_bytes": 100_000})
        with ms.MemoryStorage.open(small) as storage:
            indexed = Indexed(storage, COUNT)
            assert indexed.recall(plan="exact (hnsw index over its limit)") == 1.0
            with pytest.raises(ms.ConfigurationError, match="hnsw_max_bytes: 100,000 bytes"):
                indexed.settle()

    def test_few_vectors_have_none(self, database):
        with ms.MemoryStorage.open(at(database, "hnsw")) as storage:
            few = Indexed(storage, 300).store()
            assert storage.embeddings.index.catch_up(MODEL) == 0
            assert few.recall(plan="exact") == 1.0
        assert not _sidecar(database).exists()

    def test_a_database_in_memory_has_one_on_request(self):
        with ms.MemoryStorage.open(at(":memory:", "hnsw")) as storage:
            indexed = Indexed(storage, EXACT_SCAN_MAX + 10).store()
            indexed.settle()
            assert indexed.recall() >= PROMISED

    def test_verify_compares_it_with_the_table(self, in_memory):
        health = in_memory.storage.embeddings.index.verify(MODEL)
        assert (health.is_healthy, health.nodes, health.model.source) == (True, COUNT, "hnsw")
        assert (health.recall or 0) >= PROMISED

    @pytest.mark.slow
    def test_there_and_back(self, in_memory, bare):
        in_memory.storage.close()
        with ms.MemoryStorage.open(at(bare, "diskann")) as storage:
            assert storage.embeddings.index.switch_to("diskann") == COUNT
            assert Indexed(storage, COUNT).recall() >= PROMISED
            assert not _sidecar(bare).exists()
            with pytest.raises(ms.ConfigurationError, match="set it to hnsw"):
                storage.embeddings.index.switch_to("hnsw")
        with ms.MemoryStorage.open(at(bare, "hnsw")) as storage:
            reported: list[tuple[str, int, int]] = []
            assert storage.embeddings.index.switch_to("hnsw", progress=lambda *facts: reported.append(facts)) == COUNT
            with pytest.warns(DeprecationWarning, match=r"switch_to\('memory'\) is deprecated .* switch_to\('hnsw'\)"):
                assert storage.embeddings.index.switch_to("memory") == 0  # type: ignore[arg-type]
            assert reported[-1] == ("indexed", COUNT, COUNT)
            assert Indexed(storage, COUNT).recall() >= PROMISED
            assert _is_without_diskann(storage)
            with raises(ms.NotFoundError, kind="embedding model"):
                storage.embeddings.index.switch_to("hnsw", model="none")
            with raises(ms.ValidationError, field="source"):
                storage.embeddings.index.switch_to("nothing")  # type: ignore[arg-type]


class TestSettings:
    def test_auto_is_hnsw_for_local_databases_where_the_library_is(self, database, migrated_server_url, monkeypatch):
        assert self._source_of(database) == "hnsw"
        assert self._source_of(":memory:") == "hnsw"
        assert self._source_of(migrated_server_url) == "diskann"
        monkeypatch.setattr("memory_storage.storage.is_installed", lambda: False)
        assert self._source_of(database) == self._source_of(":memory:") == "exact"

    def test_auto_is_diskann_if_a_file_has_such_an_index_and_the_library_is_missing(
        self, on_file, database, monkeypatch
    ):
        on_file.storage.close()
        assert self._source_of(database) == "hnsw"
        monkeypatch.setattr("memory_storage.storage.is_installed", lambda: False)
        assert self._source_of(database) == "diskann"

    @pytest.mark.slow
    def test_auto_leaves_a_filled_index_of_the_file_alone(self, on_file, database):
        with ms.MemoryStorage.open(ms.Settings(database=str(database))) as storage:
            on_file.storage = storage
            assert on_file.recall(plan=None) >= PROMISED
            assert storage.episodes.similar_to(FAR, model=MODEL).plan.split(" (")[0] in {"exact", "hnsw"}
            on_file.plan = "hnsw"
            on_file.settle()
            assert on_file.recall() >= PROMISED
            _put(storage, on_file, 5)
        with ms.MemoryStorage.open(at(database, "diskann")) as storage:  # as without the library
            assert _best(storage) == (str(on_file.episodes[5].id), 1.0, "index")

    def _source_of(self, url: Any) -> str:
        with ms.MemoryStorage.open(url) as storage:
            return storage.vector_index

    def test_a_server_has_none(self):
        with pytest.raises(ms.ConfigurationError, match="hnsw is for local files"):
            ms.Settings(database="libsql://127.0.0.1:1?tls=0", vector_index="hnsw")

    def test_without_the_library_memory_is_an_error(self, database, monkeypatch):
        monkeypatch.setattr("memory_storage.storage.is_installed", lambda: False)
        with pytest.raises(ms.ConfigurationError, match=r"memory-storage\[ann\]"):
            ms.MemoryStorage.open(at(database, "hnsw"))

    @pytest.mark.slow
    def test_each_source_reports_its_costs(self, in_memory):
        costs = in_memory.storage.embeddings.index.costs(MODEL)
        assert list(costs) == list(SOURCES)
        assert costs["exact"].disk == 0 < costs["hnsw"].disk < costs["diskann"].disk
        assert costs["diskann"].memory == 0 < costs["hnsw"].memory
