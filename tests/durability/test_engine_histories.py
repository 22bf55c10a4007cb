"""Any history of calls by two engines, which take turns with one file, gives the results of a dictionary."""

from __future__ import annotations

import math
import os
import struct
import tempfile
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import memory_storage as ms
from memory_storage import dbapi, doctor
from memory_storage.backup import back_up, restore
from tests.backends import needs_libsql
from tests.checks import assert_consistent
from tests.raising import raises
from tests.repositories import oracle

from .work import ENGINES, settings_of

pytestmark = needs_libsql
HISTORIES = int(os.environ.get("MEMORY_STORAGE_ENGINE_HISTORIES", "8"))
KEY = "the key of both engines"
START = datetime(2024, 5, 1, tzinfo=timezone.utc)
DIMENSIONS = {"small": 3, "wide": 8}

which = st.integers(0, 1000)
words = st.lists(st.sampled_from(oracle.WORDS), max_size=3).map(" ".join)
models = st.sampled_from(sorted(DIMENSIONS))
vectors = st.lists(st.sampled_from([-1.5, -0.1, 0.0, 0.3, 2.0]), min_size=8, max_size=8).filter(lambda v: any(v[:3]))
steps = st.builds(
    lambda tool, text: ms.Step(tool=tool, action=text, result=ms.StepOk(output=text)),
    st.sampled_from(oracle.WORDS),
    words,
)
numbers = st.sampled_from([1 / 3, 0.1 + 0.2, 1e16, 0.5, 7])  # some of which the engines write with other digits
points = st.fixed_dictionaries({"latitude": st.integers(-60, 60), "longitude": st.integers(-170, 170)})


