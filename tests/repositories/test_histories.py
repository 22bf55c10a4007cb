"""Any history of calls gives the results of a dictionary, and leaves indexes that agree with their tables."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import memory_storage as ms
from tests.checks import assert_consistent

from . import oracle

_number = itertools.count()

START = datetime(2024, 5, 1, tzinfo=timezone.utc)
METADATA_VALUES = ("5", 5, 5.0, True, False, None, "long " * 80 + "a", "long " * 80 + "b", 0.1 + 0.2, 0.3)

which = st.integers(0, 1000)
texts = st.lists(st.sampled_from(oracle.WORDS), max_size=3).map(" ".join)
domains = st.sampled_from(["web", "web-api", ""])
tag_lists = st.lists(st.sampled_from(["auth", "Auth", "db", "élan"]), max_size=3, unique=True)
metadata = st.dictionaries(st.sampled_from(["k", "a.b", 'q"[0]', ""]), st.sampled_from(METADATA_VALUES), max_size=2)
times = st.integers(0, 3).map(lambda hours: START + timedelta(hours=hours))
rewards = st.sampled_from([-1.0, 0.0, 0.5, 0.1 + 0.2])
outcomes = st.one_of(
    texts.map(lambda text: ms.Success(verdict=text, artifacts=[text])),
    texts.map(lambda text: ms.PartialSuccess(verdict="", completed=["x", text], failed=[])),
    texts.map(lambda text: ms.Failure(reason=text, error_details=None)),
    texts.map(lambda text: ms.Abstained(reason="", infeasibility_signals=[text])),
)
results = (
    st.none() | texts.map(lambda text: ms.StepOk(output=text)) | texts.map(lambda text: ms.StepError(message=text))
)
steps = st.builds(
    lambda tool, action, text, result: ms.Step(tool=tool, action=action, parameters={"q": text}, result=result),
    st.sampled_from(oracle.WORDS),
    texts,
    texts,
    results,
)
heads = st.fixed_dictionaries(
    {
        "task_description": texts,
        "task_type": st.sampled_from(list(ms.TaskType)[:2]),
        "context": domains.map(lambda domain: ms.TaskContext(domain=domain)),
        "started_at": times,
        "tags": tag_lists,
        "metadata": metadata,
        "outcome": st.none() | outcomes,
        "reward": st.none() | rewards.map(lambda total: ms.RewardScore(total=total)),
        "reflection": st.none() | texts.map(lambda text: ms.Reflection(insights=[text], generated_at=START)),
    }
)
filters = oracle.some(
    outcome=st.sampled_from(["success", "partial_success", "failure", "abstained"]),
    completed=st.booleans(),
    archived=st.none() | st.booleans(),
    task_type=st.sampled_from(list(ms.TaskType)[:2]),
    domain=domains,
    tags_any=tag_lists,
    tags_all=tag_lists,
    metadata=metadata,
    min_reward=rewards,
    max_reward=rewards,
    since=times,
    until=times,
    text=texts,
)


def _with_end(fields: dict[str, Any], old: ms.Episode) -> dict[str, Any]:
    """The fields, with an end that is not before their start."""
    return {**fields, "completed_at": old.completed_at and max(old.completed_at, fields["started_at"])}


class History(RuleBasedStateMachine):
    """The store on one side; on the other a dictionary, in the order in which its episodes were first saved."""

    def __init__(self, storage: ms.MemoryStorage) -> None:
        super().__init__()
        self.memory = storage.in_namespace(f"history {next(_number)}")
        self.engine = storage.engine
        self.known: dict[UUID, ms.Episode] = {}
        self.deleted: list[ms.Episode] = []

    def _one(self, index: int) -> ms.Episode:
        return list(self.known.values())[index % len(self.known)]

    def _learn(self, saved: ms.Episode) -> None:
        """Only the times that the store sets are taken from it."""
        old = self.known.get(saved.id)
        assert saved.created_at == (old.created_at if old else saved.updated_at) is not None
        self.known[saved.id] = saved

    @initialize(fields=heads, carried=st.lists(steps, max_size=2))
    def begin(self, fields: dict[str, Any], carried: list[ms.Step]) -> None:
        self.save_a_new_one(fields, carried)

    @rule(fields=heads, carried=st.lists(steps, max_size=2))
    def save_a_new_one(self, fields: dict[str, Any], carried: list[ms.Step]) -> None:
        episode = ms.Episode(**fields, steps=carried)
        saved = self.memory.episodes.save(episode)
        state = {"version": 1, "created_at": saved.created_at, "updated_at": saved.updated_at}
        assert saved == episode.model_copy(update=state)
        self._learn(saved)

    @precondition(lambda self: self.known)
    @rule(index=which, fields=heads, new=st.lists(steps, max_size=2), with_steps=st.booleans(), together=st.booleans())
    def save_one_again(
        self, index: int, fields: dict[str, Any], new: list[ms.Step], with_steps: bool, together: bool
    ) -> None:
        old = self._one(index)
        last = old.steps[-1].step_number or 0 if old.steps else 0
        added = [step.model_copy(update={"step_number": last + n}) for n, step in enumerate(new, 1)]
        carried = [*(old.steps if with_steps else []), *added]
        given = old.model_copy(update={**_with_end(fields, old), "steps": carried})
        saved = self.memory.episodes.save_many([given])[0] if together else self.memory.episodes.save(given)
        state = {"version": old.version + 1, "created_at": old.created_at, "updated_at": saved.updated_at}
        assert saved == given.model_copy(update={**state, "archived_at": old.archived_at})
        self._learn(saved.model_copy(update={"steps": [*old.steps, *added]}))

    @precondition(lambda self: self.known)
    @rule(index=which, fields=heads, step=steps)
    def save_a_stale_one(self, index: int, fields: dict[str, Any], step: ms.Step) -> None:
        old = self._one(index)
        number = (old.steps[-1].step_number or 0) + 1 if old.steps else 1
        changed = {
            **_with_end(fields, old),
            "task_description": "changed",
            "steps": [step.model_copy(update={"step_number": number})],
        }
        stale = old.model_copy(update={**changed, "version": old.version - 1})
        new = ms.Episode(task_description="must not be stored")
        for save in (lambda: self.memory.episodes.save(stale), lambda: self.memory.episodes.save_many([new, stale])):
            with pytest.raises(ms.ConflictError) as caught:
                save()
            assert (caught.value.expected, caught.value.actual) == (old.version - 1, old.version)
        assert self.memory.episodes.find(new.id) is None

    @precondition(lambda self: self.deleted)
    @rule(index=which)
    def save_a_deleted_one(self, index: int) -> None:
        with pytest.raises(ms.ConflictError) as caught:
            self.memory.episodes.save(self.deleted[index % len(self.deleted)])
        assert caught.value.actual is None

    @precondition(lambda self: self.known)
    @rule(index=which, step=steps)
    def append_a_step(self, index: int, step: ms.Step) -> None:
        old = self._one(index)
        appended = self.memory.episodes.append_step(old.id, step)
        number = (old.steps[-1].step_number or 0) + 1 if old.steps else 1
        assert appended == step.model_copy(update={"step_number": number})
        self.known[old.id] = old.model_copy(update={"steps": [*old.steps, appended]})

    @precondition(lambda self: any(episode.steps for episode in self.known.values()))
    @rule(index=which, number=which)
    def delete_a_step(self, index: int, number: int) -> None:
        owners = [episode for episode in self.known.values() if episode.steps]
        old = owners[index % len(owners)]
        gone = old.steps[number % len(old.steps)]
        assert self.memory.steps.delete(gone.id) is True
        assert self.memory.steps.delete(gone.id) is False
        state = {"version": old.version + 1, "updated_at": self.memory.episodes.get(old.id).updated_at}
        self.known[old.id] = old.model_copy(update={**state, "steps": [step for step in old.steps if step != gone]})

    @precondition(lambda self: self.known)
    @rule(index=which, outcome=outcomes, reward=st.none() | rewards, when=st.none() | times)
    def complete_one(self, index: int, outcome: Any, reward: float | None, when: datetime | None) -> None:
        old = self._one(index)
        when = when and max(when, old.started_at)
        ended = self.memory.episodes.complete(old.id, outcome, reward=reward, completed_at=when)
        changed = {
            "version": old.version + 1,
            "updated_at": ended.updated_at,
            "outcome": outcome,
            "reward": old.reward if reward is None else ms.RewardScore(total=reward),
            "completed_at": when or max(ended.updated_at, old.started_at),
        }
        assert ended == old.model_copy(update=changed)
        self.known[old.id] = ended

    @precondition(lambda self: self.known)
    @rule(index=which)
    def archive_one(self, index: int) -> None:
        old = self._one(index)
        archived = self.memory.episodes.archive(old.id)
        assert archived.archived_at is not None
        assert old.archived_at in (None, archived.archived_at)
        self.known[old.id] = old.model_copy(update={"archived_at": archived.archived_at})
        assert archived == self.known[old.id]

    @precondition(lambda self: self.known)
    @rule(index=which)
    def restore_one(self, index: int) -> None:
        old = self._one(index)
        self.known[old.id] = old.model_copy(update={"archived_at": None})
        assert self.memory.episodes.restore(old.id) == self.known[old.id]

    @precondition(lambda self: self.known)
    @rule(index=which)
    def delete_one(self, index: int) -> None:
        old = self._one(index)
        assert self.memory.episodes.delete(old.id) is True
        assert self.memory.episodes.delete(old.id) is False
        self.deleted.append(self.known.pop(old.id))

    @rule(asked=filters, newest_first=st.booleans())
    def query(self, asked: dict[str, Any], newest_first: bool) -> None:
        expected = oracle.episodes(self.known.values(), newest_first=newest_first, **asked)
        direction = "newest_first" if newest_first else "oldest_first"
        assert list(self.memory.episodes.query(**asked, direction=direction)) == expected
        assert self.memory.episodes.count(**asked) == len(expected)

    @rule()
    def read_everything(self) -> None:
        assert list(self.memory.episodes.iterate(archived=None)) == oracle.episodes(self.known.values(), archived=None)
        assert [self.memory.episodes.get(key) for key in self.known] == list(self.known.values())
        for episode in self.known.values():
            assert list(self.memory.steps.iterate(episode.id)) == episode.steps
            assert self.memory.steps.count(episode.id) == len(episode.steps)
        assert self.memory.steps.count() == sum(len(episode.steps) for episode in self.known.values())
        assert [self.memory.episodes.find(episode.id) for episode in self.deleted] == [None] * len(self.deleted)
        self._read_the_summary()

    def _read_the_summary(self) -> None:
        summary = self.memory.analytics.summary()
        kinds = [episode.outcome.kind if episode.outcome else "open" for episode in self.known.values()]
        assert {kind: figures.episodes for kind, figures in summary.outcomes.items()} == {
            kind: kinds.count(kind) for kind in kinds
        }
        assert summary.rows["episodes"] == len(self.known)
        assert sum(figures.steps for figures in summary.tools.values()) == self.memory.steps.count()

    def teardown(self) -> None:
        self.read_everything()
        assert_consistent(self.engine)


@pytest.mark.slow
@pytest.mark.whole_database
def test_any_history_leaves_the_store_as_it_leaves_a_dictionary(storage):
    run_state_machine_as_test(
        lambda: History(storage), settings=settings(max_examples=30, stateful_step_count=25, deadline=None)
    )
