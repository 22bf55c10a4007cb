"""Items: puts, reads, expiry, batches, paths and searches by vector."""

from __future__ import annotations

import itertools
import math
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import memory_storage as ms
from memory_storage.models import (
    DeleteItem,
    GetItem,
    Item,
    ItemVector,
    ListPaths,
    PutItem,
    QueryItems,
    SearchItems,
)
from memory_storage.repositories.items.rows import decode_path, encode_path, range_below
from tests.backends import in_memory
from tests.checks import assert_consistent
from tests.raising import raises

NOON = datetime(2026, 6, 1, 12, tzinfo=timezone.utc)
PATH = ("users", "42")

labels = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=4) | st.text(
    "\x01\x02\x03ab", max_size=4
)
item_paths = st.lists(labels, max_size=4).map(tuple)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(labels, inner, max_size=3),
    max_leaves=8,
)
_number = itertools.count()


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.moment = NOON

    def __call__(self) -> datetime:
        return self.moment

    def pass_by(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(target, clock) -> Any:
    with ms.MemoryStorage.open(target, now=clock) as storage:
        yield storage


@given(item_paths, item_paths)
def test_texts_of_paths_sort_and_nest_as_paths_do(one, other):
    assert decode_path(encode_path(one)) == one
    assert (encode_path(one).encode() < encode_path(other).encode()) == (
        [label.encode() for label in one] < [label.encode() for label in other]
    )
    lower, upper = range_below(one)
    text = encode_path(other).encode()
    is_within = lower.encode() <= text and (upper == b"" or text < upper.encode())
    assert is_within == (other[: len(one)] == one)


@given(value=json_values, path=item_paths, key=labels)
def test_a_value_is_read_back_equal(storage, value, path, key):
    memory = storage.in_namespace(f"values {next(_number)}")
    put = memory.items.put(path, key, value)
    assert (put.path, put.key, put.value, put.version) == (path, key, value, 1)
    assert repr(memory.items.get(path, key).value) == repr(value)
    assert memory.items.get(path, key) == put
    assert memory.items.query(path) == list(memory.items.iterate()) == [put]
    assert memory.items.paths() == [path]
    assert memory.items.delete(path, key) is True
    assert memory.items.delete(path, key) is False
    assert memory.items.count() == 0


def test_a_second_put_keeps_created_at_and_adds_a_version(timed, clock):
    first = timed.items.put(PATH, "k", {"a": 1})
    clock.pass_by(1)
    second = timed.items.put(PATH, "k", {"a": 2})
    assert (first.version, second.version) == (1, 2)
    assert first.created_at == first.updated_at == second.created_at == NOON
    assert second.updated_at == NOON + timedelta(seconds=1)
    assert timed.items.get(PATH, "k") == second


def test_a_missing_item_is_an_error_or_none(storage):
    with raises(ms.NotFoundError, kind="item"):
        storage.items.get(PATH, "k")
    assert storage.items.find(PATH, "k") is None
    storage.items.put(PATH, "k", 1)
    assert storage.items.find(("users",), "k") is None
    assert [one and one.value for one in storage.items.get_many([(PATH, "x"), (PATH, "k"), ((), "k")])] == [
        None,
        1,
        None,
    ]


def test_a_put_of_another_version_is_refused_as_a_whole(storage):
    storage.items.put(PATH, "k", 1)
    with raises(ms.ConflictError, kind="item", expected=0, actual=1):
        storage.items.put(PATH, "k", 2, version=0)
    with raises(ms.ConflictError, expected=5, actual=None):
        storage.items.put_many([PutItem(key="new", value=1), PutItem(path=PATH, key="other", value=2, version=5)])
    assert storage.items.count() == 1
    assert storage.items.put(PATH, "k", 2, version=1).version == 2
    assert storage.items.put(PATH, "other", 2, version=0).version == 1


@pytest.mark.slow
def test_of_concurrent_puts_of_one_version_one_is_stored(storage):
    storage.items.put(PATH, "k", 0)

    def write(number: int) -> bool:
        try:
            storage.items.put(PATH, "k", number, version=1)
        except ms.ConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(write, range(16))) == 1
    assert storage.items.get(PATH, "k").version == 2


