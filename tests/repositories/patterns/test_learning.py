"""Patterns are mined from successes, deterministically, and keep counters and edits."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

import memory_storage as ms
from memory_storage.importers import import_file
from tests.backends import in_memory
from tests.checks import assert_consistent
from tests.importers.transcripts import REAL, write_airline

GOOD, BAD = ms.Success(verdict="v"), ms.Failure(reason="r")


def _step(tool: str) -> ms.Step:
    if tool.endswith("!"):
        return ms.Step(tool=tool[:-1], result=ms.StepError(message="Error: 7 is too many"), latency_ms=5)
    return ms.Step(tool=tool, result=ms.StepOk(), latency_ms=10)


def _episode(tools: str, outcome: Any = GOOD, **fields: Any) -> ms.Episode:
    return ms.Episode(task_description="t", steps=[_step(tool) for tool in tools.split()], outcome=outcome, **fields)


def _sequences(patterns: list[ms.AnyPattern]) -> list[ms.ToolSequence]:
    return [one for one in patterns if isinstance(one, ms.ToolSequence)]


def _fill(storage: ms.MemoryStorage) -> None:
    good = [_episode("look edit test") for _ in range(6)]
    bad = [_episode("look guess", BAD) for _ in range(5)]
    mixed = [_episode("book! sum book"), _episode("book! sum book"), _episode("book! sum book", BAD)]
    storage.episodes.save_many([*good, *bad, *mixed, _episode("look edit", outcome=None)])


def test_what_leads_to_success_is_learned_and_nothing_else(storage):
    _fill(storage)
    learned = storage.patterns.learn(lengths=(2, 3), min_episodes=3)
    sequences = {tuple(one.tools): one for one in learned if isinstance(one, ms.ToolSequence)}
    assert set(sequences) == {("look", "edit", "test")}  # its parts have the same episodes
    best = sequences["look", "edit", "test"]
    assert (best.success_rate, best.occurrence_count, best.avg_latency_ms) == (1.0, 6, 30)
    assert len(best.evidence) == 6
    assert all(storage.episodes.get(one).outcome == GOOD for one in best.evidence)
    (recovery,) = [one for one in learned if isinstance(one, ms.ErrorRecovery)]
    assert (recovery.error_type, recovery.recovery_steps) == ("… is too many", ["sum", "book"])
    assert (recovery.success_rate, recovery.occurrence_count, len(recovery.evidence)) == (2 / 3, 3, 2)
    assert recovery.metadata == {"tool": "book"}
    assert storage.patterns.count(tags_all=["learned"]) == len(learned)


@pytest.mark.whole_database
def test_to_learn_again_changes_nothing(storage):
    _fill(storage)
    learned = storage.patterns.learn(min_episodes=3)
    assert storage.patterns.learn(min_episodes=3) == learned
    assert storage.patterns.count() == len(learned)
    assert_consistent(storage.engine)


def test_ids_are_of_the_content_in_every_database(storage):
    _fill(storage)
    first = storage.patterns.learn(lengths=(2, 2), min_episodes=3)
    with ms.MemoryStorage.open(":memory:") as other:
        _fill(other)
        assert [one.id for one in other.patterns.learn(lengths=(2, 2), min_episodes=3)] == [one.id for one in first]
    ids = {tuple(one.tools): one.id for one in first if isinstance(one, ms.ToolSequence)}
    assert ids["look", "edit"] == UUID("65528e4d-9a15-5ab9-97bf-5ae68ecc9a30")


def test_a_plan_is_learned_once_and_a_more_frequent_part_too(storage):
    plan = [_episode("look edit test push") for _ in range(19)]
    part = [_episode("look edit") for _ in range(3)]
    storage.episodes.save_many([*plan, *part, *[_episode("guess guess", BAD) for _ in range(9)]])
    learned = {tuple(one.tools): one.occurrence_count for one in _sequences(storage.patterns.learn())}
    assert learned == {("look", "edit", "test", "push"): 19, ("look", "edit"): 22}


@pytest.mark.whole_database
def test_learning_again_keeps_counters_and_edits(storage):
    _fill(storage)
    before = storage.patterns.learn(min_episodes=3)[0]
    storage.patterns.record_application(before.id, success=True, reward_delta=0.1 + 0.2)
    storage.patterns.record_retrieval(before.id)
    known = storage.patterns.get(before.id)
    written = storage.patterns.save(
        known.model_copy(update={"description": "mine", "tags": ["mine"], "metadata": {"a": 1}})
    )
    storage.episodes.save_many([_episode(" ".join(before.tools), BAD), _episode(" ".join(before.tools))])
    (after,) = [one for one in storage.patterns.learn(min_episodes=3) if one.id == before.id]
    assert after == storage.patterns.get(before.id)
    assert (after.occurrence_count, after.success_rate) == (8, 7 / 8)
    assert (after.description, after.tags, after.metadata) == ("mine", ["mine"], {"a": 1})
    assert after.effectiveness == written.effectiveness == known.effectiveness
    assert after.effectiveness.times_applied == 1
    assert after.version == written.version + 1
    assert after.created_at == before.created_at
    assert_consistent(storage.engine)


def test_patterns_that_are_not_found_again_stay(storage):
    _fill(storage)
    learned = storage.patterns.learn(min_episodes=3)
    for episode in list(storage.episodes.iterate()):
        storage.episodes.delete(episode.id)
    assert storage.patterns.learn(min_episodes=3) == []
    assert storage.patterns.count() == len(learned)


def test_a_context_that_all_episodes_share_is_the_patterns(storage):
    web = ms.TaskContext(domain="web-api", language="python")
    storage.episodes.save_many([_episode("look edit", context=web) for _ in range(5)])
    storage.episodes.save_many([_episode("book! sum book", context=web) for _ in range(5)])
    storage.episodes.save_many([_episode("guess", BAD) for _ in range(5)])
    learned = storage.patterns.learn()
    assert {one.kind for one in learned} == {"tool_sequence", "error_recovery"}
    assert [one.context for one in learned] == [web] * len(learned)
    found = storage.patterns.query(domain="web-api", language="python")
    assert {one.id for one in found} == {one.id for one in learned}
    assert storage.patterns.learn(domain="web-api", min_lift=1.0)
    assert storage.patterns.count() == len(learned)  # a filter that all of them pass makes no second ones


def test_a_context_that_episodes_do_not_share_stays_open(storage):
    web, data = ms.TaskContext(domain="web", language="python"), ms.TaskContext(domain="data", language="python")
    storage.episodes.save_many([_episode("look edit", context=web) for _ in range(5)])
    storage.episodes.save_many([_episode("look edit", BAD, context=data), _episode("look edit", context=data)])
    assert [one.context for one in storage.patterns.learn(min_lift=1.0)] == [ms.TaskContext(language="python")]
    assert [one.context for one in storage.patterns.learn(domain="web", min_lift=1.0)] == [web]
    storage.episodes.save(_episode("look edit"))  # without a language
    assert [one.context for one in storage.patterns.learn(min_lift=1.0)] == [ms.TaskContext()]


PLAN = ["read issue", "search", "open", "edit", "run tests", "edit again", "run all tests", "commit"]


def test_a_long_plan_is_one_pattern_found_by_domain_and_words(storage):
    """The plan of 19 episodes was once 8 patterns, of the domain `general`, that no word of its tasks found."""
    web, data = ms.TaskContext(domain="web-api"), ms.TaskContext(domain="data")

    def plan(name: str) -> ms.Episode:
        steps = [ms.Step(tool=tool, result=ms.StepOk(), latency_ms=10) for tool in PLAN]
        task = f"Fix the flaky token refresh of {name}"
        return ms.Episode(task_description=task, steps=steps, outcome=GOOD, context=web)

    storage.episodes.save_many([plan(f"service {chr(97 + n)}") for n in range(19)])
    storage.episodes.save_many([_episode("guess give-up", BAD, context=data) for _ in range(9)])
    (learned,) = _sequences(storage.patterns.learn())
    assert (learned.tools, learned.occurrence_count, learned.avg_latency_ms) == (PLAN, 19, 80)
    assert learned in storage.patterns.query(domain="web-api").items
    assert [hit.item for hit in storage.patterns.search("token that is flaky", k=1)] == [learned]
    assert _sequences(storage.patterns.learn()) == [learned]


def test_sequences_that_overlap_in_other_episodes_stay_apart(storage):
    storage.episodes.save_many([_episode("a b c d x b c d e") for _ in range(6)])
    storage.episodes.save_many([_episode("guess", BAD) for _ in range(6)])
    learned = {tuple(one.tools) for one in _sequences(storage.patterns.learn(min_lift=1.5))}
    assert tuple("abcdxbcde") in learned
    assert all("".join(one) in "abcdxbcde" for one in learned)  # no "abcde", which no episode has


def test_a_choice_is_learned_where_it_decides(storage):
    storage.episodes.save_many([_episode("look edit test") for _ in range(12)])
    storage.episodes.save_many([_episode("look guess test", BAD) for _ in range(12)])
    choices = [one for one in storage.patterns.learn() if isinstance(one, ms.DecisionPoint)]
    assert [(one.condition, one.action) for one in choices] == [("after look", "edit")]
    (choice,) = choices
    assert (choice.success_count, choice.failure_count) == (12, 0)
    assert choice.statistics is not None
    assert (choice.statistics.baseline_rate, choice.statistics.lift) == (0.5, 2.0)
    assert 1.0 < choice.statistics.lift_low < 2.0 == choice.statistics.lift_high
    assert choice.statistics.false_discovery_rate < 0.05


def test_what_leads_to_failure_is_to_be_avoided_unless_by_chance(storage):
    storage.episodes.save_many([_episode("look edit") for _ in range(12)])
    storage.episodes.save_many([_episode("guess push", BAD) for _ in range(12)])
    storage.episodes.save_many([_episode("ask wait", BAD), _episode("ask wait", BAD)])
    avoided = [one for one in storage.patterns.learn(min_episodes=2) if isinstance(one, ms.Heuristic)]
    assert [one.description for one in avoided] == ["avoid guess \u2192 push"]
    assert all(storage.episodes.get(one).outcome == BAD for one in avoided[0].evidence)


def test_a_plan_that_helps_in_one_domain_alone_is_of_it(storage):
    web, data = ms.TaskContext(domain="web"), ms.TaskContext(domain="data")
    for good, bad in ((web, data), (data, web)):
        tools = "cache retry" if good is web else "sort join"
        storage.episodes.save_many([_episode(tools, context=good) for _ in range(10)])
        storage.episodes.save_many([_episode(tools, BAD, context=bad) for _ in range(10)])
    learned = storage.patterns.learn()
    by_domain = {(one.context.domain, tuple(one.tools)) for one in _sequences(learned)}
    assert by_domain == {("web", ("cache", "retry")), ("data", ("sort", "join"))}
    assert {one.statistics.baseline_rate for one in _sequences(learned) if one.statistics} == {0.5}


def test_the_expected_rate_follows_the_latest_episodes(storage):
    def run(day: int, outcome: Any, tools: str = "look edit") -> ms.Episode:
        start = datetime(2023, 1, 1, tzinfo=timezone.utc) + timedelta(days=day)
        return _episode(tools, outcome, started_at=start, completed_at=start)

    storage.episodes.save_many([run(n, GOOD) for n in range(20)] + [run(n, BAD, "guess") for n in range(20)])
    (before,) = _sequences(storage.patterns.learn(min_lift=1.1))
    storage.episodes.save_many([run(720 + n, BAD) for n in range(20)] + [run(720 + n, GOOD, "ask") for n in range(20)])
    assert _sequences(storage.patterns.learn(min_lift=1.1)) == []
    after = storage.patterns.get(before.id)
    assert before.statistics is not None
    assert after.statistics is not None
    assert (before.success_rate, after.success_rate, after.occurrence_count) == (1.0, 0.5, 40)
    assert before.statistics.expected_rate > 0.9
    assert after.statistics.expected_rate < 0.1  # the successes are 8 half-lives old
    assert 16 < after.statistics.effective_episodes < 20.2  # their month weighs a little less
    assert after.evidence == before.evidence


def test_a_pattern_that_is_deleted_while_it_is_learned_stays_deleted(storage, monkeypatch):
    _fill(storage)
    storage.patterns.learn(min_episodes=3)
    storage.episodes.save_many([_episode("other plan", BAD) for _ in range(40)])
    known = list(storage.patterns.iterate())
    monkeypatch.setattr(type(storage.patterns), "iterate", lambda *_, **__: iter(known))
    for one in known:
        storage.patterns.delete(one.id)
    storage.patterns.learn(min_episodes=39)
    assert not {one.id for one in known} & {one.id for one in storage.patterns.query()}


TASKS = [f"Fix the flaky token refresh of service {name}" for name in ("a1", "b2", "zqcanary", "c3", "d4", "e5")]


def test_a_pattern_is_found_by_the_words_of_its_tasks(storage):
    for task in TASKS:
        storage.episodes.save(_episode("look edit").model_copy(update={"task_description": task}))
    storage.episodes.save_many([_episode("guess", BAD) for _ in range(5)])
    (learned,) = storage.patterns.learn()
    assert learned.description == "look \u2192 edit (tasks: fix, flaky, token, refresh, service)"
    for words in ("flaky tokens", "a token that needs a refresh", "Fix it"):
        assert [hit.item for hit in storage.patterns.search(words)] == [learned]
    assert not storage.patterns.search("zqcanary")  # of one task alone
    assert storage.patterns.learn() == [learned]


def test_erasing_an_episode_removes_the_words_of_its_task(storage):
    for task in ("fix zqsecret", "check zqsecret", "fix it", "fix them", "check it", "check them"):
        storage.episodes.save(_episode("look edit").model_copy(update={"task_description": task}))
    storage.episodes.save_many([_episode("guess", BAD) for _ in range(5)])
    (learned,) = storage.patterns.learn()
    assert "zqsecret" in learned.description
    for episode in storage.episodes.query(text="zqsecret"):
        storage.forget(episode=episode.id, scrub=False)
    left = storage.patterns.get(learned.id)
    assert left.description == "look \u2192 edit"
    assert len(left.evidence) == 4
    assert not storage.patterns.search("zqsecret")


def test_tasks_in_a_script_without_spaces_are_found_too(storage):
    for place in ("\u6771\u4eac", "\u5927\u962a", "\u4eac\u90fd", "\u798f\u5ca1", "\u5948\u826f"):
        task = f"{place}\u306e\u5929\u6c17\u3092\u8abf\u3079\u308b"
        storage.episodes.save(_episode("look edit").model_copy(update={"task_description": task}))
    storage.episodes.save_many([_episode("guess", BAD) for _ in range(5)])
    (learned,) = storage.patterns.learn()
    assert [hit.item for hit in storage.patterns.search("\u5929\u6c17")] == [learned]


def test_what_a_person_wrote_about_the_tasks_stays(storage):
    for task in TASKS:
        storage.episodes.save(_episode("look edit").model_copy(update={"task_description": task}))
    storage.episodes.save_many([_episode("guess", BAD) for _ in range(5)])
    (learned,) = storage.patterns.learn()
    storage.patterns.save(learned.model_copy(update={"description": "look \u2192 edit (tasks: mine)"}))
    assert storage.patterns.learn()[0].description == "look \u2192 edit (tasks: mine)"


def test_success_may_be_a_reward(storage):
    for total in (0.9, 0.2):
        reward = ms.RewardScore(total=total)
        storage.episodes.save_many([_episode(f"tool{total} then", None, reward=reward) for _ in range(5)])
    assert storage.patterns.learn() == []
    learned = storage.patterns.learn(success_reward=0.5)
    assert [one.tools for one in _sequences(learned)] == [["tool0.9", "then"]]
    assert [one.description for one in learned if isinstance(one, ms.Heuristic)] == ["avoid tool0.2 \u2192 then"]


def test_a_recovery_ends_at_success_or_after_five_steps(storage):
    for tools in ("a! b a! c a d", "x! 1 2 3 4 5 x", "y! y! y!", "z! a"):
        storage.episodes.save(_episode(tools))
    learned = storage.patterns.learn(min_episodes=1, min_lift=99.0)
    assert sorted(one.recovery_steps for one in learned) == [["b", "a", "c", "a"], ["c", "a"]]


@given(
    runs=st.lists(st.tuples(st.lists(st.sampled_from(["a", "b", "b!", "ü→"]), max_size=6), st.booleans()), max_size=12),
    most=st.integers(1, 6),
)
def test_any_history_is_learned_twice_with_one_result(storage, runs, most):
    memory = storage.in_namespace(f"example {ms.Episode(task_description='').id}")
    memory.episodes.save_many([_episode(" ".join(tools), GOOD if well else BAD) for tools, well in runs])
    learned = memory.patterns.learn(min_episodes=2, min_lift=1.0, max_patterns=most)
    assert learned == memory.patterns.learn(min_episodes=2, min_lift=1.0, max_patterns=most)
    assert sorted(one.id for one in memory.patterns.iterate()) == sorted(one.id for one in learned)
    rates = {row.tools: row for row in memory.analytics.sequences((2, 4), min_episodes=2, limit=1000)}
    for one in learned:
        if isinstance(one, ms.ToolSequence) and len(one.tools) <= 4:  # a longer one is joined
            figures = rates[tuple(one.tools)]
            assert (one.success_rate, one.occurrence_count) == (figures.success.rate, figures.episodes)
            assert figures.lift >= 1.0


@pytest.mark.parametrize("runs", ["made", "real"] if REAL.exists() else ["made"])
def test_transcripts_teach_something_twice_the_same(storage, tmp_path, runs):
    import_file(storage, REAL if runs == "real" else write_airline(tmp_path / "runs.jsonl"))
    learned = storage.patterns.learn(lengths=(1, 4), min_episodes=3, min_lift=1.0)
    assert learned
    assert {one.version for one in storage.patterns.learn(lengths=(1, 4), min_episodes=3, min_lift=1.0)} == {1}


def test_former_names_of_arguments_work_and_warn():
    former = r"(least_episodes|most|reward_at_least)=\.\.\.\) is deprecated"
    with ms.MemoryStorage.open(":memory:") as memory:
        with pytest.warns(DeprecationWarning, match=former) as seen:
            memory.patterns.learn(least_episodes=1, most=2, reward_at_least=0.5)
        assert [one.filename for one in seen] == [__file__] * 3
        with pytest.warns(DeprecationWarning, match=former):
            memory.analytics.sequences(least_episodes=1, reward_at_least=0.5)
        with pytest.warns(DeprecationWarning, match=former):
            memory.analytics.by("tool", reward_at_least=0.5)
        with pytest.raises(TypeError, match="both 'min_episodes' and its old name 'least_episodes'"):
            memory.patterns.learn(min_episodes=1, least_episodes=1)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"lengths": (0, 2)}, "lengths"),
        ({"lengths": 3.5}, "lengths"),
        ({"min_episodes": 0}, "min_episodes"),
        ({"min_lift": float("nan")}, "min_lift"),
        ({"min_lift": None}, "min_lift"),
        ({"max_patterns": 501}, "max_patterns"),
        ({"evidence": 0}, "evidence"),
        ({"success_reward": True}, "success_reward"),
        ({"task_type": "no such"}, "task_type"),
    ],
)
@in_memory
def test_what_cannot_be_learned_is_refused(storage, asked, field):
    with pytest.raises(ms.ValidationError) as caught:
        storage.patterns.learn(**asked)
    assert caught.value.field == field
