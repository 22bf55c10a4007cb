"""The full-text index follows the tables in batches, and no search misses what is not indexed yet."""

from __future__ import annotations

import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import memory_storage as ms
from memory_storage.search import planner
from memory_storage.search.statement import NEWEST
from memory_storage.sql.indexing import BATCH, INDEX_STEP
from tests.checks import assert_consistent, index_all

WORDS = ("alpha", "bravo", "kilo", "zulu", "http", "接続", "東京")


def _indexed(storage: ms.MemoryStorage) -> int:
    with storage.engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM episode_texts").scalar_one())


def _found(memory: ms.MemoryStorage, word: str) -> set[Any]:
    queried = {one.id for one in memory.episodes.query(text=word)}
    assert {hit.item.id for hit in memory.episodes.search(word, k=1_000)} == queried
    return queried


def test_a_file_is_indexed_by_the_write_that_makes_the_last_of_many_changes(database: Path):
    with ms.MemoryStorage.open(str(database)) as storage:
        storage.episodes.save(ms.Episode(task_description="first"))  # it indexes what others have left
        before = _indexed(storage)
        for number in range(BATCH - 1):
            storage.episodes.save(ms.Episode(task_description=f"episode {number}", steps=[ms.Step(tool="t")]))
        assert (before, _indexed(storage)) == (1, 1)
        storage.episodes.save(ms.Episode(task_description="last"))
        assert _indexed(storage) == 1 + 2 * (BATCH - 1) + 1
        assert storage.episodes.count(text="episode") == BATCH - 1


def test_a_server_is_indexed_by_each_write(migrated_server_url: str):
    with ms.MemoryStorage.open(migrated_server_url) as storage:
        storage.episodes.save(ms.Episode(task_description="first"))
        saved = storage.episodes.save(ms.Episode(task_description="alpha", steps=[ms.Step(tool="t")]))
        storage.episodes.append_step(saved.id, ms.Step(tool="bravo"))
        assert _indexed(storage) == 4
        assert _found(storage, "bravo") == {saved.id}


@pytest.mark.parametrize("word", ["alpha", "bravo", "charlie"])
def test_a_search_takes_no_longer_for_the_words_of_other_namespaces(engine_steps: list[int], word: str):
    costs: list[int] = []
    for others in (0, 2_000):
        with ms.MemoryStorage.open(ms.Settings(database=":memory:", local_engine="sqlite")) as storage:
            for name, texts, count in (
                ("first", "alpha bravo", others),
                ("own", "bravo", 20),
                ("last", "alpha", others),
            ):
                many = [ms.Episode(task_description=f"{texts} {number}") for number in range(count)]
                storage.in_namespace(name).episodes.save_many(many)
            index_all(storage.engine)
            memory = storage.in_namespace("own")
            memory.episodes.search(word)
            engine_steps[0] = 0
            found = memory.episodes.search(word)
            costs.append(engine_steps[0])
        assert len(found) == (10 if word == "bravo" else 0)
    assert costs[1] < 1.2 * costs[0]


