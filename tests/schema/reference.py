"""The reference of the database schema, written from the schema itself: `python -m tests.schema.reference --write`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Table

import memory_storage as ms
from memory_storage.schema import HEAD
from memory_storage.schema.revisions import REVISIONS
from memory_storage.schema.tables import metadata

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "schema.md"

INTRODUCTION = f"""# Database schema

The schema of revision `{HEAD}`. This page is written from the tables in `memory_storage/schema/tables.py`, the
descriptions of the revisions in `memory_storage/schema/revisions.py` and a database, and a test holds it to them.

Every row of a user has a `namespace`. Times are integer microseconds since the epoch, UTC, in columns that end in
`_at`. Ids are UUIDs as text. `document` is the model as JSON; the other columns are for filters, orders and counters,
and are taken from it by the statement that writes it. Read the tables freely; write by the repositories: they keep
documents, columns and versions in agreement.

The engine adds an index for each UNIQUE constraint, named `sqlite_autoindex_` and the table.
"""

VECTORS = """## Tables of vector spaces

Each row of `vector_models` has a table of its distinct vectors, here named by `vectors_<token>`. It is made with the
first vector of a model, not by a revision. The row of a vector never changes, and its number is never used again.

| column | type | |
|---|---|---|
| `seq` | INTEGER, primary key | Row number; `embeddings.vector_seq` refers to it |
| `indexed` | INTEGER, not null | 1 if the vector is in the DiskANN index |
| `digest` | BLOB, not null, unique | Digest of the vector: equal vectors are one row |
| `vector` | F32_BLOB, not null | The floats, 4 bytes each, little-endian |

| object | |
|---|---|
| index `vectors_<token>_ann` | DiskANN, of the rows that are `indexed`; only with `vector_index="diskann"` |
| index `vectors_<token>_tail` | The rows that are not indexed |
| triggers `vectors_<token>_insert`, `vectors_<token>_update`, `vectors_<token>_delete` | Update `vector_models` |
| triggers `vectors_<token>_free`, `vectors_<token>_swap` | On `embeddings`: delete a vector without an embedding |
"""

VIEWS = {
    "episode_head_text": "Text of each episode, without its steps, as the full-text index has it",
    "step_text": "Text of each step as the full-text index has it",
    "episode_text": "What the full-text index has of each text in `episode_texts`",
    "pattern_text": "What the full-text index has of each text in `pattern_texts`",
    "changed_episodes": "The episodes in `episode_changes`",
    "changed_texts": "Rows that `episode_texts` lacks of them",
    "changed_facets": "Rows of `facets` of them",
    "index_changes": "Has no rows; an insert (trigger `index_changes_insert`) indexes the changed episodes",
}
VIRTUAL = {
    "episode_words": "Full-text index (FTS5) of `episode_text`",
    "pattern_words": "Full-text index (FTS5) of `pattern_text`",
    "spatiotemporal_rtree": "R*Tree of positions and times: boxes of namespace, latitude, longitude and time",
    "spatiotemporal_spans": "R*Tree of intervals longer than a microsecond: boxes of namespace and time",
}
TRIGGERS = {
    r"\w+_sync_\w+": "Log changes in `sync_changes` and `sync_counts`, and keep what a merge needs in `sync_bases`",
    r"(episodes|patterns)_facets_\w+": "Update `facets`",
    r"(episodes|steps)_text_\w+": "Log episodes that have changed, and remove a changed text from the index",
    r"patterns_text_\w+": "Update `pattern_texts`",
    r"(episode|pattern)_texts_\w+": "Update the full-text index",
    r"(episodes|steps|patterns)_owned_delete": "Deletes the embeddings and the places of a deleted row",
    r"episodes_forgotten_delete": "Marks the removal of a tombstone's episode as finished",
    r"(episodes|steps)_learned_(update|delete)": "Note in `unlearned` that an episode is to be counted again",
    r"learned_delete": "Subtracts what a deleted or changed episode was counted for from `sequences`",
    r"items_vectors_update": "Deletes the vectors of an item that is put again",
    r"steps_stay": "Refuses to move a step to another episode",
    r"spatiotemporal_\w+": "Update the R*Trees",
}

OTHERS = """## Other tables

| table | |
|---|---|
| `alembic_version` | The revision of the schema |
| `libsql_vector_meta_shadow`, `vectors_<token>_ann_shadow` | The engine's own, of DiskANN indexes |
| `..._words_config`, `..._words_data`, `..._words_docsize`, `..._words_idx` | FTS5's own |
| `..._node`, `..._parent`, `..._rowid` | The R*Trees' own |
| `sqlite_sequence` | The engine's own, of row numbers that are not used again |
| `quarantined_episodes` and others | Rows that cannot be read, moved aside by `memory-storage doctor`: when, and why |
| `backup_manifest` | In a backup only: the number of rows and a digest of each table |
"""

GOING_BACK = """## Revisions