class Exchange(RuleBasedStateMachine):
    """A file on one side, dictionaries on the other. The engines take turns: each step ends with the other one."""

    def __init__(self) -> None:
        super().__init__()
        self._directory = tempfile.TemporaryDirectory()
        self._files = 0
        self._key: str | None = None
        self._engine = "sqlite"
        self.storage: ms.MemoryStorage
        self.episodes: dict[UUID, ms.Episode] = {}
        self.vectors: dict[tuple[str, UUID], ms.models.Embedding] = {}
        self.patterns: dict[UUID, ms.AnyPattern] = {}
        self.places: dict[UUID, ms.SpatiotemporalEntry] = {}
        self.erased: list[ms.Episode] = []

    @initialize(engine=st.sampled_from(ENGINES), encrypted=st.booleans(), texts=st.tuples(words, words))
    def begin(self, engine: str, encrypted: bool, texts: tuple[str, str]) -> None:
        self._engine, self._key = engine, KEY if encrypted else None
        self._path = self._new_path()
        self._open()
        for text in texts:
            self.save(text, None, 1 / 3)

    @rule(text=words, step=st.none() | steps, number=numbers)
    def save(self, text: str, step: ms.Step | None, number: float) -> None:
        metadata = {"ratio": number}
        episode = ms.Episode(task_description=text, steps=[step] if step else [], started_at=START, metadata=metadata)
        saved = self.storage.episodes.save(episode)
        assert saved == episode.model_copy(
            update={"version": 1, "created_at": saved.created_at, "updated_at": saved.updated_at}
        )
        self.episodes[saved.id] = saved

    @precondition(lambda self: self.episodes)
    @rule(index=which, text=words, number=numbers)
    def save_again(self, index: int, text: str, number: float) -> None:
        old = self._one(index)
        changes = {"task_description": text, "metadata": {"ratio": number}}
        saved = self.storage.episodes.save(old.model_copy(update=changes))
        assert (saved.version, saved.task_description, saved.steps) == (old.version + 1, text, old.steps)
        self.episodes[old.id] = saved

    @precondition(lambda self: self.episodes)
    @rule(index=which, step=steps)
    def append_a_step(self, index: int, step: ms.Step) -> None:
        old = self._one(index)
        appended = self.storage.episodes.append_step(old.id, step)
        assert appended == step.model_copy(update={"step_number": len(old.steps) + 1})
        self.episodes[old.id] = old.model_copy(update={"steps": [*old.steps, appended]})

    @precondition(lambda self: self.episodes)
    @rule(index=which, text=words, reward=st.none() | st.sampled_from([-1.0, 0.1 + 0.2]))
    def complete(self, index: int, text: str, reward: float | None) -> None:
        old = self._one(index)
        ended = self.storage.episodes.complete(old.id, ms.Success(verdict=text), reward=reward)
        assert ended.outcome == ms.Success(verdict=text)
        self.episodes[old.id] = ended

    @precondition(lambda self: self.episodes)
    @rule(index=which, archived=st.booleans())
    def archive_or_restore(self, index: int, archived: bool) -> None:
        episodes, old = self.storage.episodes, self._one(index)
        changed = episodes.archive(old.id) if archived else episodes.restore(old.id)
        assert (changed.archived_at is not None) is archived
        self.episodes[old.id] = changed

    @precondition(lambda self: self.episodes)
    @rule(index=which)
    def delete(self, index: int) -> None:
        old = self._one(index)
        assert self.storage.episodes.delete(old.id)
        self._lose(old)

    @precondition(lambda self: self.episodes)
    @rule(index=which, scrub=st.booleans())
    def forget(self, index: int, scrub: bool) -> None:
        old = self._one(index)
        result = self.storage.forget(episode=old.id, scrub=scrub)
        assert (result.scrubbed, result.why) == (scrub, result.why if not scrub else "")
        self._lose(old)
        self.erased.append(old)

    @precondition(lambda self: self.erased)
    @rule(index=which)
    def save_an_erased_one(self, index: int) -> None:
        erased = self.erased[index % len(self.erased)]
        with raises(ms.ValidationError, field="id"):
            self.storage.episodes.save(ms.Episode(id=erased.id, task_description="again"))

    @precondition(lambda self: self.episodes)
    @rule(index=which, model=models, vector=vectors)
    def embed(self, index: int, model: str, vector: list[float]) -> None:
        owner = self._one(index).id
        self.storage.embeddings.put("episode", owner, vector[: DIMENSIONS[model]], model=model)
        stored = self.storage.embeddings.get("episode", owner, model=model)
        assert stored.vector == _rounded(vector[: DIMENSIONS[model]])
        self.vectors[model, owner] = stored

    @rule(
        model=models, vector=vectors, archived=st.sampled_from([None, False]), mode=st.sampled_from(["exact", "auto"])
    )
    def search_vectors(self, model: str, vector: list[float], archived: bool | None, mode: Any) -> None:
        self._search(vector, model, archived, mode)

    @rule(word=st.sampled_from(oracle.WORDS))
    def search_text(self, word: str) -> None:
        expected = {one.id: one for one in oracle.episodes(self.episodes.values(), text=word)}
        assert {one.id: one for one in self.storage.episodes.query(text=word)} == expected
        hits = self.storage.episodes.search(word, k=50)
        assert {hit.item.id for hit in hits} == expected.keys()

    @rule(number=numbers)
    def search_metadata(self, number: float) -> None:
        found = {one.id for one in self.storage.episodes.query(metadata={"ratio": number}, archived=None)}
        assert found == {one.id for one in self.episodes.values() if one.metadata == {"ratio": number}}

    @rule(condition=words, index=which, success=st.booleans())
    def learn(self, condition: str, index: int, success: bool) -> None:
        pattern = self.storage.patterns.save(ms.Heuristic(condition=condition, action="act"))
        self.patterns[pattern.id] = pattern
        used = list(self.patterns)[index % len(self.patterns)]
        self.storage.patterns.record_application(used, success=success, reward_delta=0.1)
        self.patterns[used] = self.storage.patterns.get(used)

    @precondition(lambda self: self.episodes)
    @rule(index=which, point=points, hours=st.none() | st.integers(0, 5))
    def place(self, index: int, point: dict[str, int], hours: int | None) -> None:
        starts_at = None if hours is None else START + timedelta(hours=hours)
        owner = {"owner_type": "episode", "owner_id": self._one(index).id}
        entry = self.storage.spatiotemporal.put(ms.SpatiotemporalEntry(**owner, **point, starts_at=starts_at))
        self.places[entry.id] = entry

    @rule(south=st.integers(-61, 60), west=st.integers(-171, 170))
    def search_places(self, south: int, west: int) -> None:
        box = ms.Box(south=south, west=west, north=min(90, south + 45), east=min(180, west + 90))
        inside = {
            one.id
            for one in self.places.values()
            if box.south <= (one.latitude or 0) <= box.north and box.west <= (one.longitude or 0) <= box.east
            if self.episodes[one.owner_id].archived_at is None  # the default of a search
        }
        assert {one.id for one in self.storage.spatiotemporal.within(box)} == inside

    @rule(mode=st.sampled_from(["PASSIVE", "TRUNCATE"]))
    def checkpoint(self, mode: str) -> None:
        with self.storage.engine.connect() as connection:
            assert connection.exec_driver_sql(f"PRAGMA wal_checkpoint({mode})").one()[0] == 0

    @rule()
    def scrub(self) -> None:
        assert self.storage.scrub().complete

    @rule()
    def back_up_and_restore_by_the_other(self) -> None:
        """The history continues with the restored file."""
        copy = self._new_path()
        back_up(self.storage, copy)
        self.storage.close()
        self._path, self._engine = self._new_path(), self._other
        restore(copy, settings_of(self._path, self._engine, self._key))
        self._open()

    @rule(vector=vectors)
    def use_an_hnsw_index(self, vector: list[float]) -> None:
        self._use("hnsw", vector)

    @rule(vector=vectors)
    def use_a_diskann_index(self, vector: list[float]) -> None:
        """Only libSQL has one; with "auto" it opens the file, until the index is dropped."""
        self._engine = "libsql"
        self._use("diskann", vector)

    @invariant()
    def the_other_engine_reads_the_same(self) -> None:
        self.storage.close()
        self._engine = self._other
        self._open()
        storage = self.storage
        assert {one.id: one for one in storage.episodes.iterate(archived=None)} == self.episodes
        assert {(one.model, one.owner_id): one for one in storage.embeddings.iterate()} == self.vectors
        assert {one.id: one for one in storage.patterns.iterate()} == self.patterns
        assert {one.id: one for one in storage.spatiotemporal.iterate()} == self.places
        assert storage.episodes.count(archived=None) == len(self.episodes)
        assert storage.steps.count() == sum(len(one.steps) for one in self.episodes.values())

    def teardown(self) -> None:
        for engine in ENGINES:
            self.storage.close()
            self._engine = engine
            self._open()
            assert_consistent(self.storage.engine)
            for model in DIMENSIONS:
                self._search([0.3] * 8, model, None, "exact")
            self.storage.close()
            assert doctor.check(self._settings()).findings == []
        self._directory.cleanup()

    def _use(self, source: Any, vector: list[float]) -> None:
        self.storage.close()
        with ms.MemoryStorage.open(self._settings(vector_index=source)) as self.storage:
            self.storage.embeddings.index.switch_to(source)
            for model in DIMENSIONS:
                self._search(vector, model, None, "auto")
        has_index = source == "diskann" and bool(self.vectors)
        connection = dbapi.connect(str(self._path), encryption_key=self._key)
        assert not has_index or connection.local_engine == "libsql"
        connection.close()
        self._open()
        self.storage.embeddings.index.switch_to("exact")

    def _search(self, vector: list[float], model: str, archived: bool | None, mode: Any) -> None:
        wanted = _rounded(vector[: DIMENSIONS[model]])
        hits = self.storage.episodes.similar_to(wanted, model=model, k=5, archived=archived, mode=mode, steps=False)
        exact = {
            owner: _cosine(one.vector, wanted)
            for (name, owner), one in self.vectors.items()
            if name == model and (archived is None or self.episodes[owner].archived_at is None)
        }
        best = sorted(exact.values(), reverse=True)[:5]
        assert len(hits) == len(best)
        for hit, similarity in zip(hits, best, strict=True):  # of equal ones any may come first
            assert hit.similarity is not None
            assert abs(hit.similarity - similarity) < 1e-6
            assert abs(exact[hit.item.id] - similarity) < 1e-6

    def _one(self, index: int) -> ms.Episode:
        return list(self.episodes.values())[index % len(self.episodes)]

    def _lose(self, episode: ms.Episode) -> None:
        del self.episodes[episode.id]
        self.vectors = {key: one for key, one in self.vectors.items() if one.owner_id != episode.id}
        self.places = {key: one for key, one in self.places.items() if one.owner_id != episode.id}

    @property
    def _other(self) -> str:
        return ENGINES[self._engine == ENGINES[0]]

    def _settings(self, **fields: Any) -> ms.Settings:
        return settings_of(self._path, self._engine, self._key, **fields)

    def _open(self) -> None:
        self.storage = ms.MemoryStorage.open(self._settings())

    def _new_path(self) -> Path:
        self._files += 1
        return Path(self._directory.name) / f"{self._files}.db"


def _rounded(vector: Iterable[float]) -> list[float]:
    """As 32 bits hold it."""
    return [struct.unpack("<f", struct.pack("<f", one))[0] for one in vector]


def _cosine(one: list[float], other: list[float]) -> float:
    return sum(map(float.__mul__, one, other)) / (math.hypot(*one) * math.hypot(*other))


def test_engines_that_take_turns_leave_what_a_dictionary_has():
    run_state_machine_as_test(
        Exchange, settings=settings(max_examples=HISTORIES, stateful_step_count=20, deadline=None)
    )
