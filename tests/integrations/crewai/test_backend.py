"""The backend by CrewAI's protocol: search, scopes, criteria, updates, hostile text, threads and coroutines."""

from __future__ import annotations

import asyncio
import copy
import itertools
import math
import subprocess
import sys
import threading
from datetime import datetime, timedelta, timezone

import pytest
from crewai.memory.storage.backend import EmbeddingDimensionMismatchError, StorageBackend
from crewai.memory.types import MemoryRecord, ScopeInfo

import memory_storage as ms
from memory_storage.integrations.crewai import MEMORY_PATH, MemoryStorageBackend
from memory_storage.models import PutItem
from tests.backends import in_memory
from tests.raising import raises

from .scripts import letters, record

QUERY = letters(["a"])[0]
HOSTILE = ("'", '"', "%", "_", "/", "\\", "'; DROP TABLE items; --", "$.x", "a.b", "\x01", "\x02", "\U0010ffff", "é")
START = datetime.fromisoformat("2026-01-01")  # naive, as CrewAI's are


def _contents(found: list) -> list[str]:
    return [(one[0] if isinstance(one, tuple) else one).content for one in found]


@in_memory
def test_it_is_a_backend_of_crewai(backend):
    assert isinstance(backend, StorageBackend)
    assert repr(backend).startswith("MemoryStorageBackend(MemoryStorage(':memory:'")
    assert copy.deepcopy({"storage": backend})["storage"] is backend


def test_what_is_saved_is_read_back_equal(backend):
    one = MemoryRecord(
        content="a\nb",
        scope="team//x/",
        categories=["b", "a", "a"],
        metadata={"n": 1, "f": 0.1 + 0.2, "l": [1, {"x": None}], "": "", "a.b": True},
        importance=1 / 3,
        created_at=datetime.fromisoformat("1999-12-31T23:59:59.000001"),
        last_accessed=datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=5, minutes=30))),
        embedding=[0.5, -2.0, 0.0, 1.0],
        source="",
        private=True,
    )
    backend.save([one])
    assert backend.get_record(one.id) == one
    without = one.model_copy(update={"embedding": None})
    assert backend.list_records() == [without]
    assert [found for found, _ in backend.search([0.5, -2.0, 0.0, 1.0])] == [without]
    assert backend.get_record("absent") is None


def test_scores_are_exact_cosines_in_their_order(backend):
    vectors = {"near": [1, 2, 3], "far": [3, -1, 0.5], "right": [0, 3, -2], "opposite": [-1, -2, -3]}
    backend.save([record(name, embedding=vector) for name, vector in vectors.items()])

    def cosine(one: list[float]) -> float:
        return math.fsum(map(math.prod, zip(one, [1, 2, 3], strict=True))) / math.hypot(*one) / math.hypot(1, 2, 3)

    expected = sorted(((name, cosine(vector)) for name, vector in vectors.items()), key=lambda one: -one[1])
    found = [(one.content, score) for one, score in backend.search([1, 2, 3], min_score=-2)]
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-6)
    assert _contents(backend.search([1, 2, 3])) == ["near", "far", "right"]
    assert _contents(backend.search([1, 2, 3], min_score=0.9)) == ["near"]
    assert _contents(backend.search([1, 2, 3], min_score=-2, limit=2)) == ["near", "far"]
    assert backend.search([1, 2, 3], limit=0) == backend.search([0, 0, 0]) == []


SCOPES = ("/", "/a", "/a/b", "/a/b/c", "/ab", "/a b", "/a-", "/a0", "a/d", "//a///e/", "/A", "/ä", "/%", "/_")
WITHIN = {
    "/a": ["/a", "/a/b", "/a/b/c", "a/d", "//a///e/"],
    "a/": ["/a", "/a/b", "/a/b/c", "a/d", "//a///e/"],
    "/a/b": ["/a/b", "/a/b/c"],
    "/ab": ["/ab"],
    "/%": ["/%"],
    "/_": ["/_"],
    "/b": [],
    "/": list(SCOPES),
    "": list(SCOPES),
    None: list(SCOPES),
}


@pytest.mark.parametrize("prefix", WITHIN, ids=repr)
def test_a_scope_has_what_is_below_it_and_nothing_else(backend, prefix):
    backend.save([record(scope, scope) for scope in SCOPES])
    expected = sorted(WITHIN[prefix])
    assert sorted(_contents(backend.search(letters([""])[0], prefix, limit=100))) == expected
    assert sorted(_contents(backend.list_records(prefix))) == expected
    assert backend.count(prefix) == len(expected)
    assert backend.list_categories(prefix) == {}
    assert backend.get_scope_info(prefix or "/").record_count == len(expected)
    backend.reset(prefix)
    assert sorted(_contents(backend.list_records())) == sorted(set(SCOPES) - set(expected))


