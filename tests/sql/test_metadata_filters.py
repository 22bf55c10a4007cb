"""Metadata filters with operators, paths and logic equal a plain loop over all rows."""

from __future__ import annotations

import math
import random
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import memory_storage as ms
from memory_storage.sql import document_filters
from memory_storage.sql.document_filters import document_conditions
from memory_storage.sql.statement import SqlTemplate
from tests.backends import in_memory
from tests.raising import raises
from tests.repositories import oracle

LONG = "x" * 300
MISREAD = -48.80190682023213  # SQLite reads it as its neighbour
NAMES = (
    "a",
    "b",
    "c",
    "a.b",
    "b.c",
    'q"x',
    'q".a',
    "",
    "$gte",
    "$and",
    "$x",
    "ключ",
    "a\\b",
    "a\\.b",
    "a[0]",
    "'\n",
    "b\\",
)
KEYS = (
    *("a", "b", "c", "a.b", "a.c", "b.c", "a.b.c", "b.a.c", 'q"x', 'a.q"x', 'q"x.a', 'q"x.q".a', "", ".", "a."),
    *(
        "\\$gte",
        "\\$and",
        "a.$gte",
        "ключ",
        "a.ключ",
        "a\\b",
        "a.a\\b",
        "a\\.b",
        "a.b\\.c",
        "a\\\\.b",
        "a[0]",
        "a.0",
        "'\n",
    ),
    *("b\\\\.a", "\\\\", "\\"),
)
NUMBERS = (
    *(0, 0.0, -0.0, 1, 1.0, 3, -1, 2.5, 0.1 + 0.2, 0.3, 5e-324, 1e308, 1.7976931348623157e308, MISREAD),
    *(2**53, 2**53 + 1, float(2**53), 2**60, 2**60 + 1, float(2**60), 2**63 - 1, float(2**63), -(2**63), 1e22),
)
STRINGS = ("", "1", "a", "b", "é", "\U0001f600", "\uffff", LONG, LONG + "a", 'q"', "true", "null", "[1]", "{}")
SCALARS = (*NUMBERS, *STRINGS, True, False, None)

scalars = st.sampled_from(SCALARS)
ordered = st.sampled_from(NUMBERS + STRINGS)
lists = st.lists(scalars, max_size=12)
operations = st.one_of(
    *(st.fixed_dictionaries({name: scalars}) for name in ("$eq", "$ne", "$contains")),
    *(st.fixed_dictionaries({name: ordered}) for name in ("$gt", "$gte", "$lt", "$lte")),
    *(st.fixed_dictionaries({name: lists}) for name in ("$in", "$nin")),
    st.fixed_dictionaries({"$exists": st.booleans()}),
    st.fixed_dictionaries({"$gte": ordered, "$lt": ordered}),
)
expressions = operations | operations.map(lambda one: {"$not": one})
comparisons = st.dictionaries(st.sampled_from(KEYS), scalars | expressions, min_size=1, max_size=2)
filters = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        *(st.fixed_dictionaries({name: st.lists(inner, min_size=1, max_size=3)}) for name in ("$and", "$or")),
        inner.map(lambda one: {"$not": one}),
        st.tuples(comparisons, inner).map(lambda both: {**both[0], **both[1]}),
    ),
    max_leaves=5,
)


def _value(rng: random.Random, levels: int) -> Any:
    kind = rng.random()
    if levels and kind < 0.35:
        return {name: _value(rng, levels - 1) for name in rng.sample(NAMES, rng.randint(0, 5))}
    if kind < 0.5:
        return [_value(rng, 0) for _ in range(rng.randint(0, 3))]
    return rng.choice(SCALARS)


def _metadata(rng: random.Random) -> dict[str, Any]:
    return {name: _value(rng, 2) for name in rng.sample(NAMES, rng.randint(0, 8))}


@pytest.fixture
def episodes(storage: ms.MemoryStorage) -> list[ms.Episode]:
    rng = random.Random(5)
    found = [ms.Episode(task_description="word", metadata=_metadata(rng)) for _ in range(150)]
    storage.episodes.save_many(found)
    storage.in_namespace("other").episodes.save_many(
        [one.model_copy(update={"id": ms.models.new_id()}) for one in found]
    )
    return found


def _assert_answers(storage: ms.MemoryStorage, episodes: list[ms.Episode], metadata: dict[str, Any]) -> None:
    expected = {one.id for one in episodes if oracle.matches(one.metadata, metadata)}
    assert {one.id for one in storage.episodes.query(metadata=metadata, steps=False, limit=1000)} == expected
    assert storage.episodes.count(metadata=metadata) == len(expected)
    assert {hit.item.id for hit in storage.episodes.search("word", metadata=metadata, k=200)} == expected


@settings(max_examples=300)
@given(metadata=filters)
@example(metadata={"$or": [{"a": 1}, {"$and": [{"b": "a"}, {"c": {"$gt": 0}}]}]})
@example(metadata={"$or": [{"a": {"$in": []}}, {"b": LONG}]})
def test_filters_equal_a_loop(storage, episodes, metadata):
    _assert_answers(storage, episodes, metadata)


