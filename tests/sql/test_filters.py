"""Every filter, alone and combined, equals a plain loop over all rows."""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import memory_storage as ms
from memory_storage.models import RecallReceipt, Relationship
from tests.raising import raises
from tests.repositories import oracle

START = datetime(2024, 5, 1, tzinfo=timezone.utc)
LONG = "x" * 300
DOMAINS = ("web", "web-api", "WEB", "", "wéb", "%", "'--")
LANGUAGES = (None, "python", "Python", "")
TAGS = ("auth", "Auth", "db", "élan", "5-5", "a%", '"]')
KEYS = ("k", "a.b", 'q"[0]', "", "$.k", "ключ", "a\\b\nc", "'")
VALUES = ("5", 5, 5.0, 1, 1.0, True, False, None, "true", "null", "", 0.1 + 0.2, 0.3, -0.0, 0.0, 0, 1e308, 2**53 + 1)
LONG_VALUES = (
    LONG + "a",
    LONG + "b",
    LONG,
    '"' * 50,
    '"' * 51,
    "é" * 254,
    "é" * 255,
    "\n" * 200,
    "\n" * 127,
    "\n" * 128,
)
TOTALS = (-1.5, 0.0, 0.1 + 0.2, 0.3, 1e308, 5e-324)
MOMENTS = tuple(START + timedelta(microseconds=n) for n in (0, 1, 2, 3, 10**12))
RECORDS = tuple(UUID(int=number) for number in range(1, 5))
OUTCOMES = (
    None,
    ms.Success(verdict="alpha kilo"),
    ms.PartialSuccess(verdict="bravo", completed=["zulu"], failed=["500"]),
    ms.Failure(reason="http 500", error_details="kilo"),
    ms.Abstained(reason="q7", infeasibility_signals=["alpha"]),
)
TAG_LISTS = [[], *([tag] for tag in TAGS), ["auth", "db"], ["db", "élan", "a%"], ["absent"], ["auth", "absent"]]

PARENTS = [UUID(int=1), UUID(int=2)]

POOLS: dict[str, list[Any]] = {
    "task_type": list(ms.TaskType),
    "domain": [None, *DOMAINS],
    "language": list(LANGUAGES),
    "framework": list(LANGUAGES),
    "complexity": list(ms.Complexity),
    "outcome": [None, "success", "partial_success", "failure", "abstained"],
    "completed": [None, True, False],
    "tags_any": TAG_LISTS,
    "tags_all": TAG_LISTS,
    "metadata": [{key: value} for key in KEYS for value in VALUES + LONG_VALUES],
    "min_reward": list(TOTALS),
    "max_reward": list(TOTALS),
    "since": list(MOMENTS),
    "until": list(MOMENTS),
    "completed_since": list(MOMENTS),
    "completed_until": list(MOMENTS),
    "archived": [None, True, False],
    "child_of": [None, *PARENTS, UUID(int=3)],
    "recalled": list(RECORDS),
    "used": list(RECORDS),
    "text": [*oracle.WORDS, "alpha kilo", "http 500", "kilo zulu q7"],
}
PATTERN_POOLS: dict[str, list[Any]] = {
    "kind": ["tool_sequence", "decision_point", "error_recovery", "context_pattern", "heuristic"],
    "domain": list(DOMAINS),
    "domain_or_general": list(DOMAINS),
    "language": list(LANGUAGES),
    "tags_any": TAG_LISTS,
    "tags_all": TAG_LISTS,
    "min_success_rate": [0.0, 0.1 + 0.2, 0.3, 1.0],
    "min_occurrences": [1, 2, 2**33, 2**63 - 1],
}
FILTERS = {name: st.sampled_from(values) for name, values in POOLS.items()}
FILTERS["metadata"] = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=2) | FILTERS["metadata"]
PATTERN_FILTERS = {name: st.sampled_from(values) for name, values in PATTERN_POOLS.items()}