def test_an_expired_item_is_returned_by_no_method(timed, clock):
    items = timed.items
    items.put(PATH, "kept", 1)
    items.put(PATH, "short", 2, ttl=60, vectors={"f": [1.0, 0.0]}, model="m")
    assert items.get(PATH, "short").expires_at == NOON + timedelta(seconds=60)
    clock.pass_by(60)
    assert items.find(PATH, "short") is None
    assert items.find(PATH, "short", refresh=True) is None
    assert items.get_many([(PATH, "short")]) == [None]
    assert [one.key for one in items.query()] == [one.key for one in items.iterate()] == ["kept"]
    assert items.search([1.0, 0.0], model="m") == []
    assert list(items.iterate_vectors()) == []
    assert items.count() == 1
    items.delete(PATH, "kept")
    assert items.paths() == []
    assert items.delete(PATH, "short") is False


def test_a_put_of_an_expired_item_is_a_first_one(timed, clock):
    timed.items.put(PATH, "k", 1, ttl=1)
    timed.items.put(PATH, "k", 2, ttl=1)
    clock.pass_by(2)
    again = timed.items.put(PATH, "k", 3, version=0)
    assert (again.version, again.created_at, again.expires_at) == (1, clock.moment, None)


@pytest.mark.parametrize(
    "read",
    [
        lambda items: items.get(PATH, "k", refresh=True),
        lambda items: items.get_many([(PATH, "k"), (PATH, "k")], refresh=True)[1],
        lambda items: items.query(PATH, refresh=True)[0],
        lambda items: items.search([1.0], model="m", refresh=True)[0].item,
    ],
)
def test_a_read_can_refresh_the_time_to_live(timed, clock, read):
    timed.items.put(PATH, "k", 1, ttl=60, vectors={"f": [1.0]}, model="m")
    timed.items.put(PATH, "other", 1, ttl=60)
    clock.pass_by(59)
    item = read(timed.items)
    assert item.expires_at == clock.moment + timedelta(seconds=60)
    assert timed.items.get(PATH, "k") == item
    assert item.version == 1
    clock.pass_by(59)
    assert timed.items.find(PATH, "k")


def test_expired_items_are_deleted_in_portions(timed, clock):
    timed.items.put_many([PutItem(key=str(n), value=n, ttl=1 + n) for n in range(5)])
    timed.items.put((), "kept", 1)
    timed.in_namespace("another").items.put((), "theirs", 1, ttl=1)
    clock.pass_by(3)
    assert timed.items.delete_expired(NOON + timedelta(seconds=1)) == 1
    assert timed.items.delete_expired(limit=1) == 1
    assert timed.items.delete_expired() == 1
    assert timed.items.delete_expired() == 0
    with timed.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM items").scalar() == 4


def test_a_batch_reads_the_state_before_its_writes(storage):
    items = storage.items
    items.put(PATH, "k", "before")
    items.put(PATH, "gone", 1)
    results = items.batch(
        [
            PutItem(path=PATH, key="k", value="first"),
            GetItem(path=PATH, key="k"),
            PutItem(path=PATH, key="k", value="last"),
            DeleteItem(path=PATH, key="gone"),
            QueryItems(prefix=("users",)),
            ListPaths(),
            PutItem(path=("new",), key="n", value=1),
            GetItem(path=("new",), key="n"),
        ]
    )
    assert [one.value for one in results[4]] == [1, "before"]
    assert results[1].value == "before"
    assert results[5] == [PATH]
    assert [results[n] for n in (0, 2, 3, 6, 7)] == [None] * 5
    assert (items.get(PATH, "k").value, items.get(PATH, "k").version) == ("last", 2)
    assert items.find(PATH, "gone") is None
    assert items.get(("new",), "n").value == 1


def test_the_last_write_of_a_key_in_a_batch_counts(storage):
    one = {"path": PATH, "key": "k"}
    storage.items.batch([DeleteItem(**one), PutItem(**one, value=1)])
    assert storage.items.get(PATH, "k").value == 1
    storage.items.batch([PutItem(**one, value=2), DeleteItem(**one)])
    assert storage.items.find(PATH, "k") is None
    assert storage.items.batch([]) == []


