"""Walks along relationships against networkx, and cycles that concurrent writers try to close."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from uuid import UUID

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import memory_storage as ms
from memory_storage.models import Page, RelatedEpisode, Relationship
from tests.raising import raises
from tests.schema.spy import own_steps, spied

from .graphs import graph_of, save_episodes

NODES = 9
WRITERS = 8
edges = st.lists(st.tuples(st.integers(0, NODES - 1), st.integers(0, NODES - 1)), max_size=30)


def _all(read: Callable[..., Page[RelatedEpisode]], *arguments: object, limit: int, **others: object) -> list:
    items, cursor = [], None
    while True:
        page = read(*arguments, limit=limit, cursor=cursor, **others)
        items += page.items
        if page.next_cursor is None:
            return items
        cursor = page.next_cursor


def _add_each(storage: ms.MemoryStorage, ids: list[UUID], pairs: list[tuple[int, int]], kind: str) -> nx.DiGraph:
    """Add the edges one by one, and check that those that close a cycle are refused, and no others."""
    graph = nx.DiGraph()
    graph.add_nodes_from(ids)
    for one, other in pairs:
        if one == other:
            continue
        ends = ids[one], ids[other]
        if nx.has_path(graph, ends[1], ends[0]):
            with raises(ms.ValidationError, field="to_id"):
                storage.relationships.add(*ends, kind)
        else:
            storage.relationships.add(*ends, kind)
            graph.add_edge(*ends)
    return graph


@settings(max_examples=60)
@given(edges, st.integers(1, NODES), st.integers(1, 5))
def test_walks_and_refusals_are_those_of_networkx(storage, pairs, depth, limit):
    ids = save_episodes(storage, NODES)
    relationships = storage.relationships
    graph = _add_each(storage, ids, pairs, "depends_on")
    for one in ids:
        for read, view in ((relationships.descendants, graph), (relationships.ancestors, graph.reverse())):
            lengths = nx.single_source_shortest_path_length(view, one, cutoff=depth)
            items = _all(read, one, "depends_on", max_depth=depth, limit=limit)
            assert {related.episode_id: related.depth for related in items} == {
                key: length for key, length in lengths.items() if key != one
            }
            assert [related.depth for related in items] == sorted(related.depth for related in items)
            assert len(items) == len(set(items))


@settings(max_examples=40)
@given(edges, st.integers(1, 5))
def test_a_topological_order_is_one_of_networkx(storage, pairs, limit):
    ids = save_episodes(storage, NODES)
    graph = _add_each(storage, ids, pairs, "parent_child")
    for one in ids:
        below = graph.subgraph(nx.descendants(graph, one) | {one})
        order = _all(storage.relationships.topological_order, one, limit=limit)
        place = {related.episode_id: number for number, related in enumerate(order)}
        assert set(place) == set(below)
        assert all(place[source] < place[target] for source, target in below.edges)
        longest = {one: 0}
        for node in nx.topological_sort(below):
            longest[node] = max((longest[source] + 1 for source in below.predecessors(node)), default=0)
        assert {related.episode_id: related.depth for related in order} == longest


@settings(max_examples=60)
@given(edges, st.integers(1, NODES))
def test_a_path_is_a_shortest_one_also_with_cycles(storage, pairs, depth):
    ids = save_episodes(storage, NODES)
    new = {(ids[one], ids[other]) for one, other in pairs if one != other}
    kinds = ["related_to", "references"]
    storage.relationships.add_many(
        [Relationship(from_id=one, to_id=other, kind=kinds[n % 2]) for n, (one, other) in enumerate(sorted(new))]
    )
    for kind in (None, "references"):
        graph = graph_of(storage, kind, ids).subgraph(ids)
        lengths = dict(nx.all_pairs_shortest_path_length(graph, cutoff=depth))
        for one in ids:
            for other in ids:
                path = storage.relationships.path(one, other, kind, max_depth=depth)
                length = lengths[one].get(other)
                assert len(path) == (0 if length is None else length + 1)
                assert not path or (nx.is_path(graph, path) and (path[0], path[-1]) == (one, other))


def test_pages_go_backwards_too(storage):
    ids = save_episodes(storage, 12)
    storage.relationships.add_many([Relationship(from_id=ids[0], to_id=one, kind="parent_child") for one in ids[1:]])
    for read in (storage.relationships.descendants, storage.relationships.topological_order):
        first = read(ids[0], limit=4)
        second = read(ids[0], limit=4, cursor=first.next_cursor)
        assert first.previous_cursor is None
        assert read(ids[0], limit=4, cursor=second.previous_cursor) == first
        assert not {one.episode_id for one in first} & {one.episode_id for one in second}


def test_ancestors_of_depth_20_are_one_statement(storage):
    ids = save_episodes(storage, 21)
    storage.relationships.add_many(
        [Relationship(from_id=one, to_id=other, kind="parent_child") for one, other in pairwise(ids)]
    )
    with spied(storage.engine) as batches:
        related = storage.relationships.ancestors(ids[-1])
    assert [one.episode_id for one in related] == ids[-2::-1]
    assert [len(own_steps(batch)) for batch in batches] == [1]


def test_children_are_a_filter_of_every_read(storage):
    ids = save_episodes(storage, 6)
    for child in ids[1:4]:
        storage.relationships.add(ids[0], child, "parent_child")
    storage.relationships.add(ids[0], ids[4], "related_to")
    storage.relationships.add(ids[1], ids[5], "parent_child")
    for one in ids:
        storage.episodes.complete(one, ms.Success(verdict="done"))
    storage.episodes.archive(ids[3])
    storage.embeddings.put_many([("episode", one, [1.0, float(n)]) for n, one in enumerate(ids)], model="m")
    children, episodes = {"child_of": str(ids[0])}, storage.episodes
    with spied(storage.engine) as batches:
        page = episodes.query(**children)
    assert [len(own_steps(batch)) for batch in batches] == [1]
    assert {one.id for one in page} == {one.id for one in episodes.iterate(**children)} == set(ids[1:3])
    assert (episodes.count(**children), episodes.count(**children, archived=None)) == (2, 3)
    assert {hit.item.id for hit in episodes.similar_to([1.0, 0.0], model="m", **children)} == set(ids[1:3])
    assert {hit.item.id for hit in episodes.search("number", **children)} == set(ids[1:3])
    assert {one.item.id for one in storage.recall("number", **children)} == set(ids[1:3])
    assert storage.in_namespace("other").episodes.count(**children) == 0
    with raises(ms.ValidationError, field="child_of"):
        episodes.query(child_of="x")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["file", "server"], indirect=True)
def test_concurrent_writers_close_no_cycle(storage):
    ids = save_episodes(storage, 12)

    def write(seed: int) -> tuple[int, int]:
        rng, stored, refused = random.Random(seed), 0, 0
        for _ in range(25):
            one, other = rng.sample(ids, 2)
            try:
                storage.relationships.add(one, other, "blocks")
                stored += 1
            except ms.ValidationError:
                refused += 1
        return stored, refused

    with ThreadPoolExecutor(WRITERS) as pool:
        counts = list(pool.map(write, range(WRITERS)))
    graph = graph_of(storage, "blocks", ids)
    assert nx.is_directed_acyclic_graph(graph)
    assert sum(refused for _, refused in counts) > 0
    assert graph.number_of_edges() > len(ids)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["file", "server"], indirect=True)
def test_of_two_writers_that_close_a_cycle_one_is_refused(storage):
    for _ in range(10):
        one, other = save_episodes(storage, 2)

        def add(ends: tuple[UUID, UUID]) -> bool:
            try:
                storage.relationships.add(*ends, "follows")
            except ms.ValidationError:
                return False
            return True

        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(add, [(one, other), (other, one)])) == [False, True]
