"""A metadata filter matches equal numbers: 1 matches 1.0, and neither matches true or "1"."""

from __future__ import annotations

import pytest

import memory_storage as ms

VALUES = [
    *(0, 0.0, -0.0, 1, 1.0, -1, -1.0, 1.5, 0.1, 5e-324, True, False, "1", "1.0", None),
    *(1.0000000000000002, 2**53, float(2**53), 2**53 + 1, 2**62, float(2**62), 1e15, 10**16, 1e16, 1e22, 1e300),
    -48.80190682023213,  # SQLite reads it as its neighbour
]
ODD_KEY = 'we"ird.key'


def are_equal(stored: object, wanted: object) -> bool:
    is_number = [isinstance(value, int | float) and not isinstance(value, bool) for value in (stored, wanted)]
    return stored == wanted and (all(is_number) or type(stored) is type(wanted))


@pytest.fixture
def filled(storage):
    storage.episodes.save_many(
        [ms.Episode(task_description=f"{n}", metadata={"v": v, ODD_KEY: v}) for n, v in enumerate(VALUES)]
    )
    return storage


def found(storage: ms.MemoryStorage, key: str, wanted: object) -> set[int]:
    return {int(episode.task_description) for episode in storage.episodes.query(metadata={key: wanted})}


@pytest.mark.parametrize("key", ["v", ODD_KEY])
def test_a_filter_matches_equal_numbers(filled, key):
    for wanted in VALUES if key == "v" else VALUES[:-1]:
        assert found(filled, key, wanted) == {n for n, stored in enumerate(VALUES) if are_equal(stored, wanted)}, wanted


def test_search_takes_the_same_filters(filled):
    assert len(filled.episodes.search("3 4", metadata={"v": 1.0})) == 2
