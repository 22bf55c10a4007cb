"""Erasure leaves no row, no word, no vector, and no byte in the file and its log and sidecars."""

from __future__ import annotations

import io
import json
import random
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

import memory_storage as ms
from memory_storage import dbapi
from memory_storage.importers import export_lines, import_stream
from memory_storage.schema.vector_tables import EXACT_SCAN_MAX
from tests.checks import assert_consistent, dump, row_counts
from tests.raising import raises

CANARY = "zqcanary"
DIMENSION = 16


def canary_episode(name: str = CANARY, **fields: Any) -> ms.Episode:
    """An episode whose every text has the name in it."""
    step = ms.Step(
        tool=f"{name}tool",
        action=f"{name}action",
        parameters={f"{name}key": [f"{name}parameter", {"deep": f"{name}deep"}]},
        result=ms.StepOk(output=f"{name}output " * 2_000),  # over several pages
        metadata={f"{name}key": f"{name}stepmeta"},
    )
    failed = ms.Step(tool="t", result=ms.StepError(message=f"{name}message"))
    return ms.Episode(
        **{
            "task_description": f"{name}description",
            "context": ms.TaskContext(
                domain=f"{name}domain", language=f"{name}lang", framework=f"{name}frame", tags=[f"{name}context"]
            ),
            "tags": [f"{name}tag"],
            "metadata": {f"{name}meta": f"{name}value", "nested": {"at": [f"{name}nested"]}},
            "outcome": ms.PartialSuccess(verdict=f"{name}verdict", completed=[f"{name}done"], failed=[f"{name}undone"]),
            "reflection": ms.Reflection(
                successes=[f"{name}success"], improvements=[f"{name}better"], insights=[f"{name}insight"]
            ),
            "summary": ms.EpisodeSummary(
                text=f"{name}summary",
                key_steps=[f"{name}keystep"],
                key_concepts=[f"{name}concept"],
                created_by=f"{name}by",
            ),
            "steps": [step, failed],
            **fields,
        }
    )


def insert_checkpoint(storage: ms.MemoryStorage, episode_id: UUID, text: str) -> None:
    """Insert a row of `checkpoints` that has a text in each column."""
    sql = """INSERT INTO checkpoints (namespace, id, episode_id, step_number, label, created_at, document)
        VALUES (?, ?, ?, 1, ?, 0, ?)"""
    with storage.transaction() as tx:
        tx.execute([(sql, [storage.namespace, str(uuid4()), str(episode_id), text, json.dumps({text: text})])])


def canary_vector(seed: int = 0) -> list[float]:
    return [1e-3 * (13 * (n + seed) % 101 - 50.5) for n in range(DIMENSION)]