def test_scopes_are_described_with_their_children(backend):
    backend.save(
        [
            record("1", "/team", categories=["x", "y", "x"], created_at=START),
            record("2", "/team/a/deep", categories=["x"], created_at=START + timedelta(days=2)),
            record("3", "/team/b", created_at=(START + timedelta(days=1)).replace(tzinfo=timezone.utc)),
            record("4", "/teams", categories=["z"]),
        ]
    )
    assert backend.list_scopes() == backend.list_scopes("") == ["/team", "/teams"]
    assert backend.list_scopes("/team/") == ["/team/a", "/team/b"]
    assert backend.list_scopes("/team/b") == backend.list_scopes("/absent") == []
    assert backend.list_categories() == {"x": 2, "y": 1, "z": 1}
    assert backend.list_categories("/team") == {"x": 2, "y": 1}
    assert backend.get_scope_info("/team") == ScopeInfo(
        path="/team",
        record_count=3,
        categories=["x", "y"],
        oldest_record=START,
        newest_record=START + timedelta(days=2),
        child_scopes=["/team/a", "/team/b"],
    )
    assert backend.get_scope_info("/absent/") == ScopeInfo(path="/absent")
    assert backend.get_scope_info("/").child_scopes == ["/team", "/teams"]


METADATA = [{"k": None}, {}, {"k": 1}, {"k": "1"}, {"k": [1, 2]}, {"k": {"x": 1}}, {"k": {"x": 1, "y": 2}}, {"a.b": 1}]
FILTERS = [
    ({}, [0, 1, 2, 3, 4, 5, 6, 7]),
    ({"k": None}, [0, 1, 7]),
    ({"k": 1}, [2]),
    ({"k": "1"}, [3]),
    ({"k": [1, 2]}, [4]),
    ({"k": [1]}, []),
    ({"k": {"x": 1}}, [5]),
    ({"k": {"$gt": 0}}, []),
    ({"a.b": 1}, [7]),
    ({"a": {"b": 1}}, []),
    ({"k": 1, "other": None}, [2]),
    ({"k": 1, "other": 2}, []),
]


@pytest.mark.parametrize(("wanted", "expected"), FILTERS, ids=repr)
def test_metadata_filters_are_equality(backend, wanted, expected):
    backend.save([record(str(number), metadata=metadata) for number, metadata in enumerate(METADATA)])
    assert sorted(_contents(backend.search(QUERY, metadata_filter=wanted))) == [str(number) for number in expected]
    assert len(backend.search(QUERY, metadata_filter=wanted, limit=1)) == min(1, len(expected))
    assert backend.delete(metadata_filter=wanted) == len(expected)
    assert backend.count() == len(METADATA) - len(expected)


def test_a_filter_looks_beyond_the_nearest_records(backend):
    backend.save([record(f"a{number}") for number in range(50)])
    backend.save([record("bc", categories=["x", "y"], metadata={"k": [1]}), record("bcd", categories=["z"])])
    assert _contents(backend.search(QUERY, categories=["x"], limit=1)) == ["bc"]
    assert _contents(backend.search(QUERY, categories=["absent", "y"], limit=1)) == ["bc"]
    assert sorted(_contents(backend.search(QUERY, categories=["z", "y"], limit=9))) == ["bc", "bcd"]
    assert _contents(backend.search(QUERY, metadata_filter={"k": [1]}, limit=1)) == ["bc"]
    assert len(backend.search(QUERY, categories=[], limit=100)) == 52


def _is_selected(one: MemoryRecord, criteria: dict) -> bool:
    scope, ids = criteria.get("scope_prefix"), criteria.get("record_ids")
    return (
        (scope is None or f"{one.scope}/".startswith(f"{scope}/"))
        and ("categories" not in criteria or bool(set(criteria["categories"]) & set(one.categories)))
        and (ids is None or one.id in ids)
        and ("older_than" not in criteria or one.created_at < criteria["older_than"])
        and all(one.metadata.get(key) == value for key, value in criteria.get("metadata_filter", {}).items())
    )


