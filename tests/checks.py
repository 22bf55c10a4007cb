"""Checks that every index, and every column that a document repeats, agrees with its rows."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, Engine, create_engine

from memory_storage.dbapi import Batch
from memory_storage.models.relationship import ACYCLIC
from memory_storage.schema.vector_tables import VectorSpace, digest
from memory_storage.sql.indexing import INDEX_STEPS

TABLES = (
    *("episodes", "steps", "patterns", "embeddings", "spatiotemporal_index", "facets"),
    *("items", "item_vectors", "logs", "relationships", "checkpoints", "recalls"),
)

_HEAD = -1  # stands for the head of an episode among its steps
_OWNERS = {"episode": "episodes", "step": "steps", "pattern": "patterns"}
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MOMENT = TypeAdapter(datetime)
_SHORT = {"\b": r"\b", "\t": r"\t", "\n": r"\n", "\f": r"\f", "\r": r"\r", '"': r"\"", "\\": r"\\"}


def assert_consistent(engine: Engine) -> None:
    """Raise AssertionError, saying where, if the indexes, the columns and the documents do not tell the same."""
    with engine.connect() as connection:
        for check in _CHECKS:
            check(connection)


def dump(engine: Engine, *, namespace: str | None = None) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table (of one namespace if one is given), as it is stored, vectors as bytes."""
    where, values = ("", ()) if namespace is None else (" WHERE namespace = ?", (namespace,))
    with engine.connect() as connection:
        return {
            table: sorted(_rows(connection, f"SELECT * FROM {table}{where}", *values), key=repr) for table in TABLES
        }


def schema_of(engine: Engine) -> list[tuple[Any, ...]]:
    """What the engine says its schema is, without white space, which Alembic changes when it prints.

    libSQL's engine has a table of its own, of DiskANN indexes, which is left out.
    """
    query = """SELECT type, name, tbl_name, sql FROM sqlite_master WHERE tbl_name <> 'libsql_vector_meta_shadow'
        ORDER BY type, name"""
    with engine.connect() as connection:
        return [(*names, sql and " ".join(sql.split())) for *names, sql in _rows(connection, query)]


def schema_of_file(path: Path) -> list[tuple[Any, ...]]:
    """The `schema_of` of a file."""
    engine = create_engine(f"libsql:///{path}")
    try:
        return schema_of(engine)
    finally:
        engine.dispose()


def index_all(engine: Engine) -> None:
    """Index the words and facets of all changed episodes."""
    with engine.begin() as connection:
        connection.exec_driver_sql(Batch(INDEX_STEPS))


def row_counts(engine: Engine) -> dict[str, int]:
    """How many rows each table has, in all namespaces."""
    with engine.connect() as connection:
        return {table: _rows(connection, f"SELECT count(*) FROM {table}")[0][0] for table in TABLES}


def json_quoted(text: str) -> str:
    """A string as SQLite's json_quote writes it."""
    return '"' + "".join(_SHORT.get(one) or (f"\\u{ord(one):04x}" if one < " " else one) for one in text) + '"'


def _rows(connection: Connection, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in connection.exec_driver_sql(sql, values)]


def _same(what: str, stored: Iterable[Any], expected: Iterable[Any]) -> None:
    has, wants = set(stored), set(expected)
    surplus, missing = sorted(has - wants, key=repr)[:5], sorted(wants - has, key=repr)[:5]
    assert has == wants, f"{what}: too much {surplus}, missing {missing}"


def _the_file_is_whole(connection: Connection) -> None:
    assert _rows(connection, "PRAGMA integrity_check") == [("ok",)]
    assert _rows(connection, "PRAGMA foreign_key_check") == []


def _the_columns_repeat_the_documents(connection: Connection) -> None:
    for table, columns in _COLUMNS.items():
        for *stored, document in _rows(connection, f"SELECT {', '.join(columns)}, document FROM {table}"):
            read = json.loads(document)
            expected = [_at(read, path) for path in columns.values()]
            assert stored == expected, f"{table}: the columns {tuple(columns)} have {stored}, the document {expected}"


def _no_document_repeats_a_column(connection: Connection) -> None:
    """But for times with another offset than that of UTC, and what older versions wrote."""
    for table, names in _NOT_IN_DOCUMENT.items():
        for seq, document, *stored in _rows(connection, f"SELECT seq, document, started_at FROM {table}"):
            read = json.loads(document)
            assert "id" in read or not names & set(read), f"{table} {seq}: its document has {names & set(read)}"
            if "started_at" in read:
                assert stored == [_at(read, "started_at:moment")], f"{table} {seq}: it starts at {stored}"