class Canary:
    """A user's episode among those of others, changed several times, with vectors and places, and learned from."""

    def __init__(self, storage: ms.MemoryStorage, others: int) -> None:
        self.storage = storage
        ordinary = [ms.Episode(task_description=f"ordinary task {n}") for n in range(others)]
        self.others = storage.episodes.save_many(ordinary)
        self.episode = storage.episodes.save(canary_episode())
        put = storage.embeddings.put_many
        put([("episode", one.id, self._ordinary(n)) for n, one in enumerate(self.others)], model="m", index=False)
        owners = [("episode", self.episode.id), *(("step", step.id) for step in self.episode.steps)]
        self.vectors: list[list[float]] = []
        for turn in range(2):  # each was another before
            vectors = [canary_vector(turn * 7 + n) for n in range(len(owners))]
            put([(*owner, vector) for owner, vector in zip(owners, vectors, strict=True)], model="m")
            self.vectors += vectors
        for owner in owners[:2]:
            storage.spatiotemporal.put(
                ms.SpatiotemporalEntry(
                    owner_type=owner[0], owner_id=owner[1], latitude=12.3, longitude=45.6, place_name=f"{CANARY}place"
                )
            )
        storage.embeddings.index.catch_up("m")
        for text in ("second", "third"):
            changed = {"task_description": f"{CANARY}{text}" * 300, "tags": [f"{CANARY}{text}tag"]}
            self.episode = storage.episodes.save(self.episode.model_copy(update=changed))
        storage.summaries.put(self.episode.id, f"{CANARY}resummed" * 300, key_steps=[f"{CANARY}late"])
        self.episode = storage.episodes.get(self.episode.id)
        storage.episodes.append_step(self.episode.id, ms.Step(tool=f"{CANARY}appended"))
        self.learned = storage.patterns.save(
            ms.Heuristic(condition=f"{CANARY}condition", action="a", evidence=[self.episode.id])
        )
        relationships = storage.relationships
        self.relationships = [
            relationships.add(self.episode.id, self.others[0].id, f"{CANARY}kind", metadata={CANARY: f"{CANARY}of"}),
            relationships.add(self.others[1].id, self.episode.id, "parent_child", metadata={"n": f"{CANARY}to"}),
        ]
        insert_checkpoint(storage, self.episode.id, f"{CANARY}state")
        self.shared = storage.patterns.save(
            ms.Heuristic(condition="c", action="a", confidence=0.1, evidence=[self.episode.id, self.others[0].id])
        )

    def _ordinary(self, number: int) -> list[float]:
        chance = random.Random(number)
        return [chance.gauss(0, 1) for _ in range(DIMENSION)]

    def needles(self) -> list[bytes]:
        """What must not be in any file: its words, its ids, its vectors as they were stored."""
        ids = [self.episode.id, self.learned.id, *(step.id for step in self.episode.steps)]
        ids += [one.id for one in self.relationships]
        vectors = [struct.pack(f"<{DIMENSION}f", *vector) for vector in self.vectors]
        with closing(dbapi.connect(":memory:", local_engine="libsql")) as connection:  # as in the edges of an index
            edges = [connection.execute("SELECT vector8(?)", (str(one),)).fetchone()[0] for one in self.vectors]
        # A word in an index lacks its ending, and what it shares with the one before it.
        return [
            CANARY[2:7].encode(),
            *(str(one).encode() for one in ids),
            *vectors,
            *(one[:DIMENSION] for one in edges),
        ]


def _files(path: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes().lower() for one in path.parent.glob(f"{path.name}*")}


def left_in(path: Path, needles: list[bytes]) -> set[tuple[str, bytes]]:
    """Which of them are in which of the files."""
    return {(name, needle) for name, data in _files(path).items() for needle in needles if needle.lower() in data}


@pytest.fixture
def canary(database) -> Iterator[Callable[..., Canary]]:
    opened = []

    def make(others: int = 20) -> Canary:
        settings = ms.Settings(database=str(database), vector_index="diskann")
        opened.append(ms.MemoryStorage.open(settings))
        return Canary(opened[-1], others)

    yield make
    for storage in opened:
        storage.close()


@pytest.mark.slow
def test_no_byte_of_an_erased_episode_remains_on_disk(canary, database):
    found = canary(EXACT_SCAN_MAX + 50)  # there is a vector index
    assert found.storage.embeddings.index.status()[0].indexed > EXACT_SCAN_MAX
    assert {needle for _, needle in left_in(database, found.needles())} == set(found.needles())

    done = found.storage.forget(episode=found.episode.id)

    assert done == ms.models.ErasureResult(episodes=1, patterns=1, patterns_changed=1, scrubbed=True)
    assert left_in(database, found.needles()) == set()
    assert_consistent(found.storage.engine)
    assert found.storage.embeddings.index.verify("m").is_healthy
    assert found.storage.embeddings.index.status()[0].indexed == EXACT_SCAN_MAX + 50