CRITERIA = {
    "scope_prefix": ["/a"],
    "categories": [["x", "absent"], []],
    "record_ids": [[f"{number:02}" for number in range(0, 24, 3)] + ["absent"], []],
    "older_than": [START + timedelta(hours=12)],
    "metadata_filter": [{"n": 1}, {"l": [0]}],
}
COMBINATIONS = [
    dict(zip(names, values, strict=True))
    for count in range(len(CRITERIA) + 1)
    for names in itertools.combinations(CRITERIA, count)
    for values in itertools.product(*(CRITERIA[name] for name in names))
]


@in_memory
def test_each_combination_of_criteria_deletes_what_meets_all(backend):
    records = [
        record(
            f"{number:02}",
            ("/a", "/a/b", "/ab")[number % 3],
            categories=["x"] if number % 2 else ["y"],
            created_at=START + timedelta(hours=number),
            metadata={"n": number % 4, "l": [number % 5]},
        )
        for number in range(24)
    ]
    assert len(COMBINATIONS) > 100
    for criteria in COMBINATIONS:
        backend.save(records)
        expected = sorted(one.id for one in records if not _is_selected(one, criteria))
        assert backend.delete(**criteria) == len(records) - len(expected), criteria
        assert sorted(one.id for one in backend.list_records()) == expected, criteria


def test_records_of_an_id_are_one_whatever_their_scope(backend):
    backend.save([record("a", "/old"), record("b", id="a", scope="/new")])
    backend.save([record("a", "/old")])
    backend.update(record("c", id="a", scope="/newest", embedding=letters(["c"])[0]))
    assert backend.list_scopes() == ["/newest"]
    assert _contents(backend.list_records()) == ["c"]
    assert [(one.content, round(score, 3)) for one, score in backend.search(letters(["c"])[0])] == [("c", 1.0)]
    backend.update(record("b"))
    assert backend.count() == 2


def test_an_update_without_an_embedding_keeps_it(backend):
    backend.save([record("a")])
    backend.update(MemoryRecord(id="a", content="text"))
    backend.update(MemoryRecord(id="new", content="new"))
    assert backend.get_record("a").embedding == pytest.approx(QUERY)
    assert _contents(backend.search(QUERY)) == ["text"]
    assert backend.get_record("new").embedding is None


def test_a_touch_changes_the_last_access_alone(backend):
    old = [record(name, last_accessed=START, created_at=START) for name in "ab"]
    backend.save(old)
    before = datetime.now(timezone.utc).replace(tzinfo=None)
    backend.touch_records(["a", "absent"])
    touched = backend.get_record("a")
    assert touched.last_accessed >= before
    assert touched.embedding == pytest.approx(QUERY)
    assert touched.model_copy(update={"last_accessed": START, "embedding": None}) == old[0].model_copy(
        update={"embedding": None}
    )
    assert backend.get_record("b").last_accessed == START
    backend.touch_records([])


def test_a_touch_is_in_utc_whatever_the_clock():
    zone = timezone(timedelta(hours=5))
    with ms.MemoryStorage.open(":memory:", now=lambda: START.replace(tzinfo=timezone.utc).astimezone(zone)) as other:
        backend = MemoryStorageBackend(other)
        backend.save([record("a")])
        backend.touch_records(["a"])
        assert backend.get_record("a").last_accessed == START


def test_the_newest_records_come_first(backend):
    days = [3, 1, 2, 5, 4]
    backend.save([record(str(day), "/a", created_at=START + timedelta(days=day)) for day in days])
    backend.touch_records(["1"])
    assert _contents(backend.list_records()) == ["5", "4", "3", "2", "1"]
    assert _contents(backend.list_records("/a", limit=2, offset=1)) == ["4", "3"]
    assert backend.list_records(limit=0) == backend.list_records(offset=5) == []


def test_pages_are_whole_beyond_the_limit_of_a_query(target):
    with ms.MemoryStorage.open(ms.Settings(database=target, limits={"query_default": 3, "query_maximum": 3})) as opened:
        backend = MemoryStorageBackend(opened)
        names = [f"{number:02}" for number in range(10)]
        backend.save(
            [
                record(name, embedding=[1, number], created_at=START - timedelta(days=number), metadata={"l": [1]})
                for number, name in enumerate(names)
            ]
        )
        for limit in (2, 3, 4, 9, 10, 11):
            assert _contents(backend.search([1, 0], limit=limit)) == names[:limit]
            assert _contents(backend.search([1, 0], limit=limit, metadata_filter={"l": [1]})) == names[:limit]
            assert _contents(backend.list_records(limit=limit, offset=1)) == names[1 : limit + 1]