def _the_text_of_a_result_stands_beside_its_document(connection: Connection) -> None:
    for seq, status, output in _rows(connection, "SELECT seq, status, output FROM steps"):
        has_text = status in {"ok", "error"}
        assert (output is not None) == has_text, f"steps {seq}: {status!r} with the output {output!r}"


def _at(document: Any, path: str) -> Any:
    names, _, kind = path.partition(":")
    for name in names.split("."):
        document = document.get(name) if isinstance(document, dict) else None
    if kind == "moment" and document is not None:
        return (_MOMENT.validate_python(document) - _EPOCH) // timedelta(microseconds=1)
    return document


_COLUMNS: dict[str, dict[str, str]] = {
    "episodes": {"outcome": "outcome.kind", "reward": "reward.total"},
    "patterns": {
        "id": "id",
        "kind": "kind",
        "domain": "context.domain",
        "language": "context.language",
        "success_rate": "success_rate",
        "occurrence_count": "occurrence_count",
    },
    "spatiotemporal_index": {
        "id": "id",
        "owner_type": "owner_type",
        "owner_id": "owner_id",
        "latitude": "latitude",
        "longitude": "longitude",
        "place_name": "place_name",
        "starts_at": "starts_at:moment",
        "ends_at": "ends_at:moment",
    },
}


_NOT_IN_DOCUMENT = {
    "episodes": {"version", "task_type", "steps", "created_at", "updated_at", "archived_at"},
    "steps": {"id", "step_number", "tool", "result", "latency_ms", "tokens_used"},
}


def _the_facets_are_those_of_the_documents(connection: Connection) -> None:
    expected = []
    changed = {seq for (seq,) in _rows(connection, "SELECT episode_seq FROM episode_changes")}
    stored = _rows(connection, "SELECT namespace, owner_type, name, value, at, owner_seq FROM facets")
    present = {(row[1], row[-1]) for row in stored}
    for owner in ("episode", "pattern"):
        at = "started_at" if owner == "episode" else "0"
        for namespace, *place, document in _rows(
            connection, f"SELECT namespace, {at}, seq, document FROM {_OWNERS[owner]}"
        ):
            if owner == "episode" and place[-1] in changed and (owner, place[-1]) not in present:
                continue  # they are added later, all of them
            expected += [(namespace, owner, *facet, *place) for facet in _facets(connection, json.loads(document))]
    _same("facets", stored, expected)


def _facets(connection: Connection, document: Any) -> set[tuple[str, str]]:
    scalars = {key: value for key, value in document["metadata"].items() if not isinstance(value, dict | list)}
    evidence = {("evidence", episode) for episode in document.get("evidence", [])}
    receipt = document.get("recalled") or {"items": []}
    return (
        {("recalled", identifier) for _, identifier in receipt["items"]}
        | {("used", identifier) for identifier in receipt.get("used") or []}
        | {("tag", tag) for tags in (document["tags"], document["context"]["tags"]) for tag in tags}
        | evidence
        | {(f"metadata.{key}", _facet_value(connection, value)[:256]) for key, value in scalars.items()}
    )


def _facet_value(connection: Connection, value: Any) -> str:
    if isinstance(value, str):
        return json_quoted(value)
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return str(value)
    return str(_rows(connection, "SELECT json_quote(value) FROM json_each(?)", json.dumps([value]))[0][0])


def _the_full_text_is_that_of_the_documents(connection: Connection) -> None:
    for table in ("episode_words", "pattern_words"):
        connection.exec_driver_sql(f"INSERT INTO {table} ({table}, rank) VALUES ('integrity-check', 1)")
    connection.rollback()
    unindexed: dict[int, set[int]] = {seq: {_HEAD} for (seq,) in _rows(connection, "SELECT seq FROM episodes")}
    steps = (
        "SELECT e.seq, s.seq FROM steps AS s JOIN episodes AS e ON e.namespace = s.namespace AND e.id = s.episode_id"
    )
    for seq, step in _rows(connection, steps):
        unindexed[seq].add(step)
    numbers = dict(_rows(connection, "SELECT number, name FROM namespaces"))
    of_namespaces = dict(_rows(connection, "SELECT seq, namespace FROM episodes"))
    for doc, first, last in _rows(connection, "SELECT doc, first_step, last_step FROM episode_texts"):
        seq = doc >> 10 & (2**32 - 1)
        assert numbers[doc >> 42] == of_namespaces[seq], f"text {doc}: it is of {numbers[doc >> 42]}"
        assert (doc & 1023 == 0) == (first is None), f"text {doc}: it begins with the step {first}"
        part = {_HEAD} if first is None else {step for step in unindexed[seq] if first <= step <= last}
        assert part, f"text {doc}: it is empty, or in the index twice"
        unindexed[seq] -= part
    changed = {seq for (seq,) in _rows(connection, "SELECT episode_seq FROM episode_changes")}
    missing = [seq for seq, parts in unindexed.items() if parts and seq not in changed]
    assert not missing, f"episodes with texts that are neither in the index nor in the log: {missing[:5]}"
    for column, table in (("episode_texts", "episode_texts"), ("pattern_texts", "pattern_texts")):
        counts = _rows(connection, f"SELECT doc >> 42, count(*) FROM {table} GROUP BY 1")
        stored = _rows(connection, f"SELECT number, {column} FROM namespaces WHERE {column} <> 0")
        _same(f"namespaces.{column}", stored, counts)
    patterns = _rows(connection, "SELECT seq, namespace FROM patterns")
    indexed = _rows(connection, "SELECT doc >> 10 & ((1 << 32) - 1), doc >> 42 FROM pattern_texts")
    _same("pattern_texts", [(seq, numbers[number]) for seq, number in indexed], patterns)