def test_a_refused_batch_stores_nothing(storage):
    storage.items.put(PATH, "k", 1, vectors={"f": [1.0, 2.0]}, model="m")
    put = PutItem(key="new", value=1)
    with raises(ms.ValidationError, field="vector"):
        storage.items.batch([put, PutItem(key="other", value=1, vectors={"f": [1.0]}, model="m")])
    with raises(ms.ValidationError, field="operations.1.value"):
        storage.items.batch([put, PutItem(key="other", value={1, 2})])
    with raises(ms.ConflictError, kind="item"):
        storage.items.batch([put, DeleteItem(path=PATH, key="k"), PutItem(key="other", value=1, version=3)])
    assert [one.key for one in storage.items.iterate()] == ["k"]


def test_items_are_part_of_a_transaction(storage):
    def fail() -> None:
        with storage.transaction() as tx:
            tx.items.put(PATH, "k", 1)
            tx.logs.append("log", [1])
            assert tx.items.get(PATH, "k").value == 1
            raise ms.MemoryStorageError("stop")

    with raises(ms.MemoryStorageError, match="stop"):
        fail()
    assert storage.items.count() == storage.logs.count() == 0
    with storage.transaction() as tx:
        tx.items.put(PATH, "k", 1)
    with storage.snapshot() as view:
        assert view.items.get(PATH, "k").value == 1


def test_large_values_travel_in_several_statements(storage):
    text = 'ü"\\' * 400_000
    storage.items.put_many([PutItem(key=str(n), value={"text": text, "n": n}) for n in range(5)])
    assert [one.value["n"] for one in storage.items.iterate()] == list(range(5))
    assert all(one.value["text"] == text for one in storage.items.iterate())


@in_memory
@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"path": "users"}, "path"),
        ({"path": 5}, "path"),
        ({"path": ("a", 1)}, "path.1"),
        ({"path": ("a",) * 33}, "path"),
        ({"path": ("a\0",)}, "path.0"),
        ({"key": "x" * 1001}, "key"),
        ({"key": None}, "key"),
        ({"value": math.nan}, "value"),
        ({"value": {"a": math.inf}}, "value"),
        ({"value": (1, 2)}, "value"),
        ({"value": {1: 2}}, "value"),
        ({"value": b"x"}, "value"),
        ({"value": object()}, "value"),
        ({"value": {"a": "\0"}}, "value.a"),
        ({"value": ["\ud800"]}, "value.0"),
        ({"value": "x" * 10_000_001}, "value"),
        ({"ttl": 0}, "ttl"),
        ({"ttl": True}, "ttl"),
        ({"ttl": math.nan}, "ttl"),
        ({"version": -1}, "version"),
        ({"vectors": [1.0]}, "vectors"),
        ({"vectors": {"f": [1.0]}}, "model"),
        ({"vectors": {"f": [math.nan]}, "model": "m"}, "vectors.f"),
        ({"vectors": {"f": []}, "model": "m"}, "vectors.f"),
    ],
)
def test_what_cannot_be_stored_is_refused(storage, arguments, field):
    with raises(ms.ValidationError, field=field):
        storage.items.put(**{"path": PATH, "key": "k", "value": 1, **arguments})
    assert storage.items.count() == 0


@in_memory
def test_a_deeply_nested_value_is_refused(storage):
    value: Any = 1
    for _ in range(5_000):
        value = [value]
    with raises(ms.ValidationError, field="value"):
        storage.items.put(PATH, "k", value)


def test_items_below_a_path_are_listed_in_their_order(timed, clock):
    names = [((), "r"), (("a",), "2"), (("a",), "1"), (("a", "b"), "x"), (("ab",), "y"), (("a!",), "z")]
    for path, key in names:
        timed.items.put(path, key, key)
        clock.pass_by(1)
    assert [one.key for one in timed.items.query()] == ["r", "1", "2", "x", "z", "y"]
    assert [one.key for one in timed.items.query(("a",))] == ["1", "2", "x"]
    assert [one.key for one in timed.items.query(newest_first=True, limit=2, offset=1)] == ["y", "x"]
    pages = [timed.items.query(limit=2, offset=offset) for offset in range(0, 8, 2)]
    assert [one for page in pages for one in page] == list(timed.items.iterate())
    assert timed.items.count(("a",)) == 3
    assert timed.items.clear(("a",)) == 3
    assert timed.items.clear() == 3


def test_an_iteration_has_each_item_once(storage):
    storage.items.put_many([PutItem(path=(f"{n % 7}",), key=f"{n:03}", value=n) for n in range(250)])
    found = [(one.path, one.key) for one in storage.items.iterate()]
    assert found == sorted(found)
    assert len(set(found)) == 250


