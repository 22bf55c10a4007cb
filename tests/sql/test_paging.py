"""Pages: every row once, in both directions, for any size, with concurrent inserts."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
from datetime import datetime, timedelta, timezone

from hypothesis import given, settings
from hypothesis import strategies as st

import memory_storage as ms
from tests.raising import raises

_number = itertools.count()

START = datetime(2024, 5, 1, tzinfo=timezone.utc)


def _episodes(hours: list[int]) -> list[ms.Episode]:
    return [
        ms.Episode(task_description=str(n), started_at=START + timedelta(hours=hour)) for n, hour in enumerate(hours)
    ]


def _encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


HOSTILE_CURSORS = [
    "",
    "=",
    "====",
    "!",
    "é",
    "\ud800",
    "\0",
    "a",
    "W10",
    "null",
    "' OR 1=1 --",
    "A" * 100_000,
    *map(
        _encoded,
        [
            None,
            0,
            "",
            [],
            {},
            [1],
            [1, 2],
            [1, 2, 3],
            [1, 2, 0, 0],
            ["1", 2, 0],
            [1, "2", 0],
            [1, 2, "0"],
            [1, 2, None],
            [1, 2, []],
            [1, 2.0, 0],
            [True, 2, 0],
            [1, True, 0],
            [None, None, None],
            [2**63, 1, 0],
            [1, 2**63, 0],
            [1, 10**400, 0],
            [float("nan"), 1, 0],
            [float("inf"), 1, 0],
            [[1], 2, 0],
            {"0": 1, "1": 2, "2": 0},
            "abc",
        ],
    ),
    base64.urlsafe_b64encode(b"[" * 100_000).decode(),
    base64.urlsafe_b64encode(b"[" + b"9" * 5_000 + b",1,0]").decode(),
    base64.urlsafe_b64encode(b"\xff\xfe").decode(),
]


def _all_pages(first, read):
    """The pages from `first` on, by their next_cursor."""
    pages = [first]
    while pages[-1].next_cursor is not None:
        pages.append(read(cursor=pages[-1].next_cursor))
    return pages


@settings(max_examples=40)
@given(
    hours=st.lists(st.integers(0, 3), max_size=20),
    size=st.integers(1, 22),
    direction=st.sampled_from(["newest_first", "oldest_first"]),
)
def test_pages_have_every_row_once_and_lead_back_again(storage, hours, size, direction):
    memory = storage.in_namespace(f"pages {next(_number)}")
    episodes = memory.episodes.save_many(_episodes(hours))
    expected = sorted(episodes, key=lambda episode: episode.started_at)
    if direction == "newest_first":
        expected.reverse()

    def read(cursor=None):
        return memory.episodes.query(limit=size, cursor=cursor, direction=direction)

    pages = _all_pages(read(), read)
    assert list(itertools.chain(*pages)) == expected
    assert [len(page) for page in pages[:-1]] == [size] * (len(pages) - 1)
    assert pages[0].previous_cursor is None
    for before, after in itertools.pairwise(pages):
        back = read(cursor=after.previous_cursor)
        assert back.items == before.items
        assert read(cursor=back.next_cursor).items == after.items
        assert (back.previous_cursor is None) == (before is pages[0])


@settings(max_examples=40)
@given(
    hours=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    added=st.lists(st.lists(st.integers(0, 3), max_size=3), max_size=8),
    size=st.integers(1, 4),
    direction=st.sampled_from(["newest_first", "oldest_first"]),
)
def test_stored_rows_are_paged_once_while_others_are_added(storage, hours, added, size, direction):
    memory = storage.in_namespace(f"pages {next(_number)}")
    there = {episode.id for episode in memory.episodes.save_many(_episodes(hours))}
    seen, cursor = [], None
    for new in itertools.chain(added, itertools.repeat([])):
        page = memory.episodes.query(limit=size, cursor=cursor, direction=direction)
        seen += [episode.id for episode in page]
        cursor = page.next_cursor
        if cursor is None:
            break
        memory.episodes.save_many(_episodes(new))
    assert len(set(seen)) == len(seen)
    assert there <= set(seen)


@settings(max_examples=30)
@given(rates=st.lists(st.sampled_from([0.0, 0.1 + 0.2, 0.3, 1.0]), max_size=15), size=st.integers(1, 16))
def test_pages_of_patterns_have_each_row_once_in_both_ways(storage, rates, size):
    memory = storage.in_namespace(f"pages {next(_number)}")
    patterns = memory.patterns.save_many([ms.Heuristic(condition="c", action="a", success_rate=rate) for rate in rates])
    expected = sorted(patterns, key=lambda pattern: pattern.success_rate)[::-1]

    def read(cursor=None):
        return memory.patterns.query(limit=size, cursor=cursor)

    pages = _all_pages(read(), read)
    assert list(itertools.chain(*pages)) == expected
    for before, after in itertools.pairwise(pages):
        assert read(cursor=after.previous_cursor).items == before.items


def test_iterate_holds_no_connection_between_pages(storage):
    saved = storage.episodes.save_many(_episodes([n % 3 for n in range(230)]))
    rows = storage.episodes.iterate(steps=False)
    next(rows)
    storage.episodes.save(saved[0].model_copy(update={"task_description": "written between the pages"}))
    assert len(list(rows)) == 229
    episode = storage.episodes.save(ms.Episode(task_description="", steps=[ms.Step(tool="t") for _ in range(230)]))
    assert list(storage.steps.iterate(episode.id)) == episode.steps
    assert storage.steps.latest(episode.id, 7) == episode.steps[-7:]
    assert storage.steps.range(episode.id, 101, 103) == episode.steps[100:103]


def test_a_page_has_100_rows_by_default(storage):
    storage.episodes.save_many(_episodes([0] * 101))
    assert len(storage.episodes.query()) == 100
    assert len(storage.episodes.query(limit=1000)) == 101


def test_a_forged_cursor_is_refused(storage):
    storage.episodes.save_many(_episodes([0, 0]))
    for cursor, query in itertools.product(
        [*HOSTILE_CURSORS, 5, b"W10", ["W10"], True, 1.5, {}], (storage.episodes.query, storage.patterns.query)
    ):
        with raises(ms.ValidationError, field="cursor") as caught:
            query(cursor=cursor)
        assert (caught.value.field, caught.value.value) == ("cursor", cursor)


@given(cursor=st.text() | st.binary(max_size=30).map(lambda data: base64.urlsafe_b64encode(data).decode()))
def test_no_cursor_does_more_than_being_refused(storage, cursor):
    with contextlib.suppress(ms.ValidationError):
        storage.episodes.query(cursor=cursor)
