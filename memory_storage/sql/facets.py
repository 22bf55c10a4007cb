"""SQL for facets: the tags, scalar metadata and recalled records of a row, as its document has them.

The table `facets` is an index of them. Those of a new episode are added with its texts: see `indexing.py`.
"""

from __future__ import annotations

from .document_filters import readable

FACET_LENGTH = 256
"""Characters of a metadata value, as JSON, that its facet holds (see revision 0001)."""

COLUMNS = "namespace, owner_type, name, value, at, owner_seq"

# A JSON number is written as SQLite writes it, and a text with quotes, so that 1 and "1" are two values.
SCALAR = f"substr(CASE WHEN type IN ('true', 'false', 'null') THEN type ELSE json_quote(value) END, 1, {FACET_LENGTH})"
"""The value of a facet of metadata, of a row of `metadata_of`."""


def facets_of(episodes: str) -> str:
    """Return SQL for the facets of episodes: rows of `COLUMNS`. Some may come twice.

    Args:
        episodes: SQL for the episodes, in a FROM clause, as `e`.
    """
    # Without DISTINCT, which would sort all rows: the table has one row for each that comes, and ignores the second.
    return "\nUNION ALL ".join(
        f"SELECT e.namespace, 'episode', {name}, {value}, e.started_at, e.seq FROM {episodes} CROSS JOIN {rows}"
        for name, value, rows in (
            ("'tag'", "atom", tags_of("e.")),
            ("'metadata.' || key", SCALAR, metadata_of("e.")),
            ("'recalled'", "atom", recalled_by("e.")),
            ("'used'", "atom", used_by("e.")),
        )
    )


def tags_of(prefix: str) -> str:
    """Return SQL for rows whose `atom` is a tag of the row at hand; one that is in two lists comes twice.

    Args:
        prefix: The name of the row's table, with a dot.
    """
    # One list of both lists, walked once: a field that is not there is a null in it, which is no text.
    return f"json_tree(json_extract({readable(f'{prefix}document')}, '$.tags', '$.context.tags')) WHERE type = 'text'"


def metadata_of(prefix: str) -> str:
    """Return SQL for rows with the `key` of metadata of the row at hand, and its `SCALAR`."""
    return f"json_each({readable(f'{prefix}document')}, '$.metadata') WHERE type NOT IN ('object', 'array')"


def recalled_by(prefix: str) -> str:
    """Return SQL for rows whose `atom` is the ID of a record that the episode at hand was shown.

    Args:
        prefix: The name of the row's table, with a dot.
    """
    # An item of a receipt is an array of its kind and its ID, in this order.
    return f"json_tree({readable(f'{prefix}document')}, '$.recalled.items') WHERE type = 'text' AND key = 1"


def used_by(prefix: str) -> str:
    """Return SQL for rows whose `atom` is the ID of a recalled record that the episode at hand has used.

    Args:
        prefix: The name of the row's table, with a dot.
    """
    return f"json_each({readable(f'{prefix}document')}, '$.recalled.used') WHERE type = 'text'"