@pytest.mark.parametrize(
    "call",
    [
        lambda backend: backend.save([record("x", embedding=[1.0] * 5)]),
        lambda backend: backend.update(record("x", embedding=[1.0] * 5)),
        lambda backend: backend.search([1.0] * 5),
        lambda backend: backend.search([1.0] * 5, metadata_filter={"k": [1]}),
    ],
)
def test_another_dimension_is_an_error_of_crewai(backend, call):
    backend.save([record("a")])
    with raises(EmbeddingDimensionMismatchError, stored_dim=4, new_dim=5) as caught:
        call(backend)
    assert isinstance(caught.value.__cause__, ms.ValidationError)
    assert backend.count() == 1
    backend.reset()
    backend.save([record("x", embedding=[1.0] * 5)])
    assert _contents(backend.search([1.0] * 5)) == ["x"]


def test_a_batch_of_two_dimensions_stores_nothing(backend):
    with raises(EmbeddingDimensionMismatchError, stored_dim=4, new_dim=2):
        backend.save([record("a"), record("b", embedding=[1.0, 2.0])])
    assert backend.count() == 0


def test_records_without_a_direction_are_stored_and_not_found(backend):
    backend.save([record("none", embedding=None), record("empty", embedding=[]), record("zero", embedding=[0.0] * 4)])
    assert backend.count() == 3
    assert backend.search(QUERY) == []
    assert [one.embedding for one in backend.list_records()] == [None] * 3


BAD = [
    ("records.1.importance", {"importance": 5.0}),
    ("records.1.created_at", {"created_at": "soon"}),
    ("records.1.embedding", {"embedding": [math.nan, 1.0]}),
    ("items.1.value", {"metadata": {"k": {1}}}),
    ("items.1.value", {"content": "\0"}),
    ("items.1.key", {"id": "\0"}),
]


@in_memory
@pytest.mark.parametrize(("field", "fields"), BAD, ids=ascii)
def test_a_batch_with_a_record_that_is_invalid_stores_nothing(backend, field, fields):
    bad = record("b").model_copy(update=fields)  # as CrewAI updates records: it does not validate
    with pytest.raises(ms.ValidationError) as caught:
        backend.save([record("a"), bad])
    assert caught.value.field.startswith(field)
    assert backend.count() == 0


@in_memory
@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda backend: backend.save([{"content": "x"}]), "records.0"),
        (lambda backend: backend.search(["x"]), "query_embedding"),
        (lambda backend: backend.search([math.inf]), "query_embedding"),
        (lambda backend: backend.search(QUERY, limit=-1), "limit"),
        (lambda backend: backend.search(QUERY, 5), "scope_prefix"),
        (lambda backend: backend.search(QUERY, categories="abc"), "categories"),
        (lambda backend: backend.search(QUERY, metadata_filter=["k"]), "metadata_filter"),
        (lambda backend: backend.search(QUERY, metadata_filter={1: 2}), "metadata_filter"),
        (lambda backend: backend.list_records(limit=1.5), "limit"),
        (lambda backend: backend.list_records(offset=-1), "offset"),
        (lambda backend: backend.delete(older_than="2026"), "older_than"),
        (lambda backend: backend.delete(record_ids=[5]), "record_ids"),
        (lambda backend: backend.delete(record_ids="abc"), "record_ids"),
        (lambda backend: backend.get_record("\0"), "record_id"),
        (lambda backend: backend.get_scope_info(None), "scope"),
        (lambda backend: backend.list_scopes(None), "parent"),
    ],
)
def test_an_argument_that_is_invalid_is_named(backend, call, field):
    backend.save([record("a")])
    with raises(ms.ValidationError, field=field):
        call(backend)
    assert backend.count() == 1


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_hostile_text_is_a_value_everywhere(backend, text):
    backend.save([record("decoy", "/decoy", categories=["decoy"], metadata={"decoy": 1}, created_at=START)])
    one = record(text, f"/{text.replace('/', '-')}", id=text, categories=[text], metadata={text: text}, source=text)
    backend.save([one])
    criteria = {"scope_prefix": one.scope, "categories": [text], "metadata_filter": {text: text}}
    assert _contents(backend.search(letters([text])[0], **criteria)) == [text]
    assert backend.get_record(text).source == text
    assert backend.get_scope_info(one.scope).categories == [text]
    assert one.scope in backend.list_scopes()
    assert backend.list_categories(one.scope) == {text: 1}
    backend.update(one.model_copy(update={"content": "new", "embedding": None}))
    backend.touch_records([text])
    assert _contents(backend.list_records(one.scope)) == ["new"]
    assert backend.delete(**criteria, record_ids=[text]) == 1
    assert _contents(backend.list_records()) == ["decoy"]


