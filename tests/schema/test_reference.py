"""The reference of the schema is that of the schema: each table, column, index, trigger and view is on the page."""

from __future__ import annotations

import re

import memory_storage as ms
from memory_storage.schema.tables import metadata

from .reference import PAGE, page

# What the engine makes for its own use, by any name; the page names the kinds of them.
OF_THE_ENGINE = re.compile(
    r"sqlite_autoindex_\w+|\w+_words_(config|data|docsize|idx)|spatiotemporal_(rtree|spans)_(node|parent|rowid)"
    r"|\w+_ann_shadow(_idx)?"
)


def test_the_page_equals_the_schema():
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m tests.schema.reference --write`"


def test_every_table_and_column_has_a_description():
    for table in metadata.tables.values():
        assert table.comment, table
        for column in table.columns:
            assert column.comment, column


def test_every_object_and_column_of_a_database_is_on_the_page():
    text = re.sub(r"\s", " ", PAGE.read_text(encoding="utf-8"))
    with ms.MemoryStorage.open(":memory:") as storage:
        episode = storage.episodes.save(ms.Episode(task_description="t"))
        storage.embeddings.put("episode", episode.id, [1.0, 2.0], model="m")
        with storage.engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT type, name FROM sqlite_master").all()
            token = connection.exec_driver_sql("SELECT token FROM vector_models").scalar_one()
            columns = {
                name: [row[1] for row in connection.exec_driver_sql(f"PRAGMA table_info({name})")]
                for kind, name in rows
                if kind in {"table", "view"} and not OF_THE_ENGINE.fullmatch(name)
            }
    names = {name.replace(token, "<token>") for _, name in rows if not OF_THE_ENGINE.fullmatch(name)}
    assert {name for name in names if f"`{name}`" not in text} == set()
    own = {"alembic_version", "libsql_vector_meta_shadow", "sqlite_sequence"}
    missing = {
        f"{table}.{column}"
        for table, found in columns.items()
        if table not in own
        for column in found
        if f"`{column}`" not in text and column not in {table, "rank"}
    }
    assert missing == set()