def test_an_erased_episode_is_found_by_no_method(storage):
    found = Canary(storage, 20)
    found.storage.forget(episode=found.episode.id)
    assert CANARY not in repr(dump(storage.engine))
    assert storage.episodes.find(found.episode.id) is None
    assert CANARY not in repr(list(storage.episodes.iterate(archived=None)))
    for words in (f"{CANARY}description", f"{CANARY}thirdtag", f"{CANARY}tool", f"{CANARY}output", f"{CANARY}*"):
        assert storage.episodes.count(text=words, archived=None) == 0
        assert not list(storage.episodes.search(words, archived=None))
    assert storage.episodes.count(tags_any=[f"{CANARY}tag", f"{CANARY}thirdtag"], archived=None) == 0
    assert storage.episodes.count(metadata={f"{CANARY}meta": f"{CANARY}value"}, archived=None) == 0
    for vector in found.vectors:
        hits = storage.episodes.similar_to(vector, model="m", k=100, archived=None)
        assert found.episode.id not in {hit.item.id for hit in hits}
        assert all(hit.similarity < 0.9999 for hit in hits)
    assert CANARY not in "".join(export_lines(storage))
    assert CANARY not in repr(storage.analytics.summary())
    assert CANARY not in repr(list(storage.patterns.iterate()) + list(storage.spatiotemporal.iterate()))
    assert not list(storage.patterns.search(f"{CANARY}condition"))
    assert_consistent(storage.engine)


def test_a_pattern_is_erased_if_no_evidence_remains(storage):
    found = Canary(storage, 3)
    done = storage.forget(episode=found.episode.id)
    assert (done.patterns, done.patterns_changed) == (1, 1)
    assert storage.patterns.find(found.learned.id) is None
    kept = storage.patterns.get(found.shared.id)
    assert kept.evidence == [found.others[0].id]
    assert kept.version == 2
    assert kept == found.shared.model_copy(
        update={"evidence": kept.evidence, "version": 2, "updated_at": kept.updated_at}
    )
    with pytest.raises(ms.ConflictError):
        storage.patterns.save(found.shared)


def test_a_stale_copy_does_not_restore_an_erased_episode(storage):
    found = Canary(storage, 3)
    everything = "\n".join(export_lines(storage)).encode()
    storage.forget(episode=found.episode.id)
    with pytest.raises(ms.ConflictError):
        storage.episodes.save(found.episode)
    with raises(ms.ValidationError, field="id", match="forgotten"):
        storage.episodes.save(found.episode.model_copy(update={"version": 0}))
    with raises(ms.NotFoundError, kind="episode"):
        storage.episodes.append_step(found.episode.id, ms.Step(tool="t"))
    assert storage.episodes.import_many([found.episode]) == 0
    with pytest.raises(ms.ConflictError):
        storage.patterns.save(found.learned)
    assert storage.patterns.import_many([found.learned]) == 0
    import_stream(storage, io.BytesIO(everything))
    assert CANARY not in repr(dump(storage.engine))
    assert_consistent(storage.engine)


def test_a_pattern_that_went_with_its_evidence_needs_a_new_id(storage):
    found = Canary(storage, 3)
    storage.forget(episode=found.episode.id)
    again = ms.Heuristic(id=found.learned.id, condition="c", action="a", evidence=[found.others[0].id])
    with pytest.raises(ms.ValidationError) as caught:
        storage.patterns.save(again)
    assert caught.value.field == "id"
    assert storage.patterns.save(again.model_copy(update={"id": uuid4()})).version == 1


def test_erasing_a_namespace_leaves_the_others_unchanged(database):
    with ms.MemoryStorage.open(database) as storage:
        mine = storage.in_namespace(f"{CANARY}-person")
        found = Canary(mine, 30)
        mine.embeddings.put("pattern", found.learned.id, [0.25] * DIMENSION, model="m")
        theirs = storage.in_namespace("another")
        Canary(theirs, 3).storage.forget(episode=Canary(theirs, 2).episode.id, scrub=False)
        for one in list(theirs.episodes.iterate(archived=None)):
            if CANARY in one.task_description:
                theirs.forget(episode=one.id, scrub=False)
        vector = [0.125 * number for number in range(1, 9)]
        for memory in (mine, theirs):
            word = CANARY if memory is mine else "other"
            value, vectors = (
                {f"{word}name": f"{word}value"},
                {f"{word}field": vector if memory is mine else vector[::-1]},
            )
            memory.items.put((f"{word}label",), f"{word}key", value, ttl=1e6, vectors=vectors, model=f"{word}model")
            memory.items.put((f"{word}label",), f"{word}short", value, ttl=1e-6)
            memory.logs.append(f"{word}log", [f"{word}record"] * 600, ids=[f"{word}id{n}" for n in range(600)])
            memory.logs.pop(f"{word}log")
        before = dump(storage.engine, namespace="another")

        done = storage.forget(namespace=f"{CANARY}-person")

        assert (done.episodes, done.patterns, done.scrubbed) == (31, 2, True)
        assert (done.items, done.records) == (2, 599)
        assert left_in(database, [*found.needles(), b"-person", struct.pack("<8f", *vector)]) == set()
        assert dump(storage.engine, namespace="another") == before
        assert not any(len(rows) for rows in dump(storage.engine, namespace=f"{CANARY}-person").values())
        assert mine.episodes.import_many([found.episode]) == 0
        assert mine.patterns.import_many([found.learned]) == 0
        assert mine.episodes.save(ms.Episode(task_description="a new beginning")).version == 1
        assert_consistent(storage.engine)


