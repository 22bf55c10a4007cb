"""Checks of relationships of acyclic kinds that form a cycle: another program wrote them, or two replicas at once."""

from __future__ import annotations

from collections import defaultdict
from functools import partial

from sqlalchemy import Connection

from memory_storage.doctor.findings import Finding, about_rows
from memory_storage.doctor.quarantine import quarantine_rows
from memory_storage.models.relationship import ACYCLIC

_KINDS = ", ".join(f"'{kind}'" for kind in sorted(ACYCLIC))
_EDGES = f"""SELECT r.namespace, r.kind, r.seq, source.seq, target.seq FROM relationships AS r
    JOIN episodes AS source ON source.namespace = r.namespace AND source.id = r.from_id
    JOIN episodes AS target ON target.namespace = r.namespace AND target.id = r.to_id
WHERE r.kind IN ({_KINDS}) ORDER BY r.namespace, r.kind, r.seq"""

_Edges = dict[int, tuple[int, int]]
"""By their `seq`, the oldest first, the two episodes of relationships."""


def cyclic_relationships(connection: Connection) -> list[Finding]:
    """Find the relationships that close a cycle of older ones."""
    graphs: dict[tuple[str, str], _Edges] = defaultdict(dict)
    for namespace, kind, seq, source, target in connection.exec_driver_sql(_EDGES):
        graphs[namespace, kind][seq] = source, target
    seqs = sorted(seq for edges in graphs.values() for seq in _closing(edges))
    repair = partial(quarantine_rows, table="relationships", seqs=seqs, reason="it closes a cycle")
    problem, remedy = "relationships of an acyclic kind that form a cycle", "move them to quarantined_relationships"
    return about_rows("relationships.cycle", "relationships", seqs, problem, remedy, repair)


def _closing(edges: _Edges) -> list[int]:
    """Return the relationships without which there is no cycle."""
    closing: list[int] = []
    targets: dict[int, list[int]] = defaultdict(list)
    for seq, (source, target) in _core(edges).items():
        if _reaches(targets, target, source):
            closing.append(seq)
        else:
            targets[source].append(target)
    return closing


def _core(edges: _Edges) -> _Edges:
    """Return the relationships that may be in a cycle: their episodes have others that lead to them, and from them."""
    while True:
        sources = {source for source, _ in edges.values()}
        targets = {target for _, target in edges.values()}
        core = {seq: ends for seq, ends in edges.items() if ends[0] in targets and ends[1] in sources}
        if len(core) == len(edges):
            return core
        edges = core


def _reaches(targets: dict[int, list[int]], start: int, end: int) -> bool:
    pending, reached = [start], {start}
    while pending:
        node = pending.pop()
        if node == end:
            return True
        new = [target for target in targets[node] if target not in reached]
        reached.update(new)
        pending += new
    return False
