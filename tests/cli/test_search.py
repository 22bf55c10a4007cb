"""The commands `search` and `index`."""

from __future__ import annotations

import numpy as np
import pytest

import memory_storage as ms
from memory_storage.schema.vector_tables import VectorSpace
from tests.checks import assert_consistent
from tests.search import oracle


@pytest.fixture
def episodes(database, make_episode) -> list[ms.Episode]:
    """Two with vectors, a success and a failure, and one without."""
    with ms.MemoryStorage.open(database) as storage:
        saved = storage.episodes.save_many(
            [
                make_episode(task_description="Refund a cancelled flight", outcome=ms.Success(verdict="refunded")),
                make_episode(task_description="Refund a flight in the past", outcome=ms.Failure(reason="not allowed")),
                make_episode(task_description="Book a hotel", tags=["hotel"]),
            ]
        )
        storage.embeddings.put_many(
            [("episode", saved[0].id, [1.0, 0.1]), ("episode", saved[1].id, [1.0, 0.0])], model="two"
        )
        return saved


def _ids(found: dict) -> list[str]:
    return [item["episode"]["id"] for item in found["items"]]


def test_search_by_words_shows_where_they_are(answered, command, database, episodes):
    found = answered("search", "cancelled refund")
    assert _ids(found) == [str(episodes[0].id), str(episodes[1].id)]
    assert found["items"][0]["snippet"] == "[Refund] a [cancelled] flight"
    assert found["items"][0]["parts"] == {"text": found["items"][0]["score"]}
    shown = command("search", "cancelled refund", "-d", database).stdout
    assert "[Refund] a [cancelled] flight" in shown


def test_search_by_likeness(answered, episodes):
    found = answered("search", "--like", episodes[1].id, "--outcome", "success")
    assert _ids(found) == [str(episodes[0].id)]
    assert (found["items"][0]["method"], found["plan"]) == ("exact", "exact")
    both = answered("search", "hotel", "--like", episodes[1].id)
    assert (len(_ids(both)), both["items"][0]["method"]) == (3, "hybrid")


def test_search_continues_with_a_cursor(answered, command, database, episodes):
    first = answered("search", "refund flight", "-k", "1")
    second = answered("search", "refund flight", "-k", "1", "--cursor", first["next_cursor"])
    assert {*_ids(first), *_ids(second)} == {str(one.id) for one in episodes[:2]}
    assert second["next_cursor"] is None
    assert "--cursor" in command("search", "refund flight", "-k", "1", "-d", database).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 3, "give a TEXT"),
        (["--like", "x"], 4, "prefix: an id, or at least its first 4"),
        (["words", "-k", "0"], 4, "k: a whole number from 1 to 1,000"),
        (["words", "--outcome", "great"], 4, "outcome"),
        (["--like", "00000000-0000-0000-0000-000000000000"], 5, "no embedding"),
        (["--like", "00000000-0000-0000-0000-000000000000", "--model", "none"], 5, "no embedding"),
    ],
)
def test_an_impossible_search_is_an_error_with_the_cause(command, database, episodes, arguments, code, says):
    result = command("search", *arguments, "-d", database)
    assert (result.exit_code, result.stdout) == (code, "")
    assert says in result.stderr


def test_a_model_has_to_be_chosen_among_several(command, database, episodes):
    with ms.MemoryStorage.open(database) as storage:
        storage.embeddings.put("episode", episodes[0].id, [1.0], model="one")
    result = command("search", "--like", episodes[0].id, "-d", database)
    assert (result.exit_code, "give --model: one, two" in result.stderr) == (3, True)
    assert command("search", "--like", episodes[0].id, "--model", "two", "-d", database).exit_code == 0