def test_deleted_bytes_stay_in_the_file_until_a_scrub(canary, database):
    found = canary()
    found.storage.episodes.delete(found.episode.id)
    found.storage.patterns.delete(found.learned.id)
    found.storage.patterns.delete(found.shared.id)
    assert left_in(database, found.needles())
    assert found.storage.scrub() == ms.models.ScrubResult(complete=True)
    assert left_in(database, found.needles()) == set()
    assert_consistent(found.storage.engine)


def test_without_scrub_the_result_reports_remaining_bytes(canary, database):
    found = canary()
    done = found.storage.forget(episode=found.episode.id, scrub=False)
    assert not done.scrubbed
    assert "not requested" in done.why
    assert found.storage.episodes.find(found.episode.id) is None
    assert found.storage.scrub().complete
    assert left_in(database, found.needles()) == set()


def test_forgetting_again_finishes_an_interrupted_erasure(canary, database):
    found = canary()
    found.storage.episodes.delete(found.episode.id)  # as far as it may have come
    assert found.storage.forget(episode=found.episode.id) == ms.models.ErasureResult(0, 1, 1, scrubbed=True)
    assert left_in(database, found.needles()) == set()
    assert found.storage.forget(episode=found.episode.id) == ms.models.ErasureResult(0, 0, 0, scrubbed=True)
    assert found.storage.episodes.import_many([found.episode]) == 0


def test_an_older_reader_is_waited_for_and_then_reported(database):
    settings = ms.Settings(database=str(database), request_timeout=0.5)
    with ms.MemoryStorage.open(settings) as storage:
        found = Canary(storage, 5)
        with storage.snapshot() as view:
            assert view.episodes.get(found.episode.id)
            done = storage.forget(episode=found.episode.id)
            assert not done.scrubbed
            assert "call scrub() again" in done.why
            assert view.episodes.get(found.episode.id)  # it sees what it saw
        assert storage.episodes.find(found.episode.id) is None
        assert storage.scrub().complete
        assert left_in(database, found.needles()) == set()


@pytest.mark.slow
def test_a_writer_holding_the_lock_too_long_is_named(database):
    settings = ms.Settings(database=str(database), request_timeout=0.5)
    with ms.MemoryStorage.open(settings) as storage, ms.MemoryStorage.open(settings) as other:
        Canary(storage, 5)
        taken, release = threading.Event(), threading.Event()

        def hold() -> None:
            with other.transaction() as tx:
                tx.episodes.save(ms.Episode(task_description="long"))
                taken.set()
                release.wait(30)

        thread = threading.Thread(target=hold)
        thread.start()
        taken.wait(30)
        with raises(ms.UnavailableError, code="SQLITE_BUSY"):
            storage.scrub()
        release.set()
        thread.join()
        assert storage.scrub().complete
        assert_consistent(storage.engine)


def test_a_foreign_vector_index_is_not_damaged(canary, database):
    found = canary()
    with found.storage.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE others (a F32_BLOB(3))")
        connection.exec_driver_sql("CREATE INDEX others_index ON others (libsql_vector_idx(a))")
    done = found.storage.forget(episode=found.episode.id)
    assert not done.scrubbed
    assert "others_index" in done.why
    with found.storage.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"


