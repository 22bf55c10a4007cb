"""The HNSW graph: vectors that no search reaches are repaired."""

from __future__ import annotations

import numpy as np
import pytest

from memory_storage.search.hnsw import Graph, IndexHeader, Sidecar
from tests.search import oracle

COUNT, DIMENSION = 600, 24


@pytest.fixture(scope="module")
def vectors():
    return oracle.clustered(COUNT, DIMENSION)


def _losing(monkeypatch, *losses):
    """Let searches, one after the other, not find these numbers."""
    real, left = Graph._find_unreachable, list(losses)

    def lost(self, keys, rows, threads):
        found = real(self, keys, rows, threads)
        return np.isin(keys, list(left.pop(0))) if left else found

    monkeypatch.setattr(Graph, "_find_unreachable", lost)


def _own(graph, vectors):
    """What a search for each vector gives first."""
    return [graph.nearest(vector.tobytes(), 1) for vector in vectors]


@pytest.mark.parametrize("batch", [COUNT, 120, 7])
def test_each_vector_is_found_by_itself(vectors, batch):
    graph = Graph(DIMENSION)
    for first in range(0, COUNT, batch):
        last = min(first + batch, COUNT)
        graph.add(range(first + 1, last + 1), vectors[first:last].tobytes())
    assert len(graph) == COUNT
    assert graph.numbers() == list(range(1, COUNT + 1))
    lost = [number for number, own in enumerate(_own(graph, vectors), 1) if number not in own]
    assert len(lost) <= COUNT // 50  # others may be as near, in 8 bits
    for number in lost:
        assert number in graph.nearest(vectors[number - 1].tobytes(), 16)


def test_an_unreachable_vector_is_added_again_and_counts_once(monkeypatch, vectors):
    _losing(monkeypatch, [3, 5])
    graph = Graph(DIMENSION)
    graph.add(range(1, COUNT + 1), vectors.tobytes())
    assert (graph.duplicates, graph.unreachable) == (2, set())
    assert len(graph) == COUNT
    assert graph.numbers() == list(range(1, COUNT + 1))
    found = graph.nearest(vectors[2].tobytes(), 50)
    assert found[0] == 3
    assert len(set(found)) == len(found)


def test_what_stays_lost_is_found_where_it_belongs(monkeypatch, vectors):
    _losing(monkeypatch, range(1, 101), range(1, 101))
    graph = Graph(DIMENSION)
    graph.add(range(1, COUNT + 1), vectors.tobytes())
    assert graph.unreachable == set(range(1, 101))
    found = [[number - 1 for number in graph.nearest(vector.tobytes(), 30)] for vector in vectors[:200]]
    assert all(set(one) >= set(range(100)) for one in found)
    assert oracle.recall([set(one[:30]) for one in found], oracle.nearest(vectors[:200], vectors, 10)) >= 0.97
    assert all(number in one[:16] for number, one in enumerate(found[:100]))


def test_a_sidecar_keeps_both(monkeypatch, vectors, tmp_path):
    _losing(monkeypatch, [3, 5], [5])
    graph = Graph(DIMENSION)
    graph.add(range(1, COUNT + 1), vectors.tobytes())
    sidecar = Sidecar(tmp_path / "graph")
    sidecar.write(graph, IndexHeader("m", DIMENSION, COUNT, 1, [], graph.duplicates, sorted(graph.unreachable)))
    _, again = sidecar.read("m")
    assert (len(again), again.duplicates, again.unreachable) == (COUNT, 2, {5})
    for vector in vectors[:9]:
        assert again.nearest(vector.tobytes(), 20) == graph.nearest(vector.tobytes(), 20)


@pytest.mark.parametrize("noise", [1e-3, 1e-2])
@pytest.mark.parametrize("dimension", [DIMENSION, 384])
def test_near_duplicates_are_found_and_isolate_no_vector(noise, dimension):
    vectors = oracle.clustered(COUNT, dimension)
    alike = oracle.unit(vectors[:1] + noise * np.random.default_rng(3).normal(size=(300, dimension))).astype("<f4")
    graph = Graph(dimension)
    graph.add(range(1, COUNT + 1), vectors.tobytes())
    graph.add(range(COUNT + 1, COUNT + 301), alike.tobytes())
    lost = [number for number in range(2, COUNT + 1) if number not in graph.nearest(vectors[number - 1].tobytes(), 33)]
    assert len(lost) <= COUNT // 50
    found = graph.nearest(alike[7].tobytes(), 128)[:33]
    assert len({number for number in found if number > COUNT or number == 1}) == 33
