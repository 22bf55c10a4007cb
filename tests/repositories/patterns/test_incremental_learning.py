"""Counts that are kept equal those of all episodes, whatever changed, failed or ran at the same time."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import memory_storage as ms
from memory_storage.repositories.patterns.learning import learner as learner_module
from memory_storage.repositories.patterns.learning.learner import Learner
from memory_storage.sql.session import SessionProtocol
from memory_storage.sql.statement import SqlTemplate
from tests.checks import assert_consistent

_COUNTS = SqlTemplate("""
SELECT kind, content, domain, language, task_type, episodes, successes, round(weight, 3), round(success_weight, 3)
FROM sequences WHERE namespace = :namespace ORDER BY kind, content, domain, language, task_type
""")
_ALL_IDS = SqlTemplate("SELECT id FROM episodes WHERE namespace = :namespace")
_QUEUE = SqlTemplate("SELECT count(*) FROM unlearned WHERE namespace = :namespace")


def _episode(dice: random.Random) -> ms.Episode:
    results = (ms.StepOk(), ms.StepError(message="ValueError: x"), ms.StepTimeout(), None)
    return ms.Episode(
        task_description="t",
        steps=[ms.Step(tool=dice.choice("abc"), result=dice.choice(results)) for _ in range(dice.randint(0, 6))],
        outcome=dice.choice([ms.Success(verdict="v"), ms.Failure(reason="r"), None]),
        context=ms.TaskContext(domain=dice.choice(["web", "data"])),
    )


def _session(storage: ms.MemoryStorage) -> SessionProtocol:
    return storage.patterns._session


def _counts(storage: ms.MemoryStorage) -> list[Any]:
    session = _session(storage)
    return [tuple(row) for row in session.read(_COUNTS.bind(namespace=session.namespace))]


def _counts_from_the_start(storage: ms.MemoryStorage) -> list[Any]:
    """The counts of a new storage with the same episodes, archived ones included."""
    session = _session(storage)
    ids = [row[0] for row in session.read(_ALL_IDS.bind(namespace=session.namespace))]
    with ms.MemoryStorage.open(":memory:") as other:
        other.episodes.import_many([storage.episodes.get(one) for one in ids])
        Learner(_session(other)).run()
        return _counts(other)


def _save(storage: ms.MemoryStorage, dice: random.Random, episode: ms.Episode) -> None:
    storage.episodes.save_many([_episode(dice) for _ in range(dice.randint(1, 8))])


def _append(storage: ms.MemoryStorage, dice: random.Random, episode: ms.Episode) -> None:
    storage.episodes.append_step(episode.id, ms.Step(tool=dice.choice("abc"), result=ms.StepOk()))


def _remove_step(storage: ms.MemoryStorage, dice: random.Random, episode: ms.Episode) -> None:
    storage.episodes.save(episode.model_copy(update={"steps": list(episode.steps)[:-1]}))


def _judge(storage: ms.MemoryStorage, dice: random.Random, episode: ms.Episode) -> None:
    outcome = dice.choice([ms.Success(verdict="v"), ms.Failure(reason="r")])
    storage.episodes.save(episode.model_copy(update={"outcome": outcome}))


def _move(storage: ms.MemoryStorage, dice: random.Random, episode: ms.Episode) -> None:
    storage.episodes.save(episode.model_copy(update={"context": ms.TaskContext(domain="moved")}))


def _complete(storage: ms.MemoryStorage, dice: random.Random, episode: ms.Episode) -> None:
    if episode.outcome is None:
        storage.episodes.complete(episode.id, ms.Failure(reason="r"))


def _fail_step(storage: ms.MemoryStorage, dice: random.Random, episode: ms.Episode) -> None:
    steps = [one.model_copy(update={"result": ms.StepTimeout()}) for one in episode.steps]
    storage.episodes.save(episode.model_copy(update={"steps": steps}))


def _archive(storage: ms.MemoryStorage, dice: random.Random, episode: ms.Episode) -> None:
    storage.episodes.archive(episode.id)


def _delete(storage: ms.MemoryStorage, dice: random.Random, episode: ms.Episode) -> None:
    storage.episodes.delete(episode.id)


def _forget(storage: ms.MemoryStorage, dice: random.Random, episode: ms.Episode) -> None:
    storage.forget(episode=episode.id, scrub=False)


def _learn(storage: ms.MemoryStorage, dice: random.Random, episode: ms.Episode) -> None:
    Learner(_session(storage)).run()


_CHANGES = (_save, _append, _remove_step, _judge, _move, _complete, _fail_step, _archive, _delete, _forget, _learn)


@given(seed=st.integers(0, 2**32), changes=st.lists(st.sampled_from(_CHANGES), max_size=20))
def test_any_changes_are_counted_as_from_the_start(
    storage: ms.MemoryStorage, seed: int, changes: list[Callable[..., None]]
) -> None:
    dice = random.Random(seed)
    memory = storage.in_namespace(f"changes {ms.Episode(task_description='').id}")
    memory.episodes.save_many([_episode(dice) for _ in range(8)])
    Learner(_session(memory)).run()
    for change in changes:
        episodes = list(memory.episodes.iterate())
        if episodes:
            change(memory, dice, dice.choice(episodes))
    Learner(_session(memory)).run()
    assert _counts(memory) == _counts_from_the_start(memory)
    assert _session(memory).read(_QUEUE.bind(namespace=memory.namespace)) == [(0,)]
    assert_consistent(memory.engine)


class _InterruptedError(Exception):
    """The process ends here."""


class _Wrapped:
    """A session that does what another one does, but for what a subclass does instead."""

    def __init__(self, session: SessionProtocol) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


class _Interrupting(_Wrapped):
    """A session that ends the process after a number of writes."""

    def __init__(self, session: SessionProtocol, writes: int) -> None:
        super().__init__(session)
        self._writes = writes

    def write(self, steps: Any) -> Any:
        if not self._writes:
            raise _InterruptedError
        self._writes -= 1
        return self._session.write(steps)


@pytest.mark.parametrize("writes", range(12))
def test_learning_that_is_interrupted_anywhere_goes_on(storage, writes, monkeypatch):
    dice = random.Random(writes)
    monkeypatch.setattr(learner_module, "_FIRST_ROWS", 20)
    monkeypatch.setattr(learner_module, "_FIRST_EPISODES", 10)
    storage.episodes.save_many([_episode(dice) for _ in range(60)])
    for _ in range(2):  # the first count, then what has changed since
        with suppress(_InterruptedError):
            Learner(_Interrupting(_session(storage), writes), pause=lambda _: None).run()
        storage.episodes.delete(next(iter(storage.episodes.iterate())).id)
        storage.episodes.save_many([_episode(dice) for _ in range(20)])
        Learner(_session(storage), pause=lambda _: None).run()
        assert _counts(storage) == _counts_from_the_start(storage)
        storage.episodes.save_many([_episode(dice) for _ in range(60)])
    assert_consistent(storage.engine)


def test_learners_at_the_same_time_count_each_episode_once(storage):
    dice = random.Random(7)
    storage.episodes.save_many([_episode(dice) for _ in range(200)])
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(storage.patterns.learn) for _ in range(4)]:
            future.result()
        storage.episodes.save_many([_episode(dice) for _ in range(200)])
        for future in [pool.submit(storage.patterns.learn) for _ in range(4)]:
            future.result()
    assert _counts(storage) == _counts_from_the_start(storage)


class _Overtaken(_Wrapped):
    """A session before each write of which another learner is faster, as long as there is something to learn."""

    def __init__(self, session: SessionProtocol) -> None:
        super().__init__(session)
        self._other = Learner(session)

    def write(self, steps: Any) -> Any:
        self.other_learns()
        return self._session.write(steps)

    def other_learns(self, _: float = 0.0) -> None:
        self._other._learn_changed(self._other._state())


def test_a_learner_waits_for_another_one_that_is_faster(storage, monkeypatch):
    monkeypatch.setattr(learner_module, "_QUEUE", 3)
    dice = random.Random(14)
    storage.episodes.save_many([_episode(dice) for _ in range(20)])
    Learner(_session(storage)).run()
    storage.episodes.save_many([_episode(dice) for _ in range(120)])
    overtaken = _Overtaken(_session(storage))
    assert Learner(overtaken, pause=overtaken.other_learns).run() == 0
    assert _counts(storage) == _counts_from_the_start(storage)


def test_what_is_saved_while_it_learns_is_learned(tmp_path: Path) -> None:
    dice = random.Random(8)
    with ms.MemoryStorage.open(tmp_path / "memory.db") as storage:
        storage.episodes.save_many([_episode(dice) for _ in range(500)])
        stop = threading.Event()
        waits: list[float] = []

        def write() -> None:
            own = random.Random(9)
            while not stop.is_set():
                saved = storage.episodes.save(_episode(own))
                began = monotonic()
                if own.random() < 0.5:
                    storage.episodes.delete(saved.id)
                waits.append(monotonic() - began)

        writer = threading.Thread(target=write)
        writer.start()
        for _ in range(5):
            storage.patterns.learn(min_episodes=20)
        stop.set()
        writer.join()
        assert waits
        storage.patterns.learn()
        assert _counts(storage) == _counts_from_the_start(storage)
        assert_consistent(storage.engine)


def test_a_namespace_that_is_forgotten_leaves_no_count(storage):
    dice = random.Random(10)
    memory = storage.in_namespace("zqnamespace")
    memory.episodes.save_many([_episode(dice) for _ in range(20)])
    memory.patterns.learn(min_episodes=1)
    assert _counts(memory)
    storage.forget(namespace="zqnamespace")
    for table in ("learning", "learned", "sequences", "unlearned"):
        query = SqlTemplate(f"SELECT count(*) FROM {table}").bind()
        assert _session(storage).read(query) == [(0,)], table


class _Forgetting(_Wrapped):
    """A session whose namespace is forgotten before one of its reads."""

    def __init__(self, storage: ms.MemoryStorage, reads: int) -> None:
        super().__init__(_session(storage))
        self._storage, self._reads = storage, reads

    def read(self, step: Any) -> Any:
        if not self._reads:
            self._storage.forget(namespace=self._storage.namespace, scrub=False)
        self._reads -= 1
        return self._session.read(step)


@pytest.mark.parametrize("reads", range(4))
def test_a_namespace_may_be_forgotten_while_it_is_learned(storage, reads):
    dice = random.Random(14)
    memory = storage.in_namespace("soon forgotten")
    memory.episodes.save_many([_episode(dice) for _ in range(20)])
    Learner(_Forgetting(memory, reads), pause=lambda _: None).run()
    assert _counts(memory) == []
    memory.episodes.save_many([_episode(dice) for _ in range(20)])
    Learner(_session(memory)).run()
    assert _counts(memory) == _counts_from_the_start(memory)


def test_namespaces_are_learned_apart(storage):
    dice = random.Random(11)
    one, other = storage.in_namespace("one"), storage.in_namespace("other")
    for memory in (one, other):
        memory.episodes.save_many([_episode(dice) for _ in range(20)])
        memory.patterns.learn()
    before = _counts(other)
    one.episodes.delete(next(iter(one.episodes.iterate())).id)
    one.patterns.learn()
    assert _counts(other) == before
    assert _counts(one) == _counts_from_the_start(one)


def test_to_learn_reads_only_what_changed(storage):
    dice = random.Random(12)
    storage.episodes.save_many([_episode(dice) for _ in range(300)])
    assert Learner(_session(storage)).run() > 0
    assert Learner(_session(storage)).run() == 0
    saved = storage.episodes.save(_episode(dice).model_copy(update={"outcome": ms.Success(verdict="v")}))
    assert Learner(_session(storage)).run() == 1
    storage.episodes.delete(saved.id)
    assert Learner(_session(storage)).run() == 0


def test_in_a_transaction_all_are_counted_in_memory(storage):
    dice = random.Random(13)
    storage.episodes.save_many([_episode(dice) for _ in range(60)])
    with storage.transaction() as tx:
        within = tx.patterns.learn(min_lift=1.0)
    assert _counts(storage) == []
    assert storage.patterns.learn(min_lift=1.0) == within


def test_long_names_and_long_episodes_are_learned_in_short_portions(storage, monkeypatch):
    monkeypatch.setattr(learner_module, "_PORTION_CHARACTERS", 300)
    name = "tool " * 1_000
    outcome = ms.Success(verdict="v")
    runs = [
        ms.Episode(task_description="t", outcome=outcome, steps=[ms.Step(tool=f"{n % 7}{name}") for n in range(30)])
        for _ in range(5)
    ]
    storage.patterns.learn()
    storage.episodes.save_many(runs)
    learned = storage.patterns.learn(min_lift=1.0)
    assert learned
    assert {len(tool) for one in learned if isinstance(one, ms.ToolSequence) for tool in one.tools} == {200}
    assert _counts(storage) == _counts_from_the_start(storage)