def _metadata(rng: random.Random) -> dict[str, Any]:
    values = VALUES + LONG_VALUES + ([5], {"k": 5})
    return {key: rng.choice(values) for key in rng.sample(KEYS, rng.randint(0, 4))}


def _words(rng: random.Random) -> str:
    return " ".join(rng.choices(oracle.WORDS, k=rng.randint(0, 3)))


def _receipt(rng: random.Random) -> RecallReceipt | None:
    shown = rng.sample(RECORDS, rng.randint(0, 3))
    used = rng.choice((None, rng.sample(shown, rng.randint(0, len(shown)))))
    receipt = RecallReceipt(id=UUID(int=9), items=[("pattern", one) for one in shown], used=used)
    return rng.choice((None, receipt))


def _episode(rng: random.Random) -> ms.Episode:
    total = rng.choice((None, *TOTALS))
    return ms.Episode(
        task_description=_words(rng),
        task_type=rng.choice(list(ms.TaskType)),
        context=ms.TaskContext(
            domain=rng.choice(DOMAINS),
            language=rng.choice(LANGUAGES),
            framework=rng.choice(LANGUAGES),
            complexity=rng.choice(list(ms.Complexity)),
            tags=rng.choice(([], ["auth"])),
        ),
        started_at=rng.choice(MOMENTS),
        completed_at=rng.choice((None, *MOMENTS)),
        outcome=rng.choice(OUTCOMES),
        reward=None if total is None else ms.RewardScore(total=total),
        reflection=rng.choice([None, ms.Reflection(successes=["kilo"], improvements=["zulu alpha"])]),
        recalled=_receipt(rng),
        tags=rng.sample(TAGS, rng.randint(0, 3)),
        metadata=_metadata(rng),
        steps=[ms.Step(tool=_words(rng), action=_words(rng)) for _ in range(rng.randint(0, 2))],
        version=rng.randint(1, 3),
        created_at=START,
        updated_at=START,
        archived_at=rng.choice([None, None, START]),
    )


def _pattern(rng: random.Random) -> Any:
    kind, fields = rng.choice(
        [
            (ms.ToolSequence, {"tools": ["a"]}),
            (ms.DecisionPoint, {"condition": "c", "action": "a"}),
            (ms.ErrorRecovery, {"error_type": "e", "recovery_steps": []}),
            (ms.ContextPattern, {"context_features": [], "recommended_approach": "r"}),
            (ms.Heuristic, {"condition": "c", "action": "a"}),
        ]
    )
    return kind(
        **fields,
        context=ms.TaskContext(
            domain=rng.choice(DOMAINS), language=rng.choice(LANGUAGES), tags=rng.choice(([], ["db"]))
        ),
        success_rate=rng.choice([0.0, 0.1 + 0.2, 0.3, 1.0]),
        occurrence_count=rng.choice([1, 2, 2**33, 2**63 - 1]),
        tags=rng.sample(TAGS, rng.randint(0, 3)),
        metadata=_metadata(rng),
    )


@pytest.fixture
def episodes(storage: ms.MemoryStorage) -> list[ms.Episode]:
    """200 of them, as they are stored, in the order of their saving."""
    rng = random.Random(11)
    found = [_episode(rng) for _ in range(200)]
    found[:2] = [one.model_copy(update={"id": key}) for one, key in zip(found, PARENTS, strict=False)]
    for child in found[2:]:
        child.metadata["parents"] = [str(key) for key in rng.sample(PARENTS, rng.randint(0, 2))]
    storage.episodes.import_many(found)
    relationships = [
        Relationship(from_id=parent, to_id=child.id, kind="parent_child")
        for child in found[2:]
        for parent in child.metadata["parents"]
    ]
    storage.relationships.add_many(relationships)
    storage.relationships.add(*PARENTS, "related_to")
    storage.in_namespace("default2").episodes.import_many(found[:50])
    return found