class TestIndex:
    @pytest.fixture(autouse=True)
    def _in_the_file(self, monkeypatch) -> None:
        monkeypatch.setenv("MEMORY_STORAGE_VECTOR_INDEX", "diskann")

    @pytest.fixture
    def many(self, database) -> None:
        with ms.MemoryStorage.open(database) as storage:
            saved = storage.episodes.save_many([ms.Episode(task_description="e") for _ in range(2_100)])
            vectors = oracle.clustered(2_100, 8)
            items = [("episode", one.id, vector) for one, vector in zip(saved, vectors, strict=True)]
            storage.embeddings.put_many(items, model="m")

    @pytest.mark.slow
    def test_status(self, answered, command, database, many):
        (model,) = answered("index", "status")
        assert (model["name"], model["vectors"], model["indexed"], model["pending"]) == ("m", 2100, 2100, 0)
        assert "balanced" in command("index", "status", "-d", database).stdout

    @pytest.mark.slow
    def test_verify_and_rebuild(self, answered, command, database, many):
        (health,) = answered("index", "verify")
        assert (health["is_healthy"], health["nodes"]) == (True, 2100)
        with ms.MemoryStorage.open(database) as storage, storage.engine.begin() as connection:
            connection.exec_driver_sql(f"DELETE FROM {VectorSpace('m').table}_ann_shadow WHERE index_key % 2")
        result = command("index", "verify", "m", "-d", database)
        assert (result.exit_code, "damaged" in result.stdout, "index rebuild" in result.stderr) == (9, True, True)
        assert answered("index", "rebuild", "m", "--preset", "accurate") == {"m": 2100}
        assert command("index", "verify", "-d", database).exit_code == 0
        assert answered("index", "status")[0]["preset"] == "accurate"

    @pytest.mark.slow
    def test_a_preset_that_finds_too_few_of_short_vectors(self, answered, command, database, many):
        answered("index", "rebuild", "--preset", "compact")  # a bit for each of eight numbers
        result = command("index", "verify", "-d", database)
        assert (result.exit_code, "low recall" in result.stdout) == (9, True)

    def test_few_vectors_need_no_index(self, command, database, episodes):
        assert "few vectors" in command("index", "rebuild", "-d", database).stdout
        assert "few vectors" in command("index", "verify", "-d", database).stdout

    @pytest.mark.parametrize(("arguments", "code"), [(["none"], 5), (["two", "--preset", "best"], 4)])
    def test_what_is_not_there(self, command, database, episodes, arguments, code):
        assert command("index", "rebuild", *arguments, "-d", database).exit_code == code

    @pytest.mark.slow
    def test_going_over_to_the_other_kind_and_back(self, answered, command, database, many):
        result = command("index", "use", "hnsw", "-d", database)
        assert "2,100 vectors added to the index (hnsw)" in result.stdout
        assert "MEMORY_STORAGE_VECTOR_INDEX=hnsw" in result.stderr
        assert answered("index", "status")[0]["indexed"] == 0
        assert list(database.parent.glob("*.usearch"))
        assert answered("index", "use", "diskann", "m") == {"m": 2100}
        assert not list(database.parent.glob("*.usearch"))
        assert answered("index", "verify")[0]["is_healthy"]
        assert command("index", "use", "nothing", "-d", database).exit_code == 4
        result = command("index", "use", "exact", "-d", database)
        assert ("m: no index" in result.stdout, "MEMORY_STORAGE_VECTOR_INDEX=exact" in result.stderr) == (True, True)

    @pytest.mark.parametrize("source", ["hnsw", "exact"])
    def test_an_index_is_dropped_where_libsql_is_missing(self, command, database, episodes, source, monkeypatch):
        with ms.MemoryStorage.open(database) as storage, storage.transaction() as tx:
            tx.execute([(f"UPDATE {VectorSpace('two').table} SET indexed = 1", ())])
        monkeypatch.setattr("memory_storage.dbapi._engines._MODULES", {"sqlite": "_sqlite", "libsql": "_missing"})
        assert command("index", "status", "-d", database).exit_code == 3
        assert command("index", "use", source, "-d", database).exit_code == 0
        settings = ms.Settings(database=str(database), vector_index=source, local_engine="sqlite")
        with ms.MemoryStorage.open(settings) as storage:
            assert_consistent(storage.engine)
            assert storage.embeddings.index.foreign_indexes() == []
            assert storage.episodes.delete(episodes[0].id)
            assert_consistent(storage.engine)

    def test_exact_has_no_index(self, answered, command, database, episodes, monkeypatch):
        monkeypatch.setenv("MEMORY_STORAGE_VECTOR_INDEX", "exact")
        assert {(one["source"], one["indexed"], one["pending"]) for one in answered("index", "status")} == {
            ("exact", 0, 0)
        }
        for name in ("rebuild", "verify"):
            result = command("index", name, "-d", database)
            assert (result.exit_code, "vector_index is exact" in result.stdout) == (0, True)
        result = command("index", "rebuild", "two", "--preset", "compact", "-d", database)
        assert (result.exit_code, "presets are of diskann" in result.stderr) == (4, True)

    def test_an_index_of_another_program_is_named(self, command, database, episodes):
        with ms.MemoryStorage.open(database) as storage, storage.engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE others (a F32_BLOB(3))")
            connection.exec_driver_sql("CREATE INDEX others_index ON others (libsql_vector_idx(a))")
        result = command("index", "use", "exact", "-d", database)
        assert (result.exit_code, "still needs libSQL: its vector index others_index" in result.stderr) == (0, True)

    @pytest.mark.slow
    def test_a_fragmented_index_is_reported(self, command, database, many):
        with ms.MemoryStorage.open(database) as storage:
            vectors = oracle.clustered(2_100, 8, 77)
            found = [one.owner_id for one in storage.embeddings.iterate()]
            items = [("episode", one, vector) for one, vector in zip(found, np.array(vectors), strict=True)]
            storage.embeddings.put_many(items[:1_500], model="m", index=False)
        assert "the index is fragmented" in command("index", "status", "-d", database).stderr