def _listed(paths, prefix, suffix, max_depth, limit, offset):
    def matches(path):
        heads, tails = path[: len(prefix)], path[len(path) - len(suffix) :] if suffix else ()
        return (
            len(path) >= max(len(prefix), len(suffix))
            and all(want is None or want == have for want, have in zip(prefix, heads, strict=True))
            and all(want is None or want == have for want, have in zip(suffix, tails, strict=True))
        )

    shown = {path[:max_depth] for path in paths if matches(path)}
    return sorted(shown, key=lambda path: [label.encode() for label in path])[offset : offset + limit]


few_labels = st.sampled_from(["a", "b", "", "\x01", "\x02", "a\x01"])
patterns = st.lists(st.none() | few_labels, max_size=3)


@given(
    paths=st.sets(st.lists(few_labels, max_size=3).map(tuple), min_size=1, max_size=12),
    prefix=patterns,
    suffix=patterns,
    max_depth=st.none() | st.integers(1, 3),
    limit=st.integers(1, 5),
    offset=st.integers(0, 3),
)
def test_paths_are_those_of_a_model(storage, paths, prefix, suffix, max_depth, limit, offset):
    memory = storage.in_namespace(f"paths {next(_number)}")
    memory.items.put_many([PutItem(path=path, key=str(n), value=n) for path in paths for n in range(2)])
    found = memory.items.paths(prefix=prefix, suffix=suffix, max_depth=max_depth, limit=limit, offset=offset)
    assert found == _listed(paths, tuple(prefix), tuple(suffix), max_depth, limit, offset)


def _cosine(one, other):
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / math.hypot(*one) / math.hypot(*other)


def test_a_search_has_each_item_once_by_its_best_vector(storage):
    chance = random.Random(7)
    vectors = {
        n: {f"f{m}": [chance.gauss(0, 1) for _ in range(4)] for m in range(chance.randint(1, 4))} for n in range(40)
    }
    storage.items.put_many(
        [
            PutItem(path=("p", str(n % 3)), key=str(n), value={"n": n}, vectors=of, model="m")
            for n, of in vectors.items()
        ]
    )
    storage.items.put(("p", "0"), "without", {"n": -1})
    query = [1.0, -0.5, 0.25, 2.0]
    for prefix in ((), ("p",), ("p", "1"), ("q",)):
        best = {
            n: max(_cosine(query, one) for one in of.values())
            for n, of in vectors.items()
            if ("p", str(n % 3))[: len(prefix)] == prefix
        }
        expected = sorted(best, key=best.__getitem__, reverse=True)
        pages = [
            storage.items.search(query, model="m", prefix=prefix, limit=7, offset=offset)
            for offset in range(0, len(expected) + 7, 7)
        ]
        found = [hit for page in pages for hit in page]
        assert [hit.item.value["n"] for hit in found] == expected
        assert all(abs(hit.score - best[hit.item.value["n"]]) < 1e-5 for hit in found)


def test_a_filter_holds_in_every_read(storage):
    for number in range(30):
        value = {"n": number, "nested": {"kind": "even" if number % 2 == 0 else "odd"}}
        storage.items.put(PATH, f"{number:02}", value, vectors={"f": [1.0, number], "g": [1.0, -number]}, model="m")
    storage.items.put(PATH, "text", "no object")
    on = {"nested.kind": "odd", "n": {"$gte": 5, "$lt": 20}}
    expected = [f"{number:02}" for number in range(5, 20) if number % 2]
    items = storage.items
    assert [one.key for one in items.query(filter=on)] == expected
    assert [one.key for one in items.query(filter=on, limit=3, offset=2)] == expected[2:5]
    assert [one.key for one in items.iterate(filter=on)] == expected
    assert items.count(filter=on) == len(expected)
    hits = items.search([1.0, 0.0], model="m", filter=on, limit=4)
    assert [hit.item.key for hit in hits] == expected[:4]
    assert items.batch([QueryItems(filter=on), SearchItems(vector=[1.0, 0.0], model="m", filter=on)]) == [
        items.query(filter=on),
        items.search([1.0, 0.0], model="m", filter=on),
    ]
    with raises(ms.ValidationError, field="filter.n"):
        items.query(filter={"n": {"$near": 5}})