def test_another_process_finds_what_is_not_indexed(database: Path):
    code = """
import sys, memory_storage as ms
with ms.MemoryStorage.open(sys.argv[1]) as storage:
    print(len(storage.episodes.search("zulu")), storage.episodes.count(text="zulu kilo"))
"""
    with ms.MemoryStorage.open(str(database)) as storage:
        storage.episodes.save(ms.Episode(task_description="first"))
        storage.episodes.save(ms.Episode(task_description="zulu", steps=[ms.Step(tool="kilo")]))
        assert _indexed(storage) == 1
        done = subprocess.run([sys.executable, "-c", code, str(database)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]


def test_a_transaction_finds_its_own_texts_and_a_rollback_leaves_none(storage: ms.MemoryStorage):
    class _UndoneError(Exception):
        pass

    with suppress(_UndoneError), storage.transaction() as tx:
        saved = tx.episodes.save(ms.Episode(task_description="alpha"))
        assert [hit.item.id for hit in tx.episodes.search("alpha")] == [saved.id]
        raise _UndoneError
    assert _found(storage, "alpha") == set()
    assert_consistent(storage.engine)


def test_a_snapshot_finds_the_texts_that_it_sees(database: Path):
    with ms.MemoryStorage.open(str(database)) as storage:
        storage.episodes.save(ms.Episode(task_description="first"))
        kept = storage.episodes.save(ms.Episode(task_description="alpha"))
        with storage.snapshot() as snapshot:
            assert snapshot.episodes.count() == 2
            storage.episodes.complete(kept.id, ms.Success(verdict="bravo"))
            for number in range(BATCH):
                storage.episodes.save(ms.Episode(task_description=f"alpha {number}"))
            assert {hit.item.id for hit in snapshot.episodes.search("alpha", k=100)} == {kept.id}
            assert snapshot.episodes.count(text="bravo") == 0
        assert storage.episodes.count(text="alpha") == BATCH + 1
        assert storage.episodes.count(text="bravo") == 1


class _History:
    """Changes of episodes at random, and the words that each part of them has."""

    def __init__(self, storage: ms.MemoryStorage) -> None:
        self.storage, self.chance = storage, random.Random(5)
        self.texts: dict[Any, dict[Any, str]] = {}  # of each episode: its own, and those of its steps
        self.changes = [self.save, self.append, self.append, self.append, self.end, self.change, self.remove]
        self.changes += [self.delete, self.again]

    def expected(self, word: str) -> set[Any]:
        return {one for one, parts in self.texts.items() if any(word in text for text in parts.values())}

    def take_a_step(self) -> str:
        change = self.chance.choice(self.changes) if self.texts else self.save
        change()
        return change.__name__

    def words(self) -> str:
        return " ".join(self.chance.sample(WORDS, 2))

    def episode(self) -> ms.Episode:
        return self.storage.episodes.get(self.chance.choice(list(self.texts)))

    def save(self) -> None:
        steps = [ms.Step(tool="t", action=self.words()) for _ in range(self.chance.randrange(4))]
        saved = self.storage.episodes.save(ms.Episode(task_description=self.words(), steps=steps))
        self.texts[saved.id] = {None: saved.task_description, **{step.id: step.action for step in steps}}

    def append(self) -> None:
        episode = self.episode()
        step = self.storage.episodes.append_step(episode.id, ms.Step(tool="t", action=self.words()))
        self.texts[episode.id][step.id] = step.action

    def end(self) -> None:
        episode, verdict = self.episode(), self.words()
        self.storage.episodes.complete(episode.id, ms.Success(verdict=verdict))
        self.texts[episode.id][None] = f"{episode.task_description} {verdict}"

    def change(self) -> None:
        episode, action = self.episode(), self.words()
        changed = [step.model_copy(update={"action": action}) for step in episode.steps[:1]]
        self.storage.episodes.save(episode.model_copy(update={"steps": [*changed, *episode.steps[1:]]}))
        self.texts[episode.id] |= {step.id: action for step in changed}

    def remove(self) -> None:
        episode = self.episode()
        for step in episode.steps[-1:]:
            self.storage.steps.delete(step.id)
            del self.texts[episode.id][step.id]

    def delete(self) -> None:
        episode = self.episode()
        self.storage.episodes.delete(episode.id)
        del self.texts[episode.id]

    def again(self) -> None:
        episode, text = self.episode(), self.words()
        self.storage.episodes.save(episode.model_copy(update={"task_description": text, "outcome": None}))
        self.texts[episode.id][None] = text


@pytest.mark.slow
@pytest.mark.whole_database
def test_every_history_of_changes_is_found_as_by_a_loop(storage: ms.MemoryStorage):
    history = _History(storage)
    for number in range(250):
        change = history.take_a_step()
        for word in WORDS if number % 5 == 0 else ():
            assert _found(storage, word) == history.expected(word), (number, change, word)
    assert_consistent(storage.engine)


def test_steps_that_were_indexed_in_many_parts_become_one_text_again(database: Path):
    with ms.MemoryStorage.open(str(database)) as storage:
        saved = storage.episodes.save(ms.Episode(task_description="first"))
        for number in range(1_100):
            storage.episodes.append_step(saved.id, ms.Step(tool=f"tool{number}"))
            with storage.engine.begin() as connection:
                connection.exec_driver_sql(INDEX_STEP.sql)
        assert _indexed(storage) == 1_024  # the last number was used, and what came later is in the log
        for _ in range(2):
            index_all(storage.engine)
            assert [storage.episodes.count(text=f"tool{number}") for number in range(0, 1_100, 11)] == [1] * 100
        assert 2 <= _indexed(storage) <= 1_000
        assert_consistent(storage.engine)


def test_steps_of_many_megabytes_are_divided(storage: ms.MemoryStorage):
    large = [ms.Step(tool=f"tool{number}", result=ms.StepOk(output="x" * 900_000)) for number in range(8)]
    saved = storage.episodes.save(ms.Episode(task_description="first", steps=large[:4]))
    for step in large[4:]:
        storage.episodes.append_step(saved.id, step)
    storage.episodes.save_many([ms.Episode(task_description="other") for _ in range(BATCH)])
    if storage.settings.server:
        assert _indexed(storage) >= BATCH + 4
    assert [storage.episodes.count(text=f"tool{number}") for number in range(8)] == [1] * 8
    assert_consistent(storage.engine)


def test_ranks_depend_on_no_other_namespace(database: Path, tmp_path: Path):
    chance = random.Random(3)
    episodes = [
        ms.Episode(
            task_description=" ".join(chance.choices(WORDS[:5], k=3)),
            steps=[ms.Step(tool="t", action=" ".join(chance.choices(WORDS[:5], k=2)))],
        )
        for _ in range(40)
    ]
    with (
        ms.MemoryStorage.open(str(tmp_path / "alone.db")) as alone,
        ms.MemoryStorage.open(str(database)) as shared,
    ):
        other = shared.in_namespace("other")
        for number, one in enumerate(episodes):
            alone.in_namespace("small").episodes.save(one)
            shared.in_namespace("small").episodes.save(one)
            other.episodes.save_many([ms.Episode(task_description="alpha bravo zulu") for _ in range(number % 7)])
        for text in ("alpha", "alpha zulu", "kilo http bravo"):
            here, there = (
                [(hit.item.id, hit.score) for hit in memory.in_namespace("small").episodes.search(text, k=40)]
                for memory in (alone, shared)
            )
            assert here == there, text


def test_of_a_frequent_word_the_newest_are_ranked_unless_the_filters_leave_too_few(storage, monkeypatch):
    monkeypatch.setattr(planner, "TEXT_DEPTH", 4)
    monkeypatch.setattr(planner, "MIN_TEXT_DEPTH", 4)
    old = storage.episodes.save_many([ms.Episode(task_description="alpha", tags=["old"]) for _ in range(3)])
    new = storage.episodes.save_many([ms.Episode(task_description="alpha") for _ in range(BATCH)])
    rare = storage.episodes.save(ms.Episode(task_description="alpha zulu"))
    storage.episodes.save_many([ms.Episode(task_description="other") for _ in range(BATCH)])
    hits = storage.episodes.search("alpha", k=3)
    assert hits.plan == NEWEST
    assert {hit.item.id for hit in hits} <= {rare.id, *(one.id for one in new)}
    assert storage.episodes.search("alpha zulu", k=1)[0].item.id == rare.id
    filtered = storage.episodes.search("alpha", k=3, tags_all=["old"])
    assert {hit.item.id for hit in filtered} == {one.id for one in old}
    assert storage.episodes.search("other missing", k=1).plan == NEWEST
    assert storage.episodes.search("missing").plan == ""


@pytest.mark.parametrize("text", ["alpha bravo", '"alpha beta"'])
def test_no_phrase_crosses_the_end_of_a_field(storage: ms.MemoryStorage, text: str):
    steps = [ms.Step(tool="alpha", action="beta"), ms.Step(tool="bravo")]
    storage.episodes.save(ms.Episode(task_description="first", steps=steps))
    assert storage.episodes.count(text=text) == int('"' not in text)