@pytest.fixture
def patterns(storage: ms.MemoryStorage) -> list[Any]:
    """100 of them, of all kinds, as they are stored, in the order of their saving."""
    rng = random.Random(12)
    found = storage.patterns.save_many([_pattern(rng) for _ in range(100)])
    storage.in_namespace("default2").patterns.import_many(found[:50])
    return found


def _assert_answers(storage: ms.MemoryStorage, episodes: list[ms.Episode], filters: dict[str, Any]) -> None:
    newest = oracle.episodes(episodes, **filters)
    assert list(storage.episodes.query(**filters)) == newest[:100]
    assert list(storage.episodes.query(**filters, limit=1000, direction="oldest_first")) == newest[::-1]
    assert list(storage.episodes.iterate(**filters)) == newest
    assert storage.episodes.count(**filters) == len(newest)


@pytest.mark.slow
def test_each_filter_alone_equals_a_loop(storage, episodes):
    for name in sorted(POOLS.keys() - {"metadata"}):
        for value in POOLS[name]:
            _assert_answers(storage, episodes, {name: value})


def test_each_metadata_value_is_found_by_an_equal_value(storage, episodes):
    for asked in POOLS["metadata"]:
        expected = {episode.id for episode in oracle.episodes(episodes, metadata=asked)}
        assert {episode.id for episode in storage.episodes.query(metadata=asked, steps=False)} == expected


@settings(max_examples=80)
@given(filters=oracle.some(**FILTERS))
@pytest.mark.slow
def test_filters_together_equal_a_loop(storage, episodes, filters):
    _assert_answers(storage, episodes, filters)


def test_every_field_of_the_filter_has_a_case_here():
    from memory_storage import models

    assert set(models.EpisodeFilter.model_fields) == set(FILTERS)
    assert set(models.PatternFilter.model_fields) == set(PATTERN_FILTERS)


def test_each_filter_of_patterns_alone_equals_a_loop(storage, patterns):
    for name, values in PATTERN_POOLS.items():
        for value in values:
            assert list(storage.patterns.query(**{name: value})) == oracle.patterns(patterns, **{name: value})


@settings(max_examples=80)
@given(filters=oracle.some(**PATTERN_FILTERS))
def test_filters_of_patterns_equal_a_loop(storage, patterns, filters):
    best = oracle.patterns(patterns, **filters)
    assert list(storage.patterns.query(**filters)) == best
    assert list(storage.patterns.iterate(**filters)) == best
    assert storage.patterns.count(**filters) == len(best)


def test_an_empty_list_or_dictionary_filters_nothing(storage, episodes):
    assert storage.episodes.count(tags_any=[], tags_all=[], metadata={}, archived=None) == 200


def test_a_repeated_tag_counts_once(storage, episodes):
    expected = oracle.episodes(episodes, tags_all=["db"])
    assert list(storage.episodes.query(tags_all=["db", "db"])) == expected != []


def test_steps_are_omitted_on_request(storage, episodes):
    expected = [episode.model_copy(update={"steps": []}) for episode in oracle.episodes(episodes, domain="web")]
    assert list(storage.episodes.query(domain="web", steps=False)) == expected != []


def test_a_number_beyond_64_bits_is_stored_but_not_filterable(storage, make_episode):
    episode = storage.episodes.save(make_episode(metadata={"k": 2**70, "j": 7}))
    assert storage.episodes.get(episode.id).metadata["k"] == 2**70
    assert storage.episodes.count(metadata={"j": 7}) == 1
    assert [storage.episodes.count(metadata={"k": other}) for other in (True, 7, float(2**70), "", None)] == [0] * 5
    with raises(ms.ValidationError, field="metadata.k") as caught:
        storage.episodes.count(metadata={"k": 2**70})
    assert (caught.value.field, caught.value.value) == ("metadata.k", 2**70)
