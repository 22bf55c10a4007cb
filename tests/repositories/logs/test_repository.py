"""Logs: appends, reads, pops and lists."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest

import memory_storage as ms
from memory_storage.models import LogRecord
from tests.backends import in_memory
from tests.checks import assert_consistent
from tests.raising import raises


def test_records_are_numbered_in_their_order(storage):
    assert storage.logs.append("l", ["a", {"b": 1.5}]) == [1, 2]
    assert storage.logs.append("l", [None]) == [3]
    assert storage.logs.append("other", [True]) == [1]
    assert storage.logs.append("l", []) == []
    assert [(one.log, one.number, one.value) for one in storage.logs.read("l")] == [
        ("l", 1, "a"),
        ("l", 2, {"b": 1.5}),
        ("l", 3, None),
    ]
    assert storage.logs.count("l") == 3
    assert storage.logs.count() == 4


def test_a_repeated_append_has_no_effect(storage):
    assert storage.logs.append("l", [1, 2], ids=["a", "b"]) == [1, 2]
    assert storage.logs.append("l", [1, 2], ids=["a", "b"]) == [1, 2]
    assert storage.logs.append("l", [9, 3, 8], ids=["b", "c", "a"]) == [2, 3, 1]
    assert [(one.id, one.value) for one in storage.logs.read("l")] == [("a", 1), ("b", 2), ("c", 3)]
    assert storage.logs.append("other", [4], ids=["a"]) == [1]
    assert storage.in_namespace("another").logs.append("l", [5], ids=["a"]) == [1]


@pytest.mark.slow
def test_concurrent_appends_lose_and_double_nothing(storage):
    def append(writer: int) -> list[int]:
        numbers = []
        for turn in range(5):
            ids = [f"{writer}-{turn}-{n}" for n in range(3)]
            for _ in range(2):
                given = storage.logs.append("l", ids, ids=ids)
            assert given == list(range(given[0], given[0] + 3))
            numbers += given
        return numbers

    with ThreadPoolExecutor(6) as pool:
        numbers = [number for of in pool.map(append, range(6)) for number in of]
    assert sorted(numbers) == list(range(1, 91))
    assert len({one.id for one in storage.logs.iterate("l")}) == 90


def test_parts_of_a_log_are_read(storage):
    storage.logs.append("l", list(range(1, 11)))
    storage.logs.append("m", [0])

    def numbers(**arguments):
        return [one.number for one in storage.logs.read("l", **arguments)]

    assert numbers(first=3, last=5) == [3, 4, 5]
    assert numbers(first=9) == [9, 10]
    assert numbers(limit=2) == [1, 2]
    assert numbers(latest=3) == [8, 9, 10]
    assert numbers(latest=3, last=5) == [3, 4, 5]
    assert numbers(latest=100) == list(range(1, 11))
    assert [one.number for one in storage.logs.iterate("l", first=8)] == [8, 9, 10]
    assert [(one.log, one.number) for one in storage.logs.iterate()] == [*(("l", n) for n in range(1, 11)), ("m", 1)]
    assert storage.logs.read("absent") == list(storage.logs.iterate("absent")) == []


def test_an_iteration_ends_a_page_by_bytes(storage):
    text = "x" * 1_500_000
    storage.logs.append("l", [text] * 5)
    assert [one.number for one in storage.logs.iterate("l") if one.value == text] == [1, 2, 3, 4, 5]


@in_memory
def test_an_iteration_has_each_record_once(storage):
    for name in ("a", "b"):
        storage.logs.append(name, list(range(1_200)))
    found = [(one.log, one.number) for one in storage.logs.iterate()]
    assert found == [(name, number) for name in ("a", "b") for number in range(1, 1_201)]


def test_pop_removes_and_returns_the_last(storage):
    storage.logs.append("l", [1, 2], ids=["a", "b"])
    last = storage.logs.read("l")[-1]
    assert storage.logs.pop("l") == last
    assert storage.logs.append("l", [3]) == [2]
    assert [storage.logs.pop("l").value for _ in range(2)] == [3, 1]
    assert storage.logs.pop("l") is None


def test_a_log_is_cleared_alone(storage):
    storage.logs.append("l", [1, 2])
    storage.logs.append("m", [3])
    assert storage.logs.clear("l") == 2
    assert storage.logs.clear("l") == 0
    assert [one.value for one in storage.logs.iterate()] == [3]


def test_logs_are_listed_by_prefix(storage):
    for name in ("a", "a/1", "a/2", "a0", "b", "a/\U0010ffff", "a/\U0010ffff\U0010ffff", "\ud7ff", "\ue000"):
        storage.logs.append(name, [1, 2])

    def names(*arguments, **others):
        return [one.log for one in storage.logs.list(*arguments, **others)]

    assert names("a/") == ["a/1", "a/2", "a/\U0010ffff", "a/\U0010ffff\U0010ffff"]
    assert names("a/\U0010ffff") == ["a/\U0010ffff", "a/\U0010ffff\U0010ffff"]
    assert names("\ud7ff") == ["\ud7ff"]
    assert len(names()) == 9
    assert names(limit=2, offset=1) == ["a/1", "a/2"]
    assert names("c") == []
    (one,) = storage.logs.list("b")
    assert (one.last, one.updated_at) == (2, storage.logs.read("b", latest=1)[0].created_at)


def test_a_corrupt_record_hides_no_other(storage):
    storage.logs.append("l", [1, 2, 3, 4])
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE logs SET document = '{' WHERE number IN (2, 4)")
    with raises(ms.CorruptDataError, table="logs"):
        storage.logs.read("l")
    problems: list[ms.CorruptDataError] = []
    assert [one.number for one in storage.logs.read("l", on_corrupt=problems.append)] == [1, 3]
    assert [one.number for one in storage.logs.read("l", latest=2, on_corrupt=problems.append)] == [1, 3]
    assert [one.number for one in storage.logs.iterate("l", on_corrupt=problems.append)] == [1, 3]
    assert len(problems) == 6
    with raises(ms.CorruptDataError, table="logs"):
        storage.logs.pop("l")
    assert storage.logs.pop("l").value == 3


def test_records_can_be_copied(storage):
    storage.logs.append("l", [1, {"a": "ü"}], ids=["a", "b"])
    records = list(storage.logs.iterate())
    copy = storage.in_namespace("copy")
    assert copy.logs.import_many(records) == 2
    assert copy.logs.import_many([*records, LogRecord(log="l", number=7, value=3)]) == 1
    assert list(copy.logs.iterate())[:2] == records
    assert copy.logs.append("l", [4]) == [8]
    assert_consistent(storage.engine)


@in_memory
@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"log": ""}, "log"),
        ({"log": 5}, "log"),
        ({"log": "x" * 1_001}, "log"),
        ({"log": "\0"}, "log"),
        ({"values": 5}, "values"),
        ({"values": [1, math.nan]}, "values.1"),
        ({"values": ["x" * 10_000_001]}, "values.0"),
        ({"ids": "a"}, "ids"),
        ({"ids": ["a", "b"]}, "ids"),
        ({"ids": [""]}, "ids.0"),
        ({"values": [1, 2], "ids": ["a", "a"]}, "ids"),
    ],
)
def test_what_cannot_be_appended_is_refused(storage, arguments, field):
    with raises(ms.ValidationError, field=field):
        storage.logs.append(**{"log": "l", "values": [1], **arguments})
    assert storage.logs.count() == 0


@in_memory
@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"first": 0}, "first"),
        ({"last": 0}, "last"),
        ({"limit": 1_001}, "limit"),
        ({"latest": 0}, "limit"),
        ({"latest": 1, "limit": 1}, "latest"),
        ({"latest": 1, "first": 2}, "latest"),
        ({"on_corrupt": 1}, "on_corrupt"),
    ],
)
def test_an_invalid_read_is_refused(storage, arguments, field):
    with raises(ms.ValidationError, field=field):
        storage.logs.read("l", **arguments)
