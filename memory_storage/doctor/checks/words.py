"""Checks of the words for the full-text indexes (`schema.words`) against the documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from pydantic_core import from_json
from sqlalchemy import Connection

from memory_storage.doctor.findings import Finding, about_rows
from memory_storage.doctor.pages import pages
from memory_storage.schema.words import words_of_episode, words_of_pattern, words_of_step

_Difference = tuple[int, str | None]

_SPELLED: dict[str, tuple[tuple[str, ...], Callable[..., str | None]]] = {
    "episodes": (("document",), words_of_episode),
    "steps": (("document", "output", "tool"), words_of_step),
    "patterns": (("document",), words_of_pattern),
}


def wrong_words(connection: Connection) -> list[Finding]:
    """Find rows whose index words differ from those of their text: another program has changed the row."""
    found: list[Finding] = []
    for table in _SPELLED:
        seqs = [seq for seq, _ in _differences(connection, table)]
        problem, remedy = "words for the full-text index that differ from the text", "recompute them"
        found += about_rows(f"words.{table}", table, seqs, problem, remedy, partial(_spell, table=table))
    return found


def _spell(connection: Connection, *, table: str) -> None:
    for seq, words in list(_differences(connection, table)):
        connection.exec_driver_sql(f"UPDATE {table} SET words = ? WHERE seq = ?", (words, seq))


def _differences(connection: Connection, table: str) -> Iterator[_Difference]:
    """Yield row numbers with the words that the row should have. Unreadable rows are left to another check."""
    texts, words_of = _SPELLED[table]
    others = " OR ".join(f"length({name}) < length(CAST({name} AS BLOB))" for name in texts)
    others += " OR kind = 'playbook'" if table == "patterns" else ""  # it has words whatever its text
    for seq, (words, *written) in pages(connection, table, ["words", *texts], f"words IS NOT NULL OR {others}"):
        try:
            wanted = words_of(*(text and text.decode() for text in written))
        except ValueError:
            continue
        if _texts_of(wanted) != _texts_of(words):
            yield seq, wanted


def _texts_of(words: str | bytes | None) -> Any:
    """Return the texts by name: what a statement has added to the others stands in another order."""
    try:
        return words and from_json(words)
    except ValueError:
        return words