def test_each_namespace_has_its_own_records(backend, storage):
    other = MemoryStorageBackend(storage.in_namespace("other"))
    backend.save([record("a", categories=["x"])])
    other.save([record("a", "/b", embedding=[1.0, 2.0])])
    assert (backend.list_scopes(), other.list_scopes()) == ([], ["/b"])
    assert backend.list_categories() == {"x": 1}
    assert other.list_categories() == {}
    other.touch_records(["a"])
    assert backend.get_record("a").scope == "/"
    other.reset()
    assert (backend.count(), other.count()) == (1, 0)


def test_other_items_of_the_storage_are_left_alone(backend, storage):
    storage.items.put(("mine",), "a", {"scope_path": "/x/", "categories": ["c"], "created": 1})
    backend.save([record("a")])
    assert (backend.list_scopes(), backend.list_categories(), len(backend.list_records())) == ([], {}, 1)
    assert backend.delete() == 1
    assert storage.items.count() == 1


@in_memory
def test_an_item_that_is_no_record_is_named(backend, storage):
    storage.items.put_many([PutItem(path=MEMORY_PATH, key="odd", value=5)])
    with raises(ms.CorruptDataError, table="items", id="odd"):
        backend.get_record("odd")
    assert backend.list_scopes() == []
    assert backend.delete(record_ids=["odd"]) == 1


def _round_trips(storage: ms.MemoryStorage) -> int:
    return sum(one.round_trips for one in storage.metrics().values())


def test_each_call_is_one_round_trip(backend, storage):
    backend.save([record("a", "/a"), record("b", "/b")])

    def trips(call) -> int:
        before = _round_trips(storage)
        call()
        return _round_trips(storage) - before

    records = [record(str(number)) for number in range(500)]
    assert trips(lambda: backend.save(records)) == 1
    assert trips(lambda: backend.search(QUERY, "/a", ["x"], {"k": 1}, 500)) == 1
    assert trips(lambda: backend.delete("/a", ["x"], ["a"], START, {"k": 1})) == 1
    assert trips(lambda: backend.delete(record_ids=[one.id for one in records])) == 1
    assert trips(lambda: backend.count("/a")) == trips(lambda: backend.list_records("/a")) == 1
    for method in (backend.list_scopes, backend.list_categories, backend.get_scope_info):
        assert trips(lambda method=method: method("/a")) == 2  # two statements of one round trip on a server
    assert trips(lambda: backend.get_record("a")) == trips(lambda: backend.update(record("a"))) == 1
    assert trips(lambda: backend.touch_records(["a", "b"])) == 2


def test_threads_lose_no_touch_and_no_update(backend):
    backend.save([record(name, metadata={}) for name in "abcd"])
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(10):
                backend.save([record(f"{number}-{step}", f"/t{number}")])
                backend.touch_records(["a", "b"])
                assert len(backend.search(QUERY, f"/t{number}", limit=100)) == step + 1
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert failures == []
    assert backend.count() == 44
    assert backend.get_record("a").embedding == pytest.approx(QUERY)


def test_coroutines_do_not_block_the_loop(backend):
    async def main() -> None:
        await backend.asave([record(f"a{number}") for number in range(200)])
        await asyncio.gather(*(backend.asave([record(f"b{number}", "/b")]) for number in range(20)))
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        found = await asyncio.gather(*(backend.asearch(QUERY, limit=5) for _ in range(20)))
        ticking.cancel()
        assert [len(one) for one in found] == [5] * 20
        assert ticks > 20
        assert await backend.adelete("/b") == 20
        assert backend.count() == 200

    asyncio.run(main())


@pytest.mark.parametrize("storage_", [None, "memory.db"])
def test_what_is_no_storage_is_refused(storage_):
    with raises(ms.ConfigurationError, match="must be a MemoryStorage"):
        MemoryStorageBackend(storage_)


def test_without_the_extra_it_is_named():
    code = """import sys; sys.modules["crewai"] = None
import memory_storage as ms; from memory_storage.integrations.crewai import MemoryStorageBackend
MemoryStorageBackend(ms.MemoryStorage.open(":memory:"))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ConfigurationError: MemoryStorageBackend needs CrewAI" in done.stderr
    assert "pip install 'memory-storage[crewai]'" in done.stderr