def _the_rtrees_have_every_position_and_interval(connection: Connection) -> None:
    forever = 3 * 10**17
    columns = "seq, namespace, latitude, longitude, starts_at, until_at"
    places = _rows(connection, f"SELECT {columns} FROM spatiotemporal_index")
    positions = {
        seq: (*_key(name), up, up, around, around, *_sides(begin, end, 1e-3, forever))
        for seq, name, up, around, begin, end in places
        if up is not None
    }
    spans = {
        seq: (*_key(name), begin * 1e-20, end * 1e-20)
        for seq, name, *_, begin, end in places
        if begin is not None and end > begin + 1
    }
    for tree, expected in (("spatiotemporal_rtree", positions), ("spatiotemporal_spans", spans)):
        assert _rows(connection, f"SELECT rtreecheck('{tree}')") == [("ok",)]
        boxes = {seq: bounds for seq, *bounds in _rows(connection, f"SELECT * FROM {tree}")}
        _same(tree, boxes, expected)
        for seq, bounds in expected.items():
            for index, (box, exact) in enumerate(zip(boxes[seq], bounds, strict=True)):
                # Rounded outwards to 32 bits by a factor: a little further than the next float, and 1e-99 becomes 0.
                outwards = box - exact if index % 2 == 0 else exact - box
                assert outwards <= 1e-44 + abs(exact) * 1e-15, f"{tree} {seq}: {box}, {exact}"
                assert math.isclose(box, exact, rel_tol=1e-6, abs_tol=1e-30), f"{tree} {seq}: {box} for {exact}"


def _key(namespace: str) -> tuple[float, float]:
    letters = [ord(letter) for letter in reversed(namespace[-4:])]
    number = sum(letter * factor for letter, factor in zip(letters, (1, 131, 17161, 2248091), strict=False)) % 8388593
    return number - 0.25, number + 0.25


def _sides(begin: int | None, end: int | None, half: float, forever: int) -> tuple[float, float]:
    begin, end = (-forever, forever) if begin is None or end is None else (begin, end)
    return begin * 1e-20 - half, end * 1e-20 + half


def _the_derived_columns_of_places_are_right(connection: Connection) -> None:
    query = "SELECT seq, latitude, longitude, x, y, z, starts_at, until_at, document FROM spatiotemporal_index"
    for seq, up, around, *point, begin, end, document in _rows(connection, query):
        read = json.loads(document)
        ends = _at(read, "ends_at:moment")
        if begin is not None and ends is None:
            ends = 3 * 10**17 if read.get("ongoing") else begin + 1
        assert end == ends, seq
        if up is None:
            assert point == [None, None, None], seq
        else:
            up, around = math.radians(up), math.radians(around)
            sphere = (math.cos(up) * math.cos(around), math.cos(up) * math.sin(around), math.sin(up))
            assert all(abs(one - other) < 1e-15 for one, other in zip(point, sphere, strict=True)), seq
    foreign = """SELECT p.seq FROM spatiotemporal_index AS p WHERE episode_seq IS NOT (
        SELECT seq FROM episodes WHERE namespace = p.namespace AND id = iif(p.owner_type = 'episode', p.owner_id, (
            SELECT episode_id FROM steps WHERE namespace = p.namespace AND id = p.owner_id)))"""
    assert _rows(connection, foreign) == []


def _what_is_owned_has_its_owner(connection: Connection) -> None:
    for table in ("embeddings", "spatiotemporal_index"):
        for owner, owners in _OWNERS.items():
            orphans = _rows(
                connection,
                f"SELECT seq FROM {table} AS t WHERE owner_type = '{owner}' AND NOT EXISTS "
                f"(SELECT 1 FROM {owners} AS o WHERE o.namespace = t.namespace AND o.id = t.owner_id)",
            )
            assert orphans == [], f"{table}: rows without their {owner}: {orphans[:5]}"
        foreign = f"SELECT seq FROM {table} WHERE owner_type NOT IN {tuple(_OWNERS)}"
        assert _rows(connection, foreign) == []