def test_every_key_is_found_by_each_operator(storage, episodes):
    for key in KEYS:
        for expression in ({"$exists": True}, {"$ne": 1}, {"$gte": 0.3}, {"$lt": "b"}, {"$contains": 1}, {"$eq": 1}):
            expected = {one.id for one in episodes if oracle.matches(one.metadata, {key: expression})}
            found = storage.episodes.query(metadata={key: expression}, steps=False, limit=1000)
            assert {one.id for one in found} == expected, (key, expression)


def test_a_key_with_a_dollar_and_a_value_is_a_key(storage, episodes):
    for value in SCALARS:
        _assert_answers(storage, episodes, {"$x": value})


@pytest.mark.parametrize("key", ["v", 'we"ird', "in.side", 'in.we"ird'])
def test_order_is_exact_between_adjacent_numbers(storage, key):
    around = [MISREAD, 0.1 + 0.2, 1.0, float(2**53), 2**53 + 1, 2**60, 1e22, 5e-324]
    numbers: list[Any] = [*around, *(math.nextafter(one, end) for one in around for end in (-math.inf, math.inf))]
    numbers += [2**53 - 1, 2**53 + 2, 2**60 - 1, 2**60 + 1, 1]
    name = key.partition(".")[2] or key
    storage.episodes.save_many(
        [
            ms.Episode(task_description=str(n), metadata={"in": {name: one}} if "." in key else {name: one})
            for n, one in enumerate(numbers)
        ]
    )
    for wanted in numbers:
        for operator in ("$gt", "$gte", "$lt", "$lte", "$eq"):
            found = storage.episodes.query(metadata={key: {operator: wanted}}, steps=False)
            expected = {n for n, one in enumerate(numbers) if oracle._OPERATORS[operator](one, wanted)}
            assert {int(one.task_description) for one in found} == expected, (operator, wanted)


def test_an_integer_beyond_64_bits_is_ordered_as_its_float(storage, make_episode):
    storage.episodes.save(make_episode(metadata={"k": 2**70}))
    assert storage.episodes.count(metadata={"k": {"$gt": 2**63 - 1}}) == 1
    assert storage.episodes.count(metadata={"k": {"$lt": 1e300}}) == 1
    assert storage.episodes.count(metadata={"k": float(2**70)}) == 0


def test_a_condition_without_an_index_tests_what_another_filter_found(storage, episodes):
    storage.episodes.save(ms.Episode(task_description="word", tags=["tagged"], metadata={"a": {"b": 7}}))
    assert storage.episodes.count(tags_all=["tagged"], metadata={"a.b": {"$gt": 6}}) == 1
    assert storage.episodes.count(tags_all=["tagged"], metadata={"a.b": {"$gt": 7}}) == 0


def test_changed_metadata_is_found_by_what_it_is_now(storage, make_episode):
    saved = storage.episodes.save(make_episode(metadata={"a": 1, "b": {"c": 1}}))
    storage.episodes.save(saved.model_copy(update={"metadata": {"a": 2, "b": {"c": 2}}}))
    assert storage.episodes.count(metadata={"$or": [{"a": 1}, {"a": {"$in": ["x"]}}]}) == 0
    assert storage.episodes.count(metadata={"$or": [{"a": 2}, {"a": {"$in": ["x"]}}], "b.c": 2}) == 1


REFUSED: list[tuple[Any, str, str]] = [
    ({"k": {"$regex": "x"}}, "metadata.k", "$contains"),
    ({"a.b": {"$gt": 1, "$size": 2}}, "metadata.a.b", "$exists"),
    ({"$nor": [{"a": 1}]}, "metadata.$nor", "$and, $or, $not"),
    ({"$gte": 3}, "metadata.$gte", "follows a key"),
    ({"$and": 1}, "metadata.$and", "list"),
    ({"$or": []}, "metadata.$or", "list"),
    ({"$or": [{}]}, "metadata.$or.0", "at least one"),
    ({"$or": [{"a": 1}, 5]}, "metadata.$or.1", "dictionary"),
    ({"$not": []}, "metadata.$not", "dictionary"),
    ({"$not": {}}, "metadata.$not", "at least one"),
    ({"k": {}}, "metadata.k", "$gte"),
    ({"k": {"inner": 1}}, "metadata.k", "key.inner"),
    ({"k": {"$gt": 1, "inner": 1}}, "metadata.k", "key.inner"),
    ({"k": [1]}, "metadata.k", "$in"),
    ({"k": {"$in": "abc"}}, "metadata.k.$in", "list"),
    ({"k": {"$in": [1, [2]]}}, "metadata.k.$in.1", "a string, a number"),
    ({"k": {"$eq": [1]}}, "metadata.k.$eq", "a string, a number"),
    ({"k": {"$contains": {"a": 1}}}, "metadata.k.$contains", "a string, a number"),
    ({"k": {"$gt": None}}, "metadata.k.$gt", "a number or a string"),
    ({"k": {"$lte": True}}, "metadata.k.$lte", "a number or a string"),
    ({"k": {"$exists": 1}}, "metadata.k.$exists", "True or False"),
    ({"k": {"$not": 1}}, "metadata.k.$not", "operators"),
    ({"k": {"$ne": 2**63}}, "metadata.k.$ne", "64 bits"),
    ({"k": {"$gt": float("nan")}}, "metadata.k.$gt", "finite"),
    ({"k": {"$in": ["a\0"]}}, "metadata.k.$in.0", "NUL"),
    ({"k": MappingProxyType({"$eq": "a\0"})}, "metadata.k.$eq", "NUL"),
    ({"k": {"$in": [b"x"]}}, "metadata.k.$in.0", "a string, a number"),
    ({"$or": [{"\ud800": 1}]}, "metadata.$or.0.a key", "surrogate"),
    ({"k": 1j}, "metadata.k.str", "string"),
    ({f"k{n}": {"$gt": 1, "$lt": 2} for n in range(51)}, "metadata", "at most 100 comparisons"),
    ({"k": {"$in": list(range(1_001))}}, "metadata", "at most 1,000 values"),
    ({"$or": [{f'"{n}."{n}': 1} for n in range(67)]}, "metadata", "at most 200 parts"),
    ({".".join("a" * 51): 1}, f"metadata.{'.'.join('a' * 51)}", "at most 50 parts"),
]