`MemoryStorage.open`, `memory-storage upgrade` and `alembic upgrade head` run the revisions that a database lacks, in
one transaction. `memory-storage downgrade REVISION` goes back, for an older version of this package: it says what is
lost, and asks. Make a backup before (`memory-storage backup FILE`). A downgrade of rows that the older schema has no
place for is refused, and changes nothing.

| revision | brings | a downgrade to the revision before loses |
|---|---|---|
"""


def page() -> str:
    """Return the page as Markdown."""
    with ms.MemoryStorage.open(":memory:") as storage, storage.engine.connect() as connection:
        query = "SELECT type, name, tbl_name FROM sqlite_master ORDER BY type, name"
        objects = [tuple(row) for row in connection.exec_driver_sql(query)]
        types = {
            name: {row[1]: row[2] for row in connection.exec_driver_sql(f"PRAGMA table_info({name})")}
            for name in (*metadata.tables, *VIEWS, *VIRTUAL)
        }
    parts = [
        INTRODUCTION,
        *(_table(table, types[table.name], objects) for table in metadata.tables.values()),
        VECTORS,
        "## Views and virtual tables\n\n" + _rows("name", _described(types)),
        OTHERS,
        GOING_BACK + "".join(_revision(one) for one in REVISIONS),
    ]
    return "\n".join(parts)


def _table(table: Table, types: dict[str, str], objects: Iterable[tuple[str, str, str]]) -> str:
    columns = "".join(
        f"| `{column.name}` | {_type(column, types[column.name])} | {column.comment} |\n" for column in table.columns
    )
    lines = [f"## `{table.name}`\n\n{table.comment}\n\n| column | type | |\n|---|---|---|\n{columns}"]
    if keys := sorted(_keys(table)):
        lines.append("".join(f"- {key}\n" for key in keys))
    if table.indexes:
        lines.append(
            _rows("index", ((index.name, _index(index)) for index in sorted(table.indexes, key=lambda i: i.name)))
        )
    if triggers := _triggers(name for kind, name, of in objects if kind == "trigger" and of == table.name):
        lines.append(_rows("trigger", triggers))
    return "\n".join(lines)


def _type(column: Any, name: str) -> str:
    key = ", primary key" if column.primary_key else ""
    return name + key + ("" if column.nullable or column.name == "seq" else ", not null")


def _keys(table: Table) -> Iterator[str]:
    for constraint in table.constraints:
        names = ", ".join(f"`{column.name}`" for column in constraint.columns)
        if type(constraint).__name__ == "UniqueConstraint":
            yield f"UNIQUE ({names})"
        elif type(constraint).__name__ == "ForeignKeyConstraint":
            target = ", ".join(f"`{key.target_fullname}`" for key in constraint.elements)
            yield f"FOREIGN KEY ({names}) REFERENCES {target}, ON DELETE {constraint.ondelete}"


def _index(index: Any) -> str:
    where = index.dialect_options["sqlite"]["where"]
    columns = ", ".join(f"`{column.name}`" for column in index.columns)
    return columns + (f", where {where}" if where is not None else "")


def _triggers(names: Iterable[str]) -> list[tuple[str, str]]:
    """Those with the same purpose in one row."""
    groups: dict[str, list[str]] = {}
    for name in names:
        purpose = next(text for pattern, text in TRIGGERS.items() if re.fullmatch(pattern, name))
        groups.setdefault(purpose, []).append(name)
    return [("`, `".join(found), purpose) for purpose, found in groups.items()]


def _described(types: dict[str, dict[str, str]]) -> Iterator[tuple[str, str]]:
    for name, text in (*VIEWS.items(), *VIRTUAL.items()):
        yield name, f"{text}. Columns: {', '.join(f'`{column}`' for column in types[name])}"


def _rows(head: str, rows: Iterable[tuple[str, str]]) -> str:
    return f"| {head} | |\n|---|---|\n" + "".join(f"| `{name}` | {text} |\n" for name, text in rows)


def _revision(name: str) -> str:
    revision = REVISIONS[name]
    blocker = f"; refused while there are {revision.blocker}" if revision.blocker else ""
    return f"| `{name}` | {revision.brings} | {revision.loses}{blocker} |\n"


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    if parser.parse_args().write:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")


if __name__ == "__main__":
    main()