def _relationships_of_acyclic_kinds_have_no_cycle(connection: Connection) -> None:
    sources: dict[tuple[Any, ...], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for *graph, source, target in _rows(connection, "SELECT namespace, kind, from_id, to_id FROM relationships"):
        if graph[1] in ACYCLIC:
            sources[tuple(graph)][target].add(source)
    for graph in sources.values():
        TopologicalSorter(graph).prepare()  # a CycleError names the cycle


def _the_vectors_are_those_of_the_embeddings(connection: Connection) -> None:
    spaces = "SELECT token, name, vectors, indexed, dimension FROM vector_models"
    for token, model, *counters in _rows(connection, spaces):
        table = VectorSpace.of(token, model, counters[2]).table
        stored = _rows(connection, f"SELECT seq, indexed, length(vector), digest, vector FROM {table}")
        used = _rows(connection, "SELECT vector_seq FROM embeddings WHERE model = ? AND space = ?", model, token)
        _same(table, (row[0] for row in stored), (seq for (seq,) in used))
        has_index = _rows(connection, "SELECT 1 FROM sqlite_master WHERE name = ?", f"{table}_ann")
        nodes = _rows(connection, f"SELECT index_key FROM {table}_ann_shadow") if has_index else []
        _same(f"the index of {table}", (key for (key,) in nodes), (row[0] for row in stored if row[1]))
        assert counters[:2] == [len(stored), sum(row[1] for row in stored)], f"{table}: {counters}"
        assert {row[2] for row in stored} <= {4 * counters[2]}
        assert all(digest(row[4]) == row[3] for row in stored)


def _an_embedding_finds_its_item(connection: Connection) -> None:
    spaces = {tuple(row) for row in _rows(connection, "SELECT name, token FROM vector_models")}
    assert {tuple(row) for row in _rows(connection, "SELECT DISTINCT model, space FROM embeddings")} <= spaces
    several = "SELECT 1 FROM embeddings GROUP BY namespace, model HAVING count(DISTINCT space) > 1"
    assert _rows(connection, several) == [], "a namespace has vectors of several dimensions by one model"
    for owner, item in _ITEMS.items():
        query = f"SELECT m.seq FROM embeddings AS m WHERE owner_type = ? AND item_seq IS NOT ({item})"
        assert _rows(connection, query, owner) == []


def _the_vectors_of_items_are_alike(connection: Connection) -> None:
    alone = """SELECT v.seq FROM item_vectors AS v WHERE NOT EXISTS (
        SELECT 1 FROM items AS i WHERE i.seq = v.item_seq AND i.namespace = v.namespace)"""
    assert _rows(connection, alone) == []
    several = "SELECT 1 FROM item_vectors GROUP BY namespace, model HAVING count(DISTINCT length(vector)) > 1"
    assert _rows(connection, several) == [], "a namespace has vectors of items of several dimensions by one model"


def _what_goes_in_parts_is_there(connection: Connection) -> None:
    query = "SELECT digest FROM forgotten WHERE episode_seq > 0 AND episode_seq NOT IN (SELECT seq FROM episodes)"
    assert _rows(connection, query) == []


_ITEMS = {
    "episode": "SELECT seq FROM episodes WHERE namespace = m.namespace AND id = m.owner_id",
    "step": "SELECT e.seq FROM steps AS s JOIN episodes AS e ON e.namespace = s.namespace AND e.id = s.episode_id"
    " WHERE s.namespace = m.namespace AND s.id = m.owner_id",
    "pattern": "SELECT seq FROM patterns WHERE namespace = m.namespace AND id = m.owner_id",
}

_CHECKS: tuple[Callable[[Connection], None], ...] = (
    _the_file_is_whole,
    _the_columns_repeat_the_documents,
    _no_document_repeats_a_column,
    _the_text_of_a_result_stands_beside_its_document,
    _the_facets_are_those_of_the_documents,
    _the_full_text_is_that_of_the_documents,
    _the_rtrees_have_every_position_and_interval,
    _the_derived_columns_of_places_are_right,
    _what_is_owned_has_its_owner,
    _relationships_of_acyclic_kinds_have_no_cycle,
    _the_vectors_are_those_of_the_embeddings,
    _an_embedding_finds_its_item,
    _the_vectors_of_items_are_alike,
    _what_goes_in_parts_is_there,
)