def test_indexes_created_during_a_scrub_are_repaired(database):
    with ms.MemoryStorage.open(database) as storage:
        Canary(storage, 5)
        index = storage.embeddings.index
        index.drop_all()
        with storage.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            other = storage.episodes.save(ms.Episode(task_description="another process makes an index"))
            storage.embeddings.put("episode", other.id, [1.0, 2.0], model="new")
            for _ in range(2):
                connection.exec_driver_sql("VACUUM")
        index.recreate_all()
        assert_consistent(storage.engine)
        assert len(storage.episodes.similar_to([1.0, 2.0], model="new")) == 1


@pytest.mark.slow
def test_indexes_lost_by_a_kill_are_recreated_on_open(database):
    with ms.MemoryStorage.open(database) as storage:
        found = Canary(storage, EXACT_SCAN_MAX + 50)
        storage.embeddings.index.drop_all()
    with ms.MemoryStorage.open(database) as storage:
        assert len(storage.episodes.similar_to(found.vectors[0], model="m", k=5)) == 5
        assert storage.scrub().complete
        assert storage.embeddings.index.verify("m").is_healthy
        assert_consistent(storage.engine)


@pytest.mark.slow
def test_on_a_server_the_result_names_what_is_not_erased(migrated_server_url):
    with ms.MemoryStorage.open(migrated_server_url) as storage:
        found = Canary(storage, EXACT_SCAN_MAX + 20)
        done = storage.forget(episode=found.episode.id)
        assert (done.episodes, done.scrubbed) == (1, False)
        assert "cannot be scrubbed by a client" in done.why
        assert CANARY not in repr(dump(storage.engine))
        assert storage.embeddings.index.status()[0].removed == 0
        with storage.engine.connect() as connection:
            words = connection.exec_driver_sql("SELECT block FROM episode_words_data").scalars()
            assert not [block for block in words if b"canary" in bytes(block)]
        assert_consistent(storage.engine)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({}, "episode"),
        ({"episode": "01a21382-4a81-7a49-bf73-f99184401087", "namespace": "n"}, "episode"),
        ({"episode": "no id"}, "id"),
    ],
)
def test_forget_needs_an_episode_or_a_namespace(storage, arguments, field):
    with raises(ms.ValidationError, field=field):
        storage.forget(**arguments)
    assert not any(row_counts(storage.engine).values())


def test_in_a_transaction_of_this_thread_it_is_refused_at_once(storage):
    with storage.transaction() as tx:
        tx.episodes.count()
        with pytest.raises(ms.UnavailableError, match="this thread already has an open transaction"):
            storage.forget(namespace="default")


@pytest.mark.slow
def test_the_file_of_an_index_in_memory_forgets_too(database):
    signs = [(-1.0) ** (n * n // 3) for n in range(DIMENSION)]
    quantized = [bytes(int(scale * sign) % 256 for sign in signs) for scale in (31, 32)]  # a quarter of 127
    others = [[random.gauss(0, 1) for _ in range(DIMENSION)] for _ in range(EXACT_SCAN_MAX + 100)]

    def has_canary() -> bool:
        sidecars = [path.read_bytes() for path in database.parent.glob(f"{database.name}*.usearch")]
        assert sidecars
        return any(one in data for one in quantized for data in sidecars)

    with ms.MemoryStorage.open(ms.Settings(database=str(database), vector_index="hnsw")) as storage:
        episodes = storage.episodes.save_many([ms.Episode(task_description="other") for _ in others])
        person = storage.episodes.save(ms.Episode(task_description=CANARY))
        owned = [("episode", one.id, vector) for one, vector in zip(episodes, others, strict=True)]
        storage.embeddings.put_many([*owned, ("episode", person.id, signs)], model="m")
        storage.embeddings.index.catch_up("m")
        assert has_canary()
        assert storage.forget(episode=person.id).scrubbed
        assert not has_canary()
        assert person.id not in {hit.item.id for hit in storage.episodes.similar_to(signs, model="m", k=50)}
