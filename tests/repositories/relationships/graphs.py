"""Episodes and relationships as graphs of networkx."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

import networkx as nx

import memory_storage as ms


def save_episodes(storage: ms.MemoryStorage, count: int) -> list[UUID]:
    """Save episodes, and return their IDs in the order of their numbers."""
    new = [ms.Episode(task_description=f"number {n}") for n in range(count)]
    return [one.id for one in storage.episodes.save_many(new)]


def graph_of(storage: ms.MemoryStorage, kind: str | None, nodes: Iterable[UUID] = ()) -> nx.DiGraph:
    """Return the relationships of a kind, or of all, as a graph."""
    graph = nx.DiGraph()
    graph.add_nodes_from(nodes)
    edges = [(one.from_id, one.to_id) for one in storage.relationships.iterate() if kind in (None, one.kind)]
    graph.add_edges_from(edges)
    return graph