def test_a_new_put_replaces_the_vectors(storage):
    storage.items.put(PATH, "k", 1, vectors={"f": [1.0, 0.0], "g": [0.0, 1.0]}, model="m")
    storage.items.put(PATH, "k", 2, vectors={"h": [-1.0, 0.0]}, model="m")
    ((hit),) = storage.items.search([1.0, 0.0], model="m")
    assert abs(hit.score + 1) < 1e-6
    storage.items.put(PATH, "k", 3)
    assert storage.items.search([1.0, 0.0], model="m") == []
    # There is none left that would set a dimension.
    storage.items.put(PATH, "k", 4, vectors={"f": [1.0, 0.0, 0.0]}, model="m")
    storage.items.delete(PATH, "k")
    with storage.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM item_vectors").scalar() == 0


def test_a_vector_of_another_dimension_is_refused(storage):
    storage.items.put(PATH, "k", 1, vectors={"f": [1.0, 0.0]}, model="m")
    with raises(ms.ValidationError, field="vector", value=3):
        storage.items.put(PATH, "other", 1, vectors={"f": [1.0, 0.0, 0.0]}, model="m")
    with raises(ms.ValidationError, field="vector", value=1):
        storage.items.search([1.0], model="m")
    with raises(ms.ValidationError, field="vector"):
        storage.items.put_many(
            [PutItem(key=str(n), value=n, vectors={"f": [1.0] * n}, model="new") for n in (1, 2)],
        )
    assert storage.items.count() == 1
    storage.items.put(PATH, "other", 1, vectors={"f": [1.0, 0.0, 0.0]}, model="n")
    storage.in_namespace("another").items.put(PATH, "k", 1, vectors={"f": [1.0]}, model="m")
    assert len(storage.items.search([1.0, 0.0], model="m")) == 1


def test_items_and_vectors_can_be_copied(storage):
    storage.items.put(PATH, "k", {"a": [1, 2.5, None]}, ttl=1e6, vectors={"f": [1.0, 0.5]}, model="m")
    storage.items.put(PATH, "k", {"a": [1, 2.5, None]}, ttl=1e6, vectors={"f": [1.0, 0.5]}, model="m")
    items, vectors = list(storage.items.iterate()), list(storage.items.iterate_vectors())
    other = storage.in_namespace("copy")
    with raises(ms.NotFoundError, kind="item"):
        other.items.import_vectors(vectors)
    assert (other.items.import_many(items), other.items.import_vectors(vectors)) == (1, 1)
    assert (other.items.import_many(items), other.items.import_vectors(vectors)) == (0, 0)
    assert (list(other.items.iterate()), list(other.items.iterate_vectors())) == (items, vectors)
    changed = Item(path=PATH, key="k", value="other", version=9)
    assert other.items.import_many([changed, Item(key="new", value=1)]) == 1
    assert list(other.items.iterate())[1] == items[0]
    with raises(ms.ValidationError, field="vector"):
        other.items.import_vectors([ItemVector(key="new", model="m", field="f", vector=[1.0])])
    assert_consistent(storage.engine)


@in_memory
@pytest.mark.parametrize(
    ("operation", "field"),
    [
        ("put", "operations"),
        (GetItem(key=1), "operations.0.key"),
        (GetItem(key="k", refresh=1), "operations.0.refresh"),
        (QueryItems(limit=0), "limit"),
        (QueryItems(offset=-1), "operations.0.offset"),
        (QueryItems(prefix="a"), "operations.0.prefix"),
        (QueryItems(newest_first=1), "operations.0.newest_first"),
        (SearchItems(vector="x", model="m"), "operations.0.vector"),
        (SearchItems(vector=[1.0], model=""), "model"),
        (ListPaths(max_depth=0), "operations.0.max_depth"),
        (ListPaths(suffix="a"), "operations.0.suffix"),
        (ListPaths(prefix=(1,)), "operations.0.prefix.0"),
    ],
)
def test_an_invalid_operation_is_refused(storage, operation, field):
    with pytest.raises(ms.ValidationError) as caught:
        storage.items.batch([operation])
    assert caught.value.field.startswith(field)


@in_memory
def test_a_batch_has_at_most_200_reads_by_path(storage):
    assert storage.items.batch([QueryItems()] * 200) == [[]] * 200
    with raises(ms.ValidationError, field="operations", value=201):
        storage.items.batch([QueryItems()] * 201)
    assert storage.items.batch([GetItem(key="k")] * 1_000) == [None] * 1_000