@in_memory
@pytest.mark.parametrize(("metadata", "field", "limit"), REFUSED, ids=[repr(one[0])[:40] for one in REFUSED])
def test_what_cannot_be_compared_is_refused(storage, metadata, field, limit):
    for call in (storage.episodes.query, storage.episodes.count, lambda **f: storage.episodes.search("d", **f)):
        with raises(ms.ValidationError, field=field) as caught:
            call(metadata=metadata)
        assert limit in str(caught.value.limit)


@in_memory
def test_an_unknown_operator_is_named(storage):
    with raises(ms.ValidationError, field="metadata.k") as caught:
        storage.episodes.count(metadata={"k": {"$regex": "x"}})
    assert caught.value.value == "$regex"
    assert all(name in str(caught.value.limit) for name in document_filters.OPERATORS)


def _nested(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {"k": 1}
    for _ in range(levels):
        found = {"$not": found}
    return found


@in_memory
def test_a_filter_that_is_nested_too_deep_is_refused(storage):
    around: dict[str, Any] = {}
    around["$not"] = around
    for deep in (_nested(20), _nested(10_000), {"k": _nested(21)["$not"]}, around):
        with raises(ms.ValidationError, field="metadata") as caught:
            storage.episodes.count(metadata=deep)
        assert "at most 20 levels" in str(caught.value.limit)


def test_the_largest_filters_are_answered(storage, make_episode):
    quoted = '"' * 40
    metadata: dict[str, Any] = {f"{quoted}{n}": n for n in range(20)} | {"k": 1, "s": {"t": {"u": [1.5]}}}
    storage.episodes.save(make_episode(metadata=metadata))
    assert storage.episodes.count(metadata=_nested(18)) == 1
    assert storage.episodes.count(metadata={"k": {"$in": [0.1 * n for n in range(1, 999)] + [1]}}) == 1
    assert storage.episodes.count(metadata={"k": {"$nin": list(map(str, range(1_000)))}}) == 1
    assert storage.episodes.count(metadata={"$or": [{f"{quoted}{n}.{quoted}": 0} for n in range(66)] + [{"k": 1}]}) == 1
    assert storage.episodes.count(metadata={"$or": [{f"s.t.{n}": {"$contains": 1.5}} for n in range(99)]}) == 0
    every = {f"k.{n}": {"$not": {"$gte": 0.5}} for n in range(100)}
    assert storage.episodes.count(metadata=every) == 1
    assert len(storage.episodes.search("fix", metadata=every)) == storage.episodes.count(text="fix")


def test_a_document_of_another_table_is_filtered(storage):
    documents = ['{"a": {"b": 1}, "l": ["x", 2]}', '{"a.b": 1.0}', "no JSON", "[1]"]

    def passing(document_filter: dict[str, Any]) -> list[int]:
        values: dict[str, Any] = {}
        where = " AND ".join(document_conditions(document_filter, document="t.document", values=values, field="filter"))
        table = "(VALUES " + ", ".join(f"({n}, :doc_{n})" for n in range(len(documents))) + ")"
        template = SqlTemplate(
            f"WITH t (number, document) AS {table} SELECT number FROM t WHERE {where or '1'} ORDER BY number"
        )
        step = template.bind(**values, **{f"doc_{n}": one for n, one in enumerate(documents)})
        with storage.snapshot() as view:
            return [row[0] for row in view.execute([(step.sql, list(step.parameters))])[0]]

    assert passing({}) == [0, 1, 2, 3]
    assert passing({"a.b": 1}) == [0, 1]
    assert passing({"l": {"$contains": "x"}}) == [0]
    assert passing({"a.b": {"$ne": 1}}) == [2, 3]
    with raises(ms.ValidationError, field="filter.a"):
        passing({"a": {"$unknown": 1}})
